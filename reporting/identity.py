"""The hospital's side of a report: who the patient and which study it is, and under which letterhead it is printed.

These values come out of the crosswalk at delivery and go into the hospital's copies only. They are values of the original elements:
PN and DA in DICOM's own spelling (PS3.5 section 6.2), so that the copies carry what the hospital sent, letter for letter.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from crypto.errors import RefusedContent
from reporting.text_rules import CONTROL_CHARACTER, MALFORMED, require_uid

_DATE = re.compile(r"(?:[0-9]{8})?", re.ASCII)
_TIME = re.compile(r"(?:[0-9]{2}(?:[0-9]{2}(?:[0-9]{2}(?:\.[0-9]{1,6})?)?)?)?", re.ASCII)
_COLOUR = re.compile(r"#[0-9a-f]{6}", re.ASCII)
TEXT_CHARACTERS_MAX = 1024


def _require(name: str, value: object, *, empty: bool = True) -> None:
    """Less strict than what a reader may sign: a hospital's own value is carried as it is, unless it could not be printed at all."""
    if not isinstance(value, str) or len(value) > TEXT_CHARACTERS_MAX or not (value or empty):
        raise RefusedContent(MALFORMED, name)
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise RefusedContent(CONTROL_CHARACTER, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientIdentity:
    """The patient as the hospital knows them; `name` is a PN, `birth_date` YYYYMMDD or empty, `sex` M, F, O or empty."""

    name: str
    patient_id: str
    issuer_of_patient_id: str = ""
    birth_date: str = ""
    sex: str = ""

    def __post_init__(self) -> None:
        for name in ("name", "patient_id", "issuer_of_patient_id", "birth_date", "sex"):
            _require(name, getattr(self, name))
        if not _DATE.fullmatch(self.birth_date) or self.sex not in ("", "M", "F", "O"):
            raise RefusedContent(MALFORMED, "birth_date or sex")


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedConcept:
    """A code triplet of PS3.3 section 8.8."""

    value: str
    scheme: str
    meaning: str

    def __post_init__(self) -> None:
        for name in ("value", "scheme", "meaning"):
            _require(name, getattr(self, name), empty=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceIdentity:
    """One instance under both names."""

    pseudonymous_sop_instance_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str

    def __post_init__(self) -> None:
        for name in ("pseudonymous_sop_instance_uid", "sop_instance_uid", "series_instance_uid", "sop_class_uid"):
            require_uid(name, getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyIdentity:
    """The study as the hospital knows it; dates YYYYMMDD, times HHMMSS, either may be empty."""

    study_instance_uid: str
    accession_number: str = ""
    issuer_of_accession_number: str = ""
    study_id: str = ""
    study_date: str = ""
    study_time: str = ""
    procedure: str = ""
    procedure_code: CodedConcept | None = None
    modality: str = ""
    referring_physician: str = ""
    placer_order_number: str = ""
    instances: tuple[InstanceIdentity, ...] = field(default=())

    def __post_init__(self) -> None:
        require_uid("study_instance_uid", self.study_instance_uid)
        for name in (
            "accession_number",
            "issuer_of_accession_number",
            "study_id",
            "study_date",
            "study_time",
            "procedure",
            "modality",
            "referring_physician",
            "placer_order_number",
        ):
            _require(name, getattr(self, name))
        if not _DATE.fullmatch(self.study_date) or not _TIME.fullmatch(self.study_time):
            raise RefusedContent(MALFORMED, "study_date or study_time")


@dataclass(frozen=True, slots=True, kw_only=True)
class HospitalLetterhead:
    """What stands at the top of the hospital's reports; `accent` is the hospital's colour, #rrggbb, dark enough to read on white."""

    name: str
    department: str = ""
    address: tuple[str, ...] = ()
    contact: tuple[str, ...] = ()
    accent: str = "#1d4f73"

    def __post_init__(self) -> None:
        _require("letterhead.name", self.name, empty=False)
        _require("letterhead.department", self.department)
        for line in (*self.address, *self.contact):
            _require("letterhead.address", line, empty=False)
        if len(self.address) > 6 or len(self.contact) > 6 or not _COLOUR.fullmatch(self.accent):
            raise RefusedContent(MALFORMED, "letterhead.address, contact or accent")


def identity_document(patient: PatientIdentity, study: StudyIdentity, letterhead: HospitalLetterhead) -> dict[str, Any]:
    """The three as one JSON object, the inverse of `identity_from_document`."""
    return {"patient": asdict(patient), "study": _listed(asdict(study)), "letterhead": _listed(asdict(letterhead))}


def identity_from_document(document: Mapping[str, Any]) -> tuple[PatientIdentity, StudyIdentity, HospitalLetterhead]:
    """Raises: RefusedContent: a part is missing, unknown or not acceptable."""
    try:
        study = dict(document["study"])
        letterhead = dict(document["letterhead"])
        study["procedure_code"] = None if study["procedure_code"] is None else CodedConcept(**study["procedure_code"])
        study["instances"] = tuple(InstanceIdentity(**instance) for instance in study["instances"])
        letterhead["address"] = tuple(letterhead["address"])
        letterhead["contact"] = tuple(letterhead["contact"])
        return PatientIdentity(**document["patient"]), StudyIdentity(**study), HospitalLetterhead(**letterhead)
    except (KeyError, TypeError, ValueError):
        raise RefusedContent(MALFORMED, "identity") from None


def name_as_written(person_name: str) -> str:
    """A PN as people write it: "Family, Prefix Given Middle Suffix" of the alphabetic group, other groups in parentheses."""
    groups = []
    for group in person_name.split("="):
        family, given, middle, prefix, suffix = (part.strip() for part in (group.split("^") + [""] * 5)[:5])
        rest = " ".join(part for part in (prefix, given, middle, suffix) if part)
        if written := ", ".join(part for part in (family, rest) if part):
            groups.append(written)
    first, *others = groups or [""]
    return first + (f" ({' / '.join(others)})" if others else "")


def _listed(document: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in document.items()}
