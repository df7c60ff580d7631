"""The rows of reports: drafts, signed reports, and the hospital's sealed copies. Every text is sealed under the study's key."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Column, LargeBinary, UniqueConstraint
from sqlmodel import Field, Session, SQLModel, col, select

from compliance.database import UtcDateTime
from compliance.study import Study
from crypto.canonical import canonical_json
from crypto.errors import NotFound
from crypto.keys import StudyKey
from crypto.sealed_box import open_small, seal_small
from reporting.content import ReportKind
from reporting.signed_report import SignedReport, open_signed_report


class ReportDraft(SQLModel, table=True):
    """One autosaved state of a report; version n+1 follows n, nothing is overwritten."""

    __tablename__ = "report_draft"
    __table_args__ = (UniqueConstraint("procedure_step_uid", "version"),)
    draft_pk: int | None = Field(default=None, primary_key=True)
    study_pk: int = Field(foreign_key="study.study_pk", index=True)
    procedure_step_uid: str = Field(foreign_key="procedure_step.procedure_step_uid", index=True)
    reader_id: str = Field(foreign_key="reader.reader_id")
    version: int
    sealed: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    saved_at: datetime = Field(sa_type=UtcDateTime)


class Report(SQLModel, table=True):
    """A signed report. It is never changed; a correction is another one that names this one's digest."""

    __tablename__ = "report"
    report_uid: str = Field(primary_key=True, max_length=64)
    study_pk: int = Field(foreign_key="study.study_pk", index=True)
    hospital_id: str = Field(foreign_key="hospital.hospital_id", index=True)
    procedure_step_uid: str = Field(foreign_key="procedure_step.procedure_step_uid", index=True)
    reader_id: str = Field(foreign_key="reader.reader_id")
    kind: str
    #: "sha256:<hex>" of the canonical report.
    report_digest: str = Field(unique=True)
    #: One report follows another at most once: a chain, not a tree.
    predecessor_digest: str | None = Field(default=None, unique=True)
    decision_digest: str
    manifest_digest: str
    #: The study manifest as it was signed: an amendment of the study later does not change what was read.
    manifest: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    #: The signed envelope, sealed under the study's key.
    sealed_envelope: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    signed_at: datetime = Field(sa_type=UtcDateTime)


def seal_draft(study_key: StudyKey, procedure_step_uid: str, version: int, sections: dict[str, Any]) -> bytes:
    return seal_small(study_key.purpose_key("draft"), canonical_json(sections), f"draft/{procedure_step_uid}/{version}".encode())


def open_draft(study_key: StudyKey, draft: ReportDraft) -> dict[str, Any]:
    """The sections of a draft. Raises: IntegrityFailure."""
    opened = open_small(study_key.purpose_key("draft"), draft.sealed, f"draft/{draft.procedure_step_uid}/{draft.version}".encode())
    sections: dict[str, Any] = json.loads(opened)
    return sections


def newest_draft(session: Session, procedure_step_uid: str) -> ReportDraft | None:
    return session.exec(
        select(ReportDraft).where(ReportDraft.procedure_step_uid == procedure_step_uid).order_by(col(ReportDraft.version).desc()).limit(1)
    ).first()


def newest_draft_of_reader(session: Session, study_pk: int, reader_id: str) -> ReportDraft | None:
    """What this reader last wrote on this study, in whichever step: a lost lease loses no text."""
    return session.exec(
        select(ReportDraft)
        .where(ReportDraft.study_pk == study_pk, ReportDraft.reader_id == reader_id)
        .order_by(col(ReportDraft.saved_at).desc(), col(ReportDraft.draft_pk).desc())
        .limit(1)
    ).first()


def seal_envelope(study_key: StudyKey, report_uid: str, envelope: bytes) -> bytes:
    return seal_small(study_key.purpose_key("report"), envelope, f"report/{report_uid}".encode())


def open_report(study_key: StudyKey, report: Report) -> SignedReport:
    """The signed report, verified. Raises: IntegrityFailure."""
    return open_signed_report(open_small(study_key.purpose_key("report"), report.sealed_envelope, f"report/{report.report_uid}".encode()))


def reports_of_study(session: Session, study: Study) -> list[Report]:
    """The chain, oldest first."""
    return list(
        session.exec(select(Report).where(Report.study_pk == study.study_pk).order_by(col(Report.signed_at), col(Report.report_uid))).all()
    )


def newest_report(session: Session, study: Study) -> Report | None:
    chain = reports_of_study(session, study)
    return chain[-1] if chain else None


def has_final(session: Session, study: Study) -> bool:
    return any(report.kind != ReportKind.PRELIMINARY for report in reports_of_study(session, study))


def require_report(session: Session, report_uid: str) -> Report:
    """Raises: NotFound."""
    report = session.get(Report, report_uid)
    if report is None:
        raise NotFound("no such report")
    return report
