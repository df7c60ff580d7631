"""What a program may do with the registers over HTTP: a bearer token with scopes, shown once and kept as its digest.

- Consents and studies are a hospital's: such a token is bound to one hospital and sees no other.
- Credentials and evidence are the deployment's: such a token is bound to no hospital, and so can touch no consent.
- No token opens the document behind evidence: that is for the privacy officer in person.
- Every token ends; nobody has to remember to revoke it.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import JSON, Column
from sqlmodel import Field, Session, SQLModel, col, select

from compliance import audit
from compliance.database import Database, UtcDateTime
from compliance.hospital import require_hospital
from crypto.errors import BadInput, NotAllowed, NotFound
from gateway.bearer_token import digest_of_header, name_of_program, new_token, token_digest

TOKEN_PREFIX = "rgr_"  # noqa: S105
UNKNOWN_TOKEN = "REGISTER_TOKEN"  # noqa: S105
OF_A_HOSPITAL = ("consents:read", "consents:write", "studies:read")
OF_THE_DEPLOYMENT = ("credentials:read", "credentials:write", "evidence:read", "evidence:write")
SCOPES = (*OF_A_HOSPITAL, *OF_THE_DEPLOYMENT)
DAYS_MAX = 366


class RegisterToken(SQLModel, table=True):
    """A program that may read or change registers. The token itself is in its owner's hands alone."""

    __tablename__ = "register_token"
    token_id: str = Field(primary_key=True, max_length=32)
    name: str
    hospital_id: str | None = Field(default=None, foreign_key="hospital.hospital_id", index=True)
    scopes: list[str] = Field(sa_column=Column(JSON, nullable=False))
    token_digest: str = Field(unique=True, max_length=64)
    created_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime = Field(sa_type=UtcDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)

    @property
    def actor(self) -> str:
        """As the audit log names the program."""
        return f"token/{self.token_id}"


def create_register_token(
    database: Database, name: str, scopes: Collection[str], *, hospital_id: str | None, days: int, actor: str, now: datetime
) -> tuple[str, str]:
    """(token id, token): the token stands nowhere else.

    Raises: NotFound (no such hospital); BadInput for a name, scopes or a time that no token may have.
    """
    name = name_of_program(name)
    if not 1 <= days <= DAYS_MAX:
        raise BadInput(f"a token holds 1 to {DAYS_MAX} days")
    wanted = sorted(set(scopes))
    if not wanted or not set(wanted) <= set(SCOPES):
        raise BadInput(f"a token has scopes among {', '.join(SCOPES)}")
    allowed = OF_THE_DEPLOYMENT if hospital_id is None else OF_A_HOSPITAL
    if not set(wanted) <= set(allowed):
        raise BadInput(
            f"{', '.join(OF_A_HOSPITAL)} are for a token of one hospital, {', '.join(OF_THE_DEPLOYMENT)} for a token without: make two"
        )
    token_id, token = new_token(TOKEN_PREFIX)
    with database.transaction() as session:
        if hospital_id is not None:
            require_hospital(session, hospital_id)
        row = RegisterToken(
            token_id=token_id,
            name=name,
            hospital_id=hospital_id,
            scopes=wanted,
            token_digest=token_digest(token),
            created_at=now,
            expires_at=now + timedelta(days=days),
        )
        session.add(row)
        _note(session, row, audit.Action.CREATE, actor, now)
    return token_id, token


def revoke_register_token(database: Database, token_id: str, *, actor: str, now: datetime) -> None:
    """The token opens nothing any more; said twice, it is revoked once. Raises: NotFound."""
    with database.transaction() as session:
        row = session.get(RegisterToken, token_id)
        if row is None:
            raise NotFound(f"no token {token_id}")
        if row.revoked_at is None:
            row.revoked_at = now
            session.add(row)
            _note(session, row, audit.Action.DELETE, actor, now)


def register_tokens(session: Session) -> list[RegisterToken]:
    """Those that were not revoked, oldest first."""
    rows = session.exec(select(RegisterToken).where(col(RegisterToken.revoked_at).is_(None)).order_by(col(RegisterToken.created_at)))
    return list(rows.all())


def program_of(database: Database, authorization: str, *, now: datetime) -> RegisterToken:
    """The program whose token this Authorization header (RFC 6750 2.1) carries. Raises: NotAllowed(REGISTER_TOKEN)."""
    digest = digest_of_header(authorization, TOKEN_PREFIX)
    with database.reading() as session:
        row = None if digest is None else session.exec(select(RegisterToken).where(RegisterToken.token_digest == digest)).first()
    if row is None or row.revoked_at is not None or row.expires_at <= now:
        raise NotAllowed(UNKNOWN_TOKEN, "this needs a token of the registers")
    return row


def require_scope(program: RegisterToken, scope: str) -> RegisterToken:
    """Raises: NotAllowed(SCOPE)."""
    if scope not in program.scopes:
        raise NotAllowed("SCOPE", f"the token has no scope {scope}")
    return program


def _note(session: Session, row: RegisterToken, action: audit.Action, actor: str, now: datetime) -> None:
    audit.append(
        session,
        audit.AuditEvent(
            event_id=audit.EventId.SECURITY_ALERT,
            event_type=audit.EventType.USER_SECURITY_CHANGED,
            action=action,
            actor=actor,
            hospital_id=row.hospital_id,
            object_id=row.actor,
            detail={"token": row.token_id, "scopes": row.scopes},
        ),
        at=now,
    )
