"""A reader's own procedure step behind a page: whose it is, whether it is held, what may be seen of it, and why it ended.

Who signed a report may look at it again only while the law lets them: each look is decided and audited before a key is opened.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import Depends

from compliance import audit
from compliance.counters import lock_counters
from compliance.credential import require_reader
from compliance.decision_log import decide_and_record
from compliance.facts import gather_facts
from compliance.obligation import meet_at_disclosure, unmet_for_study
from compliance.principal import LoginSession
from compliance.study import study_by_pk
from crypto.canonical import keyed_uid
from crypto.errors import Conflict, NotAllowed, NotFound, ReadgateError
from gateway.application import Application
from gateway.login import Visitor
from gateway.request_context import reader_of
from worklist.procedure_step import State
from worklist.view_grant import ViewGrant, open_view, standing_grants
from worklist.workitem import ProcedureStep, require_step

ReaderVisitor = Annotated[Visitor, Depends(reader_of)]
#: A grant that ends sooner than this is asked about again now.
_GRANT_SLACK = timedelta(seconds=30)


def transaction_uid_of(app: Application, procedure_step_uid: str, visitor: Visitor) -> str:
    """The Transaction UID of claims made on pages: known to this login's requests and to nobody who only sees the rows."""
    return keyed_uid(app.keys.secret("transaction"), f"{procedure_step_uid}/{visitor.login_digest}")


def own_step(app: Application, reader: Visitor, procedure_step_uid: str) -> ProcedureStep:
    """Raises: NotFound, also for a step that is another reader's."""
    with app.database.reading() as session:
        step = require_step(session, procedure_step_uid)
    if step.claiming_reader_id != reader.principal_id:
        raise NotFound("no such procedure step")
    return step


def is_held(step: ProcedureStep, reader: Visitor, now: datetime) -> bool:
    is_running = step.lease_expires_at is not None and now < step.lease_expires_at
    return step.state == State.IN_PROGRESS and step.login_digest == reader.login_digest and is_running


def why_ended(app: Application, reader: Visitor, procedure_step_uid: str, error: NotAllowed) -> ReadgateError:
    """What a page is told whose claim is gone: a right that was revoked by its reason (403), a claim that ended as a conflict (409)."""
    if error.reason_code != "NOT_YOUR_CLAIM":
        return error
    reason = (own_step(app, reader, procedure_step_uid).cancellation_reason or "NOT_YOUR_CLAIM").partition(": ")[0]
    is_end_of_claim = reason in ("NOT_YOUR_CLAIM", "LEASE_EXPIRED", "RELEASED_BY_READER")
    return Conflict(reason) if is_end_of_claim else NotAllowed(reason)


def grants_of_step(app: Application, reader: Visitor, procedure_step_uid: str) -> list[ViewGrant]:
    """The standing grants of this claim, current study first; asked anew where there is none for long. Raises: NotAllowed."""
    now = app.now()
    with app.database.reading() as session:
        standing = [
            grant
            for grant in standing_grants(session, reader_id=reader.principal_id, login_digest=reader.login_digest, now=now)
            if grant.procedure_step_uid == procedure_step_uid
        ]
    if not any(grant.object_kind == "CURRENT" and grant.valid_until > now + _GRANT_SLACK for grant in standing):
        standing = open_view(
            app.database,
            app.law,
            procedure_step_uid=procedure_step_uid,
            reader_id=reader.principal_id,
            login_digest=reader.login_digest,
            now=now,
            keys=app.keys,
        )
    return sorted(standing, key=lambda grant: grant.object_kind != "CURRENT")


def look_back(app: Application, reader: Visitor, step: ProcedureStep) -> list[str]:
    """Why nothing of a completed step may be shown, [] when it may: the law is asked, and the look is on record whatever it says."""
    now = app.now()
    with app.database.transaction() as session:
        study, login = study_by_pk(session, step.study_pk), session.get(LoginSession, reader.login_digest)
        lock_counters(session, study.hospital_id)
        facts = gather_facts(
            session, action="VIEW", study=study, reader=require_reader(session, reader.principal_id), login=login, at=now, keys=app.keys
        )
        decision = decide_and_record(
            session, app.law, facts, study_instance_uid=study.study_instance_uid, actor=reader.principal_id, at=now
        )
        refusals = [] if decision.outcome == "ALLOW" else list(decision.reasons) or ["DENIED"]
        if not refusals:
            unmet = unmet_for_study(decision.obligations, app.law, study, facts, now)
            refusals = [unmet] if unmet is not None else []
        if not refusals:
            meet_at_disclosure(session, decision, facts, study, procedure_step_uid=step.procedure_step_uid, keys=app.keys, at=now)
        audit.append(
            session,
            audit.AuditEvent(
                event_id=audit.EventId.INSTANCES_ACCESSED,
                event_type=audit.EventType.OPEN,
                action=audit.Action.READ,
                actor=reader.principal_id,
                outcome=audit.Outcome.SERIOUS_FAILURE if refusals else audit.Outcome.SUCCESS,
                hospital_id=study.hospital_id,
                study_instance_uid=study.study_instance_uid,
                object_id=step.procedure_step_uid,
                decision_digest=decision.digest,
                network_address=reader.login.address,
                detail={"completed": True, "refused": next(iter(refusals), "")},
            ),
            at=now,
        )
    return refusals
