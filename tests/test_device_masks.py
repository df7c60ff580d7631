"""Every mask that ships loads, matches the instances it describes and no others, and blanks what it says and nothing else."""

from __future__ import annotations

import json
from collections import Counter
from importlib import resources
from typing import Any

import numpy as np
import pytest
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset

from compliance.burned_in import screen_pixels
from compliance.device_masks import DeviceMask, known_masks, matching_masks, pixel_risk
from tests.planted_text import IDENTITY, US, PlantedText, inside, make_image

_OF_PICTURES = ("Rows", "Columns")


def ids(mask: DeviceMask) -> str:
    return f"{mask.source}-{mask.name}"


def fitting(mask: DeviceMask, *, without: int | None = None) -> Dataset:
    """An instance that fulfils the criteria of the mask, but the one at the index `without`."""
    sizes = {"Rows": max(y1 for *_, y1 in mask.boxes) + 16, "Columns": max(x1 for _, _, x1, _ in mask.boxes) + 16}
    attributes: dict[str, Any] = {}
    for index, criterion in enumerate(mask.where):
        member = criterion["any"][0] if "any" in criterion else criterion
        keyword = member["attribute"]
        wanted = str(member.get("equals", member.get("contains"))[0])
        if keyword in _OF_PICTURES:
            sizes[keyword] = int(wanted) + (1 if index == without else 0)
        elif index != without:
            before = attributes.get(keyword)
            several = [*(before or []), wanted] if keyword == "ImageType" else f"{before} {wanted}"
            attributes[keyword] = several if before is not None or keyword == "ImageType" else wanted
    # A slope: every pixel differs from what blanking would make of it, and nothing in it is a letter to be looked at.
    values = np.linspace(10, 240, sizes["Rows"] * sizes["Columns"]).astype(np.uint8).reshape(sizes["Rows"], sizes["Columns"])
    values[-1, -1] = 0
    version = attributes.pop("ImplementationVersionName", None)
    modality = attributes.pop("Modality", "ZZ" if any(c.get("attribute") == "Modality" for c in mask.where) else "US")
    dataset = make_image(values, sop_class_uid=US, modality=modality, **attributes)
    if version is not None:
        dataset.file_meta.ImplementationVersionName = version
    return dataset


def test_the_masks_that_ship() -> None:
    assert Counter(mask.source for mask in known_masks()) == {"ctp": 49, "deid": 55}
    assert sum(len(mask.boxes) for mask in known_masks()) == 115
    makers = {
        value.split()[0].casefold()
        for mask in known_masks()
        for criterion in mask.where
        if criterion.get("attribute") == "Manufacturer"
        for value in criterion.get("contains", criterion.get("equals"))
    }
    assert {"ge", "siemens", "philips", "toshiba", "canon", "hitachi", "samsung", "mindray", "esaote", "acuson"} <= makers and len(
        makers
    ) >= 22


def test_each_mask_names_where_it_comes_from() -> None:
    document = json.loads(resources.files("compliance").joinpath("standard/device-masks.json").read_text(encoding="utf-8"))
    assert {mask["from"] for mask in document["masks"]} <= set(document["provenance"])
    assert all(document["provenance"][source]["licence"] for source in ("ctp", "deid"))


@pytest.mark.parametrize("mask", known_masks(), ids=ids)
def test_mask_matches_what_it_describes_and_nothing_with_one_criterion_less(mask: DeviceMask) -> None:
    keywords = {member["attribute"] for criterion in mask.where for member in criterion.get("any", [criterion])}
    assert all(tag_for_keyword(keyword) is not None and dictionary_VR(keyword) != "SQ" for keyword in keywords)
    assert DeviceMask.from_json(mask.to_json()) == mask
    assert mask.matches(fitting(mask))
    for index, criterion in enumerate(mask.where):
        if criterion.get("attribute") == "Rows" and "contains" in criterion:
            continue
        alone = [other.get("attribute") for other in mask.where].count(criterion.get("attribute")) == 1
        assert not alone or not mask.matches(fitting(mask, without=index))


@pytest.mark.parametrize("mask", known_masks(), ids=ids)
def test_mask_blanks_its_boxes_in_an_instance_at_risk_and_not_a_pixel_more(mask: DeviceMask) -> None:
    dataset = fitting(mask)
    assert pixel_risk(dataset, [mask]) is not None
    result = screen_pixels(dataset, IDENTITY, PlantedText(), masks=[mask])
    before = np.frombuffer(dataset.PixelData, np.uint8)[: dataset.Rows * dataset.Columns].reshape(dataset.Rows, dataset.Columns)
    after = np.frombuffer(result.dataset.PixelData, np.uint8)[: before.size].reshape(before.shape)
    covered = inside(dataset, result.boxes)
    declared = np.zeros_like(covered)
    for x0, y0, x1, y1 in mask.boxes:
        declared[y0:y1, x0:x1] = True
    assert (result.outcome, result.masks, {box.why for box in result.boxes}) == ("CLEANED", (mask.name,), {"mask"})
    assert np.array_equal(covered, declared) and covered.any()
    assert len(np.unique(after[covered])) == 1 and np.array_equal(after[~covered], before[~covered])


def test_no_mask_touches_an_axial_slice() -> None:
    for maker in ("GE MEDICAL SYSTEMS", "SIEMENS", "Philips", "TOSHIBA", "Canon"):
        image_type = ["ORIGINAL", "PRIMARY", "AXIAL"]
        values = np.full((512, 512), 200, "<u2")
        ct = "1.2.840.10008.5.1.4.1.1.2"
        slice_ = make_image(
            values, sop_class_uid=ct, modality="CT", ImageType=image_type, Manufacturer=maker, SeriesDescription="Thorax 1.0"
        )
        assert not matching_masks(slice_, known_masks())
        assert screen_pixels(slice_, IDENTITY, PlantedText()).dataset is slice_
