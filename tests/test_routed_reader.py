"""What routing decided stands in one row for each study and reader, is asked for by an index, and ends when the calendar ends it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlmodel import select

from compliance.credential import Consent, Credential, Employer, Evidence, require_reader
from compliance.database import Database
from compliance.decision_log import DecisionRow
from compliance.facts import gather_facts
from compliance.hospital import Hospital
from compliance.principal import Principal
from compliance.route_facts import gather_route_facts
from crypto.keys import FileKeyStore
from gateway.pages_entry import _worklist_state
from gateway.register_effects import route_what_the_calendar_ended, take_effect
from gateway.schema import migrate
from tests.builders import make_ct_study
from tests.gateway_site import GatewaySite, gateway_site
from tests.reading_rows import HOSPITAL, ReadingRows
from tests.signing_desk import Desk
from worklist.routed_reader import RoutedReader, eligible_ids, ended_by_the_calendar, refusals_of, routing_of


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[ReadingRows]:
    database = Database(f"sqlite:///{tmp_path / 'rows.sqlite3'}")
    migrate(database)
    made = ReadingRows(database)
    made.add_site("r1", "r2", "r3")
    yield made
    database.close()


def _set_credential(rows: ReadingRows, reader_id: str, kind: str, **changes: Any) -> None:
    with rows.database.transaction() as session:
        for row in session.exec(select(Credential).where(Credential.reader_id == reader_id, Credential.kind == kind)).all():
            for name, value in changes.items():
                setattr(row, name, value)
            session.add(row)


def _routing(rows: ReadingRows) -> dict[str, RoutedReader]:
    with rows.database.reading() as session:
        return routing_of(session, session.exec(select(RoutedReader.study_pk)).first() or 0)


def test_every_reader_has_a_row_that_says_what_was_decided(rows: ReadingRows) -> None:
    _set_credential(rows, "r2", "LICENCE", expires_at=rows.at - timedelta(days=1))
    rows.routed()
    standing = _routing(rows)
    assert {name: row.outcome for name, row in standing.items()} == {"r1": "ALLOW", "r2": "DENY", "r3": "ALLOW"}
    assert standing["r2"].reasons == ["CRED_LICENCE_EXPIRED:ES", "EU_LICENCE_ESTABLISHMENT"] and standing["r1"].reasons == []
    with rows.database.reading() as session:
        for row in standing.values():
            decision = session.get_one(DecisionRow, row.decision_digest)
            assert (decision.reader_id, decision.outcome, decision.action) == (row.reader_id, row.outcome, "ROUTE")
        study_pk = standing["r1"].study_pk
        assert eligible_ids(session, study_pk) == ["r1", "r3"] and list(refusals_of(session, study_pk)) == ["r2"]


def test_facts_for_many_are_those_for_each(rows: ReadingRows, tmp_path: Path) -> None:
    """With a second firm, its papers, a consent with terms for one reader, and somebody counted."""
    with rows.database.transaction() as session:
        session.add(Employer(employer_id="e2", name="Other firm", country="AT"))
        session.flush()
        reader = require_reader(session, "r3")
        reader.employer_id = "e2"
        session.add(reader)
        paper: dict[str, Any] = {"evidence_type": "DPA", "issued_at": rows.at, "expires_at": rows.at + timedelta(days=9)}
        paper |= {"verified_by": "po", "recorded_at": rows.at}
        session.add_all(
            Evidence(evidence_id=name, parties=parties, **paper)
            for name, parties in (("a", [HOSPITAL, "e2"]), ("b", ["e2"]), ("c", [HOSPITAL]), ("d", [HOSPITAL, "elsewhere"]))
        )
        terms = {"type": "deny", "exceptions": [{"type": "permit", "actors": [{"kind": "reader", "id": "r2"}]}]}
        session.add(
            Consent(
                hospital_id=HOSPITAL, patient_pseudonym="PSEUDONYM-1", status="ACTIVE", kind="SHARING", version=1, given_at=rows.at,
                terms=terms, recorded_at=rows.at,
            )
        )  # fmt: skip
    keys = FileKeyStore(tmp_path / "keys")
    study = rows.add_study()
    with rows.database.reading() as session:
        readers = [require_reader(session, name) for name in ("r3", "r1", "r2")]
        for found, reader in zip(gather_route_facts(session, study, readers, at=rows.at, keys=keys), readers, strict=True):
            alone = gather_facts(session, action="ROUTE", study=study, reader=reader, login=None, at=rows.at, keys=keys)
            assert found == alone, reader.reader_id
        assert gather_route_facts(session, study, [], at=rows.at) == []


def test_reader_list_is_asked_for_by_the_index(rows: ReadingRows) -> None:
    query = "select study_pk from routed_reader where reader_id = 'r1' and outcome = 'ALLOW'"
    with rows.database.reading() as session:
        plan = session.connection().execute(sqlalchemy.text(f"explain query plan {query}")).all()
    assert "USING COVERING INDEX ix_routed_reader_list" in str(plan)


@pytest.mark.parametrize(
    ("kind", "changes", "until"),
    [
        ("COVER", {"expires_at": timedelta(days=5)}, timedelta(days=5)),
        ("LICENCE", {"issued_at": timedelta(days=2)}, timedelta(days=2)),
        ("LICENCE", {"verified_at": timedelta(days=3)}, timedelta(days=3)),
    ],
    ids=["something-ends", "something-begins", "something-is-verified-later"],
)
def test_row_stands_until_the_calendar_changes_it(rows: ReadingRows, kind: str, changes: dict[str, timedelta], until: timedelta) -> None:
    _set_credential(rows, "r1", kind, **{name: rows.at + by for name, by in changes.items()})
    rows.routed()
    row = _routing(rows)["r1"]
    assert row.valid_until == rows.at + until
    with rows.database.reading() as session:
        assert ended_by_the_calendar(session, [row.study_pk], now=rows.at + until - timedelta(seconds=1)) == {}
        assert ended_by_the_calendar(session, [row.study_pk], now=rows.at + until) == {row.study_pk: ["r1"]}


def test_row_of_a_reader_who_waits_for_a_rule_ends_when_the_rule_begins(rows: ReadingRows) -> None:
    with rows.database.transaction() as session:
        hospital = session.get_one(Hospital, HOSPITAL)
        hospital.jurisdiction = "IN"
        session.add(hospital)
    rows.routed()
    row = _routing(rows)["r1"]
    assert row.outcome == "DENY" and row.valid_until is not None and row.valid_until.date().isoformat() == "2027-05-14"


# --- a site ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "site") as made:
        yield made


def _eligible(site: GatewaySite) -> list[str]:
    with site.app.database.reading() as session:
        return eligible_ids(session, site.study.study_pk or 0)


def _licence(site: GatewaySite, reader_id: str, **changes: Any) -> None:
    with site.app.database.transaction() as session:
        for row in session.exec(select(Credential).where(Credential.reader_id == reader_id, Credential.kind == "LICENCE")).all():
            for name, value in changes.items():
                setattr(row, name, value)
            session.add(row)


def test_mere_passing_of_time_takes_a_reader_off_the_list_and_brings_one_on_it(site: GatewaySite) -> None:
    _licence(site, "r1", expires_at=site.clock.at + timedelta(days=1))
    _licence(site, "r3", expires_at=site.clock.at + timedelta(days=400), issued_at=site.clock.at + timedelta(days=2))
    take_effect(site.app)
    assert _eligible(site) == ["r1"]
    site.clock.at += timedelta(hours=23)
    assert route_what_the_calendar_ended(site.app) == 0
    site.clock.at += timedelta(hours=1)
    assert route_what_the_calendar_ended(site.app) == 1
    assert _eligible(site) == []
    site.clock.at += timedelta(days=1)
    assert route_what_the_calendar_ended(site.app) == 1
    assert _eligible(site) == ["r3"]
    assert route_what_the_calendar_ended(site.app) == 0, "what was decided anew is not decided again"


def test_reader_who_may_no_longer_log_in_has_no_row(site: GatewaySite) -> None:
    assert _eligible(site) == ["r1"]
    with site.app.database.transaction() as session:
        principal = session.get_one(Principal, "r1")
        principal.is_active = False
        session.add(principal)
    take_effect(site.app, reader_ids=["r1"])
    with site.app.database.reading() as session:
        assert "r1" not in routing_of(session, site.study.study_pk or 0)


def test_list_that_is_open_hears_of_a_right_that_began_or_ended(site: GatewaySite) -> None:
    """The event stream of the worklist looks at this state; no step changed, only who may read it."""
    digest = Desk(site).login_digest
    site.process(site.receive(make_ct_study(instances=1, number=4)))
    before = _worklist_state(site.app, digest)
    _licence(site, "r1", status="SUSPENDED")
    take_effect(site.app, reader_ids=["r1"])
    after = _worklist_state(site.app, digest)
    assert before is not None and after is not None and before != after
    _licence(site, "r1", status="ACTIVE")
    take_effect(site.app, reader_ids=["r1"])
    assert _worklist_state(site.app, digest) == before
