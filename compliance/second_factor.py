"""The second factor of a person: a TOTP secret sealed under the key store, and codes that work once.

Five failures lock the name for a quarter of an hour, wherever the code was asked for: at the login, or again before a grave act.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from compliance import audit
from compliance.database import Database
from compliance.principal import Principal
from crypto.errors import NotAllowed
from crypto.keys import KeyStore
from crypto.passwords import totp_verify
from crypto.sealed_box import open_small, seal_small

FAILURES_MAX = 5
LOCK_MINUTES = 15
SECOND_FACTOR_REFUSED = "SECOND_FACTOR_REFUSED"


def seal_totp(keys: KeyStore, principal_id: str, secret: str) -> bytes:
    return seal_small(keys.secret("login"), secret.encode(), f"totp/{principal_id}".encode())


def open_totp(keys: KeyStore, principal: Principal) -> str:
    return open_small(keys.secret("login"), principal.totp_sealed, f"totp/{principal.principal_id}".encode()).decode()


def note_failure(principal: Principal, now: datetime) -> None:
    """One failure more; the fifth locks the name and ends the count."""
    principal.failed_logins += 1
    if principal.failed_logins >= FAILURES_MAX:
        principal.locked_until, principal.failed_logins = now + timedelta(minutes=LOCK_MINUTES), 0


def require_second_factor(database: Database, keys: KeyStore, *, principal_id: str, code: str, purpose: str, now: datetime) -> None:
    """The code was entered again and is right; it is used up. Both outcomes are audit events of their own transaction.

    Raises: NotAllowed(SECOND_FACTOR_REFUSED), the same for a wrong code, a used one and a locked name.
    """
    with database.transaction() as session:
        principal = session.get(Principal, principal_id, with_for_update=True)
        step = None
        if principal is not None and principal.is_active and (principal.locked_until is None or principal.locked_until <= now):
            step = totp_verify(open_totp(keys, principal), code, now, last_step=principal.totp_last_step or None)
            if step is None:
                note_failure(principal, now)
            else:
                principal.totp_last_step, principal.failed_logins = step, 0
            session.add(principal)
        audit.append(
            session,
            audit.AuditEvent(
                event_id=audit.EventId.USER_AUTHENTICATION,
                event_type=audit.EventType.LOGIN,
                action=audit.Action.EXECUTE,
                actor=principal_id,
                outcome=audit.Outcome.SUCCESS if step is not None else audit.Outcome.SERIOUS_FAILURE,
                detail={"again_for": purpose},
            ),
            at=now,
        )
    if step is None:
        raise NotAllowed(SECOND_FACTOR_REFUSED, "the code is wrong or was used before, or the name is locked")
