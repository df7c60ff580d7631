"""What routing decided about one study and one reader: a row each, so that a list asks for its own reader's and for nobody else's.

- A row says what came out, for which reasons, under which decision, and until when that stands by the calendar alone: the earliest end of
  what it stands on, beginning of what is on file already, or change of a rule's dates.
- A reader without a row is not eligible: nobody was asked about them yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, Column, Index, delete
from sqlmodel import Field, Session, SQLModel, col, func, select

from compliance.database import UtcDateTime
from compliance.decision import Decision
from compliance.lawbook import LawBundle
from compliance.obligation import unmet_for_study
from compliance.study import Study

ELIGIBLE = "ALLOW"
_PER_QUERY = 500


class RoutedReader(SQLModel, table=True):
    __tablename__ = "routed_reader"
    __table_args__ = (Index("ix_routed_reader_list", "reader_id", "outcome", "study_pk"),)
    study_pk: int = Field(foreign_key="study.study_pk", primary_key=True)
    reader_id: str = Field(foreign_key="reader.reader_id", primary_key=True)
    #: ALLOW, REFER or DENY.
    outcome: str
    #: Empty for ALLOW.
    reasons: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    valid_until: datetime | None = Field(default=None, sa_type=UtcDateTime, index=True)
    decision_digest: str
    decided_at: datetime = Field(sa_type=UtcDateTime)


def outcome_of(law: LawBundle, study: Study, facts: Mapping[str, Any], decision: Decision, at: datetime) -> tuple[str, list[str]]:
    """(what routing makes of `decision`, the reasons): what is allowed in return for what nobody keeps here is not offered."""
    if decision.outcome != ELIGIBLE:
        return decision.outcome, list(decision.reasons)
    unmet = unmet_for_study(decision.obligations, law, study, facts, at)
    return (ELIGIBLE, []) if unmet is None else ("DENY", [unmet])


def keep_routing(
    session: Session, law: LawBundle, study: Study, decided: Sequence[tuple[Mapping[str, Any], Decision]], *, at: datetime
) -> None:
    """These decisions are what stands about their readers and this study."""
    study_pk = study.study_pk
    assert study_pk is not None
    forget_routing(session, study_pk, [str(facts["reader"]["id"]) for facts, _ in decided])
    turn = _next_turn_of_law(law, decided[0][0], at) if decided else None
    outcomes = [outcome_of(law, study, facts, decision, at) for facts, decision in decided]
    session.add_all(
        RoutedReader(
            study_pk=study_pk,
            reader_id=str(facts["reader"]["id"]),
            outcome=outcome,
            reasons=reasons,
            valid_until=min(filter(None, (decision.valid_until, turn, _next_beginning(facts, at))), default=None),
            decision_digest=decision.digest,
            decided_at=at,
        )
        for (facts, decision), (outcome, reasons) in zip(decided, outcomes, strict=True)
    )
    session.flush()


def forget_routing(session: Session, study_pk: int, reader_ids: Sequence[str]) -> None:
    """Nothing stands about these readers and this study."""
    for start in range(0, len(reader_ids), _PER_QUERY):
        some = reader_ids[start : start + _PER_QUERY]
        session.exec(
            delete(RoutedReader)
            .where(col(RoutedReader.study_pk) == study_pk, col(RoutedReader.reader_id).in_(some))
            .execution_options(synchronize_session="fetch")
        )


def routing_of(session: Session, study_pk: int) -> dict[str, RoutedReader]:
    """What stands about every reader who was asked about, by reader."""
    rows = session.exec(select(RoutedReader).where(RoutedReader.study_pk == study_pk).order_by(col(RoutedReader.reader_id))).all()
    return {row.reader_id: row for row in rows}


def eligible_ids(session: Session, study_pk: int) -> list[str]:
    """The readers who may read it."""
    return list(
        session.exec(
            select(RoutedReader.reader_id)
            .where(RoutedReader.study_pk == study_pk, RoutedReader.outcome == ELIGIBLE)
            .order_by(col(RoutedReader.reader_id))
        ).all()
    )


def refusals_of(session: Session, study_pk: int) -> dict[str, list[str]]:
    """The other readers who were asked about, each with the reasons."""
    rows = session.exec(
        select(RoutedReader.reader_id, RoutedReader.reasons)
        .where(RoutedReader.study_pk == study_pk, RoutedReader.outcome != ELIGIBLE)
        .order_by(col(RoutedReader.reader_id))
    ).all()
    return {reader_id: list(reasons) for reader_id, reasons in rows}


def has_eligible(session: Session, study_pk: int) -> bool:
    count = session.exec(
        select(func.count()).select_from(RoutedReader).where(RoutedReader.study_pk == study_pk, RoutedReader.outcome == ELIGIBLE)
    ).one()
    return count > 0


def is_eligible(session: Session, study_pk: int, reader_id: str) -> bool:
    row = session.get(RoutedReader, (study_pk, reader_id))
    return row is not None and row.outcome == ELIGIBLE


def ended_by_the_calendar(session: Session, study_pks: Iterable[int], *, now: datetime) -> dict[int, list[str]]:
    """Of these studies, study -> readers about whom something else may stand by now."""
    wanted, found = sorted(study_pks), dict[int, list[str]]()
    for start in range(0, len(wanted), _PER_QUERY):
        rows = session.exec(
            select(RoutedReader.study_pk, RoutedReader.reader_id).where(
                col(RoutedReader.study_pk).in_(wanted[start : start + _PER_QUERY]), col(RoutedReader.valid_until) <= now
            )
        ).all()
        for study_pk, reader_id in rows:
            found.setdefault(study_pk, []).append(reader_id)
    return found


def _next_turn_of_law(law: LawBundle, facts: Mapping[str, Any], at: datetime) -> datetime | None:
    """When a rule about this origin, or a member of a named set, begins, ends or becomes known."""
    turns = [
        turn for rule in law.rules_for(str(facts["origin"]["jurisdiction"])) for turn in (rule.valid_from, rule.valid_to, rule.known_from)
    ]
    turns += [turn for members in law.sets.values() for member in members for turn in (member.since, member.until)]
    return min((turn for turn in turns if turn is not None and turn > at), default=None)


def _next_beginning(facts: Mapping[str, Any], at: datetime) -> datetime | None:
    """When something that is on file begins to count. (Ends are in the decision's own `valid_until`.)"""
    written = [item.get(name) for item in facts["reader"]["credentials"] for name in ("issued", "psv_at")]
    written += [item.get("issued") for item in facts["evidence"]]
    written.append(facts["consent"].get("given_at"))
    # One form, whole seconds and Z (facts.instant): the order of the texts is that of the instants.
    now = at.strftime("%Y-%m-%dT%H:%M:%SZ")
    first = min((text for text in written if text is not None and text > now), default=None)
    return datetime.fromisoformat(first).astimezone(UTC) if first is not None else None
