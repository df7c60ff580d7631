"""The report as DICOM instances: legal, under the hospital's identities, the same each time."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable
from datetime import timedelta, timezone
from pathlib import Path
from typing import Any

import pydicom
import pytest

from crypto.errors import RefusedContent
from reporting.content import ReportKind
from reporting.document import ReportSource
from reporting.encapsulated import encapsulate, encapsulated_instance_uid
from reporting.structured_report import structured_report
from tests.peers import require_peer
from tests.report_samples import STUDY_UID, make_addendum, make_content, make_patient, make_source, make_study, sealed_sample, sign

#: What a hospital may well not have told us.
UNKNOWN = ("accession_number", "study_id", "study_date", "study_time", "procedure", "referring_physician")

SOURCES: dict[str, Callable[[], ReportSource]] = {
    "final": make_source,
    "addendum": make_addendum,
    "preliminary": lambda: make_source(sign(make_content(kind=ReportKind.PRELIMINARY))),
    "bare": lambda: make_source(
        sign(make_content(critical_result=None, indication="", language="de")),
        patient=make_patient(name="", birth_date="", sex="", issuer_of_patient_id=""),
        study=make_study(**dict.fromkeys(UNKNOWN, ""), procedure_code=None, instances=()),
    ),
    "japanese": lambda: make_source(patient=make_patient(name="Yamada^Tarou=山田^太郎=やまだ^たろう")),
}


def _read(payload: bytes) -> Any:
    return pydicom.dcmread(io.BytesIO(payload))


@pytest.mark.interop
@pytest.mark.parametrize("name", SOURCES)
def test_dciodvfy_finds_nothing(name: str, tmp_path: Path) -> None:
    source = SOURCES[name]()
    for kind, payload in (("pdf", encapsulate(source, sealed_sample())), ("sr", structured_report(source))):
        path = tmp_path / f"{kind}.dcm"
        path.write_bytes(payload)
        said = subprocess.run([require_peer("dciodvfy"), str(path)], capture_output=True, text=True, timeout=60, check=False)
        lines = [line for line in (said.stdout + said.stderr).splitlines() if line.startswith(("Error", "Warning"))]
        # An identity that the hospital did not give stays empty; PatientID and its like are type 2.
        assert not [line for line in lines if name != "bare" or line.startswith("Error")], lines


@pytest.mark.interop
@pytest.mark.parametrize("odd", [0, 1])
def test_dcm2pdf_gives_the_identical_bytes_back(odd: int, tmp_path: Path) -> None:
    pdf = sealed_sample() + b"\n" * ((len(sealed_sample()) + odd) % 2)
    (tmp_path / "report.dcm").write_bytes(encapsulate(make_source(), pdf))
    command = [require_peer("dcm2pdf"), str(tmp_path / "report.dcm"), str(tmp_path / "back.pdf")]
    subprocess.run(command, capture_output=True, timeout=60, check=True)
    assert (tmp_path / "back.pdf").read_bytes() == pdf


@pytest.mark.interop
def test_dsrdump_reads_the_sections(tmp_path: Path) -> None:
    (tmp_path / "sr.dcm").write_bytes(structured_report(make_source()))
    command = [require_peer("dsrdump"), "+Pl", str(tmp_path / "sr.dcm")]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    for expected in ("VERIFIED", "Findings", "Impressions", "Acute intraparenchymal haemorrhage", "Dr. Ingrid Solheim"):
        assert expected in said


def test_encapsulated_pdf_carries_the_hospitals_identities_and_one_name() -> None:
    payload = encapsulate(make_source(), sealed_sample())
    dataset = _read(payload)
    assert (dataset.PatientName, dataset.PatientID, dataset.StudyInstanceUID) == ("Vandermeer^Katharina^^Mrs", "MRN-0048213", STUDY_UID)
    assert dataset.AccessionNumber == "ACC-2026-11873"
    assert dataset.MIMETypeOfEncapsulatedDocument == "application/pdf"
    assert dataset.ConceptNameCodeSequence[0].CodeValue == "18748-4"
    assert dataset.SOPInstanceUID == encapsulated_instance_uid(make_source())
    assert payload == encapsulate(make_source(), sealed_sample())
    assert dataset.EncapsulatedDocument[: dataset.EncapsulatedDocumentLength] == sealed_sample()


def test_reports_of_one_study_share_a_series_and_no_instance() -> None:
    first, second = _read(encapsulate(make_source(), sealed_sample())), _read(encapsulate(make_addendum(), sealed_sample()))
    assert first.SeriesInstanceUID == second.SeriesInstanceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert (first.InstanceNumber, second.InstanceNumber) == (1, 2)
    report = _read(structured_report(make_source()))
    assert report.SeriesInstanceUID != first.SeriesInstanceUID


def test_addendum_names_the_document_before_it() -> None:
    first, second = _read(structured_report(make_source())), _read(structured_report(make_addendum()))
    reference = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert reference.SeriesInstanceUID == first.SeriesInstanceUID
    assert reference.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID


@pytest.mark.parametrize(
    ("kind", "flags"),
    [(ReportKind.FINAL, ("COMPLETE", "FINAL", "VERIFIED")), (ReportKind.PRELIMINARY, ("PARTIAL", "PRELIMINARY", "UNVERIFIED"))],
)
def test_flags_say_how_final_the_report_is(kind: ReportKind, flags: tuple[str, str, str]) -> None:
    dataset = _read(structured_report(make_source(sign(make_content(kind=kind)))))
    assert (dataset.CompletionFlag, dataset.PreliminaryFlag, dataset.VerificationFlag) == flags
    assert ("VerifyingObserverSequence" in dataset) == (kind is ReportKind.FINAL)


def test_instances_read_are_the_evidence_under_their_original_uids() -> None:
    evidence = _read(structured_report(make_source())).CurrentRequestedProcedureEvidenceSequence[0]
    assert evidence.StudyInstanceUID == STUDY_UID
    items = evidence.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert [item.ReferencedSOPInstanceUID for item in items] == [one.sop_instance_uid for one in make_study().instances]


def test_nothing_pseudonymous_reaches_the_archive() -> None:
    for payload in (encapsulate(make_source(), b"%PDF-1.7 "), structured_report(make_source())):
        for pseudonym in (b"P-7F3K", b"A-0001", b"2.25.77"):
            assert pseudonym not in payload


def test_content_time_is_the_hospitals_own() -> None:
    dataset = _read(structured_report(make_source(), zone=timezone(timedelta(hours=-10))))
    assert (dataset.ContentDate, dataset.ContentTime[:6]) == ("20261121", "233412")
    assert dataset.VerifyingObserverSequence[0].VerificationDateTime == "20261122093412.000000+0000"


@pytest.mark.parametrize("changes", [{"patient_id": "a\\b"}, {"patient_id": "x" * 65}, {"name": "x" * 65}, {"name": "a=b=c=d"}])
def test_identity_that_does_not_fit_its_element_is_refused(changes: dict[str, str]) -> None:
    with pytest.raises(RefusedContent):
        encapsulate(make_source(patient=make_patient(**changes)), sealed_sample())
    with pytest.raises(RefusedContent):
        encapsulate(make_source(), b"MZ")
