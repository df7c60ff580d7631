"""Reminders 90, 30 and 7 days before a credential or a piece of evidence ends.

A reminder is a row, made once per subject and threshold: whoever renews gets a new row with an end of its own, and so new reminders. Where
something is registered late, only the reminder that is due is made, not those that were missed.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import String, UniqueConstraint, cast
from sqlmodel import Field, Session, SQLModel, col, select

from compliance import audit
from compliance.bulkhead import bulkhead
from compliance.credential import Credential, Evidence
from compliance.database import UtcDateTime
from crypto.errors import NotFound

ACTOR = "readgate/remind"
#: Days before the end, the nearest first.
THRESHOLD_DAYS = (7, 30, 90)


class SubjectKind(StrEnum):
    CREDENTIAL = "CREDENTIAL"
    EVIDENCE = "EVIDENCE"


class Reminder(SQLModel, table=True):
    __tablename__ = "reminder"
    __table_args__ = (UniqueConstraint("subject_kind", "subject_id", "threshold_days"),)
    reminder_pk: int | None = Field(default=None, primary_key=True)
    subject_kind: str
    #: The credential's key or the evidence's id.
    subject_id: str
    threshold_days: int
    #: What ends, for people: "LICENCE of r1", "DPA of h1, e1".
    subject: str
    reader_id: str | None = None
    parties: str = ""
    ends_at: datetime = Field(sa_type=UtcDateTime)
    reminded_at: datetime = Field(sa_type=UtcDateTime, index=True)
    seen_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    seen_by: str | None = None


def remind(session: Session, *, now: datetime) -> list[Reminder]:
    """Every reminder that is due stands; those that were made now. Called again, it makes none."""
    made = []
    for reminder in _due(session, now):
        standing = session.exec(
            select(Reminder.reminder_pk).where(
                Reminder.subject_kind == reminder.subject_kind,
                Reminder.subject_id == reminder.subject_id,
                Reminder.threshold_days == reminder.threshold_days,
            )
        ).first()
        if standing is None:
            session.add(reminder)
            made.append(reminder)
    if made:
        session.flush()
        audit.append(
            session,
            audit.AuditEvent(
                event_id=audit.EventId.SECURITY_ALERT,
                event_type=audit.EventType.REMIND,
                action=audit.Action.CREATE,
                actor=ACTOR,
                detail={"reminders": len(made), "subjects": [reminder.subject for reminder in made][:40]},
            ),
            at=now,
        )
    return made


def unseen_reminders(session: Session, *, now: datetime) -> list[Reminder]:
    """What nobody acknowledged yet and is still ahead or just past, the nearest end first."""
    rows = session.exec(select(Reminder).where(col(Reminder.seen_at).is_(None)).order_by(col(Reminder.ends_at))).all()
    return [row for row in rows if row.ends_at > now - timedelta(days=THRESHOLD_DAYS[0])]


def see_reminder(session: Session, reminder_pk: int, *, actor: str, now: datetime) -> Reminder:
    """The reminder was acknowledged, on record; said twice, it is acknowledged once. Raises: NotFound."""
    row = session.get(Reminder, reminder_pk)
    if row is None:
        raise NotFound(f"no reminder {reminder_pk}")
    if row.seen_at is None:
        row.seen_at, row.seen_by = now, actor
        session.add(row)
        audit.append(
            session,
            audit.AuditEvent(
                event_id=audit.EventId.SECURITY_ALERT,
                event_type=audit.EventType.REMIND,
                action=audit.Action.UPDATE,
                actor=actor,
                object_id=f"reminder/{reminder_pk}",
                detail={"subjects": [row.subject], "threshold_days": row.threshold_days, "seen": True},
            ),
            at=now,
        )
    return row


def reminders_of_reader(session: Session, reader_id: str, *, now: datetime) -> list[Reminder]:
    """For the reader themself: the newest reminder of each credential of theirs that ends soon and was not renewed or changed since."""
    rows = session.exec(
        select(Reminder)
        .join(Credential, cast(col(Credential.credential_pk), String) == Reminder.subject_id)
        .where(
            Reminder.subject_kind == SubjectKind.CREDENTIAL,
            Reminder.reader_id == reader_id,
            col(Reminder.ends_at) > now,
            col(Credential.superseded_at).is_(None),
        )
        .order_by(col(Reminder.ends_at), col(Reminder.reminded_at))
    ).all()
    return list({row.subject_id: row for row in rows}.values())


def threshold_of(ends_at: datetime, now: datetime) -> int | None:
    """The nearest threshold that has been reached; None long before the end, and after it."""
    left = ends_at - now
    if left <= timedelta(0):
        return None
    return next((days for days in THRESHOLD_DAYS if left <= timedelta(days=days)), None)


def _due(session: Session, now: datetime) -> Iterable[Reminder]:
    until = now + timedelta(days=THRESHOLD_DAYS[-1])
    for credential in session.exec(
        select(Credential)
        .where(
            col(Credential.superseded_at).is_(None),
            Credential.status == "ACTIVE",
            col(Credential.expires_at) > now,
            col(Credential.expires_at) <= until,
        )
        .order_by(col(Credential.credential_pk))
    ).all():
        subject = f"{credential.kind} of {credential.reader_id}"
        if (days := threshold_of(credential.expires_at, now)) is not None:
            yield Reminder(
                subject_kind=SubjectKind.CREDENTIAL,
                subject_id=str(credential.credential_pk),
                threshold_days=days,
                subject=subject,
                reader_id=credential.reader_id,
                ends_at=credential.expires_at,
                reminded_at=now,
            )
    for evidence in session.exec(
        select(Evidence)
        .where(col(Evidence.withdrawn_at).is_(None), col(Evidence.expires_at) > now, col(Evidence.expires_at) <= until)
        .order_by(col(Evidence.evidence_id))
    ).all():
        if (days := threshold_of(evidence.expires_at, now)) is None:
            continue
        parties = ""
        # Parties that are no list of names must not keep the others' reminders: theirs says what ends, and not whose.
        with bulkhead("remind"):
            parties = ", ".join(evidence.parties)
        yield Reminder(
            subject_kind=SubjectKind.EVIDENCE,
            subject_id=evidence.evidence_id,
            threshold_days=days,
            subject=f"{evidence.evidence_type} of {parties or evidence.evidence_id}",
            parties=parties,
            ends_at=evidence.expires_at,
            reminded_at=now,
        )
