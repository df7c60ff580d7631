"""Images with a text planted in them, and a detector that finds it there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset, FileMetaDataset

from compliance.device_masks import Box
from compliance.text_detection import DetectedText

NATIVE, IMPLICIT, BIG, HTJ2K, JPEG, RLE = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.4.201",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.5",
)


US, CT, DX, SC = (f"1.2.840.10008.5.1.4.1.1.{last}" for last in ("6.1", "2", "1.1.1", "7"))


IDENTITY = ["KOWALSKA^ANNA", "4821337", "19610203"]


class PlantedText:
    """A detector that finds a text wherever the box it was planted in is not flat: what a blanked box must make it lose."""

    def __init__(self, *planted: tuple[tuple[int, int, int, int], str], stubborn: bool = False) -> None:
        self.planted, self.stubborn, self.calls = planted, stubborn, 0

    def read(
        self,
        picture: NDArray[np.uint8],
        *,
        closely: bool = False,
        windows: Sequence[Box] | None = None,
        settled: Sequence[Box] = (),
    ) -> list[DetectedText]:
        self.calls += 1
        found = []
        for (x0, y0, x1, y1), text in self.planted:
            if self.stubborn or int(np.ptp(picture[y0:y1, x0:x1].astype(int))) > 60:
                shift = 16 * self.calls if self.stubborn else 0
                found.append(DetectedText(x0, y0 + shift, x1, y1 + shift, text, 0.95))
        return found

    def read_strokes(self, grey: NDArray[np.float32], *, windows: Sequence[Box], settled: Sequence[Box] = ()) -> list[DetectedText]:
        return []


def make_image(
    values: NDArray[Any],
    *,
    sop_class_uid: str = US,
    modality: str = "US",
    syntax: str = NATIVE,
    payload: bytes | None = None,
    **attributes: Any,
) -> Dataset:
    """A dataset around the values: (rows, columns), (frames, rows, columns) or (rows, columns, 3)."""
    colour = values.ndim == 3 and values.shape[-1] == 3
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID, dataset.Modality = sop_class_uid, modality
    frames = values.shape[0] if values.ndim == 3 and not colour else 1
    dataset.Rows, dataset.Columns = values.shape[-3:-1] if colour else values.shape[-2:]
    if frames > 1:
        dataset.NumberOfFrames = frames
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    if colour:
        dataset.PlanarConfiguration = 0
    bits = values.dtype.itemsize * 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    encapsulated = payload is not None
    raw = payload if payload is not None else values.tobytes()
    dataset.add_new("PixelData", "OW" if bits == 16 and not encapsulated else "OB", raw + b"\0" * (len(raw) % 2))
    dataset["PixelData"].is_undefined_length = encapsulated
    return dataset


def ground(rows: int = 160, columns: int = 240, dtype: str = "u1") -> NDArray[Any]:
    """An even picture of values from 20 to 60 with a lettering-like pattern at (20..60, 4..16)."""
    values = np.random.default_rng(3).integers(20, 60, (rows, columns)).astype(dtype)
    values[4:16, 20:60:4] = 250 if dtype == "u1" else 30000
    return values


AT = (18, 2, 62, 18)


def named() -> PlantedText:
    return PlantedText((AT, "KOWALSKA ANNA"))


def text_image(text: str, *, rows: int = 160, columns: int = 360, at: tuple[int, int] = (12, 8), size: int = 16) -> NDArray[np.uint8]:
    image = Image.new("L", (columns, rows))
    ImageDraw.Draw(image).text(at, text, fill=230, font=ImageFont.load_default(size))
    return np.asarray(image).copy()


def inside(dataset: Dataset, boxes: Sequence[Any]) -> NDArray[np.bool_]:
    covered = np.zeros((dataset.Rows, dataset.Columns), bool)
    for x0, y0, x1, y1 in (box.box for box in boxes):
        covered[y0:y1, x0:x1] = True
    return covered
