"""The report as HL7 v2.5.1 ORU^R01, and the acknowledgement that comes back.

- OBR-25 and OBX-11: P preliminary, F final, C correction; an addendum is sent as C with the earlier report's text after its own, because
  a receiver replaces what it had (table 0123).
- MSH-10 is derived from the report: a repeated message has the control id of the first, and a receiver can tell.
- OBR-18 carries the accession number, ZDS-1 the Study Instance UID (IHE RAD TF-2 4.4), OBR-32 the reader.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from crypto.errors import RefusedContent
from reporting.content import ReportContent, ReportKind
from reporting.document import ReportSource
from reporting.hl7_message import MALFORMED, UTF_8, Component, header, instant, message, parse, segment
from reporting.hospital_instance import DOCUMENT_TITLE
from reporting.identity import CodedConcept
from reporting.structured_report import CRITICAL_CONCEPTS, SECTION_CONCEPTS
from reporting.wording import words_for

RESULT_STATUS = {ReportKind.PRELIMINARY: "P", ReportKind.FINAL: "F", ReportKind.ADDENDUM: "C", ReportKind.CORRECTION: "C"}
#: Original mode and the commit codes of enhanced mode (table 0008) say the same to a sender.
_ACKNOWLEDGEMENTS = {"AA": "AA", "AE": "AE", "AR": "AR", "CA": "AA", "CE": "AE", "CR": "AR"}


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRoute:
    """MSH-3 to MSH-6 and MSH-11."""

    sending_application: str = "READGATE"
    sending_facility: str = ""
    receiving_application: str = ""
    receiving_facility: str = ""
    processing_id: str = "P"


_PLAIN_ROUTE = MessageRoute()


@dataclass(frozen=True, slots=True)
class Ack:
    """An acknowledgement of the message `control_id`: AA accepted; AE the content is in error; AR rejected for another reason (2.9.2)."""

    code: str
    control_id: str


def compose_oru(source: ReportSource, *, pdf: bytes | None = None, now: datetime, route: MessageRoute = _PLAIN_ROUTE) -> bytes:
    """The ORU^R01 message of a report, unframed, in UTF-8; with the sealed PDF as the last OBX where one is given.

    Raises:
        RefusedContent: a value of the identity cannot stand in a message.
    """
    content, study = source.signed.content, source.study
    status = RESULT_STATUS[content.kind]
    segments = [
        header(
            route.sending_application, route.sending_facility, route.receiving_application, route.receiving_facility, instant(now), "",
            ("ORU", "R01", "ORU_R01"), control_id_of(content), route.processing_id, "2.5.1", "", "", "AL", "NE", "", UTF_8,
        ),
        _patient(source),
        segment("ORC", "RE", study.placer_order_number, study.accession_number, "", "IP" if status == "P" else "CM"),
        _request(source, status),
    ]  # fmt: skip
    reports = [content, *(earlier.content for earlier in source.predecessors if content.kind is ReportKind.ADDENDUM)]
    for group, report in enumerate(reports, 1):
        for concept, text in _observations(report):
            segments.append(_text_observation(len(segments) - 3, group, concept, text, status, report))
    if pdf is not None:
        data = ("", "application", "pdf", "Base64", base64.b64encode(pdf).decode("ascii"))
        signed_at = instant(content.signed_at)
        number = str(len(segments) - 3)
        segments.append(segment("OBX", number, "ED", _code(DOCUMENT_TITLE), "", data, "", "", "", "", "", status, "", "", signed_at))
    segments.append(segment("ZDS", (study.study_instance_uid, route.sending_application, "Application", "DICOM")))
    return message(segments)


def control_id_of(content: ReportContent) -> str:
    """MSH-10 of a report's message: 20 characters, the same each time."""
    return "RG" + hashlib.sha256(b"oru\x00" + content.digest().encode("ascii")).hexdigest()[:18].upper()


def parse_ack(payload: bytes) -> Ack:
    """The acknowledgement in an unframed message.

    Raises:
        RefusedContent: it is no acknowledgement.
    """
    received = parse(payload)
    row = received.first("MSA")
    code, control_id = received.value(row, 1), received.value(row, 2)
    if code not in _ACKNOWLEDGEMENTS or not control_id or len(control_id) > 199:
        raise RefusedContent(MALFORMED, "the answer holds no MSA with a code of table 0008 and a control id")
    return Ack(_ACKNOWLEDGEMENTS[code], control_id)


def acknowledgement(request: bytes, code: str, *, now: datetime, control_id: str) -> bytes:
    """The answer `code` (AA, AE or AR) to a received message, sent under `control_id`; to a message that cannot be parsed as well."""
    try:
        received = parse(request)
        row = received.first("MSH")
        answered, sender, trigger = received.value(row, 10), (received.value(row, 3), received.value(row, 4)), received.value(row, 9, 2)
    except RefusedContent:
        answered, sender, trigger = "", ("", ""), ""
    fields = ("READGATE", "", *sender, instant(now), "", ("ACK", trigger, "ACK"), control_id, "P", "2.5.1", "", "", "", "", "", UTF_8)
    return message([header(*fields), segment("MSA", code, answered)])


def _patient(source: ReportSource) -> str:
    patient = source.patient
    identifier = (patient.patient_id, "", "", patient.issuer_of_patient_id, "MR")
    groups = [*patient.name.split("="), "", ""][:3]
    # One repetition per representation (XPN-8): alphabetic, ideographic, phonetic. The mark between them is no part of any value.
    names = [segment("", (*_name_parts(group), "", "L", code))[1:] for group, code in zip(groups, "AIP", strict=True) if group]
    identified, described = segment("PID", "1", "", identifier), segment("", "", patient.birth_date, patient.sex or "U")
    return f"{identified}||{'~'.join(names)}{described}"


def _name_parts(group: str) -> tuple[str, ...]:
    """PN orders prefix before suffix, XPN suffix before prefix."""
    family, given, middle, prefix, suffix = (part.strip() for part in (group.split("^") + [""] * 5)[:5])
    return family, given, middle, suffix, prefix


def _request(source: ReportSource, status: str) -> str:
    content, study = source.signed.content, source.study
    procedure: Sequence[Component] = _code(study.procedure_code) if study.procedure_code else ("", study.procedure)
    performed = study.study_date + study.study_time.split(".")[0] if study.study_date else ""
    fields: list[str | Sequence[Component]] = [""] * 32
    placed: dict[int, str | Sequence[Component]] = {
        1: "1",
        2: study.placer_order_number,
        3: study.accession_number,
        4: procedure,
        7: performed,
        16: ("", *_name_parts(study.referring_physician.split("=")[0])) if study.referring_physician else "",
        18: study.accession_number,
        22: instant(content.signed_at),
        24: "RAD",
        25: status,
        32: ((content.reader.id, content.reader.display_name),),
    }
    for number, value in placed.items():
        fields[number - 1] = value
    return segment("OBR", *fields)


def _observations(content: ReportContent) -> list[tuple[CodedConcept, str]]:
    observations = [(SECTION_CONCEPTS[name][0], text) for name, text in content.sections()]
    if (critical := content.critical_result) is not None:
        told = ""
        if critical.communicated_at is not None:
            when = f"{critical.communicated_at:%Y-%m-%d %H:%M %Z}"
            told = "\n" + words_for(content.language)["critical_told"].format(who=critical.communicated_to, when=when)
        observations.insert(0, (CRITICAL_CONCEPTS[0], critical.statement + told))
    return observations


def _text_observation(number: int, group: int, concept: CodedConcept, text: str, status: str, content: ReportContent) -> str:
    fields = (str(number), "FT", _code(concept), str(group), text, "", "", "", "", "", status, "", "", instant(content.signed_at))
    return segment("OBX", *fields, formatted=(5,))


def _code(concept: CodedConcept) -> tuple[str, str, str]:
    return concept.value, concept.meaning, concept.scheme
