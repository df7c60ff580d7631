"""What an ALLOW asks in return is kept: places of storage and keys, whole files, counts; where it cannot be, nothing is shown."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import pytest
from sqlmodel import Session, select

from compliance.credential import Credential, Employer, Evidence, Reader
from compliance.decision_log import DecisionRow
from compliance.hospital import Hospital
from compliance.lawbook import SHIPPED_LAW, load_law
from compliance.obligation import unmet_obligation
from compliance.principal import LoginSession, RegisteredNetwork
from compliance.privacy_review import open_reviews, require_reviewed, unseen_notices
from compliance.quarantine import QuarantineItem
from compliance.study import Instance, Series, Study, instances_of_study
from crypto.errors import NotAllowed
from gateway import worklist_page
from gateway.register_effects import take_effect
from reporting.content import ReportKind
from reporting.signing import sign
from tests.gateway_site import PAGE, GatewaySite, gateway_site, received
from tests.signing_desk import Desk
from worklist.routed_reader import RoutedReader
from worklist.unclaimed import why_unclaimed
from worklist.view_grant import ViewGrant, open_view
from worklist.workitem import ProcedureStep, require_step, transaction_uid_digest

LAW = load_law()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "data") as made:
        yield made


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "data", has_study=False) as made:
        yield made


@pytest.mark.parametrize(
    ("obligation", "storage", "keys", "is_kept"),
    [
        ("KEYS_IN(EU)", "US", "DE", True),
        ("KEYS_IN(EU)", "DE", "US", False),
        ("COPY_IN(AE)", "AE", "AE", True),
        ("COPY_IN(AE)", "DE", "AE", False),
        ("STORE_REGION(US|CA)", "CA", "CA", True),
        ("STORE_REGION(US|CA)", "PR", "PR", True),
        ("STORE_REGION(US|CA)", "DE", "DE", False),
        ("VIEW_ONLY", "DE", "DE", True),
        ("COUNT(us_persons)", "DE", "DE", True),
        ("DEFACE", "DE", "DE", False),
        ("PAINT_IT_BLACK", "DE", "DE", False),
    ],
)
def test_place_is_kept_or_named(site: GatewaySite, obligation: str, storage: str, keys: str, is_kept: bool) -> None:
    unmet = unmet_obligation([obligation, "WATERMARK"], LAW, storage_country=storage, keys_country=keys, at=site.clock.at)
    assert unmet == (None if is_kept else f"OBLIGATION_UNMET:{obligation}")


# --- a reader outside the Union, under standard clauses: VIEW_ONLY, KEYS_IN(EU), WATERMARK ----------------------------------------


def move_to_india(site: GatewaySite) -> None:
    """r1 reads from India with everything the law asks for on file."""
    now = site.clock.at

    def paper(name: str, kind: str) -> Evidence:
        return Evidence(
            evidence_id=name,
            evidence_type=kind,
            parties=["h1", "e1"],
            issued_at=now - timedelta(days=10),
            expires_at=now + timedelta(days=300),
            verified_by="po",
            recorded_at=now,
        )

    with site.app.database.transaction() as session:
        reader, employer = session.get(Reader, "r1"), session.get(Employer, "e1")
        assert reader is not None and employer is not None
        reader.establishment = reader.residence = employer.country = "IN"
        session.add_all([reader, employer, paper("scc", "SCC_M2"), paper("tia", "TIA")])
        for network in session.exec(select(RegisteredNetwork).where(RegisteredNetwork.principal_id == "r1")).all():
            network.country = "IN"
            session.add(network)
        for licence in session.exec(select(Credential).where(Credential.reader_id == "r1", Credential.kind == "LICENCE")).all():
            licence.claim = {"jurisdiction": "IN"}
            session.add(licence)
    site.client("r1")
    with site.app.database.transaction() as session:
        for login in session.exec(select(LoginSession).where(LoginSession.principal_id == "r1")).all():
            login.declared_country = login.ip_country = "IN"
            session.add(login)
    take_effect(site.app)


def one_instance(site: GatewaySite) -> tuple[str, Instance]:
    study = site.study
    assert study.study_pk is not None
    with site.app.database.reading() as session:
        instance = instances_of_study(session, study.study_pk)[0]
        series = session.get(Series, instance.series_pk)
    assert series is not None
    base = f"/dicom-web/studies/{study.study_instance_uid}/series/{series.series_instance_uid}/instances/{instance.sop_instance_uid}"
    return base, instance


def test_view_only_hands_out_frames_and_no_whole_image(site: GatewaySite) -> None:
    move_to_india(site)
    step_uid = site.claim("r1")
    page = site.client("r1").get(f"/read/{step_uid}", headers=PAGE).text
    with site.app.database.reading() as session:
        grant = session.exec(select(ViewGrant).where(ViewGrant.procedure_step_uid == step_uid)).one()
    mark = f"{site.clock.at:%Y-%m-%d %H:%M} UTC · {grant.decision_digest.removeprefix('sha256:')[:12]}"
    assert 'class="watermark"' in page and re.search(rf'class="watermark"[^>]*><span>[^<]*Inés Valverde[^<]* · {re.escape(mark)}<', page)
    base, _ = one_instance(site)
    client = site.client("r1")
    frame = client.get(f"{base}/frames/1")
    assert frame.status_code == 200 and frame.headers["cache-control"] == "no-store"
    assert client.get(base).status_code == 403
    assert client.get(f"{base}/bulkdata/7FE00010").status_code == 403
    assert client.get(f"{base}/bulkdata/00080060").headers["cache-control"] == "no-store"


def test_without_the_obligation_the_whole_instance_is_there(site: GatewaySite) -> None:
    site.client("r1").get(f"/read/{site.claim('r1')}", headers=PAGE)
    base, _ = one_instance(site)
    answer = site.client("r1").get(base)
    assert answer.status_code == 200 and answer.headers["cache-control"] == "no-store"


def test_what_nobody_keeps_here_is_not_offered_and_not_signed(site: GatewaySite) -> None:
    move_to_india(site)
    desk, step_uid = Desk(site), site.claim("r1")
    desk.save(step_uid)
    with site.app.database.transaction() as session:
        study = session.get_one(Study, site.study.study_pk)
        study.keys_country = "US"
        session.add(study)
    with pytest.raises(NotAllowed) as refused:
        sign(
            site.app.database, site.app.keys, site.app.law, procedure_step_uid=step_uid, reader_id="r1", login_digest=desk.login_digest,
            transaction_uid=_transaction_uid(site, step_uid), kind=ReportKind.FINAL, draft_version=1,
            manifest_digest=site.study.manifest_digest, passphrase=site.logins["r1"].passphrase, now=site.clock.at,
            new_uid=site.app.new_uid,
        )  # fmt: skip
    assert refused.value.reason_code == "OBLIGATION_UNMET:KEYS_IN(EU)"
    site.post("r1", f"/read/{step_uid}/release", reason_code="OTHER", text="A test of what nobody keeps")
    take_effect(site.app)
    with site.app.database.reading() as session:
        row = session.get_one(RoutedReader, (site.study.study_pk, "r1"))
    assert (row.outcome, row.reasons) == ("DENY", ["OBLIGATION_UNMET:KEYS_IN(EU)"])


def test_what_nobody_keeps_any_more_is_not_opened(site: GatewaySite) -> None:
    move_to_india(site)
    step_uid = site.claim("r1")
    with site.app.database.transaction() as session:
        study = session.get_one(Study, site.study.study_pk)
        study.keys_country = "US"
        session.add(study)
    with pytest.raises(NotAllowed) as refused:
        open_view(
            site.app.database, site.app.law, procedure_step_uid=step_uid, reader_id="r1", login_digest=Desk(site).login_digest,
            now=site.clock.at,
        )  # fmt: skip
    assert refused.value.reason_code == "OBLIGATION_UNMET:KEYS_IN(EU)"
    base, _ = one_instance(site)
    assert site.client("r1").get(f"{base}/frames/1").status_code == 404


def _transaction_uid(site: GatewaySite, step_uid: str) -> str:
    """The reader's page keeps it; here the step is made to know the one that is said."""
    with site.app.database.transaction() as session:
        step = require_step(session, step_uid)
        step.transaction_uid_digest = transaction_uid_digest("2.25.1")
        session.add(step)
    return "2.25.1"


def test_keys_outside_the_region_show_nothing(site: GatewaySite) -> None:
    move_to_india(site)
    with site.app.database.transaction() as session:
        study = session.get(Study, site.study.study_pk)
        assert study is not None and study.storage_country == "DE" and study.keys_country == "DE"
        study.keys_country = "US"
        session.add(study)
    assert site.post("r1", f"/worklist/{site.step_uid}/claim").headers["location"] == "/worklist"


# --- what the privacy officer is owed, without any emergency ----------------------------------------------------------------------


@pytest.mark.parametrize(("obligation", "reviews", "notices"), [("REVIEW_72H", 1, 0), ("NOTIFY_PO", 0, 1)])
def test_review_and_notice_are_owed_by_whatever_rule_asks_for_them(
    site: GatewaySite, tmp_path: Path, obligation: str, reviews: int, notices: int
) -> None:
    folder = tmp_path / "law"
    shutil.copytree(SHIPPED_LAW, folder)
    rule = {"id": "TEST_OWED", "kind": "OBLIGE", "origin": ["ANY"], "actions": ["VIEW"], "obligations": [obligation]}
    rule |= {"valid_from": "2020-01-01", "known_from": "2020-01-01", "source": {"text": "A test", "section": "1"}}
    (folder / "added.yaml").write_text(json.dumps({"pack": "added", "title": "Added", "rules": [rule]}))
    site.app.law = load_law(folder)
    step_uid = site.claim("r1")
    assert site.client("r1").get(f"/read/{step_uid}", headers=PAGE).status_code == 200
    with site.app.database.reading() as session:
        waiting, told = open_reviews(session), unseen_notices(session)
        assert [row.procedure_step_uid for row in waiting] == [step_uid] * reviews
        assert [(row.procedure_step_uid, row.subject) for row in told] == [(step_uid, "NOTIFY_PO")] * notices
        if reviews:
            require_reviewed(session, "r1", now=waiting[0].due_at - timedelta(seconds=1))
            with pytest.raises(NotAllowed, match="REVIEW_OVERDUE"):
                require_reviewed(session, "r1", now=waiting[0].due_at)


# --- STORE ------------------------------------------------------------------------------------------------------------------------


def held_reason(site: GatewaySite) -> tuple[str, str]:
    with site.app.database.reading() as session:
        (item,) = session.exec(select(QuarantineItem)).all()
    return item.reason_code, item.detail


def test_vault_elsewhere_than_agreed_holds_the_study(empty: GatewaySite) -> None:
    empty.app.settings.vault.country = "FR"
    assert received(empty) == ""
    assert held_reason(empty)[0] == "STORE_DENIED" and "STORAGE_ELSEWHERE:FR" in held_reason(empty)[1]


def test_law_decides_the_place_and_the_decision_is_on_record(empty: GatewaySite) -> None:
    empty.app.settings.vault.country = "CN"
    with empty.app.database.transaction() as session:
        hospital = session.get(Hospital, "h1")
        assert hospital is not None
        hospital.storage_country = "CN"
        session.add(hospital)
    assert received(empty) == ""
    assert "NO_STORAGE_MECHANISM:EU:CN" in held_reason(empty)[1]
    with empty.app.database.reading() as session:
        (row,) = session.exec(select(DecisionRow).where(DecisionRow.action == "STORE")).all()
    assert (row.outcome, row.reader_id) == ("DENY", "")
    assert json.loads(row.document)["facts"]["object"]["study"] == row.study_instance_uid != ""


def test_where_it_was_written_is_on_the_study(empty: GatewaySite) -> None:
    empty.app.settings.vault.country, empty.app.settings.vault.keys_country = "DE", "AT"
    assert received(empty)
    assert (empty.study.storage_country, empty.study.keys_country) == ("DE", "AT")


def test_us_study_waits_for_its_agreement(empty: GatewaySite) -> None:
    with empty.app.database.transaction() as session:
        evidence = session.get(Evidence, "baa-1")
        assert evidence is not None
        evidence.withdrawn_at = empty.clock.at
        session.add(evidence)
    assert received(empty, "h2") == ""
    assert held_reason(empty)[0] == "STORE_DENIED" and "EVIDENCE_MISSING:BAA" in held_reason(empty)[1]


# --- at one glance, and no more than is shown -------------------------------------------------------------------------------------


def test_why_nobody_claims_counts_what_stops_each_reader(site: GatewaySite) -> None:
    study_pk = site.study.study_pk
    assert study_pk is not None
    with site.app.database.reading() as session:
        waiting = why_unclaimed(session, site.app.law, study_pk, now=site.clock.at)
    assert waiting is not None and (waiting.eligible, waiting.ready) == (1, 0)
    assert waiting.held_up == {"NOT_LOGGED_IN": 1}
    assert waiting.refused["CRED_LICENCE_EXPIRED:ES"] == 1 and waiting.refused["CRED_COVER_MISSING:DE"] == 1
    site.client("r1")
    with site.app.database.reading() as session:
        waiting = why_unclaimed(session, site.app.law, study_pk, now=site.clock.at)
    assert waiting is not None and waiting.ready == 1 and "1 of 1" in waiting.headline
    site.claim("r1")
    with site.app.database.reading() as session:
        assert why_unclaimed(session, site.app.law, study_pk, now=site.clock.at) is None


def _many_steps(session: Session, site: GatewaySite, count: int) -> None:
    """More studies like the site's, waiting for r1: rows alone."""
    like, step = site.study, require_step(session, site.step_uid)
    columns = like.model_dump(exclude={"study_pk", "study_instance_uid", "study_key_id"})
    studies = [Study(**columns, study_instance_uid=f"2.25.9{number}", study_key_id=f"key-{number}") for number in range(count)]
    session.add_all(studies)
    session.flush()
    fields = step.model_dump(exclude={"procedure_step_uid", "study_pk"})
    session.add_all(
        ProcedureStep(**fields, procedure_step_uid=f"2.25.8{number}", study_pk=study.study_pk or 0) for number, study in enumerate(studies)
    )
    routed = session.get_one(RoutedReader, (like.study_pk, "r1")).model_dump(exclude={"study_pk"})
    session.add_all(RoutedReader(**routed, study_pk=study.study_pk or 0) for study in studies)


def test_worklist_of_ten_thousand_studies_decides_one_page(site: GatewaySite) -> None:
    with site.app.database.transaction() as session:
        _many_steps(session, site, 10_000)
    site.client("r1")
    with patch.object(worklist_page, "decide", wraps=worklist_page.decide) as decide:
        page = site.client("r1").get("/worklist", headers=PAGE)
    assert page.status_code == 200 and "10001" in page.text
    assert decide.call_count == worklist_page.ROWS_PER_PAGE
