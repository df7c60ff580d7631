"""Counting persons disclosed: the ten-thousandth passes and the next does not, however many claim at once, and nobody is named."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import Session, select

from compliance.counters import (
    CountedKind,
    CountedPerson,
    count_facts,
    counted_kinds,
    person_digest,
    twelve_months_before,
    year_start,
)
from compliance.credential import Consent, Credential, Employer, Evidence, Reader
from compliance.database import Database
from compliance.hospital import Hospital
from compliance.principal import LoginSession
from crypto.errors import NotAllowed
from crypto.keys import FileKeyStore
from gateway.schema import migrate
from tests.postgres_server import postgres_server, postgres_url  # noqa: F401 (fixtures)
from tests.reading_rows import HOSPITAL, ReadingRows, login_of
from worklist.claim import claim

LIMIT = 10_000


@contextmanager
def counting_rows(url: str, place: str, reader_place: str, licences: list[str]) -> Iterator[ReadingRows]:
    """A hospital in `place` and two readers in `reader_place`, with every paper that a read needs but the count."""
    database = Database(url)
    migrate(database)
    rows = ReadingRows(database)
    rows.add_site("r1", "r2")
    with database.transaction() as session:
        hospital, employer = session.get(Hospital, HOSPITAL), session.get(Employer, "e1")
        assert hospital is not None and employer is not None
        hospital.jurisdiction, hospital.storage_country, employer.country = place, place[:2], reader_place
        session.add_all([hospital, employer])
        for reader in session.exec(select(Reader)).all():
            reader.establishment = reader.residence = reader_place
            session.add(reader)
            for code in licences:
                session.add(
                    Credential(
                        reader_id=reader.reader_id,
                        kind="LICENCE",
                        claim={"jurisdiction": code},
                        issued_at=rows.at - timedelta(days=900),
                        expires_at=rows.at + timedelta(days=900),
                        verified_at=rows.at - timedelta(days=30),
                        recorded_at=rows.at,
                    )
                )
        for login in session.exec(select(LoginSession)).all():
            login.declared_country = login.ip_country = reader_place
            session.add(login)
        for number, (kind, parties) in enumerate(
            {"CN_SCC_FILED": ["h1", "e1"], "PIPIA": ["h1"], "BAA": ["h1", "e1"], "PROXY_AGREEMENT": ["h1", "e1"]}.items()
        ):
            session.add(
                Evidence(
                    evidence_id=f"paper-{number}",
                    evidence_type=kind,
                    parties=parties,
                    issued_at=rows.at - timedelta(days=100),
                    expires_at=rows.at + timedelta(days=900),
                    verified_by="po",
                    recorded_at=rows.at,
                )
            )
    yield rows
    database.close()


def consent(rows: ReadingRows, patient: str) -> None:
    with rows.database.transaction() as session:
        session.add(
            Consent(
                hospital_id=HOSPITAL,
                patient_pseudonym=patient,
                status="ACTIVE",
                kind="SEPARATE",
                version=1,
                given_at=rows.at - timedelta(days=1),
                recorded_at=rows.at,
            )
        )


def already_counted(session: Session, kind: str, count: int, at: datetime) -> None:
    session.add_all(
        CountedPerson(hospital_id=HOSPITAL, employer_id="e1", kind=kind, person_digest=f"{number:064x}", first_at=at, last_at=at)
        for number in range(count)
    )


def claimed(rows: ReadingRows, keys: FileKeyStore, step_uid: str, reader_id: str, database: Database | None = None) -> str:
    try:
        claim(
            database or rows.database,
            rows.law,
            procedure_step_uid=step_uid,
            reader_id=reader_id,
            login_digest=login_of(reader_id),
            transaction_uid=f"2.25.77{reader_id[1:]}",
            now=rows.at,
            keys=keys,
        )
    except NotAllowed as refused:
        return refused.reason_code
    return "held"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.interop)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'readgate.sqlite3'}"
    return str(request.getfixturevalue("postgres_url"))


def test_two_claims_at_once_do_not_share_the_last_place(url: str, tmp_path: Path) -> None:
    keys = FileKeyStore(tmp_path / "keys")
    with counting_rows(url, "CN", "SG", ["SG"]) as rows:
        steps = []
        for patient in ("PSEUDONYM-A", "PSEUDONYM-B"):
            consent(rows, patient)
            steps.append(rows.routed(patient=patient))
        with rows.database.transaction() as session:
            already_counted(session, CountedKind.SENSITIVE_PERSONS, LIMIT - 1, rows.at)
        start, outcomes = threading.Barrier(2), dict[str, str]()

        def want(reader_id: str, step_uid: str) -> None:
            database = Database(url)
            start.wait(30)
            outcomes[reader_id] = claimed(rows, keys, step_uid, reader_id, database)
            database.close()

        threads = [threading.Thread(target=want, args=pair) for pair in zip(("r1", "r2"), steps, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(outcomes.values(), key=len) == ["held", "CN_CAC_ASSESSMENT"]
        with rows.database.reading() as session:
            counted = session.exec(select(CountedPerson).where(CountedPerson.kind == CountedKind.SENSITIVE_PERSONS)).all()
        assert len(counted) == LIMIT


def test_person_already_counted_is_read_again_at_the_limit(url: str, tmp_path: Path) -> None:
    keys = FileKeyStore(tmp_path / "keys")
    with counting_rows(url, "CN", "SG", ["SG"]) as rows:
        consent(rows, "PSEUDONYM-A")
        with rows.database.transaction() as session:
            already_counted(session, CountedKind.SENSITIVE_PERSONS, LIMIT - 1, rows.at)
        assert claimed(rows, keys, rows.routed(patient="PSEUDONYM-A"), "r1") == "held"
        assert claimed(rows, keys, rows.routed(patient="PSEUDONYM-A"), "r1") == "held"
        consent(rows, "PSEUDONYM-B")
        assert claimed(rows, keys, rows.routed(patient="PSEUDONYM-B"), "r1") == "CN_CAC_ASSESSMENT"


def test_us_persons_are_counted_once_per_counterparty_and_by_digest_alone(tmp_path: Path) -> None:
    keys = FileKeyStore(tmp_path / "keys")
    with counting_rows(f"sqlite:///{tmp_path / 'rows.sqlite3'}", "US-OH", "ES", ["US-OH"]) as rows:
        for patient in ("PSEUDONYM-A", "PSEUDONYM-A", "PSEUDONYM-B"):
            assert claimed(rows, keys, rows.routed(patient=patient), "r1") == "held"
        with rows.database.reading() as session:
            counted = session.exec(select(CountedPerson)).all()
            assert {row.kind for row in counted} == {"us_persons"} and len(counted) == 2
            assert not any("PSEUDONYM" in str(vars(row)) for row in counted)
            others = _others(session, keys, "PSEUDONYM-C", rows.at)
            assert others == {"us_persons_12_months": 2, "sensitive_persons_this_year": 0}
            assert _others(session, keys, "PSEUDONYM-A", rows.at)["us_persons_12_months"] == 1
            # Twelve months later to the second they no longer count.
            assert _others(session, keys, "PSEUDONYM-C", rows.at.replace(year=rows.at.year + 1))["us_persons_12_months"] == 0
        stranger = FileKeyStore(tmp_path / "other-keys")
        assert person_digest(stranger, HOSPITAL, "PSEUDONYM-A") not in {row.person_digest for row in counted}
        assert person_digest(keys, "h2", "PSEUDONYM-A") not in {row.person_digest for row in counted}


def test_refused_claim_counts_nobody(tmp_path: Path) -> None:
    keys = FileKeyStore(tmp_path / "keys")
    with counting_rows(f"sqlite:///{tmp_path / 'rows.sqlite3'}", "US-OH", "ES", []) as rows:
        assert claimed(rows, keys, rows.routed(patient="PSEUDONYM-A"), "r1").startswith("CRED_LICENCE")
        with rows.database.reading() as session:
            assert session.exec(select(CountedPerson)).all() == []


def test_disclosure_inside_the_union_counts_nobody(tmp_path: Path) -> None:
    keys = FileKeyStore(tmp_path / "keys")
    with counting_rows(f"sqlite:///{tmp_path / 'rows.sqlite3'}", "DE", "ES", []) as rows:
        assert claimed(rows, keys, rows.routed(), "r1") == "held"
        with rows.database.reading() as session:
            assert session.exec(select(CountedPerson)).all() == []


def test_without_keys_a_rule_that_asks_for_the_number_denies(tmp_path: Path) -> None:
    with counting_rows(f"sqlite:///{tmp_path / 'rows.sqlite3'}", "CN", "SG", ["SG"]) as rows:
        consent(rows, "PSEUDONYM-A")
        step_uid = rows.routed(patient="PSEUDONYM-A")
        with pytest.raises(NotAllowed):
            rows.claim(step_uid)


def test_windows_end_where_the_laws_say() -> None:
    leap = datetime(2028, 2, 29, 12, tzinfo=UTC)
    assert twelve_months_before(leap) == datetime(2027, 2, 28, 12, tzinfo=UTC)
    # 17:00 UTC on 31 December is 01:00 on 1 January in China.
    assert year_start(datetime(2026, 12, 31, 17, tzinfo=UTC)) == datetime(2026, 12, 31, 16, tzinfo=UTC)
    assert year_start(datetime(2026, 12, 31, 15, tzinfo=UTC)) == datetime(2025, 12, 31, 16, tzinfo=UTC)


@pytest.mark.parametrize(
    ("establishment", "employer", "ownership", "us_person", "expected"),
    [
        ("US-OH", "US", 0, True, []),
        ("PR", "US", 0, True, []),
        ("US-OH", "US", 50, True, ["us_persons"]),
        ("US-OH", "HK", 0, True, ["us_persons"]),
        ("IN", "IN", 0, True, ["us_persons"]),
        ("IN", "IN", 0, False, []),
    ],
)
def test_foreign_counterparty_is_one_by_place_or_ownership(
    establishment: str, employer: str, ownership: int, us_person: bool, expected: list[str]
) -> None:
    facts: dict[str, Any] = {
        "patient": {"us_person": us_person},
        "reader": {
            "establishment": establishment,
            "residence": establishment[:2],
            "employer": {"country": employer, "coc_ownership_pct": ownership},
        },
    }
    assert counted_kinds(facts, []) == expected
    assert counted_kinds(facts, ["COUNT(sensitive_persons)", "WATERMARK"]) == ["sensitive_persons", *expected]


def _others(session: Session, keys: FileKeyStore, patient: str, at: datetime) -> dict[str, int]:
    return count_facts(session, keys, hospital_id=HOSPITAL, employer_id="e1", patient_pseudonym=patient, at=at)
