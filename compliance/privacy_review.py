"""What a privacy officer has to look at: access under obligation REVIEW_72H, and notices under NOTIFY_PO.

Invariants
- A review is due 72 hours after the access it is about. Once one is overdue, its reader claims nothing and breaks no glass until it is
  settled: whoever goes unreviewed stops.
- One review and one notice per claim, however often the same decision is asked again.
- Settling says who, when, how and why, and is an entry in the log.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

from sqlmodel import Field, Session, SQLModel, col, select

from compliance import audit
from compliance.database import UtcDateTime
from crypto.errors import BadInput, Conflict, NotAllowed, NotFound

REVIEW_72H = "REVIEW_72H"
NOTIFY_PO = "NOTIFY_PO"
REVIEW_HOURS = 72
REVIEW_OVERDUE = "REVIEW_OVERDUE"
_NOTE_CHARACTERS_MAX = 500


class Verdict(StrEnum):
    JUSTIFIED = "JUSTIFIED"
    NOT_JUSTIFIED = "NOT_JUSTIFIED"


class PrivacyReview(SQLModel, table=True):
    """An access somebody has to look at afterwards."""

    __tablename__ = "privacy_review"
    review_pk: int | None = Field(default=None, primary_key=True)
    hospital_id: str = Field(foreign_key="hospital.hospital_id", index=True)
    reader_id: str = Field(foreign_key="reader.reader_id", index=True)
    study_instance_uid: str
    #: The claim it is about.
    procedure_step_uid: str = Field(unique=True)
    decision_digest: str
    opened_at: datetime = Field(sa_type=UtcDateTime)
    due_at: datetime = Field(sa_type=UtcDateTime, index=True)
    settled_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    settled_by: str | None = None
    verdict: str | None = None
    note: str | None = None


class PrivacyNotice(SQLModel, table=True):
    """Something the privacy officer is told."""

    __tablename__ = "privacy_notice"
    notice_pk: int | None = Field(default=None, primary_key=True)
    hospital_id: str = Field(foreign_key="hospital.hospital_id", index=True)
    reader_id: str = Field(foreign_key="reader.reader_id", index=True)
    study_instance_uid: str
    procedure_step_uid: str = Field(unique=True)
    decision_digest: str
    #: BREAK_GLASS, or the obligation that asks for the notice.
    subject: str
    noted_at: datetime = Field(sa_type=UtcDateTime, index=True)
    seen_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    seen_by: str | None = None


def open_review(
    session: Session,
    *,
    hospital_id: str,
    reader_id: str,
    study_instance_uid: str,
    procedure_step_uid: str,
    decision_digest: str,
    now: datetime,
) -> PrivacyReview:
    """The access of this claim waits for its review."""
    standing = session.exec(select(PrivacyReview).where(PrivacyReview.procedure_step_uid == procedure_step_uid)).first()
    if standing is not None:
        return standing
    review = PrivacyReview(
        hospital_id=hospital_id,
        reader_id=reader_id,
        study_instance_uid=study_instance_uid,
        procedure_step_uid=procedure_step_uid,
        decision_digest=decision_digest,
        opened_at=now,
        due_at=now + timedelta(hours=REVIEW_HOURS),
    )
    session.add(review)
    session.flush()
    return review


def notify_privacy_officer(
    session: Session,
    *,
    hospital_id: str,
    reader_id: str,
    study_instance_uid: str,
    procedure_step_uid: str,
    decision_digest: str,
    subject: str,
    now: datetime,
) -> PrivacyNotice:
    """The privacy officer finds a notice about this claim."""
    standing = session.exec(select(PrivacyNotice).where(PrivacyNotice.procedure_step_uid == procedure_step_uid)).first()
    if standing is not None:
        return standing
    notice = PrivacyNotice(
        hospital_id=hospital_id,
        reader_id=reader_id,
        study_instance_uid=study_instance_uid,
        procedure_step_uid=procedure_step_uid,
        decision_digest=decision_digest,
        subject=subject,
        noted_at=now,
    )
    session.add(notice)
    session.flush()
    return notice


def open_reviews(session: Session) -> list[PrivacyReview]:
    """What waits, the soonest due first."""
    return list(
        session.exec(select(PrivacyReview).where(col(PrivacyReview.settled_at).is_(None)).order_by(col(PrivacyReview.due_at))).all()
    )


def unseen_notices(session: Session) -> list[PrivacyNotice]:
    return list(session.exec(select(PrivacyNotice).where(col(PrivacyNotice.seen_at).is_(None)).order_by(col(PrivacyNotice.noted_at))).all())


def overdue_review(session: Session, reader_id: str, *, now: datetime) -> PrivacyReview | None:
    return session.exec(
        select(PrivacyReview)
        .where(PrivacyReview.reader_id == reader_id, col(PrivacyReview.settled_at).is_(None), col(PrivacyReview.due_at) <= now)
        .order_by(col(PrivacyReview.due_at))
    ).first()


def overdue_reader_ids(session: Session, *, now: datetime) -> list[str]:
    """Every reader who claims nothing until the privacy officer has settled an access of theirs."""
    return list(
        session.exec(
            select(PrivacyReview.reader_id).where(col(PrivacyReview.settled_at).is_(None), col(PrivacyReview.due_at) <= now).distinct()
        ).all()
    )


def require_reviewed(session: Session, reader_id: str, *, now: datetime) -> None:
    """Raises: NotAllowed(REVIEW_OVERDUE) while an access of this reader has waited for its review for more than 72 hours."""
    if overdue_review(session, reader_id, now=now) is not None:
        raise NotAllowed(REVIEW_OVERDUE, "an emergency access of this reader waits for its review; the privacy officer settles it")


def settle_review(session: Session, review_pk: int, verdict: str, *, note: str, actor: str, now: datetime) -> PrivacyReview:
    """The access was looked at. Raises: NotFound; Conflict when somebody was quicker; BadInput; NotAllowed for the reader themself."""
    if verdict not in set(Verdict) or not 3 <= len(note.strip()) <= _NOTE_CHARACTERS_MAX:
        raise BadInput(f"a review ends as {' or '.join(Verdict)}, with a note of 3 to {_NOTE_CHARACTERS_MAX} characters")
    review = session.exec(select(PrivacyReview).where(PrivacyReview.review_pk == review_pk).with_for_update()).first()
    if review is None:
        raise NotFound(f"no review {review_pk}")
    if review.settled_at is not None:
        raise Conflict("ALREADY_SETTLED")
    if actor == review.reader_id:
        raise NotAllowed("OWN_REVIEW", "nobody reviews their own access")
    review.settled_at, review.settled_by, review.verdict, review.note = now, actor, verdict, note.strip()
    session.add(review)
    audit.append(
        session,
        audit.AuditEvent(
            event_id=audit.EventId.SECURITY_ALERT,
            event_type=audit.EventType.RESTRICTED_FUNCTION,
            action=audit.Action.UPDATE,
            actor=actor,
            hospital_id=review.hospital_id,
            study_instance_uid=review.study_instance_uid,
            object_id=f"privacy-review/{review.review_pk}",
            decision_digest=review.decision_digest,
            detail={"verdict": verdict, "reader": review.reader_id},
        ),
        at=now,
    )
    return review


def see_notice(session: Session, notice_pk: int, *, actor: str, now: datetime) -> PrivacyNotice:
    """The notice was seen. Raises: NotFound."""
    notice = session.get(PrivacyNotice, notice_pk)
    if notice is None:
        raise NotFound(f"no notice {notice_pk}")
    if notice.seen_at is None:
        notice.seen_at, notice.seen_by = now, actor
        session.add(notice)
    return notice
