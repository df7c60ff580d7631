"""Shredding a study: nobody opens it again, nobody works on it, the log says so, and nothing is lost that somebody waits for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from sqlmodel import select

from compliance.audit import AuditEntry, EventId, EventType
from compliance.audit_checkpoint import verify_log
from compliance.crosswalk import open_study_identity
from compliance.study import StudyStatus, open_study_key, require_study
from crypto.errors import Conflict, NotFound, TemporarilyUnable
from gateway.archiving import archive_originals, study_key_of
from gateway.fsck import Fsck
from gateway.hospital_studies import _identity_before
from gateway.login import Visitor
from gateway.received import ReceivedState, ReceivedStudy
from gateway.shredding import shred_study
from gateway.study_attempts import StudyAttempts
from gateway.worker import Work
from reporting.delivery_queue import Delivery, DeliveryState
from tests.builders import make_ct_study
from tests.gateway_site import GatewaySite, PlainScreener, gateway_site
from worklist.procedure_step import State
from worklist.view_grant import ViewGrant
from worklist.workitem import ProcedureStep


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "site") as opened:
        yield opened


def shred(site: GatewaySite, name: str | None = None, **options: bool):  # type: ignore[no-untyped-def]
    return shred_study(site.app, name or site.study_instance_uid, actor="po", reason="ERASURE", **options)


def require_key(site: GatewaySite, study_instance_uid: str) -> str:
    with site.app.database.reading() as session:
        return require_study(session, study_instance_uid).study_key_id


def steps(site: GatewaySite) -> list[ProcedureStep]:
    with site.app.database.reading() as session:
        return list(session.exec(select(ProcedureStep)).all())


def test_a_shredded_study_opens_no_more_and_a_backup_does_not_help(site: GatewaySite) -> None:
    before = site.study
    packs = set(site.app.vault.pack_names())
    result = shred(site)
    assert result.packs_deleted == len(packs) > 0
    assert result.segments_deleted == 1
    after = site.study
    assert after.status == StudyStatus.SHREDDED
    assert (after.description, after.study_date, after.order_text_sealed) == ("", "", None)
    assert not list(site.app.vault.pack_names())
    assert not site.app.spool.segments()
    for row in (before, after):  # `before` is what a restored database would say
        with pytest.raises(NotFound):
            open_study_key(site.app.keys, row)
    with site.app.database.transaction() as session, pytest.raises(NotFound):
        open_study_identity(session, site.app.keys, before, actor="t", purpose="t", now=site.clock.at)


def test_the_log_tells_it_and_everything_still_agrees(site: GatewaySite) -> None:
    shred(site)
    with site.app.database.reading() as session:
        entry = session.exec(select(AuditEntry).where(AuditEntry.event_type == EventType.SHRED)).one()
        assert (entry.event_id, entry.action, entry.actor) == (EventId.STUDY_DELETED, "D", "po")
        assert entry.study_instance_uid == site.study_instance_uid
        assert entry.detail["reason"] == "ERASURE"
        assert verify_log(session, site.app.log_signer.public_key).is_sound
    assert Fsck(site.app).run(deep=True).findings == []


def test_claim_grants_and_waiting_work_end_without_a_successor(site: GatewaySite) -> None:
    step_uid = site.claim()
    site.client("r1").get(f"/read/{step_uid}", headers={"Accept": "text/html"})
    shred(site)
    assert [(step.state, step.cancellation_reason) for step in steps(site)] == [(State.CANCELED, "STUDY_SHREDDED")]
    with site.app.database.reading() as session:
        assert all(grant.revoked_at is not None for grant in session.exec(select(ViewGrant)).all())


def test_a_report_that_waits_for_its_hospital_keeps_the_study(site: GatewaySite) -> None:
    step_uid = site.claim()
    site.write(step_uid)
    assert site.sign(step_uid).status_code in (200, 303)
    with pytest.raises(Conflict, match="REPORTS_UNDELIVERED"):
        shred(site)
    assert site.study.status == StudyStatus.AVAILABLE
    result = shred(site, force=True)
    assert result.deliveries_ended == 2
    with site.app.database.reading() as session:
        states = {(row.state, row.last_reason) for row in session.exec(select(Delivery)).all()}
    assert states == {(DeliveryState.DEAD_LETTER, "STUDY_SHREDDED")}


def test_an_instance_that_stands_only_in_the_spool_keeps_the_study(site: GatewaySite) -> None:
    datasets = make_ct_study(instances=3, number=7)
    pk = site.receive(datasets[:2])
    study_instance_uid = site.process(pk)
    site.receive([datasets[2]])
    with pytest.raises(Conflict, match="STUDY_IN_SPOOL"):
        shred(site, study_instance_uid)
    assert site.app.keys.has_shred_key(require_key(site, study_instance_uid))


def test_another_study_of_the_same_segment_keeps_its_originals(site: GatewaySite) -> None:
    one, other = make_ct_study(instances=1, number=7), make_ct_study(instances=1, number=8)
    pk_one = site.receive([*one, *other])
    with site.app.database.transaction() as session:
        for row in session.exec(select(ReceivedStudy)).all():
            if row.state == ReceivedState.RECEIVING:
                row.state, row.complete_at = ReceivedState.COMPLETE, site.clock.at
            session.add(row)
        complete = session.exec(select(ReceivedStudy).where(ReceivedStudy.state == ReceivedState.COMPLETE)).all()
        [pk_other] = [row.received_study_pk for row in complete if row.received_study_pk != pk_one]
    result = shred(site, site.process(pk_one))
    assert (len(result.segments_left), result.segments_deleted) == (1, 0)
    assert pk_other is not None
    assert site.process(pk_other)


def test_a_held_study_can_be_shredded_by_its_number(site: GatewaySite) -> None:
    from gateway.processing import archive_originals

    pk = site.receive(make_ct_study(instances=1, number=7))
    archive_originals(site.app, pk)
    result = shred(site, f"received/{pk}")
    assert result.study_key_id is not None
    assert not site.app.keys.has_shred_key(result.study_key_id)
    with site.app.database.reading() as session:
        entry = session.exec(select(AuditEntry).where(AuditEntry.event_type == EventType.SHRED)).one()
    assert entry.object_id == f"received/{pk}"


def test_what_a_crash_left_is_finished_by_repeating(site: GatewaySite, monkeypatch: pytest.MonkeyPatch) -> None:
    site.study_instance_uid  # noqa: B018  (made at its first use)

    def full(_name: str) -> None:
        raise TemporarilyUnable("the vault cannot be written")

    monkeypatch.setattr(site.app.vault, "delete_pack", full)
    with pytest.raises(TemporarilyUnable):
        shred(site)
    assert site.study.status == StudyStatus.SHREDDED
    monkeypatch.undo()
    assert {finding.kind for finding in Fsck(site.app).run().findings} == {"pack_of_shredded_study"}
    assert shred(site).packs_deleted > 0
    assert not list(site.app.vault.pack_names())


def test_an_unknown_study_is_refused(site: GatewaySite) -> None:
    for name in ("2.25.1", "received/99"):
        with pytest.raises(NotFound):
            shred(site, name)


def test_a_study_that_was_shredded_gets_no_other_key_and_its_page_says_so(tmp_path: Path) -> None:
    """Neither of its job, nor of whoever looks at the hospital's page: it would be there again under a key that nobody shredded."""
    with gateway_site(tmp_path / "held", has_study=False) as site:
        pk = site.receive(make_ct_study(instances=2, number=871))
        archive_originals(site.app, pk)
        with site.app.database.transaction() as session:
            study = session.get(ReceivedStudy, pk)
            assert study is not None
            study.state = ReceivedState.QUARANTINED
            session.add(study)
        shred(site, f"received/{pk}")
        with pytest.raises(NotFound):
            study_key_of(site.app, pk)
        work = Work(site.app, PlainScreener(), StudyAttempts(site.app.database))
        with pytest.raises(NotFound):
            work.archive(pk)
        with site.app.database.reading() as session:
            after = session.get(ReceivedStudy, pk)
        assert after is not None and after.study_key_id == study.study_key_id and after.wrapped_dek is None
        assert not list(site.app.keys.shred_key_ids())
        assert _identity_before(site.app, cast(Visitor, None), after, None).name == "Deleted"
