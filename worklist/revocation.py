"""A right that ended takes its claims with it: consent withdrawn, credential lapsed, evidence expired, rule changed.

Run when one of these changes and every few seconds by a worker: each open claim is decided again with the facts of now, and so is every
prior that is shown beside it; a prior whose right ended is closed alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime

from sqlmodel import Session, col, select

from compliance import audit
from compliance.bulkhead import bulkhead
from compliance.credential import require_reader
from compliance.database import Database
from compliance.decision import decide
from compliance.decision_log import decide_and_record
from compliance.facts import gather_facts
from compliance.lawbook import LawBundle
from compliance.obligation import unmet_for_study
from compliance.principal import LoginSession
from compliance.study import Study, study_by_pk
from crypto.keys import KeyStore
from worklist.claim import end_claim
from worklist.procedure_step import State
from worklist.view_grant import ViewGrant, revoke_grants
from worklist.workitem import ProcedureStep, locked_step

ACTOR = "readgate/revoke"
#: A claim, or a prior, about which nothing can be decided is closed: what the law says of it is not known.
RIGHTS_NOT_DECIDABLE = "RIGHTS_NOT_DECIDABLE"
_DUTY = "revoke_ended_rights"
_LEADING = (
    re.compile(r"CONSENT_(WITHDRAWN|REFUSED|EXPIRED)"),
    re.compile(r"(CRED_[A-Z_]+|EVIDENCE)_(EXPIRED|SUSPENDED|LAPSED|REVOKED|EXCLUDED|UNVERIFIED)(:|\Z)"),
    re.compile(r"NO_TRANSFER_MECHANISM"),
    re.compile(r"(?!(CONSENT|EVIDENCE)_MISSING)"),
    re.compile(""),
)


def revoke_ended_rights(
    database: Database, law: LawBundle, *, now: datetime, new_uid: Callable[[], str], keys: KeyStore | None = None
) -> dict[str, str]:
    """Claims whose decision no longer allows are ended, their grants revoked; {procedure_step_uid: reason}.

    Only a changed outcome is recorded: asking every few seconds must not fill the log with the same ALLOW. A claim about which nothing can
    be decided is ended too, with RIGHTS_NOT_DECIDABLE, and keeps no other one from its turn.

    Raises: TemporarilyUnable; Conflict(CLOCK_BACKWARDS).
    """
    ended: dict[str, str] = {}
    with database.reading() as session:
        open_uids = session.exec(select(ProcedureStep.procedure_step_uid).where(ProcedureStep.state == State.IN_PROGRESS)).all()
    for uid in open_uids:
        reason = None
        with bulkhead(_DUTY, procedure_step_uid=uid) as turn:
            reason = _revoke_claim(database, law, keys, uid, now, new_uid)
        if turn.error:
            reason = _end_undecidable(database, uid, now, new_uid)
        if reason is not None:
            ended[uid] = reason
    _revoke_priors(database, law, keys, now)
    return ended


def _revoke_claim(
    database: Database, law: LawBundle, keys: KeyStore | None, uid: str, now: datetime, new_uid: Callable[[], str]
) -> str | None:
    """Why the claim was ended, or None where its right stands."""
    with database.reading() as session:
        if _reason_now(session.get(ProcedureStep, uid), session, law, keys, now) is None:
            return None
    with database.transaction() as session:
        step = locked_step(session, uid)
        reason = _reason_now(step, session, law, keys, now)
        if step.state != State.IN_PROGRESS or reason is None:
            return None
        study = study_by_pk(session, step.study_pk)
        reader = require_reader(session, step.claiming_reader_id or "")
        login = session.get(LoginSession, step.login_digest or "")
        facts = gather_facts(session, action="VIEW", study=study, reader=reader, login=login, at=now, keys=keys)
        decide_and_record(session, law, facts, study_instance_uid=study.study_instance_uid, actor=ACTOR, at=now)
        revoke_grants(session, reason=reason, now=now, procedure_step_uid=uid)
        end_claim(session, step, actor=ACTOR, reason=reason, event_type=audit.EventType.REVOKE, now=now, new_uid=new_uid)
        return reason


def _end_undecidable(database: Database, uid: str, now: datetime, new_uid: Callable[[], str]) -> str | None:
    """The claim is ended without a decision; where even that cannot be done, what it showed is closed and the lease ends it."""
    reason = None
    with bulkhead(_DUTY, procedure_step_uid=uid) as turn, database.transaction() as session:
        step = locked_step(session, uid)
        if step.state == State.IN_PROGRESS:
            revoke_grants(session, reason=RIGHTS_NOT_DECIDABLE, now=now, procedure_step_uid=uid)
            end_claim(session, step, actor=ACTOR, reason=RIGHTS_NOT_DECIDABLE, event_type=audit.EventType.REVOKE, now=now, new_uid=new_uid)
            reason = RIGHTS_NOT_DECIDABLE
    if not turn.error:
        return reason
    with bulkhead(_DUTY, procedure_step_uid=uid), database.transaction() as session:
        if revoke_grants(session, reason=RIGHTS_NOT_DECIDABLE, now=now, procedure_step_uid=uid):
            _audit_revoked(session, uid, RIGHTS_NOT_DECIDABLE, is_prior=False, now=now)
    return None


def _revoke_priors(database: Database, law: LawBundle, keys: KeyStore | None, now: datetime) -> None:
    with database.reading() as session:
        shown = session.exec(
            select(ViewGrant.procedure_step_uid, ViewGrant.study_pk)
            .where(ViewGrant.object_kind == "PRIOR", col(ViewGrant.revoked_at).is_(None), col(ViewGrant.valid_until) > now)
            .distinct()
        ).all()
    for uid, study_pk in shown:
        with bulkhead(_DUTY, procedure_step_uid=uid, study_pk=study_pk) as turn:
            _revoke_prior(database, law, keys, uid, study_pk, now)
        if not turn.error:
            continue
        with bulkhead(_DUTY, procedure_step_uid=uid, study_pk=study_pk), database.transaction() as session:
            if revoke_grants(session, reason=RIGHTS_NOT_DECIDABLE, now=now, procedure_step_uid=uid, study_pk=study_pk):
                _audit_revoked(session, uid, RIGHTS_NOT_DECIDABLE, is_prior=True, now=now)


def _revoke_prior(database: Database, law: LawBundle, keys: KeyStore | None, uid: str, study_pk: int, now: datetime) -> None:
    with database.reading() as session:
        if _reason_now(session.get(ProcedureStep, uid), session, law, keys, now, prior_pk=study_pk) is None:
            return
    with database.transaction() as session:
        step = locked_step(session, uid)
        reason = _reason_now(step, session, law, keys, now, prior_pk=study_pk)
        if reason is None or not revoke_grants(session, reason=reason, now=now, procedure_step_uid=uid, study_pk=study_pk):
            return
        prior = study_by_pk(session, study_pk)
        reader, login = require_reader(session, step.claiming_reader_id or ""), session.get(LoginSession, step.login_digest or "")
        facts = gather_facts(session, action="VIEW", study=prior, reader=reader, login=login, at=now, object_kind="PRIOR", keys=keys)
        decision = decide_and_record(session, law, facts, study_instance_uid=prior.study_instance_uid, actor=ACTOR, at=now)
        _audit_revoked(session, uid, reason, is_prior=True, now=now, study=prior, decision_digest=decision.digest)


def _audit_revoked(
    session: Session,
    uid: str,
    reason: str,
    *,
    is_prior: bool,
    now: datetime,
    study: Study | None = None,
    decision_digest: str | None = None,
) -> None:
    audit.append(
        session,
        audit.AuditEvent(
            event_id=audit.EventId.ORDER_RECORD,
            event_type=audit.EventType.REVOKE,
            action=audit.Action.UPDATE,
            actor=ACTOR,
            hospital_id=study.hospital_id if study is not None else None,
            study_instance_uid=study.study_instance_uid if study is not None else None,
            object_id=uid,
            decision_digest=decision_digest,
            detail={"reason": reason, "prior": is_prior},
        ),
        at=now,
    )


def _reason_now(
    step: ProcedureStep | None, session: Session, law: LawBundle, keys: KeyStore | None, now: datetime, *, prior_pk: int | None = None
) -> str | None:
    """The first reason why the holder may no longer see the study, or this prior of it; None where they may."""
    if step is None or step.claiming_reader_id is None:
        return None
    study, reader = study_by_pk(session, prior_pk or step.study_pk), require_reader(session, step.claiming_reader_id)
    login = session.get(LoginSession, step.login_digest or "")
    kind = "CURRENT" if prior_pk is None else "PRIOR"
    facts = gather_facts(session, action="VIEW", study=study, reader=reader, login=login, at=now, object_kind=kind, keys=keys)
    decision = decide(facts, law)
    if decision.outcome == "ALLOW":
        return unmet_for_study(decision.obligations, law, study, facts, now)
    stale_login_only = all(reason.startswith("FACT_STALE:login") for reason in decision.reasons)
    # An idle reader's address is simply not observed; the lease and the session end that claim, not the law.
    return None if stale_login_only else leading_reason(decision.reasons)


def leading_reason(reasons: Sequence[str]) -> str:
    """Of the reasons why a right ended the one to tell: what ended, before what would have done instead and is not on file either."""
    return min(reasons, key=lambda reason: next(rank for rank, form in enumerate(_LEADING) if form.match(reason)), default="DENIED")
