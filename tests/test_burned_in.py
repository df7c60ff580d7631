"""Pixel screening: what is looked at, what is blanked, what is held, and that nothing else changes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.utils import pixel_array

from compliance.burned_in import screen_pixels
from compliance.device_masks import Box, pixel_risk
from compliance.text_detection import DetectedText, TextDetector, open_text_detector
from tests.planted_text import (
    AT,
    BIG,
    CT,
    HTJ2K,
    IDENTITY,
    IMPLICIT,
    JPEG,
    NATIVE,
    RLE,
    SC,
    PlantedText,
    ground,
    inside,
    make_image,
    named,
    text_image,
)


@pytest.mark.parametrize(
    "modality, sop_class_uid", [("CT", CT), ("MR", "1.2.840.10008.5.1.4.1.1.4"), ("PT", "1.2.840.10008.5.1.4.1.1.128")]
)
def test_axial_original_passes_unseen_and_untouched(modality: str, sop_class_uid: str) -> None:
    detector = named()
    dataset = make_image(ground(), sop_class_uid=sop_class_uid, modality=modality, ImageType=["ORIGINAL", "PRIMARY", "AXIAL"])
    result = screen_pixels(dataset, IDENTITY, detector)
    assert (result.outcome, result.dataset is dataset, detector.calls) == ("CLEAN", True, 0)


@pytest.mark.parametrize(
    "attributes",
    [
        {"BurnedInAnnotation": "YES", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]},
        {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]},
        {"ImageType": ["DERIVED", "SECONDARY"]},
        {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        {"SeriesDescription": "Dose Report"},
    ],
)
def test_ct_that_hints_at_a_screen_save_is_looked_at(attributes: dict[str, Any]) -> None:
    dataset = make_image(ground(), sop_class_uid=CT, modality="CT", **attributes)
    assert screen_pixels(dataset, IDENTITY, named()).outcome == "CLEANED"


@pytest.mark.parametrize("description", ["STD BRAIN 1MM, iDose", "Thorax LOW DOSE 1.0", "LUNG SCREENING"])
def test_axial_ct_named_after_its_protocol_passes_unseen(description: str) -> None:
    image_type = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset = make_image(ground(), sop_class_uid=CT, modality="CT", ImageType=image_type, SeriesDescription=description)
    assert pixel_risk(dataset, []) is None


@pytest.mark.parametrize("image_type", [["DERIVED", "SECONDARY", "MPR"], ["DERIVED", "SECONDARY", "AXIAL"]])
def test_reformatted_ct_passes_unseen(image_type: list[str]) -> None:
    assert pixel_risk(make_image(ground(), sop_class_uid=CT, modality="CT", ImageType=image_type), []) is None


@pytest.mark.parametrize("modality", ["US", "XA", "RF", "CR", "DX", "MG", "OT", "XX"])
def test_without_ocr_a_class_at_risk_is_held(modality: str) -> None:
    dataset = make_image(ground(), modality=modality, sop_class_uid=SC)
    result = screen_pixels(dataset, IDENTITY, None)
    assert (result.outcome, result.reason, result.dataset is dataset) == ("HOLD", "OCR_UNAVAILABLE", True)


@pytest.mark.parametrize("syntax", [NATIVE, IMPLICIT])
@pytest.mark.parametrize("dtype", ["u1", "<u2", "<i2"])
def test_native_name_is_blanked_and_every_other_pixel_stays(syntax: str, dtype: str) -> None:
    values = ground(dtype=dtype)
    dataset = make_image(values, syntax=syntax)
    before = dataset.PixelData
    result = screen_pixels(dataset, IDENTITY, named())
    covered = inside(dataset, result.boxes)
    after = np.frombuffer(result.dataset.PixelData, dtype).reshape(values.shape)
    assert (result.outcome, result.boxes[0].why) == ("CLEANED", "identifying")
    assert np.array_equal(after[~covered], values[~covered]) and len(np.unique(after[covered])) == 1
    assert dataset.PixelData == before and "BurnedInAnnotation" not in dataset
    assert result.dataset.BurnedInAnnotation == "NO" and str(result.dataset.file_meta.TransferSyntaxUID) == syntax


def test_big_endian_native_is_blanked_in_place() -> None:
    values = ground(dtype=">u2")
    result = screen_pixels(make_image(values, syntax=BIG), IDENTITY, named())
    after = np.frombuffer(result.dataset.PixelData, ">u2").reshape(values.shape)
    covered = inside(result.dataset, result.boxes)
    assert result.outcome == "CLEANED" and np.array_equal(after[~covered], values[~covered])


def test_planar_colour_is_blanked_in_every_plane() -> None:
    values = np.stack([ground(), ground() // 2, ground() // 3])
    dataset = make_image(values[0], payload=None, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=1)
    dataset.PixelData = values.tobytes()
    result = screen_pixels(dataset, IDENTITY, named())
    after = np.frombuffer(result.dataset.PixelData, "u1").reshape(values.shape)
    covered = inside(dataset, result.boxes)
    assert result.outcome == "CLEANED" and not after[:, covered].any() and np.array_equal(after[:, ~covered], values[:, ~covered])


def test_ybr_422_is_blanked_and_the_rest_stays() -> None:
    values = np.full((160, 120, 4), 128, np.uint8)
    values[..., :2] = ground().reshape(160, 120, 2)
    dataset = make_image(ground(), SamplesPerPixel=3, PhotometricInterpretation="YBR_FULL_422", PlanarConfiguration=0)
    dataset.PixelData = values.tobytes()
    result = screen_pixels(dataset, IDENTITY, named())
    after = np.frombuffer(result.dataset.PixelData, "u1").reshape(values.shape)
    changed = (after != values).any(axis=2)
    x0, y0, x1, y1 = result.boxes[0].box
    assert result.outcome == "CLEANED" and changed[y0:y1, x0 // 2 : x1 // 2].any()
    changed[y0:y1, x0 // 2 : -(-x1 // 2)] = False
    assert not changed.any()


def test_lossless_compressed_without_text_passes_bit_for_bit() -> None:
    values = ground()
    payload = encapsulate([bytes(imagecodecs.htj2k_encode(values, reversible=True))])
    dataset = make_image(values, syntax=HTJ2K, payload=payload)
    result = screen_pixels(dataset, IDENTITY, PlantedText())
    assert (result.outcome, result.dataset is dataset, dataset.PixelData == payload) == ("CLEAN", True, True)


@pytest.mark.parametrize("colour", [False, True])
def test_lossy_data_is_written_losslessly_and_says_so(colour: bool) -> None:
    values = np.stack([ground()] * 3, axis=-1) if colour else ground()
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "JPEG", quality=90)
    photometric = "YBR_FULL_422" if colour else "MONOCHROME2"
    dataset = make_image(
        values, syntax=JPEG, payload=encapsulate([stream.getvalue()]), PhotometricInterpretation=photometric, LossyImageCompression="01"
    )
    decoded = pixel_array(dataset).copy()
    result = screen_pixels(dataset, IDENTITY, named())
    after = pixel_array(result.dataset)
    covered = inside(dataset, result.boxes)
    assert (result.outcome, str(result.dataset.file_meta.TransferSyntaxUID)) == ("CLEANED", HTJ2K)
    assert np.array_equal(after[~covered], decoded[~covered]) and int(np.ptp(after[covered].reshape(-1))) == 0
    assert result.dataset.LossyImageCompression == "01" and "lossy" in result.dataset.DerivationDescription
    assert all(edge % 16 == 0 or edge in (dataset.Columns, dataset.Rows) for edge in result.boxes[0].box)
    buffer = io.BytesIO()
    dcmwrite(buffer, result.dataset, enforce_file_format=False)
    assert np.array_equal(pixel_array(dcmread(io.BytesIO(buffer.getvalue()), force=True)), after)


class FoundOnTheSecondLook(PlantedText):
    """Finds the name, and when it looks again another one below it: the screening blanks in two rounds."""

    def read(
        self,
        picture: NDArray[np.uint8],
        *,
        closely: bool = False,
        windows: Sequence[Box] | None = None,
        settled: Sequence[Box] = (),
    ) -> list[DetectedText]:
        self.calls += 1
        name = picture[AT[1] : AT[3], AT[0] : AT[2]]
        if int(np.ptp(name.astype(int))) > 60:
            return [DetectedText(*AT, "KOWALSKA", 0.95)]
        date = picture[40:56, 18:62]
        return [DetectedText(18, 40, 62, 56, "03.02.1961", 0.95)] if int(np.ptp(date.astype(int))) > 60 else []


@pytest.mark.parametrize("syntax", [HTJ2K, JPEG, RLE])
def test_compressed_instance_is_blanked_in_two_rounds_and_what_came_in_stays_as_it_was(syntax: str) -> None:
    values = np.stack([ground()] * 3, axis=-1)
    values[42:54, 20:60:4] = 250
    dataset = compressed(values, syntax)
    dataset.BurnedInAnnotation, dataset.DerivationDescription = "YES", "before"
    assert dataset.PhotometricInterpretation and dataset.file_meta.TransferSyntaxUID == syntax  # elements that a copy would share
    before = dataset.to_json(), dataset.file_meta.to_json()
    result = screen_pixels(dataset, IDENTITY, FoundOnTheSecondLook())
    assert (result.outcome, result.reason, len(result.boxes)) == ("CLEANED", "", 2)
    assert (dataset.to_json(), dataset.file_meta.to_json()) == before
    after = pixel_array(result.dataset)
    covered = inside(dataset, result.boxes)
    assert not after[covered].any() and np.array_equal(after[~covered], pixel_array(dataset)[~covered])


def compressed(values: NDArray[Any], syntax: str) -> Dataset:
    if syntax == RLE:
        dataset = make_image(values)
        dataset.SOPInstanceUID = "2.25.1"
        dataset.compress(RLE, generate_instance_uid=False)
        return dataset
    if syntax == HTJ2K:
        codestream = bytes(imagecodecs.htj2k_encode(values, reversible=True))
        return make_image(values, syntax=HTJ2K, payload=encapsulate([codestream]), PhotometricInterpretation="YBR_RCT")
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "JPEG", quality=90)
    payload = encapsulate([stream.getvalue()])
    return make_image(values, syntax=JPEG, payload=payload, PhotometricInterpretation="YBR_FULL_422", LossyImageCompression="01")


def test_every_frame_is_blanked_where_one_carries_the_name() -> None:
    frames = np.stack([np.random.default_rng(index).integers(20, 60, (160, 240)).astype("u1") for index in range(9)])
    frames[4, 4:16, 20:60:4] = 250
    result = screen_pixels(make_image(frames, NumberOfFrames=9), IDENTITY, named())
    after = np.frombuffer(result.dataset.PixelData, "u1").reshape(frames.shape)
    covered = inside(result.dataset, result.boxes)
    assert (
        result.outcome == "CLEANED" and len(np.unique(after[:, covered])) == 1 and np.array_equal(after[:, ~covered], frames[:, ~covered])
    )


def test_frame_with_new_edges_between_the_samples_is_read() -> None:
    # A name on the moving part of one frame: neither a sample nor a projection shows it.
    frames = np.random.default_rng(1).integers(0, 255, (12, 160, 1)).astype("u1").repeat(240, axis=2)
    without = screen_pixels(make_image(frames, NumberOfFrames=12), IDENTITY, PlantedText())
    frames[7, 100:116, 100:140:2] = 255 - frames[7, 100:116, 100:140:2]
    result = screen_pixels(make_image(frames, NumberOfFrames=12), IDENTITY, PlantedText())
    assert result.outcome == without.outcome == "CLEAN" and result.pictures_read == without.pictures_read + 1


def test_unknown_word_is_blanked_at_the_edge_and_held_on_anatomy() -> None:
    values = ground()
    values[80:92, 100:140:4] = 250
    at_edge = screen_pixels(make_image(values), IDENTITY, PlantedText((AT, "Zoltan")))
    on_anatomy = screen_pixels(make_image(values), IDENTITY, PlantedText(((98, 78, 142, 94), "Zoltan")))
    assert (at_edge.outcome, at_edge.boxes[0].why) == ("CLEANED", "unknown text")
    assert (on_anatomy.outcome, on_anatomy.reason, on_anatomy.boxes[0].why) == ("HOLD", "TEXT_ON_ANATOMY", "text on anatomy")


class ReadOnce(PlantedText):
    """Reads a word on anatomy where there is none, with little confidence, and another one when it looks closely."""

    def __init__(self, closely: str, score: float, first: str = "XXV") -> None:
        super().__init__()
        self.closely, self.score, self.first = closely, score, first

    def read(
        self,
        picture: NDArray[np.uint8],
        *,
        closely: bool = False,
        windows: Sequence[Box] | None = None,
        settled: Sequence[Box] = (),
    ) -> list[DetectedText]:
        self.calls += 1
        return (
            [DetectedText(98, 78, 142, 94, self.closely if closely else self.first, 0.9 if closely else self.score)]
            if not closely or self.closely
            else []
        )


@pytest.mark.parametrize(
    "closely, score, outcome",
    [
        ("", 0.65, "CLEAN"),
        ("l", 0.65, "CLEAN"),
        ("XXV", 0.65, "HOLD"),
        ("Zoltan", 0.65, "HOLD"),
        ("", 0.9, "HOLD"),
        ("KOWALSKA", 0.65, "CLEANED"),
    ],
)
def test_word_read_with_doubt_on_anatomy_is_looked_at_closely_before_it_holds(closely: str, score: float, outcome: str) -> None:
    values = ground()
    values[80:92, 100:140:4] = 250
    result = screen_pixels(make_image(values), IDENTITY, ReadOnce(closely, score))
    assert result.outcome == outcome


@pytest.mark.parametrize(
    "first, closely, score, outcome",
    [
        ("37002", "", 0.41, "CLEAN"),
        ("37002", "Zoltan", 0.41, "HOLD"),
        ("37002", "77002", 0.41, "CLEANED"),
        ("37002", "", 0.7, "CLEANED"),
        ("4821337", "", 0.2, "CLEANED"),
        ("KOWALSKA", "", 0.2, "CLEANED"),
    ],
)
def test_number_read_into_noise_is_looked_at_closely_and_the_studys_own_is_blanked_at_once(
    first: str, closely: str, score: float, outcome: str
) -> None:
    values = ground()
    values[80:92, 100:140:4] = 250
    assert screen_pixels(make_image(values), IDENTITY, ReadOnce(closely, score, first)).outcome == outcome


def test_clinical_marks_stay() -> None:
    dataset = make_image(ground())
    result = screen_pixels(dataset, IDENTITY, PlantedText((AT, "R LAT 120 kV")))
    assert result.outcome == "CLEAN" and result.dataset is dataset


def test_text_that_does_not_go_away_is_held() -> None:
    result = screen_pixels(make_image(ground(rows=400)), IDENTITY, PlantedText((AT, "KOWALSKA"), stubborn=True))
    assert (result.outcome, result.reason) == ("HOLD", "TEXT_REMAINS")


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"Rows": 65535, "Columns": 65535, "NumberOfFrames": 9000}, "PIXEL_TOO_LARGE"),
        ({"Rows": 0}, "PIXEL_DIMENSIONS_INVALID"),
        ({"BitsAllocated": 12}, "PIXEL_DIMENSIONS_INVALID"),
        ({"Rows": 161}, "PIXEL_LENGTH_MISMATCH"),
        ({"NumberOfFrames": 2}, "PIXEL_LENGTH_MISMATCH"),
        ({"Rows": 80}, "PIXEL_LENGTH_MISMATCH"),
        ({"Rows": 159}, "PIXEL_LENGTH_MISMATCH"),
        ({"NumberOfFrames": -1}, "PIXEL_DIMENSIONS_INVALID"),
    ],
)
def test_sizes_that_do_not_add_up_are_held_before_any_decoding(change: dict[str, Any], reason: str) -> None:
    detector = named()
    result = screen_pixels(make_image(ground(), **change), IDENTITY, detector)
    assert (result.outcome, result.reason, detector.calls) == ("HOLD", reason, 0)


@pytest.mark.parametrize(
    "codestream, reason",
    [
        (b"\xff\x4f\xff\x51\x00\x2f\x40\x00" + b"\x00\x00\xff\xff" * 2 + bytes(60), "PIXEL_DIMENSIONS_INVALID"),
        (b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x01" + bytes(60), "PIXEL_DIMENSIONS_INVALID"),
        (b"\xff\xd8\xff\xc0\x00\x11\x08\x00\xa0\x00\xf0\x01" + bytes(60), "PIXEL_UNDECODABLE"),
        (b"no codestream at all", "PIXEL_UNDECODABLE"),
    ],
)
def test_codestream_that_lies_or_breaks_is_held(codestream: bytes, reason: str) -> None:
    dataset = make_image(ground(), syntax=JPEG, payload=encapsulate([codestream + b"\0" * (len(codestream) % 2)]))
    result = screen_pixels(dataset, IDENTITY, named())
    assert (result.outcome, result.reason) == ("HOLD", reason)


def real_detector() -> TextDetector:
    detector = open_text_detector()
    if detector is None:
        pytest.skip("the extra ocr is not installed")
    return detector


def test_ocr_finds_the_name_and_leaves_the_marks() -> None:
    values = text_image("KOWALSKA^ANNA 03.02.1961")
    values = np.maximum(values, text_image("R LAT", at=(290, 120)))
    result = screen_pixels(make_image(values), IDENTITY, real_detector())
    after = np.frombuffer(result.dataset.PixelData, "u1").reshape(values.shape)
    assert result.outcome == "CLEANED" and not after[:40].any() and np.array_equal(after[110:], values[110:])


@pytest.mark.slow
def test_ocr_finds_small_dim_and_rotated_names() -> None:
    detector = real_detector()
    small = text_image("KOWALSKA ANNA", size=9)
    rotated = np.ascontiguousarray(np.rot90(text_image("KOWALSKA ANNA 4821337")))
    dim = (text_image("KOWALSKA ANNA").astype(int) * 30 // 255).astype("u1")
    for values in (small, rotated, dim):
        result = screen_pixels(make_image(values), IDENTITY, detector)
        assert result.outcome == "CLEANED" and not np.frombuffer(result.dataset.PixelData, "u1").any()
