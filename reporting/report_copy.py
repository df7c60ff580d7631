"""The hospital's copy of a report: the sealed PDF under the patient's own name, made once and kept encrypted under the study's key."""

from __future__ import annotations

import hashlib
from datetime import datetime

from sqlalchemy import Column, LargeBinary
from sqlmodel import Field, Session, SQLModel

from compliance.database import UtcDateTime
from crypto.keys import StudyKey
from crypto.sealed_box import open_small, seal_small


class ReportCopy(SQLModel, table=True):
    __tablename__ = "report_copy"
    report_uid: str = Field(primary_key=True, foreign_key="report.report_uid")
    pdf_sealed: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    pdf_sha256: str
    composed_at: datetime = Field(sa_type=UtcDateTime)


def keep_copy(session: Session, study_key: StudyKey, report_uid: str, pdf: bytes, *, now: datetime) -> ReportCopy:
    """The copy of the report; the first one made stays, so that every target and every retry gets the same bytes."""
    standing = session.get(ReportCopy, report_uid)
    if standing is not None:
        return standing
    copy = ReportCopy(
        report_uid=report_uid,
        composed_at=now,
        pdf_sha256=hashlib.sha256(pdf).hexdigest(),
        pdf_sealed=seal_small(study_key.purpose_key("copy"), pdf, f"copy/{report_uid}".encode()),
    )
    session.add(copy)
    session.flush()
    return copy


def open_copy(study_key: StudyKey, copy: ReportCopy) -> bytes:
    """The PDF. Raises: IntegrityFailure."""
    return open_small(study_key.purpose_key("copy"), copy.pdf_sealed, f"copy/{copy.report_uid}".encode())
