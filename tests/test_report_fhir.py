"""The report as FHIR: structure by the library, codes by the value sets."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from fhir.resources.R4B.diagnosticreport import DiagnosticReport

from reporting.content import ReportKind
from reporting.diagnostic_report import STATUS, diagnostic_report
from tests.report_samples import STUDY_UID, make_addendum, make_content, make_patient, make_source, make_study, sealed_sample, sign

#: http://hl7.org/fhir/R4B/valueset-diagnostic-report-status.html
STATUSES = {
    "registered", "partial", "preliminary", "final", "amended", "corrected", "appended", "cancelled", "entered-in-error", "unknown",
}  # fmt: skip


def _resource(*arguments: Any, **options: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(diagnostic_report(*arguments, **options))
    DiagnosticReport.model_validate(document)
    return document


def test_every_kind_has_a_status_of_the_value_set() -> None:
    assert set(STATUS) == set(ReportKind)
    assert set(STATUS.values()) <= STATUSES


def test_resource_says_whose_what_and_by_whom() -> None:
    resource = _resource(make_source(), sealed_pdf=sealed_sample())
    patient, reader, study = resource["contained"]
    assert patient["name"] == [{"text": "Vandermeer, Mrs Katharina", "family": "Vandermeer", "given": ["Katharina"], "prefix": ["Mrs"]}]
    assert (patient["birthDate"], patient["gender"], patient["identifier"][0]["value"]) == ("1968-04-12", "female", "MRN-0048213")
    assert reader["name"][0]["text"] == "Dr. Ingrid Solheim"
    assert study["identifier"][0]["value"] == f"urn:oid:{STUDY_UID}"
    assert (resource["status"], resource["code"]["coding"][0]["code"], resource["issued"]) == (
        "final",
        "18748-4",
        "2026-11-22T09:34:12.000Z",
    )
    form = resource["presentedForm"][0]
    assert base64.b64decode(form["data"]) == sealed_sample()
    assert base64.b64decode(form["hash"]) == hashlib.sha1(sealed_sample(), usedforsecurity=False).digest()


@pytest.mark.parametrize("patient", [{}, {"name": "", "birth_date": "", "sex": ""}, {"issuer_of_patient_id": ""}])
def test_resource_is_valid_with_little_identity(patient: dict[str, str]) -> None:
    bare = make_study(accession_number="", study_date="", procedure="")
    assert _resource(make_source(patient=make_patient(**patient), study=bare))["subject"] == {"reference": "#patient"}


def test_same_report_has_the_same_bytes_and_another_has_another_id() -> None:
    assert diagnostic_report(make_source()) == diagnostic_report(make_source())
    other = make_source(sign(make_content(findings="Normal.")))
    assert _resource(other)["id"] != _resource(make_source())["id"]
    assert _resource(make_addendum())["status"] == "appended"
