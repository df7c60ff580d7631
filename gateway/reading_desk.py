"""What lies on the reading page beside the images: draft, signed reports, priors, obligations in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlmodel import Session, col, select

from compliance.deid_manifest import held_back_words
from compliance.study import Study, open_study_key, series_of, study_by_pk
from crypto.errors import RefusedContent
from crypto.keys import StudyKey
from gateway.application import Application
from gateway.viewer_files import viewer_href
from gateway.web.contexts import Choice, CriticalResult, Prior, ReportText, SignedReport, Tone
from gateway.worklist_page import relative_interval
from reporting.authoring import Draft
from reporting.content import SECTION_CHARACTERS_MAX, SECTIONS, ReportContent, ReportKind
from reporting.delivery_queue import Delivery, DeliveryState
from reporting.report import Report, has_final, open_report, reports_of_study
from reporting.text_rules import require_text
from worklist.view_grant import ViewGrant
from worklist.workitem import ProcedureStep, is_amended_since_report

KIND_WORDS = {
    ReportKind.PRELIMINARY: "Preliminary",
    ReportKind.FINAL: "Final",
    ReportKind.ADDENDUM: "Addendum",
    ReportKind.CORRECTION: "Correction",
}
#: Series of these modalities are nothing to open a viewer with.
_NOT_IMAGES = frozenset({"SR", "PR", "KO", "DOC", "SEG", "REG", "AU", "PLAN", "RTSTRUCT", "RTPLAN", "FID", "STAIN"})
_WRITTEN = ("technique", "comparison", "findings", "impression")


def text_of(sections: Mapping[str, Any], indication: str) -> ReportText:
    return ReportText(indication=indication, **{name: str(sections.get(name) or "") for name in _WRITTEN})


def critical_of(sections: Mapping[str, Any]) -> CriticalResult:
    return CriticalResult(
        is_critical=bool(sections.get("is_critical")),
        statement=str(sections.get("critical_statement") or ""),
        communicated_to=str(sections.get("critical_communicated_to") or ""),
        communicated_at=_instant(str(sections.get("critical_communicated_at") or "")),
    )


def said_of(study: Study) -> tuple[str, ...]:
    """What a reader must know of the study beside the images: whether some stayed at the hospital."""
    words = held_back_words(study)
    return (f"{words[0].upper()}{words[1:]}.",) if words else ()


def kinds_for(session: Session, study: Study, step: ProcedureStep) -> tuple[Choice, ...]:
    """What may be signed in this step; the law is asked again when it is."""
    if has_final(session, study):
        is_later = step.is_addendum or is_amended_since_report(session, step)
        kinds = [ReportKind.ADDENDUM, ReportKind.CORRECTION] if is_later else []
    elif "PRELIMINARY_ONLY" in step.obligations:
        kinds = [ReportKind.PRELIMINARY]
    else:
        kinds = [ReportKind.FINAL, ReportKind.PRELIMINARY]
    return tuple(Choice(kind.value, KIND_WORDS[kind]) for kind in kinds)


def obstacles(sections: Mapping[str, Any], kind: str, kinds: Sequence[Choice], now: datetime) -> list[str]:
    """What keeps this draft from being signed, in sentences; signing would refuse it for the same."""
    found = [] if kind in {choice.value for choice in kinds} else ["This kind of report cannot be signed here. Choose another one."]
    needed = ("findings", "impression") if kind in (ReportKind.FINAL, ReportKind.CORRECTION) else ()
    found += [f"{name.capitalize()} is empty; a {kind.lower()} report needs it." for name in needed if not sections.get(name)]
    if not (sections.get("findings") or sections.get("impression") or found):
        found.append("Findings and impression are both empty.")
    for name in SECTIONS:
        try:
            require_text(name, sections.get(name, ""), characters_max=SECTION_CHARACTERS_MAX, lines=True, empty=True)
        except RefusedContent:
            found.append(f"{name.capitalize()} holds a character that cannot be signed: invisible, or one that no printer shows.")
    critical = critical_of(sections)
    if critical.is_critical and not critical.statement:
        found.append("The critical result says no finding.")
    if critical.is_critical and bool(critical.communicated_to) != (critical.communicated_at is not None):
        found.append("The critical result says who was told or when, but not both.")
    if critical.communicated_at is not None and critical.communicated_at > now:
        found.append("The critical result was told in the future.")
    return found


def begun(draft: Draft, step: ProcedureStep, kinds: Sequence[Choice], wanted_kind: str) -> tuple[str, Draft]:
    """The kind and the text to begin with: an addendum starts empty, a correction with what it corrects."""
    values = [choice.value for choice in kinds]
    if draft.version == 0 and (step.is_addendum or ReportKind.ADDENDUM in values):
        kind = wanted_kind if wanted_kind in values else ReportKind.ADDENDUM.value
        return kind, Draft(0, {} if kind == ReportKind.ADDENDUM else draft.sections, None)
    kind = str(draft.sections.get("kind") or "")
    return (kind if kind in values else values[0] if values else ReportKind.FINAL.value), draft


def watermark(reader_name: str, now: datetime, grants: Sequence[ViewGrant]) -> str:
    """Who looks, when, and on which decision: what a photograph of the screen gives away."""
    mark = grants[0].decision_digest.removeprefix("sha256:")[:12] if grants else ""
    return " · ".join(part for part in (reader_name, f"{now:%Y-%m-%d %H:%M} UTC", mark) if part)


def patient_summary(study: Study) -> str:
    """What a reader needs of the patient and may know."""
    sex = {"F": "Female", "M": "Male", "O": "Other"}.get(study.patient_sex, "")
    age = study.patient_age
    years = f"{int(age[:3])} years" if age[:3].isdigit() and age.endswith("Y") else age
    return ", ".join(part for part in (sex, years) if part)


def href_of_study(session: Session, study: Study, *others: Study) -> str:
    """The viewer's address for `study`, first on its largest image series, with `others` beside it."""
    assert study.study_pk is not None
    images = [series for series in series_of(session, study.study_pk) if series.modality not in _NOT_IMAGES]
    largest = max(images, key=lambda series: series.instance_count, default=None)
    uids = [study.study_instance_uid, *(other.study_instance_uid for other in others)]
    return viewer_href(uids, largest.series_instance_uid if largest is not None else "")


def signed_reports(session: Session, study_key: StudyKey, study: Study) -> tuple[SignedReport, ...]:
    """The chain of the study, newest first, with how each is delivered."""
    chain = reports_of_study(session, study)
    superseding = {report.predecessor_digest for report in chain if report.kind in (ReportKind.FINAL, ReportKind.CORRECTION)}
    found = []
    for report in reversed(chain):
        content = open_report(study_key, report).content
        delivery, tone = delivery_state(session, report)
        found.append(
            SignedReport(
                kind=report.kind,
                reader_name=content.reader.display_name,
                signed_at=report.signed_at,
                digest=report.report_digest,
                text=_content_text(content),
                critical=_content_critical(content),
                is_superseded=report.report_digest in superseding,
                delivery=delivery,
                delivery_tone=tone,
            )
        )
    return tuple(found)


def signatures(session: Session, study: Study) -> tuple[SignedReport, ...]:
    """The chain of the study as anybody may know it who signed in it: kind, time and digest. No key is opened."""
    return tuple(
        SignedReport(kind=report.kind, reader_name="", signed_at=report.signed_at, digest=report.report_digest, text=ReportText())
        for report in reversed(reports_of_study(session, study))
    )


def delivery_state(session: Session, report: Report) -> tuple[str, Tone]:
    """How far a report is, in words: the worst of its deliveries."""
    states = session.exec(select(Delivery.state).where(Delivery.report_uid == report.report_uid)).all()
    if not states:
        return "No destination is configured", "warning"
    if DeliveryState.DEAD_LETTER in states:
        return "Not delivered: somebody has to look", "bad"
    return ("Delivered", "good") if all(state == DeliveryState.DELIVERED for state in states) else ("On its way", "neutral")


def priors_shown(session: Session, app: Application, study: Study, grants: Sequence[ViewGrant]) -> tuple[Prior, ...]:
    """The priors that were granted, newest first, each with its last report."""
    found = []
    for grant in grants:
        if grant.object_kind != "PRIOR":
            continue
        prior = study_by_pk(session, grant.study_pk)
        reports = session.exec(select(Report).where(Report.study_pk == prior.study_pk).order_by(col(Report.signed_at).desc())).first()
        text = _content_text(open_report(open_study_key(app.keys, prior), reports).content) if reports is not None else None
        found.append(
            (
                prior.study_date,
                Prior(
                    title=" ".join(part for part in (prior.modality, prior.description) if part),
                    interval=_interval(prior, study),
                    instance_count=prior.instance_count,
                    viewer_href=href_of_study(session, prior, study),
                    report=text,
                ),
            )
        )
    return tuple(prior for _, prior in sorted(found, key=lambda item: item[0], reverse=True))


def _interval(prior: Study, study: Study) -> str:
    try:
        earlier, later = (datetime.strptime(one.study_date, "%Y%m%d") for one in (prior, study))
    except ValueError:
        return "at another time"
    return relative_interval(earlier, later)


def _content_text(content: ReportContent) -> ReportText:
    return ReportText(
        indication=content.indication,
        technique=content.technique,
        comparison=content.comparison,
        findings=content.findings,
        impression=content.impression,
    )


def _content_critical(content: ReportContent) -> CriticalResult:
    critical = content.critical_result
    if critical is None:
        return CriticalResult()
    return CriticalResult(
        is_critical=True,
        statement=critical.statement,
        communicated_to=critical.communicated_to,
        communicated_at=critical.communicated_at,
    )


def _instant(text: str) -> datetime | None:
    """A draft is kept as it was written; an instant that is none is as good as none, and signing refuses it by name."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at if at.tzinfo is not None else None
