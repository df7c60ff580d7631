"""How far a study is on its way through the nine steps, from the rows that each step leaves behind. Nothing here names a patient."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlmodel import Session, col, func, select

from compliance.principal import Principal
from compliance.quarantine import QuarantineItem, QuarantineState
from compliance.study import Study, StudyStatus
from gateway.application import Application
from gateway.delivery_rows import delivery_rows, is_denied
from gateway.expected_instances import expected_of
from gateway.reading_desk import KIND_WORDS
from gateway.reason_words import held_words, reason_sentence
from gateway.received import ReceivedState, ReceivedStudy
from gateway.study_why import held_up_words, nearest_words, refused_reasons
from gateway.web.contexts import Tone
from gateway.web.contexts_oversight import DeliveryRow, LifeStep, WhyUnclaimed
from reporting.content import ReportKind
from reporting.delivery_queue import Delivery, DeliveryState
from reporting.report import Report, ReportDraft
from reporting.report_copy import ReportCopy
from worklist.procedure_step import State
from worklist.routed_reader import has_eligible
from worklist.unclaimed import Presence, Unclaimed, gather_presence, why_step_unclaimed
from worklist.view_grant import ViewGrant
from worklist.workitem import ProcedureStep

NAMES = ("Received", "De-identified", "Sealed", "Routed", "Claimed", "Viewed", "Reported", "Signed", "Delivered")


@dataclass(frozen=True)
class StudyLife:
    status: str
    tone: Tone
    steps: tuple[LifeStep, ...]
    due_at: datetime | None = None
    unclaimed: WhyUnclaimed | None = None
    #: Where a person decides about what is held of it.
    quarantine_href: str | None = None
    deliveries: tuple[DeliveryRow, ...] = ()
    #: How many images the hospital said there are; None where it said nothing.
    expected_count: int | None = None
    #: "Final report (PDF)", or "" while there is no copy.
    copy_label: str = ""


@dataclass(frozen=True)
class _Traces:
    """What the steps have left of one study."""

    steps: tuple[ProcedureStep, ...] = ()
    reports: tuple[Report, ...] = ()
    deliveries: tuple[Delivery, ...] = ()
    viewed_at: datetime | None = None
    written_at: datetime | None = None
    copied: frozenset[str] = frozenset()

    @property
    def open_step(self) -> ProcedureStep | None:
        waiting = [step for step in self.steps if step.state in (State.SCHEDULED, State.IN_PROGRESS) and not step.is_addendum]
        return waiting[-1] if waiting else None


def gather_lives(
    session: Session, app: Application, received: Sequence[ReceivedStudy], studies: Mapping[str, Study]
) -> dict[int, StudyLife]:
    """The life of each received study, by its key; a handful of queries however many studies there are."""
    traces = _gather(session, [study.study_pk for study in studies.values() if study.study_pk is not None])
    held = {
        item.received_study_pk: item
        for item in session.exec(
            select(QuarantineItem).where(
                col(QuarantineItem.received_study_pk).in_([row.received_study_pk for row in received]),
                QuarantineItem.state == QuarantineState.HELD,
            )
        ).all()
    }
    names = _holder_names(session, traces.values())
    presence = gather_presence(session, now=app.now())
    lives = {}
    for row in received:
        study = studies.get(row.study_instance_uid or "")
        trace = traces.get(study.study_pk or 0, _Traces()) if study is not None else _Traces()
        pk = row.received_study_pk or 0
        lives[pk] = _life(session, app, row, study, trace, held.get(pk), names, presence)
    return lives


def newest_copied_report(session: Session, study_pk: int) -> Report | None:
    """The newest report of which the hospital's copy has been made; it shows its predecessors."""
    return session.exec(
        select(Report)
        .join(ReportCopy, col(ReportCopy.report_uid) == Report.report_uid)
        .where(Report.study_pk == study_pk)
        .order_by(col(Report.signed_at).desc())
        .limit(1)
    ).first()


def _gather(session: Session, study_pks: Sequence[int]) -> dict[int, _Traces]:
    steps = session.exec(
        select(ProcedureStep).where(col(ProcedureStep.study_pk).in_(study_pks)).order_by(col(ProcedureStep.scheduled_at))
    ).all()
    reports = session.exec(select(Report).where(col(Report.study_pk).in_(study_pks)).order_by(col(Report.signed_at))).all()
    report_uids = [report.report_uid for report in reports]
    deliveries = session.exec(
        select(Delivery).where(col(Delivery.report_uid).in_(report_uids)).order_by(col(Delivery.queued_at), col(Delivery.delivery_pk))
    ).all()
    copied = set(session.exec(select(ReportCopy.report_uid).where(col(ReportCopy.report_uid).in_(report_uids))).all())
    viewed = dict(
        session.exec(
            select(ViewGrant.study_pk, func.min(ViewGrant.granted_at))
            .where(col(ViewGrant.study_pk).in_(study_pks), ViewGrant.object_kind == "CURRENT")
            .group_by(col(ViewGrant.study_pk))
        ).all()
    )
    written = dict(
        session.exec(
            select(ReportDraft.study_pk, func.min(ReportDraft.saved_at))
            .where(col(ReportDraft.study_pk).in_(study_pks))
            .group_by(col(ReportDraft.study_pk))
        ).all()
    )
    found = {}
    for pk in study_pks:
        own = tuple(report for report in reports if report.study_pk == pk)
        own_uids = {report.report_uid for report in own}
        found[pk] = _Traces(
            steps=tuple(step for step in steps if step.study_pk == pk),
            reports=own,
            deliveries=tuple(row for row in deliveries if row.report_uid in own_uids),
            viewed_at=viewed.get(pk),
            written_at=written.get(pk),
            copied=frozenset(own_uids & copied),
        )
    return found


def _life(
    session: Session,
    app: Application,
    row: ReceivedStudy,
    study: Study | None,
    trace: _Traces,
    held: QuarantineItem | None,
    names: Mapping[str, str],
    presence: Presence,
) -> StudyLife:
    status, tone = _status(session, app, row, study, trace)
    expected = expected_of(session, row)
    step = trace.open_step
    found = why_step_unclaimed(session, app.law, step, presence) if step is not None and step.state == State.SCHEDULED else None
    copied = [report for report in trace.reports if report.report_uid in trace.copied]
    return StudyLife(
        status=status,
        tone=tone,
        steps=_steps(row, study, trace, held, names, expected),
        expected_count=expected,
        due_at=step.expected_completion_at if step is not None else None,
        unclaimed=_why(found) if found is not None else None,
        quarantine_href=f"/quarantine/{held.item_pk}" if held is not None else None,
        deliveries=delivery_rows(session, trace.deliveries, may_release=True),
        copy_label=f"{KIND_WORDS[ReportKind(copied[-1].kind)]} report (PDF)" if copied else "",
    )


def _why(found: Unclaimed) -> WhyUnclaimed:
    return WhyUnclaimed(
        headline=found.headline,
        waiting_since=found.waiting_since,
        is_open=not found.ready,
        held_up=tuple(held_up_words(code, count) for code, count in found.held_up.items()),
        nearest=tuple(nearest_words(one) for one in found.nearest),
        refused=refused_reasons(found),
    )


def _status(session: Session, app: Application, row: ReceivedStudy, study: Study | None, trace: _Traces) -> tuple[str, Tone]:
    if study is not None and study.status == StudyStatus.SHREDDED:
        return "Deleted", "neutral"
    if row.state == ReceivedState.QUARANTINED:
        return "In quarantine" if study is None else "Added images in quarantine", "bad"
    if row.state == ReceivedState.REJECTED:
        return "Rejected", "neutral"
    if row.state in (ReceivedState.RECEIVING, ReceivedState.COMPLETE):
        return "Being received" if study is None else "Images are being added", "neutral"
    step = trace.open_step
    if step is not None and step.state == State.IN_PROGRESS:
        return "Being read", "neutral"
    if step is not None:
        if not has_eligible(session, step.study_pk):
            return "No reader may read it", "bad"
        return ("Waiting for a reader, overdue", "bad") if step.expected_completion_at < app.now() else ("Waiting for a reader", "warning")
    if not trace.reports:
        return "Being routed", "neutral"
    states = {delivery.state for delivery in trace.deliveries}
    if DeliveryState.DEAD_LETTER in states:
        return "Report not delivered", "bad"
    if any(is_denied(delivery) for delivery in trace.deliveries):
        return "Report held back by the law", "bad"
    if not states:
        return "Reported; no destination is configured", "warning"
    return ("Report delivered", "good") if states == {DeliveryState.DELIVERED} else ("Report on its way", "neutral")


def _steps(
    row: ReceivedStudy,
    study: Study | None,
    trace: _Traces,
    held: QuarantineItem | None,
    names: Mapping[str, str],
    expected: int | None,
) -> tuple[LifeStep, ...]:
    delivered = [delivery.delivered_at for delivery in trace.deliveries]
    claimed = [step for step in trace.steps if step.claimed_at is not None]
    at: list[datetime | None] = [
        row.first_at,
        study.available_at if study is not None else None,
        study.available_at if study is not None else None,
        trace.steps[0].scheduled_at if trace.steps else None,
        claimed[0].claimed_at if claimed else None,
        trace.viewed_at,
        trace.written_at,
        trace.reports[0].signed_at if trace.reports else None,
        max(filter(None, delivered), default=None) if delivered and all(delivered) else None,
    ]
    details = [""] * len(NAMES)
    # A number that was said and not reached is no reason to wait for ever, and one for a person to look.
    of_expected = f" of {expected}" if expected is not None and expected != row.instance_count else ""
    details[0] = f"{row.instance_count}{of_expected} {'image' if row.instance_count == 1 and not of_expected else 'images'}"
    details[4] = _claim_detail(trace, claimed, names)
    if trace.reports:
        details[7] = ", ".join(KIND_WORDS[ReportKind(report.kind)] for report in trace.reports)
    failed: set[int] = set()
    if held is not None or row.state == ReceivedState.REJECTED:
        failed.add(1)
        details[1] = held_words(held.reason_code)[0].partition(".")[0] if held is not None else "Rejected"
    if any(delivery.state == DeliveryState.DEAD_LETTER or is_denied(delivery) for delivery in trace.deliveries):
        failed.add(8)
        at[8] = None
        against = dict.fromkeys(reason for delivery in trace.deliveries if is_denied(delivery) for reason in delivery.denied_reasons)
        details[8] = " ".join(reason_sentence(reason) for reason in against)
    present = next((number for number, moment in enumerate(at) if moment is None), len(at))
    return tuple(
        LifeStep(
            name=name,
            at=at[number],
            state="failed" if number in failed else "done" if at[number] is not None else "now" if number == present else "waiting",
            detail=details[number],
        )
        for number, name in enumerate(NAMES)
    )


def _claim_detail(trace: _Traces, claimed: Sequence[ProcedureStep], names: Mapping[str, str]) -> str:
    """Who holds it, or how the last claim ended: a right that was revoked is seen here."""
    if not claimed:
        return ""
    last = claimed[-1]
    holder = names.get(last.claiming_reader_id or "", "a reader")
    if last.state != State.CANCELED:
        return holder
    reason, _, stated = (last.cancellation_reason or "").partition(": ")
    ends = {"RELEASED_BY_READER": f"given back by {holder}", "LEASE_EXPIRED": f"the claim of {holder} ran out"}
    ended = ends.get(reason, f"the right of {holder} ended. {reason_sentence(reason)}")
    return f"{ended}: {stated}" if stated else ended


def _holder_names(session: Session, traces: Iterable[_Traces]) -> dict[str, str]:
    ids = {step.claiming_reader_id for trace in traces for step in trace.steps if step.claiming_reader_id}
    rows = session.exec(select(Principal.principal_id, Principal.display_name).where(col(Principal.principal_id).in_(ids))).all()
    return dict(rows)
