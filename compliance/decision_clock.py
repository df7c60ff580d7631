"""The instant of the last recorded decision: a clock that stands before it decides nothing, because what has expired would revive.

One row. It is read before a decision and moved forward after the decision's audit entry, so that the log's own order of locks holds.
Processes ask at slightly different instants and wait for each other's locks: a step back of at most `TOLERANCE` is not a clock's fault.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import update
from sqlmodel import Field, Session, SQLModel, col

from compliance import audit
from compliance.database import UtcDateTime
from compliance.decision import refuse_backward_clock

TOLERANCE = timedelta(minutes=2)
_CLOCK_PK = 1


class DecisionClock(SQLModel, table=True):
    __tablename__ = "decision_clock"
    clock_pk: int = Field(primary_key=True)
    decided_at: datetime = Field(sa_type=UtcDateTime)


def require_forward_clock(session: Session, at: datetime) -> None:
    """Returns if `at` is not before the last recorded decision of the deployment.

    Raises:
        Conflict: CLOCK_BACKWARDS.
    """
    clock = session.get(DecisionClock, _CLOCK_PK, populate_existing=True)
    if clock is not None:
        refuse_backward_clock(clock.decided_at - TOLERANCE, at)


def move_clock(session: Session, at: datetime) -> None:
    """The last recorded decision is at least at `at`. Called under the lock of the audit log's head."""
    clock = session.get(DecisionClock, _CLOCK_PK)
    if clock is None:
        session.add(DecisionClock(clock_pk=_CLOCK_PK, decided_at=at))
        session.flush()
    elif clock.decided_at < at:
        session.exec(
            update(DecisionClock)
            .where(col(DecisionClock.clock_pk) == _CLOCK_PK, col(DecisionClock.decided_at) < at)
            .values(decided_at=at)
            .execution_options(synchronize_session="fetch")
        )


def set_clock_back(session: Session, *, reason: str, actor: str, now: datetime) -> None:
    """A person found that the clock had run ahead and is right now: decisions start again from `now`."""
    clock = session.get(DecisionClock, _CLOCK_PK)
    before = clock.decided_at if clock is not None else now
    session.merge(DecisionClock(clock_pk=_CLOCK_PK, decided_at=now))
    session.flush()
    audit.append(
        session,
        audit.AuditEvent(
            event_id=audit.EventId.SECURITY_ALERT,
            event_type=audit.EventType.SECURITY_CONFIGURATION,
            action=audit.Action.UPDATE,
            actor=actor,
            detail={"decision_clock": audit.instant_text(now), "before": audit.instant_text(before), "reason": reason[:500]},
        ),
        at=now,
    )
