"""Every decision that had an effect, kept whole: the canonical record that `readgate replay` reproduces byte for byte."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Column
from sqlmodel import Field, Session, SQLModel, col, select

from compliance import audit
from compliance.database import UtcDateTime
from compliance.decision import Decision, decide
from compliance.decision_clock import move_clock, require_forward_clock
from compliance.lawbook import LawBundle
from crypto.errors import IntegrityFailure, NotFound

_PER_QUERY = 500


class DecisionRow(SQLModel, table=True):
    __tablename__ = "decision"
    #: "sha256:<hex>" of the canonical record.
    digest: str = Field(primary_key=True)
    decided_at: datetime = Field(sa_type=UtcDateTime, index=True)
    action: str
    #: Empty for STORE: a place is decided on, not a reader.
    reader_id: str = Field(index=True)
    hospital_id: str = Field(index=True)
    study_instance_uid: str = Field(index=True)
    outcome: str
    reasons: list[str] = Field(sa_column=Column(JSON, nullable=False))
    obligations: list[str] = Field(sa_column=Column(JSON, nullable=False))
    valid_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    is_alert: bool = False
    #: The canonical JSON of the record with its digest, as text: what `readgate replay` takes.
    document: str


def decide_and_record(
    session: Session, law: LawBundle, facts: dict[str, Any], *, study_instance_uid: str, actor: str, at: datetime
) -> Decision:
    """The decision on `facts`, kept with its record and an audit entry in the caller's transaction, whatever its outcome.

    Raises: Conflict(CLOCK_BACKWARDS) where `at` lies before the last decision on record.
    """
    require_forward_clock(session, at)
    decision = decide(facts, law)
    record_decisions(session, [(facts, decision)], study_instance_uid=study_instance_uid, actor=actor, at=at)
    return decision


def record_decisions(
    session: Session, decided: Sequence[tuple[Mapping[str, Any], Decision]], *, study_instance_uid: str, actor: str, at: datetime
) -> None:
    """Each decision with the facts it was made on is on record, as `decide_and_record` leaves it; the log is written once for all.

    Raises: Conflict(CLOCK_BACKWARDS).
    """
    if not decided:
        return
    require_forward_clock(session, at)
    rows = {decision.digest: _row_of(facts, decision, study_instance_uid, at) for facts, decision in decided}
    # The log before the rows: its lock makes whoever decides on the very same facts at the very same time wait, and find what stands.
    audit.append_many(session, [_event_of(facts, decision, study_instance_uid, actor) for facts, decision in decided], at=at)
    digests = list(rows)
    for start in range(0, len(digests), _PER_QUERY):
        some = digests[start : start + _PER_QUERY]
        for standing in session.exec(select(DecisionRow.digest).where(col(DecisionRow.digest).in_(some))).all():
            del rows[standing]
    session.add_all(rows.values())
    move_clock(session, at)


def _row_of(facts: Mapping[str, Any], decision: Decision, study_instance_uid: str, at: datetime) -> DecisionRow:
    return DecisionRow(
        digest=decision.digest,
        decided_at=at,
        action=facts["action"],
        reader_id=_reader_of(facts),
        hospital_id=facts["origin"]["hospital"],
        study_instance_uid=study_instance_uid,
        outcome=decision.outcome,
        reasons=list(decision.reasons),
        obligations=list(decision.obligations),
        valid_until=decision.valid_until,
        is_alert=decision.alert,
        document=decision.document_bytes().decode(),
    )


def _event_of(facts: Mapping[str, Any], decision: Decision, study_instance_uid: str, actor: str) -> audit.AuditEvent:
    return audit.AuditEvent(
        event_id=audit.EventId.SECURITY_ALERT,
        event_type=audit.EventType.DECIDE,
        action=audit.Action.EXECUTE,
        actor=actor,
        outcome=audit.Outcome.SUCCESS if decision.outcome == "ALLOW" else audit.Outcome.SERIOUS_FAILURE,
        hospital_id=facts["origin"]["hospital"],
        study_instance_uid=study_instance_uid,
        decision_digest=decision.digest,
        detail={
            "action": facts["action"],
            "outcome": decision.outcome,
            "reasons": list(decision.reasons)[:40],
            "reader": _reader_of(facts),
        },
    )


def _reader_of(facts: Mapping[str, Any]) -> str:
    return str(facts["reader"]["id"]) if "reader" in facts else ""


def require_decision(session: Session, digest: str) -> DecisionRow:
    """Raises: NotFound."""
    row = session.get(DecisionRow, digest)
    if row is None:
        raise NotFound("no such decision")
    return row


def view_right_until(session: Session, reader_id: str, study_instance_uid: str) -> datetime | None:
    """Until when the newest ALLOW on this reader's looking at this study holds; None where it names no end."""
    return session.exec(
        select(DecisionRow.valid_until)
        .where(
            DecisionRow.study_instance_uid == study_instance_uid,
            DecisionRow.reader_id == reader_id,
            DecisionRow.action == "VIEW",
            DecisionRow.outcome == "ALLOW",
        )
        .order_by(col(DecisionRow.decided_at).desc())
    ).first()


def require_unchanged(row: DecisionRow) -> dict[str, Any]:
    """The document of the decision, proved by its digest; it says what its row says. Raises: IntegrityFailure."""
    # The digest is over the record's own bytes: they stand in the document but for the digest itself.
    record = row.document.replace(f'"digest":"{row.digest}",', "", 1).encode()
    if f"sha256:{hashlib.sha256(record).hexdigest()}" != row.digest:
        raise IntegrityFailure("the record of a decision does not have its digest")
    document: dict[str, Any] = json.loads(row.document)
    if document["outcome"] != row.outcome:
        raise IntegrityFailure("the record of a decision does not say what its row says")
    return document


def decisions_of_study(session: Session, study_instance_uid: str) -> list[DecisionRow]:
    return list(
        session.exec(
            select(DecisionRow).where(DecisionRow.study_instance_uid == study_instance_uid).order_by(col(DecisionRow.decided_at))
        ).all()
    )
