"""Deliveries as pages show them: pseudonymous, with constant codes only, to the hospital's staff and to operators alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlmodel import Session, col, select

from compliance.hospital import Hospital, ReportTarget, TargetKind
from compliance.study import Study
from gateway.reading_desk import KIND_WORDS
from gateway.reason_words import reason_sentence
from gateway.web.contexts import Reason, Tone
from gateway.web.contexts_oversight import DeliveryRow
from gateway.web.rendering import instant
from reporting.content import ReportKind
from reporting.delivery_queue import Delivery, DeliveryState
from reporting.report import Report


def delivery_rows(session: Session, deliveries: Sequence[Delivery], *, may_release: bool) -> tuple[DeliveryRow, ...]:
    """One row per delivery, in the order given."""
    reports = _by_key(session, Report, Report.report_uid, [row.report_uid for row in deliveries])
    targets = _by_key(session, ReportTarget, ReportTarget.target_pk, [row.target_pk for row in deliveries])
    studies = _by_key(session, Study, Study.study_pk, [report.study_pk for report in reports.values()])
    hospitals = _by_key(session, Hospital, Hospital.hospital_id, [row.hospital_id for row in deliveries])
    found = []
    for row in deliveries:
        report = reports[row.report_uid]
        status, tone = status_of(row)
        found.append(
            DeliveryRow(
                delivery_id=str(row.delivery_pk),
                document=f"{KIND_WORDS[ReportKind(report.kind)]} report",
                channel=channel_of(targets[row.target_pk]),
                status=status,
                tone=tone,
                attempts=row.attempts,
                last_error="" if is_denied(row) else row.last_reason or "",
                reasons=tuple(Reason(code=code, text=reason_sentence(code)) for code in row.denied_reasons) if is_denied(row) else (),
                decision_digest=row.decision_digest or "",
                next_attempt_at=row.next_attempt_at if row.state == DeliveryState.QUEUED and (row.attempts or is_denied(row)) else None,
                receipt=_receipt(row),
                pseudonym=studies[report.study_pk].patient_pseudonym,
                hospital_name=hospitals[row.hospital_id].name,
                may_release=may_release and row.state == DeliveryState.DEAD_LETTER,
            )
        )
    return tuple(found)


def is_denied(delivery: Delivery) -> bool:
    """Whether it waits because the law does not let it leave."""
    return delivery.state == DeliveryState.QUEUED and bool(delivery.denied_reasons)


def status_of(delivery: Delivery) -> tuple[str, Tone]:
    if delivery.state == DeliveryState.DELIVERED:
        return "Delivered", "good"
    if delivery.state == DeliveryState.DEAD_LETTER:
        return "Dead letter", "bad"
    if is_denied(delivery):
        return "Held back by the law", "bad"
    return ("Waiting for the next try", "warning") if delivery.attempts else ("On its way", "neutral")


def channel_of(target: ReportTarget) -> str:
    if target.kind == TargetKind.DICOM:
        return f"Encapsulated PDF to {target.ae_title or 'the archive'} by C-STORE"
    return f"ORU^R01 to {target.host}:{target.port} by MLLP"


def _receipt(delivery: Delivery) -> str:
    """What the receiver answered, in its own constants."""
    if delivery.receipt is None or delivery.delivered_at is None:
        return ""
    words = ", ".join(str(delivery.receipt[name]) for name in sorted(delivery.receipt))
    return f"{words}, {instant(delivery.delivered_at)}"


def _by_key(session: Session, kind: type[Any], column: Any, keys: Sequence[Any]) -> dict[Any, Any]:
    if not keys:
        return {}
    return {getattr(row, column.key): row for row in session.exec(select(kind).where(col(column).in_(set(keys)))).all()}
