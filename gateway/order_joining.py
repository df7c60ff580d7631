"""An order and its study find each other whichever came first: the order's cleaned text, priority and payer stand with the study.

An order that comes after its study, or changes after it, opens the study for another generation: the usual job reads the whole identity
again, holds the study where the order names another patient, and registers. A step that is open is amended where that changed anything;
a study that was reported is given its order and makes no new work.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlmodel import Session, col, or_, select

from compliance import audit
from compliance.crosswalk import accession_lookup
from compliance.order import Order
from compliance.study import Study, StudyStatus, open_order_text, seal_order_text
from crypto.keys import StudyKey
from gateway.application import Application
from gateway.intake_rows import ReceivedOrder
from gateway.received import ReceivedState, ReceivedStudy, locked_received_study
from worklist.workitem import locked_open_steps

ACTOR = "readgate/orders"


def join_late_orders(app: Application) -> int:
    """Studies whose order came or changed after they were registered are on their way to be joined with it; how many."""
    is_late = or_(col(ReceivedOrder.joined_at).is_(None), col(ReceivedOrder.joined_at) < Order.received_at)
    with app.database.reading() as session:
        late = session.exec(
            select(ReceivedOrder.received_study_pk)
            .join(Order, col(Order.order_lookup) == ReceivedOrder.order_lookup)
            .join(ReceivedStudy, col(ReceivedStudy.received_study_pk) == ReceivedOrder.received_study_pk)
            .join(Study, col(Study.study_instance_uid) == ReceivedStudy.study_instance_uid)
            .where(is_late, ReceivedStudy.state == ReceivedState.AVAILABLE, Study.status == StudyStatus.AVAILABLE)
        ).all()
    count = 0
    for received_study_pk in late:
        with app.database.transaction() as session:
            received = locked_received_study(session, received_study_pk)
            if received.state != ReceivedState.AVAILABLE:
                continue
            received.state, received.generation, received.complete_at = ReceivedState.COMPLETE, received.generation + 1, app.now()
            session.add(received)
            count += 1
    return count


def note_order_missing(session: Session, app: Application, received: ReceivedStudy, accession_number: str) -> None:
    """The study was registered without an order: it is linked to the accession number it is known by, and to no other it may also carry.

    An order that comes under that number is found from here on; one under another number opens the study no more.
    """
    link = session.get(ReceivedOrder, received.received_study_pk)
    lookup = accession_lookup(app.keys, received.hospital_id, accession_number) if accession_number else ""
    if lookup:
        if link is None:
            assert received.received_study_pk is not None
            link = ReceivedOrder(received_study_pk=received.received_study_pk, order_lookup=lookup)
        # One that was filed while the study was registered is late, and found by the next look.
        link.order_lookup, link.joined_at = lookup, None
    elif link is not None:
        link.joined_at = app.now()
    if link is not None:
        session.add(link)


def join_order(
    session: Session,
    study: Study,
    study_key: StudyKey,
    received_study_pk: int,
    order: Order,
    texts: Mapping[str, str],
    *,
    payer_kind: str | None,
    is_new: bool,
    app: Application,
) -> None:
    """The study carries the order from here on. `is_new`: it is being registered, or amended by images anyway."""
    before = (open_order_text(study_key, study), study.priority, study.payer_kind)
    study.priority, study.payer_kind = order.priority, payer_kind or study.payer_kind
    study.order_text_sealed = seal_order_text(study_key, study, dict(texts))
    link = session.get(ReceivedOrder, received_study_pk)
    if link is None:
        link = ReceivedOrder(received_study_pk=received_study_pk, order_lookup=order.order_lookup)
    link.order_lookup, link.joined_at = order.order_lookup, order.received_at
    session.add(link)
    is_changed = before != (dict(texts), study.priority, study.payer_kind)
    if is_new or not is_changed:
        return
    assert study.study_pk is not None
    is_open = bool(locked_open_steps(session, study.study_pk))
    if is_open:
        # Route marks the step with it, before anybody signs: the reader is told, and what was read before is not what is signed.
        study.amendment += 1
    audit.append(
        session,
        audit.AuditEvent(
            event_id=audit.EventId.ORDER_RECORD,
            event_type=audit.EventType.AMENDED,
            action=audit.Action.UPDATE,
            actor=ACTOR,
            hospital_id=study.hospital_id,
            study_instance_uid=study.study_instance_uid,
            object_id=f"received/{received_study_pk}",
            detail={"priority": study.priority, "is_step_open": is_open, "amendment": study.amendment},
        ),
        at=app.now(),
    )
