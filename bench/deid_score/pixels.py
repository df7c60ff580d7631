"""Frames of a dataset as an array, whoever encoded them; HTJ2K included, which pydicom does not decode."""

from __future__ import annotations

from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels import convert_color_space

_HTJ2K = ("1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203")


def decoded(dataset: Dataset) -> NDArray[Any] | None:
    """Stored values (frames, rows, columns[, samples]) without a frame axis of one; None where nothing here decodes them."""
    try:
        if str(dataset.file_meta.TransferSyntaxUID) not in _HTJ2K:
            return np.asarray(dataset.pixel_array)
        count = int(dataset.get("NumberOfFrames", 1) or 1)
        frames = [imagecodecs.htj2k_decode(frame) for frame in generate_frames(dataset.PixelData, number_of_frames=count)]
    except Exception:
        return None
    array = np.stack(frames) if count > 1 else frames[0]
    bits = int(dataset.BitsAllocated)
    wanted = np.dtype(f"{'i' if int(dataset.PixelRepresentation) else 'u'}{bits // 8}")
    array = array.view(wanted) if array.dtype.itemsize == wanted.itemsize else array.astype(wanted)
    if str(dataset.PhotometricInterpretation) == "YBR_FULL":
        # As pydicom shows it of any other transfer syntax.
        array = convert_color_space(array, "YBR_FULL", "RGB")
    return np.asarray(array)


def as_native(dataset: Dataset) -> bool:
    """Write the dataset's own frames natively (Explicit VR Little Endian); False where that cannot be."""
    array = decoded(dataset)
    if array is None:
        return False
    data = array.tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB" if dataset.BitsAllocated == 8 else "OW"
    dataset["PixelData"].is_undefined_length = False
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    if int(dataset.get("SamplesPerPixel", 1)) == 3:
        dataset.PlanarConfiguration, dataset.PhotometricInterpretation = 0, "RGB"
    return True
