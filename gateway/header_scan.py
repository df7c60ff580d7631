"""Who an instance says it is: the identifying elements of groups 0008 to 0020, read without decoding anything else.

This is all that the network process knows of a data set. It is written to be handed to anybody's bytes:
- Nothing past (0020,000E) is looked at; no value but the eight wanted ones is copied; what has a length is stepped over, not entered.
- Sequences of undefined length are walked with a stack of at most `SEQUENCE_DEPTH_MAX`, not by recursion, and no more than
  `ELEMENTS_MAX` elements are looked at within them.
- Elements of the outermost data set ascend strictly (PS3.5 7.1). Without that rule another reader could find another identity in the
  same bytes.
- Whatever is not as PS3.5 says ends in `RefusedContent`, and in nothing else.

A duplicate of these elements further back in the data set is not seen here; whoever parses the whole compares again.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from crypto.errors import RefusedContent
from gateway.dicom_uids import DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, is_valid_uid

SEQUENCE_DEPTH_MAX = 16
ELEMENTS_MAX = 200_000
#: Patient ID and its issuer are LO, 64 characters (PS3.5 6.2), here with room for four bytes each and escape sequences (ISO 2022).
_TEXT_BYTES_MAX = 512

SPECIFIC_CHARACTER_SET = 0x00080005
SOP_CLASS_UID = 0x00080016
SOP_INSTANCE_UID = 0x00080018
ACCESSION_NUMBER = 0x00080050
PATIENT_ID = 0x00100020
ISSUER_OF_PATIENT_ID = 0x00100021
STUDY_INSTANCE_UID = 0x0020000D
SERIES_INSTANCE_UID = 0x0020000E
_WANTED = frozenset(
    {SPECIFIC_CHARACTER_SET, SOP_CLASS_UID, SOP_INSTANCE_UID, ACCESSION_NUMBER, PATIENT_ID, ISSUER_OF_PATIENT_ID}
    | {STUDY_INSTANCE_UID, SERIES_INSTANCE_UID}
)

_UNDEFINED = 0xFFFFFFFF
_LITTLE_HEAD, _BIG_HEAD = struct.Struct("<HH2sH"), struct.Struct(">HH2sH")
_LITTLE_LONG, _BIG_LONG = struct.Struct("<I"), struct.Struct(">I")
_IMPLICIT_HEAD = struct.Struct("<HHI")
_ITEM = 0xFFFEE000
_ITEM_DELIMITER = 0xFFFEE00D
_SEQUENCE_DELIMITER = 0xFFFEE0DD
#: PS3.5 7.1.2: the VRs with a 16-bit length. All others, those of later editions included, have a 32-bit length.
_SHORT_VRS = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FL", b"FD", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS", b"ST", b"TM"}
    | {b"UI", b"UL", b"US"}
)

MALFORMED = "data_set_malformed"
TRUNCATED = "data_set_truncated"
TOO_DEEP = "sequences_too_deep"
TOO_LONG = "header_too_long"
NOT_ASCENDING = "elements_not_ascending"
GROUP_NOT_ALLOWED = "group_not_allowed"
DEFLATED = "data_set_deflated"
MISSING_UID = "uid_missing"
INVALID_UID = "uid_invalid"
INVALID_TEXT = "text_too_long"


@dataclass(frozen=True, slots=True)
class HeaderFacts:
    """What the data set says. UIDs are valid by PS3.5 9.1; the rest is bytes as received, without trailing padding, b"" where absent."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    patient_id: bytes
    issuer_of_patient_id: bytes
    specific_character_set: bytes
    accession_number: bytes


@dataclass(frozen=True, slots=True)
class Encoding:
    """How elements are written (PS3.5 Annex A)."""

    is_explicit: bool
    is_little: bool


@dataclass(frozen=True, slots=True)
class ElementPlace:
    """Where an element's value lies; of a sequence of undefined length, up to its delimiter."""

    tag: int
    start: int
    end: int
    encoding: Encoding


_IMPLICIT, _BIG, _EXPLICIT = Encoding(False, True), Encoding(True, False), Encoding(True, True)


def encoding_of(transfer_syntax_uid: str) -> Encoding:
    """Raises: RefusedContent for a deflated syntax; every other one that is not one of the first two is Explicit VR Little Endian (A.4)."""
    if transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN:
        return _IMPLICIT
    if transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN:
        return _BIG
    if transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        raise RefusedContent(DEFLATED)
    return _EXPLICIT


def scan_header(payload: bytes | memoryview | Sequence[bytes | memoryview], transfer_syntax_uid: str) -> HeaderFacts:
    """Read the identifying elements of an encoded data set (or of a first piece that reaches past them), whole or in parts.

    Raises: RefusedContent, with the tag where there is one.
    """
    if isinstance(payload, bytes | memoryview):
        return _facts(payload, transfer_syntax_uid)
    if len(payload) > 1:
        # Past the last wanted element nothing is looked at: a first part that reaches there says the same as the whole.
        with contextlib.suppress(RefusedContent):
            return _facts(payload[0], transfer_syntax_uid)
    return _facts(payload[0] if len(payload) == 1 else b"".join(payload), transfer_syntax_uid)


def _facts(payload: bytes | memoryview, transfer_syntax_uid: str) -> HeaderFacts:
    values = _wanted_values(payload, encoding_of(transfer_syntax_uid))
    return HeaderFacts(
        _uid(values, SOP_CLASS_UID),
        _uid(values, SOP_INSTANCE_UID),
        _uid(values, STUDY_INSTANCE_UID),
        _uid(values, SERIES_INSTANCE_UID),
        _text(values, PATIENT_ID),
        _text(values, ISSUER_OF_PATIENT_ID),
        _text(values, SPECIFIC_CHARACTER_SET),
        _text(values, ACCESSION_NUMBER),
    )


def elements(data: bytes | memoryview, start: int, end: int, encoding: Encoding) -> Iterator[ElementPlace]:
    """The elements between two offsets, one level of them, in order. Raises: RefusedContent."""
    walk = _Walk(data, end)
    position = start
    while position < end:
        tag, value, length, inner = walk.element_head(position, encoding)
        if tag >> 16 == 0xFFFE:
            raise RefusedContent(MALFORMED, tag=_shown(tag))
        if length == _UNDEFINED:
            after = walk.skip(value, inner, in_item=False)
            yield ElementPlace(tag, value, after - 8, inner)
            position = after
        else:
            yield ElementPlace(tag, value, value + length, encoding)
            position = value + length


def items(data: bytes | memoryview, sequence: ElementPlace) -> Iterator[tuple[int, int]]:
    """(start, end) of the data set in each item of a sequence (PS3.5 7.5). Raises: RefusedContent."""
    walk = _Walk(data, sequence.end)
    position = sequence.start
    while position < sequence.end:
        tag, length = walk.delimiter(position, sequence.encoding)
        position += 8
        if tag != _ITEM:
            raise RefusedContent(MALFORMED, tag=_shown(tag))
        if length == _UNDEFINED:
            after = walk.skip(position, sequence.encoding, in_item=True)
            yield position, after - 8
            position = after
        else:
            if length > sequence.end - position:
                raise RefusedContent(TRUNCATED)
            yield position, position + length
            position += length


def _wanted_values(data: bytes | memoryview, encoding: Encoding) -> dict[int, bytes]:
    # The one loop that runs for every instance received: no call per element, unless it is a sequence of undefined length. It needs no
    # count of elements: they ascend, and every one of them takes at least eight bytes of the piece.
    head = (_LITTLE_HEAD if encoding.is_little else _BIG_HEAD).unpack_from
    long_length = (_LITTLE_LONG if encoding.is_little else _BIG_LONG).unpack_from
    is_explicit, end = encoding.is_explicit, len(data)
    short_vrs, wanted, undefined = _SHORT_VRS, _WANTED, _UNDEFINED
    values: dict[int, bytes] = {}
    position, last, vr = 0, 0x0007FFFF, b""
    walk: _Walk | None = None
    while position < end:
        if end - position < 8:
            raise RefusedContent(TRUNCATED)
        if is_explicit:
            group, element, vr, length = head(data, position)
        else:
            group, element, length = _IMPLICIT_HEAD.unpack_from(data, position)
        value = position + 8
        tag = group << 16 | element
        if tag <= last:
            raise RefusedContent(GROUP_NOT_ALLOWED if tag < 0x00080000 else NOT_ASCENDING, tag=_shown(tag))
        if tag > SERIES_INSTANCE_UID:
            break
        if is_explicit and vr not in short_vrs:
            if not (vr.isalpha() and vr.isupper()) or end - value < 4:
                raise RefusedContent(MALFORMED, tag=_shown(tag))
            length = long_length(data, value)[0]
            value += 4
        last = tag
        if length == undefined:
            if tag in wanted:
                raise RefusedContent(MALFORMED, tag=_shown(tag))
            walk = walk or _Walk(data, end)
            position = walk.skip(value, Encoding(False, True) if vr == b"UN" else encoding, in_item=False)
            continue
        position = value + length
        if position > end:
            raise RefusedContent(TRUNCATED, tag=_shown(tag))
        if tag in wanted:
            if length > _TEXT_BYTES_MAX:
                raise RefusedContent(INVALID_TEXT, tag=_shown(tag))
            values[tag] = bytes(data[value:position])
    return values


class _Walk:
    """Steps over elements, with a count of them over its whole life."""

    def __init__(self, data: bytes | memoryview, end: int) -> None:
        self._data = data
        self._end = end
        self._count = 0

    def count(self) -> None:
        self._count += 1
        if self._count > ELEMENTS_MAX:
            raise RefusedContent(TOO_LONG)

    def delimiter(self, position: int, encoding: Encoding) -> tuple[int, int]:
        """(tag, length) of an item or delimiter, which has no VR in any syntax (PS3.5 7.5)."""
        self.count()
        if self._end - position < 8:
            raise RefusedContent(TRUNCATED)
        group, element, length = struct.unpack_from("<HHI" if encoding.is_little else ">HHI", self._data, position)
        return group << 16 | element, length

    def element_head(self, position: int, encoding: Encoding) -> tuple[int, int, int, Encoding]:
        """(tag, offset of the value, length, encoding of what is inside); the value lies within the data unless the length is undefined."""
        tag, length = self.delimiter(position, encoding)
        value, inner = position + 8, encoding
        if encoding.is_explicit and tag >> 16 != 0xFFFE:
            vr = bytes(self._data[position + 4 : position + 6])
            if vr in _SHORT_VRS:
                length = struct.unpack_from("<H" if encoding.is_little else ">H", self._data, position + 6)[0]
            else:
                if not (vr.isalpha() and vr.isupper()) or self._end - value < 4:
                    raise RefusedContent(MALFORMED, tag=_shown(tag))
                length = struct.unpack_from("<I" if encoding.is_little else ">I", self._data, value)[0]
                value += 4
            if vr == b"UN":
                inner = Encoding(False, True)  # PS3.5 6.2.2, note on UN of undefined length
        if length != _UNDEFINED and length > self._end - value:
            raise RefusedContent(TRUNCATED, tag=_shown(tag))
        return tag, value, length, inner

    def skip(self, position: int, encoding: Encoding, *, in_item: bool) -> int:
        """The offset behind the delimiter that closes the sequence (or, `in_item`, the item) whose first content is at `position`."""
        stack = [(in_item, encoding)]
        while stack:
            is_item, encoding = stack[-1]
            if is_item:
                tag, value, length, inner = self.element_head(position, encoding)
                if tag == _ITEM_DELIMITER and length == 0:
                    stack.pop()
                    position = value
                elif tag >> 16 == 0xFFFE:
                    raise RefusedContent(MALFORMED, tag=_shown(tag))
                elif length == _UNDEFINED:
                    stack.append((False, inner))
                    position = value
                else:
                    position = value + length
            else:
                tag, length = self.delimiter(position, encoding)
                position += 8
                if tag == _SEQUENCE_DELIMITER and length == 0:
                    stack.pop()
                elif tag != _ITEM:
                    raise RefusedContent(MALFORMED, tag=_shown(tag))
                elif length == _UNDEFINED:
                    stack.append((True, encoding))
                elif length > self._end - position:
                    raise RefusedContent(TRUNCATED)
                else:
                    position += length
            if len(stack) > 2 * SEQUENCE_DEPTH_MAX:
                raise RefusedContent(TOO_DEEP)
        return position


def _uid(values: dict[int, bytes], tag: int) -> str:
    raw = values.get(tag, b"").rstrip(b"\0 ")
    if not raw:
        raise RefusedContent(MISSING_UID, tag=_shown(tag))
    if not is_valid_uid(raw):
        raise RefusedContent(INVALID_UID, "PS3.5 9.1", tag=_shown(tag))
    return raw.decode("ascii")


def _text(values: dict[int, bytes], tag: int) -> bytes:
    return values.get(tag, b"").rstrip(b"\0 ")


def _shown(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
