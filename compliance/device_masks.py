"""Regions that devices are known to print identity into, and which instances are at risk at all. Both are data.

Invariants
- A mask never touches an instance that is not at risk: an axial slice keeps every pixel, whatever its manufacturer.
- A mask that names the size, image type or series of its instance puts that instance at risk by itself.
- What is on no list is looked at.

`standard/device-masks.json` names the source and licence of each mask; `standard/pixel-risk.json` is the class of risk.
DICOM PS3.15 E.3.1, Clean Pixel Data Option.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels of the frame; x1 and y1 are outside."""

_DEVICE_AND_SIZE = ("SOPClassUID", "Manufacturer", "ManufacturerModelName", "Rows", "Columns")
_ATTRIBUTES_OF_A_KIND_OF_PICTURE = frozenset({"Rows", "ImageType", "SeriesDescription"})


@dataclass(frozen=True)
class DeviceMask:
    """Boxes to blank in every frame of the instances that fulfil all criteria."""

    name: str
    source: str
    where: tuple[Mapping[str, Any], ...]
    boxes: tuple[Box, ...]

    @staticmethod
    def from_json(entry: Mapping[str, Any]) -> DeviceMask:
        """A mask as the file, or a hospital's own list of decisions ("always for this device and size"), writes it."""
        boxes = tuple((int(x0), int(y0), int(x1), int(y1)) for x0, y0, x1, y1 in entry["boxes"])
        return DeviceMask(str(entry["name"]), str(entry["from"]), tuple(entry["where"]), boxes)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "from": self.source, "where": list(self.where), "boxes": [list(box) for box in self.boxes]}

    def matches(self, dataset: Dataset) -> bool:
        return all(fulfils(dataset, criterion) for criterion in self.where)

    @property
    def names_a_kind_of_picture(self) -> bool:
        return any(criterion.get("attribute") in _ATTRIBUTES_OF_A_KIND_OF_PICTURE for criterion in self.where)


def mask_for_device(dataset: Dataset, boxes: Sequence[Box], *, name: str) -> DeviceMask:
    """The mask a person means by "always for this device and size": same SOP class, manufacturer, model, rows and columns."""
    where = tuple({"attribute": keyword, "equals": [value]} for keyword in _DEVICE_AND_SIZE for value in _values(dataset, keyword)[:1])
    return DeviceMask(name, "hospital", where, tuple(boxes))


@cache
def known_masks() -> tuple[DeviceMask, ...]:
    """The masks that ship with Readgate."""
    return tuple(DeviceMask.from_json(entry) for entry in _data("device-masks.json")["masks"])


def matching_masks(dataset: Dataset, masks: Iterable[DeviceMask]) -> list[DeviceMask]:
    return [mask for mask in masks if mask.matches(dataset)]


def pixel_risk(dataset: Dataset, masks: Iterable[DeviceMask]) -> str | None:
    """The name of the row of the class of risk that applies, or None for an instance that passes unseen. `masks`: those that match."""
    rows = _data("pixel-risk.json")
    for row in rows["look"]:
        if fulfils(dataset, row):
            return str(row["name"])
    if any(mask.names_a_kind_of_picture for mask in masks):
        return "device mask"
    if str(dataset.get("SOPClassUID", "")) not in {row["sop_class_uid"] for row in rows["spare"]}:
        return "not spared"
    derived = rows["spare_unless_derived"]
    image_type = [value.upper() for value in _values(dataset, derived["attribute"])]
    if image_type[:1] == derived["first"] and image_type[1:2] == derived["second"]:
        return None if any(value in derived["but_reformatted"] for value in image_type[2:]) else "derived"
    return None


def criterion_keywords(masks: Iterable[Mapping[str, Any]]) -> set[str]:
    """The attributes that the class of risk, and masks as `to_json` writes them, ask for."""
    rows = _data("pixel-risk.json")
    keywords = {"SOPClassUID", str(rows["spare_unless_derived"]["attribute"]), *(str(row["attribute"]) for row in rows["look"])}
    for mask in masks:
        for criterion in mask["where"]:
            keywords.update(str(member["attribute"]) for member in criterion.get("any", [criterion]))
    return keywords


@cache
def risk_tags() -> tuple[int, ...]:
    """Tags of all that the class of risk and any mask ask for, a hospital's own masks (`mask_for_device`) included."""
    keywords = criterion_keywords([mask.to_json() for mask in known_masks()]) | set(_DEVICE_AND_SIZE)
    return tuple(sorted(tag for keyword in keywords if (tag := tag_for_keyword(keyword)) is not None))


def fulfils(dataset: Dataset, criterion: Mapping[str, Any]) -> bool:
    """Whether one criterion of the data files holds. An absent attribute fulfils nothing."""
    if "any" in criterion:
        return any(fulfils(dataset, member) for member in criterion["any"])
    values = [value.casefold() for value in _values(dataset, criterion["attribute"])]
    if "equals" in criterion:
        return any(wanted.casefold() in values for wanted in criterion["equals"])
    return any(wanted.casefold() in value for wanted in criterion["contains"] for value in values)


def _values(dataset: Dataset, keyword: str) -> list[str]:
    value = dataset.get(keyword)
    if value is None and keyword == "ImplementationVersionName":
        value = getattr(getattr(dataset, "file_meta", None), keyword, None)
    if value is None or value == "":
        return []
    return [str(member).strip() for member in (value if isinstance(value, MultiValue | list) else [value])]


@cache
def _data(name: str) -> Any:
    return json.loads(resources.files("compliance").joinpath("standard", name).read_text(encoding="utf-8"))
