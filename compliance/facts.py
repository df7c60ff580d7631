"""The facts of one decision, gathered from the rows that own them.

The document has the shape decision.py asks for (its schema refuses what it does not know). Nothing is decided here: what is missing
stays missing (None), and the gates turn it into a reason.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlmodel import Session

from compliance.credential import Credential, Employer, Evidence, Reader, newest_consent, standing_credentials, standing_evidence
from compliance.hospital import Hospital, require_hospital
from compliance.principal import LoginSession
from compliance.study import Study
from crypto.errors import IntegrityFailure


def gather_facts(
    session: Session,
    *,
    action: str,
    study: Study,
    reader: Reader,
    login: LoginSession | None,
    at: datetime,
    object_kind: str = "CURRENT",
    purpose: str = "TREAT",
    break_glass: dict[str, str] | None = None,
) -> dict[str, Any]:
    """The facts document for `reader` doing `action` with `study` at `at`.

    Routing looks at readers who are not here: there is no login then, and the engine does not ask for one (claiming does).
    """
    hospital = require_hospital(session, study.hospital_id)
    employer = session.get(Employer, reader.employer_id)
    if employer is None:
        raise IntegrityFailure(f"employer {reader.employer_id} is referred to and not there")
    evidence = standing_evidence(session, {hospital.hospital_id, employer.employer_id})
    return {
        "at": instant(at),
        "action": action,
        "purpose": purpose,
        "origin": {
            "hospital": hospital.hospital_id,
            "jurisdiction": hospital.jurisdiction,
            "sector": hospital.sector,
            "flags": list(hospital.flags),
        },
        "object": {
            "kind": object_kind,
            "provenance": study.provenance,
            "modality": study.modality,
            "body_part": study.body_part,
            "id_class": study.id_class,
        },
        "patient": {"jurisdiction": hospital.jurisdiction, "us_person": hospital.jurisdiction.startswith("US"), "can_consent": True},
        "payer": {"kind": hospital.payer_kind},
        "storage": {"country": hospital.storage_country},
        "reader": {
            "id": reader.reader_id,
            "establishment": reader.establishment,
            "residence": reader.residence,
            "citizenship": reader.citizenship,
            "employer": {
                "id": employer.employer_id,
                "country": employer.country,
                "kind": employer.kind,
                "role": employer.role,
                "coc_ownership_pct": employer.coc_ownership_pct,
            },
            "credentials": [credential_facts(row) for row in standing_credentials(session, reader.reader_id)],
        },
        "login": _login(login),
        "consent": _consent(session, hospital, study),
        "evidence": [evidence_facts(row) for row in evidence],
        "counters": {},
        "break_glass": break_glass,
    }


def instant(at: datetime) -> str:
    """The engine's form of an instant: whole seconds, UTC, "Z"."""
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def credential_facts(row: Credential) -> dict[str, Any]:
    """The credential as the engine reads it."""
    return {
        "kind": row.kind,
        **row.claim,
        "status": row.status,
        "issued": instant(row.issued_at),
        "expires": instant(row.expires_at),
        "psv_at": instant(row.verified_at),
    }


def evidence_facts(row: Evidence) -> dict[str, Any]:
    """The evidence as the engine reads it."""
    return {
        "id": row.evidence_id,
        "type": row.evidence_type,
        "parties": list(row.parties),
        "issued": instant(row.issued_at),
        "expires": instant(row.expires_at),
        "verified_by": row.verified_by,
    }


def _login(login: LoginSession | None) -> dict[str, Any]:
    if login is None:
        return {}
    return {
        "mfa": login.is_mfa,
        "device_attested": login.is_device_attested,
        "declared_country": login.declared_country,
        "ip_country": login.ip_country,
        "ip_kind": login.ip_kind,
        "observed_at": instant(login.observed_at),
    }


def _consent(session: Session, hospital: Hospital, study: Study) -> dict[str, Any]:
    row = newest_consent(session, hospital.hospital_id, study.patient_pseudonym)
    if row is None:
        return {"status": "UNKNOWN" if "CONSENT_REQUIRED" in hospital.flags else "NOT_REQUIRED"}
    consent: dict[str, Any] = {"status": row.status, "kind": row.kind, "version": row.version}
    if row.given_at is not None:
        consent["given_at"] = instant(row.given_at)
    if row.withdrawn_at is not None:
        consent["withdrawn_at"] = instant(row.withdrawn_at)
    return consent
