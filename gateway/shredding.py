"""Shredding a study: its SHRED key is destroyed, and with it every reading of it, old backups of database and vault included.

0. Nothing of it is lost that somebody still waits for: signed reports have reached the hospital (unless forced), and no instance
   stands only in the spool, which opens without SHRED.
1. In one transaction, behind the row locks: status, grants, claims, open deliveries, descriptive columns, the audit entry, and last the
   key. If we crash after the key was destroyed and before the commit, the rows still say AVAILABLE and fsck names them; running this
   again finishes it. The other order would let the log say "shredded" of a study that can be read.
2. Packs and emptied spool segments are deleted. They are worth nothing any more; what a crash leaves, fsck names and removes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from sqlmodel import Session, col, select

from compliance import audit
from compliance.quarantine import QuarantineItem, QuarantineState, decide_item
from compliance.study import Instance, Series, Study, StudyStatus
from crypto.errors import Conflict, NotFound
from crypto.keys import KeyStore
from gateway.application import Application
from gateway.received import ReceivedInstance, ReceivedState, ReceivedStudy, received_study, unarchived_segments
from gateway.spool_index import SpoolIndex
from reporting.delivery_queue import Delivery, DeliveryState
from reporting.report import Report
from worklist.procedure_step import State
from worklist.view_grant import revoke_grants
from worklist.workitem import open_steps_of_study

REPORTS_UNDELIVERED = "REPORTS_UNDELIVERED"
STUDY_IN_SPOOL = "STUDY_IN_SPOOL"
STUDY_SHREDDED = "STUDY_SHREDDED"


@dataclass
class Shredding:
    """What was destroyed. `segments_left` still hold originals next to other studies' and go when those are done."""

    study: str
    study_key_id: str | None
    packs_deleted: int = 0
    segments_deleted: int = 0
    segments_left: list[str] = field(default_factory=list)
    claims_ended: int = 0
    grants_revoked: int = 0
    deliveries_ended: int = 0


def shred_study(app: Application, name: str, *, actor: str, reason: str, force: bool = False) -> Shredding:
    """Nobody can open the study again. `name` is its pseudonymous UID, or received/<number> for one that never became a study.

    May be called again: what a crash left over is finished.

    Raises: NotFound; Conflict(REPORTS_UNDELIVERED, STUDY_IN_SPOOL): then nothing was done.
    """
    with app.database.transaction() as session:
        study, received = _found(session, name)
        result = Shredding(name, study.study_key_id if study is not None else received[0].study_key_id)
        keys_to_destroy = {row.study_key_id for row in (study, *received) if row is not None and row.study_key_id is not None}
        received_pks = [row.received_study_pk for row in received if row.received_study_pk is not None]
        _require_nothing_waits(session, study, received_pks, force)
        now = app.now()
        if study is not None:
            _end_work(session, study, result, actor, now)
            _forget_description(session, study)
        _end_received(session, app.keys, received, actor, reason, now)
        audit.append(
            session,
            audit.AuditEvent(
                event_id=audit.EventId.STUDY_DELETED,
                event_type=audit.EventType.SHRED,
                action=audit.Action.DELETE,
                actor=actor,
                hospital_id=study.hospital_id if study is not None else received[0].hospital_id,
                study_instance_uid=study.study_instance_uid if study is not None else None,
                object_id=None if study is not None else name,
                detail={
                    "reason": reason,
                    "keys": sorted(keys_to_destroy),
                    "claims": result.claims_ended,
                    "deliveries": result.deliveries_ended,
                    "forced": force,
                },
            ),
            at=now,
        )
        session.flush()
        for study_key_id in sorted(keys_to_destroy):
            app.keys.shred_study_key(study_key_id)
    # If we crash here the packs and segments are left: ciphertext without a key, and a finding of fsck.
    with app.database.reading() as session:
        packs = packs_of(session, study, received_pks)
        segments = segments_of(session, received_pks)
    for pack_name in sorted(packs):
        app.vault.delete_pack(pack_name)
        result.packs_deleted += 1
    _empty_spool(app, segments, result)
    return result


def packs_of(session: Session, study: Study | None, received_study_pks: Iterable[int]) -> set[str]:
    """The packs that hold anything of the study: a pack holds objects of one study key only."""
    names: set[str | None] = set()
    if study is not None:
        names |= set(session.exec(select(Instance.pack_name).where(Instance.study_pk == study.study_pk)).all())
        series = session.exec(select(Series).where(Series.study_pk == study.study_pk)).all()
        names |= {row.metadata_object.get("pack_name") for row in series}
    for pk in received_study_pks:
        names |= set(session.exec(select(ReceivedInstance.pack_name).where(ReceivedInstance.received_study_pk == pk)).all())
    return {name for name in names if name}


def segments_of(session: Session, received_study_pks: Iterable[int]) -> set[str]:
    """The spool segments that hold, or held, instances of the study."""
    found: set[str] = set()
    for pk in received_study_pks:
        found |= set(session.exec(select(ReceivedInstance.segment_id).where(ReceivedInstance.received_study_pk == pk)).all())
    return found


def _found(session: Session, name: str) -> tuple[Study | None, list[ReceivedStudy]]:
    if name.startswith("received/") and name[9:].isdecimal():
        row = received_study(session, int(name[9:]))
        if row.study_instance_uid is None:
            return None, [row]
        name = row.study_instance_uid
    study = session.exec(select(Study).where(Study.study_instance_uid == name).with_for_update()).first()
    if study is None:
        raise NotFound(f"no study {name}; give its pseudonymous Study Instance UID, or received/<number> for one that is held")
    # Found by its key too: one that fell back into quarantine after it had become a study.
    rows = session.exec(
        select(ReceivedStudy).where(
            (col(ReceivedStudy.study_instance_uid) == study.study_instance_uid) | (col(ReceivedStudy.study_key_id) == study.study_key_id)
        )
    ).all()
    return study, list(rows)


def _require_nothing_waits(session: Session, study: Study | None, received_pks: list[int], force: bool) -> None:
    unarchived = session.exec(
        select(ReceivedInstance.instance_pk).where(
            col(ReceivedInstance.received_study_pk).in_(received_pks),
            col(ReceivedInstance.pack_name).is_(None),
            col(ReceivedInstance.is_duplicate).is_(False),
        )
    ).first()
    if unarchived is not None:
        raise Conflict(STUDY_IN_SPOOL)
    if study is not None and not force and _undelivered(session, study):
        raise Conflict(REPORTS_UNDELIVERED)


def _undelivered(session: Session, study: Study) -> list[Delivery]:
    return list(
        session.exec(
            select(Delivery)
            .join(Report, col(Report.report_uid) == Delivery.report_uid)
            .where(Report.study_pk == study.study_pk, Delivery.state != DeliveryState.DELIVERED)
        ).all()
    )


def _end_work(session: Session, study: Study, result: Shredding, actor: str, now: datetime) -> None:
    """Grants, claims, waiting steps and deliveries of the study end; a successor would be work on nothing."""
    assert study.study_pk is not None
    result.grants_revoked = revoke_grants(session, reason=STUDY_SHREDDED, now=now, study_pk=study.study_pk)
    for step in open_steps_of_study(session, study.study_pk):
        was_claimed = step.state == State.IN_PROGRESS
        # The SCP itself cancels a scheduled step by way of IN PROGRESS (PS3.4 CC.2.2.2); nobody sees the state between.
        step.state, step.ended_at, step.cancellation_reason = State.CANCELED, now, STUDY_SHREDDED
        session.add(step)
        result.claims_ended += was_claimed
        audit.append(
            session,
            audit.AuditEvent(
                event_id=audit.EventId.ORDER_RECORD,
                event_type=audit.EventType.REVOKE,
                action=audit.Action.UPDATE,
                actor=actor,
                hospital_id=study.hospital_id,
                study_instance_uid=study.study_instance_uid,
                object_id=step.procedure_step_uid,
                detail={"reason": STUDY_SHREDDED, "was_claimed": was_claimed},
            ),
            at=now,
        )
    for delivery in _undelivered(session, study):
        delivery.state, delivery.last_reason = DeliveryState.DEAD_LETTER, STUDY_SHREDDED
        session.add(delivery)
        result.deliveries_ended += 1
    study.status = StudyStatus.SHREDDED
    session.add(study)


def _forget_description(session: Session, study: Study) -> None:
    """What the rows say of the examination goes too; UIDs, digests and times stay, because the audit log and reports name them."""
    study.description, study.body_part, study.study_date, study.study_time = "", None, "", ""
    study.patient_sex, study.patient_age, study.order_text_sealed = "", "", None
    session.add(study)
    for series in session.exec(select(Series).where(Series.study_pk == study.study_pk)).all():
        series.description, series.body_part, series.series_date, series.series_time = "", None, "", ""
        session.add(series)


def _end_received(session: Session, keys: KeyStore, received: list[ReceivedStudy], actor: str, reason: str, now: datetime) -> None:
    for row in received:
        # What comes again under this study finds no key and is held for a person, who knows why it was shredded.
        row.wrapped_dek = None
        session.add(row)
        if row.state == ReceivedState.QUARANTINED:
            row.state = ReceivedState.REJECTED
        held = session.exec(
            select(QuarantineItem).where(
                QuarantineItem.received_study_pk == row.received_study_pk, QuarantineItem.state == QuarantineState.HELD
            )
        ).all()
        for item in held:
            decide_item(item, keys, QuarantineState.REJECTED, actor=actor, note=reason, now=now)
            session.add(item)


def _empty_spool(app: Application, segments: set[str], result: Shredding) -> None:
    """Segments in which nothing waits any more are removed; the spool opens with the KEK alone, so they must not linger."""
    # An acknowledged frame whose row is not written yet may be another study's: every closed segment is read before one is taken away.
    index = SpoolIndex(app.database, app.spool)
    index.recover(now=app.now())
    closed = index.recovered_segments
    with app.database.reading() as session:
        needed = unarchived_segments(session)
    for segment_id in sorted(segments & set(app.spool.segments())):
        if segment_id in needed or segment_id not in closed:
            result.segments_left.append(segment_id)
            continue
        app.spool.remove_segment(segment_id)
        result.segments_deleted += 1
