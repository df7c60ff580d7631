"""A PDF of text alone, written byte by byte: no object of another file can be in it.

Invariants
- The file holds a catalogue, one page tree, one standard font (Courier, WinAnsi) and per page one stream, not compressed: whoever scans
  the bytes scans the words. No metadata, no identifier, no day; the same text gives the same bytes.
- `read_back` reads it by other code than wrote it, and raises unless the words are those that were meant.
ISO 32000-1 7.5 (structure), 9.6.2.2 (standard fonts).
"""

from __future__ import annotations

import io
import re
from typing import Any

from pypdf import PdfReader
from pypdf.generic import ContentStream

from compliance.pdf_fonts import refused
from compliance.pdf_layout import PageText

_ADVANCE, _LEADING = 0.6, 1.15
_SIZE_MIN, _SIZE_MAX, _MARGIN = 3.0, 12.0, 12.0
_ESCAPED = re.compile(rb"([\\()])")
_FIXED_OBJECTS = 3


def written_pdf(pages: list[PageText]) -> bytes:
    """The pages, each of its size. Raises: RefusedContent where a page's text cannot be set in letters that can be read."""
    kids = b" ".join(b"%d 0 R" % (_FIXED_OBJECTS + 1 + 2 * index) for index in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(pages)),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Courier /Encoding /WinAnsiEncoding >>",
    ]
    for page in pages:
        box = b"[0 0 %s %s]" % (_number(page.width), _number(page.height))
        content = _content(page)
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox %s /Resources << /Font << /F 3 0 R >> >> /Contents %d 0 R >>" % (box, len(objects) + 2)
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
    out, places = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n"), []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    out += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, table)
    return bytes(out)


def read_back(made: bytes, pages: list[PageText]) -> list[str]:
    """The text of each page of `made` as a reader extracts it. Raises: RefusedContent unless it is that of `pages` and nothing more."""
    reader = PdfReader(io.BytesIO(made), strict=True)
    trailer: Any = reader.trailer
    if set(trailer) != {"/Size", "/Root"} or int(trailer["/Size"]) != _FIXED_OBJECTS + 1 + 2 * len(pages) or b"/Filter" in made:
        raise refused("what was written holds more than was meant")
    if set(trailer["/Root"]) != {"/Type", "/Pages"} or len(reader.pages) != len(pages):
        raise refused("what was written holds more than was meant")
    texts = []
    for page, meant in zip(reader.pages, pages, strict=True):
        if set(page) != {"/Type", "/Parent", "/MediaBox", "/Resources", "/Contents"} or set(page["/Resources"]) != {"/Font"}:  # type: ignore[call-overload]
            raise refused("what was written holds more than was meant")
        operations = ContentStream(page["/Contents"], reader, "bytes").operations
        if any(operator not in (b"BT", b"ET", b"Tf", b"Tm", b"Tj") for _, operator in operations):
            raise refused("what was written holds more than was meant")
        shown = [bytes(operands[0]).decode("cp1252") for operands, operator in operations if operator == b"Tj"]
        text = page.extract_text()
        if shown != [line.text for line in meant.lines] or "".join(text.split()) != "".join("".join(shown).split()):
            raise refused("what was written is not what was meant")
        texts.append(text)
    return texts


def _content(page: PageText) -> bytes:
    if not page.lines:
        return b""
    columns, count = max(len(line.text) for line in page.lines), len(page.lines)
    room = page.height - 2 * _MARGIN
    size = min(page.size, _SIZE_MAX, (page.width - 2 * _MARGIN) / (_ADVANCE * columns), room / (_LEADING * count))
    size = int(size * 100) / 100
    if size < _SIZE_MIN:
        raise refused("its text does not fit its pages in letters that can be read")
    left = max(_MARGIN, min(page.left, page.width - _MARGIN - columns * _ADVANCE * size))
    heights: list[float] = []
    above = page.height - _MARGIN
    for line in page.lines:
        above = min(line.y, above - _LEADING * size) if heights else min(line.y, above - size)
        heights.append(above)
    if heights[-1] < _MARGIN:
        # Set closer than they can be at their places, lines share the page evenly.
        step = (room - size) / max(count - 1, 1)
        heights = [page.height - _MARGIN - size - step * index for index in range(count)]
    parts = [b"BT /F %s Tf" % _number(size)]
    for line, y in zip(page.lines, heights, strict=True):
        parts.append(b"1 0 0 1 %s %s Tm (%s) Tj" % (_number(left), _number(y), _ESCAPED.sub(rb"\\\1", line.text.encode("cp1252"))))
    return b"\n".join([*parts, b"ET"])


def _number(value: float) -> bytes:
    return f"{value:.2f}".rstrip("0").rstrip(".").encode("ascii")
