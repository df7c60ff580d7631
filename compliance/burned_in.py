"""Whether the pixels of an instance name the patient, and the instance without what does.

Steps of `screen_pixels`
0. the class of risk decides whether the pixels are looked at; sizes are checked before any codec
   (a process with limits is the caller's, see pixel_child)
1. device masks are blanked
2. every look of the frames is read; each text is blanked, left or held by what it is and where it stands
3. overlays (60xx) are read, and removed unless all their text is clinical
4. the blanked instance is decoded and read again: what remains to be read is held

Invariants
- CLEAN returns the very dataset that came in; not a byte of its pixels has been touched.
- HOLD returns the dataset that came in, for a person to look at; nothing of it may leave.
- No result holds recognised text: it would be identity.

DICOM PS3.15 E.3.1, Clean Pixel Data Option.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from compliance.burned_in_text import IdentityForms, TextKind, identity_forms, names_the_study, text_kind
from compliance.device_masks import Box, DeviceMask, known_masks, matching_masks, pixel_risk
from compliance.overlay_planes import clear_embedded_overlays, drop_overlays, overlay_groups, overlay_pictures
from compliance.pixel_frames import PixelShape, blanked, lossy_block_pixels, pixel_shape, put
from compliance.pixel_looks import Grey, Look, Picture, looks_again, looks_of, pictures_of
from compliance.text_detection import DetectedText, TextDetector
from compliance.text_ground import at_edge, in_noise, on_even_ground
from compliance.text_windows import glyph_windows
from crypto.errors import RefusedContent

Outcome = Literal["CLEAN", "CLEANED", "HOLD"]
Act = Literal["KEEP", "BLANK", "HOLD"]

LEGIBLE_SCORE = 0.6
LEGIBLE_SIGNS = 3
NOISE_SCORE = 0.45
SPECKLE_SCORE = 0.65
"""Nine digits were read into a fan with 0.6."""
SURE_SCORE = 0.85
"""Below it a reading on anatomy is looked at again before it holds the instance."""
LOSSY_TOLERANCE = 6.0
"""Levels by which lossy frames differ where nothing changed."""
EXTRA_FRAMES_READ_MAX = 32
"""Frames of a cine, besides the sample, in which something like letters stands that stands in no other: with more it is held."""
_ROUNDS_MAX = 3
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_PROOF_MARGIN_PIXELS = 80
"""A date found beside a name that was not: the proof looks closely at what stands around each box."""
_CLOSE_MARGIN_PIXELS = 24
_END_MARGIN_PIXELS = 20
_ILLEGIBLE_PIXELS_MAX = 48
"""Letters taller than this are read if they are any; bars and discs are not."""
_CLOSE_PIXELS_MAX = 130_000
"""Where the boxes' surroundings are larger, they are read as the frame was: a page of text would take minutes."""


@dataclass(frozen=True)
class ScreenedBox:
    """A place in every frame. `why`: "mask", "reviewed", "identifying", "unknown text" (blanked); "text on anatomy" (proposed)."""

    box: Box
    why: str


@dataclass(frozen=True)
class PixelScreening:
    """`reason` is "" for CLEAN and CLEANED, a constant for HOLD; `risk` names the row of the class of risk, "" where nothing was read."""

    outcome: Outcome
    reason: str
    boxes: tuple[ScreenedBox, ...]
    dataset: Dataset
    risk: str = ""
    pictures_read: int = 0
    masks: tuple[str, ...] = ()
    overlays_removed: int = 0


@dataclass(frozen=True)
class _Reading:
    box: Box
    kind: TextKind
    score: float
    signs: int
    on_anatomy: bool
    frame: int | None = None
    is_own: bool = False
    """Names the study itself, not only what has the shape of a number, a date or a name."""
    in_noise: bool = False

    @property
    def is_legible(self) -> bool:
        return self.score >= LEGIBLE_SCORE and self.signs >= LEGIBLE_SIGNS

    @property
    def is_doubtful(self) -> bool:
        """Would hold the instance or blank a part of it, and was not read well."""
        if self.kind == TextKind.IDENTIFYING:
            return not self.is_own and self.score < LEGIBLE_SCORE
        if self.kind != TextKind.UNKNOWN or self.score >= (SURE_SCORE if self.on_anatomy else LEGIBLE_SCORE):
            return False
        return self.is_legible if self.on_anatomy else self.has_the_shape_of_a_line

    @property
    def has_the_shape_of_a_line(self) -> bool:
        """Text that cannot be read is text all the same where it is long and of several signs; lines of speckle are not."""
        x0, y0, x1, y1 = self.box
        short, long = sorted((x1 - x0, y1 - y0))
        return not self.in_noise and self.signs >= LEGIBLE_SIGNS and long > 2 * short and short <= _ILLEGIBLE_PIXELS_MAX


def screen_pixels(
    dataset: Dataset,
    identity: Sequence[str],
    detector: TextDetector | None,
    *,
    masks: Iterable[DeviceMask] | None = None,
    bytes_max: int | None = None,
    reviewed: Sequence[Box] | None = None,
) -> PixelScreening:
    """The instance is CLEAN (unchanged), CLEANED (blanked, proved by reading it again) or on HOLD.

    `dataset.file_meta.TransferSyntaxUID` must be set; a CLEANED dataset may carry another one. `identity` are the names, numbers, dates and
    places of the study as its header writes them. `masks` default to the known ones; a hospital's own are added by the caller.
    `reviewed` are the boxes a person chose for this very instance: they are blanked, and unknown text beside them stays: it was seen.
    Never raises for bad pixels: they are held.
    """
    has_pixels = any(keyword in dataset for keyword in _PIXELS)
    if not has_pixels and not overlay_groups(dataset):
        return PixelScreening("CLEAN", "", (), dataset)
    matching = matching_masks(dataset, known_masks() if masks is None else masks) if has_pixels else []
    risk = (pixel_risk(dataset, matching) or ("reviewed" if reviewed else None)) if has_pixels else None
    if risk is None and not overlay_groups(dataset):
        return PixelScreening("CLEAN", "", (), dataset)
    try:
        return _screened(dataset, identity_forms(identity), detector, matching if risk else [], risk or "overlay", bytes_max, reviewed)
    except RefusedContent as refused:
        return PixelScreening("HOLD", refused.reason_code, (), dataset, risk or "overlay")


def _screened(
    dataset: Dataset,
    identity: IdentityForms,
    detector: TextDetector | None,
    masks: Sequence[DeviceMask],
    risk: str,
    bytes_max: int | None,
    reviewed: Sequence[Box] | None,
) -> PixelScreening:
    names = tuple(mask.name for mask in masks)
    result, overlays = _without_overlay_text(dataset, identity, detector)
    if risk == "overlay":
        return PixelScreening("CLEANED" if overlays else "CLEAN", "", (), result, "overlay", 0, (), overlays)
    shape = pixel_shape(dataset) if bytes_max is None else pixel_shape(dataset, bytes_max=bytes_max)
    if detector is None:
        return PixelScreening("HOLD", "OCR_UNAVAILABLE", (), dataset, risk, 0, names)
    boxes = [ScreenedBox(cut, "mask") for mask in masks for cut in _cut(mask.boxes, shape)]
    grid = lossy_block_pixels(dataset)
    boxes += [ScreenedBox(cut, "reviewed") for cut in _cut((_on_grid(box, grid) for box in reviewed or ()), shape)]
    # 1. and 2. masks first: what they cover is not read
    tolerance = LOSSY_TOLERANCE if grid else 0.0
    covered = [box.box for box in boxes]
    readings, pictures = _readings(looks_of(result, shape, covered), covered, identity, detector, tolerance=tolerance)
    held = _decide(readings, [], boxes, dataset, shape)
    if held and reviewed is None:
        return PixelScreening("HOLD", "TEXT_ON_ANATOMY", (*boxes, *held), dataset, risk, pictures, names)
    if not boxes:
        outcome: Outcome = "CLEANED" if overlays else "CLEAN"
        return PixelScreening(outcome, "", (), result, risk, pictures, names, overlays)
    # 4. what was blanked is read again where it was seen; a box that was too small grows
    fresh = 0
    seen_in = {0} | {reading.frame for reading in readings if _act(reading, readings) == "BLANK"}
    for _ in range(_ROUNDS_MAX):
        cleaned = blanked(result, shape, [box.box for box in boxes])
        cleaned_shape = pixel_shape(cleaned) if bytes_max is None else pixel_shape(cleaned, bytes_max=bytes_max)
        near = _near(boxes[fresh:], shape)
        closely = int(near.sum()) <= _CLOSE_PIXELS_MAX
        left, more = _readings(_levelled(looks_again(cleaned, cleaned_shape, seen_in), near), [], identity, detector, closely=closely)
        pictures += more
        count = fresh = len(boxes)
        held = _decide(left, readings, boxes, dataset, shape)
        if held and reviewed is None:
            return PixelScreening("HOLD", "TEXT_ON_ANATOMY", (*boxes, *held), dataset, risk, pictures, names)
        if len(boxes) == count:
            _say_so(cleaned, was_lossy=lossy_block_pixels(dataset) > 0)
            return PixelScreening("CLEANED", "", tuple(boxes), cleaned, risk, pictures, names, overlays)
    return PixelScreening("HOLD", "TEXT_REMAINS", tuple(boxes), dataset, risk, pictures, names)


def _readings(
    looks: Iterable[Look],
    covered: Sequence[Box],
    identity: IdentityForms,
    detector: TextDetector,
    *,
    closely: bool = False,
    tolerance: float = 0.0,
) -> tuple[list[_Reading], int]:
    readings: list[_Reading] = []
    before: list[Grey] = []
    settled: list[Box] = []
    extra: set[int | None] = set()
    count = 0
    for look in looks:
        grey = look.grey.copy()
        for x0, y0, x1, y1 in covered:
            grey[y0:y1, x0:x1] = grey.min()
        windows = glyph_windows(grey, before, tolerance=tolerance)
        before.append(grey)
        if not windows:
            continue
        if look.is_extra:
            extra.add(look.frame)
            if len(extra) > EXTRA_FRAMES_READ_MAX:
                raise RefusedContent("TEXT_IN_MANY_FRAMES", "more frames with strokes of their own than are read", tag="(7FE0,0010)")
        pictures = pictures_of(look, grey)
        for picture in pictures:
            count += 1
            for text in detector.read(picture, closely=closely, windows=windows, settled=settled):
                reading = _reading(text, look, grey, identity)
                if reading.is_doubtful and not closely:
                    readings += _read_closely(reading, look, grey, pictures[:2], identity, detector)
                    continue
                readings.append(reading)
                if reading.kind == TextKind.IDENTIFYING and (reading.is_own or reading.score >= LEGIBLE_SCORE):
                    settled.append(_grown(reading.box, 3))
        strokes = [_reading(text, look, grey, identity) for text in detector.read_strokes(grey, windows=windows, settled=settled)]
        # The longest box of a line first: the other readings of the same line add nothing to it.
        for one in sorted(strokes, key=lambda one: -_area(one.box)):
            if _is_sure(one, [*readings, *strokes]) and not _covered(
                one.box, [own.box for own in strokes if own.is_own and own in readings], 0.9
            ):
                readings.append(one)
    return readings, count


def _is_sure(reading: _Reading, others: Sequence[_Reading]) -> bool:
    """Whether a reading of strokes that may be no text is believed: it names the study, or was read well and is no part of what was."""
    if reading.is_own or reading.kind == TextKind.CLINICAL:
        return reading.is_own or reading.score >= SURE_SCORE
    known = [one.box for one in others if one.is_own or (one.kind == TextKind.CLINICAL and one.score >= SURE_SCORE)]
    is_text = reading.kind == TextKind.IDENTIFYING or (reading.kind == TextKind.UNKNOWN and reading.signs > LEGIBLE_SIGNS)
    return is_text and reading.score >= SURE_SCORE and not _covered(reading.box, known, 0.3)


def _reading(text: DetectedText, look: Look, grey: Grey, identity: IdentityForms) -> _Reading:
    box = (text.x0, text.y0, text.x1, text.y1)
    signs = sum(character.isalnum() for character in text.text)
    is_even = on_even_ground(box, grey)
    on_anatomy = not (is_even or at_edge(box, grey))
    kind = text_kind(text.text, identity)
    is_own = kind == TextKind.IDENTIFYING and names_the_study(text.text, identity)
    return _Reading(box, kind, text.score, signs, on_anatomy, look.frame, is_own, not is_even and in_noise(box, grey))


def _read_closely(
    reading: _Reading, look: Look, grey: Grey, pictures: Sequence[Picture], identity: IdentityForms, detector: TextDetector
) -> list[_Reading]:
    """What the place of a doubtful reading says when it is enlarged: crossing vessels are letters once, text is text again."""
    rows, columns = grey.shape
    x0, y0, x1, y1 = _grown(reading.box, _CLOSE_MARGIN_PIXELS)
    window = (max(0, x0), max(0, y0), min(columns, x1), min(rows, y1))
    again = [
        _reading(text, look, grey, identity) for picture in pictures for text in detector.read(picture, closely=True, windows=[window])
    ]
    return [one for one in again if _overlap(one.box, reading.box)]


def _decide(
    readings: Sequence[_Reading], known: Sequence[_Reading], boxes: list[ScreenedBox], dataset: Dataset, shape: PixelShape
) -> list[ScreenedBox]:
    """Adds to `boxes` what is to be blanked and returns what a person has to look at. `known` was read before and decided on."""
    acts = [(reading, _act(reading, (*known, *readings))) for reading in readings]
    grid = lossy_block_pixels(dataset)
    for reading, act in acts:
        if act == "BLANK":
            box = _widened(reading.box, grid, shape)
            if not _covered(box, [known.box for known in boxes], 1.0):
                boxes.append(ScreenedBox(box, "identifying" if reading.kind == TextKind.IDENTIFYING else "unknown text"))
    blanks = [box.box for box in boxes]
    held = [reading.box for reading, act in acts if act == "HOLD" and not _covered(reading.box, blanks, 0.6)]
    return [ScreenedBox(box, "text on anatomy") for box in dict.fromkeys(held)]


def _act(reading: _Reading, readings: Sequence[_Reading]) -> Act:
    if reading.kind == TextKind.IDENTIFYING:
        # Five digits read into noise are no number: read twice, and badly both times, they stay.
        if reading.in_noise:
            return "BLANK" if reading.is_own or reading.score >= SPECKLE_SCORE else "KEEP"
        return "BLANK" if reading.is_own or reading.score >= NOISE_SCORE or not reading.on_anatomy else "KEEP"
    if reading.kind in (TextKind.CLINICAL, TextKind.NOISE):
        return "KEEP"
    # Another look, or a tile that holds the whole line, read the same place well and as clinical: this is its misreading or its fragment.
    better = [other.box for other in readings if other.kind == TextKind.CLINICAL and other.score >= min(reading.score, 0.9)]
    if _covered(reading.box, better, 0.6):
        return "KEEP"
    if not reading.on_anatomy:
        return "BLANK" if reading.is_legible or reading.has_the_shape_of_a_line else "KEEP"
    return "HOLD" if reading.is_legible else "KEEP"


def _near(boxes: Sequence[ScreenedBox], shape: PixelShape) -> NDArray[np.bool_]:
    near = np.zeros((shape.rows, shape.columns), bool)
    margin = _PROOF_MARGIN_PIXELS
    for x0, y0, x1, y1 in (box.box for box in boxes):
        near[max(0, y0 - margin) : y1 + margin, max(0, x0 - margin) : x1 + margin] = True
    return near


def _levelled(looks: Iterable[Look], near: NDArray[np.bool_]) -> Iterator[Look]:
    """The looks, with everything far from the boxes levelled: what is unchanged there has been read before."""
    for look in looks:
        yield replace(look, grey=np.where(near, look.grey, look.grey.min()))


def _widened(box: Box, grid: int, shape: PixelShape) -> Box:
    x0, y0, x1, y1 = box
    # The ends of a line are what a detector loses first: there the margin is the height of the letters.
    height = min(x1 - x0, y1 - y0)
    side, end = 3 + height // 8, max(3 + height // 8, min(height, _END_MARGIN_PIXELS))
    across, down = (end, side) if x1 - x0 >= y1 - y0 else (side, end)
    x0, y0, x1, y1 = x0 - across, y0 - down, x1 + across, y1 + down
    return _cut([_on_grid((x0, y0, x1, y1), grid)], shape)[0]


def _on_grid(box: Box, grid: int) -> Box:
    x0, y0, x1, y1 = box
    return (x0 // grid * grid, y0 // grid * grid, -(-x1 // grid) * grid, -(-y1 // grid) * grid) if grid else box


def _cut(boxes: Iterable[Box], shape: PixelShape) -> list[Box]:
    cut = [(max(0, x0), max(0, y0), min(shape.columns, x1), min(shape.rows, y1)) for x0, y0, x1, y1 in boxes]
    return [box for box in cut if box[0] < box[2] and box[1] < box[3]]


def _grown(box: Box, margin: int) -> Box:
    return box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin


def _area(box: Box) -> int:
    return max(1, (box[2] - box[0]) * (box[3] - box[1]))


def _covered(box: Box, by: Sequence[Box], share: float) -> bool:
    return any(_overlap(box, other) >= share * _area(box) for other in by)


def _overlap(box: Box, other: Box) -> int:
    return max(0, min(box[2], other[2]) - max(box[0], other[0])) * max(0, min(box[3], other[3]) - max(box[1], other[1]))


def _without_overlay_text(dataset: Dataset, identity: IdentityForms, detector: TextDetector | None) -> tuple[Dataset, int]:
    """The dataset without the overlay planes that hold, or could hold, more than clinical text; and their number."""
    dropped = []
    for group, picture in overlay_pictures(dataset):
        texts = None if detector is None or picture is None else detector.read(picture)
        if texts is None or any(text_kind(text.text, identity) > TextKind.CLINICAL for text in texts):
            dropped.append(group)
    embedded = clear_embedded_overlays(dataset)
    result = dataset if embedded is None else embedded
    return (drop_overlays(result, dropped) if dropped else result), len(dropped) + (embedded is not None)


def _say_so(cleaned: Dataset, *, was_lossy: bool) -> None:
    said = "Burned-in text blanked" + ("; decoded from lossy data and written without further loss" if was_lossy else "")
    before = str(cleaned.get("DerivationDescription") or "")
    put(cleaned, "DerivationDescription", f"{before}; {said}"[:1024] if before else said)
    put(cleaned, "BurnedInAnnotation", "NO")
    if was_lossy:
        put(cleaned, "LossyImageCompression", "01")
