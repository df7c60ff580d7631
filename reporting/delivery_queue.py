"""What has to reach a hospital: one row per report and target, queued in the transaction that signed the report."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, Column, UniqueConstraint
from sqlmodel import Field, Session, SQLModel, col, select

from compliance import audit
from compliance.database import UtcDateTime
from compliance.hospital import report_targets
from crypto.errors import Conflict, NotFound
from reporting.report import Report

#: Waiting times between attempts; after the last one a person has to look.
BACKOFF_SECONDS = (5, 15, 60, 300, 900, 3600, 7200, 14400)


class DeliveryState(StrEnum):
    QUEUED = "QUEUED"
    DELIVERED = "DELIVERED"
    #: Given up, visible to a person who can release it again.
    DEAD_LETTER = "DEAD_LETTER"


class Delivery(SQLModel, table=True):
    __tablename__ = "delivery"
    __table_args__ = (UniqueConstraint("report_uid", "target_pk"),)
    delivery_pk: int | None = Field(default=None, primary_key=True)
    report_uid: str = Field(foreign_key="report.report_uid", index=True)
    hospital_id: str = Field(foreign_key="hospital.hospital_id", index=True)
    target_pk: int = Field(foreign_key="report_target.target_pk")
    kind: str
    state: str = Field(default=DeliveryState.QUEUED, index=True)
    attempts: int = 0
    next_attempt_at: datetime = Field(sa_type=UtcDateTime, index=True)
    #: A constant that says why the last attempt failed.
    last_reason: str | None = None
    #: The newest decision on letting it leave, and what that had against it; empty where it may leave.
    decision_digest: str | None = None
    denied_reasons: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    #: What the receiver answered: DIMSE status, or the acknowledgement's code and control id.
    receipt: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    queued_at: datetime = Field(sa_type=UtcDateTime)
    delivered_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


def queue_deliveries(session: Session, report: Report, *, now: datetime) -> int:
    """One delivery per target of the report's hospital is queued; how many."""
    targets = report_targets(session, report.hospital_id)
    for target in targets:
        assert target.target_pk is not None
        session.add(
            Delivery(
                report_uid=report.report_uid,
                hospital_id=report.hospital_id,
                target_pk=target.target_pk,
                kind=target.kind,
                next_attempt_at=now,
                queued_at=now,
            )
        )
    session.flush()
    return len(targets)


def due_deliveries(session: Session, *, now: datetime, limit: int = 100) -> list[int]:
    """Keys of deliveries whose time has come, oldest first."""
    rows = session.exec(
        select(Delivery.delivery_pk)
        .where(Delivery.state == DeliveryState.QUEUED, col(Delivery.next_attempt_at) <= now)
        .order_by(col(Delivery.next_attempt_at))
        .limit(limit)
    ).all()
    return [pk for pk in rows if pk is not None]


def require_delivery(session: Session, delivery_pk: int) -> Delivery:
    """The row, locked. Raises: NotFound."""
    delivery = session.exec(select(Delivery).where(Delivery.delivery_pk == delivery_pk).with_for_update()).first()
    if delivery is None:
        raise NotFound(f"no delivery {delivery_pk}")
    return delivery


def note_failure(session: Session, delivery: Delivery, reason: str, *, is_permanent: bool, now: datetime, error: str = "") -> None:
    """The attempt failed: another one is due later, or the delivery lies in the dead letter; audited either way.

    `error` is the kind (never the text) of an error that nobody expected.
    """
    delivery.attempts += 1
    delivery.last_reason = reason
    if is_permanent or delivery.attempts > len(BACKOFF_SECONDS):
        delivery.state = DeliveryState.DEAD_LETTER
    else:
        delivery.next_attempt_at = now + timedelta(seconds=BACKOFF_SECONDS[delivery.attempts - 1])
    session.add(delivery)
    audit.append(
        session,
        audit.AuditEvent(
            event_id=audit.EventId.EXPORT,
            event_type=audit.EventType.DELIVER,
            action=audit.Action.READ,
            actor="readgate/deliver",
            outcome=audit.Outcome.SERIOUS_FAILURE if delivery.state == DeliveryState.DEAD_LETTER else audit.Outcome.MINOR_FAILURE,
            hospital_id=delivery.hospital_id,
            object_id=delivery.report_uid,
            detail={"kind": delivery.kind, "attempt": delivery.attempts, "reason": reason, "state": delivery.state, "error": error},
        ),
        at=now,
    )


def release_dead_letter(session: Session, delivery_pk: int, *, actor: str, now: datetime) -> Delivery:
    """A person sends it again, from the first attempt. Raises: NotFound, Conflict when it is no dead letter."""
    delivery = require_delivery(session, delivery_pk)
    if delivery.state != DeliveryState.DEAD_LETTER:
        raise Conflict("NOT_A_DEAD_LETTER")
    delivery.state, delivery.attempts, delivery.next_attempt_at = DeliveryState.QUEUED, 0, now
    session.add(delivery)
    audit.append(
        session,
        audit.AuditEvent(
            event_id=audit.EventId.EXPORT,
            event_type=audit.EventType.DELIVER,
            action=audit.Action.UPDATE,
            actor=actor,
            hospital_id=delivery.hospital_id,
            object_id=delivery.report_uid,
            detail={"kind": delivery.kind, "released": True},
        ),
        at=now,
    )
    return delivery


def dead_letters(session: Session, hospital_id: str | None = None) -> list[Delivery]:
    query = select(Delivery).where(Delivery.state == DeliveryState.DEAD_LETTER)
    if hospital_id is not None:
        query = query.where(Delivery.hospital_id == hospital_id)
    return list(session.exec(query.order_by(col(Delivery.queued_at))).all())
