"""The frames of an instance: measured before any codec sees them, decoded one at a time, blanked and written back without loss.

Invariants
- No codec is called before rows, columns, samples, bits and frames have been multiplied in Python integers and held against the cap,
  against the length of the data, and against the size that each codestream declares for itself.
- Native data is blanked in place: every bit outside the boxes stays, whatever the layout (planar, YBR 4:2:2, signed).
- Compressed data that must be blanked is decoded and written losslessly (HTJ2K, proved by decoding it again, else native).
  Data that lost information before keeps (0028,2110) = 01: what was lost stays lost.

DICOM PS3.3 C.7.6.3, C.7.6.1.1.5; PS3.5 8 and A.4.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import iter_pixels
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, HTJ2KLossless

from compliance.device_masks import Box
from crypto.errors import RefusedContent

Frame = NDArray[Any]

PIXEL_BYTES_MAX = 1 << 31
"""Decoded size of one instance. A breast tomosynthesis of 100 frames of 2048 x 2560 x 16 bits has 1 GB."""
FRAMES_MAX = 20_000
_NATIVE = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"})
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_DEFLATED = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.8.1"})
_RLE = "1.2.840.10008.1.2.5"
# JPEG start-of-frame markers (ISO/IEC 10918-1 Table B.1) and JPEG-LS SOF55.
_JPEG_SOF = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7})


@dataclass(frozen=True)
class PixelShape:
    """What the attributes of the Image Pixel Module declare, checked."""

    frames: int
    rows: int
    columns: int
    samples: int
    bits_allocated: int
    photometric: str

    @property
    def decoded_bytes(self) -> int:
        return (self.frames * self.rows * self.columns * self.samples * self.bits_allocated + 7) // 8


def pixel_shape(dataset: Dataset, *, bytes_max: int = PIXEL_BYTES_MAX) -> PixelShape:
    """The declared shape, after every check that needs no codec.

    Raises: RefusedContent PIXEL_DIMENSIONS_INVALID, PIXEL_TOO_LARGE, PIXEL_LENGTH_MISMATCH, PIXEL_SYNTAX_REFUSED.
    """
    try:
        frames = int(dataset.get("NumberOfFrames") or 1)
        rows, columns, samples, bits = (int(dataset[keyword].value) for keyword in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated"))
    except (KeyError, TypeError, ValueError):
        raise RefusedContent("PIXEL_DIMENSIONS_INVALID", "PS3.3 C.7.6.3.1", tag="(0028,0010)") from None
    shape = PixelShape(frames, rows, columns, samples, bits, str(dataset.get("PhotometricInterpretation", "")))
    if not (frames > 0 and 0 < rows <= 65535 and 0 < columns <= 65535 and samples in (1, 3, 4) and bits in (1, 8, 16, 32, 64)):
        raise RefusedContent("PIXEL_DIMENSIONS_INVALID", "PS3.3 C.7.6.3.1", tag="(0028,0010)")
    if shape.decoded_bytes > bytes_max or frames > FRAMES_MAX:
        raise RefusedContent("PIXEL_TOO_LARGE", tag="(7FE0,0010)")
    if "PixelData" not in dataset:
        raise RefusedContent("PIXEL_SYNTAX_REFUSED", "Float Pixel Data is not screened", tag="(7FE0,0008)")
    syntax = _syntax(dataset)
    if syntax in _DEFLATED:
        raise RefusedContent("PIXEL_SYNTAX_REFUSED", "deflated", tag="(0002,0010)")
    if syntax in _NATIVE:
        expected, data = _native_bytes(shape), dataset.PixelData
        # Some senders fill the last block with zeros; anything else behind the frames says that their number or size is wrong.
        if len(data) < expected or len(data) >= expected + max(2, expected // shape.frames) or any(data[expected + expected % 2 :]):
            raise RefusedContent("PIXEL_LENGTH_MISMATCH", "PS3.5 8.1.1", tag="(7FE0,0010)")
    else:
        _check_codestreams(dataset, shape)
    return shape


def frames_of(dataset: Dataset, shape: PixelShape, indices: Sequence[int] | None = None) -> Iterator[Frame]:
    """The stored frames as (rows, columns[, samples]); compressed colour comes out as RGB, native data as it is stored.

    Raises: RefusedContent PIXEL_UNDECODABLE.
    """
    if is_native(dataset):
        stored = _native_view(dataset, shape)
        for index in range(shape.frames) if indices is None else indices:
            yield _interleaved(stored[index], dataset, shape)
        return
    decoded = 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for frame in iter_pixels(dataset, indices=None if indices is None else list(indices)):
                decoded += 1
                yield frame
    except Exception:
        if decoded:
            raise RefusedContent("PIXEL_UNDECODABLE", tag="(7FE0,0010)") from None
        # pydicom has no decoder for 12-bit JPEG in the GPL-free set; imagecodecs reads it.
        yield from _decoded_by_imagecodecs(dataset, shape, indices)


def grey_pictures(frame: Frame, dataset: Dataset, shape: PixelShape, *, both: bool = False) -> list[NDArray[np.float32]]:
    """What an eye could see of the frame, as grey values of full precision: one picture, or two where colour could hide text from one.

    With `both`, two of every frame that could have colour: pictures over several frames need the second of each as soon as one has it.
    """
    if shape.photometric == "PALETTE COLOR" and frame.ndim == 2:
        frame = _coloured(frame, dataset)
    if frame.ndim == 2:
        return [frame.astype(np.float32)]
    colour = frame[..., :3].astype(np.float32)
    if is_native(dataset) and shape.photometric.startswith("YBR"):
        # Luminance shows nearly all text; the difference to grey of the two chroma planes shows the rest.
        brightest, darkest = colour[..., 0], np.abs(colour[..., 1] - 128) + np.abs(colour[..., 2] - 128)
        return [brightest, darkest] if both or float(darkest.max()) > 40 else [brightest]
    brightest, darkest = colour.max(axis=2), colour.min(axis=2)
    is_coloured = both or float((brightest - darkest).max()) > 40 * float(max(brightest.max(), 1)) / 255
    return [brightest, darkest] if is_coloured else [brightest]


def blanked(dataset: Dataset, shape: PixelShape, boxes: Sequence[Box]) -> Dataset:
    """A copy of the dataset whose frames are constant inside the boxes (darkest value) and unchanged outside of them.

    Raises: RefusedContent PIXEL_UNDECODABLE.
    """
    result = copy(dataset)
    result._dict = dict(dataset._dict)
    result.file_meta = copy(dataset.file_meta)
    result.file_meta._dict = dict(dataset.file_meta._dict)
    result._pixel_array = None
    if is_native(dataset):
        _blank_native(result, shape, boxes)
    else:
        _blank_compressed(result, shape, boxes)
    return result


def put(dataset: Dataset, keyword: str, value: Any) -> None:
    """The attribute has the value, in an element of its own: to assign would change the one that a copy shares with its source."""
    tag = Tag(keyword)
    dataset[tag] = DataElement(tag, dictionary_VR(tag), value)


def is_native(dataset: Dataset) -> bool:
    return _syntax(dataset) in _NATIVE


def lossy_block_pixels(dataset: Dataset) -> int:
    """The grid to which boxes on lossy data are widened: letters leak into their blocks (16 with halved chroma), 0 for lossless data."""
    lossless = _NATIVE | {_RLE, *(f"1.2.840.10008.1.2.4.{last}" for last in (57, 70, 80, 90, 92, 201, 202))}
    return 0 if _syntax(dataset) in lossless and str(dataset.get("LossyImageCompression", "00")) != "01" else 16


def _blank_native(result: Dataset, shape: PixelShape, boxes: Sequence[Box]) -> None:
    stored = _native_view(result, shape).copy()
    dark = _darkest(result, shape, stored)
    for x0, y0, x1, y1 in boxes:
        if shape.photometric == "YBR_FULL_422" and shape.samples == 3:
            stored[:, y0:y1, x0 // 2 : -(-x1 // 2)] = (0, 0, 128, 128)
        elif shape.samples > 1 and int(result.get("PlanarConfiguration") or 0) == 1:
            stored[:, :, y0:y1, x0:x1] = np.reshape(np.asarray(dark), (1, -1, 1, 1))
        else:
            stored[:, y0:y1, x0:x1] = dark
    payload = np.packbits(stored.reshape(-1), bitorder="little").tobytes() if shape.bits_allocated == 1 else stored.tobytes()
    if _syntax(result) == _BIG_ENDIAN and (shape.bits_allocated == 8 and result["PixelData"].VR == "OW"):
        payload = np.frombuffer(payload + b"\0" * (len(payload) % 2), dtype=">u2").byteswap().tobytes()
    result["PixelData"] = _element(result, payload + b"\0" * (len(payload) % 2))


def _blank_compressed(result: Dataset, shape: PixelShape, boxes: Sequence[Box]) -> None:
    frames = [np.array(frame) for frame in frames_of(result, shape)]
    dark = _darkest(result, shape, np.stack(frames) if shape.samples == 1 else frames[0])
    for frame in frames:
        for x0, y0, x1, y1 in boxes:
            frame[y0:y1, x0:x1] = dark
    codestreams = _htj2k(frames)
    if shape.samples > 1:
        # The encoder applies the reversible colour transform (PS3.5 8.2.14); native values are what the decoder gave.
        put(result, "PhotometricInterpretation", "RGB" if codestreams is None else "YBR_RCT")
        put(result, "PlanarConfiguration", 0)
    if codestreams is None:
        put(result.file_meta, "TransferSyntaxUID", ExplicitVRLittleEndian)
        payload = b"".join(np.ascontiguousarray(frame).astype(frame.dtype.newbyteorder("<")).tobytes() for frame in frames)
        result["PixelData"] = _element(result, payload + b"\0" * (len(payload) % 2))
        return
    put(result.file_meta, "TransferSyntaxUID", HTJ2KLossless)
    element = _element(result, encapsulate(codestreams))
    element.VR, element.is_undefined_length = "OB", True
    result["PixelData"] = element


def _htj2k(frames: Sequence[Frame]) -> list[bytes] | None:
    """One lossless codestream per frame, each decoded again and compared; None where the codec cannot hold them."""
    if frames[0].dtype.itemsize > 2 or frames[0].shape[2:] == (4,):
        return None
    codestreams = []
    for frame in frames:
        contiguous = np.ascontiguousarray(frame)
        try:
            codestream = imagecodecs.htj2k_encode(contiguous, reversible=True)
            same = np.array_equal(imagecodecs.htj2k_decode(codestream), contiguous)
        except (ValueError, RuntimeError, TypeError):
            return None
        if not same:
            return None
        codestreams.append(bytes(codestream))
    return codestreams


def _darkest(dataset: Dataset, shape: PixelShape, stored: Frame) -> Any:
    """The value that shows as black: a colour as a tuple of samples, else one value that occurs in the picture."""
    if shape.samples > 1:
        return (0, 128, 128) if is_native(dataset) and shape.photometric.startswith("YBR_F") else (0,) * shape.samples
    if shape.photometric == "PALETTE COLOR":
        values = np.unique(stored)
        return values[int(np.argmin(_coloured(values.reshape(1, -1), dataset).astype(np.int64).sum(axis=-1)))]
    return stored.max() if shape.photometric == "MONOCHROME1" else stored.min()


def _coloured(indices: Frame, dataset: Dataset) -> Frame:
    try:
        return apply_color_lut(indices, dataset)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, NotImplementedError):
        raise RefusedContent("PIXEL_UNDECODABLE", "PS3.3 C.7.6.3.1.5", tag="(0028,1101)") from None


def _native_view(dataset: Dataset, shape: PixelShape) -> Frame:
    """The stored samples in the layout in which they stand, frames first."""
    payload = dataset.PixelData
    if shape.bits_allocated == 1:
        bits = np.unpackbits(np.frombuffer(payload, np.uint8), bitorder="little")
        return bits[: shape.frames * shape.rows * shape.columns].reshape(shape.frames, shape.rows, shape.columns)
    swapped = _syntax(dataset) == _BIG_ENDIAN
    if swapped and shape.bits_allocated == 8 and dataset["PixelData"].VR == "OW":
        payload, swapped = np.frombuffer(payload, dtype=">u2").byteswap().tobytes(), False
    kind = "i" if int(dataset.get("PixelRepresentation") or 0) == 1 else "u"
    values = np.frombuffer(
        payload, dtype=f"{'>' if swapped else '<'}{kind}{shape.bits_allocated // 8}", count=_native_bytes(shape) * 8 // shape.bits_allocated
    )
    if shape.samples == 1:
        return values.reshape(shape.frames, shape.rows, shape.columns)
    if shape.photometric == "YBR_FULL_422":
        return values.reshape(shape.frames, shape.rows, shape.columns // 2, 4)
    if int(dataset.get("PlanarConfiguration") or 0) == 1:
        return values.reshape(shape.frames, shape.samples, shape.rows, shape.columns)
    return values.reshape(shape.frames, shape.rows, shape.columns, shape.samples)


def _interleaved(stored: Frame, dataset: Dataset, shape: PixelShape) -> Frame:
    if shape.samples == 1:
        return stored
    if shape.photometric == "YBR_FULL_422":
        # Y0 Y1 Cb Cr for two pixels (PS3.3 C.7.6.3.1.2).
        chroma = np.repeat(stored[:, :, 2:], 2, axis=1)
        return np.concatenate([stored[:, :, :2].reshape(shape.rows, shape.columns, 1), chroma], axis=2)
    return np.moveaxis(stored, 0, -1) if int(dataset.get("PlanarConfiguration") or 0) == 1 else stored


def _decoded_by_imagecodecs(dataset: Dataset, shape: PixelShape, indices: Sequence[int] | None) -> Iterator[Frame]:
    codestreams = list(generate_frames(dataset.PixelData, number_of_frames=shape.frames))
    for index in range(shape.frames) if indices is None else indices:
        try:
            frame = imagecodecs.jpeg_decode(codestreams[index])
        except Exception:
            raise RefusedContent("PIXEL_UNDECODABLE", tag="(7FE0,0010)") from None
        if frame.shape[:2] != (shape.rows, shape.columns):
            raise RefusedContent("PIXEL_UNDECODABLE", tag="(7FE0,0010)")
        yield frame


def _check_codestreams(dataset: Dataset, shape: PixelShape) -> None:
    try:
        count = 0
        for codestream in generate_frames(dataset.PixelData, number_of_frames=shape.frames):
            count += 1
            declared = None if _syntax(dataset) == _RLE else declared_size(codestream)
            if declared is not None and declared != (shape.rows, shape.columns):
                raise RefusedContent("PIXEL_DIMENSIONS_INVALID", "codestream and attributes differ", tag="(7FE0,0010)")
    except (ValueError, struct.error, IndexError, EOFError):
        raise RefusedContent("PIXEL_UNDECODABLE", tag="(7FE0,0010)") from None
    if count != shape.frames:
        raise RefusedContent("PIXEL_LENGTH_MISMATCH", "PS3.5 A.4", tag="(7FE0,0010)")


def declared_size(codestream: bytes) -> tuple[int, int] | None:
    """Rows and columns that a JPEG, JPEG-LS or JPEG 2000 codestream declares; None where none is found."""
    if codestream[:4] == b"\xff\x4f\xff\x51":  # SOC, SIZ: ISO/IEC 15444-1 A.5.1
        width, height, left, top = struct.unpack(">4I", codestream[8:24])
        return height - top, width - left
    position = 2
    while codestream[:2] == b"\xff\xd8" and position + 9 <= len(codestream):
        if codestream[position] != 0xFF:
            return None
        marker = codestream[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        length = int.from_bytes(codestream[position + 2 : position + 4], "big")
        if marker in _JPEG_SOF:
            height, width = struct.unpack(">2H", codestream[position + 5 : position + 9])
            return height, width
        position += 2 + length
    return None


def _native_bytes(shape: PixelShape) -> int:
    if shape.photometric == "YBR_FULL_422" and shape.samples == 3:
        return shape.frames * shape.rows * (shape.columns // 2) * 4 * shape.bits_allocated // 8
    return shape.decoded_bytes


def _element(dataset: Dataset, payload: bytes) -> Any:
    element = copy(dataset["PixelData"])
    element.value, element.is_undefined_length = payload, False
    return element


def _syntax(dataset: Dataset) -> str:
    return str(dataset.file_meta.TransferSyntaxUID)
