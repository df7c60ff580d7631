"""What shows that an obligation of a decision was met: rows and log entries, each named so that somebody else finds it.

An obligation is due once something was shown, signed or sent under the decision; before that there is nothing to show. What the program
keeps by its make (no whole files, no caching, the watermark) is shown by what was handed out under it; what it has to do (count, notice,
review, a place to store) by the row that did it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement
from sqlmodel import Session, col, func, select

from compliance.audit import AuditEntry, EventType
from compliance.counters import CountedPerson, person_digest
from compliance.credential import Reader
from compliance.decision_log import DecisionRow
from compliance.lawbook import LawBundle
from compliance.obligation import unmet_obligation
from compliance.privacy_review import PrivacyNotice, PrivacyReview
from compliance.study import Study
from crypto.keys import KeyStore
from gateway.obligation_words import OBLIGATION_SENTENCES
from gateway.web.contexts import Tone
from gateway.web.contexts_oversight import ObligationRow
from gateway.web.rendering import instant
from reporting.report import Report
from worklist.view_grant import ViewGrant
from worklist.workitem import ProcedureStep


@dataclass(frozen=True)
class _Case:
    """What stands around one decision."""

    session: Session
    law: LawBundle
    keys: KeyStore
    row: DecisionRow
    study: Study | None
    now: datetime
    grants: int
    first_at: datetime | None
    reports: tuple[Report, ...]

    @property
    def is_due(self) -> bool:
        return bool(self.grants or self.reports)


def obligation_rows(session: Session, law: LawBundle, keys: KeyStore, row: DecisionRow, *, now: datetime) -> tuple[ObligationRow, ...]:
    """Each obligation of the decision, and what shows that it was met."""
    if not row.obligations:
        return ()
    study = session.exec(select(Study).where(Study.study_instance_uid == row.study_instance_uid)).first()
    count, first = session.exec(
        select(func.count(), func.min(ViewGrant.granted_at)).select_from(ViewGrant).where(ViewGrant.decision_digest == row.digest)
    ).one()
    reports = session.exec(select(Report).where(Report.decision_digest == row.digest).order_by(col(Report.signed_at))).all()
    case = _Case(session, law, keys, row, study, now, count, first, tuple(reports))
    return tuple(_row(case, name) for name in sorted(row.obligations))


def _row(case: _Case, text: str) -> ObligationRow:
    name = text.split("(")[0].split(":")[0]
    state, tone, evidence = _state(case, name, text)
    return ObligationRow(
        code=text, asked=OBLIGATION_SENTENCES.get(name, "") or _ASKED.get(name, ""), state=state, tone=tone, evidence=evidence
    )


_ASKED = {
    "STORE_REGION": "The study is stored in the region named.",
    "COUNT": "The person is counted, so that a limit is noticed before it is passed.",
}


def _state(case: _Case, name: str, text: str) -> tuple[str, Tone, str]:
    if name in ("STORE_REGION", "COPY_IN", "KEYS_IN"):
        return _place(case, name, text)
    if not case.is_due:
        return "Not due", "neutral", "Nothing was shown or signed under this decision."
    if name in ("VIEW_ONLY", "NO_PERSIST", "WATERMARK"):
        return _by_make(case, name)
    if name in ("PRELIMINARY_ONLY", "FINAL_BY_US_READER"):
        return _preliminary(case)
    if name == "NOTIFY_PO":
        return _notice(case)
    if name == "REVIEW_72H":
        return _review(case)
    if name == "COUNT":
        return _count(case, text)
    return "Not met", "bad", "Nobody keeps an obligation of this name."


def _place(case: _Case, name: str, text: str) -> tuple[str, Tone, str]:
    if case.study is None:
        return "Not due", "neutral", "The study is not here."
    storage, keys = case.study.storage_country, case.study.keys_country
    where = keys if name == "KEYS_IN" else storage
    if where is None:
        return "Not recorded", "warning", "Where it was written was not recorded; the hospital's word was taken."
    unmet = unmet_obligation([text], case.law, storage_country=storage or where, keys_country=keys or where, at=case.row.decided_at)
    what = "The study's keys were made in" if name == "KEYS_IN" else "The study was written in"
    evidence = f"{what} {where}, recorded with the study on {instant(case.study.available_at)}."
    return ("Not met", "bad", evidence) if unmet is not None else ("Met", "good", evidence)


def _by_make(case: _Case, name: str) -> tuple[str, Tone, str]:
    views = f"{case.grants} {'right' if case.grants == 1 else 'rights'} to look {'was' if case.grants == 1 else 'were'} given under it"
    first = f", the first on {instant(case.first_at)}" if case.first_at is not None else ""
    how = {
        "VIEW_ONLY": "each carries VIEW_ONLY, under which whole instances are refused",
        "NO_PERSIST": "each carries NO_PERSIST, under which every answer forbids to be kept",
        "WATERMARK": "each names this decision in the mark over the images",
    }[name]
    carried = case.session.exec(select(ViewGrant.obligations).where(ViewGrant.decision_digest == case.row.digest)).all()
    if any(name not in obligations for obligations in carried):
        return "Not met", "bad", f"{views}{first}; one does not carry {name}."
    return "Met", "good", f"{views}{first}; {how}."


def _preliminary(case: _Case) -> tuple[str, Tone, str]:
    if any(report.kind == "FINAL" for report in case.reports):
        return "Not met", "bad", "A final report was signed under this decision."
    if not case.reports:
        return "Met", "good", "No final report was signed under this decision."
    assert case.study is not None
    step = case.session.exec(
        select(ProcedureStep.procedure_step_uid).where(
            ProcedureStep.study_pk == case.study.study_pk, col(ProcedureStep.is_final_required).is_(True)
        )
    ).first()
    signed = f"Preliminary, signed {instant(case.reports[-1].signed_at)}"
    if step is None:
        return "Not met", "bad", f"{signed}; no step for a final reader follows."
    return "Met", "good", f"{signed}; step {step} asks for a final reader."


def _is_of_the_case(case: _Case, kind: type[PrivacyNotice] | type[PrivacyReview]) -> ColumnElement[bool]:
    """Made under this decision or for a claim that it was about: another claim of the same reader is another access.

    One claim has one notice and one review, made under the first of its decisions that asked for it.
    """
    grants = select(ViewGrant.procedure_step_uid).where(ViewGrant.decision_digest == case.row.digest)
    reports = select(Report.procedure_step_uid).where(Report.decision_digest == case.row.digest)
    step = col(kind.procedure_step_uid)
    return (col(kind.decision_digest) == case.row.digest) | step.in_(grants) | step.in_(reports)


def _notice(case: _Case) -> tuple[str, Tone, str]:
    notice = case.session.exec(
        select(PrivacyNotice).where(_is_of_the_case(case, PrivacyNotice)).order_by(col(PrivacyNotice.notice_pk).desc())
    ).first()
    if notice is None:
        return "Not met", "bad", "No notice to the privacy officer is on record."
    seen = f"seen by {notice.seen_by} on {instant(notice.seen_at)}" if notice.seen_at is not None else "not seen yet"
    return "Met", "good", f"Notice {notice.notice_pk} of {instant(notice.noted_at)}, {seen}."


def _review(case: _Case) -> tuple[str, Tone, str]:
    review = case.session.exec(
        select(PrivacyReview).where(_is_of_the_case(case, PrivacyReview)).order_by(col(PrivacyReview.review_pk).desc())
    ).first()
    if review is None:
        return "Not met", "bad", "No review is on record."
    if review.settled_at is not None:
        verdict = (review.verdict or "").replace("_", " ").lower()
        late = review.settled_at > review.due_at
        words = f"Review {review.review_pk}: {verdict}, by {review.settled_by} on {instant(review.settled_at)}"
        return ("Met late", "warning", f"{words}, due {instant(review.due_at)}.") if late else ("Met", "good", f"{words}.")
    if review.due_at <= case.now:
        return (
            "Not met",
            "bad",
            f"Review {review.review_pk} is overdue since {instant(review.due_at)}; the reader claims nothing until then.",
        )
    return "Waiting", "warning", f"Review {review.review_pk} is due {instant(review.due_at)}."


def _count(case: _Case, text: str) -> tuple[str, Tone, str]:
    reader = case.session.get(Reader, case.row.reader_id)
    if reader is None or case.study is None:
        return "Not due", "neutral", "Reader or study are not here."
    kind = text.partition("(")[2].rstrip(")")
    person = person_digest(case.keys, case.row.hospital_id, case.study.patient_pseudonym)
    counted = case.session.get(CountedPerson, (case.row.hospital_id, reader.employer_id, kind, person))
    if counted is None:
        return "Not met", "bad", "The person is not counted."
    return "Met", "good", f"Counted for {reader.employer_id} since {instant(counted.first_at)}, last {instant(counted.last_at)}."


def what_followed(session: Session, digest: str) -> tuple[tuple[int, datetime, str], ...]:
    """(entry, when, event type) of what was done under the decision, in the order of the log; the deciding itself left out."""
    rows = session.exec(
        select(AuditEntry.entry_index, AuditEntry.recorded_at, AuditEntry.event_type)
        .where(AuditEntry.decision_digest == digest, AuditEntry.event_type != EventType.DECIDE)
        .order_by(col(AuditEntry.entry_index))
        .limit(50)
    ).all()
    return tuple((index, at, event_type) for index, at, event_type in rows)
