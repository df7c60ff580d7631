"""A study is complete when as many instances are there as the hospital said it has: without any quiet time.

The number comes from the order, or is stated for a study or an order by the hospital (STOW-RS credential, page, command). It is looked at
when instances get their rows and when it is stated; reaching it is the same word of the hospital as a storage commitment request.
Instances beyond it are late ones: they make an amendment by the usual way, after the quiet time.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlmodel import Session, col, select

from compliance import audit
from compliance.crosswalk import accession_lookup, study_lookup
from compliance.order import Order
from crypto.errors import BadInput
from gateway.application import Application
from gateway.intake_rows import ExpectedInstances, ReceivedOrder
from gateway.received import ReceivedState, ReceivedStudy

EXPECTED_MAX = 1_000_000


def expect_instances(
    app: Application, hospital_id: str, expected: int, *, actor: str, study_instance_uid: str = "", accession_number: str = ""
) -> int | None:
    """The study of this UID, or the one of this order, will have `expected` distinct instances; a newer number replaces an older one.

    How many are there, or None before the first. May be said at any time. Raises: BadInput unless exactly one of the names is given.
    """
    if bool(study_instance_uid) == bool(accession_number):
        raise BadInput("name the study by its Study Instance UID or by its accession number")
    if study_instance_uid:
        lookup = study_lookup(app.keys, hospital_id, study_instance_uid)
    else:
        lookup = accession_lookup(app.keys, hospital_id, accession_number)
    return expect_instances_of(app, hospital_id, lookup, expected, actor=actor, by="study" if study_instance_uid else "order")


def expect_instances_of(app: Application, hospital_id: str, lookup: str, expected: int, *, actor: str, by: str) -> int | None:
    """As `expect_instances`, of the study or order with this keyed lookup; `by` says in the log how it was named."""
    if not 1 <= expected <= EXPECTED_MAX:
        raise BadInput(f"the number of instances is 1 to {EXPECTED_MAX}")
    with app.database.transaction() as session:
        row = session.get(ExpectedInstances, lookup)
        if row is None:
            row = ExpectedInstances(lookup=lookup, hospital_id=hospital_id, expected=expected, stated_at=app.now())
        row.expected, row.stated_at = expected, app.now()
        session.add(row)
        session.flush()
        of_order = select(ReceivedOrder.received_study_pk).where(ReceivedOrder.order_lookup == lookup)
        studies = session.exec(
            select(ReceivedStudy)
            .where(
                ReceivedStudy.hospital_id == hospital_id,
                (col(ReceivedStudy.study_lookup) == lookup) | col(ReceivedStudy.received_study_pk).in_(of_order),
            )
            .with_for_update()
        ).all()
        _note_whole(session, studies, expected)
        audit.append(
            session,
            audit.AuditEvent(
                event_id=audit.EventId.PROCEDURE_RECORD,
                event_type=audit.EventType.RECEIVE,
                action=audit.Action.UPDATE,
                actor=actor,
                hospital_id=hospital_id,
                detail={"expected": expected, "by": by},
            ),
            at=app.now(),
        )
        return sum(study.instance_count for study in studies) if studies else None


def note_order_expects(session: Session, order: Order) -> None:
    """An order was filed that says how many instances its study has: one that has them already is whole."""
    if order.expected_instances is None:
        return
    studies = session.exec(
        select(ReceivedStudy)
        .join(ReceivedOrder, col(ReceivedOrder.received_study_pk) == ReceivedStudy.received_study_pk)
        .where(ReceivedOrder.order_lookup == order.order_lookup, ReceivedStudy.state == ReceivedState.RECEIVING)
        .with_for_update()
    ).all()
    # What was stated for the study itself counts before what its order says.
    _note_whole(session, [study for study in studies if expected_of(session, study) == order.expected_instances], order.expected_instances)


def _note_whole(session: Session, studies: Iterable[ReceivedStudy], expected: int) -> None:
    for study in studies:
        if study.state == ReceivedState.RECEIVING and study.instance_count >= expected:
            study.is_commitment_asked = True
            session.add(study)


def note_expected_reached(session: Session, studies: Iterable[tuple[ReceivedStudy, int]], order_lookups: dict[int, str]) -> None:
    """Studies that have just reached the number they are expected to have are whole. Each comes with its count before this batch."""
    for study, count_before in studies:
        assert study.received_study_pk is not None
        if study.received_study_pk in order_lookups and session.get(ReceivedOrder, study.received_study_pk) is None:
            session.add(ReceivedOrder(received_study_pk=study.received_study_pk, order_lookup=order_lookups[study.received_study_pk]))
        expected = expected_of(session, study)
        if expected is not None and count_before < expected <= study.instance_count:
            study.is_commitment_asked = True


def expected_of(session: Session, study: ReceivedStudy) -> int | None:
    """How many distinct instances the hospital said the study has; None where it said nothing."""
    stated = session.get(ExpectedInstances, study.study_lookup)
    if stated is not None:
        return stated.expected
    link = session.get(ReceivedOrder, study.received_study_pk)
    if link is None:
        return None
    stated = session.get(ExpectedInstances, link.order_lookup)
    if stated is not None:
        return stated.expected
    order = session.get(Order, link.order_lookup)
    return order.expected_instances if order is not None else None
