"""Compressed frames leave without comments, application segments and what stands behind their end, and with the same pixels."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from compliance.codestream_scan import holds_more_than_pictures
from compliance.codestreams import bare
from compliance.dataset_bytes import EXPLICIT_LITTLE, elements
from compliance.identity_terms import IdentityTerms
from compliance.residual_scan import ResidualScan
from compliance.transcode import PixelDescription, encapsulate, write_pixels
from crypto.errors import RefusedContent
from tests.deid_samples import bare_instance, names_for, released

JPEG, LOSSLESS, JPEG_LS, J2K, HTJ2K, RLE = (
    *(f"1.2.840.10008.1.2.4.{last}" for last in (50, 70, 80, 90, 201)),
    "1.2.840.10008.1.2.5",
)
TEXT = b"Exif Artist=Li Wei MRN=48213 52.5200N 13.4050E"
GREY = (np.indices((24, 40)).sum(0) * 3).astype("u1")
COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=2)


def _jpeg(values: np.ndarray, mode: str = "L", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values, mode).save(stream, "JPEG", **options)
    return stream.getvalue()


def _rle(values: np.ndarray) -> bytes:
    planes = [bytes(imagecodecs.packbits_encode(values[..., at].tobytes())) for at in range(3)]
    planes = [plane + b"\0" * (len(plane) % 2) for plane in planes]
    offsets = [64 + sum(map(len, planes[:at])) for at in range(3)]
    return struct.pack("<16I", 3, *offsets, *([0] * 12)) + b"".join(planes)


def _jp2(values: np.ndarray) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(values, level=0, codecformat="jp2"))


def _box(kind: bytes, value: bytes) -> bytes:
    return struct.pack(">I", len(value) + 8) + kind + value


def _in_header(file: bytes, box: bytes) -> bytes:
    at = file.index(b"jp2h")
    length = int.from_bytes(file[at - 4 : at], "big")
    end = at - 4 + length
    return file[: at - 4] + struct.pack(">I", length + len(box)) + file[at:end] + box + file[end:]


def _before_codestream(file: bytes, *boxes: bytes) -> bytes:
    at = file.index(b"jp2c") - 4
    return file[:at] + b"".join(boxes) + file[at:]


def _segment(code: int, value: bytes) -> bytes:
    return bytes((0xFF, code)) + struct.pack(">H", len(value) + 2) + value


def _behind_start(stream: bytes, *segments: bytes) -> bytes:
    return stream[:2] + b"".join(segments) + stream[2:]


def _main_header(stream: bytes, segment: bytes) -> bytes:
    at = stream.index(b"\xff\x52")
    return stream[:at] + segment + stream[at:]


JPEG_STREAM = _jpeg(GREY)
J2K_STREAM = bytes(imagecodecs.jpeg2k_encode(GREY, level=0, codecformat="j2k"))
LS_STREAM = bytes(imagecodecs.jpegls_encode(GREY))
HT_STREAM = bytes(imagecodecs.htj2k_encode(GREY, reversible=True))
RLE_STREAM = _rle(COLOUR)
DECODERS: dict[str, Callable[[bytes], np.ndarray]] = {
    JPEG: imagecodecs.jpeg8_decode,
    LOSSLESS: imagecodecs.ljpeg_decode,
    JPEG_LS: imagecodecs.jpegls_decode,
    J2K: imagecodecs.jpeg2k_decode,
    HTJ2K: imagecodecs.htj2k_decode,
}


def _bare(stream: bytes, syntax: str) -> bytes:
    return bare(stream, syntax, GREY.size, 3 if syntax == RLE else 1)


@pytest.mark.parametrize(
    ("stream", "syntax"),
    [
        (_behind_start(JPEG_STREAM, _segment(0xFE, TEXT)), JPEG),
        (_behind_start(JPEG_STREAM, _segment(0xE1, b"Exif\0\0" + TEXT), _segment(0xE2, TEXT), _segment(0xED, TEXT)), JPEG),
        (_behind_start(JPEG_STREAM, _segment(0xE0, b"JFXX\0\x10" + TEXT)), JPEG),
        (_behind_start(JPEG_STREAM[:2] + JPEG_STREAM[20:], _segment(0xE0, JPEG_STREAM[6:18] + b"\x04\x04" + TEXT[:48].ljust(48))), JPEG),
        (_behind_start(_jpeg(COLOUR, "RGB"), _segment(0xEE, b"Adobe\0\x64\0\0\0\0\x01" + TEXT)), JPEG),
        (JPEG_STREAM + TEXT, JPEG),
        (JPEG_STREAM + b"\0\0" + TEXT + JPEG_STREAM, JPEG),
        (_behind_start(_jpeg(COLOUR, "RGB", progressive=True), _segment(0xFE, TEXT)) + TEXT, JPEG),
        (_behind_start(bytes(imagecodecs.ljpeg_encode(GREY)), b"\xff\xff" + _segment(0xFE, TEXT)), LOSSLESS),
        (_behind_start(LS_STREAM, _segment(0xE8, b"SPIFF\0" + TEXT), _segment(0xFE, TEXT)) + TEXT, JPEG_LS),
        (_main_header(J2K_STREAM, _segment(0x64, b"\0\1" + TEXT)), J2K),
        (J2K_STREAM + TEXT, J2K),
        (_before_codestream(_jp2(GREY), _box(b"xml ", TEXT), _box(b"uuid", b"u" * 16 + TEXT)), J2K),
        (_jp2(GREY) + _box(b"xml ", TEXT) + b"\0", J2K),
        (_in_header(_jp2(GREY), _box(b"colr", b"\2\0\0" + TEXT)), J2K),
        (
            _main_header(
                # Of no stated length: up to the end.
                re.sub(rb"....jp2c", b"\0\0\0\0jp2c", _before_codestream(_jp2(GREY), _box(b"xml ", TEXT)), flags=re.DOTALL),
                _segment(0x64, b"\0\1" + TEXT),
            ),
            J2K,
        ),
        (_main_header(HT_STREAM, _segment(0x64, b"\0\1" + TEXT)) + TEXT, HTJ2K),
        (RLE_STREAM + TEXT, RLE),
    ],
)
def test_text_beside_the_pixels_is_gone_and_the_pixels_are_the_same(stream: bytes, syntax: str) -> None:
    assert TEXT[:40] in stream
    made = _bare(stream, syntax)
    assert TEXT[:12] not in made and len(made) < len(stream)
    if syntax in DECODERS:
        assert np.array_equal(DECODERS[syntax](made), DECODERS[JPEG](stream) if syntax == JPEG else GREY)
    else:
        assert made == RLE_STREAM.removesuffix(b"\0")  # the byte that makes it even is written again with the fragment
    before, after = (b"".join(encapsulate([one])[0]) for one in (stream, made))
    assert not holds_more_than_pictures(after, 12) and (syntax == RLE or holds_more_than_pictures(before, 12))


@pytest.mark.parametrize(
    ("stream", "syntax"),
    [
        (JPEG_STREAM, JPEG),
        (JPEG_STREAM + b"\0", JPEG),
        (_jpeg(COLOUR, "RGB"), JPEG),
        (_jpeg(COLOUR, "RGB", quality=3, progressive=True), JPEG),
        (_jpeg(np.random.default_rng(2).integers(0, 255, (200, 200), "u1"), restart_marker_blocks=2), JPEG),
        (bytes(imagecodecs.ljpeg_encode(GREY)), LOSSLESS),
        (_bare(LS_STREAM, JPEG_LS), JPEG_LS),
        (_bare(J2K_STREAM, J2K), J2K),
        (_bare(HT_STREAM, HTJ2K), HTJ2K),
        (_rle(COLOUR[:3, :5]), RLE),
    ],
)
def test_a_frame_with_nothing_but_pixels_passes_bit_for_bit(stream: bytes, syntax: str) -> None:
    made = bare(stream, syntax, 15 if syntax == RLE else GREY.size, 3 if syntax == RLE else 1)
    assert encapsulate([made])[0] == encapsulate([stream])[0]
    assert not holds_more_than_pictures(b"".join(encapsulate([made])[0]), 12)


def _tile_comment() -> bytes:
    at = J2K_STREAM.index(b"\xff\x93")
    return J2K_STREAM[:at] + _segment(0x64, b"\0\1" + TEXT) + J2K_STREAM[at:]


@pytest.mark.parametrize(
    ("stream", "syntax", "reason"),
    [
        (JPEG_STREAM[:-2], JPEG, "PIXEL_UNDECODABLE"),
        (JPEG_STREAM[:9], JPEG, "PIXEL_UNDECODABLE"),
        (TEXT + JPEG_STREAM, JPEG, "PIXEL_UNDECODABLE"),
        (_behind_start(JPEG_STREAM, TEXT), JPEG, "PIXEL_UNDECODABLE"),
        (_behind_start(JPEG_STREAM, _segment(0xF0, TEXT)), JPEG, "PIXEL_UNDECODABLE"),
        (_behind_start(JPEG_STREAM, _segment(0xDD, b"\0\1" + TEXT)), JPEG, "PIXEL_UNDECODABLE"),
        (_behind_start(LS_STREAM, _segment(0xF8, b"\2" + TEXT)), JPEG_LS, "PIXEL_UNDECODABLE"),
        (_tile_comment(), J2K, "PIXEL_UNDECODABLE"),
        (J2K_STREAM[:-2], J2K, "PIXEL_UNDECODABLE"),
        (_main_header(J2K_STREAM, _segment(0x7F, TEXT)), J2K, "PIXEL_UNDECODABLE"),
        (_jp2(GREY)[:-60], J2K, "PIXEL_UNDECODABLE"),
        (_jp2(GREY).replace(b"jp2c", b"jp2i"), J2K, "PIXEL_UNDECODABLE"),
        (_jp2(GREY).replace(b"ftyp", b"free"), J2K, "PIXEL_UNDECODABLE"),
        (_jp2(GREY) + b"\0\0\0\x0fxml " + TEXT, J2K, "PIXEL_UNDECODABLE"),
        (_jp2(GREY) + _jp2(GREY)[77:], J2K, "PIXEL_UNDECODABLE"),
        (_in_header(_jp2(GREY), _box(b"pclr", TEXT)), J2K, "PIXEL_UNDECODABLE"),
        (
            _in_header(_jp2(COLOUR), _box(b"cdef", bytes((0, 3, 0, 0, 0, 0, 0, 3, 0, 1, 0, 0, 0, 2, 0, 2, 0, 0, 0, 1)))),
            J2K,
            "PIXEL_UNDECODABLE",
        ),
        (_jp2(COLOUR).replace(b"\1\0\0\0\0\0\x10", b"\1\0\0\0\0\0\x12"), J2K, "PIXEL_UNDECODABLE"),
        (_jp2(GREY).replace(b"ihdr\0\0\0\x18", b"ihdr\0\0\0\x19"), J2K, "PIXEL_UNDECODABLE"),
        (_jp2(GREY).replace(b"\0\1\7\7", b"\0\2\7\7"), J2K, "PIXEL_UNDECODABLE"),
        (RLE_STREAM[:60] + b"Li W" + RLE_STREAM[64:], RLE, "PIXEL_UNDECODABLE"),
        (RLE_STREAM[:-9], RLE, "PIXEL_UNDECODABLE"),
        (b"\0\0\1\xb3" + TEXT, "1.2.840.10008.1.2.4.100", "PIXEL_SYNTAX_REFUSED"),
        (b"\0\0\0\1\x67" + TEXT, "1.2.840.10008.1.2.4.102.1", "PIXEL_SYNTAX_REFUSED"),
    ],
)
def test_what_cannot_be_walked_is_refused(stream: bytes, syntax: str, reason: str) -> None:
    with pytest.raises(RefusedContent) as refused:
        _bare(stream, syntax)
    assert refused.value.reason_code == reason


def test_bytes_between_the_segments_of_a_frame_are_refused() -> None:
    count, first, *others = struct.unpack("<4I", RLE_STREAM[:16])
    moved = struct.pack("<4I", count, first, *(offset + 12 for offset in others)) + RLE_STREAM[16 : others[0]]
    with pytest.raises(RefusedContent, match="leave room"):
        _bare(moved + b"Li Wei 48213" + RLE_STREAM[others[0] :], RLE)


def test_places_of_frames_that_became_shorter_are_those_of_what_is_written() -> None:
    streams = [_behind_start(JPEG_STREAM, _segment(0xFE, TEXT * (at + 1))) for at in range(3)]
    buf = b"".join(encapsulate(streams)[0])
    shape = PixelDescription(24, 40, 1, 8, 8, 7, False, 0, "MONOCHROME2", 3)
    written = write_pixels(elements(buf, 0, len(buf), EXPLICIT_LITTLE)[0], "OB", buf, JPEG, shape, compress=True)
    output = b"".join(written.pieces)
    table = struct.unpack("<3I", output[20:32])
    for (offset, length), item in zip(written.frames, table, strict=True):
        assert output[offset : offset + length].rstrip(b"\0") == JPEG_STREAM.rstrip(b"\0")
        assert 32 + item + 8 == offset and struct.unpack("<I", output[offset - 4 : offset])[0] == length


def test_the_proof_refuses_a_comment_that_names_nobody_it_knows() -> None:
    made = released(bare_instance()).payload
    under = names_for(IdentityTerms(patient_names=frozenset({"LI^WEI"})))
    under.memo["uids"] = {}
    scan = ResidualScan(under)
    scan.check(made + b"".join(encapsulate([JPEG_STREAM])[0]))
    with pytest.raises(RefusedContent, match="more than pictures") as refused:
        scan.check(made + b"".join(encapsulate([_behind_start(JPEG_STREAM, _segment(0xFE, b"seen by Dr. Stranger"))])[0]))
    assert refused.value.reason_code == "RESIDUAL_IDENTITY"


@pytest.mark.parametrize(("surplus", "is_refused"), [(1, False), (900, False), (960, True), (9600, True)])
def test_native_frames_that_nobody_counted_are_not_left_out_in_silence(surplus: int, is_refused: bool) -> None:
    shape = PixelDescription(24, 40, 1, 8, 8, 7, False, 0, "MONOCHROME2", 2)
    buf = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 1920 + surplus) + bytes(1920 + surplus)
    pixels = elements(buf, 0, len(buf), EXPLICIT_LITTLE)[0]
    if is_refused:
        with pytest.raises(RefusedContent, match="MALFORMED_PIXELS"):
            write_pixels(pixels, "OB", buf, "1.2.840.10008.1.2.1", shape, compress=False)
    else:
        assert sum(map(len, write_pixels(pixels, "OB", buf, "1.2.840.10008.1.2.1", shape, compress=False).pieces)) == 12 + 1920


def test_what_is_written_by_us_names_no_encoder() -> None:
    values = np.arange(-480, 480, dtype="<i2").reshape(24, 40)
    shape = PixelDescription(24, 40, 1, 16, 16, 15, True, 0, "MONOCHROME2", 1)
    buf = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, values.nbytes) + values.tobytes()
    written = write_pixels(elements(buf, 0, len(buf), EXPLICIT_LITTLE)[0], "OW", buf, "1.2.840.10008.1.2.1", shape, compress=True)
    output = b"".join(written.pieces)
    offset, length = written.frames[0]
    assert written.transfer_syntax_uid == HTJ2K and b"OpenJPH" not in output
    assert np.array_equal(imagecodecs.htj2k_decode(output[offset : offset + length]), values)
