"""The letters a PDF's page shows, each at its place, read strictly: what is not understood refuses the document.

Invariants
- Every string shown is read, whatever its colour, clip or rendering mode: invisible text is text.
- Letters that do not stand upright are refused; images and drawings beyond a table's are a person's; nothing else of the page is returned.
ISO 32000-1 8 (graphics), 9.4 (text objects), Annex A (operators).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from pypdf import PageObject, PdfReader
from pypdf.generic import ContentStream, DictionaryObject

from compliance.pdf_drawing import Drawing, Point, drawn
from compliance.pdf_fonts import PageFont, refused
from compliance.pdf_layout import Glyph, PageText, laid_out

_OPERATIONS_MAX = 50_000
_GLYPHS_MAX = 50_000
_FORM_DEPTH_MAX = 8
_SIDE_MIN, _SIDE_MAX, _SIZE_MIN = 36.0, 14_400.0, 0.5
_SLOPE, _SLANT = 0.01, 0.4
#: Operators that change nothing that is read here. Text within marked content's properties is not shown and does not travel.
_UNREAD = frozenset(b"w J j M d ri i CS cs SC SCN G RG K W W* MP DP BMC BDC EMC BX EX Tr n gs".split())
Matrix = tuple[float, float, float, float, float, float]
_SAME: Matrix = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)


def times(a: Matrix, b: Matrix) -> Matrix:
    return (a[0] * b[0] + a[1] * b[2], a[0] * b[1] + a[1] * b[3], a[2] * b[0] + a[3] * b[2], a[2] * b[1] + a[3] * b[3],
            a[4] * b[0] + a[5] * b[2] + b[4], a[4] * b[1] + a[5] * b[3] + b[5])  # fmt: skip


def _placed(x: float, y: float, by: Matrix) -> Point:
    return x * by[0] + y * by[2] + by[4], x * by[1] + y * by[3] + by[5]


@dataclass(slots=True)
class _State:
    """The graphics state that a q keeps and a Q brings back."""

    ctm: Matrix
    font: PageFont | None = None
    size: float = 0.0
    between: float = 0.0
    word: float = 0.0
    scale: float = 1.0
    leading: float = 0.0
    rise: float = 0.0
    is_white: bool = False


@dataclass(slots=True)
class _Path:
    parts: list[list[Point]] = field(default_factory=list)
    is_curved: bool = False


def page_text(page: PageObject, reader: PdfReader) -> PageText:
    """The page as lines of text. Raises: RefusedContent, ENCAPSULATED_IMAGES where a reader would miss what is not text."""
    box, turn = page.cropbox, page.rotation % 360
    x0, y0, x1, y1 = (float(side) for side in (box.left, box.bottom, box.right, box.top))
    width, height = (x1 - x0, y1 - y0) if turn in (0, 180) else (y1 - y0, x1 - x0)
    if not (_SIDE_MIN <= width <= _SIDE_MAX and _SIDE_MIN <= height <= _SIDE_MAX) or float(page.get("/UserUnit", 1)) != 1:
        raise refused("its pages have no size that can be written")
    # As the viewer turns it.
    seen: Matrix = (1, 0, 0, 1, -x0, -y0)
    if turn:
        seen = {90: (0, -1, 1, 0, -y0, x1), 180: (-1, 0, 0, -1, x1, y1), 270: (0, 1, -1, 0, y1, -x0)}[turn]
    resources = page.get("/Resources")
    content = page.get_contents()
    reading = _Reading(reader)
    named = resources.get_object() if resources is not None else DictionaryObject()
    check_resources(named, 0, set())
    if content is not None:
        reading.run(content, named, _State(seen), 0)
    letters = [(glyph.x + glyph.width / 2, glyph.y + glyph.size / 4) for glyph in reading.glyphs if glyph.text.strip()]
    reading.drawing.judge(letters, width, height)
    return laid_out(reading.glyphs, width, height)


def check_resources(resources: Any, depth: int, met: set[int]) -> None:
    """Raises: RefusedContent where a page or its forms name images, patterns, masks or other objects that are not text, drawn or not."""
    if depth > _FORM_DEPTH_MAX:
        raise refused("its forms are nested too deep")
    # Forms that share forms would be met again and again.
    if id(resources) in met:
        return
    met.add(id(resources))
    if any(resources.get(key) for key in ("/Pattern", "/Shading")):
        raise drawn("patterns")
    for state in _group(resources, "/ExtGState").values():
        if "/Font" in state.get_object():
            raise refused("a graphics state of it sets a font")
        if state.get_object().get("/SMask", "/None") != "/None":
            raise drawn("masks")
    for form in _group(resources, "/XObject").values():
        form = form.get_object()
        if form.get("/Subtype") == "/Image":
            raise drawn("images")
        if form.get("/Subtype") != "/Form" or "/OC" in form:
            raise refused("it holds an object that is neither text nor image")
        inner = form.get("/Resources")
        if inner is not None:
            check_resources(inner.get_object(), depth + 1, met)


def _group(resources: Any, key: str) -> Any:
    found = resources.get(key)
    return found.get_object() if found is not None else {}


class _Reading:
    """One page being read, its forms included."""

    def __init__(self, reader: PdfReader) -> None:
        self.glyphs: list[Glyph] = []
        self.drawing = Drawing()
        self._reader = reader
        self._fonts: dict[int, PageFont] = {}
        self._count = 0

    def run(self, stream: Any, resources: Any, state: _State, depth: int) -> None:
        if depth > _FORM_DEPTH_MAX:
            raise refused("its forms are nested too deep")
        content = stream if isinstance(stream, ContentStream) else ContentStream(stream, self._reader, "bytes")
        content.forced_encoding = "bytes"
        kept: list[_State] = []
        path, text = _Path(), _Text()
        for operands, operator in content.operations:
            self._count += 1
            if self._count > _OPERATIONS_MAX:
                raise refused("a page of it is larger than a page may be")
            if operator == b"q":
                kept.append(replace(state))
            elif operator == b"Q":
                if kept:
                    state = kept.pop()
            elif operator == b"cm":
                state.ctm = times(_matrix(operands), state.ctm)
            elif operator == b"Do":
                self._form(resources, operands, state, depth)
            elif operator in _UNREAD:
                if operator == b"n":
                    path = _Path()
            elif operator in (b"g", b"rg", b"k", b"sc", b"scn"):
                state.is_white = _is_white(operator, operands)
            elif operator in _PATH:
                _extend(path, operator, operands, state.ctm)
            elif operator in _PAINT:
                self._paint(path, operator, state)
                path = _Path()
            elif operator == b"Tf":
                state.font, state.size = self._font(resources, operands[0]), float(operands[1])
            elif operator in (b"INLINE IMAGE", b"BI", b"sh"):
                raise drawn("images")
            else:
                for string in text.operation(operator, operands, state):
                    self._show(string, state, text)

    def _form(self, resources: Any, operands: list[Any], state: _State, depth: int) -> None:
        form = _group(resources, "/XObject")[operands[0]].get_object()
        inner = form.get("/Resources")
        matrix = _matrix(form.get("/Matrix", _SAME))
        named = inner.get_object() if inner is not None else resources
        self.run(form, named, replace(state, ctm=times(matrix, state.ctm)), depth + 1)

    def _font(self, resources: Any, name: Any) -> PageFont:
        font = _group(resources, "/Font")[name].get_object()
        if id(font) not in self._fonts:
            self._fonts[id(font)] = PageFont(font)
        return self._fonts[id(font)]

    def _paint(self, path: _Path, operator: bytes, state: _State) -> None:
        if path.is_curved:
            if operator not in _FILL:
                raise drawn("curves")
            if not state.is_white:
                self.drawing.paint_curved(path.parts)
            return
        if operator in (b"s", b"b", b"b*"):
            for part in path.parts:
                part.append(part[0])
        is_filled, is_stroked = operator not in (b"S", b"s"), operator not in _FILL
        self.drawing.paint(path.parts, is_filled=is_filled, is_stroked=is_stroked, is_white=state.is_white)

    def _show(self, string: Any, state: _State, text: _Text) -> None:
        if not isinstance(string, bytes):
            text.shift(-float(string) / 1000 * state.size * state.scale)
            return
        if state.font is None:
            raise refused("it shows letters of no font")
        for code in state.font.codes(bytes(string)):
            by = times((state.size * state.scale, 0, 0, state.size, 0, state.rise), times(text.matrix, state.ctm))
            is_upright = by[0] > 0 and by[3] >= _SIZE_MIN and abs(by[1]) <= _SLOPE * by[0] and abs(by[2]) <= _SLANT * by[3]
            if code.text.strip() and not is_upright:
                raise refused("letters of it are turned, mirrored or too small to be read")
            self.glyphs.append(Glyph(by[4], by[5], code.width * by[0], max(by[3], _SIZE_MIN), code.text))
            if len(self.glyphs) > _GLYPHS_MAX:
                raise refused("a page of it is larger than a page may be")
            text.shift((code.width * state.size + state.between + (state.word if code.is_space else 0)) * state.scale)


class _Text:
    """The text matrices of a text object (ISO 32000-1 9.4)."""

    def __init__(self) -> None:
        self.matrix = self._line = _SAME

    def shift(self, x: float) -> None:
        self.matrix = times((1, 0, 0, 1, x, 0), self.matrix)

    def operation(self, operator: bytes, operands: list[Any], state: _State) -> list[Any]:
        """Takes the operator in; the strings and moves it shows. Raises: RefusedContent on an operator that is none."""
        if operator == b"BT":
            self.matrix = self._line = _SAME
        elif operator == b"Tm":
            self.matrix = self._line = _matrix(operands)
        elif operator in (b"Td", b"TD"):
            if operator == b"TD":
                state.leading = -float(operands[1])
            self._move(float(operands[0]), float(operands[1]))
        elif operator in (b"T*", b"'", b'"'):
            self._move(0, -state.leading)
            if operator == b'"':
                state.word, state.between = float(operands[0]), float(operands[1])
            return list(operands[-1:]) if operator != b"T*" else []
        elif operator == b"Tj":
            return list(operands)
        elif operator == b"TJ":
            return list(operands[0])
        elif operator == b"Tz":
            state.scale = float(operands[0]) / 100
        elif operator in _STATE:
            setattr(state, _STATE[operator], float(operands[0]))
        elif operator != b"ET":
            raise refused("it holds what is no operator of a page")
        return []

    def _move(self, x: float, y: float) -> None:
        self.matrix = self._line = times((1, 0, 0, 1, x, y), self._line)


_STATE = {b"Tc": "between", b"Tw": "word", b"TL": "leading", b"Ts": "rise"}
_PATH = (b"m", b"l", b"c", b"v", b"y", b"h", b"re")
_FILL = (b"f", b"F", b"f*")
_PAINT = (*_FILL, b"S", b"s", b"B", b"B*", b"b", b"b*")


def _matrix(values: Any) -> Matrix:
    a, b, c, d, e, f = (float(value) for value in values)
    return a, b, c, d, e, f


def _is_white(operator: bytes, operands: list[Any]) -> bool:
    values = [float(one) for one in operands]
    if operator == b"k" or len(values) == 4:
        return not any(values)
    return bool(values) and all(value == 1 for value in values)


def _extend(path: _Path, operator: bytes, operands: list[Any], ctm: Matrix) -> None:
    values = [float(one) for one in operands]
    if operator == b"re":
        x, y, wide, high = values
        corners = ((x, y), (x + wide, y), (x + wide, y + high), (x, y + high), (x, y))
        path.parts.append([_placed(*corner, ctm) for corner in corners])
    elif operator == b"m":
        path.parts.append([_placed(values[0], values[1], ctm)])
    elif operator == b"l":
        path.parts[-1].append(_placed(values[0], values[1], ctm))
    elif operator == b"h":
        path.parts[-1].append(path.parts[-1][0])
    else:
        path.is_curved = True
        path.parts[-1] += [_placed(x, y, ctm) for x, y in zip(values[::2], values[1::2], strict=True)]
