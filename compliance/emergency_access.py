"""Emergency access in force: who broke the glass for which patient, why, and from when to when (45 CFR 164.312(a)(2)(ii)).

The row is what later decisions about the same patient and reader are told, until it ends with the claim it was given for. Whether it helps
is the engine's to say: it relaxes an unknown consent, never a prohibition, a licence or an exclusion.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlmodel import Field, Session, SQLModel, col, select

from compliance import audit
from compliance.database import UtcDateTime

#: The actions it can bear on: nobody is offered a study because of an emergency that was not invoked for it.
ACTIONS = frozenset({"VIEW", "SIGN_PRELIMINARY", "SIGN_FINAL"})
PURPOSE = "ETREAT"


class EmergencyAccess(SQLModel, table=True):
    __tablename__ = "emergency_access"
    access_pk: int | None = Field(default=None, primary_key=True)
    hospital_id: str = Field(foreign_key="hospital.hospital_id", index=True)
    patient_pseudonym: str = Field(index=True)
    study_instance_uid: str = Field(index=True)
    procedure_step_uid: str = Field(index=True)
    reader_id: str = Field(foreign_key="reader.reader_id", index=True)
    #: One of REASON_CODES in worklist/break_glass.py.
    reason_code: str
    text: str
    #: The clinician at the hospital who asked for it.
    requested_by: str
    can_patient_consent: bool
    decision_digest: str
    started_at: datetime = Field(sa_type=UtcDateTime, index=True)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    end_reason: str | None = None


def standing_access(session: Session, *, hospital_id: str, patient_pseudonym: str, reader_id: str) -> EmergencyAccess | None:
    """The emergency access that is in force for this patient and reader."""
    return session.exec(
        select(EmergencyAccess)
        .where(
            EmergencyAccess.hospital_id == hospital_id,
            EmergencyAccess.patient_pseudonym == patient_pseudonym,
            EmergencyAccess.reader_id == reader_id,
            col(EmergencyAccess.ended_at).is_(None),
        )
        .order_by(col(EmergencyAccess.access_pk).desc())
    ).first()


def break_glass_facts(access: EmergencyAccess) -> dict[str, str]:
    """The `break_glass` of the facts document."""
    return {"reason_code": access.reason_code, "text": access.text, "requested_by": access.requested_by}


def end_emergency_access(session: Session, procedure_step_uid: str, *, reason: str, actor: str, now: datetime) -> int:
    """Emergency access given for this step is over, each end an alert (110113 of type 110138); how many there were."""
    rows = session.exec(
        select(EmergencyAccess).where(EmergencyAccess.procedure_step_uid == procedure_step_uid, col(EmergencyAccess.ended_at).is_(None))
    ).all()
    for row in rows:
        row.ended_at, row.end_reason = now, reason
        session.add(row)
        append_alert(session, row, audit.EventType.EMERGENCY_OVERRIDE_STOPPED, actor=actor, detail={"reason": reason}, now=now)
    return len(rows)


def append_alert(
    session: Session, access: EmergencyAccess, event_type: audit.EventType, *, actor: str, detail: dict[str, Any], now: datetime
) -> None:
    """The alert of PS3.15 A.5.3.11 (110113) that emergency override started (110127) or stopped (110138)."""
    audit.append(
        session,
        audit.AuditEvent(
            event_id=audit.EventId.SECURITY_ALERT,
            event_type=event_type,
            action=audit.Action.EXECUTE,
            actor=actor,
            outcome=audit.Outcome.SUCCESS,
            hospital_id=access.hospital_id,
            study_instance_uid=access.study_instance_uid,
            object_id=f"emergency-access/{access.access_pk}",
            decision_digest=access.decision_digest,
            detail={"reader": access.reader_id, "reason_code": access.reason_code, **detail},
        ),
        at=now,
    )
