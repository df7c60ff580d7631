"""Route: a study that is complete and clean becomes work, and for each reader it is decided whether it may be theirs.

True when `route` returned: the procedure step is SCHEDULED with its deadline, the decision on every reader is on record, and the audit
entry stands, in one transaction. Calling it again for the same study changes nothing (everything a worker does may happen twice).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlmodel import Session, col, select

from compliance import audit
from compliance.bulkhead import bulkhead
from compliance.credential import Reader
from compliance.decision import Decision, decide_many
from compliance.decision_log import record_decisions
from compliance.hospital import require_hospital
from compliance.lawbook import LawBundle
from compliance.principal import Principal
from compliance.route_facts import gather_route_facts
from compliance.study import Study
from crypto.errors import Conflict, IntegrityFailure, TemporarilyUnable
from crypto.keys import KeyStore
from worklist.procedure_step import State, WorkitemCode
from worklist.routed_reader import eligible_ids, forget_routing, keep_routing, refusals_of, routing_of
from worklist.workitem import ProcedureStep, locked_open_steps

#: Where a hospital names no turnaround for a priority.
TURNAROUND_MINUTES_DEFAULT = 240
ACTOR = "readgate/route"


@dataclass(frozen=True)
class Routing:
    procedure_step_uid: str
    expected_completion_at: datetime
    #: Readers who may read it, and for each other one the reasons.
    eligible: list[str]
    refused: dict[str, list[str]]
    is_new: bool


def route(
    session: Session, law: LawBundle, study: Study, *, now: datetime, new_uid: Callable[[], str], keys: KeyStore | None = None
) -> Routing:
    """See the module. An amendment of a study whose step is still open is marked on that step; an addendum that nobody has begun to write
    becomes a step for every reader then. After a report it is a new step, with a deadline of its own.

    Raises: IntegrityFailure where rows contradict each other.
    """
    assert study.study_pk is not None
    # Two workers that route the same study at once take their turns: the second finds the step of the first.
    session.exec(select(Study.study_pk).where(Study.study_pk == study.study_pk).with_for_update()).one()
    open_steps = locked_open_steps(session, study.study_pk)
    standing = session.exec(
        select(ProcedureStep)
        .where(ProcedureStep.study_pk == study.study_pk)
        .order_by(col(ProcedureStep.amendment).desc(), col(ProcedureStep.scheduled_at).desc())
    ).first()
    if standing is not None and standing.amendment >= study.amendment:
        return Routing(
            standing.procedure_step_uid,
            standing.expected_completion_at,
            eligible_ids(session, study.study_pk),
            refusals_of(session, study.study_pk),
            is_new=False,
        )
    eligible, refused = decide_for_all(session, law, study, now=now, keys=keys)
    due_at = (now if standing is not None else study.completed_at) + timedelta(minutes=_turnaround_minutes(session, study))
    if open_steps:
        step, is_new = open_steps[0], False
        step.amendment = study.amendment
        if step.priority != study.priority:
            # An order that came late may bring the deadline forward, and never puts it off.
            step.priority, step.expected_completion_at = study.priority, min(step.expected_completion_at, due_at)
        if step.is_addendum and step.state == State.SCHEDULED:
            step.is_addendum, step.expected_completion_at = False, due_at
    else:
        is_new = True
        step = ProcedureStep(
            procedure_step_uid=new_uid(),
            study_pk=study.study_pk,
            hospital_id=study.hospital_id,
            priority=study.priority,
            workitem_code=WorkitemCode.INTERPRETATION,
            label=_label(study),
            scheduled_at=now,
            expected_completion_at=due_at,
            amendment=study.amendment,
        )
    session.add(step)
    session.flush()
    audit.append(
        session,
        audit.AuditEvent(
            event_id=audit.EventId.PROCEDURE_RECORD,
            event_type=audit.EventType.ROUTE if is_new else audit.EventType.AMENDED,
            action=audit.Action.CREATE if is_new else audit.Action.UPDATE,
            actor=ACTOR,
            hospital_id=study.hospital_id,
            study_instance_uid=study.study_instance_uid,
            object_id=step.procedure_step_uid,
            detail={"eligible": len(eligible), "refused": len(refused), "amendment": study.amendment},
        ),
        at=now,
    )
    return Routing(step.procedure_step_uid, step.expected_completion_at, eligible, refused, is_new)


def decide_for_all(
    session: Session, law: LawBundle, study: Study, *, now: datetime, keys: KeyStore | None = None
) -> tuple[list[str], dict[str, list[str]]]:
    """(readers who may read the study, reasons for each who may not); each decision is recorded, and stands in routed_reader."""
    readers = session.exec(
        select(Reader)
        .join(Principal, col(Principal.principal_id) == Reader.reader_id)
        .where(Principal.is_active)
        .order_by(col(Reader.reader_id))
    ).all()
    decided = decide_for_readers(session, law, study, readers, now=now, keys=keys)
    assert study.study_pk is not None
    gone = routing_of(session, study.study_pk).keys() - decided_ids(decided)
    forget_routing(session, study.study_pk, sorted(gone))
    record_routing(session, law, study, decided, now=now)
    return eligible_ids(session, study.study_pk), refusals_of(session, study.study_pk)


def decide_for_readers(
    session: Session, law: LawBundle, study: Study, readers: Sequence[Reader], *, now: datetime, keys: KeyStore | None = None
) -> list[tuple[dict[str, Any], Decision]]:
    """(facts, decision) on offering the study to each of `readers`; nothing is recorded. About whom nothing can be decided is left out.

    Raises: IntegrityFailure where that is every one of them: then it is the study.
    """
    try:
        return _decide_together(session, law, study, readers, now, keys)
    except (TemporarilyUnable, Conflict):
        raise
    except Exception:
        if len(readers) < 2:
            raise
    # One reader whose rows contradict each other must not keep the study from all: asked one by one, they alone are left out.
    found: list[tuple[dict[str, Any], Decision]] = []
    for reader in readers:
        with bulkhead("route", principal_id=reader.reader_id, study_instance_uid=study.study_instance_uid):
            found += _decide_together(session, law, study, [reader], now, keys)
    if not found:
        raise IntegrityFailure("nothing can be decided about the study for any reader")
    return found


def _decide_together(
    session: Session, law: LawBundle, study: Study, readers: Sequence[Reader], now: datetime, keys: KeyStore | None
) -> list[tuple[dict[str, Any], Decision]]:
    documents = gather_route_facts(session, study, readers, at=now, keys=keys)
    return list(zip(documents, decide_many(documents, law), strict=True))


def decided_ids(decided: Sequence[tuple[dict[str, Any], Decision]]) -> set[str]:
    """The readers these decisions are about."""
    return {str(facts["reader"]["id"]) for facts, _ in decided}


def record_routing(
    session: Session, law: LawBundle, study: Study, decided: Sequence[tuple[dict[str, Any], Decision]], *, now: datetime
) -> None:
    """The decisions are on record, and are what stands about these readers and this study. Raises: Conflict(CLOCK_BACKWARDS)."""
    keep_routing(session, law, study, decided, at=now)
    record_decisions(session, decided, study_instance_uid=study.study_instance_uid, actor=ACTOR, at=now)


def _turnaround_minutes(session: Session, study: Study) -> int:
    return require_hospital(session, study.hospital_id).turnaround_minutes.get(study.priority, TURNAROUND_MINUTES_DEFAULT)


def _label(study: Study) -> str:
    return " ".join(part for part in (study.modality, study.body_part or "", study.description) if part)[:64]
