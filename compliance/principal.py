"""Who may log in: readers, hospital staff, privacy officers, operators; their login sessions and enrolled devices.

Invariants
- Only digests of session and device tokens are stored; a stolen database opens no session.
- A login session carries what gate G6 asks for: second factor, device, declared and observed country.
- One role per principal; hospital staff belong to exactly one hospital and see no other.
"""

from __future__ import annotations

import hashlib
import ipaddress
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import Column, LargeBinary
from sqlmodel import Field, Session, SQLModel, col, select

from compliance.database import UtcDateTime
from crypto.errors import NotAllowed, NotFound

SESSION_HOURS_MAX = 8
SESSION_IDLE_MINUTES_MAX = 30


class Role(StrEnum):
    READER = "READER"
    HOSPITAL_STAFF = "HOSPITAL_STAFF"
    PRIVACY_OFFICER = "PRIVACY_OFFICER"
    OPERATOR = "OPERATOR"


class Principal(SQLModel, table=True):
    __tablename__ = "principal"
    principal_id: str = Field(primary_key=True, max_length=64)
    role: str
    display_name: str
    hospital_id: str | None = Field(default=None, foreign_key="hospital.hospital_id")
    password_hash: str
    #: TOTP secret sealed under the key store's "login" secret.
    totp_sealed: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    #: The last TOTP time step that was used: a code works once.
    totp_last_step: int = 0
    is_active: bool = True
    failed_logins: int = 0
    locked_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    #: How many devices may still enrol themselves at a login with both factors.
    device_slots: int = 2
    created_at: datetime = Field(sa_type=UtcDateTime)


class RegisteredNetwork(SQLModel, table=True):
    """A network an operator vouches for: whoever comes from it sits in that country."""

    __tablename__ = "registered_network"
    network_pk: int | None = Field(default=None, primary_key=True)
    principal_id: str | None = Field(default=None, foreign_key="principal.principal_id", index=True)
    cidr: str
    country: str
    #: RESIDENTIAL, BUSINESS or HOSTING, as gate G6 reads it.
    kind: str = "BUSINESS"


class EnrolledDevice(SQLModel, table=True):
    __tablename__ = "enrolled_device"
    token_digest: str = Field(primary_key=True)
    principal_id: str = Field(foreign_key="principal.principal_id", index=True)
    enrolled_at: datetime = Field(sa_type=UtcDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class LoginSession(SQLModel, table=True):
    __tablename__ = "login_session"
    token_digest: str = Field(primary_key=True)
    principal_id: str = Field(foreign_key="principal.principal_id", index=True)
    csrf_token: str
    started_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime = Field(sa_type=UtcDateTime)
    #: When the address and its country were last looked at: every request does.
    observed_at: datetime = Field(sa_type=UtcDateTime)
    #: When the person last did something: a page that merely stays open does not move it.
    active_at: datetime = Field(sa_type=UtcDateTime)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    is_mfa: bool
    is_device_attested: bool
    declared_country: str
    address: str
    ip_country: str | None = None
    ip_kind: str | None = None


def token_digest(token: str) -> str:
    """What is stored of a session or device token. The token has 256 random bits, so a plain hash is enough."""
    return hashlib.sha256(token.encode()).hexdigest()


def require_principal(session: Session, principal_id: str) -> Principal:
    """Raises: NotFound."""
    principal = session.get(Principal, principal_id)
    if principal is None:
        raise NotFound(f"no principal {principal_id}")
    return principal


def live_session(session: Session, token: str, *, now: datetime) -> LoginSession:
    """The login session of `token`, neither ended, expired nor idle too long.

    Raises: NotAllowed(SESSION_ENDED).
    """
    found = session.get(LoginSession, token_digest(token))
    if found is None or not is_live(found, now):
        raise NotAllowed("SESSION_ENDED")
    return found


def is_live(login: LoginSession, now: datetime) -> bool:
    idle = now - login.active_at > timedelta(minutes=SESSION_IDLE_MINUTES_MAX)
    return login.ended_at is None and now < login.expires_at and not idle


def country_of_address(session: Session, principal_id: str, address: str) -> tuple[str | None, str | None]:
    """(country, kind of network) an operator vouches for at `address`, the principal's own first; (None, None) if nobody does."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return None, None
    rows = session.exec(
        select(RegisteredNetwork).where(
            (col(RegisteredNetwork.principal_id) == principal_id) | (col(RegisteredNetwork.principal_id).is_(None))
        )
    ).all()
    known = [(row, network) for row in rows if (network := _network(row.cidr)) is not None]
    for row, network in sorted(known, key=lambda one: (one[0].principal_id is None, -one[1].prefixlen)):
        if ip in network:
            return row.country, row.kind
    return None, None


def _network(cidr: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """None for a row that names no network: it vouches for nothing, and keeps nobody out."""
    try:
        return ipaddress.ip_network(cidr)
    except ValueError:
        return None
