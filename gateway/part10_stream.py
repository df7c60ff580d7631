"""The head of a Part 10 file as it comes in (PS3.10 7.1): which instance it holds, and where its data set begins.

The preamble and the file meta information end here and are kept nowhere: a program that hides in the 128 bytes of the preamble
(CVE-2019-11687) is not stored, and every file that leaves is given an empty one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from crypto.errors import RefusedContent
from gateway.dicom_uids import is_valid_uid

NOT_PART_10 = "part10_malformed"
PREAMBLE_BYTES = 128
#: Far more than the elements of PS3.10 Table 7.1-1 take, private information included.
META_BYTES_MAX = 64 * 1024
_START = PREAMBLE_BYTES + 4
_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_CLASS, _INSTANCE, _SYNTAX = 0x0002, 0x0003, 0x0010


@dataclass(frozen=True, slots=True)
class Part10Head:
    """What the file meta information says; valid UIDs (PS3.5 9.1)."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    #: Offset of the first byte of the data set.
    dataset_start: int


def read_part10_head(data: bytes | bytearray | memoryview) -> Part10Head | None:
    """The head of the file that begins with `data`, or None while more of it is needed. Raises: RefusedContent."""
    if len(data) < _START + 12:
        return None
    if bytes(data[PREAMBLE_BYTES:_START]) != b"DICM":
        raise RefusedContent(NOT_PART_10, "PS3.10 7.1")
    group, element, vr, length, group_length = struct.unpack_from("<HH2sHI", data, _START)
    if (group, element, vr, length) != (2, 0, b"UL", 4) or group_length > META_BYTES_MAX:
        raise RefusedContent(NOT_PART_10, "PS3.10 Table 7.1-1", tag="(0002,0000)")
    end = _START + 12 + group_length
    if len(data) < end:
        return None
    values = _meta_values(data, _START + 12, end)
    uids = []
    for number in (_CLASS, _INSTANCE, _SYNTAX):
        raw = values.get(number, b"").rstrip(b"\0 ")
        if not is_valid_uid(raw):
            raise RefusedContent(NOT_PART_10, "PS3.10 Table 7.1-1", tag=f"(0002,{number:04X})")
        uids.append(raw.decode("ascii"))
    return Part10Head(uids[0], uids[1], uids[2], end)


def _meta_values(data: bytes | bytearray | memoryview, position: int, end: int) -> dict[int, bytes]:
    values: dict[int, bytes] = {}
    last = 0
    while position < end:
        if end - position < 8:
            raise RefusedContent(NOT_PART_10, "PS3.10 7.1")
        group, element, vr, length = struct.unpack_from("<HH2sH", data, position)
        position += 8
        if vr in _LONG_VRS:
            if end - position < 4:
                raise RefusedContent(NOT_PART_10, "PS3.10 7.1")
            length = struct.unpack_from("<I", data, position)[0]
            position += 4
        if group != 2 or element <= last or length > end - position:
            raise RefusedContent(NOT_PART_10, "PS3.10 7.1", tag=f"({group:04X},{element:04X})")
        last = element
        values[element] = bytes(data[position : position + min(length, 128)])
        position += length
    return values
