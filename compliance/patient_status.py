"""What a hospital says of a patient that bears on decisions: whether a US person, and whether able to consent. By pseudonym.

A row is a statement and is never changed; the newest one that says something counts, per statement.
"""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Field, Session, SQLModel, col, select

from compliance import audit
from compliance.database import UtcDateTime
from compliance.hospital import require_hospital


class PatientStatus(SQLModel, table=True):
    __tablename__ = "patient_status"
    status_pk: int | None = Field(default=None, primary_key=True)
    hospital_id: str = Field(foreign_key="hospital.hospital_id", index=True)
    patient_pseudonym: str = Field(index=True)
    #: 28 CFR 202.256; None where this statement does not say.
    is_us_person: bool | None = None
    can_consent: bool | None = None
    stated_by: str
    recorded_at: datetime = Field(sa_type=UtcDateTime)


def state_patient(
    session: Session,
    *,
    hospital_id: str,
    patient_pseudonym: str,
    is_us_person: bool | None = None,
    can_consent: bool | None = None,
    actor: str,
    now: datetime,
) -> PatientStatus:
    """The statement counts from now on, in every decision about this patient. Raises: NotFound."""
    require_hospital(session, hospital_id)
    row = PatientStatus(
        hospital_id=hospital_id,
        patient_pseudonym=patient_pseudonym,
        is_us_person=is_us_person,
        can_consent=can_consent,
        stated_by=actor,
        recorded_at=now,
    )
    session.add(row)
    session.flush()
    audit.append(
        session,
        audit.AuditEvent(
            event_id=audit.EventId.SECURITY_ALERT,
            event_type=audit.EventType.SECURITY_CONFIGURATION,
            action=audit.Action.UPDATE,
            actor=actor,
            hospital_id=hospital_id,
            object_id=f"patient-status/{row.status_pk}",
            detail={"us_person": is_us_person, "can_consent": can_consent, "patient": patient_pseudonym},
        ),
        at=now,
    )
    return row


def newest_statement(session: Session, hospital_id: str, patient_pseudonym: str, about: str) -> PatientStatus | None:
    """The newest statement that says something `about` ("is_us_person" or "can_consent")."""
    return session.exec(
        select(PatientStatus)
        .where(
            PatientStatus.hospital_id == hospital_id,
            PatientStatus.patient_pseudonym == patient_pseudonym,
            col(getattr(PatientStatus, about)).is_not(None),
        )
        .order_by(col(PatientStatus.status_pk).desc())
    ).first()
