"""The audit entry of an administrative change: codes in the open, what a person wrote about it sealed beside them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlmodel import Session

from compliance import audit
from compliance.sealed_note import open_note, seal_note
from crypto.keys import KeyStore

#: In whose name a reason is sealed that concerns no single hospital.
_SITE = "registers"
_PLACE = "register"


def note(
    session: Session,
    at: datetime,
    actor: str,
    event_type: audit.EventType,
    hospital_id: str | None,
    detail: Mapping[str, str | int | bool | list[str]],
    *,
    sealed: bytes | None = None,
) -> None:
    """The change is in the log; `sealed` is what `seal_reason` made of the person's reason."""
    audit.append(
        session,
        audit.AuditEvent(
            event_id=audit.EventId.SECURITY_ALERT,
            event_type=event_type,
            action=audit.Action.UPDATE,
            actor=actor,
            hospital_id=hospital_id,
            detail=dict(detail),
            sealed_body=sealed,
        ),
        at=at,
    )


def note_export(session: Session, at: datetime, actor: str, what: str, count: int, hospital_id: str | None) -> None:
    """That registers left as a document is in the log: what of them, and how much."""
    audit.append(
        session,
        audit.AuditEvent(
            event_id=audit.EventId.EXPORT,
            event_type=audit.EventType.RESTRICTED_FUNCTION,
            action=audit.Action.READ,
            actor=actor,
            hospital_id=hospital_id,
            detail={"act": f"export of {what}", "count": count},
        ),
        at=at,
    )


def seal_reason(keys: KeyStore, hospital_id: str | None, reason: str) -> bytes | None:
    """The reason in the person's words, sealed; None where they gave none."""
    return seal_note(keys, hospital_id or _SITE, _PLACE, reason) if reason else None


def open_reason(keys: KeyStore, entry: audit.AuditEntry) -> str:
    """What the person wrote, "" where they wrote nothing. Raises: IntegrityFailure."""
    return open_note(keys, entry.hospital_id or _SITE, _PLACE, entry.sealed_body)
