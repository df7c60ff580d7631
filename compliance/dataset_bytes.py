"""A dataset's bytes as data elements, strictly: what does not parse to the last byte is refused, never skipped.

Invariants
- `elements` yields every byte of its range or raises; lengths are checked against the enclosing range before anything is touched.
- Nesting beyond DEPTH_MAX and more than ELEMENTS_MAX elements side by side are refused: no input decides how deep the stack grows, and how
  much memory it takes grows with its bytes.
- What is written is always Explicit VR Little Endian with defined lengths (PS3.5 7.1.2, A.2).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from pydicom._dicom_dict import DicomDictionary, RepeatersDictionary
from pydicom.datadict import mask_match

from compliance.profile_table import tag_text
from crypto.errors import RefusedContent

#: Sequences in sequences; the deepest IODs of the standard need 7.
DEPTH_MAX = 16
#: Elements of one dataset, or of one item: what is kept of an element takes thirty times the bytes that an empty one has.
ELEMENTS_MAX = 200_000
#: No fewer bytes hold more elements than that.
ELEMENTS_BYTES_MIN = 8 * ELEMENTS_MAX
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})

_LONG = {vr.encode(): vr for vr in "OB OD OF OL OV OW SQ SV UC UN UR UT UV".split()}
_SHORT = {vr.encode(): vr for vr in "AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()}
#: Bytes per number of a binary VR, to turn big endian round and to split values.
NUMBER_BYTES = {
    "AT": 2,
    "FD": 8,
    "FL": 4,
    "OD": 8,
    "OF": 4,
    "OL": 4,
    "OV": 8,
    "OW": 2,
    "SL": 4,
    "SS": 2,
    "SV": 8,
    "UL": 4,
    "US": 2,
    "UV": 8,
}


class Encoding(NamedTuple):
    """How a dataset's elements are written."""

    explicit: bool
    little: bool


EXPLICIT_LITTLE = Encoding(True, True)
IMPLICIT_LITTLE = Encoding(False, True)
EXPLICIT_BIG = Encoding(True, False)

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
DEFLATED = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.8.1"})
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"


def encoding_of(transfer_syntax_uid: str) -> Encoding:
    """The encoding of a dataset in this transfer syntax. Raises RefusedContent for deflated and private syntaxes."""
    if transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN:
        return IMPLICIT_LITTLE
    if transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN:
        return EXPLICIT_BIG
    if transfer_syntax_uid in DEFLATED:
        raise RefusedContent("DEFLATED_TRANSFER_SYNTAX", "inflate it before sending; PS3.5 A.5")
    if not transfer_syntax_uid.startswith("1.2.840.10008.1.2"):
        raise RefusedContent("UNKNOWN_TRANSFER_SYNTAX", "only the transfer syntaxes of PS3.5 are understood")
    return EXPLICIT_LITTLE


class Element(NamedTuple):
    """Where one data element stands: [start, stop) is all of it, [value, end) its value; `vr` is "" in implicit VR."""

    tag: int
    vr: str
    start: int
    value: int
    end: int
    stop: int
    undefined: bool


def _malformed(what: str, tag: int | None = None) -> RefusedContent:
    return RefusedContent("MALFORMED_DATASET", what, tag=None if tag is None else tag_text(tag))


_HEADERS = {
    (True, True): (struct.Struct("<HH2sH"), struct.Struct("<I")),
    (True, False): (struct.Struct(">HH2sH"), struct.Struct(">I")),
    (False, True): (struct.Struct("<HHI"), struct.Struct("<I")),
}
_UNPACK_EXPLICIT = {True: _HEADERS[True, True][0].unpack_from, False: _HEADERS[True, False][0].unpack_from}
_UNPACK_IMPLICIT = _HEADERS[False, True][0].unpack_from
_new = tuple.__new__


def elements(buf: bytes, pos: int, end: int, encoding: Encoding, depth: int = 0) -> list[Element]:
    """The elements of buf[pos:end] in order. Raises RefusedContent: truncated, too deep, too many, or not DICOM."""
    found: list[Element] = []
    append = found.append
    while end - pos > ELEMENTS_BYTES_MIN:
        element = element_at(buf, pos, end, encoding, depth)
        append(element)
        pos = element[5]
        require_few(len(found))
    while pos < end:
        element = element_at(buf, pos, end, encoding, depth)
        append(element)
        pos = element[5]
    return found


def require_few(count: int) -> None:
    """Raises RefusedContent where that many elements are more than a dataset has."""
    if count > ELEMENTS_MAX:
        raise _malformed("more elements than a dataset has")


def element_at(buf: bytes, pos: int, end: int, encoding: Encoding, depth: int = 0) -> Element:
    """The element that starts at `pos`; nothing from `end` on is looked at. Raises as `elements` does."""
    if end - pos < 8:
        raise _malformed("the dataset ends inside an element header")
    if encoding[0]:
        group, number, vr_bytes, length = _UNPACK_EXPLICIT[encoding[1]](buf, pos)
        tag = group << 16 | number
        known = _SHORT.get(vr_bytes)
        if known is not None:
            vr = known
            value = pos + 8
        elif vr_bytes in _LONG:
            if end - pos < 12:
                raise _malformed("the dataset ends inside an element header", tag)
            length = _HEADERS[encoding][1].unpack_from(buf, pos + 8)[0]
            value = pos + 12
            vr = _LONG[vr_bytes]
        else:
            raise _malformed("unknown value representation", tag)
    else:
        group, number, length = _UNPACK_IMPLICIT(buf, pos)
        tag = group << 16 | number
        value = pos + 8
        vr = ""
    if length == UNDEFINED:
        value_end, stop = _undefined_end(buf, value, end, encoding, tag, vr, depth)
        return Element(tag, vr, pos, value, value_end, stop, True)
    stop = value + length
    if stop > end:
        raise _malformed("an element is longer than what encloses it", tag)
    # The constructor of a NamedTuple costs twice as much, and this line runs for every element received.
    return _new(Element, (tag, vr, pos, value, stop, stop, False))


def _undefined_end(buf: bytes, pos: int, end: int, encoding: Encoding, tag: int, vr: str, depth: int) -> tuple[int, int]:
    """(end of value, end of element) of a value of undefined length that starts at `pos`."""
    if tag in PIXEL_TAGS and vr in ("OB", "OW", ""):
        for _ in _fragments(buf, pos, end):
            pass
        stop = _fragments_end(buf, pos, end)
        return stop - 8, stop
    inner = IMPLICIT_LITTLE if vr == "UN" else encoding
    if vr not in ("SQ", "UN", ""):
        raise _malformed("undefined length outside a sequence", tag)
    for _, _, stop in items(buf, pos, end, inner, depth, undefined=True):
        pos = stop
    if end - pos < 8:
        raise _malformed("a sequence of undefined length does not end", tag)
    return pos, pos + 8


def items(buf: bytes, pos: int, end: int, encoding: Encoding, depth: int, *, undefined: bool) -> Iterator[tuple[int, int, int]]:
    """(start, end, stop) of each item's dataset in a sequence value; stops before a sequence delimiter where `undefined`."""
    if depth >= DEPTH_MAX:
        raise RefusedContent("NESTED_TOO_DEEP", f"more than {DEPTH_MAX} sequences inside one another")
    order = "<" if encoding.little else ">"
    header = struct.Struct(order + "HHI")
    while pos < end:
        if end - pos < 8:
            raise _malformed("a sequence ends inside an item header")
        group, number, length = header.unpack_from(buf, pos)
        tag = group << 16 | number
        if tag == SEQUENCE_END and undefined:
            return
        if tag != ITEM:
            raise _malformed("something else than an item stands in a sequence", tag)
        start = pos + 8
        if length == UNDEFINED:
            item_end = _item_end(buf, start, end, encoding, depth + 1)
            stop = item_end + 8
        else:
            item_end = stop = start + length
            if stop > end:
                raise _malformed("an item is longer than its sequence")
        yield start, item_end, stop
        pos = stop
    if undefined:
        raise _malformed("a sequence of undefined length does not end")


def _item_end(buf: bytes, pos: int, end: int, encoding: Encoding, depth: int) -> int:
    """Where the delimiter of an item of undefined length starts."""
    header, long_length = _HEADERS[encoding]
    while True:
        if end - pos < 8:
            raise _malformed("an item of undefined length does not end")
        fields = header.unpack_from(buf, pos)
        tag = fields[0] << 16 | fields[1]
        if tag == ITEM_END:
            return pos
        vr = ""
        if encoding.explicit:
            vr_bytes, length = fields[2], fields[3]
            value = pos + 8
            if vr_bytes in _LONG:
                if end - pos < 12:
                    raise _malformed("the dataset ends inside an element header", tag)
                length = long_length.unpack_from(buf, pos + 8)[0]
                value = pos + 12
            elif vr_bytes not in _SHORT:
                raise _malformed("unknown value representation", tag)
            vr = vr_bytes.decode("ascii")
        else:
            length, value = fields[2], pos + 8
        if length == UNDEFINED:
            pos = _undefined_end(buf, value, end, encoding, tag, vr, depth)[1]
        else:
            pos = value + length
            if pos > end:
                raise _malformed("an element is longer than what encloses it", tag)


def _fragments(buf: bytes, pos: int, end: int) -> Iterator[tuple[int, int]]:
    while True:
        if end - pos < 8:
            raise _malformed("encapsulated pixel data does not end", 0x7FE00010)
        group, number, length = struct.unpack_from("<HHI", buf, pos)
        tag = group << 16 | number
        if tag == SEQUENCE_END:
            return
        if tag != ITEM or length == UNDEFINED or pos + 8 + length > end:
            raise _malformed("encapsulated pixel data is broken", 0x7FE00010)
        yield pos + 8, pos + 8 + length
        pos += 8 + length


def fragments(buf: bytes, pos: int, end: int) -> list[tuple[int, int]]:
    """(start, end) of every item of encapsulated pixel data, the offset table first (PS3.5 A.4)."""
    return list(_fragments(buf, pos, end))


def _fragments_end(buf: bytes, pos: int, end: int) -> int:
    last = pos
    for _, stop in _fragments(buf, pos, end):
        last = stop
    return last + 8


@dataclass(frozen=True, slots=True)
class DictionaryEntry:
    """PS3.6: `vr` may name several ("US or SS"); `is_retired` as the dictionary says."""

    vr: str
    keyword: str
    is_retired: bool


@lru_cache(maxsize=16384)
def dictionary_entry(tag: int) -> DictionaryEntry | None:
    """The standard's entry for `tag`, repeating groups included; None for what the dictionary does not know."""
    entry = DicomDictionary.get(tag)
    if entry is None:
        mask = mask_match(tag)
        if mask is None:
            return None
        entry = RepeatersDictionary[mask]
    return DictionaryEntry(entry[0], entry[4], bool(entry[3]))


def allowed_vrs(entry: DictionaryEntry) -> frozenset[str]:
    return _split_vrs(entry.vr)


@lru_cache(maxsize=256)
def _split_vrs(text: str) -> frozenset[str]:
    return frozenset(part.strip() for part in text.split(" or "))


def settle_vr(vr: str, *, is_signed: bool, is_wide: bool) -> str:
    """One VR for an entry that names several (PS3.5 A.1, A.2): by Pixel Representation, and by bits allocated."""
    if " or " not in vr:
        return vr
    names = _split_vrs(vr)
    if {"US", "SS"} <= names:
        return "SS" if is_signed else "US"
    if {"OB", "OW"} <= names:
        return "OW" if is_wide else "OB"
    return "OW"


def text_at(buf: bytes, found: Iterable[Element], tag: int) -> str | None:
    """The value of `tag` among these elements of `buf`, its bytes one character each; None where it is not there."""
    for element in found:
        if element.tag == tag:
            return buf[element.value : element.end].decode("latin-1").strip("\0 ")
    return None


_SHORT_HEADER = struct.Struct("<HH2sH")
_LONG_HEADER = struct.Struct("<HH2sHI")


def encode_element(tag: int, vr: str, value: bytes) -> bytes:
    """The element in Explicit VR Little Endian, padded to even length. Raises RefusedContent where the value does not fit its VR."""
    if len(value) & 1:
        value += b"\0" if vr in ("UI", "OB", "UN") else b" "
    code = vr.encode("ascii")
    if code in _LONG:
        return _LONG_HEADER.pack(tag >> 16, tag & 0xFFFF, code, 0, len(value)) + value
    if len(value) > 0xFFFE:
        raise RefusedContent("VALUE_TOO_LONG", "more than 65534 bytes in a short form element", tag=tag_text(tag))
    return _SHORT_HEADER.pack(tag >> 16, tag & 0xFFFF, code, len(value)) + value


def encode_items(datasets: list[bytes]) -> bytes:
    """A sequence value of defined-length items."""
    return b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(one)) + one for one in datasets)


def to_little_endian(vr: str, value: bytes) -> bytes:
    """The value with the bytes of each number reversed, as Big Endian becomes Little Endian."""
    size = NUMBER_BYTES.get(vr, 1)
    if size == 1:
        return value
    if len(value) % size:
        raise RefusedContent("MALFORMED_DATASET", f"a value of {vr} is not a multiple of {size} bytes")
    swapped = bytearray(len(value))
    for index in range(size):
        swapped[index::size] = value[size - 1 - index :: size]
    return bytes(swapped)


def little_endian_copy(payload: bytes) -> bytes:
    """An Explicit VR Big Endian dataset in Explicit VR Little Endian, element by element, the items of sequences included."""
    return _copied(payload, 0, len(payload), EXPLICIT_BIG, 0)


def explicit_copy(payload: bytes, element: Element, encoding: Encoding) -> bytes:
    """One element in Explicit VR Little Endian with defined lengths; an unknown VR in implicit encoding becomes UN."""
    return _copied_element(payload, element, encoding, 0)


def _copied(buf: bytes, pos: int, end: int, encoding: Encoding, depth: int) -> bytes:
    return b"".join(_copied_element(buf, element, encoding, depth) for element in elements(buf, pos, end, encoding, depth))


def _copied_element(buf: bytes, element: Element, encoding: Encoding, depth: int) -> bytes:
    if encoding == EXPLICIT_LITTLE and (element.vr != "SQ" or not element.undefined):
        return buf[element.start : element.stop]
    vr = element.vr
    if not vr:
        entry = dictionary_entry(element.tag)
        vr = "UN" if entry is None else settle_vr(entry.vr, is_signed=False, is_wide=True)
    if vr == "SQ" or (element.undefined and vr == "UN"):
        inside = [
            _copied(buf, start, stop, encoding, depth + 1)
            for start, stop, _ in items(buf, element.value, element.end, encoding, depth, undefined=False)
        ]
        return encode_element(element.tag, "SQ", encode_items(inside))
    value = buf[element.value : element.end]
    return encode_element(element.tag, vr, value if encoding.little else to_little_endian(vr, value))
