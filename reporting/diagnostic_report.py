"""The report as a FHIR R4B DiagnosticReport with the sealed PDF as its presented form, in a collection with what it refers to.

The library checks structure; it does not check required code bindings, so the codes written here come from enumerations of ours.
"""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from datetime import UTC, datetime
from typing import Any

from fhir.resources.R4B.diagnosticreport import DiagnosticReport
from pydantic import ValidationError

from crypto.errors import RefusedContent
from reporting.content import ReportKind
from reporting.document import ReportSource
from reporting.hospital_instance import DOCUMENT_TITLE, derived_uid
from reporting.identity import name_as_written
from reporting.text_rules import MALFORMED
from reporting.wording import words_for

#: http://hl7.org/fhir/ValueSet/diagnostic-report-status (required binding).
STATUS = {
    ReportKind.PRELIMINARY: "preliminary",
    ReportKind.FINAL: "final",
    ReportKind.ADDENDUM: "appended",
    ReportKind.CORRECTION: "corrected",
}
_SYSTEMS = {"LN": "http://loinc.org", "SCT": "http://snomed.info/sct", "DCM": "http://dicom.nema.org/resources/ontology/DCM"}
_SEX = {"M": "male", "F": "female", "O": "other", "": "unknown"}


def diagnostic_report(source: ReportSource, *, sealed_pdf: bytes | None = None) -> bytes:
    """The DiagnosticReport as JSON in UTF-8. Patient, reader and study are contained; the same report has the same id each time.

    Raises:
        RefusedContent: the identity cannot be expressed in FHIR.
    """
    content, word = source.signed.content, words_for(source.signed.content.language)
    digest = content.digest()
    document: dict[str, Any] = {
        "resourceType": "DiagnosticReport",
        "id": str(uuid.UUID(int=int(derived_uid("fhir", digest).removeprefix("2.25.")))),
        "language": content.language,
        "contained": [_patient(source), _reader(source), _study(source)],
        "identifier": [{"system": "urn:ietf:rfc:3986", "value": f"urn:oid:{content.report_uid}"}],
        "status": STATUS[content.kind],
        "category": [
            {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0074", "code": "RAD", "display": "Radiology"}]},
        ],
        "code": {
            "coding": [{"system": _SYSTEMS["LN"], "code": DOCUMENT_TITLE.value, "display": "Diagnostic imaging study"}],
            "text": source.study.procedure or word["title"],
        },
        "subject": {"reference": "#patient"},
        "effectiveDateTime": _study_date(source) or _instant(content.signed_at),
        "issued": _instant(content.signed_at),
        "resultsInterpreter": [{"reference": "#reader", "display": content.reader.display_name}],
        "imagingStudy": [{"reference": "#study"}],
        "conclusion": content.impression or content.findings,
    }
    if source.study.accession_number:
        document["identifier"].append(_accession(source))
    if sealed_pdf is not None:
        document["presentedForm"] = [
            {
                "contentType": "application/pdf",
                "language": content.language,
                "data": base64.b64encode(sealed_pdf).decode("ascii"),
                "size": len(sealed_pdf),
                # R4 defines the hash as SHA-1; it finds transmission errors, the seal finds the rest.
                "hash": base64.b64encode(hashlib.sha1(sealed_pdf, usedforsecurity=False).digest()).decode("ascii"),
                "title": f"{word['title']}: {word[content.kind.value]}",
                "creation": _instant(content.signed_at),
            }
        ]
    try:
        DiagnosticReport.model_validate(document)
    except ValidationError:
        raise RefusedContent(MALFORMED, "the report cannot be expressed as a FHIR R4B DiagnosticReport") from None
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def _patient(source: ReportSource) -> dict[str, Any]:
    patient = source.patient
    family, given, middle, prefix, suffix = (part.strip() for part in (patient.name.split("=")[0].split("^") + [""] * 5)[:5])
    name = {
        "text": name_as_written(patient.name),
        "family": family,
        "given": [part for part in (given, middle) if part],
        "prefix": [prefix] if prefix else [],
        "suffix": [suffix] if suffix else [],
    }
    identifier: dict[str, Any] = {
        "type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR"}]},
        "value": patient.patient_id,
    }
    if patient.issuer_of_patient_id:
        identifier["assigner"] = {"display": patient.issuer_of_patient_id}
    resource: dict[str, Any] = {
        "resourceType": "Patient",
        "id": "patient",
        "identifier": [identifier],
        "name": [{key: value for key, value in name.items() if value}],
        "gender": _SEX[patient.sex],
    }
    if len(patient.birth_date) == 8:
        resource["birthDate"] = _date(patient.birth_date)
    return resource


def _reader(source: ReportSource) -> dict[str, Any]:
    reader = source.signed.content.reader
    resource: dict[str, Any] = {"resourceType": "Practitioner", "id": "reader", "name": [{"text": reader.display_name}]}
    if reader.qualification:
        resource["qualification"] = [{"code": {"text": reader.qualification}}]
    return resource


def _study(source: ReportSource) -> dict[str, Any]:
    resource: dict[str, Any] = {
        "resourceType": "ImagingStudy",
        "id": "study",
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{source.study.study_instance_uid}"}],
        "status": "available",
        "subject": {"reference": "#patient"},
    }
    if source.study.accession_number:
        resource["identifier"].append(_accession(source))
    return resource


def _accession(source: ReportSource) -> dict[str, Any]:
    kind = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}]}
    return {"type": kind, "value": source.study.accession_number}


def _study_date(source: ReportSource) -> str:
    return _date(source.study.study_date) if source.study.study_date else ""


def _date(value: str) -> str:
    return f"{value[:4]}-{value[4:6]}-{value[6:8]}"


def _instant(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
