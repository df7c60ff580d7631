"""The canary study: every identifying element of it is a string found nowhere else, so that a leak can be searched for.

`canary_study` gives the instances and the strings; a test drives them through the system and searches logs, database, disk and answers.
"""

from __future__ import annotations

import hashlib

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from gateway.samples.headers import derived_uid
from tests.builders import make_ct_study


def _mark(*where: object) -> str:
    """Ten capital letters that occur nowhere by chance."""
    digest = hashlib.sha256(":".join(map(str, where)).encode()).digest()
    return "Q" + "".join(chr(ord("A") + byte % 26) for byte in digest[:9])


#: Attributes of PS3.15 Table E.1-1 that name somebody or something, each of which the canary study carries at its top level.
_TEXT_KEYWORDS = (
    "AccessionNumber",
    "AdditionalPatientHistory",
    "AdmissionID",
    "AdmittingDiagnosesDescription",
    "Allergies",
    "CassetteID",
    "CountryOfResidence",
    "CurrentPatientLocation",
    "DetectorID",
    "DeviceSerialNumber",
    "DerivationDescription",
    "EthnicGroup",
    "FillerOrderNumberImagingServiceRequest",
    "ImageComments",
    "ImagingServiceRequestComments",
    "InstitutionAddress",
    "InstitutionalDepartmentName",
    "InstitutionName",
    "IssuerOfPatientID",
    "MedicalAlerts",
    "MedicalRecordLocator",
    "MilitaryRank",
    "Occupation",
    "OrderCallbackPhoneNumber",
    "OrderEntererLocation",
    "PatientAddress",
    "PatientComments",
    "PatientID",
    "PatientInstitutionResidence",
    "PatientReligiousPreference",
    "PatientState",
    "PatientTelephoneNumbers",
    "PerformedLocation",
    "PerformedProcedureStepDescription",
    "PerformedProcedureStepID",
    "PerformedStationAETitle",
    "PerformedStationName",
    "PlacerOrderNumberImagingServiceRequest",
    "PlateID",
    "ProtocolName",
    "ReasonForStudy",
    "RegionOfResidence",
    "RequestedProcedureComments",
    "RequestedProcedureDescription",
    "RequestedProcedureID",
    "RequestedProcedureLocation",
    "RequestingService",
    "ScheduledProcedureStepDescription",
    "ScheduledProcedureStepID",
    "ScheduledStationName",
    "SeriesDescription",
    "ServiceEpisodeDescription",
    "ServiceEpisodeID",
    "SpecialNeeds",
    "StationName",
    "StudyComments",
    "StudyDescription",
    "StudyID",
    "VisitComments",
    "GantryID",
)

_NAME_KEYWORDS = (
    "PatientName",
    "PatientBirthName",
    "PatientMotherBirthName",
    "OtherPatientNames",
    "ResponsiblePerson",
    "ReferringPhysicianName",
    "PerformingPhysicianName",
    "OperatorsName",
    "PhysiciansOfRecord",
    "NameOfPhysiciansReadingStudy",
    "RequestingPhysician",
    "OrderEnteredBy",
    "NamesOfIntendedRecipientsOfResults",
    "ScheduledPerformingPhysicianName",
    "HumanPerformerName",
)


def canary_study(instances: int = 2) -> tuple[list[Dataset], dict[str, str]]:
    """A CT study in which every identifying element is a string found nowhere else, and those strings by path.

    Paths read "(0010,0010)" or "(0040,0275)[0].(0040,0007)"; private elements likewise; UIDs carry "#n" where they differ per instance.
    A string of a person's name is its family name component. After de-identification only the sealed crosswalk may hold any of them.
    """
    canaries: dict[str, str] = {}
    plain = make_ct_study(instances, number=77)
    study_uid, series_uid, frame_uid = (derived_uid("canary", level) for level in ("study", "series", "frame of reference"))
    for index, dataset in enumerate(plain):
        dataset.remove_private_tags()
        dataset.SpecificCharacterSet = "ISO_IR 192"
        del dataset.ProcedureCodeSequence
        _canary_top_level(dataset, canaries)
        _canary_nested(dataset, canaries)
        _canary_private(dataset, canaries)
        for keyword, value in (("StudyInstanceUID", study_uid), ("SeriesInstanceUID", series_uid), ("FrameOfReferenceUID", frame_uid)):
            setattr(dataset, keyword, value)
            canaries[_path(dataset, keyword)] = value
        dataset.SOPInstanceUID = derived_uid("canary", "instance", index)
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        canaries[f"(0008,0018)#{index + 1}"] = dataset.SOPInstanceUID
    assert len(set(canaries.values())) == len(canaries)
    return plain, canaries


def _path(dataset: Dataset, keyword: str, within: str = "") -> str:
    tag = dataset[keyword].tag
    return f"{within}({tag.group:04X},{tag.element:04X})".lower()


def _put(dataset: Dataset, keyword: str, canaries: dict[str, str], within: str = "") -> None:
    mark = _mark(within, keyword)
    setattr(dataset, keyword, mark)
    if dataset[keyword].VR == "PN":
        setattr(dataset, keyword, f"{mark}^{mark[::-1]}")
    canaries[_path(dataset, keyword, within)] = mark


def _canary_top_level(dataset: Dataset, canaries: dict[str, str]) -> None:
    for keyword in (*_TEXT_KEYWORDS, *_NAME_KEYWORDS):
        _put(dataset, keyword, canaries)
    dataset.ResponsiblePersonRole = "PARENT"
    dataset.PatientBirthDate = "19370223"
    canaries["(0010,0030)"] = "19370223"


def _canary_nested(dataset: Dataset, canaries: dict[str, str]) -> None:
    request, patient, physician, person_code, original, modified = (Dataset() for _ in range(6))
    within = "(0040,0275)[0]."
    for keyword in ("AccessionNumber", "RequestedProcedureID", "RequestedProcedureDescription", "ScheduledProcedureStepID"):
        _put(request, keyword, canaries, within)
    dataset.RequestAttributesSequence = Sequence([request])
    for keyword in ("PatientID", "IssuerOfPatientID"):
        _put(patient, keyword, canaries, "(0010,1002)[0].")
    patient.TypeOfPatientID = "TEXT"
    dataset.OtherPatientIDsSequence = Sequence([patient])
    within = "(0008,0096)[0]."
    for keyword in ("InstitutionName", "PersonAddress", "PersonTelephoneNumbers"):
        _put(physician, keyword, canaries, within)
    for keyword in ("CodeValue", "CodeMeaning"):
        _put(person_code, keyword, canaries, within + "(0040,1101)[0].")
    person_code.CodingSchemeDesignator = "99STAFF"
    physician.PersonIdentificationCodeSequence = Sequence([person_code])
    dataset.ReferringPhysicianIdentificationSequence = Sequence([physician])
    within = "(0400,0561)[0]."
    for keyword in ("PatientName", "PatientID", "PatientAddress"):
        _put(modified, keyword, canaries, within + "(0400,0550)[0].")
    original.ModifiedAttributesSequence = Sequence([modified])
    original.AttributeModificationDateTime = "20260314101500"
    _put(original, "ModifyingSystem", canaries, within)
    original.SourceOfPreviousValues = ""
    original.ReasonForTheAttributeModification = "CORRECT"
    dataset.OriginalAttributesSequence = Sequence([original])


def _canary_private(dataset: Dataset, canaries: dict[str, str]) -> None:
    creator = _mark("private creator")
    block = dataset.private_block(0x0031, creator, create=True)
    canaries["(0031,0010)"] = creator
    for offset, vr in ((0x01, "LO"), (0x02, "PN"), (0x03, "UN"), (0x04, "OB"), (0x05, "UT")):
        mark = _mark("private", vr)
        block.add_new(offset, vr, mark.encode() if vr in ("UN", "OB") else mark)
        canaries[f"(0031,10{offset:02x})"] = mark
    nested = Dataset()
    _put(nested, "PatientName", canaries, "(0031,1010)[0].")
    inner = nested.private_block(0x0033, creator, create=True)
    mark = _mark("private", "nested")
    inner.add_new(0x01, "LO", mark)
    canaries["(0031,1010)[0].(0033,1001)"] = mark
    block.add_new(0x10, "SQ", Sequence([nested]))
