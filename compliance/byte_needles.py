# ruff: noqa: E501 - tables
"""Many byte strings looked for at once in raw bytes: every spelling an identifying value can take on disk.

Tables rule out almost every position at the speed of memory; what is left is compared. A position counts in
text only at the borders of a word or number; in pixel data, which has no words, only values of at least PIXEL_BYTES_MIN bytes count,
because shorter ones turn up in compressed data by chance.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compliance.text_patterns import clinical_words

HEADER_BYTES_MIN = 5
PIXEL_BYTES_MIN = 7
_CHARACTER_SETS = (
    "utf_8", "iso8859_1", "iso8859_2", "iso8859_3", "iso8859_4", "iso8859_5", "iso8859_6", "iso8859_7", "iso8859_8", "iso8859_9", "iso8859_15",
    "tis_620", "shift_jis", "iso2022_jp", "iso2022_jp_2", "euc_jp", "euc_kr", "gb18030", "gb2312", "cp1252",
)  # fmt: skip
#: Set in a letter's code where it is small: OR'ed in, capital and small letters are one.
_CASE = 0x20202020
#: A quarter of a megabyte: so few words of pixels collide that the exact comparison costs nothing, and the table stays in the cache.
_HASH_BITS = 18
_BLOCK_WORDS = 16384
_LOWER: NDArray[np.uint8] = np.frombuffer(bytes(range(256)).lower(), np.uint8)


@dataclass(frozen=True)
class Needle:
    """`lowered` as compared with lowered bytes; `exact` where case carries meaning (Base64)."""

    lowered: bytes
    exact: bytes | None
    is_text: bool


class NeedleSet:
    """The needles of one patient, ready to be looked for."""

    def __init__(self, needles: Iterable[Needle]) -> None:
        self._by_head: dict[bytes, list[Needle]] = {}
        self._by_word: dict[int, list[tuple[int, Needle]]] = {}
        for needle in needles:
            self._by_head.setdefault(needle.lowered[:4], []).append(needle)
            if len(needle.lowered) >= PIXEL_BYTES_MIN:
                for offset in range(4):
                    word = int.from_bytes(needle.lowered[offset : offset + 4], "little") | _CASE
                    self._by_word.setdefault(word, []).append((offset, needle))
        self._pairs = np.zeros(65536, np.bool_)
        for head in self._by_head:
            for one in {head[:1], head[:1].upper()}:
                for two in {head[1:2], head[1:2].upper()}:
                    self._pairs[one[0] | two[0] << 8] = True
        self._heads = np.sort(np.array([int.from_bytes(head, "little") for head in self._by_head], np.uint32))
        self._words = np.sort(np.array(list(self._by_word), np.uint32))
        self._hashed = np.zeros(1 << _HASH_BITS, np.bool_)
        self._hashed[_hash(self._words)] = True

    def hits(self, payload: bytes, pixel_start: int) -> Iterator[tuple[int, Needle]]:
        """(position, needle) of each that counts; header bytes are those before `pixel_start`."""
        if self._by_head:
            yield from self._header_hits(payload, min(pixel_start, len(payload)), pixel_start)
        if self._by_word:
            yield from self._pixel_hits(payload, pixel_start)

    def _header_hits(self, payload: bytes, end: int, pixel_start: int) -> Iterator[tuple[int, Needle]]:
        if end < HEADER_BYTES_MIN:
            return
        whole = np.frombuffer(payload, np.uint8, end)
        candidates = []
        for odd in (0, 1):
            pairs = np.frombuffer(payload, "<u2", (end - odd) // 2, odd)
            candidates.append(np.flatnonzero(self._pairs[pairs]) * 2 + odd)
        places = np.concatenate(candidates)
        places = places[places < end - 3]
        heads = np.zeros(len(places), np.uint32)
        for index in range(4):
            heads |= _LOWER[whole[places + index]].astype(np.uint32) << (8 * index)
        for position in places[_among(heads, self._heads)].tolist():
            for needle in self._by_head.get(payload[position : position + 4].lower(), ()):
                stop = position + len(needle.lowered)
                if payload[position:stop].lower() == needle.lowered and _counts(payload, position, stop, needle, pixel_start):
                    yield position, needle

    def _pixel_hits(self, payload: bytes, pixel_start: int) -> Iterator[tuple[int, Needle]]:
        """A needle of seven bytes covers a whole aligned word of four wherever it stands: only those are looked at."""
        first = (pixel_start + 3) // 4 * 4
        count = (len(payload) - first) // 4
        if count < 1:
            return
        whole = np.frombuffer(payload, "<u4", count, first)
        case = np.uint32(_CASE)
        # In blocks that stay in the processor's cache.
        for begin in range(0, count, _BLOCK_WORDS):
            words = whole[begin : begin + _BLOCK_WORDS] | case
            places = np.flatnonzero(self._hashed.take(_hash(words)))
            if places.size:
                places = places[_among(words[places], self._words)]
            for index in places.tolist():
                for offset, needle in self._by_word.get(int(words[index]), ()):
                    start = first + 4 * (begin + index) - offset
                    stop = start + len(needle.lowered)
                    found = start >= pixel_start and payload[start:stop].lower() == needle.lowered
                    if found and _counts(payload, start, stop, needle, pixel_start):
                        yield start, needle


def _among(words: NDArray[np.uint32], ordered: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """For each of `words`, whether it is one of the `ordered` ones."""
    return np.asarray(ordered.take(np.searchsorted(ordered, words), mode="clip") == words)


def _hash(words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return (words * np.uint32(0x9E3779B1)) >> np.uint32(32 - _HASH_BITS)


def _counts(payload: bytes, start: int, end: int, needle: Needle, pixel_start: int) -> bool:
    if needle.exact is not None and payload[start:end] != needle.exact:
        return False
    if start >= pixel_start:
        return end - start >= PIXEL_BYTES_MIN
    if not needle.is_text:
        return True
    before, after = payload[start - 1 : start], payload[end : end + 1]
    if needle.lowered.isdigit():
        # Inside a longer number it is that number: UIDs and decimals hold every short one somewhere.
        return not (before.isdigit() or after.isdigit() or before == b".")
    if not (before.isalpha() or after.isalpha()):
        return True
    if not needle.lowered.isalpha():
        return len(needle.lowered) >= PIXEL_BYTES_MIN and not (needle.lowered[-1:].isdigit() and after.isdigit())
    if len(needle.lowered) < 6:
        return False
    while start and payload[start - 1 : start].isalpha():
        start -= 1
    while payload[end : end + 1].isalpha():
        end += 1
    return payload[start:end].decode("ascii", "replace").lower() not in clinical_words()


def needles_of(values: Iterable[str]) -> NeedleSet:
    """Needles for each value in every character set that holds it, in UTF-16 and in Base64."""
    needles: dict[bytes, Needle] = {}
    for value in values:
        stripped = value.strip()
        if not stripped:
            continue
        plain = {_encoded(stripped, codec) for codec in (("utf_8",) if stripped.isascii() else _CHARACTER_SETS)} - {None}
        for raw in plain:
            if raw is not None and len(raw) >= HEADER_BYTES_MIN - (not raw.isascii()):
                needles.setdefault(raw.lower(), Needle(raw.lower(), None, raw.isascii()))
        for codec in ("utf_16_le", "utf_16_be"):
            raw = _encoded(stripped, codec)
            if raw is not None and len(raw) >= 8:
                needles.setdefault(raw.lower(), Needle(raw.lower(), None, False))
        for spelled in {stripped, stripped.upper(), stripped.lower(), stripped.title()}:
            for coded in _base64_cores(spelled.encode()):
                needles.setdefault(coded.lower() + b"=" + coded[:1], Needle(coded.lower(), coded, False))
    return NeedleSet(needles.values())


def _encoded(text: str, codec: str) -> bytes | None:
    try:
        return text.encode(codec)
    except UnicodeEncodeError:
        return None


def _base64_cores(raw: bytes) -> Iterator[bytes]:
    """The characters of Base64 that `raw` alone decides, at each of the three alignments; none shorter than eight."""
    for lead in range(3):
        coded = base64.b64encode(bytes(lead) + raw)
        first = (lead * 8 + 5) // 6
        last = (lead + len(raw)) * 8 // 6
        core = coded[first:last]
        if len(core) >= 8:
            yield core
