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
from compliance.credential import require_reader
from compliance.database import Database
from compliance.decision import decide
from compliance.decision_log import decide_and_record
from compliance.facts import gather_facts
from compliance.lawbook import LawBundle
from compliance.obligation import unmet_for_study
from compliance.principal import LoginSession
from compliance.study import study_by_pk
from crypto.keys import KeyStore
from worklist.claim import end_claim
from worklist.procedure_step import State
from worklist.view_grant import ViewGrant, revoke_grants
from worklist.workitem import ProcedureStep, locked_step

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

    Only a changed outcome is recorded: asking every few seconds must not fill the log with the same ALLOW.
    """
    ended: dict[str, str] = {}
    with database.reading() as session:
        open_uids = session.exec(select(ProcedureStep.procedure_step_uid).where(ProcedureStep.state == State.IN_PROGRESS)).all()
        suspects = [uid for uid in open_uids if _reason_now(session.get(ProcedureStep, uid), session, law, keys, now)]
    for uid in suspects:
        with database.transaction() as session:
            step = locked_step(session, uid)
            reason = _reason_now(step, session, law, keys, now)
            if step.state != State.IN_PROGRESS or reason is None:
                continue
            study = study_by_pk(session, step.study_pk)
            reader = require_reader(session, step.claiming_reader_id or "")
            login = session.get(LoginSession, step.login_digest or "")
            facts = gather_facts(session, action="VIEW", study=study, reader=reader, login=login, at=now, keys=keys)
            decide_and_record(session, law, facts, study_instance_uid=study.study_instance_uid, actor="readgate/revoke", at=now)
            revoke_grants(session, reason=reason, now=now, procedure_step_uid=uid)
            end_claim(session, step, actor="readgate/revoke", reason=reason, event_type=audit.EventType.REVOKE, now=now, new_uid=new_uid)
            ended[uid] = reason
    _revoke_priors(database, law, keys, now)
    return ended


def _revoke_priors(database: Database, law: LawBundle, keys: KeyStore | None, now: datetime) -> None:
    with database.reading() as session:
        shown = session.exec(
            select(ViewGrant.procedure_step_uid, ViewGrant.study_pk)
            .where(ViewGrant.object_kind == "PRIOR", col(ViewGrant.revoked_at).is_(None), col(ViewGrant.valid_until) > now)
            .distinct()
        ).all()
        suspects = [
            (uid, study_pk)
            for uid, study_pk in shown
            if _reason_now(session.get(ProcedureStep, uid), session, law, keys, now, prior_pk=study_pk)
        ]
    for uid, study_pk in suspects:
        with database.transaction() as session:
            step = locked_step(session, uid)
            reason = _reason_now(step, session, law, keys, now, prior_pk=study_pk)
            if reason is None or not revoke_grants(session, reason=reason, now=now, procedure_step_uid=uid, study_pk=study_pk):
                continue
            prior = study_by_pk(session, study_pk)
            reader, login = require_reader(session, step.claiming_reader_id or ""), session.get(LoginSession, step.login_digest or "")
            facts = gather_facts(session, action="VIEW", study=prior, reader=reader, login=login, at=now, object_kind="PRIOR", keys=keys)
            decision = decide_and_record(session, law, facts, study_instance_uid=prior.study_instance_uid, actor="readgate/revoke", at=now)
            audit.append(
                session,
                audit.AuditEvent(
                    event_id=audit.EventId.ORDER_RECORD,
                    event_type=audit.EventType.REVOKE,
                    action=audit.Action.UPDATE,
                    actor="readgate/revoke",
                    hospital_id=prior.hospital_id,
                    study_instance_uid=prior.study_instance_uid,
                    object_id=uid,
                    decision_digest=decision.digest,
                    detail={"reason": reason, "prior": True},
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
