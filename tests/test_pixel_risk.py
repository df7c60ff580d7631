"""Slices that agree in what the class of risk asks for share its verdict; what differs in it, or was looked at, is asked again."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from pydicom import Dataset

from compliance.burned_in import PixelScreening, screen_pixels
from compliance.byte_needles import needles_of
from compliance.deidentify import deidentify
from compliance.device_masks import pixel_risk
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


LOOKED_AT = {
    "Ultrasound": ("6.1", "US", {}),
    "Ultrasound Multi-frame": ("3.1", "US", {}),
    "Enhanced US Volume": ("6.2", "US", {}),
    "US under another modality": ("6.1", "ZZ", {}),
    "Secondary Capture": ("7", "CT", {}),
    "Multi-frame True Color SC": ("7.4", "MR", {}),
    "XA": ("12.1", "XA", {}),
    "Enhanced XA": ("12.1.1", "XA", {}),
    "RF": ("12.2", "RF", {}),
    "Enhanced RF": ("12.2.1", "RF", {}),
    "CR without a flag": ("1", "CR", {}),
    "DX for presentation, flag NO": ("1.1", "DX", {"BurnedInAnnotation": "NO"}),
    "MG": ("1.2", "MG", {}),
    "Breast Tomosynthesis": ("13.1.3", "MG", {}),
    "Intra-oral": ("1.3", "IO", {}),
    "VL Endoscopic": ("77.1.1", "ES", {}),
    "Video Endoscopic": ("77.1.1.1", "ES", {}),
    "VL Photographic": ("77.1.4", "XC", {}),
    "Ophthalmic Photography": ("77.1.5.1", "OP", {}),
    "NM screen save": ("20", "NM", {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}),
    "NM": ("20", "NM", {"ImageType": ["ORIGINAL", "PRIMARY", "STATIC", "EMISSION"]}),
    "PT screen save": ("128", "PT", {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}),
    "PT secondary": ("128", "PT", {"ImageType": ["DERIVED", "SECONDARY"]}),
    "CT dose page": ("2", "CT", {"ImageType": ["DERIVED", "SECONDARY", "DOSE"]}),
    "CT exam summary": ("2", "CT", {"ImageType": ["DERIVED", "SECONDARY", "OTHER"], "SeriesDescription": "Exam summary"}),
    "CT localizer": ("2", "CT", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
    "Enhanced CT that says so": ("2.1", "CT", {"BurnedInAnnotation": "YES"}),
    "Enhanced MR of colour": ("4.1", "MR", {"SamplesPerPixel": 3}),
    "Legacy Converted Enhanced CT": ("2.2", "CT", {}),
    "CT of a palette": ("2", "CT", {"PhotometricInterpretation": "PALETTE COLOR"}),
    "CT that was captured": ("2", "CT", {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "DateOfSecondaryCapture": "20260101"}),
    "RT Image": ("481.1", "RTIMAGE", {}),
    "A class nobody knows": ("9999.1", "CT", {}),
}
PASSED = {
    "CT": ("2", "CT", {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]}),
    "Enhanced CT": ("2.1", "CT", {"ImageType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]}),
    "MR": ("4", "MR", {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"]}),
    "Enhanced MR": ("4.1", "MR", {"ImageType": ["ORIGINAL", "PRIMARY", "T2", "NONE"]}),
    "PT": ("128", "PT", {"ImageType": ["ORIGINAL", "PRIMARY"]}),
    "Segmentation": ("66.4", "SEG", {"ImageType": ["DERIVED", "PRIMARY"]}),
}


def _instance(sop_class: str, modality: str, attributes: dict[str, object]) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.Modality = f"1.2.840.10008.5.1.4.1.1.{sop_class}", modality
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.mark.parametrize("name", LOOKED_AT)
def test_class_at_risk_is_looked_at(name: str) -> None:
    assert pixel_risk(_instance(*LOOKED_AT[name]), []) is not None


@pytest.mark.parametrize("name", PASSED)
def test_slice_of_anatomy_passes_unseen(name: str) -> None:
    assert pixel_risk(_instance(*PASSED[name]), []) is None


@pytest.mark.parametrize("offset", range(9))
def test_needles_are_found_in_pixels_at_every_alignment(offset: int) -> None:
    needles = needles_of(["Zorvath", "Quillanette"])
    payload = bytes(range(256)) * 300
    for at in (offset, 30_000 + offset, len(payload) - 7 - offset):
        planted = payload[:at] + b"zORVATH" + payload[at + 7 :]
        assert list(needles.pixel_hits(planted, 0)) == [at]
    assert list(needles.pixel_hits(payload, 0)) == []
