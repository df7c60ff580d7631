"""Orders as a hospital's information system sends them: HL7 v2.5.1 ORM^O01 with the study's UID in ZDS (IHE RAD-4, scheduled workflow)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from pydicom.dataset import Dataset

from gateway.samples.headers import derived_uid
from gateway.samples.people import INSTITUTIONS, Institution, Person

_ESCAPES = str.maketrans({"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\", "\r": "\\.br\\", "\n": "\\.br\\"})


def make_order(person: Person, study: Sequence[Dataset], *, hospital_id: str = "h1", placed_at: datetime | None = None) -> bytes:
    """The order for `study`, UTF-8, segments ended by CR, without the MLLP frame.

    The indication comes from Additional Patient History and speaks of the patient by name, as clinicians do; OBX repeats it in a sentence.
    `placed_at` is the hospital's local time; the default is two hours before the study.
    """
    instance = study[0]
    institution = INSTITUTIONS[hospital_id]
    started_at = datetime.strptime(instance.StudyDate + instance.StudyTime, "%Y%m%d%H%M%S")
    placed = f"{placed_at or started_at - timedelta(hours=2):%Y%m%d%H%M%S}"
    procedure = instance.ProcedureCodeSequence[0]
    service = f"{_text(procedure.CodeValue)}^{_text(procedure.CodeMeaning)}^{procedure.CodingSchemeDesignator}"
    request = instance.RequestAttributesSequence[0]
    control_id = derived_uid("order", instance.StudyInstanceUID)[-18:]
    physician = _person_name(institution.referring_physician)
    salutation = "Frau" if person.sex == "F" else "Herr"
    courtesy = f"{salutation} {person.family_name}" if hospital_id == "h1" else f"{person.given_name} {person.family_name}"
    note = f"{courtesy}, {person.age_on(started_at.date())}: please compare with earlier studies if any."
    segments = [
        f"MSH|^~\\&|HIS|{_text(institution.name)}|READGATE|READGATE|{placed}||ORM^O01^ORM_O01|{control_id}|P|2.5.1|||AL|NE||UNICODE UTF-8",
        _patient(person, institution),
        f"PV1|1|I|{_text(institution.department)}^^^{_text(institution.name)}|||||{physician}|||||||||||ADM{control_id[-6:]}",
        f"ORC|NW|{request.RequestedProcedureID}^HIS|{instance.AccessionNumber}^RIS||SC||^^^{placed}^^R||{placed}|||{physician}",
        "|".join(
            ["OBR", "1", f"{request.RequestedProcedureID}^HIS", f"{instance.AccessionNumber}^RIS", service, "", placed]
            + [""] * 6
            + [_text(instance.AdditionalPatientHistory), "", "", physician, "", instance.AccessionNumber, request.RequestedProcedureID]
            + [request.ScheduledProcedureStepID, "", "", "", instance.Modality, "", "", f"1^^^{placed}^^R", "", "", ""]
            + [_text(instance.AdditionalPatientHistory)]
        ),
        f"OBX|1|TX|^CLINICAL NOTE||{_text(note)}||||||F",
        f"ZDS|{instance.StudyInstanceUID}^READGATE^Application^DICOM",
    ]
    return "".join(segment + "\r" for segment in segments).encode("utf-8")


def _patient(person: Person, institution: Institution) -> str:
    identifier = f"{person.patient_id}^^^{institution.issuer_of_patient_id}^PI"
    fields = ["PID", "1", "", identifier, "", _person_name(person.name.partition("=")[0]), f"{_text(person.mother_birth_name)}"]
    fields += [f"{person.born_on:%Y%m%d}", person.sex, "", "", _text(person.address), "", _text(person.telephone)]
    return "|".join(fields)


def _person_name(name: str) -> str:
    """XPN / XCN components of a DICOM PN: family, given, middle, suffix, prefix."""
    family, given, middle, prefix, suffix = [_text(part) for part in (name.split("^") + [""] * 5)[:5]]
    return f"{family}^{given}^{middle}^{suffix}^{prefix}".rstrip("^")


def _text(value: object) -> str:
    return str(value).translate(_ESCAPES)
