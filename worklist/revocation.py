"""A right that ended takes its claims with it: consent withdrawn, credential lapsed, evidence expired, rule changed.

Run when one of these changes and every few seconds by a worker: each open claim is decided again with the facts of now.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from sqlmodel import Session, select

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
from worklist.view_grant import revoke_grants
from worklist.workitem import ProcedureStep, locked_step


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
    return ended


def _reason_now(step: ProcedureStep | None, session: Session, law: LawBundle, keys: KeyStore | None, now: datetime) -> str | None:
    """The first reason why the holder may no longer see the study, or None."""
    if step is None or step.claiming_reader_id is None:
        return None
    study, reader = study_by_pk(session, step.study_pk), require_reader(session, step.claiming_reader_id)
    login = session.get(LoginSession, step.login_digest or "")
    facts = gather_facts(session, action="VIEW", study=study, reader=reader, login=login, at=now, keys=keys)
    decision = decide(facts, law)
    if decision.outcome == "ALLOW":
        return unmet_for_study(decision.obligations, law, study, facts, now)
    stale_login_only = all(reason.startswith("FACT_STALE:login") for reason in decision.reasons)
    # An idle reader's address is simply not observed; the lease and the session end that claim, not the law.
    return None if stale_login_only else next(iter(decision.reasons), "DENIED")
