"""What a change in a register does at once: rights that ended take their claims with them, and waiting studies find their new readers.

Only what comes out differently is recorded: asking again must not fill the log with the same answers. The worker follows the log of
changes too (register_changes.py), so a change that a crash kept from having its effect, or that a command made, has it a moment later.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

import structlog
from sqlmodel import Session, col, select

from compliance import audit
from compliance.bulkhead import bulkhead
from compliance.credential import Employer, Reader
from compliance.hospital import Hospital
from compliance.principal import Principal
from compliance.study import Study, study_by_pk
from gateway.application import Application
from reporting.delivery_decision import ask_waiting_deliveries_again
from worklist.procedure_step import State
from worklist.revocation import revoke_ended_rights
from worklist.routed_reader import ELIGIBLE, eligible_ids, ended_by_the_calendar, forget_routing, outcome_of, routing_of
from worklist.routing import ACTOR, decide_for_readers, decided_ids, record_routing
from worklist.workitem import ProcedureStep, locked_step

log = structlog.get_logger()


def take_effect(
    app: Application,
    *,
    reader_ids: Collection[str] | None = None,
    hospital_ids: Collection[str] | None = None,
    patient_pseudonym: str | None = None,
) -> None:
    """Claims whose right ended are ended, and every waiting study that the change may touch lists the readers who may read it now.

    Raises: TemporarilyUnable.
    """
    revoke_ended_rights(app.database, app.law, now=app.now(), new_uid=app.new_uid, keys=app.keys)
    now = app.now()
    with app.database.reading() as session:
        waiting = select(ProcedureStep.procedure_step_uid).where(
            ProcedureStep.state == State.SCHEDULED, col(ProcedureStep.is_addendum).is_(False)
        )
        if hospital_ids is not None:
            waiting = waiting.where(col(ProcedureStep.hospital_id).in_(hospital_ids))
        if patient_pseudonym is not None:
            waiting = waiting.join(Study, col(Study.study_pk) == ProcedureStep.study_pk).where(Study.patient_pseudonym == patient_pseudonym)
        uids = session.exec(waiting).all()
    for uid in uids:
        # A study about which nothing can be decided keeps its list: the claim decides anew, and is refused.
        with bulkhead("route_again", procedure_step_uid=uid):
            with app.database.reading() as session:
                is_differing = _differs(app, session, session.get(ProcedureStep, uid), reader_ids, now)
            if is_differing:
                with app.database.transaction() as session:
                    _route_again(app, session, locked_step(session, uid), reader_ids, now)
    with app.database.transaction() as session:
        ask_waiting_deliveries_again(session, now=now)


def take_effect_of_evidence(app: Application, parties: Collection[str]) -> None:
    """`take_effect` of evidence that was added or withdrawn: a paper counts only between a hospital and a firm that are both named.

    Raises: TemporarilyUnable.
    """
    with app.database.reading() as session:
        hospitals = session.exec(select(Hospital.hospital_id).where(col(Hospital.hospital_id).in_(parties))).all()
        readers = session.exec(select(Reader.reader_id).where(col(Reader.employer_id).in_(parties))).all()
        has_firm = session.exec(select(Employer.employer_id).where(col(Employer.employer_id).in_(parties))).first() is not None
    take_effect(app, reader_ids=list(readers) if has_firm else None, hospital_ids=list(hospitals) or None)


def route_what_the_calendar_ended(app: Application) -> int:
    """Waiting studies for which what routing decided stands no longer, by the mere passing of time, are decided anew; how many.

    Raises: TemporarilyUnable.
    """
    now = app.now()
    with app.database.reading() as session:
        waiting = session.exec(
            select(ProcedureStep.study_pk, ProcedureStep.procedure_step_uid).where(
                ProcedureStep.state == State.SCHEDULED, col(ProcedureStep.is_addendum).is_(False)
            )
        ).all()
        steps = dict(waiting)
        ended = ended_by_the_calendar(session, steps, now=now)
    done = 0
    for study_pk, reader_ids in ended.items():
        with bulkhead("route_by_calendar", procedure_step_uid=steps[study_pk]), app.database.transaction() as session:
            _route_again(app, session, locked_step(session, steps[study_pk]), reader_ids, now)
            done += 1
    return done


def _differs(app: Application, session: Session, step: ProcedureStep | None, reader_ids: Collection[str] | None, now: datetime) -> bool:
    if step is None:
        return False
    study, readers = study_by_pk(session, step.study_pk), _readers(session, reader_ids)
    standing = routing_of(session, step.study_pk)
    if any(reader.reader_id in standing for reader, is_active in readers if not is_active):
        return True
    active = [reader for reader, is_active in readers if is_active]
    decided = decide_for_readers(session, app.law, study, active, now=now, keys=app.keys)
    if any(reader.reader_id in standing for reader in active if reader.reader_id not in decided_ids(decided)):
        return True
    for facts, decision in decided:
        row = standing.get(str(facts["reader"]["id"]))
        if row is None or (row.outcome, row.reasons) != outcome_of(app.law, study, facts, decision, now):
            return True
        if row.valid_until is not None and (row.valid_until <= now or (decision.valid_until or row.valid_until) < row.valid_until):
            return True
    return False


def _route_again(app: Application, session: Session, step: ProcedureStep, reader_ids: Collection[str] | None, now: datetime) -> None:
    if step.state != State.SCHEDULED:
        return
    study = study_by_pk(session, step.study_pk)
    before = len(eligible_ids(session, step.study_pk))
    readers = _readers(session, reader_ids)
    active = [reader for reader, is_active in readers if is_active]
    decided = decide_for_readers(session, app.law, study, active, now=now, keys=app.keys)
    # Who may not log in, and about whom nothing can be decided, is not eligible.
    forget_routing(session, step.study_pk, sorted({reader.reader_id for reader, _ in readers} - decided_ids(decided)))
    record_routing(session, app.law, study, decided, now=now)
    standing = routing_of(session, step.study_pk).values()
    eligible = sum(row.outcome == ELIGIBLE for row in standing)
    audit.append(
        session,
        audit.AuditEvent(
            event_id=audit.EventId.PROCEDURE_RECORD,
            event_type=audit.EventType.ROUTE,
            action=audit.Action.UPDATE,
            actor=ACTOR,
            hospital_id=step.hospital_id,
            study_instance_uid=study.study_instance_uid,
            object_id=step.procedure_step_uid,
            detail={"eligible": eligible, "refused": len(standing) - eligible, "before": before},
        ),
        at=now,
    )
    log.info("study_routed_again", procedure_step_uid=step.procedure_step_uid, eligible=eligible)


def _readers(session: Session, reader_ids: Collection[str] | None) -> list[tuple[Reader, bool]]:
    """(reader, whether the person may log in), all of them or those named."""
    query = select(Reader, Principal.is_active).join(Principal, col(Principal.principal_id) == Reader.reader_id)
    if reader_ids is not None:
        query = query.where(col(Reader.reader_id).in_(reader_ids))
    return [(reader, is_active) for reader, is_active in session.exec(query.order_by(col(Reader.reader_id))).all()]
