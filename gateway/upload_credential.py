"""Who may upload by STOW-RS: a program of a hospital, by a bearer token that is shown once and kept as its digest.

A token, and not the certificate of DICOM TLS: HTTP is often terminated in front of us, where a certificate no longer reaches. It holds 256
random bits, so its plain SHA-256 is as good as a password hash, and comparing digests in an index tells nothing about a token.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime

from sqlmodel import Session, col, select

from compliance import audit
from compliance.database import Database
from compliance.hospital import require_hospital
from crypto.errors import BadInput, NotAllowed, NotFound
from gateway.intake_rows import UploadCredential

TOKEN_PREFIX = "rgu_"  # noqa: S105
UNKNOWN_TOKEN = "UPLOAD_TOKEN"  # noqa: S105
_NAME_MAX = 64


def create_upload_credential(database: Database, hospital_id: str, name: str, *, actor: str, now: datetime) -> tuple[str, str]:
    """(credential id, token): the token stands nowhere else. Raises: NotFound (no such hospital), BadInput (no name)."""
    if not 1 <= len(name.strip()) <= _NAME_MAX:
        raise BadInput(f"a credential has a name of 1 to {_NAME_MAX} characters")
    credential_id, token = secrets.token_hex(8), TOKEN_PREFIX + secrets.token_urlsafe(32)
    with database.transaction() as session:
        require_hospital(session, hospital_id)
        row = UploadCredential(
            credential_id=credential_id, hospital_id=hospital_id, name=name.strip(), token_digest=_digest(token), created_at=now
        )
        session.add(row)
        _note(session, row, audit.Action.CREATE, actor, now)
    return credential_id, token


def revoke_upload_credential(database: Database, credential_id: str, *, actor: str, now: datetime) -> None:
    """The token opens nothing any more; said twice, it is revoked once. Raises: NotFound."""
    with database.transaction() as session:
        row = session.get(UploadCredential, credential_id)
        if row is None:
            raise NotFound(f"no upload credential {credential_id}")
        if row.revoked_at is None:
            row.revoked_at = now
            session.add(row)
            _note(session, row, audit.Action.DELETE, actor, now)


def upload_credentials(session: Session, hospital_id: str) -> list[UploadCredential]:
    """Those that stand, oldest first."""
    return list(
        session.exec(
            select(UploadCredential)
            .where(UploadCredential.hospital_id == hospital_id, col(UploadCredential.revoked_at).is_(None))
            .order_by(col(UploadCredential.created_at))
        ).all()
    )


def authorised_upload(database: Database, authorization: str) -> UploadCredential:
    """The credential whose token this Authorization header (RFC 6750 2.1) carries. Raises: NotAllowed(UPLOAD_TOKEN)."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.startswith(TOKEN_PREFIX) or not token.isascii():
        raise NotAllowed(UNKNOWN_TOKEN, "uploading needs the hospital's token")
    with database.reading() as session:
        row = session.exec(select(UploadCredential).where(UploadCredential.token_digest == _digest(token))).first()
    if row is None or row.revoked_at is not None:
        raise NotAllowed(UNKNOWN_TOKEN, "uploading needs the hospital's token")
    return row


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("ascii")).hexdigest()


def _note(session: Session, row: UploadCredential, action: audit.Action, actor: str, now: datetime) -> None:
    audit.append(
        session,
        audit.AuditEvent(
            event_id=audit.EventId.SECURITY_ALERT,
            event_type=audit.EventType.USER_SECURITY_CHANGED,
            action=action,
            actor=actor,
            hospital_id=row.hospital_id,
            detail={"credential": row.credential_id, "kind": "upload"},
        ),
        at=now,
    )
