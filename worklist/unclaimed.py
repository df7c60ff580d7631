"""Why nobody has claimed this study, in one glance: of every reader, what stops them, and what would let the next one in.

Counts and codes only. Read from what routing decided and from who is busy or blocked now; nothing is decided anew.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlmodel import Session, col, func, select

from compliance.lawbook import LawBundle
from compliance.principal import LoginSession, is_live
from compliance.privacy_review import REVIEW_OVERDUE, overdue_reader_ids
from compliance.rule import Wanted as Need
from worklist.claim import OPEN_CLAIMS_MAX
from worklist.procedure_step import State
from worklist.routed_reader import eligible_ids, refusals_of
from worklist.workitem import ProcedureStep

#: What stops a reader who may read the study.
BUSY = "TOO_MANY_OPEN_CLAIMS"
NOT_LOGGED_IN = "NOT_LOGGED_IN"
#: Reasons that a paper, a credential, a consent or a confirmation takes away. What is prohibited or was refused is none of them.
_CAN_BE_MET = re.compile(
    r"(CRED_[A-Z_]+_(MISSING|EXPIRED|NOT_YET_VALID|SUSPENDED|LAPSED|UNVERIFIED|INCOMPLETE)"
    r"|EVIDENCE_(MISSING|EXPIRED|NOT_YET_VALID|INCOMPLETE)"
    r"|CONSENT_(MISSING|EXPIRED|NOT_YET_GIVEN)|NO_TRANSFER_MECHANISM|RULE_DRAFT)(:.*)?\Z"
)
_NEAREST_MAX = 3


@dataclass(frozen=True)
class Nearest:
    """What would let so many readers in, if all of it were met."""

    reasons: tuple[str, ...]
    readers: int


@dataclass(frozen=True)
class Presence:
    """Who is here, who is full and who is blocked; gathered once for as many studies as are looked at."""

    live: frozenset[str]
    busy: frozenset[str]
    overdue: frozenset[str]

    def obstacle(self, reader_id: str) -> str | None:
        """What keeps a reader who may read from claiming now."""
        if reader_id in self.overdue:
            return REVIEW_OVERDUE
        if reader_id not in self.live:
            return NOT_LOGGED_IN
        return BUSY if reader_id in self.busy else None


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
    #: Those who are stopped, and the fewest things that stand between some of them and the study.
    refused_readers: int = 0
    nearest: tuple[Nearest, ...] = ()

    @property
    def headline(self) -> str:
        """One sentence for the hospital."""
        if self.ready:
            return f"{self.ready} of {self.eligible} eligible readers could claim it now; nobody has yet."
        if self.eligible == 1:
            return "1 eligible reader, who is busy, blocked or away."
        if self.eligible:
            return f"{self.eligible} eligible readers, all of them busy, blocked or away."
        if self.refused_readers:
            return f"No reader may read it: the law stops all {self.refused_readers} who are registered."
        return "No reader is registered."


def gather_presence(session: Session, *, now: datetime) -> Presence:
    logins = session.exec(select(LoginSession).where(col(LoginSession.ended_at).is_(None), col(LoginSession.expires_at) > now)).all()
    held = session.exec(
        select(ProcedureStep.claiming_reader_id)
        .where(ProcedureStep.state == State.IN_PROGRESS)
        .group_by(col(ProcedureStep.claiming_reader_id))
        .having(func.count() >= OPEN_CLAIMS_MAX)
    ).all()
    return Presence(
        live=frozenset(login.principal_id for login in logins if is_live(login, now)),
        busy=frozenset(reader_id for reader_id in held if reader_id is not None),
        overdue=frozenset(overdue_reader_ids(session, now=now)),
    )


def why_unclaimed(session: Session, law: LawBundle, study_pk: int, *, now: datetime) -> Unclaimed | None:
    """Why the study waits; None where it does not wait for a reader."""
    step = session.exec(
        select(ProcedureStep)
        .where(ProcedureStep.study_pk == study_pk, ProcedureStep.state == State.SCHEDULED)
        .order_by(col(ProcedureStep.scheduled_at).desc())
    ).first()
    return why_step_unclaimed(session, law, step, gather_presence(session, now=now)) if step is not None else None


def why_step_unclaimed(session: Session, law: LawBundle, step: ProcedureStep, presence: Presence) -> Unclaimed:
    """`why_unclaimed` of a waiting step."""
    eligible = eligible_ids(session, step.study_pk)
    following = following_reasons(law)
    refused = {reader_id: telling(reasons, following) for reader_id, reasons in refusals_of(session, step.study_pk).items()}
    obstacles = [presence.obstacle(reader_id) for reader_id in eligible]
    stops: Counter[str] = Counter()
    for reasons in refused.values():
        stops.update(set(reasons))
    return Unclaimed(
        procedure_step_uid=step.procedure_step_uid,
        waiting_since=step.scheduled_at,
        due_at=step.expected_completion_at,
        eligible=len(eligible),
        ready=sum(obstacle is None for obstacle in obstacles),
        held_up=dict(sorted(Counter(obstacle for obstacle in obstacles if obstacle is not None).items())),
        refused=dict(sorted(stops.items(), key=lambda item: (-item[1], item[0]))),
        refused_readers=len(refused),
        nearest=nearest_openings(refused.values()),
    )


def following_reasons(law: LawBundle) -> frozenset[str]:
    """Reasons that only say which rule asked for a credential, paper or consent: beside them stands what of it is missing."""

    def is_paper(need: Need) -> bool:
        return need.form in ("credential", "evidence", "consent") or (
            bool(need.groups) and all(is_paper(inner) for group in need.groups for inner in group)
        )

    return frozenset(
        rule.unmet_reason or rule.id for rule in law.rules.values() if rule.kind == "REQUIRE" and all(is_paper(need) for need in rule.needs)
    )


def telling(reasons: Iterable[str], following: Collection[str]) -> list[str]:
    """`reasons` without those that follow from another one of them."""
    listed = list(reasons)
    return [reason for reason in listed if reason not in following] or listed


def nearest_openings(refusals: Iterable[Iterable[str]]) -> tuple[Nearest, ...]:
    """The sets of reasons that all can be met, the smallest first, then those that would let in the most readers."""
    groups: Counter[tuple[str, ...]] = Counter()
    for reasons in refusals:
        together = tuple(sorted(set(reasons)))
        if together and all(_CAN_BE_MET.match(reason) for reason in together):
            groups[together] += 1
    ordered = sorted(groups.items(), key=lambda item: (len(item[0]), -item[1], item[0]))
    return tuple(Nearest(reasons, readers) for reasons, readers in ordered[:_NEAREST_MAX])
