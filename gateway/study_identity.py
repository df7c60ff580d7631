"""Who and what a received study is, read from its headers at the edge: for the crosswalk, so that the report can go home.

- A study belongs to exactly one patient: several Patient IDs, or none, are refused (the report could reach the wrong person).
- Where instances differ in anything else, the first non-empty value counts.
"""

from __future__ import annotations

import datetime as dt
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from compliance.character_sets import codecs_of, decode
from compliance.dataset_bytes import Element, elements, encoding_of
from compliance.identified import IdentifiedDataset
from compliance.identity_terms import IdentityTerms
from compliance.identity_terms import order_terms as terms_of_order
from crypto.errors import RefusedContent

SEVERAL_PATIENT_IDS = "SEVERAL_PATIENT_IDS"
PATIENT_ID_MISSING = "PATIENT_ID_MISSING"
SEVERAL_PATIENTS = "SEVERAL_PATIENTS"
ORDER_OF_ANOTHER_PATIENT = "ORDER_OF_ANOTHER_PATIENT"
SEVERAL_STUDIES = "SEVERAL_STUDIES"

_CHARACTER_SET = 0x00080005
_PATIENT_ID, _ISSUER, _STUDY_UID, _SERIES_UID, _INSTANCE_UID = 0x00100020, 0x00100021, 0x0020000D, 0x0020000E, 0x00080018
#: What the hospital's copies need, by the name it has there.
_TEXTS = {
    "name": 0x00100010,
    "birth_date": 0x00100030,
    "sex": 0x00100040,
    "accession_number": 0x00080050,
    "study_id": 0x00200010,
    "study_date": 0x00080020,
    "study_time": 0x00080030,
    "procedure": 0x00081030,
    "modality": 0x00080060,
    "referring_physician": 0x00080090,
    "placer_order_number": 0x00402016,
}
_WANTED = {_CHARACTER_SET, _PATIENT_ID, _ISSUER, _STUDY_UID, _SERIES_UID, _INSTANCE_UID, 0x00080016, *_TEXTS.values()}
_LAST = 0x00402016


@dataclass(frozen=True)
class ReceivedIdentity:
    """The identity of one study, and of each instance the original (SOP Instance UID, Series Instance UID, class)."""

    patient_id: str
    issuer_of_patient_id: str
    study_instance_uid: str
    texts: Mapping[str, str]
    instances: tuple[tuple[str, str, str], ...]

    @property
    def accession_number(self) -> str:
        return self.texts.get("accession_number", "")

    def document(self, pseudonym_of: Mapping[str, str], order: Mapping[str, Any] | None) -> dict[str, Any]:
        """What is sealed in the crosswalk; `pseudonym_of` gives the pseudonymous UID of an original SOP Instance UID."""
        texts = dict(self.texts)
        if order is not None:
            texts["placer_order_number"] = texts.get("placer_order_number") or str(order.get("placer_order_number") or "")
            texts["procedure"] = texts.get("procedure") or str(order.get("procedure") or "")
        return {
            "patient": {
                "name": texts.pop("name", ""),
                "patient_id": self.patient_id,
                "issuer_of_patient_id": self.issuer_of_patient_id,
                "birth_date": texts.pop("birth_date", ""),
                "sex": texts.pop("sex", ""),
            },
            "study": {"study_instance_uid": self.study_instance_uid, **texts},
            "instances": [[pseudonym_of[uid], uid, series, sop_class] for uid, series, sop_class in self.instances if uid in pseudonym_of],
        }


@dataclass
class StudyIdentityReader:
    """Reads instance after instance; `identity` says what they agree on."""

    _patients: set[tuple[str, str]] = field(default_factory=set)
    _studies: set[str] = field(default_factory=set)
    #: Non-empty values of what tells persons apart, by tag: one Patient ID can be given to two.
    _traits: dict[str, set[str]] = field(default_factory=dict)
    _texts: dict[str, str] = field(default_factory=dict)
    _instances: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, source: IdentifiedDataset) -> None:
        """Raises: RefusedContent for a header that cannot be read."""
        values = header_texts(source)
        self._patients.add((values.get(_PATIENT_ID, ""), values.get(_ISSUER, "")))
        for trait, text in (
            ("(0010,0021)", values.get(_ISSUER, "")),
            ("(0010,0030)", values.get(_TEXTS["birth_date"], "")),
            ("(0010,0040)", values.get(_TEXTS["sex"], "")),
            ("(0010,0010)", _family_name(values.get(_TEXTS["name"], ""))),
        ):
            if text:
                self._traits.setdefault(trait, set()).add(text)
        self._studies.add(values.get(_STUDY_UID, ""))
        for name, tag in _TEXTS.items():
            if not self._texts.get(name):
                self._texts[name] = values.get(tag, "")
        self._instances.append((values.get(_INSTANCE_UID, ""), values.get(_SERIES_UID, ""), source.sop_class_uid))

    def identity(self) -> ReceivedIdentity:
        """Raises: RefusedContent when the instances are not one study of one patient."""
        if len({patient_id for patient_id, _ in self._patients}) > 1:
            raise RefusedContent(SEVERAL_PATIENT_IDS, "the instances of this study name different patients", tag="(0010,0020)")
        if len(self._studies) > 1:
            raise RefusedContent(SEVERAL_STUDIES, "the instances are of different studies", tag="(0020,000D)")
        patient_id, issuer = max(self._patients, default=("", ""))
        for tag, values in self._traits.items():
            if len(values) > 1:
                raise RefusedContent(SEVERAL_PATIENTS, "the instances of this study describe different persons", tag=tag)
        if not patient_id:
            raise RefusedContent(PATIENT_ID_MISSING, "a report could not find its patient", tag="(0010,0020)")
        return ReceivedIdentity(patient_id, issuer, next(iter(self._studies)), dict(self._texts), tuple(self._instances))


def header_texts(source: IdentifiedDataset) -> dict[int, str]:
    """The wanted top-level values of an instance, decoded, trimmed. Raises: RefusedContent."""
    encoding = encoding_of(source.transfer_syntax_uid)
    found: dict[int, Element] = {}
    for element in elements(source.payload, 0, len(source.payload), encoding):
        if element.tag > _LAST:
            break
        if element.tag in _WANTED:
            found[element.tag] = element
    declared = found.get(_CHARACTER_SET)
    charset = source.payload[declared.value : declared.end].decode("ascii", "replace") if declared is not None else ""
    codecs = codecs_of(tuple(charset.strip("\0 ").split("\\")))
    values: dict[int, str] = {}
    for tag, element in found.items():
        text = decode(source.payload[element.value : element.end], codecs)
        if text is None:
            raise RefusedContent("UNDECODABLE_TEXT", "not in the declared character set", tag=f"({tag >> 16:04X},{tag & 0xFFFF:04X})")
        values[tag] = text.strip("\0 ")
    return values


def require_same_patient(order: Mapping[str, Any], identity: ReceivedIdentity) -> None:
    """The order under the study's accession number is this patient's. Raises: RefusedContent.

    The Patient IDs are compared; issuers are spelled differently in HL7 and DICOM by one and the same hospital.
    """
    ordered = str(order.get("patient_id") or "").strip()
    if ordered and ordered != identity.patient_id:
        raise RefusedContent(ORDER_OF_ANOTHER_PATIENT, "the order of this accession number is for another patient", tag="(0008,0050)")


def _family_name(name: str) -> str:
    """The family name of the first component group, folded: a study may write one person's name in several spellings of case and accent."""
    family = name.partition("=")[0].partition("^")[0].strip()
    return "".join(one for one in unicodedata.normalize("NFKD", family).casefold() if not unicodedata.combining(one))


def order_terms(order: Mapping[str, Any]) -> IdentityTerms:
    """What an order says of persons, places and numbers, to clean texts of."""
    birth_date = _date(str(order.get("birth_date") or ""))
    return terms_of_order(
        names=[str(order.get("patient_name") or "")],
        staff=[str(order.get("referring_physician") or "")],
        identifiers=[
            str(order.get(name) or "") for name in ("patient_id", "accession_number", "placer_order_number", "filler_order_number")
        ],
        birth_dates=[birth_date] if birth_date is not None else [],
    )


def _date(text: str) -> dt.date | None:
    try:
        return dt.datetime.strptime(text[:8], "%Y%m%d").date()
    except ValueError:
        return None
