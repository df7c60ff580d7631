"""The right to see one study in one login, for at most fifteen minutes at a time.

Invariants
- A grant stands on a claim that is running and an ALLOW decided in the transaction that made it; the audit entry stands before the first
  byte can be shown.
- Priors are decided one by one (object kind PRIOR); what is refused is not granted and not listed.
- A grant ends with its time, its claim, its login, or when it is revoked; renewing it decides anew.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import JSON, Column
from sqlmodel import Field, Session, SQLModel, col, select

from compliance import audit
from compliance.counters import lock_counters
from compliance.credential import Reader, require_reader
from compliance.database import Database, UtcDateTime
from compliance.decision_log import decide_and_record
from compliance.facts import gather_facts
from compliance.lawbook import LawBundle
from compliance.obligation import meet_at_disclosure, unmet_for_study
from compliance.principal import LoginSession, is_live
from compliance.study import Study, priors_of, study_by_pk
from crypto.errors import NotAllowed
from crypto.keys import KeyStore
from worklist.claim import require_claim
from worklist.procedure_step import State
from worklist.workitem import ProcedureStep

GRANT_MINUTES = 15
PRIORS_MAX = 10


class ViewGrant(SQLModel, table=True):
    __tablename__ = "view_grant"
    grant_pk: int | None = Field(default=None, primary_key=True)
    procedure_step_uid: str = Field(foreign_key="procedure_step.procedure_step_uid", index=True)
    study_pk: int = Field(foreign_key="study.study_pk", index=True)
    reader_id: str = Field(foreign_key="reader.reader_id", index=True)
    login_digest: str = Field(index=True)
    object_kind: str
    decision_digest: str
    obligations: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    granted_at: datetime = Field(sa_type=UtcDateTime)
    valid_until: datetime = Field(sa_type=UtcDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    revocation_reason: str | None = None


def open_view(
    database: Database,
    law: LawBundle,
    *,
    procedure_step_uid: str,
    reader_id: str,
    login_digest: str,
    now: datetime,
    keys: KeyStore | None = None,
) -> list[ViewGrant]:
    """Grants for the claimed study (first) and each prior that may be shown. `keys` as for `claim`.

    Raises: NotFound; NotAllowed when the claim does not hold, or when the current study may not be shown: then the refusal is on record
    and no grant stands.
    """
    with database.transaction() as session:
        step = require_claim(session, procedure_step_uid, reader_id, login_digest, now=now)
        study, reader = study_by_pk(session, step.study_pk), require_reader(session, reader_id)
        login = session.get(LoginSession, login_digest)
        assert login is not None, "require_claim saw the login"
        if keys is not None:
            lock_counters(session, study.hospital_id)
        current, reasons = _grant(session, law, keys, step, study, reader, login, "CURRENT", now)
        grants = [] if current is None else [current]
        if current is None:
            revoke_grants(session, reason="DECISION_NO_LONGER_ALLOWS", now=now, procedure_step_uid=procedure_step_uid)
        else:
            for prior in priors_of(session, study)[:PRIORS_MAX]:
                grant, _ = _grant(session, law, keys, step, prior, reader, login, "PRIOR", now)
                if grant is not None:
                    grants.append(grant)
        audit.append(
            session,
            audit.AuditEvent(
                event_id=audit.EventId.INSTANCES_ACCESSED,
                event_type=audit.EventType.OPEN,
                action=audit.Action.READ,
                actor=reader_id,
                outcome=audit.Outcome.SUCCESS if grants else audit.Outcome.SERIOUS_FAILURE,
                hospital_id=study.hospital_id,
                study_instance_uid=study.study_instance_uid,
                object_id=procedure_step_uid,
                decision_digest=current.decision_digest if current is not None else None,
                network_address=login.address,
                detail={"priors": max(0, len(grants) - 1), "refused": "" if grants else next(iter(reasons), "DENIED")},
            ),
            at=now,
        )
    if not grants:
        raise NotAllowed(next(iter(reasons), "DENIED"), ", ".join(reasons))
    return grants


def standing_grants(session: Session, *, reader_id: str, login_digest: str, now: datetime) -> list[ViewGrant]:
    """The grants of this login that hold now; the claim and the login behind each are looked at, not remembered."""
    login = session.get(LoginSession, login_digest)
    if login is None or login.principal_id != reader_id or not is_live(login, now):
        return []
    rows = session.exec(
        select(ViewGrant, ProcedureStep)
        .join(ProcedureStep, col(ProcedureStep.procedure_step_uid) == ViewGrant.procedure_step_uid)
        .where(
            ViewGrant.reader_id == reader_id,
            ViewGrant.login_digest == login_digest,
            col(ViewGrant.revoked_at).is_(None),
            col(ViewGrant.valid_until) > now,
            ProcedureStep.state == State.IN_PROGRESS,
            ProcedureStep.claiming_reader_id == reader_id,
            col(ProcedureStep.lease_expires_at) > now,
        )
    ).all()
    newest: dict[int, ViewGrant] = {}
    for grant, _step in rows:
        if grant.study_pk not in newest or grant.valid_until > newest[grant.study_pk].valid_until:
            newest[grant.study_pk] = grant
    return list(newest.values())


def revoke_grants(
    session: Session,
    *,
    reason: str,
    now: datetime,
    procedure_step_uid: str | None = None,
    study_pk: int | None = None,
    reader_id: str | None = None,
) -> int:
    """The grants that match hold no longer; how many they were. The caller's transaction audits why."""
    query = select(ViewGrant).where(col(ViewGrant.revoked_at).is_(None), col(ViewGrant.valid_until) > now)
    for column, value in (
        (ViewGrant.procedure_step_uid, procedure_step_uid),
        (ViewGrant.study_pk, study_pk),
        (ViewGrant.reader_id, reader_id),
    ):
        if value is not None:
            query = query.where(column == value)
    grants = session.exec(query).all()
    for grant in grants:
        grant.revoked_at, grant.revocation_reason = now, reason
        session.add(grant)
    session.flush()
    return len(grants)


def _grant(
    session: Session,
    law: LawBundle,
    keys: KeyStore | None,
    step: ProcedureStep,
    study: Study,
    reader: Reader,
    login: LoginSession,
    object_kind: str,
    now: datetime,
) -> tuple[ViewGrant | None, list[str]]:
    facts = gather_facts(session, action="VIEW", study=study, reader=reader, login=login, at=now, object_kind=object_kind, keys=keys)
    decision = decide_and_record(session, law, facts, study_instance_uid=study.study_instance_uid, actor=reader.reader_id, at=now)
    if decision.outcome != "ALLOW":
        return None, list(decision.reasons)
    unmet = unmet_for_study(decision.obligations, law, study, facts, now)
    if unmet is not None:
        return None, [unmet]
    meet_at_disclosure(session, decision, facts, study, procedure_step_uid=step.procedure_step_uid, keys=keys, at=now)
    assert study.study_pk is not None
    grant = ViewGrant(
        procedure_step_uid=step.procedure_step_uid,
        study_pk=study.study_pk,
        reader_id=reader.reader_id,
        login_digest=step.login_digest or "",
        object_kind=object_kind,
        decision_digest=decision.digest,
        obligations=list(decision.obligations),
        granted_at=now,
        valid_until=min(filter(None, (now + timedelta(minutes=GRANT_MINUTES), decision.valid_until, login.expires_at))),
    )
    session.add(grant)
    session.flush()
    return grant, []
