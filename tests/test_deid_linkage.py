# ruff: noqa: E501 - a table of keywords
"""Over studies, priors and retries all references hold; between two hospitals nothing does."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from functools import cache
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from bench.deid_score.carriers import whole_study
from bench.deid_score.persona import ALPHABETS, Persona, draw
from bench.deid_score.seeded_set import SeededSet
from compliance.deid_profile import TELEREAD
from gateway.deidentify_run import DeidentifyRun
from tests.deid_samples import clean_screen

SECRET_A, SECRET_B = b"the secret of hospital A, 32 bytes", b"the secret of hospital B, 32 bytes"
#: What two hospitals' outputs of one patient may have in common: what was measured and how, times of day, the clinical words, the
#: profile's own marks. Everything else that is equal would link them.
SHARED_VRS = frozenset({"AS", "AT", "CS", "DS", "FD", "FL", "IS", "OB", "OW", "SL", "SQ", "SS", "TM", "UL", "US"})
SHARED_KEYWORDS = frozenset(
    {
        "SOPClassUID", "ReferencedSOPClassUID", "StudyDescription", "SeriesDescription", "ProtocolName", "ImageComments", "AdditionalPatientHistory",
        "CodeValue", "CodingSchemeDesignator", "CodeMeaning", "Manufacturer", "ManufacturerModelName", "SoftwareVersions", "ConvolutionKernel",
        "SequenceName", "DeidentificationMethod", "RescaleType", "TextValue", "ReasonForTheRequestedProcedure", "FrameComments", "UnformattedTextValue",
        "ROIName", "ROIDescription", "RTPlanLabel", "RTPlanName", "RTPlanDescription", "StructureSetLabel", "StructureSetName", "DoseComment",
        "SegmentLabel", "ContentDescription", "GraphicLayerDescription", "PersonName", "ReviewerName", "ROIInterpreter", "DocumentTitle",
    }
)  # fmt: skip
_DUMMIES = frozenset({"", "REMOVED", "[-]", "19000101", "19000101000000"})


@cache
def person() -> Persona:
    return replace(draw(random.Random(5), 1, ALPHABETS[0]), terms=("ISO_IR 192",))


def written(folder: Path, *studies: int) -> Path:
    folder.mkdir()
    made = SeededSet(folder)
    for number in studies:
        for carrier in whole_study(person(), random.Random(number), number, 32):
            made.add(carrier)
    return folder


def outputs(source: Path, destination: Path, secret: bytes) -> dict[str, Dataset]:
    """What came out, by pseudonymous SOP Instance UID."""
    run = DeidentifyRun(TELEREAD, secret, clean_screen)
    report = run.folder(source, destination)
    assert {entry["reason"] for entry in report["quarantined"]} <= {"ENCAPSULATED_DOCUMENT"}
    return {path.stem: dcmread(path) for path in destination.rglob("*.dcm")}


def values(datasets: dict[str, Dataset]) -> Iterator[tuple[str, str, str]]:
    for dataset in datasets.values():
        for element in dataset.iterall():
            yield element.VR, element.keyword, str(element.value)


def day(text: str) -> datetime:
    return datetime.strptime(text, "%Y%m%d")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("linkage")
    written(folder / "both", 0, 1)
    written(folder / "now", 0)
    written(folder / "prior", 1)
    return folder


def test_every_reference_of_a_study_and_its_prior_resolves(folder: Path) -> None:
    made = outputs(folder / "both", folder / "out both", SECRET_A)
    sources = {str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in (folder / "both").glob("*.dcm")}
    series = {str(one.SeriesInstanceUID) for one in made.values()}
    frames = {str(one.FrameOfReferenceUID) for one in made.values() if "FrameOfReferenceUID" in one}
    studies = {str(one.StudyInstanceUID) for one in made.values()}
    assert len(studies) == 2 and not sources & set(made)
    counted = 0
    for one in made.values():
        for element in one.iterall():
            if element.keyword == "ReferencedSOPInstanceUID":
                target = made.get(str(element.value))
                # The set has one reference to a plan that is elsewhere.
                assert target is None or str(target.StudyInstanceUID) == str(one.StudyInstanceUID)
                assert target is not None or one.Modality == "RTDOSE"
                counted += target is not None
            elif element.keyword in ("SeriesInstanceUID", "StudyInstanceUID"):
                assert str(element.value) in series | studies
            elif element.keyword in ("ReferencedFrameOfReferenceUID", "FrameOfReferenceUID"):
                assert str(element.value) in frames
            elif element.keyword == "UID":
                assert str(element.value) in studies
    assert counted == 18


def test_prior_and_retry_get_the_same_names_and_intervals(folder: Path) -> None:
    first = outputs(folder / "now", folder / "out now", SECRET_A)
    retry = outputs(folder / "now", folder / "out retry", SECRET_A)
    prior = outputs(folder / "prior", folder / "out prior", SECRET_A)
    for name in ("now", "retry"):
        files = sorted((folder / f"out {name}").rglob("*.dcm"))
        assert len(files) == len(first)
    assert {uid: one.to_json() for uid, one in first.items()} == {uid: one.to_json() for uid, one in retry.items()}
    assert {str(one.PatientID) for one in [*first.values(), *prior.values()]} == {str(next(iter(first.values())).PatientID)}
    now_on, prior_on = (day(str(next(iter(made.values())).StudyDate)) for made in (first, prior))
    assert now_on - prior_on == day(f"{person().study_on:%Y%m%d}") - day(f"{person().prior_on:%Y%m%d}")
    assert now_on.date() != person().study_on
    # Together or one after the other: the same.
    together = outputs(folder / "both", folder / "out together", SECRET_A)
    assert set(together) == set(first) | set(prior)


def test_nothing_links_the_outputs_of_two_hospitals(folder: Path) -> None:
    """The same patient with the same files and UIDs at two hospitals: no value in common that could say so."""
    one, two = (outputs(folder / "both", folder / f"out {name}", secret) for name, secret in (("a", SECRET_A), ("b", SECRET_B)))
    assert len(one) == len(two) and not set(one) & set(two)
    common = set(values(one)) & set(values(two))
    linking = {
        (keyword, value)
        for vr, keyword, value in common
        if vr not in SHARED_VRS and keyword not in SHARED_KEYWORDS and value not in _DUMMIES and not value.startswith("1.2.840.10008.")
    }
    assert not linking
    uids = [{value for vr, _, value in values(made) if vr == "UI"} for made in (one, two)]
    assert all(value.startswith("1.2.840.10008.") or value == "" for value in uids[0] & uids[1])
    days = [{value[:8] for vr, _, value in values(made) if vr in ("DA", "DT") and value not in _DUMMIES} for made in (one, two)]
    assert not days[0] & days[1]
    # And nothing of the patient is in either.
    texts = "\n".join(value for made in (one, two) for _, _, value in values(made)).casefold()
    assert not [canary for _, canary in person().canaries() if len(canary) > 5 and canary.casefold() in texts]
