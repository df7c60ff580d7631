"""The compressed frames of an output read back, by code that shares nothing with what wrote them: is there more in them than pictures?

Each fragment is recognised by its first bytes. A JPEG has no comment, of application segments only short ones that decide on colour, and
ends where it ends; a JPEG 2000 codestream has no comment; neither has bytes behind its end but the one that makes its length even.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_COLOUR = re.compile(rb"\xff(?:\xe0\x00\x10JFIF\x00.{7}\x00\x00|\xee\x00\x0eAdobe.{7}|\xe8\x00\x07mrfx.)", re.DOTALL)
_CODED = re.compile(rb"(?:[^\xff]++|\xff[\x00-\x7f\xd0-\xd7])*+")


def holds_more_than_pictures(pixels: bytes | memoryview, value: int) -> bool:
    """Whether a fragment of the encapsulated pixel data at `value` holds what no picture needs; False for native pixel data."""
    for index, frame in enumerate(_fragments(pixels, value)):
        if index == 0:
            continue  # the offset table
        stop = len(frame) - (frame[-3:] == b"\xff\xd9\0")
        if frame[:3] == b"\xff\xd8\xff":
            is_bare = _jpeg_is_bare(frame, stop)
        elif frame[:4] == b"\xff\x4f\xff\x51":
            is_bare = _jpeg_2000_is_bare(frame, stop)
        else:
            # RLE has a header of numbers and frames without a code none at all; any other container is none of ours.
            is_bare = frame[:4] != b"\x00\x00\x00\x0c"
        if not is_bare:
            return True
    return False


def _fragments(pixels: bytes | memoryview, at: int) -> Iterator[bytes]:
    while pixels[at : at + 4] == b"\xfe\xff\x00\xe0":
        length = int.from_bytes(pixels[at + 4 : at + 8], "little")
        yield bytes(pixels[at + 8 : at + 8 + length])
        at += 8 + length


def _jpeg_is_bare(frame: bytes, stop: int) -> bool:
    at = 2
    while at + 4 <= stop:
        code = frame[at + 1]
        if frame[at] != 0xFF:
            return False
        if code == 0xFF:
            at += 1
            continue
        if code in (0xFE, 0xD9) or (0xE0 <= code <= 0xEF and not _COLOUR.match(frame, at, stop)):
            return False
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
        if code == 0xDA:
            coded = _CODED.match(frame, at, stop)
            at = coded.end() if coded else at
    while at + 2 < stop and frame[at : at + 2] == b"\xff\xff":
        at += 1
    return frame[at:stop] == b"\xff\xd9"


def _jpeg_2000_is_bare(frame: bytes, stop: int) -> bool:
    at, part, length = 2, 0, 0
    while at + 4 <= stop:
        code = frame[at + 1]
        if frame[at] != 0xFF or code == 0x64:
            return False
        if code == 0x90:
            part, length = at, int.from_bytes(frame[at + 6 : at + 10], "big")
        if code == 0x93:
            at = part + length if length else frame.find(b"\xff\xd9", at, stop)
            if at <= part:
                return False
        else:
            at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return frame[at:stop] == b"\xff\xd9"
