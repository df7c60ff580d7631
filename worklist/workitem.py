"""The row of a procedure step, and who holds it."""

from __future__ import annotations

import hashlib
from datetime import datetime

from sqlalchemy import JSON, Column
from sqlmodel import Field, Session, SQLModel, col, select

from compliance.database import UtcDateTime
from crypto.errors import NotFound
from worklist.procedure_step import Priority, State, WorkitemCode


class ProcedureStep(SQLModel, table=True):
    """A Unified Procedure Step (PS3.4 Annex CC)."""

    __tablename__ = "procedure_step"
    procedure_step_uid: str = Field(primary_key=True, max_length=64)
    study_pk: int = Field(foreign_key="study.study_pk", index=True)
    hospital_id: str = Field(foreign_key="hospital.hospital_id", index=True)
    workitem_code: str = WorkitemCode.INTERPRETATION
    state: str = Field(default=State.SCHEDULED, index=True)
    priority: str = Priority.MEDIUM
    label: str = ""
    scheduled_at: datetime = Field(sa_type=UtcDateTime)
    #: Expected Completion DateTime (0040,4011): the deadline.
    expected_completion_at: datetime = Field(sa_type=UtcDateTime, index=True)
    #: Instances came after completeness; the reader is told so until the step ends.
    amendment: int = 0
    claiming_reader_id: str | None = Field(default=None, foreign_key="reader.reader_id", index=True)
    #: SHA-256 of the Transaction UID (0008,1195): the lock is never read back, only compared.
    transaction_uid_digest: str | None = None
    #: The login session the lease is tied to.
    login_digest: str | None = None
    claimed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    lease_expires_at: datetime | None = Field(default=None, sa_type=UtcDateTime, index=True)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    #: Reason for Cancellation (0074,1238), a constant.
    cancellation_reason: str | None = None
    #: The step this one follows after a release, an expiry or a revocation.
    predecessor_uid: str | None = None
    #: Obligations of the decision the claim rests on.
    obligations: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    #: Obligation PRELIMINARY_ONLY elsewhere: this step may only be claimed by who may sign finally.
    is_final_required: bool = False
    #: Begun by the reader of a final report to add to it or correct it.
    is_addendum: bool = False


def transaction_uid_digest(transaction_uid: str) -> str:
    return hashlib.sha256(transaction_uid.encode()).hexdigest()


def locked_step(session: Session, procedure_step_uid: str) -> ProcedureStep:
    """The step, with its row locked for the rest of the transaction. Raises: NotFound."""
    step = session.exec(select(ProcedureStep).where(ProcedureStep.procedure_step_uid == procedure_step_uid).with_for_update()).first()
    if step is None:
        raise NotFound("no such procedure step")
    return step


def require_step(session: Session, procedure_step_uid: str) -> ProcedureStep:
    """Raises: NotFound."""
    step = session.get(ProcedureStep, procedure_step_uid)
    if step is None:
        raise NotFound("no such procedure step")
    return step


def open_steps_of_study(session: Session, study_pk: int) -> list[ProcedureStep]:
    """Steps of the study that are neither completed nor canceled."""
    return list(
        session.exec(
            select(ProcedureStep)
            .where(ProcedureStep.study_pk == study_pk, col(ProcedureStep.state).in_([State.SCHEDULED, State.IN_PROGRESS]))
            .order_by(col(ProcedureStep.scheduled_at))
        ).all()
    )


def locked_open_steps(session: Session, study_pk: int) -> list[ProcedureStep]:
    """The open steps of the study, locked; whoever was ending one has ended it, and its successor is among them."""
    is_open = (ProcedureStep.study_pk == study_pk, col(ProcedureStep.state).in_([State.SCHEDULED, State.IN_PROGRESS]))
    session.exec(select(ProcedureStep.procedure_step_uid).where(*is_open).with_for_update()).all()
    # Asked anew after the wait: the first answer saw the rows as they were before it.
    return list(
        session.exec(
            select(ProcedureStep).where(*is_open).order_by(col(ProcedureStep.scheduled_at)).execution_options(populate_existing=True)
        ).all()
    )


def reported_amendment(session: Session, study_pk: int) -> int:
    """Up to which amendment of the study a step was completed; -1 where none was."""
    completed = session.exec(
        select(ProcedureStep.amendment).where(ProcedureStep.study_pk == study_pk, ProcedureStep.state == State.COMPLETED)
    ).all()
    return max(completed, default=-1)


def is_amended_since_report(session: Session, step: ProcedureStep) -> bool:
    """Whether `step` is there because instances came after what was completed last."""
    reported = reported_amendment(session, step.study_pk)
    return 0 <= reported < step.amendment


def held_steps(session: Session, reader_id: str) -> list[ProcedureStep]:
    return list(
        session.exec(
            select(ProcedureStep).where(ProcedureStep.claiming_reader_id == reader_id, ProcedureStep.state == State.IN_PROGRESS)
        ).all()
    )
