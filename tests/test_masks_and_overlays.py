"""Device masks, overlays and what lies beside the pixels of an image."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset

from compliance.burned_in import screen_pixels
from compliance.device_masks import DeviceMask, known_masks, mask_for_device
from compliance.text_detection import TextDetector
from tests.planted_text import (
    AT,
    CT,
    IDENTITY,
    PlantedText,
    ground,
    make_image,
    named,
)


def test_device_mask_is_blanked_first_and_not_read() -> None:
    dataset = make_image(ground(), Manufacturer="Example", ManufacturerModelName="X1")
    mask = mask_for_device(dataset, [(0, 0, 240, 20)], name="always for this device")
    assert DeviceMask.from_json(mask.to_json()) == mask
    result = screen_pixels(dataset, IDENTITY, named(), masks=[mask])
    assert (result.outcome, result.masks, [box.why for box in result.boxes]) == ("CLEANED", ("always for this device",), ["mask"])
    assert not mask.matches(make_image(ground(rows=200), Manufacturer="Example", ManufacturerModelName="X1"))


def test_known_masks_fire_on_their_device_and_size_only() -> None:
    matching = [
        mask for mask in known_masks() if mask.matches(make_image(ground(600, 800), ManufacturerModelName="iU22", Manufacturer="Philips"))
    ]
    assert any((0, 0, 800, 59) in mask.boxes for mask in matching)
    plain = make_image(ground(), sop_class_uid=CT, modality="CT", Manufacturer="SIEMENS", ImageType=["ORIGINAL", "PRIMARY", "AXIAL"])
    assert not [mask for mask in known_masks() if mask.matches(plain)]
    assert all(x0 < x1 and y0 < y1 for mask in known_masks() for x0, y0, x1, y1 in mask.boxes)


def overlay_on(dataset: Dataset) -> Dataset:
    plane = np.zeros((160, 240), np.uint8)
    plane[4:16, 20:60:4] = 1
    dataset.add_new(0x60000010, "US", 160)
    dataset.add_new(0x60000011, "US", 240)
    dataset.add_new(0x60000102, "US", 0)
    dataset.add_new(0x60003000, "OB", np.packbits(plane.reshape(-1), bitorder="little").tobytes())
    return dataset


@pytest.mark.parametrize("detector, gone", [(None, True), (named(), True), (PlantedText((AT, "12 cm")), False)])
def test_overlay_is_removed_unless_its_text_is_clinical(detector: TextDetector | None, gone: bool) -> None:
    dataset = overlay_on(make_image(ground(), sop_class_uid=CT, modality="CT", ImageType=["ORIGINAL", "PRIMARY", "AXIAL"]))
    result = screen_pixels(dataset, IDENTITY, detector)
    assert ((0x6000, 0x3000) not in result.dataset, result.overlays_removed) == (gone, int(gone))
    assert result.dataset.PixelData == dataset.PixelData and (0x6000, 0x3000) in dataset


def test_overlay_without_pixels_is_judged_whatever_the_class() -> None:
    dataset = overlay_on(make_image(ground()))
    for keyword in ("PixelData", "Rows", "Columns"):
        del dataset[keyword]
    result = screen_pixels(dataset, IDENTITY, PlantedText((AT, "12 cm")))
    assert (result.outcome, result.reason) == ("CLEAN", "") and (0x6000, 0x3000) in result.dataset
    assert (0x6000, 0x3000) not in screen_pixels(dataset, IDENTITY, named()).dataset


def test_zeros_behind_the_last_frame_are_padding() -> None:
    padded = make_image(ground())
    padded["PixelData"].value = padded.PixelData + bytes(130)
    assert screen_pixels(padded, IDENTITY, PlantedText()).outcome == "CLEAN"
    padded["PixelData"].value = padded.PixelData[:-1] + b"\1"
    assert screen_pixels(padded, IDENTITY, PlantedText()).reason == "PIXEL_LENGTH_MISMATCH"


def test_overlay_in_unused_bits_is_cleared() -> None:
    values = (ground() % 200).astype("<u2")
    drawn = values.copy()
    drawn[40:60, 40:60] |= 0x8000
    dataset = make_image(drawn, sop_class_uid=CT, modality="CT", ImageType=["ORIGINAL", "PRIMARY", "AXIAL"], BitsStored=12, HighBit=11)
    dataset.add_new(0x60000100, "US", 16)
    dataset.add_new(0x60000102, "US", 15)
    result = screen_pixels(dataset, IDENTITY, None)
    assert np.array_equal(np.frombuffer(result.dataset.PixelData, "<u2").reshape(values.shape), values)
    assert result.overlays_removed == 1 and (0x6000, 0x0102) not in result.dataset
