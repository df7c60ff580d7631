"""Pixel data on the way out: uncompressed frames become lossless HTJ2K, compressed ones stay as they are, and each frame gets its place.

Steps
  0. sizes are worked out in integers and checked before any codec or array sees a byte;
  1. native frames of 8 or 16 bits are encoded one by one, decoded again and compared; any difference keeps the frame native;
  2. encapsulated frames are re-laid one fragment per frame (PS3.5 A.4), their coded pixels untouched: comments, application segments and
     what stands behind an image are cut out of them (`codestreams`), and video, of which that cannot be told, is refused;
  3. what neither fits (1 bit, 32 bits, float, chroma subsampled) stays native.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from compliance.codestreams import bare
from compliance.dataset_bytes import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, Element, fragments
from crypto.errors import RefusedContent

HTJ2K_LOSSLESS = "1.2.840.10008.1.2.4.201"
#: One stream over all frames: PS3.5 8.2.5 to 8.2.8, 8.2.11. Text travels in user data and SEI messages of any of its units.
_VIDEO = tuple(f"1.2.840.10008.1.2.4.{number}" for number in range(100, 109))
#: Decoded bytes of one frame and of one instance that a reader's and our own memory can take.
FRAME_BYTES_MAX = 1 << 30
INSTANCE_BYTES_MAX = 8 << 30
_PIXEL_TAG = "(7FE0,0010)"


@dataclass(frozen=True, slots=True)
class PixelDescription:
    """The Image Pixel Module (PS3.3 C.7.6.3) in integers."""

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    planar: int
    photometric: str
    frames: int

    def frame_bits(self) -> int:
        """Bits of one native frame; YBR_FULL_422 stores two samples a pixel (PS3.3 C.7.6.3.1.2)."""
        samples = 2 if self.photometric in ("YBR_FULL_422", "YBR_PARTIAL_422") else self.samples
        return self.rows * self.columns * samples * self.bits_allocated

    def check(self) -> None:
        """Raises RefusedContent where an image of this description cannot be, or could only hurt."""
        if min(self.rows, self.columns, self.samples, self.bits_allocated, self.frames) < 1:
            raise RefusedContent("IMPOSSIBLE_PIXELS", "no rows, columns, samples, bits or frames", tag="(0028,0010)")
        if self.samples > 4 or self.bits_allocated not in (1, 8, 12, 16, 24, 32, 64) or self.bits_stored > self.bits_allocated:
            raise RefusedContent("IMPOSSIBLE_PIXELS", "samples or bits that no IOD has", tag="(0028,0100)")
        frame_bytes = (self.frame_bits() + 7) // 8
        if frame_bytes > FRAME_BYTES_MAX or frame_bytes * self.frames > INSTANCE_BYTES_MAX:
            raise RefusedContent("PIXELS_TOO_LARGE", "decoded they would exceed what an instance may take", tag=_PIXEL_TAG)


@dataclass(frozen=True, slots=True)
class WrittenPixels:
    """The pixel data element in pieces; `frames` as (offset, length) from its first byte; `made_interleaved` if planes were."""

    pieces: tuple[bytes | memoryview, ...]
    vr: str
    transfer_syntax_uid: str
    frames: tuple[tuple[int, int], ...]
    made_interleaved: bool = False
    cleared_unused_bits: bool = False


def write_pixels(
    pixels: Element, vr: str, buf: bytes, transfer_syntax_uid: str, shape: PixelDescription, *, compress: bool
) -> WrittenPixels:
    """The pixel data element of `buf` for the output. Raises RefusedContent where frames cannot be told apart or bytes are missing."""
    shape.check()
    tag, value, end = pixels.tag, pixels.value, pixels.end
    if pixels.undefined:
        return _encapsulated(buf, value, end, transfer_syntax_uid, shape)
    if transfer_syntax_uid not in (IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN):
        raise RefusedContent("MALFORMED_PIXELS", "native pixel data in a compressed transfer syntax", tag=_PIXEL_TAG)
    total = (shape.frame_bits() * shape.frames + 7) // 8
    if end - value < total:
        raise RefusedContent("TRUNCATED_PIXELS", "fewer bytes than the frames need", tag=_PIXEL_TAG)
    if end - value - total >= max(2, total // shape.frames):
        # To write the frames that were counted would lose the others without a word.
        raise RefusedContent("MALFORMED_PIXELS", "more frames than are counted", tag=_PIXEL_TAG)
    # Half a megabyte is not copied before it must be.
    native = memoryview(buf)[value : value + total]
    can_compress = tag == 0x7FE00010 and shape.bits_allocated in (8, 16) and shape.samples in (1, 3) and "_422" not in shape.photometric
    if compress and can_compress:
        written = _compressed(native, shape)
        if written is not None:
            return written
    return _native(tag, vr, native, shape)


def _native(tag: int, vr: str, native: memoryview, shape: PixelDescription) -> WrittenPixels:
    code = vr if tag != 0x7FE00010 else ("OW" if shape.bits_allocated > 8 or vr == "OW" else "OB")
    cleared = _native_cleared(tag, native, shape)
    padding = len(native) & 1
    if len(native) + padding > 0xFFFFFFFE:
        raise RefusedContent("PIXELS_TOO_LARGE", "more than a native element can hold", tag=_PIXEL_TAG)
    header = struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, code.encode(), 0, len(native) + padding)
    if shape.frame_bits() % 8:
        places = [(len(header), len(native))]
    else:
        length = shape.frame_bits() // 8
        places = [(len(header) + index * length, length) for index in range(shape.frames)]
    return WrittenPixels(
        (header, cleared, b"\0") if padding else (header, cleared),
        code,
        EXPLICIT_VR_LITTLE_ENDIAN,
        tuple(places),
        cleared_unused_bits=cleared is not native,
    )


def _native_cleared(tag: int, native: memoryview, shape: PixelDescription) -> memoryview:
    """`native` itself where no unused bit is set, else a copy without them."""
    if tag != 0x7FE00010 or shape.bits_allocated not in (8, 16, 32) or shape.bits_stored == shape.bits_allocated:
        return native
    whole = np.frombuffer(native, _kind(shape))
    without, changed = without_unused_bits(whole, shape)
    return memoryview(without.tobytes()) if changed else native


def _kind(shape: PixelDescription) -> np.dtype[np.generic]:
    return np.dtype(("<i" if shape.is_signed else "<u") + str(shape.bits_allocated // 8))


def _compressed(native: memoryview, shape: PixelDescription) -> WrittenPixels | None:
    length = shape.frame_bits() // 8
    kind = _kind(shape)
    interleave = shape.samples == 3 and shape.planar == 1
    streams: list[bytes] = []
    cleared = False
    for index in range(shape.frames):
        flat = np.frombuffer(native, kind, length // kind.itemsize, index * length)
        if shape.samples == 1:
            frame: NDArray[np.generic] = flat.reshape(shape.rows, shape.columns)
        elif interleave:
            frame = np.ascontiguousarray(flat.reshape(3, shape.rows, shape.columns).transpose(1, 2, 0))
        else:
            frame = flat.reshape(shape.rows, shape.columns, 3)
        frame, changed = without_unused_bits(frame, shape)
        cleared = cleared or changed
        stream = _lossless(frame)
        if stream is None:
            return None
        streams.append(stream)
    pieces, places = encapsulate(streams)
    return WrittenPixels(pieces, "OB", HTJ2K_LOSSLESS, tuple(places), interleave, cleared)


def _lossless(frame: NDArray[np.generic]) -> bytes | None:
    """The frame as HTJ2K, decoded again and compared; None where the codec does not give it back exactly."""
    try:
        # Without the name and version that the encoder leaves in a comment.
        stream = bare(bytes(imagecodecs.htj2k_encode(frame, reversible=True)), HTJ2K_LOSSLESS, 0, 0)
        again = imagecodecs.htj2k_decode(stream)
    except (RuntimeError, ValueError, TypeError, RefusedContent):
        return None
    return stream if again.dtype == frame.dtype and np.array_equal(again, frame) else None


def without_unused_bits(frame: NDArray[np.generic], shape: PixelDescription) -> tuple[NDArray[np.generic], bool]:
    """The frame with bits outside the stored ones as the standard leaves them (zero, or the sign), and whether that changed any.

    Old senders hid overlays there (PS3.5 8.1.1); nothing screens those bits, so nothing may travel in them.
    """
    unused = shape.bits_allocated - shape.bits_stored
    if unused <= 0 or shape.high_bit != shape.bits_stored - 1:
        return frame, False
    if shape.is_signed:
        low, high = -(1 << (shape.bits_stored - 1)), (1 << (shape.bits_stored - 1)) - 1
        if int(frame.min()) >= low and int(frame.max()) <= high:
            return frame, False
        cleared = np.right_shift(np.left_shift(frame, unused), unused)
    else:
        if int(frame.max()) < 1 << shape.bits_stored:
            return frame, False
        cleared = np.bitwise_and(frame, frame.dtype.type((1 << shape.bits_stored) - 1))
    return cleared, True


def _encapsulated(buf: bytes, value: int, end: int, transfer_syntax_uid: str, shape: PixelDescription) -> WrittenPixels:
    parts = fragments(buf, value, end + 8)
    if not parts:
        raise RefusedContent("MALFORMED_PIXELS", "no offset table and no fragment", tag=_PIXEL_TAG)
    table, stored = parts[0], parts[1:]
    if not stored:
        raise RefusedContent("TRUNCATED_PIXELS", "no fragment", tag=_PIXEL_TAG)
    if transfer_syntax_uid.startswith(_VIDEO):
        raise RefusedContent("PIXEL_SYNTAX_REFUSED", "what a video holds beside pixels cannot be told", tag=_PIXEL_TAG)
    groups = _frames_of(buf, table, stored, shape.frames)
    streams = [b"".join(buf[start:stop] for start, stop in group) for group in groups]
    if any(len(stream) < 2 for stream in streams):
        raise RefusedContent("TRUNCATED_PIXELS", "a frame without bytes", tag=_PIXEL_TAG)
    # Eight pixels of one bit share a byte (PS3.5 8.2.2).
    plane_bytes = shape.rows * shape.columns if shape.bits_allocated > 1 else (shape.rows * shape.columns + 7) // 8
    planes = shape.samples * max(1, shape.bits_allocated // 8)
    streams = [bare(stream, transfer_syntax_uid, plane_bytes, planes) for stream in streams]
    pieces, places = encapsulate(streams)
    return WrittenPixels(pieces, "OB", transfer_syntax_uid, tuple(places))


def _frames_of(buf: bytes, table: tuple[int, int], pieces: Sequence[tuple[int, int]], frames: int) -> list[list[tuple[int, int]]]:
    """Fragments by frame: one frame takes all, as many as frames one each, else by offset table, else by the marker that starts a frame."""
    if frames == 1:
        return [list(pieces)]
    if len(pieces) == frames:
        return [[piece] for piece in pieces]
    starts = {start - 8 - (pieces[0][0] - 8): index for index, (start, _) in enumerate(pieces)}
    offsets = struct.unpack(f"<{(table[1] - table[0]) // 4}I", buf[table[0] : table[0] + (table[1] - table[0]) // 4 * 4])
    if len(offsets) == frames and all(offset in starts for offset in offsets) and list(offsets) == sorted(set(offsets)):
        first = [starts[offset] for offset in offsets]
    else:
        first = [index for index, (start, _) in enumerate(pieces) if buf[start : start + 3] in (b"\xff\xd8\xff", b"\xff\x4f\xff")]
    if len(first) != frames or first[0] != 0:
        raise RefusedContent("MALFORMED_PIXELS", "fragments cannot be told to frames", tag=_PIXEL_TAG)
    return [list(pieces[one:two]) for one, two in zip(first, [*first[1:], len(pieces)], strict=True)]


def encapsulate(streams: Sequence[bytes]) -> tuple[tuple[bytes, ...], list[tuple[int, int]]]:
    """(pieces of the OB element with one fragment a frame, (offset, length) of each within it); PS3.5 A.4."""
    padded = [stream + b"\0" * (len(stream) & 1) for stream in streams]
    offsets: list[int] = []
    total = 0
    for stream in padded:
        offsets.append(total)
        total += 8 + len(stream)
    table = struct.pack(f"<{len(offsets)}I", *offsets) if total <= 0xFFFFFFFF else b""
    pieces = [struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF), struct.pack("<HHI", 0xFFFE, 0xE000, len(table)), table]
    pos = 20 + len(table)
    places: list[tuple[int, int]] = []
    for stream in padded:
        pieces += [struct.pack("<HHI", 0xFFFE, 0xE000, len(stream)), stream]
        places.append((pos + 8, len(stream)))
        pos += 8 + len(stream)
    pieces.append(struct.pack("<HHI", 0xFFFE, 0xE0DD, 0))
    return tuple(pieces), places
