"""Held pixels for the hospital's own staff: the frame with the proposed boxes, and what to do with them (pixel_review.py)."""

from __future__ import annotations

import threading
from typing import Annotated

from fastapi import APIRouter, Depends, Response
from fastapi.responses import RedirectResponse

from compliance.device_masks import Box
from compliance.pixel_child import PixelChild
from crypto.errors import BadInput
from gateway.login import Visitor
from gateway.page_shell import shell_of
from gateway.pixel_review import HeldPicture, accept, frame_png, held_pictures, refuse
from gateway.quarantine_acts import can_settle, own_item
from gateway.received import received_study
from gateway.request_context import App, PostedForm, hospital_staff_of, reason_in
from gateway.web.contexts_pixels import PictureToReview, PixelReviewPage, ProposedBox
from gateway.web.rendering import render

router = APIRouter(prefix="/quarantine")
Staff = Annotated[Visitor, Depends(hospital_staff_of)]
#: Frames of a cine that are linked where no script runs; with one, each frame can be chosen.
FRAMES_LINKED_MAX = 9
#: A page asks for several frames at once; more decoders than this would starve the readers of the same machine.
_RENDERING = threading.BoundedSemaphore(2)
_NO_STORE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


@router.get("/{quarantine_id}/pixels")
def show_pixels(app: App, staff: Staff, quarantine_id: str) -> Response:
    pictures = held_pictures(app, staff, quarantine_id)
    with app.database.reading() as session:
        item = own_item(session, staff.principal.hospital_id, quarantine_id)
        may_decide = bool(pictures) and can_settle(item, received_study(session, item.received_study_pk))
    shown = tuple(_shown(quarantine_id, number, picture, len(pictures)) for number, picture in enumerate(pictures, 1))
    devices = dict.fromkeys(f"{one.device} at {one.columns} x {one.rows}" for one in pictures if one.device)
    return render(
        "pixel_review.html.j2",
        PixelReviewPage(
            shell=shell_of(app, staff, "/pixel-reviews", title="Text in the image"),
            quarantine_id=quarantine_id,
            pictures=shown,
            may_decide=may_decide,
            is_partial=item.is_partial,
            devices=tuple(devices) if all(one.device for one in pictures) else (),
        ),
    )


@router.get("/{quarantine_id}/pixels/{instance_pk}/{frame}.png")
def show_frame(app: App, staff: Staff, quarantine_id: str, instance_pk: int, frame: int) -> Response:
    # A child for one frame: what a held instance does to its decoder ends with it.
    with _RENDERING, PixelChild() as child:
        png = frame_png(app, child, staff, quarantine_id, instance_pk, max(0, frame))
    return Response(png, media_type="image/png", headers=_NO_STORE)


@router.post("/{quarantine_id}/pixels")
def decide_pixels(app: App, staff: Staff, form: PostedForm, quarantine_id: str) -> Response:
    note, decision = reason_in(form), form.get("decision", "")
    if decision == "refuse":
        refuse(app, staff, quarantine_id, note=note)
    elif decision == "blank":
        boxes = {picture.instance_pk: _chosen(form, picture) for picture in held_pictures(app, staff, quarantine_id)}
        accept(app, staff, quarantine_id, boxes, note=note, always="always" in form)
    else:
        raise BadInput("choose what to do with the images")
    return RedirectResponse(f"/quarantine/{quarantine_id}", status_code=303)


def _shown(quarantine_id: str, number: int, picture: HeldPicture, count: int) -> PictureToReview:
    spread = min(picture.frames, FRAMES_LINKED_MAX)
    return PictureToReview(
        title=f"Image {number} of {count}",
        reason=picture.reason,
        address=f"/quarantine/{quarantine_id}/pixels/{picture.instance_pk}",
        frame_count=picture.frames,
        sampled_frames=tuple(1 + index * (picture.frames - 1) // max(1, spread - 1) for index in range(spread)),
        rows=picture.rows,
        columns=picture.columns,
        device=picture.device,
        boxes=tuple(
            ProposedBox(_field(picture, index), x0, y0, x1 - x0, y1 - y0, why)
            for index, (x0, y0, x1, y1, why) in enumerate(picture.proposed)
        ),
        more_field=f"more-{picture.instance_pk}",
    )


def _field(picture: HeldPicture, index: int) -> str:
    return f"box-{picture.instance_pk}-{index}"


def _chosen(form: PostedForm, picture: HeldPicture) -> list[Box]:
    """The boxes that stayed ticked and those that were drawn. Raises: BadInput."""
    boxes: list[Box] = [(x0, y0, x1, y1) for index, (x0, y0, x1, y1, _) in enumerate(picture.proposed) if _field(picture, index) in form]
    for line in form.get(f"more-{picture.instance_pk}", "").splitlines():
        numbers = line.replace(",", " ").split()
        if not numbers:
            continue
        if len(numbers) != 4 or not all(number.isascii() and number.isdigit() and len(number) < 6 for number in numbers):
            raise BadInput("a box is four numbers: left top right bottom")
        x0, y0, x1, y1 = map(int, numbers)
        boxes.append((x0, y0, x1, y1))
    return boxes
