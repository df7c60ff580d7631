"""What the report instances sent to a hospital's archive have in common (PS3.3: Patient, General Study, Equipment and SOP Common).

- Identity and Study Instance UID are the hospital's own, so that the archive files the report with the images.
- Every UID is derived from the report's digest: sending a report again sends the same instance, and an archive keeps one.
"""

from __future__ import annotations

import hashlib
import io
import uuid
from datetime import UTC, datetime, tzinfo
from importlib.metadata import PackageNotFoundError, version

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian

from crypto.errors import RefusedContent
from reporting.content import ReportContent, ReportKind
from reporting.document import ReportSource
from reporting.identity import CodedConcept
from reporting.text_rules import MALFORMED

MANUFACTURER = "Readgate"
IMPLEMENTATION_CLASS_UID = UID("2.25.206339712384011264310712347118563249073")
#: CID 7000 Diagnostic Imaging Document Titles.
DOCUMENT_TITLE = CodedConcept(value="18748-4", scheme="LN", meaning="Diagnostic Imaging Report")
#: CS, LO and SH forbid the backslash; it separates values (PS3.5 section 6.2).
_LENGTHS = {"LO": 64, "SH": 16, "PN": 64, "ST": 1024}


def derived_uid(purpose: str, *names: str) -> str:
    """A UID that depends on `purpose` and `names` alone: 2.25 and a version 8 UUID of their SHA-256 (PS3.5 B.2, RFC 9562 5.8)."""
    octets = bytearray(hashlib.sha256("\x00".join(("readgate", purpose, *names)).encode("utf-8")).digest()[:16])
    octets[6], octets[8] = (octets[6] & 0x0F) | 0x80, (octets[8] & 0x3F) | 0x80
    return f"2.25.{uuid.UUID(bytes=bytes(octets)).int}"


def instance_uid_of(purpose: str, report_digest: str, study_instance_uid: str) -> str:
    """The SOP Instance UID under which the report of that digest is, was or will be sent to the study's hospital."""
    return derived_uid(f"{purpose} instance", report_digest, study_instance_uid)


def series_uid_of(purpose: str, study_instance_uid: str) -> str:
    """The one series of a study that holds its reports of one kind of instance."""
    return derived_uid(f"{purpose} series", study_instance_uid)


def new_instance(source: ReportSource, *, purpose: str, sop_class_uid: str, modality: str, zone: tzinfo) -> Dataset:
    """A dataset with the modules named above; `zone` is the hospital's, whose local time DA and TM are (PS3.3 C.12.1.1.8).

    Raises:
        RefusedContent: a value of the identity does not fit its element.
    """
    patient, study, content = source.patient, source.study, source.signed.content
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = sop_class_uid
    dataset.SOPInstanceUID = instance_uid_of(purpose, content.digest(), study.study_instance_uid)
    for keyword, vr, value in (
        ("PatientName", "PN", patient.name),
        ("PatientID", "LO", patient.patient_id),
        ("IssuerOfPatientID", "LO", patient.issuer_of_patient_id),
        ("ReferringPhysicianName", "PN", study.referring_physician),
        ("StudyID", "SH", study.study_id),
        ("AccessionNumber", "SH", study.accession_number),
        ("StudyDescription", "LO", study.procedure.replace("\\", "/")[:64]),
        ("InstitutionName", "LO", source.letterhead.name.replace("\\", "/")[:64]),
    ):
        _put(dataset, keyword, vr, value, optional=keyword in ("IssuerOfPatientID", "StudyDescription", "InstitutionName"))
    dataset.PatientBirthDate, dataset.PatientSex = patient.birth_date, patient.sex
    dataset.StudyInstanceUID = study.study_instance_uid
    dataset.StudyDate, dataset.StudyTime = study.study_date, study.study_time
    if study.issuer_of_accession_number:
        issuer = Dataset()
        issuer.LocalNamespaceEntityID = study.issuer_of_accession_number
        dataset.IssuerOfAccessionNumberSequence = Sequence([issuer])
    dataset.Modality = modality
    dataset.SeriesInstanceUID = series_uid_of(purpose, study.study_instance_uid)
    dataset.InstanceNumber = len(source.predecessors) + 1
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = "Readgate"
    dataset.SoftwareVersions = release()
    local = content.signed_at.astimezone(zone)
    dataset.ContentDate, dataset.ContentTime = local.strftime("%Y%m%d"), local.strftime("%H%M%S.%f")
    return dataset


def coded(concept: CodedConcept) -> Dataset:
    """The concept as an item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = concept.value, concept.scheme, concept.meaning[:64]
    return item


def part10(dataset: Dataset) -> bytes:
    """The dataset as a DICOM file (PS3.10), Explicit VR Little Endian; equal datasets give equal bytes."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = "READGATE"
    dataset.file_meta = meta
    stream = io.BytesIO()
    dcmwrite(stream, dataset, enforce_file_format=True, implicit_vr=False, little_endian=True)
    return stream.getvalue()


def date_time(instant: datetime) -> str:
    """DT in UTC with its offset, which says so itself (PS3.5 section 6.2)."""
    return instant.astimezone(UTC).strftime("%Y%m%d%H%M%S.%f") + "+0000"


def verification_flag(content: ReportContent) -> str:
    """A preliminary report is nobody's last word, signed or not."""
    return "UNVERIFIED" if content.kind is ReportKind.PRELIMINARY else "VERIFIED"


def release() -> str:
    """The version of this distribution."""
    try:
        return version("readgate")
    except PackageNotFoundError:
        return "0"


def person_name(display_name: str) -> str:
    """A printed name as a PN: all of it the family name complex, since nobody can tell which word of it is the family name."""
    return display_name.replace("^", " ").replace("=", " ").replace("\\", " ")[:63].strip() + "^"


def _put(dataset: Dataset, keyword: str, vr: str, value: str, *, optional: bool) -> None:
    if not value and optional:
        return
    groups = value.split("=") if vr == "PN" else [value]
    if "\\" in value or any(len(group) > _LENGTHS[vr] for group in groups) or len(groups) > 3:
        raise RefusedContent(MALFORMED, f"{keyword} does not fit its value representation {vr}")
    setattr(dataset, keyword, value)
