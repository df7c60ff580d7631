"""May this report be given to its hospital now? Asked at every attempt, before the identity is opened, and recorded.

- The reading was decided on when it happened; what is asked here is what forbids giving its result back. Prohibitions are asked of the
  reader and the reader's firm as they are today; consent, credentials, payer and login are not, unless a rule names DELIVER.
- Where the law says no, or sends it to a person, the delivery waits with the reasons, and is asked about again within fifteen minutes, at
  once when a register or the law changes. It never becomes a dead letter by waiting, and nothing of the patient is opened for it.
- The same no is recorded once: a delivery that waits for a month must not fill the log.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import String, cast, update
from sqlmodel import Session, col, func, select

from compliance import audit
from compliance.credential import require_reader
from compliance.decision import Decision, decide
from compliance.decision_log import record_decisions
from compliance.facts import gather_facts
from compliance.facts_vocabulary import DELIVER
from compliance.lawbook import LawBundle
from compliance.obligation import unmet_for_study
from compliance.study import Study
from crypto.keys import KeyStore
from reporting.delivery_queue import Delivery, DeliveryState
from reporting.report import Report

ACTOR = "readgate/deliver"
#: A delivery that waits for the law is asked about again after at most this long.
ASK_AGAIN = timedelta(minutes=15)
LAW_SAYS_NO = "LAW_SAYS_NO"
#: After this long a person is told: the hospital waits for a report that is signed.
LONG_DENIED = timedelta(hours=24)
# Compared as text: the column is JSON, which PostgreSQL does not compare.
_WAITS_FOR_THE_LAW = (col(Delivery.state) == DeliveryState.QUEUED, cast(col(Delivery.denied_reasons), String) != "[]")


def decide_delivery(
    session: Session, law: LawBundle, keys: KeyStore, delivery: Delivery, report: Report, study: Study, *, now: datetime
) -> bool:
    """Whether the report may leave for its hospital now; the decision is on record, and `delivery` (locked) says what it waits for.

    Raises: Conflict(CLOCK_BACKWARDS); IntegrityFailure.
    """
    facts, decision, reasons = _ask(session, law, keys, report, study, now)
    if reasons and reasons == delivery.denied_reasons:
        # An attempt may have failed for another cause since the law said no: what it waits for now is the law.
        delivery.last_reason, delivery.next_attempt_at = LAW_SAYS_NO, now + ASK_AGAIN
        session.add(delivery)
        return False
    record_decisions(session, [(facts, decision)], study_instance_uid=study.study_instance_uid, actor=ACTOR, at=now)
    delivery.decision_digest, delivery.denied_reasons = decision.digest, reasons
    session.add(delivery)
    if not reasons:
        return True
    delivery.last_reason, delivery.next_attempt_at = LAW_SAYS_NO, now + ASK_AGAIN
    audit.append(
        session,
        audit.AuditEvent(
            event_id=audit.EventId.EXPORT,
            event_type=audit.EventType.DELIVER,
            action=audit.Action.READ,
            actor=ACTOR,
            outcome=audit.Outcome.MINOR_FAILURE,
            hospital_id=delivery.hospital_id,
            study_instance_uid=study.study_instance_uid,
            object_id=delivery.report_uid,
            decision_digest=decision.digest,
            detail={"kind": delivery.kind, "reason": LAW_SAYS_NO, "reasons": reasons[:40], "state": delivery.state},
        ),
        at=now,
    )
    return False


def decide_download(
    session: Session, law: LawBundle, keys: KeyStore, report: Report, study: Study, *, actor: str, now: datetime
) -> tuple[str | None, list[str]]:
    """(digest of the decision, what it has against handing the report to its hospital's staff); recorded, whatever comes out.

    Nothing is decided, and the digest is None, for a report that the hospital has been given already.

    Raises: Conflict(CLOCK_BACKWARDS); IntegrityFailure.
    """
    is_given = session.exec(
        select(Delivery.delivery_pk).where(Delivery.report_uid == report.report_uid, Delivery.state == DeliveryState.DELIVERED)
    ).first()
    if is_given is not None:
        return None, []
    facts, decision, reasons = _ask(session, law, keys, report, study, now)
    record_decisions(session, [(facts, decision)], study_instance_uid=study.study_instance_uid, actor=actor, at=now)
    return decision.digest, reasons


def ask_waiting_deliveries_again(session: Session, *, now: datetime) -> int:
    """Deliveries that wait for the law are due now: something changed that may let them go; how many.

    Whatever else failed since the law said no: `last_reason` says what went wrong last, and not what the delivery waits for.
    """
    told = session.exec(
        update(Delivery)
        .where(*_WAITS_FOR_THE_LAW, col(Delivery.next_attempt_at) > now)
        .values(next_attempt_at=now)
        .execution_options(synchronize_session=False)
    )
    return told.rowcount


def long_denied(session: Session, *, now: datetime, hospital_id: str | None = None) -> list[Delivery]:
    """Deliveries that the law keeps from their hospital, of reports signed more than a day ago, the oldest first: a person has to look."""
    query = select(Delivery).where(*_WAITS_FOR_THE_LAW, col(Delivery.queued_at) <= now - LONG_DENIED)
    if hospital_id is not None:
        query = query.where(Delivery.hospital_id == hospital_id)
    return list(session.exec(query.order_by(col(Delivery.queued_at), col(Delivery.delivery_pk))).all())


def count_long_denied(session: Session, *, now: datetime) -> dict[str, int]:
    """How many `long_denied` there are, by hospital."""
    rows = session.exec(
        select(Delivery.hospital_id, func.count())
        .where(*_WAITS_FOR_THE_LAW, col(Delivery.queued_at) <= now - LONG_DENIED)
        .group_by(col(Delivery.hospital_id))
    ).all()
    return dict(rows)


def _ask(
    session: Session, law: LawBundle, keys: KeyStore, report: Report, study: Study, now: datetime
) -> tuple[dict[str, Any], Decision, list[str]]:
    """(facts, decision, what speaks against it); nothing is recorded."""
    reader = require_reader(session, report.reader_id)
    facts = gather_facts(session, action=DELIVER, study=study, reader=reader, login=None, at=now, keys=keys)
    facts["sources"]["object"] = f"report/{report.report_uid} of study/{study.study_instance_uid}"
    decision = decide(facts, law)
    return facts, decision, _reasons_against(decision, unmet_for_study(decision.obligations, law, study, facts, now))


def _reasons_against(decision: Decision, unmet: str | None) -> list[str]:
    if decision.outcome != "ALLOW":
        return list(decision.reasons) or ["DENIED"]
    return [unmet] if unmet is not None else []
