"""What the review of held pixels is given."""

from __future__ import annotations

from dataclasses import dataclass

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
    title: str
    reason: str
    frames: tuple[str, ...]
    """Addresses of the frames that are shown."""
    frame_count: int
    rows: int
    columns: int
    boxes: tuple[ProposedBox, ...]
    more_field: str


@dataclass(frozen=True)
class PixelReviewPage:
    """pixel_review.html.j2; GET /quarantine/{quarantine_id}/pixels.

    POST the same (form: csrf_token, reason, decision = blank | clinical | refuse, the boxes' fields, and per picture `more_field`).
    """

    shell: Shell
    quarantine_id: str
    pictures: tuple[PictureToReview, ...]
    may_decide: bool
