"""Letters at their places on a page, made lines of text whose columns stand below each other as they stood.

Invariant: every letter given stands in the lines exactly once, but for one drawn twice at the same place (a bold face made by hand).
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from statistics import median

from compliance.pdf_fonts import refused, writable

#: Gaps in parts of the letter's size: a blank between words; a step to another column.
_BLANK, _BLANK_WITH_SPACE, _COLUMN, _COLUMN_WITH_SPACE = 0.15, 0.05, 0.5, 1.2
#: Columns of a page in parts of its usual letter: narrower, so that a cell of wide letters does not push the next.
_STEP = 0.85
_LINE_COLUMNS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Glyph:
    """Letters shown together; `x`, `y` of their origin, `width`, `size`: points of the page as it is seen, from its lower left corner."""

    x: float
    y: float
    width: float
    size: float
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """One line of text; blanks keep its columns. `y` of its baseline in points from the lower edge."""

    y: float
    text: str


@dataclass(frozen=True, slots=True)
class PageText:
    """A page as text: its size, `left` edge of the text and letter `size` in points, lines from above to below, letters as drawn."""

    width: float
    height: float
    left: float
    size: float
    lines: tuple[Line, ...]
    drawn: str


def laid_out(glyphs: list[Glyph], width: float, height: float) -> PageText:
    """The lines of a page. Raises: RefusedContent where letters stand on each other: nobody could say what is read there."""
    shown = [glyph for glyph in glyphs if glyph.text.strip()]
    if not shown:
        return PageText(width, height, 0, 10, (), "")
    left = min(glyph.x for glyph in shown)
    step = max(_STEP * median(glyph.width / len(glyph.text) for glyph in shown), 0.2 * median(glyph.size for glyph in shown), 0.5)
    rows: list[list[Glyph]] = []
    for glyph in sorted(glyphs, key=lambda one: (-one.y, one.x)):
        first = rows[-1][0] if rows else None
        if first is not None and first.y - glyph.y <= 0.5 * min(first.size, glyph.size):
            rows[-1].append(glyph)
        elif glyph.text.strip():
            rows.append([glyph])
    lines = tuple(Line(median(glyph.y for glyph in row), _line(row, left, step)) for row in rows)
    return PageText(width, height, left, median(glyph.size for glyph in shown), lines, "".join(glyph.text for glyph in glyphs))


def _line(row: list[Glyph], left: float, step: float) -> str:
    text, last, after_space = "", None, False
    recent: list[Glyph] = []
    for glyph in sorted(row, key=lambda one: one.x):
        if not glyph.text.strip():
            after_space = True
            continue
        recent = [one for one in recent[-8:] if glyph.x - one.x < 0.15 * glyph.size]
        if any(one.text == glyph.text and abs(one.y - glyph.y) < 0.15 * glyph.size for one in recent):
            continue
        is_mark = bool(unicodedata.combining(glyph.text[0]))
        if last is not None and not is_mark and glyph.x < last.x + 0.4 * last.width:
            raise refused("letters of it stand on each other")
        if last is None:
            text = " " * min(round((glyph.x - left) / step), _LINE_COLUMNS_MAX)
        else:
            gap = (glyph.x - last.x - last.width) / max(glyph.size, 0.1)
            if gap >= (_COLUMN_WITH_SPACE if after_space else _COLUMN):
                text += " " * min(max(round((glyph.x - left) / step) - len(text), 2), _LINE_COLUMNS_MAX)
            elif gap > (_BLANK_WITH_SPACE if after_space else _BLANK):
                text += " "
        text += glyph.text
        if not is_mark:
            last = glyph
        recent.append(glyph)
        after_space = False
    text = unicodedata.normalize("NFC", text)
    if any(map(unicodedata.combining, text)):
        raise refused("it holds letters that cannot be written again")
    return writable(text)
