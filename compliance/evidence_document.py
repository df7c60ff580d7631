"""The document behind a piece of evidence, kept sealed under the key store; its digest stands in the register and in every decision."""

from __future__ import annotations

import hashlib
from datetime import datetime

from sqlalchemy import Column, LargeBinary
from sqlmodel import Field, Session, SQLModel

from compliance import audit
from compliance.credential import Evidence
from compliance.database import UtcDateTime
from crypto.errors import BadInput, Conflict, IntegrityFailure, NotFound
from crypto.keys import KeyStore
from crypto.sealed_box import open_small, seal_small

DOCUMENT_BYTES_MAX = 16 * 1024 * 1024
_KEY_NAME = "evidence-documents"


class EvidenceDocument(SQLModel, table=True):
    __tablename__ = "evidence_document"
    evidence_id: str = Field(primary_key=True, foreign_key="evidence.evidence_id")
    sealed: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    kept_at: datetime = Field(sa_type=UtcDateTime)


def keep_document(session: Session, keys: KeyStore, evidence_id: str, document: bytes, *, actor: str, now: datetime) -> str:
    """The document is on file, sealed; its SHA-256, which the register shows from now on.

    Raises: NotFound; BadInput; Conflict where another document is on file, or its digest was registered before.
    """
    if not 0 < len(document) <= DOCUMENT_BYTES_MAX:
        raise BadInput(f"a document of evidence has 1 to {DOCUMENT_BYTES_MAX} bytes")
    evidence = session.get(Evidence, evidence_id)
    if evidence is None:
        raise NotFound(f"no evidence {evidence_id}")
    digest = hashlib.sha256(document).hexdigest()
    if (evidence.document_digest or digest).removeprefix("sha256:") != digest:
        raise Conflict("OTHER_DOCUMENT", "the register names another document; a changed document is new evidence")
    if session.get(EvidenceDocument, evidence_id) is not None:
        return digest
    evidence.document_digest = digest
    sealed = seal_small(keys.secret(_KEY_NAME), document, f"evidence/{evidence_id}".encode())
    session.add_all([evidence, EvidenceDocument(evidence_id=evidence_id, sealed=sealed, kept_at=now)])
    session.flush()
    _note(session, evidence_id, audit.Action.CREATE, {"sha256": digest, "bytes": len(document)}, actor, now)
    return digest


def open_document(session: Session, keys: KeyStore, evidence_id: str, *, actor: str, now: datetime) -> bytes:
    """The document as it was handed in; the opening is an audit event. Raises: NotFound, IntegrityFailure."""
    row, evidence = session.get(EvidenceDocument, evidence_id), session.get(Evidence, evidence_id)
    if row is None or evidence is None:
        raise NotFound(f"no document of evidence {evidence_id}")
    document = open_small(keys.secret(_KEY_NAME), row.sealed, f"evidence/{evidence_id}".encode())
    if hashlib.sha256(document).hexdigest() != evidence.document_digest:
        raise IntegrityFailure("the document is not the one the register names")
    _note(session, evidence_id, audit.Action.READ, {"sha256": evidence.document_digest}, actor, now)
    return document


def _note(session: Session, evidence_id: str, action: audit.Action, detail: dict[str, str | int | None], actor: str, now: datetime) -> None:
    audit.append(
        session,
        audit.AuditEvent(
            event_id=audit.EventId.SECURITY_ALERT,
            event_type=audit.EventType.SECURITY_CONFIGURATION,
            action=action,
            actor=actor,
            object_id=f"evidence/{evidence_id}",
            detail=dict(detail),
        ),
        at=now,
    )
