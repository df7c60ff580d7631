"""Writing and signing: nothing typed is lost, nothing is signed that the reader did not see, and a signature is all or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlmodel import select

from compliance.audit import EventType
from compliance.decision_log import DecisionRow
from compliance.study import open_study_key, require_study
from crypto.errors import Conflict, NotAllowed, RefusedContent
from gateway.received import ReceivedStudy
from reporting.content import ReportKind
from reporting.report import ReportDraft, open_report
from tests.builders import make_ct_study
from tests.gateway_site import GatewaySite, gateway_site
from tests.signing_desk import (
    Desk,
    chain_of,
    deliveries_of,
    entries_of,
    is_log_sound,
    let_read_preliminarily,
    nothing_signed,
    step_of,
    steps_of,
)
from worklist.procedure_step import State, WorkitemCode
from worklist.routed_reader import eligible_ids
from worklist.view_grant import ViewGrant, open_view
from worklist.workitem import ProcedureStep


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "site") as made:
        yield made


@pytest.fixture
def desk(site: GatewaySite) -> Desk:
    return Desk(site)


# --- drafts -------------------------------------------------------------------------------------------------------------------


def test_each_save_is_the_next_draft_and_an_audit_entry(site: GatewaySite, desk: Desk) -> None:
    step_uid = desk.claim(site.step_uid)
    assert (desk.load(step_uid).version, desk.load(step_uid).sections["findings"]) == (0, "")
    assert [desk.save(step_uid, version, findings=f"state {version + 1}").version for version in range(3)] == [1, 2, 3]
    loaded = desk.load(step_uid)
    assert (loaded.version, loaded.sections["findings"], loaded.saved_at) == (3, "state 3", site.clock.at)
    assert [entry.detail["version"] for entry in entries_of(site, EventType.DRAFT)] == [1, 2, 3]


def test_drafts_are_sealed_each_for_its_own_place(site: GatewaySite, desk: Desk) -> None:
    step_uid = desk.claim(site.step_uid)
    desk.save(step_uid, findings="Zwiebelturm und Regenpfeifer")
    with site.app.database.reading() as session:
        row = session.exec(select(ReportDraft)).one()
    assert b"Zwiebelturm" not in row.sealed and b"Regenpfeifer" not in row.sealed


@pytest.mark.parametrize("base_version", [0, 2, 7])
def test_save_from_another_window_is_a_conflict_and_changes_nothing(site: GatewaySite, desk: Desk, base_version: int) -> None:
    step_uid = desk.claim(site.step_uid)
    desk.save(step_uid, findings="the first window")
    with pytest.raises(Conflict) as refused:
        desk.save(step_uid, base_version, findings="the other window")
    assert refused.value.reason_code == "DRAFT_MOVED_ON"
    assert (desk.load(step_uid).version, desk.load(step_uid).sections["findings"]) == (1, "the first window")


def test_draft_of_a_lost_lease_goes_on_in_the_successor(site: GatewaySite, desk: Desk) -> None:
    step_uid = desk.claim(site.step_uid)
    desk.save(step_uid, findings="half a sentence")
    successor_uid = desk.claim(desk.release(step_uid))
    loaded = desk.load(successor_uid)
    assert (loaded.version, loaded.sections["findings"]) == (0, "half a sentence")
    assert desk.save(successor_uid, 0, findings="a whole one").version == 1
    assert desk.load(successor_uid).sections["findings"] == "a whole one"
    with site.app.database.reading() as session:
        assert len(session.exec(select(ReportDraft)).all()) == 2


def test_who_holds_no_claim_saves_nothing(site: GatewaySite, desk: Desk) -> None:
    step_uid = site.step_uid
    with pytest.raises(NotAllowed):
        desk.save(step_uid)
    desk.claim(step_uid)
    site.clock.forward(minutes=16)
    with pytest.raises(NotAllowed):
        desk.save(step_uid)
    with site.app.database.reading() as session:
        assert not session.exec(select(ReportDraft)).all()


def test_text_that_is_no_text_is_refused(site: GatewaySite, desk: Desk) -> None:
    step_uid = desk.claim(site.step_uid)
    for text in ("x" * 32_769, "lone \ud800 surrogate"):
        with pytest.raises(RefusedContent):
            desk.save(step_uid, findings=text)
    assert desk.load(step_uid).version == 0


# --- signing ------------------------------------------------------------------------------------------------------------------


def test_final_report_completes_the_step_and_queues_each_delivery_once(site: GatewaySite, desk: Desk) -> None:
    step_uid = desk.claim(site.step_uid)
    open_view(
        site.app.database,
        site.app.law,
        procedure_step_uid=step_uid,
        reader_id="r1",
        login_digest=desk.login_digest,
        now=site.clock.at,
    )
    desk.save(step_uid)
    report = desk.sign(step_uid)
    assert (step_of(site, step_uid).state, step_of(site, step_uid).ended_at) == (State.COMPLETED, site.clock.at)
    assert [(row.kind, row.state, row.attempts) for row in deliveries_of(site)] == [("DICOM", "QUEUED", 0), ("MLLP", "QUEUED", 0)]
    (entry,) = entries_of(site, EventType.SIGN)
    assert (entry.actor, entry.object_id, entry.decision_digest) == ("r1", report.report_uid, report.decision_digest)
    assert entry.detail["manifest"] == site.study.manifest_digest == report.manifest_digest
    with site.app.database.reading() as session:
        signed = open_report(open_study_key(site.app.keys, site.study), report)
        assert all(grant.revocation_reason == "STEP_COMPLETED" for grant in session.exec(select(ViewGrant)).all())
        decision = session.get(DecisionRow, report.decision_digest)
    assert signed.content.digest() == report.report_digest and signed.content.findings == "No bleeding."
    assert decision is not None and (decision.action, decision.outcome) == ("SIGN_FINAL", "ALLOW")
    with pytest.raises(NotAllowed):
        desk.sign(step_uid)
    assert is_log_sound(site)


@pytest.mark.parametrize("passphrase", ["", "not the passphrase"])
def test_wrong_passphrase_signs_nothing(site: GatewaySite, desk: Desk, passphrase: str) -> None:
    step_uid = desk.claim(site.step_uid)
    desk.save(step_uid)
    with pytest.raises(NotAllowed):
        desk.sign(step_uid, passphrase=passphrase)
    nothing_signed(site, step_uid)
    assert desk.sign(step_uid).kind == ReportKind.FINAL


def test_another_readers_passphrase_opens_no_key(site: GatewaySite, desk: Desk) -> None:
    step_uid = desk.claim(site.step_uid)
    desk.save(step_uid)
    with pytest.raises(NotAllowed):
        desk.sign(step_uid, passphrase=site.logins["r2"].passphrase)
    nothing_signed(site, step_uid)


def test_lost_claim_signs_nothing(site: GatewaySite, desk: Desk) -> None:
    step_uid = desk.claim(site.step_uid)
    desk.save(step_uid)
    site.clock.forward(minutes=16)
    with pytest.raises(NotAllowed) as refused:
        desk.sign(step_uid)
    assert refused.value.reason_code == "NOT_YOUR_CLAIM"
    nothing_signed(site, step_uid)


def test_wrong_transaction_uid_signs_nothing(site: GatewaySite, desk: Desk) -> None:
    step_uid = desk.claim(site.step_uid)
    desk.save(step_uid)
    with pytest.raises(Conflict):
        desk.sign(step_uid, transaction_uid="2.25.666")
    nothing_signed(site, step_uid)


def test_report_that_lacks_what_its_kind_needs_is_refused(site: GatewaySite, desk: Desk) -> None:
    step_uid = desk.claim(site.step_uid)
    desk.save(step_uid, findings="", impression="")
    with pytest.raises(RefusedContent):
        desk.sign(step_uid)
    nothing_signed(site, step_uid)


def test_nothing_written_is_nothing_to_sign(site: GatewaySite, desk: Desk) -> None:
    step_uid = desk.claim(site.step_uid)
    with pytest.raises(Conflict):
        desk.sign(step_uid, 0)
    nothing_signed(site, step_uid)


# --- chains -------------------------------------------------------------------------------------------------------------------


def test_preliminary_then_final_is_a_chain_of_two(site: GatewaySite, desk: Desk) -> None:
    step_uid = desk.claim(site.step_uid)
    desk.save(step_uid, impression="Probably normal.")
    preliminary = desk.sign(step_uid, 1, ReportKind.PRELIMINARY)
    assert step_of(site, step_uid).state == State.IN_PROGRESS, "who may sign finally keeps the step"
    site.clock.forward(minutes=5)
    desk.save(step_uid, 1)
    final = desk.sign(step_uid, 2)
    assert [report.report_uid for report in chain_of(site)] == [preliminary.report_uid, final.report_uid]
    assert (preliminary.predecessor_digest, final.predecessor_digest) == (None, preliminary.report_digest)
    assert len(deliveries_of(site)) == 4
    assert step_of(site, step_uid).state == State.COMPLETED


def test_addendum_and_correction_follow_the_final_report(site: GatewaySite, desk: Desk) -> None:
    step_uid = site.step_uid
    final = desk.report()
    for kind in (ReportKind.ADDENDUM, ReportKind.CORRECTION):
        site.clock.forward(minutes=1)
        later_uid = desk.begin_addendum(step_uid)
        assert desk.load(later_uid).version == 0
        desk.save(later_uid, findings=f"An {kind} to what was said.")
        with pytest.raises(Conflict) as refused:
            desk.sign(later_uid, 1, ReportKind.FINAL)
        assert refused.value.reason_code == "ALREADY_FINAL"
        desk.sign(later_uid, 1, kind)
        assert step_of(site, later_uid).state == State.COMPLETED
    chain = chain_of(site)
    assert [report.kind for report in chain] == [ReportKind.FINAL, ReportKind.ADDENDUM, ReportKind.CORRECTION]
    assert [report.predecessor_digest for report in chain] == [None, final.report_digest, chain[1].report_digest]
    assert len(deliveries_of(site)) == 6 and len(steps_of(site)) == 3
    assert is_log_sound(site)


def test_addendum_needs_a_final_report_and_its_reader(site: GatewaySite, desk: Desk) -> None:
    step_uid = desk.claim(site.step_uid)
    desk.save(step_uid)
    with pytest.raises(Conflict) as refused:
        desk.sign(step_uid, 1, ReportKind.ADDENDUM)
    assert refused.value.reason_code == "NOT_FINAL_YET"
    with pytest.raises(NotAllowed):
        desk.begin_addendum(step_uid)
    desk.sign(step_uid)
    with pytest.raises(NotAllowed):
        Desk(site, "r3").begin_addendum(step_uid)


def test_reader_who_may_only_report_preliminarily_hands_the_study_on(site: GatewaySite) -> None:
    let_read_preliminarily(site, "r5")
    study_uid = site.process(site.receive(make_ct_study(instances=1, hospital_id="h2", number=9), "h2"))
    abroad, at_home = Desk(site, "r5"), Desk(site, "r2")
    with site.app.database.reading() as session:
        study = require_study(session, study_uid)
        assert session.exec(select(ReceivedStudy.state).where(ReceivedStudy.study_instance_uid == study_uid)).one() == "AVAILABLE"
    (step,) = _steps_of_study(site, study.study_pk)
    with site.app.database.reading() as session:
        assert eligible_ids(session, step.study_pk) == ["r2", "r5"]
    step_uid = abroad.claim(step.procedure_step_uid)
    abroad.save(step_uid)
    with pytest.raises(NotAllowed) as refused:
        abroad.sign(step_uid, 1, ReportKind.FINAL)
    assert refused.value.reason_code == "US_1395Y_A4"
    with site.app.database.reading() as session:
        denied = session.exec(select(DecisionRow).where(DecisionRow.action == "SIGN_FINAL")).all()
    assert [(row.reader_id, row.outcome) for row in denied] == [("r5", "DENY")] and step_of(site, step_uid).state == State.IN_PROGRESS
    preliminary = abroad.sign(step_uid, 1, ReportKind.PRELIMINARY)
    done, verification = sorted(_steps_of_study(site, study.study_pk), key=lambda one: one.predecessor_uid is not None)
    assert done.state == State.COMPLETED and verification.predecessor_uid == step_uid
    assert (verification.workitem_code, verification.is_final_required) == (WorkitemCode.REPORT_VERIFICATION, True)
    assert verification.expected_completion_at == done.expected_completion_at
    with pytest.raises(NotAllowed) as refused:
        abroad.claim(verification.procedure_step_uid)
    assert refused.value.reason_code == "FINAL_READER_REQUIRED"
    at_home.claim(verification.procedure_step_uid)
    at_home.save(verification.procedure_step_uid)
    final = at_home.sign(verification.procedure_step_uid)
    assert (final.predecessor_digest, final.study_pk) == (preliminary.report_digest, study.study_pk)


def _steps_of_study(site: GatewaySite, study_pk: int | None) -> list[ProcedureStep]:
    return [step for step in steps_of(site) if step.study_pk == study_pk]
