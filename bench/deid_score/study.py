"""A study of one patient, from which instances are made: the patient in each header, one frame of reference, references to its CT."""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from bench.deid_score.persona import Persona

STORAGE = "1.2.840.10008.5.1.4.1.1."
ROOT = "1.2.826.0.1.3680043.9.7777."


def uid(*parts: object) -> str:
    """A UID of the set, the same for the same parts."""
    digest = hashlib.sha256("|".join(map(str, parts)).encode()).digest()
    return ROOT + str(int.from_bytes(digest[:12], "big"))


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """One item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


class Study:
    """One study of a patient, from which instances are made; `number` 0 is the newest, 1 the prior."""

    def __init__(self, person: Persona, number: int) -> None:
        self.person, self.number = person, number
        self.on: dt.date = person.study_on if number == 0 else person.prior_on
        self.study_uid = uid(person.number, person.mrn, "study", number)
        self.frame_uid = uid(self.study_uid, "frame")
        self._count = 0
        self.ct_uid = uid(self.study_uid, "CT", 1)

    def instance(self, kind: str, sop_class: str, modality: str) -> Dataset:
        """Header of the next instance: patient, study, series, equipment, request."""
        self._count += 1
        person, dataset = self.person, Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SpecificCharacterSet = list(person.terms) if len(person.terms) > 1 else person.terms[0]
        dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, uid(self.study_uid, kind, self._count)
        if kind == "CT" and self._count == 1:
            dataset.SOPInstanceUID = self.ct_uid
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = self.study_uid, uid(self.study_uid, kind)
        dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = modality, self._count, self._count
        dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = dataset.AcquisitionDate = f"{self.on:%Y%m%d}"
        dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = dataset.AcquisitionTime = "101530.25"
        dataset.StudyID, dataset.AccessionNumber = person.order, person.accession
        dataset.PatientName, dataset.PatientID = person.name, person.mrn
        dataset.PatientBirthDate, dataset.PatientSex, dataset.PatientAge = f"{person.born_on:%Y%m%d}", "F", "067Y"
        dataset.PatientWeight, dataset.PatientSize = "71.5", "1.74"
        dataset.OtherPatientIDs, dataset.OtherPatientNames = person.other_id, f"{person.maiden}^{person.given}"
        dataset.PatientBirthName, dataset.PatientMotherBirthName = person.maiden, person.mother
        dataset.PatientAddress, dataset.PatientTelephoneNumbers = f"{person.street}, 99084 {person.city}", person.phone
        dataset.PatientTelecomInformation = f"{person.mail} {person.url} Fax {person.fax}"
        dataset.PatientInsurancePlanCodeSequence = Sequence([code(person.insurance, "99INS", "Plan")])
        dataset.ReferringPhysicianName, dataset.PerformingPhysicianName, dataset.OperatorsName = person.staff[:3]
        dataset.NameOfPhysiciansReadingStudy, dataset.RequestingPhysician, dataset.PhysiciansOfRecord = person.staff[3:6]
        dataset.InstitutionName, dataset.InstitutionalDepartmentName = person.hospital, person.department
        dataset.InstitutionAddress = f"{person.street}, {person.city}"
        dataset.DeviceSerialNumber, dataset.StationName = person.serial, person.station
        dataset.Manufacturer, dataset.ManufacturerModelName, dataset.SoftwareVersions = "Siemens Healthineers", "SOMATOM Force", "VB20A"
        dataset.IssuerOfPatientID, dataset.ResponsibleOrganization = f"{person.hospital} MPI", person.employer
        dataset.AdmissionID, dataset.ServiceEpisodeID = person.insurance, person.licence
        request = Dataset()
        request.RequestedProcedureID, request.ScheduledProcedureStepID = person.order, person.plate
        request.ReasonForTheRequestedProcedure = f"rule out stroke, {person.given} {person.family}"
        dataset.RequestAttributesSequence = Sequence([request])
        return dataset

    def source_reference(self) -> Dataset:
        """An item that refers to the CT of the study."""
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = STORAGE + "2", self.ct_uid
        return item

    def evidence(self) -> Sequence:
        series, study = Dataset(), Dataset()
        series.SeriesInstanceUID, series.ReferencedSOPSequence = uid(self.study_uid, "CT"), Sequence([self.source_reference()])
        study.StudyInstanceUID, study.ReferencedSeriesSequence = self.study_uid, Sequence([series])
        return Sequence([study])


def pixels(
    dataset: Dataset, rows: int, columns: int, *, colour: bool = False, bits: int = 16, stored: int = 12, frames: int = 0, seed: int = 1
) -> None:
    """Smooth pixels without anything that looks like letters."""
    y, x = np.mgrid[0 : 1 : rows * 1j, 0 : 1 : columns * 1j]
    top = (1 << stored) - 1
    base = (0.25 + 0.2 * np.sin(3 * x + seed) * np.cos(2 * y)) * top
    noise = np.random.default_rng(seed).normal(0, top / 400, (rows, columns))
    frame = np.clip(base + noise, 0, top).astype(np.uint8 if bits == 8 else np.uint16)
    array = np.repeat(frame[..., None], 3, -1) if colour else frame
    if frames:
        array = np.stack([array] * frames)
        dataset.NumberOfFrames = frames
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = rows, columns, 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, stored, stored - 1, 0
    data = array.tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"


def plane(dataset: Dataset, study: Study) -> None:
    """Image plane and frame of reference."""
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = study.frame_uid, ""
    dataset.PatientPosition, dataset.SliceThickness = "HFS", "2.5"
    dataset.ImageOrientationPatient, dataset.ImagePositionPatient = ["1", "0", "0", "0", "1", "0"], ["-14", "-14.5", "30.25"]
    dataset.PixelSpacing, dataset.SliceLocation = ["0.45", "0.45"], "30.25"


def set_values(dataset: Dataset, **values: Any) -> None:
    """Several attributes by keyword."""
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
