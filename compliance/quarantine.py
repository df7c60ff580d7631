"""What cannot be proved clean waits here, sealed, with a reason and a way out; nothing of it is ever shown to a reader."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy import Column, LargeBinary
from sqlmodel import Field, Session, SQLModel, col, select

from compliance import audit
from compliance.database import UtcDateTime
from compliance.sealed_note import open_note, seal_note
from crypto.errors import Conflict, NotFound
from crypto.keys import KeyStore


class QuarantineState(StrEnum):
    HELD = "HELD"
    #: A person decided that it may be tried again (after repair at the hospital, or with another setting).
    RELEASED = "RELEASED"
    REJECTED = "REJECTED"


class QuarantineItem(SQLModel, table=True):
    __tablename__ = "quarantine_item"
    item_pk: int | None = Field(default=None, primary_key=True)
    hospital_id: str = Field(foreign_key="hospital.hospital_id", index=True)
    #: The received study (gateway/received.py) that is held.
    received_study_pk: int = Field(index=True)
    reason_code: str
    #: "(gggg,eeee)" where an element is the reason; never its value.
    element_tag: str | None = None
    detail: str = ""
    instance_count: int
    #: Only these instances are held; the rest of the study went on and says that they are missing.
    is_partial: bool = False
    state: str = QuarantineState.HELD
    held_at: datetime = Field(sa_type=UtcDateTime)
    decided_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    decided_by: str | None = None
    #: Why, in the person's own words: opened by `decision_note`.
    decision_note_sealed: bytes | None = Field(default=None, sa_column=Column(LargeBinary))


def hold(
    session: Session,
    *,
    hospital_id: str,
    received_study_pk: int,
    reason_code: str,
    element_tag: str | None,
    detail: str,
    instance_count: int,
    actor: str,
    now: datetime,
    is_partial: bool = False,
) -> QuarantineItem:
    """The received study, or with `is_partial` these of its instances, are held with their reason; an audit entry says so.

    Holding twice for one reason is one item.
    """
    standing = session.exec(
        select(QuarantineItem).where(
            QuarantineItem.received_study_pk == received_study_pk,
            QuarantineItem.state == QuarantineState.HELD,
            QuarantineItem.reason_code == reason_code,
        )
    ).first()
    if standing is not None:
        standing.instance_count, standing.is_partial = instance_count, is_partial
        session.add(standing)
        return standing
    item = QuarantineItem(
        hospital_id=hospital_id,
        received_study_pk=received_study_pk,
        reason_code=reason_code,
        element_tag=element_tag,
        detail=detail,
        instance_count=instance_count,
        is_partial=is_partial,
        held_at=now,
    )
    session.add(item)
    session.flush()
    audit.append(
        session,
        audit.AuditEvent(
            event_id=audit.EventId.PROCEDURE_RECORD,
            event_type=audit.EventType.QUARANTINE,
            action=audit.Action.CREATE,
            actor=actor,
            outcome=audit.Outcome.MINOR_FAILURE,
            hospital_id=hospital_id,
            object_id=f"quarantine/{item.item_pk}",
            detail={"reason": reason_code, "tag": element_tag or "", "instances": instance_count, "rest_went_on": is_partial},
        ),
        at=now,
    )
    return item


def settle(
    session: Session, keys: KeyStore, item_pk: int, state: QuarantineState, *, actor: str, note: str, now: datetime, repair: str = ""
) -> QuarantineItem:
    """A person released or rejected the held study; their `note` is kept sealed. Raises: NotFound, Conflict when somebody was quicker."""
    item = session.exec(select(QuarantineItem).where(QuarantineItem.item_pk == item_pk).with_for_update()).first()
    if item is None:
        raise NotFound(f"no quarantine item {item_pk}")
    if item.state != QuarantineState.HELD:
        raise Conflict("ALREADY_SETTLED")
    decide_item(item, keys, state, actor=actor, note=note, now=now)
    _record_decision(session, item, repair)
    return item


def _record_decision(session: Session, item: QuarantineItem, how: str) -> None:
    """The decided item and its entry in the log; `how` is a code, and the person's words stay sealed in both."""
    assert item.decided_at is not None and item.decided_by is not None
    session.add(item)
    audit.append(
        session,
        audit.AuditEvent(
            event_id=audit.EventId.PROCEDURE_RECORD,
            event_type=audit.EventType.QUARANTINE,
            action=audit.Action.UPDATE,
            actor=item.decided_by,
            hospital_id=item.hospital_id,
            object_id=_place(item),
            detail={"state": item.state, "how": how},
            sealed_body=item.decision_note_sealed,
        ),
        at=item.decided_at,
    )


def decide_item(item: QuarantineItem, keys: KeyStore, state: QuarantineState, *, actor: str, note: str, now: datetime) -> None:
    """The item carries who decided what, and sealed, why."""
    item.state, item.decided_at, item.decided_by = state, now, actor
    item.decision_note_sealed = seal_note(keys, item.hospital_id, _place(item), note)


def decision_note(item: QuarantineItem, keys: KeyStore) -> str:
    """What the person wrote who decided. Raises: IntegrityFailure."""
    return open_note(keys, item.hospital_id, _place(item), item.decision_note_sealed)


def _place(item: QuarantineItem) -> str:
    return f"quarantine/{item.item_pk}"


def supersede(session: Session, received_study_pk: int, kept: frozenset[int], *, actor: str, now: datetime) -> None:
    """Items of the study other than `kept` are over: what they held was processed again and passed, or is held for another reason."""
    for item in session.exec(
        select(QuarantineItem).where(QuarantineItem.received_study_pk == received_study_pk, QuarantineItem.state == QuarantineState.HELD)
    ).all():
        if item.item_pk is not None and item.item_pk not in kept:
            item.state, item.decided_at, item.decided_by = QuarantineState.RELEASED, now, actor
            _record_decision(session, item, "PROCESSED_AGAIN")


def held_items(session: Session, hospital_id: str | None = None) -> list[QuarantineItem]:
    query = select(QuarantineItem).where(QuarantineItem.state == QuarantineState.HELD)
    if hospital_id is not None:
        query = query.where(QuarantineItem.hospital_id == hospital_id)
    return list(session.exec(query.order_by(col(QuarantineItem.held_at))).all())
