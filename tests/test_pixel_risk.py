"""Slices that agree in what the class of risk asks for share its verdict; what differs in it, or was looked at, is asked again."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from pydicom import Dataset

from compliance.burned_in import PixelScreening, screen_pixels
from compliance.byte_needles import needles_of
from compliance.deidentify import deidentify
from compliance.identity_terms import collect_identity
from tests.builders import make_ct_study
from tests.deid_samples import instance_of, names_for


def _times_asked(datasets: Sequence[Dataset], *, risk: str = "") -> int:
    asked: list[str] = []

    def screen(dataset: Dataset, words: Sequence[str]) -> PixelScreening:
        asked.append(str(dataset.SOPInstanceUID))
        return screen_pixels(dataset, words, None) if not risk else PixelScreening("CLEAN", "", (), dataset, risk)

    sources = [instance_of(dataset) for dataset in datasets]
    under = names_for(collect_identity(sources))
    for source in sources:
        deidentify(source, under, screen=screen)
    return len(asked)


def test_spared_slices_of_a_study_are_judged_once() -> None:
    assert _times_asked(make_ct_study(4)) == 1


def test_what_was_looked_at_is_looked_at_again_in_the_next_instance() -> None:
    assert _times_asked(make_ct_study(3), risk="not spared") == 3


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("Manufacturer", "ACME"),
        ("ManufacturerModelName", "Scan 9"),
        ("ImageType", ["ORIGINAL", "PRIMARY", "AXIAL", "OTHER"]),
        ("SeriesDescription", "Other words"),
        ("StationName", "ST9"),
    ],
)
def test_an_attribute_that_a_mask_may_name_asks_again(keyword: str, value: object) -> None:
    datasets = make_ct_study(3)
    setattr(datasets[1], keyword, value)
    expected = 1 if keyword == "StationName" else 2
    assert _times_asked(datasets) == expected


@pytest.mark.parametrize("offset", range(9))
def test_needles_are_found_in_pixels_at_every_alignment(offset: int) -> None:
    needles = needles_of(["Zorvath", "Quillanette"])
    payload = bytes(range(256)) * 300
    for at in (offset, 30_000 + offset, len(payload) - 7 - offset):
        planted = payload[:at] + b"zORVATH" + payload[at + 7 :]
        assert list(needles.pixel_hits(planted, 0)) == [at]
    assert list(needles.pixel_hits(payload, 0)) == []
