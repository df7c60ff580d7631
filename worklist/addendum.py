"""Going back to a study one has reported: a step of its own, claimed from its first moment by the reader of the report.

An abandoned addendum is simply canceled: unlike a read, nobody else waits for it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from compliance import audit
from compliance.database import Database
from compliance.lawbook import LawBundle
from compliance.study import study_by_pk
from crypto.errors import Conflict, NotAllowed
from crypto.keys import KeyStore
from worklist.claim import Claim, claim
from worklist.procedure_step import State
from worklist.workitem import ProcedureStep, is_amended_since_report, open_steps_of_study, require_step


def begin_addendum(
    database: Database,
    law: LawBundle,
    *,
    completed_step_uid: str,
    reader_id: str,
    login_digest: str,
    transaction_uid_of: Callable[[str], str],
    now: datetime,
    new_uid: Callable[[], str],
    keys: KeyStore | None = None,
) -> Claim:
    """A step for an addendum to what was reported in `completed_step_uid`, claimed by that report's reader.

    Where instances came after the report and wait on the list, that step is it: it is read and added to in one.

    Raises: NotFound; NotAllowed (another reader's report, or the law says no); Conflict when somebody works on the study.
    """
    with database.transaction() as session:
        before = require_step(session, completed_step_uid)
        if before.state != State.COMPLETED or before.claiming_reader_id != reader_id:
            raise NotAllowed("NOT_YOUR_REPORT", "an addendum is for the reader of the report")
        standing = open_steps_of_study(session, before.study_pk)
        may_take = bool(standing) and (standing[0].is_addendum or is_amended_since_report(session, standing[0]))
        if standing and not (may_take and standing[0].state == State.SCHEDULED):
            raise Conflict("STUDY_IN_WORK", "somebody works on this study")
        step = standing[0] if standing else None
        if step is None:
            step = ProcedureStep(
                procedure_step_uid=new_uid(),
                study_pk=before.study_pk,
                hospital_id=before.hospital_id,
                workitem_code=before.workitem_code,
                priority=before.priority,
                label=before.label,
                scheduled_at=now,
                expected_completion_at=before.expected_completion_at,
                predecessor_uid=before.procedure_step_uid,
                is_addendum=True,
                amendment=before.amendment,
            )
            session.add(step)
            session.flush()
            audit.append(
                session,
                audit.AuditEvent(
                    event_id=audit.EventId.PROCEDURE_RECORD,
                    event_type=audit.EventType.ROUTE,
                    action=audit.Action.CREATE,
                    actor=reader_id,
                    hospital_id=before.hospital_id,
                    study_instance_uid=study_by_pk(session, before.study_pk).study_instance_uid,
                    object_id=step.procedure_step_uid,
                    detail={"addendum_to": completed_step_uid},
                ),
                at=now,
            )
        procedure_step_uid = step.procedure_step_uid
    # If we crash here the step waits, scheduled, for its reader alone: beginning again claims it.
    return claim(
        database,
        law,
        procedure_step_uid=procedure_step_uid,
        reader_id=reader_id,
        login_digest=login_digest,
        transaction_uid=transaction_uid_of(procedure_step_uid),
        now=now,
        keys=keys,
    )
