"""The header a hospital's device would write: full identity in plain elements, in nested sequences and in private elements.

A de-identifier that edits only the top level, or trusts private elements, leaks on every one of these instances.
Attributes and their places follow PS3.3 C.7 (patient, study, series, equipment, SOP common); private blocks PS3.5 7.8.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian

from gateway.samples.people import INSTITUTIONS, Institution, Person

_IMPLEMENTATION_CLASS_UID = UID("2.25.224671402399018744917317083204930912547")


def derived_uid(*parts: object) -> UID:
    """A UID "2.25.<128 bit>" (PS3.5 B.2) that is the same for the same parts."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return UID(f"2.25.{int.from_bytes(digest[:16], 'big')}")


@dataclass(frozen=True)
class StudyFacts:
    """What the hospital's information system knows of one requested procedure. `started_at` is the hospital's local wall time."""

    hospital_id: str
    modality: str
    description: str
    procedure_code: str
    body_part: str
    indication: str
    started_at: datetime
    number: int

    @property
    def institution(self) -> Institution:
        return INSTITUTIONS[self.hospital_id]

    @property
    def accession_number(self) -> str:
        return f"{self.institution.station_prefix}{self.started_at:%y%m%d}{self.number:04d}"

    @property
    def study_id(self) -> str:
        return f"{self.modality}{self.number:05d}"

    @property
    def study_instance_uid(self) -> str:
        return derived_uid("study", self.hospital_id, self.accession_number)


def coded(value: str, scheme: str, meaning: str) -> Dataset:
    """One item of a code sequence (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue = value
    item.CodingSchemeDesignator = scheme
    item.CodeMeaning = meaning
    return item


def identified_header(person: Person, facts: StudyFacts, *, sop_class_uid: str, series_number: int, series_description: str) -> Dataset:
    """A dataset with patient, study, series, equipment and request, ready for the image modules and per-instance values.

    SOP Instance UID, Instance Number, Content Date and Time are set by `as_instance`.
    """
    header = Dataset()
    header.SpecificCharacterSet = list(person.character_set) if isinstance(person.character_set, tuple) else person.character_set
    header.SOPClassUID = UID(sop_class_uid)
    _patient(header, person, facts)
    _study(header, person, facts)
    _series(header, facts, series_number, series_description)
    _equipment(header, facts)
    _request(header, person, facts)
    _private_blocks(header, person, facts)
    return header


def as_instance(header: Dataset, facts: StudyFacts, *, series_number: int, instance_number: int, acquired_at: datetime) -> None:
    """Complete `header` in place as instance `instance_number`, with file meta information for Explicit VR Little Endian."""
    header.SOPInstanceUID = derived_uid("instance", facts.study_instance_uid, series_number, instance_number)
    header.InstanceNumber = instance_number
    header.AcquisitionDate = header.ContentDate = f"{acquired_at:%Y%m%d}"
    header.AcquisitionTime = header.ContentTime = f"{acquired_at:%H%M%S.%f}"
    header.InstanceCreationDate = f"{acquired_at:%Y%m%d}"
    header.InstanceCreationTime = f"{acquired_at + timedelta(seconds=2):%H%M%S}"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = header.SOPClassUID
    meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = _IMPLEMENTATION_CLASS_UID
    header.file_meta = meta


def _patient(header: Dataset, person: Person, facts: StudyFacts) -> None:
    day = facts.started_at.date()
    header.PatientName = person.name
    header.PatientID = person.patient_id
    header.IssuerOfPatientID = facts.institution.issuer_of_patient_id
    header.PatientBirthDate = f"{person.born_on:%Y%m%d}"
    header.PatientSex = person.sex
    header.PatientAge = f"{person.age_on(day):03d}Y"
    header.PatientSize = f"{person.height_metres:.2f}"
    header.PatientWeight = f"{person.weight_kilograms:.1f}"
    header.PatientAddress = person.address
    header.PatientTelephoneNumbers = person.telephone
    header.PatientMotherBirthName = person.mother_birth_name
    header.Occupation = person.occupation
    header.PatientComments = f"{person.given_name} {person.family_name} prefers to be called by phone, {person.telephone}"
    header.AdditionalPatientHistory = facts.indication
    insurance = Dataset()
    insurance.PatientID = person.insurance_number
    insurance.IssuerOfPatientID = "INSURANCE"
    insurance.TypeOfPatientID = "TEXT"
    header.OtherPatientIDsSequence = Sequence([insurance])


def _study(header: Dataset, person: Person, facts: StudyFacts) -> None:
    institution = facts.institution
    header.StudyInstanceUID = facts.study_instance_uid
    header.StudyDate = f"{facts.started_at:%Y%m%d}"
    header.StudyTime = f"{facts.started_at:%H%M%S}"
    header.StudyID = facts.study_id
    header.AccessionNumber = facts.accession_number
    header.StudyDescription = facts.description
    header.ReferringPhysicianName = institution.referring_physician
    header.PhysiciansOfRecord = institution.reading_physician
    header.NameOfPhysiciansReadingStudy = institution.reading_physician
    header.AdmissionID = f"ADM-{facts.number:06d}"
    header.ProcedureCodeSequence = Sequence([coded(facts.procedure_code, "99LOCAL", facts.description[:64])])
    physician = Dataset()
    staff_code = coded(f"REF{facts.number:04d}", "99STAFF", institution.referring_physician[:64])
    physician.PersonIdentificationCodeSequence = Sequence([staff_code])
    physician.PersonTelephoneNumbers = "+49 341 5550100"
    physician.InstitutionName = institution.name
    header.ReferringPhysicianIdentificationSequence = Sequence([physician])


def _series(header: Dataset, facts: StudyFacts, series_number: int, description: str) -> None:
    header.Modality = facts.modality
    header.SeriesInstanceUID = derived_uid("series", facts.study_instance_uid, series_number)
    header.SeriesNumber = series_number
    header.SeriesDescription = description
    header.SeriesDate = f"{facts.started_at:%Y%m%d}"
    header.SeriesTime = f"{facts.started_at + timedelta(minutes=2):%H%M%S}"
    header.BodyPartExamined = facts.body_part
    header.ProtocolName = f"{facts.description} routine"
    header.OperatorsName = facts.institution.operator
    header.PerformingPhysicianName = facts.institution.reading_physician
    header.PerformedProcedureStepID = f"PPS{facts.number:05d}"
    header.PerformedProcedureStepStartDate = header.SeriesDate
    header.PerformedProcedureStepStartTime = header.SeriesTime
    header.PerformedProcedureStepDescription = facts.description


def _equipment(header: Dataset, facts: StudyFacts) -> None:
    institution = facts.institution
    header.Manufacturer = "Readgate sample studies"
    header.ManufacturerModelName = f"Synthetic {facts.modality}"
    header.DeviceSerialNumber = f"{institution.station_prefix}-{facts.modality}-000{facts.number % 7}"
    header.SoftwareVersions = "1"
    header.StationName = f"{institution.station_prefix}_{facts.modality}1"
    header.InstitutionName = institution.name
    header.InstitutionAddress = institution.address
    header.InstitutionalDepartmentName = institution.department


def _request(header: Dataset, person: Person, facts: StudyFacts) -> None:
    request = Dataset()
    request.AccessionNumber = facts.accession_number
    request.RequestedProcedureID = f"RP{facts.number:05d}"
    request.RequestedProcedureDescription = facts.description
    request.RequestedProcedureCodeSequence = Sequence([coded(facts.procedure_code, "99LOCAL", facts.description[:64])])
    request.ReasonForTheRequestedProcedure = f"{person.family_name}: see order"[:64]
    request.ScheduledProcedureStepID = f"SPS{facts.number:05d}"
    request.ScheduledProcedureStepDescription = f"{facts.description} {person.family_name}"[:64]
    header.RequestAttributesSequence = Sequence([request])


def _private_blocks(header: Dataset, person: Person, facts: StudyFacts) -> None:
    block = header.private_block(0x0019, "SAMPLE RIS MIRROR 1.0", create=True)
    block.add_new(0x01, "LO", f"{person.family_name}, {person.given_name}"[:64])
    block.add_new(0x02, "LO", person.patient_id)
    block.add_new(0x03, "DA", f"{person.born_on:%Y%m%d}")
    mirrored = Dataset()
    mirrored.PatientName = person.name
    mirrored.PatientID = person.patient_id
    mirrored.AccessionNumber = facts.accession_number
    block.add_new(0x10, "SQ", Sequence([mirrored]))
    scanner = header.private_block(0x0029, "SAMPLE CONSOLE", create=True)
    dump = f"operator={facts.institution.operator};patient={person.patient_id};"
    scanner.add_new(0x08, "OB", dump.encode("ascii", "replace").ljust(64, b"\0"))
