"""What a reader is, and may be believed to be: reader, employer, credentials with primary-source verification, evidence on file.

A row is never edited into a different claim: a change is a new row, the old one keeps its `superseded_at`, so that yesterday's
decision can be explained. What the gates make of them stands in decision.py.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Column, LargeBinary, UniqueConstraint
from sqlmodel import Field, Session, SQLModel, col, select

from compliance.database import UtcDateTime
from crypto.errors import NotFound


class Employer(SQLModel, table=True):
    __tablename__ = "employer"
    employer_id: str = Field(primary_key=True, max_length=64)
    name: str
    country: str
    kind: str = "COMPANY"
    role: str = "PROCESSOR"
    #: Ownership by persons of countries of concern, per cent (28 CFR 202.211).
    coc_ownership_pct: int = 0


class Reader(SQLModel, table=True):
    """A radiologist. The signing key is wrapped under a passphrase only the reader knows (crypto/signing_key.py)."""

    __tablename__ = "reader"
    reader_id: str = Field(primary_key=True, foreign_key="principal.principal_id")
    employer_id: str = Field(foreign_key="employer.employer_id")
    establishment: str
    residence: str
    citizenship: str
    qualification: str = ""
    public_key_pem: str
    wrapped_signing_key: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class Credential(SQLModel, table=True):
    __tablename__ = "credential"
    credential_pk: int | None = Field(default=None, primary_key=True)
    reader_id: str = Field(foreign_key="reader.reader_id", index=True)
    #: LICENCE, SPECIALTY, PRIVILEGE, REGISTRATION, COVER, EXCLUSION_CHECK, as decision.py reads them.
    kind: str
    #: The claim itself, in the words of the facts document (jurisdiction, value, hospital, modalities, territory, register, by_proxy).
    claim: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    status: str = "ACTIVE"
    issued_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime = Field(sa_type=UtcDateTime)
    #: Primary-source verification: when, how and by whom the issuer was asked.
    verified_at: datetime = Field(sa_type=UtcDateTime)
    verification_method: str = ""
    verified_by: str = ""
    recorded_at: datetime = Field(sa_type=UtcDateTime)
    superseded_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class Evidence(SQLModel, table=True):
    """An agreement, assessment, approval or listing; the document itself is kept sealed, here stands its digest."""

    __tablename__ = "evidence"
    evidence_id: str = Field(primary_key=True, max_length=64)
    evidence_type: str = Field(index=True)
    parties: list[str] = Field(sa_column=Column(JSON, nullable=False))
    issued_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime = Field(sa_type=UtcDateTime)
    verified_by: str
    document_digest: str | None = None
    recorded_at: datetime = Field(sa_type=UtcDateTime)
    withdrawn_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class Consent(SQLModel, table=True):
    """A patient's consent of one kind, by pseudonym; the newest version of each kind counts.

    A refusal or withdrawal of one kind stands until that same kind is given again: another kind says nothing of it.
    """

    __tablename__ = "consent"
    __table_args__ = (UniqueConstraint("hospital_id", "patient_pseudonym", "kind", "version"),)
    consent_pk: int | None = Field(default=None, primary_key=True)
    hospital_id: str = Field(foreign_key="hospital.hospital_id")
    patient_pseudonym: str = Field(index=True)
    #: ACTIVE, REFUSED, WITHDRAWN or UNKNOWN.
    status: str
    #: SHARING, SEPARATE, INFORMED or TRANSFER.
    kind: str
    version: int
    given_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    withdrawn_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    #: None: without an end.
    expires_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    #: To whom, for what and until when it extends (compliance/consent_terms.py); None: to every read.
    terms: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    #: Digest of the FHIR resource it was imported from.
    document_digest: str | None = None
    recorded_at: datetime = Field(sa_type=UtcDateTime)


def require_reader(session: Session, reader_id: str) -> Reader:
    """Raises: NotFound."""
    reader = session.get(Reader, reader_id)
    if reader is None:
        raise NotFound(f"no reader {reader_id}")
    return reader


def standing_credentials(session: Session, reader_id: str) -> list[Credential]:
    """What is on file now, expired ones included: the gates name an expired licence, they do not overlook it."""
    return list(
        session.exec(
            select(Credential)
            .where(Credential.reader_id == reader_id, col(Credential.superseded_at).is_(None))
            .order_by(col(Credential.credential_pk))
        ).all()
    )


def standing_evidence(session: Session, parties: set[str] | None) -> list[Evidence]:
    """Evidence none of whose parties stands outside `parties`; all of it for None."""
    rows = session.exec(select(Evidence).where(col(Evidence.withdrawn_at).is_(None)).order_by(col(Evidence.evidence_id))).all()
    return [row for row in rows if parties is None or set(row.parties) <= parties]


def newest_consent(session: Session, hospital_id: str, patient_pseudonym: str, kind: str) -> Consent | None:
    return next((row for row in standing_consents(session, hospital_id, patient_pseudonym) if row.kind == kind), None)


def standing_consents(session: Session, hospital_id: str, patient_pseudonym: str) -> list[Consent]:
    """The newest version of each kind, what was recorded last first."""
    rows = session.exec(
        select(Consent)
        .where(Consent.hospital_id == hospital_id, Consent.patient_pseudonym == patient_pseudonym)
        .order_by(col(Consent.version), col(Consent.consent_pk))
    ).all()
    newest = {row.kind: row for row in rows}
    return sorted(newest.values(), key=lambda row: (row.recorded_at, row.consent_pk or 0), reverse=True)
