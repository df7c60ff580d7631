"""Lines of small letters in noise, by their strokes: where the detector network sees only grain.

On ultrasound speckle and film grain the network takes small letters for more of the grain, although the recogniser reads them without
effort once somebody cuts the line out. So lines are proposed without a network: a line of letters is a band in which strokes of one tone
lie closer together than in the bands above and below it. Whether it is text, the recogniser says.

- Strokes are what lies far from the mean around it, measured in the deviations of the noise there.
- Light and dark letters, 6 to 20 pixels high, along rows and columns; a line ends where no strokes follow within a word's gap.
- Over a band of 4 by 1 heights noise averages out, letters do not. What is as dense as letters but begins only once along the line, an edge
  or a vessel, is none.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compliance.device_masks import Box

Grey = NDArray[np.float32]
Strokes = NDArray[np.float32]

_HEIGHTS = (8, 12, 18)
_RADIUS = 24
_FLAT_PIXELS, _FLAT_SHARE = 11, 0.04
"""Where the picture differs by no more than this share of its span over so many pixels there is no stroke, and no noise to measure."""
_STROKE_PIXELS = 9
_DEVIATION_MIN = 0.004
"""Of the picture's span: below it is the arithmetic's own noise."""
_DEVIATIONS_MAX = 2.5
"""A stroke counts no more than this: one bright grain is no line."""
_STRENGTH_MIN = 0.4
"""Deviations by which a band of letters lies above the bands beside it. The faintest legible name measured reached 0.43."""
_LINES_MAX, _LINES_PER_MEGAPIXEL = 14, 8
_GAP_HEIGHTS = 1.2
_ENDS_AT = (0.35, 0.6)
"""Shares of a band's strength at which it ends: wide, for faint ends of a name, and narrow, for names beside an edge."""
_BEGINNINGS_MIN = 0.4
"""Strokes that begin in one row of the line, on a length of its height."""


@dataclass(frozen=True)
class StrokeLine:
    """Where a line of letters could stand: the same line with its ends cut wide and narrow. `is_vertical`: to be read turned."""

    boxes: tuple[Box, ...]
    is_vertical: bool
    strength: float


@dataclass(frozen=True)
class _Peak:
    strength: float
    index: int
    """Of the map of strokes it stands in."""
    height: int
    row: int
    column: int


def stroke_lines(grey: Grey, windows: Sequence[Box], settled: Sequence[Box] = ()) -> list[StrokeLine]:
    """The likeliest lines whose middle lies in one of `windows` and that do not lie within `settled`, the strongest first."""
    if not windows:
        return []
    x0, y0 = min(box[0] for box in windows), min(box[1] for box in windows)
    x1, y1 = max(box[2] for box in windows), max(box[3] for box in windows)
    wanted = np.zeros((y1 - y0, x1 - x0), bool)
    for box in windows:
        wanted[box[1] - y0 : box[3] - y0, box[0] - x0 : box[2] - x0] = True
    here = [(box[0] - x0, box[1] - y0, box[2] - x0, box[3] - y0) for box in settled]
    count = _LINES_MAX + round(_LINES_PER_MEGAPIXEL * wanted.sum() / 1e6)
    lines = _lines_of(grey[y0:y1, x0:x1], wanted, here, count)
    return [replace(line, boxes=tuple((a + x0, b + y0, c + x0, d + y0) for a, b, c, d in line.boxes)) for line in lines]


def _strokes(grey: Grey) -> list[Strokes]:
    """By how many standard deviations of the noise around it each pixel is lighter (or, below zero, darker) than its surroundings; twice.

    Once against the mean around it, which averages noise out; once against what is left of the picture without anything narrower than a
    stroke, which leaves out soft tissue. Flat ground is zero and counts in no mean, so the edge of a fan is no line.
    """
    cv2: Any = importlib.import_module("cv2")
    span = max(float(grey.max() - grey.min()), 1e-6)
    level = (grey - grey.min()) / span
    flat, stroke = np.ones((_FLAT_PIXELS, _FLAT_PIXELS), np.uint8), np.ones((_STROKE_PIXELS, _STROKE_PIXELS), np.uint8)
    is_flat = cv2.dilate((cv2.dilate(level, flat) - cv2.erode(level, flat) <= _FLAT_SHARE).astype(np.uint8), flat)
    weight = np.asarray(1 - is_flat, np.float32)
    size = (2 * _RADIUS + 1, 2 * _RADIUS + 1)
    share = np.maximum(cv2.boxFilter(weight, -1, size, borderType=cv2.BORDER_REFLECT), 1e-4)

    def against_noise(values: Strokes) -> Strokes:
        mean = cv2.boxFilter(weight * values, -1, size, borderType=cv2.BORDER_REFLECT) / share
        square = cv2.boxFilter(weight * values * values, -1, size, borderType=cv2.BORDER_REFLECT) / share
        return np.asarray(weight * (values - mean) / np.maximum(np.sqrt(np.maximum(square - mean * mean, 0.0)), _DEVIATION_MIN), np.float32)

    light = against_noise(level - cv2.morphologyEx(level, cv2.MORPH_OPEN, stroke))
    dark = against_noise(cv2.morphologyEx(level, cv2.MORPH_CLOSE, stroke) - level)
    return [against_noise(level), np.where(light > dark, np.maximum(light, 0), -np.maximum(dark, 0))]


def _lines_of(grey: Grey, wanted: NDArray[np.bool_], settled: Sequence[Box], count: int) -> list[StrokeLine]:
    maps = [
        np.ascontiguousarray(np.clip(sign * (strokes.T if is_vertical else strokes), 0, _DEVIATIONS_MAX))
        for strokes in _strokes(grey)
        for is_vertical in (False, True)
        for sign in (1, -1)
    ]
    peaks: list[_Peak] = []
    bands: dict[tuple[int, int], Strokes] = {}
    for index, strokes in enumerate(maps):
        is_vertical = index // 2 % 2 == 1
        for height in _HEIGHTS:
            band = bands[index, height] = _bands(strokes, height)
            peaks += _peaks(band, wanted.T if is_vertical else wanted, index, height)
    peaks.sort(key=lambda peak: (-peak.strength, peak.index, peak.height, peak.row, peak.column))
    lines: list[StrokeLine] = []
    taken: list[Box] = []
    for peak in peaks:
        if len(lines) == count:
            break
        strokes, is_vertical = maps[peak.index], peak.index // 2 % 2 == 1
        alike = [bands[index, peak.height] for index in range(len(maps)) if index // 2 % 2 == is_vertical]
        boxes = [_box(peak, alike, strokes, share) for share in _ENDS_AT]
        turned = [(y0, x0, y1, x1) for x0, y0, x1, y1 in boxes] if is_vertical else boxes
        if _share(turned[0], taken) > 0.5 or _share(turned[0], settled) > 0.85 or _beginnings(strokes, boxes[1]) < _BEGINNINGS_MIN:
            continue
        taken.append(turned[1])
        lines.append(StrokeLine(tuple(dict.fromkeys(turned)), is_vertical, peak.strength))
    return lines


def _bands(strokes: Strokes, height: int) -> Strokes:
    """By how much the strokes around each pixel lie above those in the bands beside it."""
    cv2: Any = importlib.import_module("cv2")
    mean = cv2.boxFilter(strokes, -1, (4 * height, height), borderType=cv2.BORDER_REFLECT)
    step = min(round(height * 1.15), mean.shape[0] - 1)
    beside = mean.copy()
    beside[step:] = mean[: mean.shape[0] - step]
    beside[: mean.shape[0] - step] = np.maximum(beside[: mean.shape[0] - step], mean[step:])
    return np.asarray(mean - beside, np.float32)


def _peaks(band: Strokes, wanted: NDArray[np.bool_], index: int, height: int) -> list[_Peak]:
    cv2: Any = importlib.import_module("cv2")
    greatest = cv2.dilate(band, np.ones((height | 1, 2 * height | 1), np.uint8))
    rows, columns = np.nonzero((band >= greatest) & (band > _STRENGTH_MIN) & wanted)
    return [_Peak(float(band[row, column]), index, height, int(row), int(column)) for row, column in zip(rows, columns, strict=True)]


def _box(peak: _Peak, bands: Sequence[Strokes], strokes: Strokes, share: float) -> Box:
    """The line around the peak, in the orientation of `strokes`, with a margin.

    It goes on where any of `bands` does that shows it at its peak: what lies between light letters is dark strokes.
    """
    height = peak.height
    along = np.zeros(strokes.shape[1], bool)
    for band in bands:
        here = band[max(0, peak.row - 1) : peak.row + 2].max(axis=0)
        if here[peak.column] >= _STRENGTH_MIN:
            along |= here > share * here[peak.column]
    begin, end = _run(along, peak.column, round(_GAP_HEIGHTS * height))
    begin, end = max(0, begin - height // 2), min(along.size, end + height // 2)
    top = max(0, peak.row - 2 * height)
    across = strokes[top : peak.row + 2 * height + 1, begin:end].mean(axis=1)
    middle = peak.row - top
    ground = float(np.percentile(across, 30))
    most = float(across[max(0, middle - height // 2) : middle + height // 2 + 1].max())
    first, last = _run(across > ground + 0.35 * (most - ground), middle, 1)
    if not 6 <= last - first + 4 <= 2.6 * height or share != _ENDS_AT[0]:
        first, last = middle - round(0.75 * height) + 2, middle + round(0.75 * height) - 1
    return begin, max(0, top + first - 2), end, min(strokes.shape[0], top + last + 2)


def _run(holds: NDArray[np.bool_], at: int, gap_max: int) -> tuple[int, int]:
    """Begin and end of the run around `at` in which no gap is longer than `gap_max`."""
    inside = np.flatnonzero(holds)
    begin, end = at, at + 1
    for place in inside[inside > at]:
        if place - end > gap_max:
            break
        end = int(place) + 1
    for place in inside[inside < at][::-1]:
        if begin - 1 - place > gap_max:
            break
        begin = int(place)
    return begin, end


def _beginnings(strokes: Strokes, box: Box) -> float:
    x0, y0, x1, y1 = box
    hits = strokes[y0:y1, x0:x1] > 1
    return float((hits[:, 1:] & ~hits[:, :-1]).sum()) / max(1, x1 - x0)


def _share(box: Box, others: Sequence[Box]) -> float:
    """The greatest share of the box that one of the others covers."""
    x0, y0, x1, y1 = box
    area = max(1, (x1 - x0) * (y1 - y0))
    return max((max(0, min(x1, c) - max(x0, a)) * max(0, min(y1, d) - max(y0, b)) / area for a, b, c, d in others), default=0.0)
