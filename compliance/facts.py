"""The facts of one decision, gathered from the rows that own them, each with where it came from.

The document has the shape decision.py asks for (its schema refuses what it does not know). Nothing is decided here: what is missing
stays missing (None), and the gates turn it into a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlmodel import Session, select

from compliance.consent_terms import DENY, PERMIT, ConsentQuestion, standing_of
from compliance.counters import count_facts
from compliance.credential import (
    Consent,
    Credential,
    Employer,
    Evidence,
    Reader,
    standing_consents,
    standing_credentials,
    standing_evidence,
)
from compliance.deid_manifest import id_class_of
from compliance.emergency_access import ACTIONS, PURPOSE, EmergencyAccess, break_glass_facts, standing_access
from compliance.hospital import Hospital, require_hospital
from compliance.jurisdiction import country_of
from compliance.patient_status import newest_statement
from compliance.principal import LoginSession
from compliance.study import Instance, Study
from crypto.errors import IntegrityFailure
from crypto.keys import KeyStore

_NEVER = "no row"


def gather_facts(
    session: Session,
    *,
    action: str,
    study: Study,
    reader: Reader,
    login: LoginSession | None,
    at: datetime,
    object_kind: str = "CURRENT",
    keys: KeyStore | None = None,
    emergency: EmergencyAccess | None = None,
) -> dict[str, Any]:
    """The facts document for `reader` doing `action` with `study` at `at`.

    Routing looks at readers who are not here: there is no login then, and the engine does not ask for one (claiming does).

    Without `keys` nobody is counted, and a rule that asks for a number denies it as missing. `emergency` is an access about to begin; one
    that is in force is found in its row.
    """
    hospital = require_hospital(session, study.hospital_id)
    employer = session.get(Employer, reader.employer_id)
    if employer is None:
        raise IntegrityFailure(f"employer {reader.employer_id} is referred to and not there")
    if emergency is None and action in ACTIONS:
        emergency = standing_access(
            session, hospital_id=hospital.hospital_id, patient_pseudonym=study.patient_pseudonym, reader_id=reader.reader_id
        )
    purpose = PURPOSE if emergency is not None else "TREAT"
    evidence = standing_evidence(session, {hospital.hospital_id, employer.employer_id})
    sources: dict[str, str] = {}
    facts = {
        "at": instant(at),
        "action": action,
        "purpose": purpose,
        "origin": _origin(hospital, sources),
        "object": _object(hospital, study, object_kind, sources),
        "patient": _patient(session, hospital, study, emergency, sources),
        "payer": {"kind": study.payer_kind or hospital.payer_kind},
        "storage": {"country": study.storage_country or hospital.storage_country},
        "reader": reader_facts(reader, employer, standing_credentials(session, reader.reader_id), sources),
        "login": _login(login, sources),
        "consent": consent_facts(
            standing_consents(session, hospital.hospital_id, study.patient_pseudonym),
            hospital,
            employer,
            study,
            reader,
            purpose,
            sop_classes_of(session, study),
            at,
            sources,
        ),
        "evidence": [evidence_facts(row) for row in evidence],
        "counters": {},
        "break_glass": None,
        "sources": sources,
    }
    sources["payer"] = _study_source(study) if study.payer_kind is not None else f"hospital/{hospital.hospital_id}"
    sources["storage"] = _study_source(study) if study.storage_country is not None else f"hospital/{hospital.hospital_id}"
    sources["evidence"] = evidence_source(hospital, employer)
    if keys is not None:
        facts["counters"] = count_facts(
            session,
            keys,
            hospital_id=hospital.hospital_id,
            employer_id=employer.employer_id,
            patient_pseudonym=study.patient_pseudonym,
            at=at,
        )
        sources["counters"] = counters_source(hospital, employer)
    if emergency is not None:
        facts["break_glass"] = break_glass_facts(emergency)
        sources["break_glass"] = sources["purpose"] = _emergency_source(emergency)
    return facts


def gather_storage_facts(
    session: Session, *, hospital: Hospital, object_facts: dict[str, Any], country: str, payer_kind: str | None, patient_pseudonym: str,
    at: datetime,
) -> dict[str, Any]:  # fmt: skip
    """The facts document for keeping a study of `hospital` in `country`: a place and no reader."""
    rows = [row for row in standing_evidence(session, None) if hospital.hospital_id in row.parties]
    sources: dict[str, str] = {"storage": "setting vault.country", "evidence": f"evidence of {hospital.hospital_id}"}
    statement = newest_statement(session, hospital.hospital_id, patient_pseudonym, "is_us_person")
    is_us_person = statement.is_us_person if statement is not None else country_of(hospital.jurisdiction) == "US"
    consents = [_plain_consent(row) for row in standing_consents(session, hospital.hospital_id, patient_pseudonym)]
    own = f"hospital/{hospital.hospital_id}"
    sources["object"] = "the instances received"
    sources["patient"] = own if statement is None else f"patient_status/{statement.status_pk}@{instant(statement.recorded_at)}"
    sources["payer"] = own if payer_kind is None else "the order received"
    sources["consent"] = own if not consents else f"consents of a patient of {hospital.hospital_id}"
    return {
        "at": instant(at),
        "action": "STORE",
        "purpose": "TREAT",
        "origin": _origin(hospital, sources),
        "object": object_facts,
        "patient": {"jurisdiction": hospital.jurisdiction, "us_person": is_us_person, "can_consent": True},
        "payer": {"kind": payer_kind or hospital.payer_kind},
        "storage": {"country": country},
        "consent": min(consents, key=_severity) if consents else _no_consent(hospital),
        "evidence": [evidence_facts(row) for row in rows],
        "counters": {},
        "break_glass": None,
        "sources": sources,
    }


def instant(at: datetime) -> str:
    """The engine's form of an instant: whole seconds, UTC, "Z"."""
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def credential_facts(row: Credential) -> dict[str, Any]:
    """The credential as the engine reads it."""
    facts = {
        "kind": row.kind,
        **row.claim,
        "status": row.status,
        "issued": instant(row.issued_at),
        "expires": instant(row.expires_at),
        "psv_at": instant(row.verified_at),
    }
    if row.credential_pk is not None:
        facts["id"] = f"credential/{row.credential_pk}"
    if row.verification_method:
        facts["psv_method"] = row.verification_method
    return facts


def evidence_facts(row: Evidence) -> dict[str, Any]:
    """The evidence as the engine reads it."""
    facts = {
        "id": row.evidence_id,
        "type": row.evidence_type,
        "parties": list(row.parties),
        "issued": instant(row.issued_at),
        "expires": instant(row.expires_at),
        "verified_by": row.verified_by,
    }
    return facts if row.document_digest is None else {**facts, "sha256": row.document_digest}


def _origin(hospital: Hospital, sources: dict[str, str]) -> dict[str, Any]:
    sources["origin"] = f"hospital/{hospital.hospital_id}"
    return {
        "hospital": hospital.hospital_id,
        "jurisdiction": hospital.jurisdiction,
        "sector": hospital.sector,
        "flags": list(hospital.flags),
    }


def _object(hospital: Hospital, study: Study, object_kind: str, sources: dict[str, str]) -> dict[str, Any]:
    sources["object"] = _study_source(study)
    return {
        "study": study.study_instance_uid,
        "kind": object_kind,
        "provenance": study.provenance,
        "modality": study.modality,
        "body_part": study.body_part,
        "id_class": id_class_of(hospital, study),
    }


def _patient(
    session: Session, hospital: Hospital, study: Study, emergency: EmergencyAccess | None, sources: dict[str, str]
) -> dict[str, Any]:
    """Where nobody said otherwise, a patient of a US hospital is a US person, and a patient can consent."""
    said_us = newest_statement(session, hospital.hospital_id, study.patient_pseudonym, "is_us_person")
    said_able = newest_statement(session, hospital.hospital_id, study.patient_pseudonym, "can_consent")
    facts = {"jurisdiction": hospital.jurisdiction, "us_person": country_of(hospital.jurisdiction) == "US", "can_consent": True}
    sources["patient"] = f"hospital/{hospital.hospital_id}, {_NEVER} of the patient's own"
    if said_us is not None and said_us.is_us_person is not None:
        facts["us_person"] = said_us.is_us_person
        sources["patient.us_person"] = f"patient_status/{said_us.status_pk}@{instant(said_us.recorded_at)}"
    if said_able is not None and said_able.can_consent is not None:
        facts["can_consent"] = said_able.can_consent
        sources["patient.can_consent"] = f"patient_status/{said_able.status_pk}@{instant(said_able.recorded_at)}"
    if emergency is not None and not emergency.can_patient_consent:
        facts["can_consent"] = False
        sources["patient.can_consent"] = _emergency_source(emergency)
    return facts


def evidence_source(hospital: Hospital, employer: Employer) -> str:
    return f"evidence of {hospital.hospital_id} and {employer.employer_id}"


def counters_source(hospital: Hospital, employer: Employer) -> str:
    return f"counted_person/{hospital.hospital_id}/{employer.employer_id}"


def sop_classes_of(session: Session, study: Study) -> Callable[[], frozenset[str]]:
    """Asks for the SOP classes of the study when they are wanted: only a consent with terms of its own wants them."""
    return lambda: frozenset(session.exec(select(Instance.sop_class_uid).where(Instance.study_pk == study.study_pk).distinct()).all())


def reader_facts(reader: Reader, employer: Employer, credentials: Iterable[Credential], sources: dict[str, str]) -> dict[str, Any]:
    """The reader with firm and credentials as the engine reads them; where it stands goes into `sources`."""
    sources["reader"] = f"reader/{reader.reader_id}"
    sources["reader.employer"] = f"employer/{employer.employer_id}"
    return {
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
        "credentials": [credential_facts(row) for row in credentials],
    }


def _login(login: LoginSession | None, sources: dict[str, str]) -> dict[str, Any]:
    if login is None:
        return {}
    sources["login"] = f"login_session/{login.token_digest[:12]}@{instant(login.observed_at)}"
    return {
        "mfa": login.is_mfa,
        "device_attested": login.is_device_attested,
        "declared_country": login.declared_country,
        "ip_country": login.ip_country,
        "ip_kind": login.ip_kind,
        "observed_at": instant(login.observed_at),
    }


def consent_facts(
    rows: Sequence[Consent],
    hospital: Hospital,
    employer: Employer,
    study: Study,
    reader: Reader,
    purpose: str,
    sop_classes: Callable[[], frozenset[str]],
    at: datetime,
    sources: dict[str, str],
) -> dict[str, Any]:
    """Of the kinds on file the one that weighs heaviest: what the patient refused is not outweighed by what they gave."""
    if not rows:
        sources["consent"] = f"hospital/{hospital.hospital_id}, {_NEVER} of the patient's own"
        return _no_consent(hospital)
    # Of equals the first, which was recorded last.
    row, consent = min(
        ((row, _consent_by(row, employer, study, reader, purpose, sop_classes, at)) for row in rows), key=lambda pair: _severity(pair[1])
    )
    sources["consent"] = f"consent/{row.consent_pk}@{instant(row.recorded_at)}"
    return consent


def _severity(consent: dict[str, Any]) -> int:
    return {"WITHDRAWN": 0, "REFUSED": 0, "ACTIVE": 1}.get(consent["status"], 2)


def _consent_by(
    row: Consent, employer: Employer, study: Study, reader: Reader, purpose: str, sop_classes: Callable[[], frozenset[str]], at: datetime
) -> dict[str, Any]:
    if row.terms is None or row.status != "ACTIVE":
        return _plain_consent(row)
    question = ConsentQuestion(
        reader_id=reader.reader_id,
        employer_id=employer.employer_id,
        purpose=purpose,
        modality=study.modality,
        sop_classes=sop_classes(),
        places=frozenset(country_of(place) for place in (reader.establishment, reader.residence, employer.country)),
    )
    standing = standing_of(row.terms, question, at)
    # What the terms do not speak of is not consented to, and not refused either.
    status = {PERMIT: "ACTIVE", DENY: "REFUSED"}.get(standing.verdict or "", "UNKNOWN")
    return _plain_consent(row, status, standing.until)


def _plain_consent(row: Consent, status: str | None = None, until: datetime | None = None) -> dict[str, Any]:
    consent: dict[str, Any] = {"status": status or row.status, "kind": row.kind, "version": row.version}
    if row.given_at is not None:
        consent["given_at"] = instant(row.given_at)
    if row.withdrawn_at is not None:
        consent["withdrawn_at"] = instant(row.withdrawn_at)
    ends = min((end for end in (row.expires_at, until) if end is not None), default=None)
    consent["term"] = "UNLIMITED" if ends is None else "LIMITED"
    if ends is not None:
        consent["expires"] = instant(ends)
    return consent


def _no_consent(hospital: Hospital) -> dict[str, Any]:
    return {"status": "UNKNOWN" if "CONSENT_REQUIRED" in hospital.flags else "NOT_REQUIRED"}


def _study_source(study: Study) -> str:
    return f"study/{study.study_instance_uid}"


def _emergency_source(emergency: EmergencyAccess) -> str:
    return f"emergency_access/{emergency.access_pk if emergency.access_pk is not None else 'now'}"
