"""What people of a hospital decided about pixels that no machine could settle: boxes of one instance, and masks for a device and size.

Invariants
- A review blanks its boxes and lets other unknown text of that instance stay; what is the study's own identity is blanked all the same.
- A mask is the hospital's own: it fires on its instances alone, beside the known masks.
- Boxes are places, never text. Every row is written with its audit entry, in one transaction.

DICOM PS3.15 E.3.1, Clean Pixel Data Option: "human intervention may be required".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Column
from sqlmodel import Field, Session, SQLModel, col, select

from compliance import audit
from compliance.database import UtcDateTime
from compliance.device_masks import Box, DeviceMask, known_masks

BOXES_MAX = 200


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


def masks_of(session: Session, hospital_id: str) -> list[HospitalMask]:
    """The hospital's own masks that are in force, oldest first."""
    query = select(HospitalMask).where(HospitalMask.hospital_id == hospital_id, col(HospitalMask.is_active))
    return list(session.exec(query.order_by(col(HospitalMask.mask_pk))).all())


def record_review(
    session: Session, *, hospital_id: str, received_study_pk: int, instance_pk: int, boxes: Sequence[Box], actor: str, now: datetime
) -> PixelReview:
    """The instance will leave with these boxes blanked, if nothing else speaks against it; audited."""
    row = session.exec(select(PixelReview).where(PixelReview.instance_pk == instance_pk).with_for_update()).first()
    if row is None:
        row = PixelReview(
            hospital_id=hospital_id, received_study_pk=received_study_pk, instance_pk=instance_pk, decided_at=now, decided_by=actor
        )
    row.boxes, row.decided_at, row.decided_by = [list(box) for box in boxes], now, actor
    session.add(row)
    _audit(session, hospital_id, actor, f"received-instance/{instance_pk}", {"boxes": len(boxes)}, now)
    return row


def record_mask(session: Session, *, hospital_id: str, mask: DeviceMask, actor: str, now: datetime) -> HospitalMask:
    """The boxes are blanked in all that this device sends from now on; audited. The same mask twice is one."""
    for standing in masks_of(session, hospital_id):
        if DeviceMask.from_json(standing.mask).to_json() | {"name": ""} == mask.to_json() | {"name": ""}:
            return standing
    row = HospitalMask(hospital_id=hospital_id, mask=mask.to_json(), decided_at=now, decided_by=actor)
    session.add(row)
    session.flush()
    _audit(session, hospital_id, actor, f"hospital-mask/{row.mask_pk}", {"boxes": len(mask.boxes), "mask": mask.name}, now)
    return row


def withdraw_mask(session: Session, *, hospital_id: str, mask_pk: int, actor: str, now: datetime) -> bool:
    """The mask no longer fires; True where it did. What was blanked under it stays blanked. Audited."""
    row = session.get(HospitalMask, mask_pk)
    if row is None or row.hospital_id != hospital_id or not row.is_active:
        return False
    row.is_active = False
    session.add(row)
    _audit(session, hospital_id, actor, f"hospital-mask/{mask_pk}", {"withdrawn": True}, now)
    return True


def _boxes(stored: Sequence[Sequence[int]]) -> list[Box]:
    return [(int(x0), int(y0), int(x1), int(y1)) for x0, y0, x1, y1 in stored]


def _audit(session: Session, hospital_id: str, actor: str, object_id: str, detail: dict[str, Any], now: datetime) -> None:
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
        ),
        at=now,
    )
