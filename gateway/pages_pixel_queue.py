"""What waits for the hospital's own eyes, oldest first, and the masks that its staff made of what they saw."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from fastapi.responses import RedirectResponse
from pydicom.uid import UID
from sqlmodel import Session

from compliance.device_masks import known_masks
from compliance.pixel_review import HospitalMask, mask_note, masks_of, withdraw_mask
from compliance.principal import Principal
from crypto.errors import NotFound
from gateway.application import Application
from gateway.login import Visitor
from gateway.page_shell import shell_of
from gateway.pixel_review import waiting_reviews
from gateway.request_context import App, PostedForm, hospital_staff_of, natural_number, reason_in
from gateway.web.contexts_pixels import MaskRow, MasksPage, PixelQueuePage, PixelQueueRow
from gateway.web.rendering import render, time_left

router = APIRouter()
Staff = Annotated[Visitor, Depends(hospital_staff_of)]


@router.get("/pixel-reviews")
def show_queue(app: App, staff: Staff) -> Response:
    now, hospital_id = app.now(), staff.principal.hospital_id or ""
    with app.database.reading() as session:
        waiting = waiting_reviews(session, hospital_id)
        mask_count = len(masks_of(session, hospital_id))
    rows = tuple(
        PixelQueueRow(one.quarantine_id, one.received_study_pk, one.held_at, time_left(now, one.held_at), one.instances, one.is_partial)
        for one in waiting
    )
    shell = shell_of(app, staff, "/pixel-reviews")
    images = sum(row.image_count for row in rows)
    return render("pixel_queue.html.j2", PixelQueuePage(shell, rows, images, rows[0].age if rows else "", mask_count))


@router.get("/pixel-masks")
def show_masks(app: App, staff: Staff) -> Response:
    hospital_id = staff.principal.hospital_id or ""
    with app.database.reading() as session:
        masks = [*masks_of(session, hospital_id), *reversed(masks_of(session, hospital_id, withdrawn=True))]
        rows = tuple(_row(app, session, mask) for mask in masks)
    shell = shell_of(app, staff, "/pixel-masks", title="Device masks")
    return render("pixel_masks.html.j2", MasksPage(shell, rows, len(known_masks())))


@router.post("/pixel-masks/{mask_key}/withdraw")
def withdraw(app: App, staff: Staff, form: PostedForm, mask_key: str) -> Response:
    note, number = reason_in(form), natural_number(mask_key)
    with app.database.transaction() as session:
        if number is None or not withdraw_mask(
            session,
            app.keys,
            hospital_id=staff.principal.hospital_id or "",
            mask_pk=number,
            actor=staff.principal_id,
            note=note,
            now=app.now(),
        ):
            raise NotFound("no such mask is in force")
    return RedirectResponse("/pixel-masks", status_code=303)


def _row(app: Application, session: Session, mask: HospitalMask) -> MaskRow:
    where = {str(one["attribute"]): str(one["equals"][0]) for one in mask.mask["where"]}
    boxes: list[Any] = mask.mask["boxes"]
    return MaskRow(
        mask_key=str(mask.mask_pk),
        device=" ".join(filter(None, (where.get("Manufacturer"), where.get("ManufacturerModelName")))) or "Any device",
        kind=UID(where.get("SOPClassUID", "")).name.removesuffix(" Storage").removesuffix(" Image"),
        size=f"{where.get('Columns', '?')} x {where.get('Rows', '?')}",
        boxes=tuple(" ".join(map(str, box)) for box in boxes),
        decided_at=mask.decided_at,
        decided_by=_name(session, mask.decided_by),
        why=mask_note(mask, app.keys),
        is_active=mask.is_active,
        withdrawn_at=mask.withdrawn_at,
        withdrawn_by=_name(session, mask.withdrawn_by or ""),
    )


def _name(session: Session, principal_id: str) -> str:
    person = session.get(Principal, principal_id)
    return person.display_name if person is not None else principal_id
