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
from typing import Any

from pydicom import Dataset
from sqlmodel import Session, col, select

from compliance import audit
from compliance.dataset_bytes import elements, encoding_of
from compliance.device_masks import Box, DeviceMask, mask_for_device
from compliance.pixel_child import PixelChild
from compliance.pixel_review import BOXES_MAX, BURNED_IN_TEXT, record_mask, record_review
from compliance.quarantine import QuarantineItem, QuarantineState
from compliance.screened_dataset import screening_dataset
from crypto.errors import BadInput, Conflict, NotFound
from gateway.application import Application
from gateway.login import Visitor
from gateway.processing import original_of, study_key_of
from gateway.quarantine_acts import Said, can_settle, own_item, reject, release_in
from gateway.received import ReceivedInstance, ReceivedStudy, held_by_item, locked_received_study, received_study

_CHARSET = 0x00080005


@dataclass(frozen=True)
class HeldPicture:
    """One held instance as the review shows it; `proposed` are (x0, y0, x1, y1, why)."""

    instance_pk: int
    reason: str
    frames: int
    rows: int
    columns: int
    #: Manufacturer and model, "" where the instance does not say who made it: then no mask can be made of it.
    device: str
    proposed: tuple[tuple[int, int, int, int, str], ...]


@dataclass(frozen=True)
class Waiting:
    """One entry of the queue, oldest first."""

    quarantine_id: str
    received_study_pk: int
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
    return [Waiting(str(item.item_pk), item.received_study_pk, item.held_at, item.instance_count, item.is_partial) for item in found]


def held_pictures(app: Application, staff: Visitor, quarantine_id: str) -> list[HeldPicture]:
    """The instances of an item, to be looked at one by one. Raises: NotFound, for another hospital's item as for none."""
    with app.database.reading() as session:
        item = own_item(session, staff.principal.hospital_id, quarantine_id)
        if item.reason_code != BURNED_IN_TEXT or item.item_pk is None:
            raise NotFound("nothing of it is to be looked at")
        rows = held_by_item(session, item.item_pk)
    return [_picture(_view(app, item.received_study_pk, row), row) for row in rows]


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
    now, hospital_id = app.now(), staff.principal.hospital_id
    with app.database.reading() as session:
        item = own_item(session, hospital_id, quarantine_id)
        _require_open(item, received_study(session, item.received_study_pk))
        standing = held_by_item(session, item.item_pk or 0)
    if set(boxes) != {row.instance_pk for row in standing}:
        raise BadInput("decide about each of the held images")
    # Opened one by one before the transaction, because opening one needs a transaction of its own.
    masks: dict[int, DeviceMask] = {}
    for row in standing:
        assert row.instance_pk is not None
        view = _view(app, item.received_study_pk, row)
        chosen = _checked(boxes[row.instance_pk], view)
        if always and chosen:
            if not _device(view):
                raise BadInput("the image does not name the device that made it, so a mask for the device cannot be made")
            masks[row.instance_pk] = mask_for_device(view, chosen, name=f"{item.hospital_id}/{row.instance_pk}")
    with app.database.transaction() as session:
        item = own_item(session, hospital_id, quarantine_id)
        _require_open(item, locked_received_study(session, item.received_study_pk))
        if set(boxes) != {row.instance_pk for row in held_by_item(session, item.item_pk or 0)}:
            raise Conflict("CHANGED_MEANWHILE", "other images are held now; look at them first")
        said: dict[str, Any] = {"hospital_id": item.hospital_id, "actor": staff.principal_id, "note": note, "now": now}
        for instance_pk, chosen_boxes in boxes.items():
            record_review(session, app.keys, received_study_pk=item.received_study_pk, instance_pk=instance_pk, boxes=chosen_boxes, **said)
            if instance_pk in masks:
                record_mask(session, app.keys, mask=masks[instance_pk], **said)
        release_in(session, app.keys, Said(hospital_id, quarantine_id, staff.principal_id, note, now))


def refuse(app: Application, staff: Visitor, quarantine_id: str, *, note: str) -> None:
    """The item's instances are never read. Raises: NotFound, Conflict."""
    reject(app.database, app.keys, Said(staff.principal.hospital_id, quarantine_id, staff.principal_id, note, app.now()))


def _held(session: Session, staff: Visitor, quarantine_id: str, instance_pk: int) -> tuple[QuarantineItem, ReceivedInstance]:
    item = own_item(session, staff.principal.hospital_id, quarantine_id)
    row = session.get(ReceivedInstance, instance_pk)
    if row is None or item.state != QuarantineState.HELD or row.held_item_pk != item.item_pk:
        raise NotFound("no such held image")
    return item, row


def _require_open(item: QuarantineItem, study: ReceivedStudy) -> None:
    """Raises: Conflict."""
    if not can_settle(item, study):
        raise Conflict("ALREADY_SETTLED", "the study is on its way again")


def _checked(boxes: Sequence[Box], view: Dataset) -> list[Box]:
    """Raises: BadInput for what is no box, or does not lie within the picture."""
    rows, columns = int(view.get("Rows") or 0), int(view.get("Columns") or 0)
    if len(boxes) > BOXES_MAX:
        raise BadInput(f"at most {BOXES_MAX} boxes")
    if any(not (0 <= x0 < x1 <= columns and 0 <= y0 < y1 <= rows) for x0, y0, x1, y1 in boxes):
        raise BadInput(f"a box is left, top, right, bottom in pixels, within {columns} x {rows}")
    return list(boxes)


def _picture(view: Dataset, row: ReceivedInstance) -> HeldPicture:
    return HeldPicture(
        instance_pk=row.instance_pk or 0,
        reason=row.held_detail,
        frames=_frames(view),
        rows=int(view.get("Rows") or 0),
        columns=int(view.get("Columns") or 0),
        device=_device(view),
        proposed=tuple((int(x0), int(y0), int(x1), int(y1), str(why)) for x0, y0, x1, y1, why in row.held_boxes),
    )


def _frames(view: Dataset) -> int:
    try:
        return max(1, int(view.get("NumberOfFrames") or 1))
    except (TypeError, ValueError):
        return 1


def _device(view: Dataset) -> str:
    """Manufacturer and model; "" without a manufacturer, because a mask of size alone would fire on other devices too."""
    manufacturer, model = (str(view.get(keyword) or "").strip() for keyword in ("Manufacturer", "ManufacturerModelName"))
    return f"{manufacturer} {model}".strip() if manufacturer else ""


def _view(app: Application, received_study_pk: int, row: ReceivedInstance) -> Dataset:
    """The top-level elements of the original, parsed lazily; pixels stay bytes."""
    source = original_of(app, study_key_of(app, received_study_pk), row)
    encoding = encoding_of(source.transfer_syntax_uid)
    found = elements(source.payload, 0, len(source.payload), encoding)
    declared = next((source.payload[one.value : one.end] for one in found if one.tag == _CHARSET), b"")
    charset = tuple(part.strip() for part in declared.decode("ascii", "replace").strip("\0 ").split("\\"))
    return screening_dataset(source.payload, found, encoding, source.transfer_syntax_uid, charset)
