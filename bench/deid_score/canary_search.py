# ruff: noqa: E501 - tables
"""A planted text looked for in whole files: every character set, UTF-16, Base64, capital and small letters, inside deflated streams.

Written for the score alone: it shares no code with the product's own scan.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Iterable
from functools import lru_cache

_CODECS = (
    "utf-8", "iso8859-1", "iso8859-2", "iso8859-3", "iso8859-4", "iso8859-5", "iso8859-6", "iso8859-7", "iso8859-8", "iso8859-9", "iso8859-15",
    "tis-620", "shift_jis", "iso2022_jp", "iso2022_jp_2", "euc_jp", "euc_kr", "gb2312", "gb18030", "utf-16-le", "utf-16-be",
)  # fmt: skip
_ZLIB = re.compile(rb"\x78[\x01\x5e\x9c\xda]")
_GZIP = b"\x1f\x8b\x08"
#: Two bytes by chance spell a short code in compressed pixels: shorter spellings than this count in headers only.
_PIXEL_SPELLING_MIN = 7


@lru_cache(maxsize=200_000)
def spellings(text: str) -> tuple[tuple[bytes, bool], ...]:
    """(bytes, whether letter case counts) of each form of `text`."""
    forms: set[tuple[bytes, bool]] = set()
    for codec in _CODECS:
        for one in (text, text.lower(), text.upper()):
            try:
                raw = one.encode(codec)
            except UnicodeEncodeError:
                continue
            raw = re.sub(rb"^\x1b\$[B@(D]+|\x1b\([BJ]$", b"", raw) if codec.startswith("iso2022") else raw
            if len(raw) >= 4:
                forms.add((raw.lower(), False))
    for one in {text, text.lower(), text.upper()}:
        raw = one.encode()
        for lead in range(3):
            core = base64.b64encode(bytes(lead) + raw)[(lead * 8 + 5) // 6 : (lead + len(raw)) * 8 // 6]
            if len(core) >= 8:
                forms.add((core, True))
    return tuple(forms)


class SearchedFile:
    """The bytes of one file, with what is deflated in them inflated, ready to be searched."""

    def __init__(self, data: bytes, pixel_start: int | None = None) -> None:
        head = data if pixel_start is None else data[:pixel_start]
        pixels = b"" if pixel_start is None else data[pixel_start:]
        head += b"".join(_inflated(head))
        self._head, self._lowered = head, head.lower()
        self._pixels, self._pixels_lowered = pixels, pixels.lower()

    def holds(self, text: str) -> bool:
        """Whether any spelling of `text` is in the file; digits alone count only where they are no part of a longer number."""
        for form, is_exact in spellings(text):
            where, pixels = (self._head, self._pixels) if is_exact else (self._lowered, self._pixels_lowered)
            if form.isdigit():
                if any(_stands_alone(where, at, len(form)) for at in _places(where, form)):
                    return True
            elif form in where or (len(form) >= _PIXEL_SPELLING_MIN and form in pixels):
                return True
        return False


def _places(data: bytes, form: bytes) -> Iterable[int]:
    at = data.find(form)
    while at >= 0:
        yield at
        at = data.find(form, at + 1)


def _stands_alone(data: bytes, at: int, length: int) -> bool:
    before, after = data[at - 1 : at], data[at + length : at + length + 1]
    return not (before.isdigit() or before == b"." or after.isdigit())


def _inflated(data: bytes) -> Iterable[bytes]:
    for match in _ZLIB.finditer(data):
        yield _stream(data[match.start() :], zlib.MAX_WBITS)
    at = data.find(_GZIP)
    while at >= 0:
        yield _stream(data[at:], zlib.MAX_WBITS | 16)
        at = data.find(_GZIP, at + 1)


def _stream(data: bytes, wbits: int) -> bytes:
    try:
        return zlib.decompressobj(wbits).decompress(data, 1 << 20)
    except zlib.error:
        return b""
