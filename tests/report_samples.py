"""Reports, identities and keys to test with; every value is made up."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import Any

from crypto.canonical import digest
from crypto.certificates import KeyAndCertificate, create_ca, issue_document_signer
from crypto.signing_key import ReaderKey, create_reader_key
from reporting.content import CriticalResult, ReportContent, ReportKind, SigningReader
from reporting.document import ReportSource, compose_document
from reporting.identity import CodedConcept, HospitalLetterhead, InstanceIdentity, PatientIdentity, StudyIdentity
from reporting.seal import seal_document
from reporting.signed_report import SignedReport, sign_report

PASSPHRASE = "seven grey herons at dawn"
NOW = datetime(2026, 11, 22, 9, 35, tzinfo=UTC)
STUDY_UID = "1.2.826.0.1.3680043.8.498.40117250389561265013986250113928364554"
INSTANCES = 3

FINDINGS = (
    "Ventricles and sulci: normal in size and configuration for age.\n\n"
    "Parenchyma: a rounded hyperdense focus of 14 × 12 mm in the right frontal white matter, about 62 HU. Affine, office (fi, ffi).\n"
    "No midline shift."
)
IMPRESSION = "1. Acute intraparenchymal haemorrhage, right frontal lobe.\n2. No hydrocephalus."


def make_manifest() -> dict[str, Any]:
    rows = [
        {"sop_instance_uid": f"2.25.{number}", "payload": f"sha256:{number:064x}", "pixels": f"sha256:{number + 16:064x}"}
        for number in range(1, INSTANCES + 1)
    ]
    return {"v": 1, "study_instance_uid": "2.25.77", "instances": rows}


def make_content(**changes: Any) -> ReportContent:
    fields: dict[str, Any] = {
        "report_uid": "2.25.329800735698586629295641978511506172918",
        "kind": ReportKind.FINAL,
        "predecessor_digest": None,
        "study_instance_uid": "2.25.77",
        "patient_pseudonym": "P-7F3K",
        "accession_pseudonym": "A-0001",
        "study_manifest_digest": digest(make_manifest()),
        "indication": "Sudden severe headache.",
        "technique": "Non-contrast helical CT of the head.",
        "comparison": "None.",
        "findings": FINDINGS,
        "impression": IMPRESSION,
        "critical_result": CriticalResult(
            statement="Acute intracranial haemorrhage.",
            communicated_to="Dr. M. Okafor, Emergency Department",
            communicated_at=datetime(2026, 11, 22, 9, 31, tzinfo=UTC),
        ),
        "language": "en",
        "reader": SigningReader(id="r1", display_name="Dr. Ingrid Solheim", qualification="Consultant Neuroradiologist"),
        "decision_digest": "sha256:" + "1" * 64,
        "signed_at": datetime(2026, 11, 22, 9, 34, 12, tzinfo=UTC),
    }
    return ReportContent(**(fields | changes))


@cache
def reader_key() -> ReaderKey:
    return create_reader_key(PASSPHRASE)


@cache
def sign(content: ReportContent) -> SignedReport:
    """Opening a key takes a third of a second on purpose; equal contents share a signature here."""
    key = reader_key()
    return sign_report(content, wrapped_key=key.wrapped, passphrase=PASSPHRASE, public_key_pem=key.public_pem)


def make_patient(**changes: Any) -> PatientIdentity:
    fields = {
        "name": "Vandermeer^Katharina^^Mrs",
        "patient_id": "MRN-0048213",
        "issuer_of_patient_id": "HOSP1",
        "birth_date": "19680412",
        "sex": "F",
    }
    return PatientIdentity(**(fields | changes))


def make_study(**changes: Any) -> StudyIdentity:
    fields: dict[str, Any] = {
        "study_instance_uid": STUDY_UID,
        "accession_number": "ACC-2026-11873",
        "study_id": "4711",
        "study_date": "20261122",
        "study_time": "084512",
        "procedure": "CT head without contrast",
        "procedure_code": CodedConcept(value="30799-1", scheme="LN", meaning="CT Head WO contrast"),
        "modality": "CT",
        "referring_physician": "Okafor^Miriam^^Dr.",
        "instances": tuple(
            InstanceIdentity(
                pseudonymous_sop_instance_uid=f"2.25.{number}",
                sop_instance_uid=f"1.2.826.0.1.3680043.8.498.1.{number}",
                series_instance_uid="1.2.826.0.1.3680043.8.498.1",
                sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
            )
            for number in range(1, INSTANCES + 1)
        ),
    }
    return StudyIdentity(**(fields | changes))


def make_letterhead() -> HospitalLetterhead:
    return HospitalLetterhead(
        name="Saint Brigid University Hospital",
        department="Department of Diagnostic and Interventional Radiology",
        address=("Harbour Road 12", "D04 X2Y3 Dublin"),
        contact=("Tel. +353 1 555 0100",),
    )


def make_source(signed: SignedReport | None = None, **changes: Any) -> ReportSource:
    fields: dict[str, Any] = {
        "signed": signed or sign(make_content()),
        "patient": make_patient(),
        "study": make_study(),
        "letterhead": make_letterhead(),
        "manifest": make_manifest(),
    }
    return ReportSource(**(fields | changes))


def make_addendum() -> ReportSource:
    first = sign(make_content())
    addendum = make_content(
        kind=ReportKind.ADDENDUM,
        predecessor_digest=first.content.digest(),
        report_uid="2.25.99",
        indication="",
        technique="",
        comparison="",
        findings="CT angiography of the same day was reviewed.",
        impression="No vascular lesion.",
        critical_result=None,
    )
    return make_source(sign(addendum), predecessors=[first])


@cache
def authority() -> KeyAndCertificate:
    return create_ca("Test Authority")


@cache
def sealer() -> KeyAndCertificate:
    return issue_document_signer(authority(), "Saint Brigid University Hospital")


def seal(document: bytes, *, at: datetime | None = None) -> bytes:
    signer = sealer()
    return seal_document(document, key_pem=signer.key_pem, certificate_pem=signer.certificate_pem, now=at or datetime.now(UTC))


@cache
def sealed_sample() -> bytes:
    return seal(compose_document(make_source(), now=NOW))
