"""Claim, heartbeat, release, expiry: exactly one reader holds a study, under a lease tied to the login.

Invariants
- At most one procedure step of a study is IN PROGRESS, and exactly one reader holds its Transaction UID.
- A claim stands on an ALLOW decided in the same transaction; a refusal is recorded and audited too. What the ALLOW obliges to is kept
  before the claim stands, or it does not stand.
- Whoever has an access that waited too long for its review claims nothing.
- A lease ends at its expiry, at the end of the login, or when the right ends; the step is then canceled with the reason and a successor
  is scheduled with the old deadline (the clock does not start anew because a reader walked away).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlmodel import Session, col, select

from compliance import audit
from compliance.bulkhead import bulkhead
from compliance.counters import lock_counters
from compliance.credential import require_reader
from compliance.database import Database
from compliance.decision import Decision
from compliance.decision_log import decide_and_record, view_right_until
from compliance.emergency_access import EmergencyAccess, append_alert, end_emergency_access
from compliance.facts import gather_facts
from compliance.lawbook import LawBundle
from compliance.obligation import meet_at_disclosure, unmet_for_study
from compliance.principal import LoginSession, Principal, is_live
from compliance.privacy_review import notify_privacy_officer, open_review, require_reviewed
from compliance.study import Study, study_by_pk
from crypto.errors import NotAllowed
from crypto.keys import KeyStore
from worklist.procedure_step import State, require_transition
from worklist.workitem import ProcedureStep, held_steps, is_amended_since_report, locked_step, require_step, transaction_uid_digest

LEASE_MINUTES = 15
#: A reader who holds more than this is harvesting, not reading (threat T9).
OPEN_CLAIMS_MAX = 3


@dataclass(frozen=True)
class Claim:
    procedure_step_uid: str
    transaction_uid: str
    lease_expires_at: datetime
    decision_digest: str
    obligations: list[str]


def claim(
    database: Database,
    law: LawBundle,
    *,
    procedure_step_uid: str,
    reader_id: str,
    login_digest: str,
    transaction_uid: str,
    now: datetime,
    keys: KeyStore | None = None,
    begin_emergency: Callable[[Session, ProcedureStep, Study], EmergencyAccess] | None = None,
) -> Claim:
    """The reader holds the step, and nobody else does.

    `keys` count who is disclosed to whom; without them a rule that asks for a number denies. `begin_emergency` is break_glass.py's: it says
    what was invoked, after its own conditions, and lifts the limit of open claims.

    Raises: NotFound; Conflict (somebody holds it, or it ended); NotAllowed with the first reason of the decision, after it was recorded.
    """
    # A look without the write lock first: of many who want one step, all but the winner leave here.
    with database.reading() as session:
        require_transition(State(require_step(session, procedure_step_uid).state), State.IN_PROGRESS, is_transaction_uid_right=True)
    with database.transaction() as session:
        step = locked_step(session, procedure_step_uid)
        require_transition(State(step.state), State.IN_PROGRESS, is_transaction_uid_right=True)
        # Locked: two claims of one reader at once are counted one after the other.
        login = _live_login(session, login_digest, reader_id, now, is_locked=True)
        require_reviewed(session, reader_id, now=now)
        # Two claims of one reader at once take their turns, so that the second counts the first.
        session.exec(select(Principal.principal_id).where(Principal.principal_id == reader_id).with_for_update()).one()
        if begin_emergency is None and len(held_steps(session, reader_id)) >= OPEN_CLAIMS_MAX:
            raise NotAllowed("TOO_MANY_OPEN_CLAIMS", f"at most {OPEN_CLAIMS_MAX} studies at a time")
        if step.is_addendum and require_step(session, step.predecessor_uid or "").claiming_reader_id != reader_id:
            raise NotAllowed("NOT_YOUR_REPORT", "an addendum is for the reader of the report")
        study = study_by_pk(session, step.study_pk)
        emergency = begin_emergency(session, step, study) if begin_emergency is not None else None
        if keys is not None:
            lock_counters(session, step.hospital_id)
        facts = gather_facts(
            session,
            action="VIEW",
            study=study,
            reader=require_reader(session, reader_id),
            login=login,
            at=now,
            keys=keys,
            emergency=emergency,
        )
        decision = decide_and_record(session, law, facts, study_instance_uid=study.study_instance_uid, actor=reader_id, at=now)
        refusal = _refusal(law, step, study, decision, facts, now)
        counted: list[str] = []
        if refusal is None:
            step.state, step.claiming_reader_id, step.claimed_at = State.IN_PROGRESS, reader_id, now
            step.transaction_uid_digest, step.login_digest = transaction_uid_digest(transaction_uid), login_digest
            step.lease_expires_at = min(filter(None, (now + timedelta(minutes=LEASE_MINUTES), login.expires_at, decision.valid_until)))
            step.obligations = list(decision.obligations)
            session.add(step)
            session.flush()
            counted = meet_at_disclosure(session, decision, facts, study, procedure_step_uid=procedure_step_uid, keys=keys, at=now)
        if emergency is not None:
            _record_emergency(session, emergency, step, decision, refusal, now)
        audit.append(
            session,
            audit.AuditEvent(
                event_id=audit.EventId.ORDER_RECORD,
                event_type=audit.EventType.CLAIM,
                action=audit.Action.UPDATE,
                actor=reader_id,
                outcome=audit.Outcome.SUCCESS if refusal is None else audit.Outcome.SERIOUS_FAILURE,
                hospital_id=step.hospital_id,
                study_instance_uid=study.study_instance_uid,
                object_id=procedure_step_uid,
                decision_digest=decision.digest,
                detail={"refused": refusal.reason_code if refusal else "", "counted": counted},
            ),
            at=now,
        )
    if refusal is not None:
        raise refusal
    assert step.lease_expires_at is not None
    return Claim(procedure_step_uid, transaction_uid, step.lease_expires_at, decision.digest, list(decision.obligations))


def _refusal(
    law: LawBundle, step: ProcedureStep, study: Study, decision: Decision, facts: Mapping[str, Any], now: datetime
) -> NotAllowed | None:
    """Why this decision carries no claim of this step, or None."""
    if decision.outcome != "ALLOW":
        return NotAllowed(next(iter(decision.reasons), "DENIED"), ", ".join(decision.reasons))
    if step.is_final_required and "PRELIMINARY_ONLY" in decision.obligations:
        return NotAllowed("FINAL_READER_REQUIRED", "this step needs a reader who may sign finally")
    unmet = unmet_for_study(decision.obligations, law, study, facts, now)
    return NotAllowed(unmet, "what the law asks in return is not kept here") if unmet is not None else None


def _record_emergency(
    session: Session, emergency: EmergencyAccess, step: ProcedureStep, decision: Decision, refusal: NotAllowed | None, now: datetime
) -> None:
    """The glass is broken, or was not: an alert either way; where it is, a review and a notice whatever the law obliges to."""
    emergency.decision_digest = decision.digest
    if refusal is not None:
        emergency.ended_at, emergency.end_reason = now, f"REFUSED: {refusal.reason_code}"
    session.add(emergency)
    session.flush()
    append_alert(
        session,
        emergency,
        audit.EventType.EMERGENCY_OVERRIDE_STARTED,
        actor=emergency.reader_id,
        detail={"refused": refusal.reason_code if refusal is not None else "", "requested_by": emergency.requested_by},
        now=now,
    )
    about: dict[str, Any] = {
        "hospital_id": emergency.hospital_id,
        "reader_id": emergency.reader_id,
        "study_instance_uid": emergency.study_instance_uid,
        "procedure_step_uid": step.procedure_step_uid,
        "decision_digest": decision.digest,
        "now": now,
    }
    if refusal is None:
        open_review(session, **about)
        notify_privacy_officer(session, **about, subject="BREAK_GLASS")


def require_claim(session: Session, procedure_step_uid: str, reader_id: str, login_digest: str, *, now: datetime) -> ProcedureStep:
    """The step, locked, held by this reader in this login under a running lease. Raises: NotFound, NotAllowed(NOT_YOUR_CLAIM)."""
    step = locked_step(session, procedure_step_uid)
    is_held = (
        step.state == State.IN_PROGRESS
        and step.claiming_reader_id == reader_id
        and step.login_digest == login_digest
        and step.lease_expires_at is not None
        and now < step.lease_expires_at
    )
    if not is_held:
        raise NotAllowed("NOT_YOUR_CLAIM", "the claim ended or belongs to somebody else")
    _live_login(session, login_digest, reader_id, now)
    return step


def heartbeat(database: Database, *, procedure_step_uid: str, reader_id: str, login_digest: str, now: datetime) -> datetime:
    """The lease runs on, at most as long as the last decision on this look holds; its new end. Raises: NotFound, NotAllowed."""
    with database.transaction() as session:
        step = require_claim(session, procedure_step_uid, reader_id, login_digest, now=now)
        login = _live_login(session, login_digest, reader_id, now)
        right_until = view_right_until(session, reader_id, study_by_pk(session, step.study_pk).study_instance_uid)
        step.lease_expires_at = min(filter(None, (now + timedelta(minutes=LEASE_MINUTES), login.expires_at, right_until)))
        session.add(step)
        return step.lease_expires_at


def release(
    database: Database,
    *,
    procedure_step_uid: str,
    reader_id: str,
    login_digest: str,
    now: datetime,
    new_uid: Callable[[], str],
    reason: str = "RELEASED_BY_READER",
) -> str:
    """The reader gives the study back; the UID of the step that is now on the list. Raises: NotFound, NotAllowed."""
    with database.transaction() as session:
        step = require_claim(session, procedure_step_uid, reader_id, login_digest, now=now)
        return end_claim(session, step, actor=reader_id, reason=reason, event_type=audit.EventType.RELEASE, now=now, new_uid=new_uid)


def expire_leases(database: Database, *, now: datetime, new_uid: Callable[[], str]) -> list[str]:
    """Every claim whose lease ran out, or whose login ended, is back on the list; the UIDs of the steps that ended."""
    ended = []
    with database.reading() as session:
        uids = session.exec(
            select(ProcedureStep.procedure_step_uid)
            .where(ProcedureStep.state == State.IN_PROGRESS)
            .order_by(col(ProcedureStep.procedure_step_uid))
        ).all()
    for uid in uids:
        with bulkhead("expire_leases", procedure_step_uid=uid):
            with database.reading() as session:
                if _is_running(session, require_step(session, uid), now):
                    continue
            with database.transaction() as session:
                step = locked_step(session, uid)
                if step.state != State.IN_PROGRESS or _is_running(session, step, now):
                    continue
                end_claim(
                    session,
                    step,
                    actor="readgate/expire",
                    reason="LEASE_EXPIRED",
                    event_type=audit.EventType.LEASE_EXPIRED,
                    now=now,
                    new_uid=new_uid,
                )
            ended.append(uid)
    return ended


def _is_running(session: Session, step: ProcedureStep, now: datetime) -> bool:
    login = session.get(LoginSession, step.login_digest) if step.login_digest else None
    return step.lease_expires_at is not None and now < step.lease_expires_at and login is not None and is_live(login, now)


def end_claim(
    session: Session,
    step: ProcedureStep,
    *,
    actor: str,
    reason: str,
    event_type: audit.EventType,
    now: datetime,
    new_uid: Callable[[], str],
) -> str:
    """`step` is CANCELED with `reason`, and a successor is SCHEDULED with its deadline; the successor's UID. The row is locked already.

    An abandoned addendum has none ("": nobody else waits for it), unless instances came while it was open: those have to be read.
    """
    require_transition(State(step.state), State.CANCELED, is_transaction_uid_right=True)
    step.state, step.ended_at, step.cancellation_reason = State.CANCELED, now, reason
    session.add(step)
    is_waited_for = not step.is_addendum or is_amended_since_report(session, step)
    successor_uid = new_uid() if is_waited_for else ""
    if successor_uid:
        session.add(successor_of(step, successor_uid, now=now))
    session.flush()
    # Of "CODE: what the person wrote" the log, which is never shortened, has the code alone.
    code = reason.partition(": ")[0]
    end_emergency_access(session, step.procedure_step_uid, reason=code, actor=actor, now=now)
    study = study_by_pk(session, step.study_pk)
    audit.append(
        session,
        audit.AuditEvent(
            event_id=audit.EventId.ORDER_RECORD,
            event_type=event_type,
            action=audit.Action.UPDATE,
            actor=actor,
            hospital_id=step.hospital_id,
            study_instance_uid=study.study_instance_uid,
            object_id=step.procedure_step_uid,
            detail={"reason": code, "successor": successor_uid},
        ),
        at=now,
    )
    return successor_uid


def successor_of(step: ProcedureStep, procedure_step_uid: str, *, now: datetime) -> ProcedureStep:
    """A step that carries on the work of `step`: the same study, urgency and deadline."""
    return ProcedureStep(
        procedure_step_uid=procedure_step_uid,
        study_pk=step.study_pk,
        hospital_id=step.hospital_id,
        workitem_code=step.workitem_code,
        priority=step.priority,
        label=step.label,
        scheduled_at=now,
        expected_completion_at=step.expected_completion_at,
        amendment=step.amendment,
        predecessor_uid=step.procedure_step_uid,
        is_final_required=step.is_final_required,
    )


def _live_login(session: Session, login_digest: str, reader_id: str, now: datetime, *, is_locked: bool = False) -> LoginSession:
    login = session.get(LoginSession, login_digest, with_for_update=True if is_locked else None)
    if login is None or login.principal_id != reader_id or not is_live(login, now):
        raise NotAllowed("SESSION_ENDED")
    return login
