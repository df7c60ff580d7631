"""A JP2 file that stands where a bare JPEG 2000 codestream should, without its wrapper: the codestream alone, byte for byte.

PS3.5 8.2.4 has the codestream bare; some senders store the file around it (ISO/IEC 15444-1 Annex I), whose XML, UUID and rights boxes can
hold anything. Decoders of DICOM take no notice of the wrapper, so it may go wherever it changes no sample: a palette, channels in another
order or with opacity, and a colour space that asks for conversion have two readings and are refused.
"""

from __future__ import annotations

from collections.abc import Iterator

from crypto.errors import RefusedContent

SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
_GREY_OR_RGB = frozenset({16, 17})
_PROFILE_SPACES = frozenset({b"RGB ", b"GRAY"})
_IHDR_BYTES = 14
_COMPONENTS_MAX = 4


def codestream_of(file: bytes) -> bytes:
    """The one codestream of the JP2 file `file`; every other box is left behind.

    Raises:
        RefusedContent: PIXEL_UNDECODABLE where boxes do not add up, or the wrapper says what the codestream alone would not.
    """
    header = codestream = None
    for index, (kind, value) in enumerate(_boxes(file, len(SIGNATURE))):
        if (index == 0) != (kind == b"ftyp"):
            raise _refused("a file type that is missing, or comes twice")
        if kind == b"jp2h":
            if header is not None or codestream is not None:
                raise _refused("two headers, or one behind the codestream")
            header = value
        elif kind == b"jp2c":
            if codestream is not None:
                raise _refused("two codestreams in one frame")
            codestream = value
    if header is None or codestream is None:
        raise _refused("no header or no codestream")
    _check_header(header, codestream)
    return codestream


def _refused(why: str) -> RefusedContent:
    return RefusedContent("PIXEL_UNDECODABLE", f"a JP2 file with {why}", tag="(7FE0,0010)")


def _boxes(data: bytes, at: int) -> Iterator[tuple[bytes, bytes]]:
    """(type, value) of each box from `at` on (15444-1 I.4); one byte that makes the length even is no box."""
    while at < len(data) - 1:
        length, kind, value = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], at + 8
        if length == 1:
            length, value = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
        end = len(data) if length == 0 else at + length
        if not value <= end <= len(data):
            raise _refused("a box that is cut off")
        yield kind, data[value:end]
        at = end
    if data[at:] not in (b"", b"\0"):
        raise _refused("bytes behind its boxes")


def _check_header(header: bytes, codestream: bytes) -> None:
    """Raises where the samples of the codestream are not, as they stand, what the header says the image is."""
    seen: dict[bytes, bytes] = {}
    for kind, value in _boxes(header, 0):
        if kind == b"colr" and kind in seen:
            continue  # of several the first is meant (I.5.3.3)
        if kind in seen or kind not in (b"ihdr", b"bpcc", b"colr", b"cdef", b"res "):
            raise _refused("a palette, or a header box of no known meaning")
        seen[kind] = value
    size, colour = seen.get(b"ihdr", b""), seen.get(b"colr", b"")
    if len(size) != _IHDR_BYTES or not 1 <= (components := int.from_bytes(size[8:10], "big")) <= _COMPONENTS_MAX:
        raise _refused("no size")
    # SIZ: marker, length and capabilities, then the grid's size, its origin, tiles (16 bytes) and the number of components.
    width, height, left, top = (int.from_bytes(codestream[at : at + 4], "big") for at in (8, 12, 16, 20))
    if (height - top, width - left) != (int.from_bytes(size[:4], "big"), int.from_bytes(size[4:8], "big")):
        raise _refused("another size than its codestream's")
    if int.from_bytes(codestream[40:42], "big") != components:
        raise _refused("other components than its codestream's")
    is_plain = colour[:1] == b"\1" and int.from_bytes(colour[3:7], "big") in _GREY_OR_RGB
    if not is_plain and not (colour[:1] == b"\2" and colour[19:23] in _PROFILE_SPACES):
        raise _refused("colours that must be converted")
    if b"cdef" in seen and seen[b"cdef"] != _channels_in_order(components):
        raise _refused("channels in another order, or with opacity")


def _channels_in_order(components: int) -> bytes:
    in_order = (number.to_bytes(2, "big") + b"\0\0" + (number + 1).to_bytes(2, "big") for number in range(components))
    return components.to_bytes(2, "big") + b"".join(in_order)
