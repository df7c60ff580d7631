"""Overlay planes (60xx): their bits as pictures to be read, and their removal.

A plane stands in Overlay Data (60xx,3000), or, in old instances, in unused high bits of the pixels (60xx,0102); both show text to a reader.
DICOM PS3.3 C.9.2, PS3.5 8.1.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import copy

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from compliance.pixel_frames import is_native, pixel_shape
from crypto.errors import RefusedContent

_GROUPS = range(0x6000, 0x6100, 2)
_PLANE_BYTES_MAX = 1 << 26


def overlay_groups(dataset: Dataset) -> list[int]:
    """The groups 60xx of which any element is there."""
    present = {tag >> 16 for tag in dataset._dict}
    return [group for group in _GROUPS if group in present]


def overlay_pictures(dataset: Dataset) -> Iterator[tuple[int, NDArray[np.uint8] | None]]:
    """Each plane with Overlay Data: its frames laid over each other as a picture of 0 and 255, or None where it is not what it declares."""
    for group in overlay_groups(dataset):
        if (group, 0x3000) in dataset:
            yield group, _picture(dataset, group)


def drop_overlays(dataset: Dataset, groups: Iterable[int]) -> Dataset:
    """A copy of the dataset without any element of the groups."""
    gone = set(groups)
    result = copy(dataset)
    result._dict = {tag: element for tag, element in dataset._dict.items() if tag >> 16 not in gone}
    return result


def clear_embedded_overlays(dataset: Dataset) -> Dataset | None:
    """A copy in which the pixels' bits above Bits Stored are zero and the planes that lay there are gone; None where there are none.

    Raises: RefusedContent OVERLAY_IN_PIXELS, where the bits cannot be cleared without touching the values.
    """
    embedded = [group for group in overlay_groups(dataset) if (group, 0x3000) not in dataset and _embedded(dataset, group)]
    if not embedded:
        return None
    shape = pixel_shape(dataset)
    stored, high = int(dataset.get("BitsStored", 0)), int(dataset.get("HighBit", 0))
    if not is_native(dataset) or shape.bits_allocated != 16 or high != stored - 1 or int(dataset.get("PixelRepresentation") or 0) != 0:
        raise RefusedContent("OVERLAY_IN_PIXELS", "PS3.5 8.1.2", tag=f"({embedded[0]:04X},0102)")
    order = ">" if str(dataset.file_meta.TransferSyntaxUID) == "1.2.840.10008.1.2.2" else "<"
    values = np.frombuffer(dataset.PixelData, dtype=f"{order}u2") & np.array((1 << stored) - 1, dtype=f"{order}u2")
    result = drop_overlays(dataset, embedded)
    element = copy(dataset["PixelData"])
    element.value = values.astype(f"{order}u2").tobytes()
    result["PixelData"] = element
    return result


def _embedded(dataset: Dataset, group: int) -> bool:
    position = dataset.get(Tag(group, 0x0102))
    return position is not None and position.value not in (None, 0, "")


def _picture(dataset: Dataset, group: int) -> NDArray[np.uint8] | None:
    try:
        rows, columns = int(dataset[group, 0x0010].value), int(dataset[group, 0x0011].value)
        frames = int(dataset[group, 0x0015].value or 1) if (group, 0x0015) in dataset else 1
        data = bytes(dataset[group, 0x3000].value)
    except (KeyError, TypeError, ValueError):
        return None
    size = rows * columns * frames
    if not (0 < rows <= 65535 and 0 < columns <= 65535 and frames > 0) or size > 8 * min(len(data), _PLANE_BYTES_MAX):
        return None
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[:size].reshape(frames, rows, columns)
    return np.asarray(bits.max(axis=0) * 255, dtype=np.uint8)
