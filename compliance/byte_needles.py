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
_HEAD_BITS = 14
_HEADER_BLOCK_BYTES = 1 << 16
_SIEVES_MAX = 16
_SPREADS_MAX = 1_000
#: A span of 16-bit values that is worth asking for first.
_NARROW = 0x2000


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
        heads = np.array([int.from_bytes(head, "little") for head in self._by_head], np.uint32)
        self._heads = np.zeros(1 << _HEAD_BITS, np.bool_)
        self._heads[_hash(heads, _HEAD_BITS)] = True
        self._sieves: dict[tuple[bytes, ...], _Sieve] = {}
        self._sieves_by_spread: dict[tuple[int, int], _Sieve] = {}

    def header_hits(self, header: bytes) -> Iterator[int]:
        """Positions in the bytes of header elements at which a needle stands that counts there."""
        if not self._by_head or len(header) < HEADER_BYTES_MIN:
            return
        lowered = header.lower()
        for begin in range(0, len(lowered) - 3, _HEADER_BLOCK_BYTES):
            # A word of four bytes at each position, the next block's first bytes included.
            count = min(_HEADER_BLOCK_BYTES, len(lowered) - 3 - begin)
            words: NDArray[np.uint32] = np.ndarray((count,), "<u4", lowered, begin, (1,))
            for place in np.flatnonzero(self._heads.take(_hash(words, _HEAD_BITS))).tolist():
                position = begin + place
                for needle in self._by_head.get(lowered[position : position + 4], ()):
                    stop = position + len(needle.lowered)
                    if lowered[position:stop] == needle.lowered and _counts_in_header(header, position, stop, needle):
                        yield position

    def pixel_hits(self, payload: bytes | memoryview, start: int) -> Iterator[int]:
        """Positions from `start` on at which a needle of at least PIXEL_BYTES_MIN bytes stands.

        Such a needle covers a whole aligned word of four wherever it stands: only those are looked at, and of those only what the range of
        the values, taken two bytes each, lets occur: pixels of 12 bits hold no two letters.
        """
        first = (start + 3) // 4 * 4
        count = (len(payload) - first) // 4
        if count < 1 or not self._by_word:
            return
        values = np.frombuffer(payload, "<i2", count * 2, first)
        spread = int(values.min()) >> 8, int(values.max()) >> 8
        sieve = self._sieves_by_spread.get(spread) or self._sieve(spread)
        whole = np.frombuffer(payload, "<u4", count, first)
        for index in sieve.places(whole):
            for offset, needle in self._by_word.get(int(whole[index]) | _CASE, ()):
                begin = first + 4 * index - offset
                stop = begin + len(needle.lowered)
                standing = bytes(payload[begin:stop]) if begin >= start else b""
                if standing.lower() == needle.lowered and (needle.exact is None or standing == needle.exact):
                    yield begin

    def _sieve(self, spread: tuple[int, int]) -> _Sieve:
        """The sieve of the words that this spread lets occur; spreads that let the same words occur share it."""
        fours = {needle.lowered[offset : offset + 4] for found in self._by_word.values() for offset, needle in found}
        occurring = tuple(sorted(four for four in fours if _spelled(four[1], spread) and _spelled(four[3], spread)))
        if len(self._sieves) > _SIEVES_MAX or len(self._sieves_by_spread) > _SPREADS_MAX:
            self._sieves.clear()
            self._sieves_by_spread.clear()
        sieve = self._sieves.get(occurring)
        if sieve is None:
            sieve = self._sieves[occurring] = _Sieve(occurring)
        self._sieves_by_spread[spread] = sieve
        return sieve


def _spelled(lowered: int, spread: tuple[int, int] = (-128, 127)) -> list[int]:
    """The signed values within `spread` of this byte and of the capital it may stand for."""
    codes = (lowered, lowered - 0x20) if 0x61 <= lowered <= 0x7A else (lowered,)
    return [signed for code in codes if spread[0] <= (signed := code - 256 if code > 127 else code) <= spread[1]]


class _Sieve:
    """Finds the few places of an array of words at which one of `fours`, four lowered bytes each, stands in any case."""

    def __init__(self, fours: tuple[bytes, ...]) -> None:
        self._words = np.array(sorted({int.from_bytes(four, "little") | _CASE for four in fours}), np.uint32)
        self._hashed = np.zeros(1 << _HASH_BITS, np.bool_)
        self._hashed[_hash(self._words)] = True
        # The least and the greatest 16-bit value that stands in any of them.
        halves = [value for four in fours for half in (four[:2], four[2:]) for value in _values(half)]
        self._least, width = (min(halves), max(halves) - min(halves)) if halves else (0, 0)
        self._width = np.uint16(width) if width < _NARROW else None

    def places(self, whole: NDArray[np.uint32]) -> Iterator[int]:
        """Indices in `whole`, in order."""
        if not len(self._words):
            return
        # In blocks that stay in the processor's cache, with what is worked out of them.
        size = _BLOCK_WORDS if self._width is None else 4 * _BLOCK_WORDS
        for begin in range(0, len(whole), size):
            words = whole[begin : begin + size]
            if self._width is None:
                near = np.flatnonzero(self._hashed.take(_hash(words | np.uint32(_CASE))))
            else:
                above = (words.view(np.int16) - np.int16(self._least)).view(np.uint16)
                # The least of them is found in half the time that comparing all of them takes.
                if above.min() > self._width:
                    continue
                near = np.flatnonzero((above <= self._width).view(np.uint16) == 0x0101)
                if near.size:
                    near = near[self._hashed.take(_hash(words[near] | np.uint32(_CASE)))]
            if near.size:
                for index in near[_among(words[near] | np.uint32(_CASE), self._words)].tolist():
                    yield begin + index


def _values(half: bytes) -> Iterator[int]:
    """Two lowered bytes as signed 16-bit values, in every case."""
    for high in _spelled(half[1]):
        for low in _spelled(half[0]):
            yield high * 256 + (low & 0xFF)


def _among(words: NDArray[np.uint32], ordered: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """For each of `words`, whether it is one of the `ordered` ones."""
    return np.asarray(ordered.take(np.searchsorted(ordered, words), mode="clip") == words)


def _hash(words: NDArray[np.uint32], bits: int = _HASH_BITS) -> NDArray[np.uint32]:
    return (words * np.uint32(0x9E3779B1)) >> np.uint32(32 - bits)


def _counts_in_header(payload: bytes, start: int, end: int, needle: Needle) -> bool:
    if needle.exact is not None and payload[start:end] != needle.exact:
        return False
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
