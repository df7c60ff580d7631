"""What the pages about held pixels are given: the queue, the review of one entry, and the hospital's device masks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from gateway.web.contexts import Shell


@dataclass(frozen=True)
class ProposedBox:
    """A place that would be blanked; `field` names its checkbox."""

    field: str
    x: int
    y: int
    width: int
    height: int
    why: str


@dataclass(frozen=True)
class PictureToReview:
    """`address` with "/<frame from 0>.png" is a frame; `sampled_frames` (from 1) are linked where no script runs."""

    title: str
    reason: str
    address: str
    frame_count: int
    sampled_frames: tuple[int, ...]
    rows: int
    columns: int
    device: str
    boxes: tuple[ProposedBox, ...]
    more_field: str


@dataclass(frozen=True)
class PixelReviewPage:
    """pixel_review.html.j2; GET /quarantine/{quarantine_id}/pixels.

    POST the same (form: csrf_token, reason, decision = blank | refuse, always, the boxes' fields, and per picture `more_field`).
    """

    shell: Shell
    quarantine_id: str
    pictures: tuple[PictureToReview, ...]
    may_decide: bool
    is_partial: bool
    #: "Manufacturer Model at columns x rows" of what a mask would be made for; empty where a picture names no device.
    devices: tuple[str, ...]


@dataclass(frozen=True)
class PixelQueueRow:
    quarantine_id: str
    received_study_pk: int
    held_at: datetime
    age: str
    image_count: int
    is_partial: bool


@dataclass(frozen=True)
class PixelQueuePage:
    """pixel_queue.html.j2; GET /pixel-reviews. Oldest first."""

    shell: Shell
    rows: tuple[PixelQueueRow, ...]
    image_count: int
    oldest: str
    mask_count: int


@dataclass(frozen=True)
class MaskRow:
    mask_key: str
    device: str
    kind: str
    size: str
    boxes: tuple[str, ...]
    decided_at: datetime
    decided_by: str
    why: str
    is_active: bool
    withdrawn_at: datetime | None = None
    withdrawn_by: str = ""


@dataclass(frozen=True)
class MasksPage:
    """pixel_masks.html.j2; GET /pixel-masks. POST /pixel-masks/{mask_key}/withdraw (form: csrf_token, reason)."""

    shell: Shell
    rows: tuple[MaskRow, ...]
    known_count: int
