"""What a page draws beside its letters: the rules, frames and backgrounds of a table, or something that a person has to look at.

Drawings never travel (pdf_writing.py); this only tells whether a reader would miss one: a picture, a chart, a signature, a bar code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from compliance.pdf_fonts import refused

Point = tuple[float, float]
#: Points. A rule is thin and longer than a mark; what is smaller both ways could be a part of a letter or of a code.
_THIN, _MARK = 3.0, 6.0
_STRAIGHT = 0.05
#: Rules of a table are apart; bars of a code stand close together.
_CLOSE, _CLOSE_MAX = 4.0, 12
_PIECES_MAX = 3_000
#: Bullets of a list are round, small, and apart.
_BULLET, _BULLETS_APART = 6.0, 9.0


@dataclass(slots=True)
class Drawing:
    """The painted pieces of one page, boxes in points."""

    boxes: list[tuple[float, float, float, float, bool]] = field(default_factory=list)
    bullets: list[Point] = field(default_factory=list)

    def paint(self, parts: list[list[Point]], *, is_filled: bool, is_stroked: bool, is_white: bool) -> None:
        """Takes the path's straight parts. Raises: RefusedContent where they are not rules, frames or backgrounds."""
        for part in parts:
            steps = list(pairwise(part))
            if any(abs(a[0] - b[0]) > _STRAIGHT and abs(a[1] - b[1]) > _STRAIGHT for a, b in steps):
                raise drawn("slanted lines")
            if is_stroked:
                for one in steps:
                    self._add(list(one), False)
            if is_filled and not is_white:
                if len(part) > 5:
                    raise drawn("shapes")
                self._add(part, True)

    def paint_curved(self, parts: list[list[Point]]) -> None:
        """Takes a filled path with curves. Raises: RefusedContent unless it is the bullet of a list, apart from others."""
        points = [point for part in parts for point in part]
        (left, right), (low, high) = ((min(side), max(side)) for side in zip(*points, strict=True))
        if len(parts) > 1 or right - left > _BULLET or high - low > _BULLET:
            raise drawn("curves")
        if (
            any(abs(left - x) < _BULLETS_APART and abs(low - y) < _BULLETS_APART for x, y in self.bullets)
            or len(self.bullets) > _CLOSE_MAX * 4
        ):
            raise drawn("marks")
        self.bullets.append((left, low))

    def _add(self, points: list[Point], is_filled: bool) -> None:
        xs, ys = [point[0] for point in points], [point[1] for point in points]
        wide, high = max(xs) - min(xs), max(ys) - min(ys)
        if max(wide, high) <= _STRAIGHT:
            return
        if len(self.boxes) >= _PIECES_MAX or max(wide, high) < _MARK or _THIN < min(wide, high) < _MARK:
            raise drawn("marks")
        self.boxes.append((min(xs), min(ys), max(xs), max(ys), is_filled))

    def judge(self, letters: list[Point], width: float, height: float) -> None:
        """Raises: RefusedContent where bars stand close together, or a coloured box holds no letter."""
        for axis in (0, 1):
            thin = [box for box in self.boxes if box[axis + 2] - box[axis] <= _THIN]
            places = sorted({round(box[axis] * 2) / 2 for box in thin})
            if sum(0.5 < after - before < _CLOSE for before, after in pairwise(places)) > _CLOSE_MAX:
                raise drawn("bars")
        for left, low, right, high, is_filled in self.boxes:
            is_background = right - left >= 0.9 * width and high - low >= 0.9 * height
            is_coloured = is_filled and min(right - left, high - low) > _THIN and not is_background
            if is_coloured and not any(left <= x <= right and low <= y <= high for x, y in letters):
                raise drawn("shapes")


def drawn(what: str) -> Exception:
    return refused(f"it holds {what}: a person has to look at them", "ENCAPSULATED_IMAGES")
