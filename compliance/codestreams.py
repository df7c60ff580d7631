"""A compressed frame without what no picture needs: comments, application segments, and whatever stands beside the codestream.

A camera writes the name, the place and the day of a picture where no table of attributes looks: Exif in APP1, comments in COM, anything at
all behind the end. `bare` walks the markers of JPEG and JPEG-LS (ISO/IEC 10918-1 Annex B, 14495-1 Annex C), JPEG 2000 and HTJ2K
(15444-1 Annex A) and the segments of RLE (PS3.5 Annex G), and leaves only those that decoding needs. What holds nothing else is given back
as it is, bit for bit; what cannot be walked to its end is refused. Kept are the segments that decide on colour: JFIF (without its
thumbnail), Adobe's transform, HP's for JPEG-LS. Not proved: that coded data themselves hold pixels alone to their last byte.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from compliance import jp2_wrapper
from crypto.errors import RefusedContent

_JPEG = frozenset(f"1.2.840.10008.1.2.4.{last}" for last in (*range(50, 67), 70))
_JPEG_LS = frozenset({"1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"})
_JPEG_2000 = frozenset(f"1.2.840.10008.1.2.4.{last}" for last in (90, 91, 92, 93, 201, 202, 203))
_RLE = "1.2.840.10008.1.2.5"
_ENCAPSULATED_NATIVE = "1.2.840.10008.1.2.1.98"

_SOI, _EOI, _SOS, _DHT, _DQT, _DRI, _DNL, _LSE, _COM = 0xD8, 0xD9, 0xDA, 0xC4, 0xDB, 0xDD, 0xDC, 0xF8, 0xFE
_SOF = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_SOF_LS = 0xF7
_APP = range(0xE0, 0xF0)
#: The next marker in coded data: in JPEG a byte FF is followed by 00 or a restart, in JPEG-LS by a bit of zero or a restart.
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7]")
_AFTER_SCAN_LS = re.compile(rb"\xff[\x80-\xcf\xd8-\xff]")
_JFIF_BYTES, _ADOBE_BYTES = 14, 12

_SIZ, _SOT, _SOD, _EOC, _COM_2000 = b"\xff\x51", b"\xff\x90", b"\xff\x93", b"\xff\xd9", b"\xff\x64"
#: CAP, COD, COC, TLM, PRF, PLM, CPF, QCD, QCC, RGN, POC, PPM, CRG in the main header; COD to PPT in those of tile-parts.
_MAIN = frozenset(bytes((0xFF, code)) for code in (0x50, 0x52, 0x53, 0x55, 0x56, 0x57, 0x59, 0x5C, 0x5D, 0x5E, 0x5F, 0x60, 0x63))
_TILE = frozenset(bytes((0xFF, code)) for code in (0x52, 0x53, 0x58, 0x5C, 0x5D, 0x5E, 0x5F, 0x61))
#: Longer than any that parameters of so many components and levels fill.
_PARAMETERS_BYTES_MAX = {
    b"\xff\x50": 70,
    b"\xff\x52": 45,
    b"\xff\x53": 43,
    b"\xff\x56": 70,
    b"\xff\x59": 70,
    b"\xff\x5c": 197,
    b"\xff\x5d": 199,
}
_PIXEL_TAG = "(7FE0,0010)"


def bare(stream: bytes, transfer_syntax_uid: str, samples_bytes: int, planes: int) -> bytes:
    """`stream`, one frame, without comments, application segments and what stands behind its end; itself where it has none.

    `samples_bytes` are the decoded bytes of one of `planes` byte planes, which RLE codes one by one.

    Raises:
        RefusedContent: PIXEL_UNDECODABLE where it cannot be walked; PIXEL_SYNTAX_REFUSED for syntaxes that are not walked, video above all.
    """
    if transfer_syntax_uid in _JPEG:
        return _jpeg(stream, is_ls=False)
    if transfer_syntax_uid in _JPEG_LS:
        return _jpeg(stream, is_ls=True)
    if transfer_syntax_uid in _JPEG_2000:
        return _jpeg_2000(stream)
    if transfer_syntax_uid == _RLE:
        return _rle(stream, samples_bytes, planes)
    if transfer_syntax_uid == _ENCAPSULATED_NATIVE:
        total = samples_bytes * planes
        if len(stream) < total:
            raise _broken("fewer bytes than the frame needs")
        return stream[:total]
    raise RefusedContent("PIXEL_SYNTAX_REFUSED", "what such a stream holds beside pixels cannot be told", tag=_PIXEL_TAG)


def _broken(why: str) -> RefusedContent:
    return RefusedContent("PIXEL_UNDECODABLE", why, tag=_PIXEL_TAG)


def _joined(stream: bytes, kept: list[tuple[int, int] | bytes], end: int) -> bytes:
    """The kept ranges and pieces; `stream` itself where they are all of it."""
    if not kept:
        # Up to its end, and the byte that makes its length even.
        return stream if end == len(stream) or (end == len(stream) - 1 and stream[end] == 0) else stream[:end]
    return b"".join(piece if isinstance(piece, bytes) else stream[piece[0] : piece[1]] for piece in kept)


class _Cut:
    """Notes what of a stream is left out or written anew."""

    def __init__(self, stream: bytes) -> None:
        self._stream, self._done = stream, 0
        self._kept: list[tuple[int, int] | bytes] = []

    def out(self, start: int, stop: int, instead: bytes = b"") -> None:
        if self._stream[start:stop] != instead:
            self._kept += [(self._done, start), instead]
            self._done = stop

    def rest(self, end: int) -> bytes:
        if self._kept:
            self._kept.append((self._done, end))
        return _joined(self._stream, self._kept, end)


def _jpeg(stream: bytes, *, is_ls: bool) -> bytes:
    if stream[:2] != b"\xff\xd8":
        raise _broken("no start of a JPEG image")
    cut, pos, has_frame, has_scan, seen = _Cut(stream), 2, False, False, set()
    while True:
        begin = pos
        marker, pos = _marker(stream, pos)
        if marker == _EOI:
            if not has_scan:
                raise _broken("an image without a scan")
            return cut.rest(pos)
        value, stop = _segment(stream, pos)
        if marker == _COM or marker in _APP:
            instead = _application(marker, stream[value:stop], is_ls)
            if instead and marker in seen:
                raise _broken("two segments that decide on colour")
            if instead:
                seen.add(marker)
            cut.out(begin, stop, instead)
        elif marker == _SOS:
            if not has_frame or stop - value != 4 + 2 * stream[value]:
                raise _broken("a scan of no frame")
            has_scan = True
            found = (_AFTER_SCAN_LS if is_ls else _AFTER_SCAN).search(stream, stop)
            if found is None:
                raise _broken("the image does not end")
            pos = found.start()
            continue
        else:
            is_frame = marker == _SOF_LS if is_ls else marker in _SOF
            if is_frame == has_frame and is_frame:
                raise _broken("two frames in one")
            has_frame = has_frame or is_frame
            _check_parameters(marker, stream[value:stop], is_frame, is_ls)
        pos = stop


def _marker(stream: bytes, pos: int) -> tuple[int, int]:
    """(code, position behind it) of the marker at `pos`, fill bytes passed over."""
    start = pos
    while stream[pos : pos + 1] == b"\xff":
        pos += 1
    if pos == start or pos >= len(stream) or stream[pos] in (0x00, 0x01, _SOI):
        raise _broken("no marker where one must stand")
    return stream[pos], pos + 1


def _segment(stream: bytes, pos: int) -> tuple[int, int]:
    """(start, end) of the value of a marker segment whose length stands at `pos`."""
    length = int.from_bytes(stream[pos : pos + 2], "big")
    if length < 2 or pos + length > len(stream):
        raise _broken("a segment that is cut off")
    return pos + 2, pos + length


def _application(marker: int, value: bytes, is_ls: bool) -> bytes:
    """The segment that takes the place of this one: b"" unless a decoder chooses the colours by it."""
    if marker == 0xE0 and value[:5] == b"JFIF\0" and len(value) >= _JFIF_BYTES:
        # A thumbnail is the picture before anything was blanked.
        return b"\xff\xe0\0\x10" + value[:12] + b"\0\0"
    if marker == 0xEE and value[:5] == b"Adobe" and len(value) >= _ADOBE_BYTES:
        return b"\xff\xee\0\x0e" + value[:_ADOBE_BYTES]
    if is_ls and marker == 0xE8 and value[:4] == b"mrfx":
        if len(value) != 5 or value[4] > 5:
            raise _broken("a colour transform that none is")
        return b"\xff\xe8\0\x07" + value
    return b""


def _check_parameters(marker: int, value: bytes, is_frame: bool, is_ls: bool) -> None:
    """Tables and parameters are as long as what they say they hold, so that nothing stands behind it."""
    if is_frame:
        is_right = len(value) > 5 and len(value) == 6 + 3 * value[5]
    elif marker == _DQT:
        is_right = _ends(value, lambda at: 1 + 64 * (1 + (value[at] >> 4)))
    elif marker == _DHT:
        is_right = _ends(value, lambda at: 17 + sum(value[at + 1 : at + 17]))
    elif marker == _DRI:
        is_right = len(value) == 2 or (is_ls and len(value) in (3, 4))
    elif marker == _DNL:
        is_right = len(value) == 2
    elif marker == 0xCC:
        is_right = len(value) <= 16 and len(value) % 2 == 0
    else:
        # Of JPEG-LS the presets of coding; its mapping tables are of a palette that DICOM does not know.
        is_right = is_ls and marker == _LSE and value[:1] == b"\1" and len(value) == 11
    if not is_right:
        raise _broken("a segment that no decoder needs, or of a wrong length")


def _ends(value: bytes, length: Callable[[int], int]) -> bool:
    at = 0
    while at < len(value):
        at += length(at)
    return at == len(value) and at > 0


def _jpeg_2000(stream: bytes) -> bytes:
    if stream.startswith(jp2_wrapper.SIGNATURE):
        stream = jp2_wrapper.codestream_of(stream)
    if stream[:4] != b"\xff\x4f\xff\x51":
        raise _broken("no start of a JPEG 2000 codestream")
    cut, pos = _Cut(stream), 2
    while (marker := stream[pos : pos + 2]) != _SOT:
        value, stop = _segment(stream, pos + 2)
        if marker == _COM_2000:
            cut.out(pos, stop)
        elif marker == _SIZ:
            if pos != 2 or stop - value < 36 or stop - value != 36 + 3 * int.from_bytes(stream[value + 34 : value + 36], "big"):
                raise _broken("a size of a wrong length")
        else:
            _check_main(marker, stop - value)
        pos = stop
    while stream[pos : pos + 2] == _SOT:
        pos = _tile_part_end(stream, pos)
    if stream[pos : pos + 2] != _EOC:
        raise _broken("the codestream does not end")
    return cut.rest(pos + 2)


def _check_main(marker: bytes, length: int) -> None:
    if marker not in _MAIN or length > _PARAMETERS_BYTES_MAX.get(marker, 0xFFFF):
        raise _broken("a segment that no decoder needs, or of a wrong length")


def _tile_part_end(stream: bytes, start: int) -> int:
    """Where the tile-part at `start` ends. Its header holds no comment: to take one out would move what other segments count."""
    value, pos = _segment(stream, start + 2)
    if pos - value != 8:
        raise _broken("a tile-part of a wrong length")
    length = int.from_bytes(stream[value + 2 : value + 6], "big")
    while (marker := stream[pos : pos + 2]) != _SOD:
        if marker not in _TILE:
            raise _broken("a comment in a tile-part, or what no decoder needs")
        _, pos = _segment(stream, pos + 2)
    # No length: up to the end of the codestream, a pair of bytes that coded data never hold.
    end = start + length if length else stream.find(_EOC, pos)
    if end < pos + 2 or end > len(stream):
        raise _broken("a tile-part that is cut off")
    return end


def _rle(stream: bytes, samples_bytes: int, planes: int) -> bytes:
    if len(stream) < 64:
        raise _broken("no header of segments")
    count, *offsets = struct.unpack("<16I", stream[:64])
    if count != planes or not 1 <= count <= 15 or offsets[0] != 64 or any(offsets[count:]):
        raise _broken("not the segments that the frame needs")
    used, ends = 64, [*offsets[1:count], len(stream)]
    for start, end in zip(offsets[:count], ends, strict=True):
        if not used <= start <= used + 1 or not start < end <= len(stream) or any(stream[used:start]):
            raise _broken("segments that leave room for more, or that cannot be")
        used = _run_lengths_end(stream, start, end, samples_bytes)
    return _Cut(stream).rest(used)


def _run_lengths_end(stream: bytes, pos: int, end: int, wanted: int) -> int:
    """Where the code of `wanted` bytes ends (PS3.5 G.3.1)."""
    while wanted > 0:
        if pos >= end:
            raise _broken("a segment that is cut off")
        code = stream[pos]
        if code < 128:
            wanted -= code + 1
            pos += code + 2
        elif code > 128:
            wanted -= 257 - code
            pos += 2
        else:
            pos += 1
    if wanted or pos > end:
        raise _broken("a segment that decodes to more than a plane")
    return pos
