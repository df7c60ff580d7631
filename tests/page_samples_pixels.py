"""Sample contexts of the pages about held pixels."""

from __future__ import annotations

from datetime import timedelta

from gateway.web.contexts_pixels import MaskRow, MasksPage, PictureToReview, PixelQueuePage, PixelQueueRow, PixelReviewPage, ProposedBox
from tests.page_samples import NOW, shell


def review(*, is_open: bool = True) -> PixelReviewPage:
    boxes = (
        ProposedBox(field="box-1-0", x=10, y=20, width=120, height=24, why="identifying"),
        ProposedBox(field="box-1-1", x=300, y=200, width=160, height=30, why="text on anatomy"),
    )
    clip = PictureToReview(
        title="Image 1 of 2",
        reason="TEXT_ON_ANATOMY",
        address="/page/frame",
        frame_count=48,
        sampled_frames=(1, 6, 12, 18, 24, 30, 36, 42, 48),
        rows=480,
        columns=640,
        device="GE MEDICAL SYSTEMS LOGIQE9",
        boxes=boxes,
        more_field="more-1",
    )
    still = PictureToReview(
        title="Image 2 of 2",
        reason="OCR_UNAVAILABLE",
        address="/page/frame",
        frame_count=1,
        sampled_frames=(1,),
        rows=480,
        columns=640,
        device="GE MEDICAL SYSTEMS LOGIQE9",
        boxes=(),
        more_field="more-2",
    )
    return PixelReviewPage(
        shell=shell("Text in the image", "hospital_staff", current="/pixel-reviews"),
        quarantine_id="7",
        pictures=(clip, still),
        may_decide=is_open,
        is_partial=True,
        devices=("GE MEDICAL SYSTEMS LOGIQE9 at 640 x 480",),
    )


def queue(*, is_empty: bool = False) -> PixelQueuePage:
    rows = (
        PixelQueueRow("7", 41, NOW - timedelta(hours=26), "26 h 00", 2, True),
        PixelQueueRow("9", 44, NOW - timedelta(minutes=12), "12 min", 1, False),
    )
    return PixelQueuePage(
        shell=shell("Images to look at", "hospital_staff", current="/pixel-reviews"),
        rows=() if is_empty else rows,
        image_count=0 if is_empty else 3,
        oldest="" if is_empty else "26 h 00",
        mask_count=2,
    )


def masks() -> MasksPage:
    in_force = MaskRow(
        mask_key="3",
        device="GE MEDICAL SYSTEMS LOGIQE9",
        kind="Ultrasound Multi-frame",
        size="640 x 480",
        boxes=("0 0 640 40", "12 440 200 470"),
        decided_at=NOW - timedelta(days=3),
        decided_by="K. Brandt",
        why="The console prints the name into the top line.",
        is_active=True,
    )
    withdrawn = MaskRow(
        mask_key="2",
        device="Philips EPIQ 7G",
        kind="Ultrasound",
        size="1024 x 768",
        boxes=("0 0 1024 60",),
        decided_at=NOW - timedelta(days=30),
        decided_by="K. Brandt",
        why="Name in the header line.",
        is_active=False,
        withdrawn_at=NOW - timedelta(days=9),
        withdrawn_by="K. Brandt",
    )
    return MasksPage(shell=shell("Device masks", "hospital_staff", current="/pixel-masks"), rows=(in_force, withdrawn), known_count=57)
