"""Who may upload by STOW-RS: a program of a hospital, by a bearer token that is shown once and kept as its digest."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Session, col, select

from compliance import audit
from compliance.database import Database
from compliance.hospital import require_hospital
from crypto.errors import NotAllowed, NotFound
from gateway.bearer_token import digest_of_header, name_of_program, new_token, token_digest
from gateway.intake_rows import UploadCredential

TOKEN_PREFIX = "rgu_"  # noqa: S105
UNKNOWN_TOKEN = "UPLOAD_TOKEN"  # noqa: S105


def create_upload_credential(database: Database, hospital_id: str, name: str, *, actor: str, now: datetime) -> tuple[str, str]:
    """(credential id, token): the token stands nowhere else. Raises: NotFound (no such hospital), BadInput (no name)."""
    name = name_of_program(name)
    credential_id, token = new_token(TOKEN_PREFIX)
    with database.transaction() as session:
        require_hospital(session, hospital_id)
        row = UploadCredential(
            credential_id=credential_id, hospital_id=hospital_id, name=name, token_digest=token_digest(token), created_at=now
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
    digest = digest_of_header(authorization, TOKEN_PREFIX)
    with database.reading() as session:
        row = None if digest is None else session.exec(select(UploadCredential).where(UploadCredential.token_digest == digest)).first()
    if row is None or row.revoked_at is not None:
        raise NotAllowed(UNKNOWN_TOKEN, "uploading needs the hospital's token")
    return row


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
