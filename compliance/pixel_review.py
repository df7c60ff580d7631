"""What people of a hospital decided about pixels that no machine could settle: boxes of one instance, and masks for a device and size.

Invariants
- A review blanks its boxes and lets other unknown text of that instance stay; what is the study's own identity is blanked all the same.
- A mask is the hospital's own: it fires on its instances alone, beside the known masks.
- Boxes are places, never text. Every row is written with its audit entry, in one transaction; the entry carries, sealed, why.

DICOM PS3.15 E.3.1, Clean Pixel Data Option: "human intervention may be required".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Column, LargeBinary
from sqlmodel import Field, Session, SQLModel, col, select

from compliance import audit
from compliance.database import UtcDateTime
from compliance.device_masks import Box, DeviceMask, known_masks
from compliance.sealed_note import open_note, seal_note
from crypto.keys import KeyStore

BOXES_MAX = 200
#: The reason of quarantine that a person settles by looking.
BURNED_IN_TEXT = "BURNED_IN_TEXT"


class PixelReview(SQLModel, table=True):
    """The decision about one received instance; a later one replaces it."""

    __tablename__ = "pixel_review"
    review_pk: int | None = Field(default=None, primary_key=True)
    hospital_id: str = Field(foreign_key="hospital.hospital_id", index=True)
    received_study_pk: int = Field(index=True)
    instance_pk: int = Field(unique=True)
    boxes: list[Any] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    decided_at: datetime = Field(sa_type=UtcDateTime)
    decided_by: str


class HospitalMask(SQLModel, table=True):
    """ "Always for this device and size": a device mask of one hospital (device_masks.py DeviceMask)."""

    __tablename__ = "hospital_mask"
    mask_pk: int | None = Field(default=None, primary_key=True)
    hospital_id: str = Field(foreign_key="hospital.hospital_id", index=True)
    mask: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    is_active: bool = True
    decided_at: datetime = Field(sa_type=UtcDateTime)
    decided_by: str
    #: Why, in the person's own words: opened by `mask_note`.
    note_sealed: bytes | None = Field(default=None, sa_column=Column(LargeBinary))
    withdrawn_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    withdrawn_by: str | None = None


@dataclass(frozen=True)
class PixelDecisions:
    """What holds for the instances of one study: the masks, and the reviewed boxes by the key of the received instance."""

    masks: tuple[DeviceMask, ...]
    boxes: Mapping[int, tuple[Box, ...]]


def decisions_for(session: Session, hospital_id: str, received_study_pk: int) -> PixelDecisions:
    """The decisions that the pixel step of this study follows."""
    reviews = session.exec(select(PixelReview).where(PixelReview.received_study_pk == received_study_pk)).all()
    return PixelDecisions(
        (*known_masks(), *(DeviceMask.from_json(row.mask) for row in masks_of(session, hospital_id))),
        {row.instance_pk: tuple(_boxes(row.boxes)) for row in reviews},
    )


def masks_of(session: Session, hospital_id: str, *, withdrawn: bool = False) -> list[HospitalMask]:
    """The hospital's own masks that are in force (or were withdrawn), oldest first."""
    query = select(HospitalMask).where(HospitalMask.hospital_id == hospital_id, col(HospitalMask.is_active).is_(not withdrawn))
    return list(session.exec(query.order_by(col(HospitalMask.mask_pk))).all())


def mask_note(mask: HospitalMask, keys: KeyStore) -> str:
    """What the person wrote who made the mask. Raises: IntegrityFailure."""
    return open_note(keys, mask.hospital_id, _place(mask), mask.note_sealed)


def record_review(
    session: Session,
    keys: KeyStore,
    *,
    hospital_id: str,
    received_study_pk: int,
    instance_pk: int,
    boxes: Sequence[Box],
    actor: str,
    note: str,
    now: datetime,
) -> PixelReview:
    """The instance will leave with these boxes blanked, if nothing else speaks against it; audited."""
    row = session.exec(select(PixelReview).where(PixelReview.instance_pk == instance_pk).with_for_update()).first()
    if row is None:
        row = PixelReview(
            hospital_id=hospital_id, received_study_pk=received_study_pk, instance_pk=instance_pk, decided_at=now, decided_by=actor
        )
    row.boxes, row.decided_at, row.decided_by = [list(box) for box in boxes], now, actor
    session.add(row)
    place = f"received-instance/{instance_pk}"
    _audit(session, hospital_id, actor, place, {"boxes": len(boxes)}, seal_note(keys, hospital_id, place, note), now)
    return row


def record_mask(
    session: Session, keys: KeyStore, *, hospital_id: str, mask: DeviceMask, actor: str, note: str, now: datetime
) -> HospitalMask:
    """The boxes are blanked in all that this device sends from now on; audited. The same mask twice is one."""
    for standing in masks_of(session, hospital_id):
        if DeviceMask.from_json(standing.mask).to_json() | {"name": ""} == mask.to_json() | {"name": ""}:
            return standing
    row = HospitalMask(hospital_id=hospital_id, mask=mask.to_json(), decided_at=now, decided_by=actor)
    session.add(row)
    session.flush()
    row.note_sealed = seal_note(keys, hospital_id, _place(row), note)
    _audit(session, hospital_id, actor, _place(row), {"boxes": len(mask.boxes), "mask": mask.name}, row.note_sealed, now)
    return row


def withdraw_mask(session: Session, keys: KeyStore, *, hospital_id: str, mask_pk: int, actor: str, note: str, now: datetime) -> bool:
    """The mask no longer fires; True where it did. What was blanked under it stays blanked. Audited."""
    row = session.exec(select(HospitalMask).where(HospitalMask.mask_pk == mask_pk).with_for_update()).first()
    if row is None or row.hospital_id != hospital_id or not row.is_active:
        return False
    row.is_active, row.withdrawn_at, row.withdrawn_by = False, now, actor
    session.add(row)
    _audit(session, hospital_id, actor, _place(row), {"withdrawn": True}, seal_note(keys, hospital_id, _place(row), note), now)
    return True


def _place(mask: HospitalMask) -> str:
    return f"hospital-mask/{mask.mask_pk}"


def _boxes(stored: Sequence[Sequence[int]]) -> list[Box]:
    return [(int(x0), int(y0), int(x1), int(y1)) for x0, y0, x1, y1 in stored]


def _audit(
    session: Session, hospital_id: str, actor: str, object_id: str, detail: dict[str, Any], why_sealed: bytes, now: datetime
) -> None:
    audit.append(
        session,
        audit.AuditEvent(
            event_id=audit.EventId.PROCEDURE_RECORD,
            event_type=audit.EventType.QUARANTINE,
            action=audit.Action.UPDATE,
            actor=actor,
            hospital_id=hospital_id,
            object_id=object_id,
            detail=detail,
            sealed_body=why_sealed,
        ),
        at=now,
    )
