"""Why nobody has claimed this study, in one glance: of every reader, what stops them.

Counts and codes only. Read from what routing decided and from who is busy or blocked now; nothing is decided anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlmodel import Session, col, select

from compliance.principal import LoginSession, is_live
from compliance.privacy_review import REVIEW_OVERDUE, overdue_review
from worklist.claim import OPEN_CLAIMS_MAX
from worklist.procedure_step import State
from worklist.routed_reader import eligible_ids, refusals_of
from worklist.workitem import ProcedureStep, held_steps

#: What stops a reader who may read the study.
BUSY = "TOO_MANY_OPEN_CLAIMS"
NOT_LOGGED_IN = "NOT_LOGGED_IN"


@dataclass(frozen=True)
class Unclaimed:
    """The readers of one waiting study, counted."""

    procedure_step_uid: str
    #: Since when it waits, and when it is due.
    waiting_since: datetime
    due_at: datetime
    #: Readers the law lets read it, and of them those who could claim it this moment.
    eligible: int
    ready: int
    #: What keeps the other eligible ones: code -> readers.
    held_up: Mapping[str, int]
    #: What stops everybody else: reason of the decision -> readers it stops, the commonest first.
    refused: Mapping[str, int]

    @property
    def headline(self) -> str:
        """One sentence for the hospital."""
        if self.ready:
            return f"{self.ready} of {self.eligible} eligible readers could claim it now; nobody has yet."
        if self.eligible:
            return f"{self.eligible} eligible readers, all of them busy, blocked or away."
        if self.refused:
            reason, count = next(iter(self.refused.items()))
            return f"No reader may read it; the commonest reason, {reason}, stops {count}."
        return "No reader is registered."


def why_unclaimed(session: Session, study_pk: int, *, now: datetime) -> Unclaimed | None:
    """Why the study waits; None where it does not wait for a reader."""
    step = session.exec(
        select(ProcedureStep)
        .where(ProcedureStep.study_pk == study_pk, ProcedureStep.state == State.SCHEDULED)
        .order_by(col(ProcedureStep.scheduled_at).desc())
    ).first()
    if step is None:
        return None
    eligible = eligible_ids(session, step.study_pk)
    obstacles = {reader_id: _obstacle(session, reader_id, now) for reader_id in eligible}
    stops: Counter[str] = Counter()
    for reasons in refusals_of(session, step.study_pk).values():
        stops.update(set(reasons))
    return Unclaimed(
        procedure_step_uid=step.procedure_step_uid,
        waiting_since=step.scheduled_at,
        due_at=step.expected_completion_at,
        eligible=len(eligible),
        ready=sum(obstacle is None for obstacle in obstacles.values()),
        held_up=dict(sorted(Counter(obstacle for obstacle in obstacles.values() if obstacle is not None).items())),
        refused=dict(sorted(stops.items(), key=lambda item: (-item[1], item[0]))),
    )


def _obstacle(session: Session, reader_id: str, now: datetime) -> str | None:
    if overdue_review(session, reader_id, now=now) is not None:
        return REVIEW_OVERDUE
    logins = session.exec(select(LoginSession).where(LoginSession.principal_id == reader_id, col(LoginSession.ended_at).is_(None))).all()
    if not any(is_live(login, now) for login in logins):
        return NOT_LOGGED_IN
    return BUSY if len(held_steps(session, reader_id)) >= OPEN_CLAIMS_MAX else None
