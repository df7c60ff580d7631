"""Which law is in force, on record: every change of the bundle is a row and an entry in the log, and none goes back.

Invariants
- The newest row is the law in force for every process of the deployment. A bundle follows another only under the rules of
  `refuse_rollback`: same name, not older, no other content under the same version; and nothing unconfirmed follows what was confirmed.
- A bundle that is refused leaves the one in force where it is, and its refusal is an alert in the log.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, Column
from sqlmodel import Field, Session, SQLModel, col, select

from compliance import audit
from compliance.database import UtcDateTime
from compliance.lawbook import LawBundle
from crypto.errors import Conflict

ACTOR = "readgate/law"


class LawInForce(SQLModel, table=True):
    __tablename__ = "law_in_force"
    law_pk: int | None = Field(default=None, primary_key=True)
    bundle: str
    version: int
    #: Digest of the packs, and of packs and confirmations together (what decisions name).
    manifest_digest: str
    law_digest: str
    #: The confirmation set and who signed it; empty where nobody did.
    confirmed_by: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    in_force_from: datetime = Field(sa_type=UtcDateTime)


def law_in_force(session: Session) -> LawInForce | None:
    return session.exec(select(LawInForce).order_by(col(LawInForce.law_pk).desc())).first()


def laws_of_the_past(session: Session) -> list[LawInForce]:
    """Every law that was ever in force, the newest first."""
    return list(session.exec(select(LawInForce).order_by(col(LawInForce.law_pk).desc())).all())


def require_successor(standing: LawInForce | None, law: LawBundle) -> None:
    """Returns if `law` is the one in force or may follow it.

    Raises:
        Conflict: another bundle, an older version, other content under the same version, or no confirmations where there were some.
    """
    if standing is None:
        return
    if law.name != standing.bundle:
        raise Conflict("LAW_OTHER_BUNDLE", f"{standing.bundle} is in force, {law.name} was offered")
    if law.version < standing.version:
        raise Conflict("LAW_ROLLED_BACK", f"version {standing.version} is in force, version {law.version} was offered")
    if law.version == standing.version and law.manifest.digest != standing.manifest_digest:
        raise Conflict("LAW_VERSION_REUSED", f"version {law.version} is in force with other content; raise the version")
    if law.confirmations is None and standing.confirmed_by:
        raise Conflict("LAW_UNSIGNED", "the law in force is confirmed, the one offered is not")


def bring_into_force(session: Session, law: LawBundle, *, actor: str, now: datetime) -> bool:
    """`law` is in force from now on; whether that is a change. Raises: Conflict, as `require_successor`."""
    standing = law_in_force(session)
    require_successor(standing, law)
    if standing is not None and standing.law_digest == law.digest:
        return False
    signers = [f"{role}: {name}" for role, name in law.confirmations.signers] if law.confirmations is not None else []
    session.add(
        LawInForce(
            bundle=law.name,
            version=law.version,
            manifest_digest=law.manifest.digest,
            law_digest=law.digest,
            confirmed_by=signers,
            in_force_from=now,
        )
    )
    session.flush()
    audit.append(
        session,
        audit.AuditEvent(
            event_id=audit.EventId.SECURITY_ALERT,
            event_type=audit.EventType.SECURITY_CONFIGURATION,
            action=audit.Action.UPDATE,
            actor=actor,
            object_id=f"law/{law.digest}",
            detail={
                "bundle": law.name,
                "version": law.version,
                "packs": law.manifest.digest,
                "law": law.digest,
                "confirmed_by": signers,
                "before": standing.law_digest if standing is not None else "",
            },
        ),
        at=now,
    )
    return True


def note_refusal(session: Session, reason: str, *, actor: str, now: datetime) -> None:
    """A bundle was offered and refused; `reason` names file, rule and clause, which identify no person."""
    audit.append(
        session,
        audit.AuditEvent(
            event_id=audit.EventId.SECURITY_ALERT,
            event_type=audit.EventType.REFUSED,
            action=audit.Action.UPDATE,
            actor=actor,
            outcome=audit.Outcome.SERIOUS_FAILURE,
            detail={"law_refused": reason[:500]},
        ),
        at=now,
    )
