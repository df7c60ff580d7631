"""The sample studies are valid, deterministic, look like what they claim, and carry identity everywhere a hospital would put it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from crypto.errors import BadInput
from gateway.samples import INSTITUTIONS, Person, make_chest_cr, make_head_ct, make_order, make_ultrasound_clip, sample_studies
from gateway.samples.people import ELENI_PAPADIMOU, HARUKA_MIZUSHIMA, JOZEF_WISNIOWSKI, KAETHE_GRUENWALD, LEMUEL_HARGROVE
from tests.builders import (
    TRANSFER_SYNTAXES,
    make_ct_study,
    make_mr_study,
    make_secondary_capture,
    make_ultrasound,
    part10_of,
    payload_of,
)
from tests.canary import canary_study
from tests.peers import require_peer

PEOPLE = (ELENI_PAPADIMOU, HARUKA_MIZUSHIMA, JOZEF_WISNIOWSKI, KAETHE_GRUENWALD, LEMUEL_HARGROVE)


@pytest.fixture(scope="module")
def head_ct() -> list[Dataset]:
    return make_head_ct(KAETHE_GRUENWALD, slices=16, seed=1)


def hounsfield(dataset: Dataset) -> NDArray[np.float64]:
    return dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)


def elements(dataset: Dataset) -> Iterator[pydicom.DataElement]:
    for element in dataset:
        yield element
        for item in element.value if element.VR == "SQ" else ():
            yield from elements(item)


def test_head_ct_has_air_bone_brain_and_a_bleed_where_it_was_put(head_ct: list[Dataset]) -> None:
    volume = np.stack([hounsfield(dataset) for dataset in head_ct])
    assert volume.shape == (16, 512, 512) and volume.dtype == np.float64
    middle = volume[9]
    assert middle[60, 256] == pytest.approx(-1000, abs=40)
    assert 900 < middle.max() < 1900
    brain = middle[(middle > 15) & (middle < 45)]
    assert brain.size > 40_000 and 25 < brain.mean() < 36
    without = np.stack([hounsfield(dataset) for dataset in make_head_ct(KAETHE_GRUENWALD, slices=16, seed=1, lesions=())])
    changed = np.argwhere(volume - without > 20)
    assert 30 < len(changed) < 5000
    position = head_ct[int(np.median(changed[:, 0]))].ImagePositionPatient
    assert abs(float(position[2]) - 36) <= 10
    assert float(position[0]) + np.median(changed[:, 2]) * float(head_ct[0].PixelSpacing[0]) > 15, "on the patient's left"


def test_head_ct_geometry_is_one_regular_volume(head_ct: list[Dataset]) -> None:
    heights = np.array([float(dataset.ImagePositionPatient[2]) for dataset in head_ct])
    assert np.allclose(np.diff(heights), float(head_ct[0].SliceThickness), atol=0.002)
    assert len({dataset.SOPInstanceUID for dataset in head_ct}) == 16
    assert len({(d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID) for d in head_ct}) == 1
    assert make_head_ct.__kwdefaults__["slices"] >= 60


def test_same_seed_gives_same_bytes_and_later_study_shows_same_head() -> None:
    first, again = (make_ultrasound_clip(JOZEF_WISNIOWSKI, seed=3, frames=1)[0] for _ in range(2))
    assert payload_of(first) == payload_of(again)
    assert first.PixelData != make_ultrasound_clip(JOZEF_WISNIOWSKI, seed=4, frames=1)[0].PixelData
    one, two = (make_head_ct(LEMUEL_HARGROVE, slices=2, seed=seed, number=seed)[0] for seed in (5, 6))
    assert one.StudyInstanceUID != two.StudyInstanceUID and one.PatientID == two.PatientID
    assert one.PixelData != two.PixelData


def test_ultrasound_clip_shows_the_name_in_every_frame() -> None:
    clip = make_ultrasound_clip(KAETHE_GRUENWALD, frames=3)[0]
    frames = clip.pixel_array
    assert frames.shape == (3, 480, 640, 3)
    assert all((frame[4:40, 4:200] > 180).sum() > 200 for frame in frames)
    assert not np.array_equal(frames[0], frames[1])
    assert "BurnedInAnnotation" not in make_ultrasound_clip(KAETHE_GRUENWALD, frames=1, burned_in_annotation=None)[0]


@pytest.mark.parametrize("person", PEOPLE, ids=lambda person: person.patient_id)
def test_identity_stands_in_plain_nested_and_private_elements(person: Person) -> None:
    back = pydicom.dcmread(BytesIO(part10_of(make_ct_study(1, person=person)[0])))
    assert str(back.PatientName) == person.name
    assert any(e.tag.is_private and not e.tag.is_private_creator and person.patient_id in str(e.value) for e in elements(back))
    assert sum(person.family_name in str(e.value) for e in elements(back) if e.VR != "SQ") >= 5
    assert person.insurance_number in {str(e.value) for e in elements(back) if e.keyword == "PatientID"}


@pytest.mark.parametrize("person", PEOPLE, ids=lambda person: person.patient_id)
def test_order_names_the_study_and_speaks_of_the_patient(person: Person) -> None:
    hospital_id = "h1" if person.patient_id.startswith("LN") else "h2"
    study = make_ct_study(1, person=person, hospital_id=hospital_id)
    message = make_order(person, study, hospital_id=hospital_id).decode("utf-8")
    assert message.endswith("\r") and "\n" not in message
    segments = {line.split("|")[0]: line.split("|") for line in message.split("\r") if line}
    assert list(segments) == ["MSH", "PID", "PV1", "ORC", "OBR", "OBX", "ZDS"]
    assert segments["MSH"][8] == "ORM^O01^ORM_O01"
    assert segments["PID"][3] == f"{person.patient_id}^^^{INSTITUTIONS[hospital_id].issuer_of_patient_id}^PI"
    assert segments["OBR"][18] == study[0].AccessionNumber and segments["OBR"][24] == "CT"
    assert segments["OBR"][13] == segments["OBR"][31] == study[0].AdditionalPatientHistory
    assert segments["PV1"][8].startswith(INSTITUTIONS[hospital_id].referring_physician.split("^")[0])
    assert person.family_name in segments["OBX"][5]
    assert segments["ZDS"][1].split("^")[0] == study[0].StudyInstanceUID


def test_unknown_hospital_has_no_samples() -> None:
    with pytest.raises(BadInput, match="h1 and h2"):
        sample_studies("h9")


@pytest.mark.slow
def test_sample_studies_of_both_hospitals() -> None:
    h1, h2 = sample_studies("h1", head_slices=2), sample_studies("h2", head_slices=2)
    assert [study.name for study in h1] == ["head-ct", "head-ct-follow-up", "chest-cr", "ultrasound"]
    assert len(h1[0].datasets) == 2 and h1[0].person == h1[1].person
    assert h1[0].datasets[0].StudyDate < h1[1].datasets[0].StudyDate
    assert all(study.hospital_id == "h2" for study in h2)
    uids = [dataset.SOPInstanceUID for study in h1 + h2 for dataset in study.datasets]
    assert len(set(uids)) == len(uids)


@pytest.mark.interop
@pytest.mark.parametrize(
    "make",
    [
        lambda: make_head_ct(KAETHE_GRUENWALD, slices=2)[1],
        lambda: make_chest_cr(HARUKA_MIZUSHIMA)[0],
        lambda: make_ultrasound_clip(ELENI_PAPADIMOU, frames=2)[0],
        lambda: make_ct_study(1, person=JOZEF_WISNIOWSKI)[0],
        lambda: make_mr_study(1, person=LEMUEL_HARGROVE)[0],
        make_ultrasound,
        lambda: make_secondary_capture(np.zeros((32, 32), np.uint8)),
        lambda: canary_study(1)[0][0],
    ],
    ids=["head-ct", "chest-cr", "ultrasound-clip", "ct", "mr", "us", "sc", "canary"],
)
def test_dciodvfy_finds_no_error(make: Callable[[], Dataset], tmp_path: Path) -> None:
    path = tmp_path / "instance.dcm"
    path.write_bytes(part10_of(make()))
    run = subprocess.run([require_peer("dciodvfy"), str(path)], capture_output=True, timeout=60, check=False)
    said = (run.stdout + run.stderr).decode("utf-8", "replace").splitlines()
    assert [line for line in said if line.startswith("Error")] == []


@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES, ids=lambda syntax: syntax.name.split(",")[0].replace(" ", "-"))
@pytest.mark.parametrize("make", [make_ct_study, make_mr_study], ids=["signed-16", "unsigned-12"])
def test_payload_in_every_transfer_syntax_holds_the_same_pixels(make: Callable[[int], list[Dataset]], syntax: pydicom.uid.UID) -> None:
    dataset = make(1)[0]
    back = pydicom.dcmread(BytesIO(part10_of(dataset, syntax)))
    assert back.file_meta.TransferSyntaxUID == syntax
    assert np.array_equal(back.pixel_array, dataset.pixel_array)
    assert back.PatientName == dataset.PatientName


def test_every_canary_is_in_the_payload() -> None:
    datasets, canaries = canary_study(2)
    payloads = [payload_of(dataset) for dataset in datasets]
    assert len(canaries) > 90
    assert [path for path, text in canaries.items() if not any(text.encode() in payload for payload in payloads)] == []
