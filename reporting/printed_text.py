"""The text that stands on the pages of a PDF of ours, read back from the drawing itself.

What counts is what is drawn: glyphs, mapped to characters by the font's /ToUnicode (ISO 32000-1, 9.10.3), or the /ActualText that
stands for a cluster (14.9.4), in the order of drawing. Running headers, footers and the watermark are artifacts (14.8.2.2) and left out.
It reads what typst writes (Type 0 fonts, Identity-H); anything else is refused rather than guessed.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

from pyhanko.pdf_utils.reader import PdfFileReader

from crypto.errors import IntegrityFailure

PAGES_MAX = 500
_TOKEN = re.compile(rb"<<|>>|<[0-9A-Fa-f\s]*>|/[^\s<>\[\](){}/%]*|[\[\]]|\(|[^\s<>\[\](){}/%]+")
_IN_STRING = re.compile(rb"\\.|[()]", re.DOTALL)
_ESCAPE = re.compile(rb"\\([0-7]{1,3}|\r\n|.)", re.DOTALL)
_ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f", b"\n": b"", b"\r": b"", b"\r\n": b""}
_BFCHAR = re.compile(rb"beginbfchar(.*?)endbfchar", re.DOTALL)
_BFRANGE = re.compile(rb"beginbfrange(.*?)endbfrange", re.DOTALL)
_HEX = re.compile(rb"<([0-9A-Fa-f\s]*)>")


def printed_text(document: bytes) -> str:
    """The text of all pages in the order of drawing, without artifacts; blanks between runs are not to be relied on.

    Raises:
        IntegrityFailure: the drawing cannot be read.
    """
    try:
        reader = PdfFileReader(io.BytesIO(document), strict=True)
        return "".join(_page_text(page) for page in _pages(reader.root["/Pages"], [PAGES_MAX]))
    except IntegrityFailure:
        raise
    except Exception as failure:  # A parser's way to say no to damaged input is any exception at all.
        raise IntegrityFailure(f"the pages cannot be read ({type(failure).__name__})") from None


def without_blanks(text: str) -> str:
    """`text` without white space and break opportunities: a line break on the page is no difference in the text."""
    return "".join(text.replace("\u200b", "").split())


def _pages(node: Any, left: list[int]) -> Iterator[Any]:
    left[0] -= 1
    if left[0] < 0:
        raise IntegrityFailure(f"the file has more than {PAGES_MAX} pages")
    if node["/Type"] == "/Page":
        yield node
        return
    kids = node["/Kids"]
    for index in range(len(kids)):  # iterating would yield references, indexing resolves them
        yield from _pages(kids[index], left)


def _page_text(page: Any) -> str:
    fonts = page["/Resources"].get("/Font", {})
    maps: dict[str, dict[int, str]] = {}
    text: list[str] = []
    operands: list[bytes] = []
    hidden: list[bool] = []
    characters: dict[int, str] = {}
    for token in _tokens(page["/Contents"].data):
        if not token[:1].isalpha() and token not in (b"'", b'"'):
            operands.append(token)
            continue
        if token in (b"BDC", b"BMC"):
            replacement = _actual_text(operands)
            if replacement is not None and not any(hidden):
                text.append(replacement)
            hidden.append(operands[:1] == [b"/Artifact"] or replacement is not None)
        elif token == b"EMC":
            hidden.pop()
        elif token == b"Tf":
            name = operands[0].decode("latin-1")
            characters = maps.setdefault(name, {}) or _to_unicode(fonts[name])
            maps[name] = characters
        elif token in (b"Tj", b"TJ", b"'", b'"') and not any(hidden):
            text.append(_drawn(operands, characters))
            text.append(" ")
        elif token in (b"Do", b"BI"):
            raise IntegrityFailure("a page draws something other than text and lines")
        operands = []
    return "".join(text)


def _tokens(content: bytes) -> Iterator[bytes]:
    position = 0
    while (match := _TOKEN.search(content, position)) is not None:
        position = match.end() if match.group() != b"(" else _string_end(content, match.end())
        yield content[match.start() : position]


def _string_end(content: bytes, position: int) -> int:
    """The index after the parenthesis that closes the string which was opened before `position`; they nest (7.3.4.2)."""
    depth = 1
    while depth:
        mark = _IN_STRING.search(content, position)
        if mark is None:
            raise IntegrityFailure("a string on a page has no end")
        depth += {b"(": 1, b")": -1}.get(mark.group(), 0)
        position = mark.end()
    return position


def _drawn(operands: list[bytes], characters: dict[int, str]) -> str:
    codes = b"".join(_string(token) for token in operands if token[:1] in (b"(", b"<"))
    return "".join(characters[int.from_bytes(codes[start : start + 2], "big")] for start in range(0, len(codes), 2))


def _string(token: bytes) -> bytes:
    if token[:1] == b"<":
        return bytes.fromhex(token[1:-1].decode("ascii"))
    return _ESCAPE.sub(lambda match: _unescaped(match.group(1)), token[1:-1])


def _unescaped(escape: bytes) -> bytes:
    return bytes([int(escape, 8) & 0xFF]) if escape[:1].isdigit() else _ESCAPED.get(escape, escape)


def _actual_text(operands: list[bytes]) -> str | None:
    if b"/ActualText" not in operands:
        return None
    value = _string(operands[operands.index(b"/ActualText") + 1])
    return value[2:].decode("utf-16-be") if value.startswith(b"\xfe\xff") else value.decode("latin-1")


def _to_unicode(font: Any) -> dict[int, str]:
    if font["/Subtype"] != "/Type0" or font["/Encoding"] != "/Identity-H":
        raise IntegrityFailure("a page uses a font of another kind than typst embeds")
    cmap, characters = font["/ToUnicode"].data, {}
    for block in _BFCHAR.findall(cmap):
        values = [bytes.fromhex(value.decode("ascii")) for value in _HEX.findall(block)]
        for code, target in zip(values[::2], values[1::2], strict=True):
            characters[int.from_bytes(code, "big")] = target.decode("utf-16-be")
    if _BFRANGE.search(cmap):
        raise IntegrityFailure("a font maps ranges, which typst does not write")
    return characters
