"""May this report be given to its hospital now? Asked at every attempt, before the identity is opened, and recorded.

- The reading was decided on when it happened; what is asked here is what forbids giving its result back. Prohibitions are asked of the
  reader and the reader's firm as they are today; consent, credentials, payer and login are not, unless a rule names DELIVER.
- Where the law says no, or sends it to a person, the delivery waits with the reasons, and is asked about again within fifteen minutes, at
  once when a register or the law changes. It never becomes a dead letter by waiting, and nothing of the patient is opened for it.
- The same no is recorded once: a delivery that waits for a month must not fill the log.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlmodel import Session, col, select

from compliance import audit
from compliance.credential import require_reader
from compliance.decision import Decision, decide
from compliance.decision_log import decide_and_record
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


def decide_delivery(
    session: Session, law: LawBundle, keys: KeyStore, delivery: Delivery, report: Report, study: Study, *, now: datetime
) -> bool:
    """Whether the report may leave for its hospital now; the decision is on record, and `delivery` (locked) says what it waits for.

    Raises: Conflict(CLOCK_BACKWARDS); IntegrityFailure.
    """
    reader = require_reader(session, report.reader_id)
    facts = gather_facts(session, action=DELIVER, study=study, reader=reader, login=None, at=now, keys=keys)
    facts["sources"]["object"] = f"report/{report.report_uid} of study/{study.study_instance_uid}"
    asked = decide(facts, law)
    reasons = _reasons_against(asked, unmet_for_study(asked.obligations, law, study, facts, now))
    if reasons and reasons == delivery.denied_reasons:
        delivery.next_attempt_at = now + ASK_AGAIN
        session.add(delivery)
        return False
    decision = decide_and_record(session, law, facts, study_instance_uid=study.study_instance_uid, actor=ACTOR, at=now)
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


def ask_waiting_deliveries_again(session: Session, *, now: datetime) -> int:
    """Deliveries that wait for the law are due now: something changed that may let them go; how many."""
    waiting = session.exec(
        select(Delivery).where(
            Delivery.state == DeliveryState.QUEUED, Delivery.last_reason == LAW_SAYS_NO, col(Delivery.next_attempt_at) > now
        )
    ).all()
    for delivery in waiting:
        delivery.next_attempt_at = now
        session.add(delivery)
    return len(waiting)


def _reasons_against(decision: Decision, unmet: str | None) -> list[str]:
    if decision.outcome != "ALLOW":
        return list(decision.reasons) or ["DENIED"]
    return [unmet] if unmet is not None else []
