"""From the codes of a PDF's string to letters and their widths, strictly: a code without a letter refuses the document.

Invariant: a letter comes from the font's own map (ToUnicode) or from a standard glyph name; nothing is guessed, and nothing drawn is read.
ISO 32000-1 9.6 (simple fonts), 9.7 (composite fonts), 9.10 (extraction of text).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Any, NamedTuple

from pypdf._codecs import adobe_glyphs, charset_encoding
from pypdf._codecs.core_font_metrics import CORE_FONT_METRICS
from pypdf.generic import ArrayObject, DictionaryObject, NumberObject

from crypto.errors import RefusedContent

DOCUMENT_TAG = "(0042,0011)"
_NAMED_ENCODINGS = ("/WinAnsiEncoding", "/MacRomanEncoding", "/StandardEncoding")
_SYMBOLIC = 4
_CODES_MAX = 65_536
#: Codes that maps and widths may name, each more than once.
_NAMED_MAX = 4 * _CODES_MAX
_PART = re.compile(rb"begin(bfchar|bfrange)(.*?)end\1", re.S)
_CHAR = re.compile(rb"<([0-9A-Fa-f\s]*)>\s*<([0-9A-Fa-f\s]*)>")
_RANGE = re.compile(rb"<([0-9A-Fa-f\s]*)>\s*<([0-9A-Fa-f\s]*)>\s*(?:<([0-9A-Fa-f\s]*)>|\[([^\]]*)\])")
_HEX = re.compile(rb"<([0-9A-Fa-f\s]*)>")
#: Letters that WinAnsi has under another name, or as two.
_WRITTEN_AS = str.maketrans({
    "\u00a0": " ", "\u2002": " ", "\u2003": " ", "\u2009": " ", "\u202f": " ", "\u00ad": "-", "\u2010": "-", "\u2011": "-", "\u2212": "-",
    "\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl", "\u03bc": "\u00b5",
})  # fmt: skip


class Code(NamedTuple):
    """One shown code: its letters (seldom more than one), its width in parts of the font's size, whether word spacing applies to it."""

    text: str
    width: float
    is_space: bool


def refused(why: str, reason: str = "ENCAPSULATED_DOCUMENT") -> RefusedContent:
    return RefusedContent(reason, why, tag=DOCUMENT_TAG)


def writable(text: str) -> str:
    """`text` in the letters that can be written (WinAnsi). Raises: RefusedContent on a control character or another letter."""
    text = text.translate(_WRITTEN_AS)
    if any(unicodedata.category(char)[0] == "C" for char in text):
        raise refused("its letters come out as control characters, or as none")
    if not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", text)
    # A combining mark alone is joined with its letter once the line is put together (pdf_layout.py).
    if all(map(unicodedata.combining, text)) and text:
        return text
    try:
        text.encode("cp1252")
    except UnicodeEncodeError:
        raise refused("it holds letters that cannot be written again") from None
    return text


class PageFont:
    """A font of a page; building it raises RefusedContent only where no code of it could ever be read."""

    def __init__(self, font: Any) -> None:
        self._kind = font.get("/Subtype")
        if self._kind not in ("/Type0", "/Type1", "/MMType1", "/TrueType"):
            raise refused("it holds a font whose letters are drawings")
        self._name = str(font.get("/BaseFont", ""))[1:]
        self._size = 2 if self._kind == "/Type0" else 1
        self._letters: dict[int, str] = {}
        self._widths: dict[int, float] = {}
        self._default = 0.5
        if self._kind == "/Type0":
            if font.get("/Encoding") != "/Identity-H":
                raise refused("it holds a font whose letters cannot be told apart")
            self._read_composite_widths(font["/DescendantFonts"][0].get_object())
        else:
            self._letters.update(self._named_letters(font))
            self._read_simple_widths(font)
        if "/ToUnicode" in font:
            stream = font["/ToUnicode"].get_object()
            if not hasattr(stream, "get_data"):
                raise refused("it holds a font whose letters cannot be read")
            self._letters.update(_mapped(stream.get_data(), self._size))

    def codes(self, data: bytes) -> Iterator[Code]:
        """Each code of a shown string. Raises: RefusedContent where one has no letter, or none that can be written."""
        if len(data) % self._size:
            raise refused("a string of it ends within a letter")
        for at in range(0, len(data), self._size):
            code = int.from_bytes(data[at : at + self._size], "big")
            text = self._letters.get(code)
            if not text:
                raise refused("it shows letters that cannot be read")
            yield Code(writable(text), self._widths.get(code, self._default), self._size == 1 and code == 32)

    def _named_letters(self, font: Any) -> dict[int, str]:
        """By the encoding's glyph names. Empty where the font's program alone knows which glyph a code shows."""
        descriptor = font.get("/FontDescriptor", DictionaryObject()).get_object()
        is_embedded = any(key in descriptor for key in ("/FontFile", "/FontFile2", "/FontFile3"))
        if re.search("symbol|dingbat|wingding|webding", self._name, re.I) or (int(descriptor.get("/Flags", 0)) & _SYMBOLIC and is_embedded):
            return {}
        encoding = font.get("/Encoding")
        encoding = encoding.get_object() if encoding is not None else None
        base = encoding.get("/BaseEncoding") if isinstance(encoding, DictionaryObject) else encoding
        letters: dict[int, str] = {}
        if base in _NAMED_ENCODINGS:
            letters = {code: text for code, text in enumerate(charset_encoding[str(base)]) if code >= 32 and text not in ("", "\0")}
        elif base is None and not is_embedded and self._name in CORE_FONT_METRICS:
            standard = charset_encoding["/StandardEncoding"]
            letters = {code: text for code, text in enumerate(standard) if code >= 32 and text not in ("", "\0")}
        if isinstance(encoding, DictionaryObject) and "/Differences" in encoding:
            code = 0
            differences: Any = encoding["/Differences"]
            for one in map(_resolved, differences):
                if isinstance(one, NumberObject):
                    code = int(one)
                else:
                    letters[code] = _letter_of(str(one))
                    code += 1
        return letters

    def _read_simple_widths(self, font: Any) -> None:
        descriptor = font.get("/FontDescriptor", DictionaryObject()).get_object()
        if "/Widths" in font:
            first = int(font.get("/FirstChar", 0))
            for index, width in enumerate(font["/Widths"].get_object()[:256]):
                self._widths[first + index] = float(width.get_object()) / 1000
            self._default = float(descriptor.get("/MissingWidth", 500)) / 1000
        elif self._name in CORE_FONT_METRICS:
            known = CORE_FONT_METRICS[self._name].character_widths
            self._widths = {code: known[text] / 1000 for code, text in self._letters.items() if text in known}

    def _read_composite_widths(self, font: Any) -> None:
        self._default = float(font.get("/DW", 1000)) / 1000
        widths = [one.get_object() for one in font.get("/W", ArrayObject()).get_object()]
        at = count = 0
        while at + 1 < len(widths):
            first = int(widths[at])
            if isinstance(widths[at + 1], ArrayObject):
                for index, width in enumerate(widths[at + 1]):
                    self._widths[first + index] = float(width.get_object()) / 1000
                at += 2
            else:
                codes = range(first, min(int(widths[at + 1]), _CODES_MAX) + 1)
                count += len(codes)
                if count > _NAMED_MAX:
                    raise refused("a font of it names more letters than there are")
                for code in codes:
                    self._widths[code] = float(widths[at + 2]) / 1000
                at += 3


def _resolved(value: Any) -> Any:
    return value.get_object()


def _letter_of(glyph: str) -> str:
    """The letter of a glyph name, '' where the name is no standard one."""
    if found := re.fullmatch(r"/uni([0-9A-F]{4})", glyph):
        return chr(int(found.group(1), 16))
    return str(adobe_glyphs.get(glyph, ""))


def _mapped(cmap: bytes, size: int) -> dict[int, str]:
    """Code to letters, of codes of `size` bytes (ISO 32000-1 9.10.3)."""
    letters: dict[int, str] = {}
    count = 0
    for part in _PART.finditer(cmap):
        if part.group(1) == b"bfchar":
            for code, text in _CHAR.findall(part.group(2)):
                if len(raw := _bytes_of(code)) == size:
                    letters[int.from_bytes(raw, "big")] = _bytes_of(text).decode("utf-16-be")
            continue
        for low, high, text, several in _RANGE.findall(part.group(2)):
            first, last = _bytes_of(low), _bytes_of(high)
            if len(first) != size or len(last) != size:
                continue
            codes = range(int.from_bytes(first, "big"), int.from_bytes(last, "big") + 1)
            count += len(codes)
            if count > _NAMED_MAX:
                raise refused("a font of it names more letters than there are")
            if several:
                texts = [_bytes_of(one).decode("utf-16-be") for one in _HEX.findall(several)]
            else:
                start = _bytes_of(text).decode("utf-16-be")
                texts = [start[:-1] + chr(ord(start[-1]) + index) for index in range(len(codes))] if start else []
            letters.update(zip(codes, texts, strict=False))
    return letters


def _bytes_of(digits: bytes) -> bytes:
    return bytes.fromhex(b"".join(digits.split()).decode("ascii"))
