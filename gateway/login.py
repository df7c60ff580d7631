"""Logging in, and who is behind a request.

1. Password and a six-digit code, both checked whatever the first one said, so that time and answer tell nothing about which failed.
2. A code works once; five failures from one place lock the name for a quarter of an hour there. A place is an enrolled device, or an
   address without one: nobody locks a person out of their own device, or out of other places.
3. The device is known (its cookie), or enrols itself in a free slot an operator granted; otherwise the login is not attested and the law
   refuses what needs attestation.
4. The session's token is random, kept as a digest, bound to a CSRF token, ended by time, idleness or logout. Each is audited.

A request's address is looked at every time; a new address is a new observation of where the reader sits.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlmodel import Session, col, select

from compliance import audit
from compliance.principal import (
    SESSION_HOURS_MAX,
    EnrolledDevice,
    LoginSession,
    Principal,
    country_of_address,
    live_session,
    require_principal,
    token_digest,
)
from compliance.second_factor import FAILURES_MAX, LOCK_MINUTES, open_totp
from crypto.errors import NotAllowed
from crypto.passwords import totp_verify, verify_password
from gateway.application import Application

LOGIN_REFUSED = "LOGIN_REFUSED"
#: How old an observation may grow before a request renews it.
_OBSERVE_SECONDS = 20


@dataclass(frozen=True)
class LoggedIn:
    """A login that was just made: the tokens exist only in the cookies."""

    session_token: str
    device_token: str
    principal_id: str
    role: str


@dataclass(frozen=True)
class Visitor:
    """Who is behind a request."""

    principal: Principal
    login: LoginSession

    @property
    def principal_id(self) -> str:
        return self.principal.principal_id

    @property
    def login_digest(self) -> str:
        return self.login.token_digest


def log_in(
    app: Application, *, principal_id: str, password: str, code: str, declared_country: str, address: str, device_token: str | None
) -> LoggedIn:
    """See the module. Raises: NotAllowed(LOGIN_REFUSED), the same for every cause."""
    now = app.now()
    with app.database.reading() as session:
        found = session.get(Principal, principal_id)
        source = _source_of(session, found, address, device_token)
        is_locked = found is not None and _is_locked(session, found.principal_id, source, now)
    # Argon2 takes its time outside of any transaction.
    with app.login_gate.derivation():
        is_password_right = verify_password(password, found.password_hash if found is not None else None)
    unknown = app.login_gate.count_unknown(now) if found is None else None
    if found is None and unknown is None:
        raise NotAllowed(LOGIN_REFUSED)
    logged_in: LoggedIn | None = None
    with app.database.transaction() as session:
        principal = session.get(Principal, principal_id, with_for_update=True)
        step = None
        if principal is not None:
            step = totp_verify(open_totp(app.keys, principal), code, now, last_step=principal.totp_last_step or None)
        is_free = principal is not None and (principal.locked_until is None or principal.locked_until <= now)
        is_open = principal is not None and principal.is_active and is_free and not is_locked
        if principal is not None and is_open and is_password_right and step is not None:
            principal.totp_last_step, principal.failed_logins, principal.locked_until = step, 0, None
            session.add(principal)
            logged_in = _begin_session(session, principal, declared_country, address, device_token, now)
        audit.append(
            session,
            audit.AuditEvent(
                event_id=audit.EventId.USER_AUTHENTICATION,
                event_type=audit.EventType.LOGIN,
                action=audit.Action.EXECUTE,
                actor=principal.principal_id if principal is not None else "unknown",
                outcome=audit.Outcome.SUCCESS if logged_in is not None else audit.Outcome.SERIOUS_FAILURE,
                object_id=source,
                network_address=address,
                detail={"declared_country": declared_country, "attempts": unknown or 1, "locked": is_locked},
            ),
            at=now,
        )
    if logged_in is None:
        raise NotAllowed(LOGIN_REFUSED, "name, password or code is wrong, or the account is locked")
    return logged_in


def _source_of(session: Session, principal: Principal | None, address: str, device_token: str | None) -> str:
    """Where an attempt comes from, as failures are counted: the principal's own enrolled device, else the address."""
    device = session.get(EnrolledDevice, token_digest(device_token)) if device_token else None
    if device is not None and principal is not None and device.principal_id == principal.principal_id and device.revoked_at is None:
        return f"device/{device.token_digest[:16]}"
    return f"address/{address}"


def _is_locked(session: Session, principal_id: str, source: str, now: datetime) -> bool:
    """Whether the last attempts of the last quarter of an hour under this name from this source all failed, and are too many."""
    newest = session.exec(
        select(audit.AuditEntry.outcome)
        .where(
            audit.AuditEntry.actor == principal_id,
            audit.AuditEntry.event_type == audit.EventType.LOGIN,
            audit.AuditEntry.object_id == source,
            col(audit.AuditEntry.recorded_at) > now - timedelta(minutes=LOCK_MINUTES),
        )
        .order_by(col(audit.AuditEntry.entry_index).desc())
        .limit(FAILURES_MAX)
    ).all()
    return len(newest) == FAILURES_MAX and all(outcome == audit.Outcome.SERIOUS_FAILURE for outcome in newest)


def visitor_of(app: Application, token: str, address: str, *, active_at: datetime | None = None) -> Visitor:
    """Who holds this session token, with the place observed anew where the observation grew old or the address changed.

    `active_at` is when the person did something, where this request says so; without it the request keeps no login from growing idle.

    Raises: NotAllowed(SESSION_ENDED).
    """
    now = app.now()
    with app.database.reading() as session:
        login = live_session(session, token, now=now)
        principal = require_principal(session, login.principal_id)
    if not principal.is_active:
        raise NotAllowed("SESSION_ENDED")
    is_observed = login.address == address and (now - login.observed_at).total_seconds() < _OBSERVE_SECONDS
    is_moved = active_at is not None and (active_at - login.active_at).total_seconds() >= _OBSERVE_SECONDS
    if is_observed and not is_moved:
        return Visitor(principal, login)
    with app.database.transaction() as session:
        login = live_session(session, token, now=now)
        login.address, login.observed_at = address, now
        if active_at is not None:
            login.active_at = max(login.active_at, min(active_at, now))
        login.ip_country, login.ip_kind = country_of_address(session, login.principal_id, address)
        session.add(login)
    return Visitor(principal, login)


def require_csrf(visitor: Visitor, shown: str | None) -> None:
    """Raises: NotAllowed(CSRF)."""
    if not shown or not hmac.compare_digest(visitor.login.csrf_token, shown):
        raise NotAllowed("CSRF", "the form was not made by this session; load the page again")


def log_out(app: Application, visitor: Visitor) -> None:
    """The session is over; its claims return to the list with the next round of the worker."""
    now = app.now()
    with app.database.transaction() as session:
        login = session.get(LoginSession, visitor.login_digest)
        if login is not None and login.ended_at is None:
            login.ended_at = now
            session.add(login)
            audit.append(
                session,
                audit.AuditEvent(
                    event_id=audit.EventId.USER_AUTHENTICATION,
                    event_type=audit.EventType.LOGOUT,
                    action=audit.Action.EXECUTE,
                    actor=visitor.principal_id,
                    network_address=login.address,
                ),
                at=now,
            )


def _begin_session(
    session: Session, principal: Principal, declared_country: str, address: str, device_token: str | None, now: datetime
) -> LoggedIn:
    device, device_token = _device(session, principal, device_token, now)
    country, kind = country_of_address(session, principal.principal_id, address)
    # One login at a time: a second one ends the first (threat T11, shared credentials).
    for other in session.exec(
        select(LoginSession).where(LoginSession.principal_id == principal.principal_id, col(LoginSession.ended_at).is_(None))
    ).all():
        other.ended_at = now
        session.add(other)
    token = secrets.token_urlsafe(32)
    session.add(
        LoginSession(
            token_digest=token_digest(token),
            principal_id=principal.principal_id,
            csrf_token=secrets.token_urlsafe(24),
            started_at=now,
            expires_at=now + timedelta(hours=SESSION_HOURS_MAX),
            observed_at=now,
            active_at=now,
            is_mfa=True,
            is_device_attested=device is not None,
            declared_country=declared_country,
            address=address,
            ip_country=country,
            ip_kind=kind,
        )
    )
    session.flush()
    return LoggedIn(token, device_token, principal.principal_id, principal.role)


def _device(session: Session, principal: Principal, device_token: str | None, now: datetime) -> tuple[EnrolledDevice | None, str]:
    """The principal's device behind the cookie, or a new one in a free slot; None where there is neither."""
    if device_token:
        known = session.get(EnrolledDevice, token_digest(device_token))
        if known is not None and known.principal_id == principal.principal_id and known.revoked_at is None:
            return known, device_token
    if principal.device_slots <= 0:
        return None, ""
    principal.device_slots -= 1
    token = secrets.token_urlsafe(32)
    device = EnrolledDevice(token_digest=token_digest(token), principal_id=principal.principal_id, enrolled_at=now)
    session.add(device)
    audit.append(
        session,
        audit.AuditEvent(
            event_id=audit.EventId.SECURITY_ALERT,
            event_type=audit.EventType.USER_SECURITY_CHANGED,
            action=audit.Action.CREATE,
            actor=principal.principal_id,
            detail={"device_enrolled": True, "slots_left": principal.device_slots},
        ),
        at=now,
    )
    return device, token
