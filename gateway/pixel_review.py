"""Burned-in text that no machine could settle, looked at by the hospital's own staff: what is shown, and what they may decide.

Invariants
- Only staff of the hospital that sent an instance see it, and only while it is held; what is shown is identified, so each look at an
  instance is in the audit log before its first byte.
- Pixels are decoded in the pixel child, never in the process that serves pages.
- A decision blanks boxes and sends the instance through de-identification again, with its residual scan; it never waives it.
- Each act is one transaction with its audit entry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pydicom import Dataset
from sqlmodel import Session, col, select

from compliance import audit
from compliance.dataset_bytes import elements, encoding_of
from compliance.device_masks import Box, mask_for_device
from compliance.pixel_child import PixelChild
from compliance.pixel_review import BOXES_MAX, record_mask, record_review
from compliance.quarantine import QuarantineItem, QuarantineState
from compliance.screened_dataset import screening_dataset
from crypto.errors import BadInput, Conflict, NotFound
from gateway.application import Application
from gateway.login import Visitor
from gateway.processing import original_of, study_key_of
from gateway.quarantine_acts import can_settle, own_item, reject, try_again
from gateway.received import ReceivedInstance, held_by_item, received_study

BURNED_IN_TEXT = "BURNED_IN_TEXT"
_CHARSET = 0x00080005


@dataclass(frozen=True)
class HeldPicture:
    """One held instance as the review shows it; `proposed` are (x0, y0, x1, y1, why)."""

    instance_pk: int
    reason: str
    frames: int
    rows: int
    columns: int
    proposed: tuple[tuple[int, int, int, int, str], ...]


@dataclass(frozen=True)
class Waiting:
    """One entry of the queue, oldest first."""

    quarantine_id: str
    held_at: datetime
    instances: int
    is_partial: bool


def waiting_reviews(session: Session, hospital_id: str) -> list[Waiting]:
    """Items with burned-in text that wait for this hospital's staff, oldest first; their number and ages are the queue."""
    found = session.exec(
        select(QuarantineItem)
        .where(
            QuarantineItem.hospital_id == hospital_id,
            QuarantineItem.state == QuarantineState.HELD,
            QuarantineItem.reason_code == BURNED_IN_TEXT,
        )
        .order_by(col(QuarantineItem.held_at))
    ).all()
    return [Waiting(str(item.item_pk), item.held_at, item.instance_count, item.is_partial) for item in found]


def held_pictures(app: Application, staff: Visitor, quarantine_id: str) -> list[HeldPicture]:
    """The instances of an item, to be looked at one by one. Raises: NotFound, for another hospital's item as for none."""
    with app.database.reading() as session:
        item = own_item(session, staff.principal.hospital_id, quarantine_id)
        if item.reason_code != BURNED_IN_TEXT or item.item_pk is None:
            raise NotFound("nothing of it is to be looked at")
        rows = held_by_item(session, item.item_pk)
    pictures = []
    for row in rows:
        dataset = _view(app, item.received_study_pk, row)
        proposed = tuple((int(x0), int(y0), int(x1), int(y1), str(why)) for x0, y0, x1, y1, why in row.held_boxes)
        frames = int(dataset.get("NumberOfFrames") or 1)
        pictures.append(
            HeldPicture(
                row.instance_pk or 0, row.held_detail, frames, int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0), proposed
            )
        )
    return pictures


def frame_png(app: Application, child: PixelChild, staff: Visitor, quarantine_id: str, instance_pk: int, frame: int) -> bytes:
    """The frame (from 0) of a held instance as PNG. Raises: NotFound, RefusedContent where it cannot be decoded."""
    with app.database.transaction() as session:
        item, row = _held(session, staff, quarantine_id, instance_pk)
        audit.append(
            session,
            audit.AuditEvent(
                event_id=audit.EventId.PATIENT_RECORD,
                event_type=audit.EventType.REIDENTIFY,
                action=audit.Action.READ,
                actor=staff.principal_id,
                hospital_id=item.hospital_id,
                object_id=f"received-instance/{instance_pk}",
                detail={"purpose": "pixel review", "opened": 1},
            ),
            at=app.now(),
        )
    return child.render(_view(app, item.received_study_pk, row), frame)


def accept(
    app: Application, staff: Visitor, quarantine_id: str, boxes: Mapping[int, Sequence[Box]], *, note: str, always: bool = False
) -> None:
    """The item's instances are processed again with these boxes blanked, one entry per instance (no box: all of it is clinical).

    With `always`, the boxes of each instance become the hospital's mask for its device and size. Raises: NotFound, Conflict, BadInput.
    """
    now = app.now()
    with app.database.reading() as session:
        item = own_item(session, staff.principal.hospital_id, quarantine_id)
        standing = held_by_item(session, item.item_pk or 0)
    # Opened before the transaction, because opening one needs a transaction of its own.
    views = {row.instance_pk: _view(app, item.received_study_pk, row) for row in standing} if always else {}
    with app.database.transaction() as session:
        item = own_item(session, staff.principal.hospital_id, quarantine_id)
        assert item.item_pk is not None
        if not can_settle(item, received_study(session, item.received_study_pk)):
            raise Conflict("ALREADY_SETTLED", "the study is on its way again")
        rows = {row.instance_pk: row for row in held_by_item(session, item.item_pk)}
        if set(boxes) != set(rows):
            raise BadInput("decide about each of the held images")
        for instance_pk, chosen in boxes.items():
            checked = _checked(chosen)
            record_review(
                session,
                hospital_id=item.hospital_id,
                received_study_pk=item.received_study_pk,
                instance_pk=instance_pk,
                boxes=checked,
                actor=staff.principal_id,
                now=now,
            )
            if checked and instance_pk in views:
                mask = mask_for_device(views[instance_pk], checked, name=f"{item.hospital_id}/{instance_pk}")
                record_mask(session, hospital_id=item.hospital_id, mask=mask, actor=staff.principal_id, now=now)
    # If we crash here the boxes are on record and the item waits as before; accepting again replaces them.
    try_again(
        app.database,
        app.keys,
        hospital_id=staff.principal.hospital_id,
        quarantine_id=quarantine_id,
        actor=staff.principal_id,
        note=note,
        now=now,
    )


def refuse(app: Application, staff: Visitor, quarantine_id: str, *, note: str) -> None:
    """The item's instances are never read. Raises: NotFound, Conflict."""
    reject(
        app.database,
        app.keys,
        hospital_id=staff.principal.hospital_id,
        quarantine_id=quarantine_id,
        actor=staff.principal_id,
        note=note,
        now=app.now(),
    )


def _held(session: Session, staff: Visitor, quarantine_id: str, instance_pk: int) -> tuple[QuarantineItem, ReceivedInstance]:
    item = own_item(session, staff.principal.hospital_id, quarantine_id)
    row = session.get(ReceivedInstance, instance_pk)
    if row is None or item.state != QuarantineState.HELD or row.held_item_pk != item.item_pk:
        raise NotFound("no such held image")
    return item, row


def _checked(boxes: Sequence[Box]) -> list[Box]:
    if len(boxes) > BOXES_MAX or any(not (0 <= x0 < x1 <= 65535 and 0 <= y0 < y1 <= 65535) for x0, y0, x1, y1 in boxes):
        raise BadInput(f"a box is left, top, right, bottom in pixels; at most {BOXES_MAX} of them")
    return list(boxes)


def _view(app: Application, received_study_pk: int, row: ReceivedInstance) -> Dataset:
    """The top-level elements of the original, parsed lazily; pixels stay bytes."""
    source = original_of(app, study_key_of(app, received_study_pk), row)
    encoding = encoding_of(source.transfer_syntax_uid)
    found = elements(source.payload, 0, len(source.payload), encoding)
    declared = next((source.payload[one.value : one.end] for one in found if one.tag == _CHARSET), b"")
    charset = tuple(part.strip() for part in declared.decode("ascii", "replace").strip("\0 ").split("\\"))
    return screening_dataset(source.payload, found, encoding, source.transfer_syntax_uid, charset)
