"""What of a received study is held back, and how the rows say so: the whole study, or instances one by one while the rest goes on.

Invariants
- Doubt about whose study it is, or which content is right, holds the whole study. Doubt about one instance holds that instance.
- A held instance points at its quarantine item; nothing points at an item that was settled.
- Every function here runs inside the caller's transaction, except `hold_study`, which is one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from sqlmodel import Session, col, func, select

from compliance.quarantine import QuarantineItem, QuarantineState, hold, supersede
from gateway.application import Application
from gateway.received import ReceivedInstance, ReceivedState, ReceivedStudy, locked_received_study

log = structlog.get_logger()
ACTOR = "readgate/deidentify"

DUPLICATE_UID_DIFFERENT_CONTENT = "DUPLICATE_UID_DIFFERENT_CONTENT"
SERIES_IN_TWO_STUDIES = "SERIES_IN_TWO_STUDIES"
INSTANCE_IN_TWO_STUDIES = "INSTANCE_IN_TWO_STUDIES"
#: Reasons that say the study, not an instance, is in doubt: whose it is, and what belongs to it.
OF_THE_WHOLE_STUDY = frozenset(
    {
        "SEVERAL_PATIENT_IDS",
        "PATIENT_ID_MISSING",
        "SEVERAL_STUDIES",
        "MISSING_UID",
        "UID_MISMATCH",
        DUPLICATE_UID_DIFFERENT_CONTENT,
        SERIES_IN_TWO_STUDIES,
        INSTANCE_IN_TWO_STUDIES,
        "SEVERAL_PATIENTS",
        "ORDER_OF_ANOTHER_PATIENT",
    }
)


@dataclass(frozen=True)
class Refusal:
    """Why an instance, or a study, cannot leave; `proposed` are boxes (x0, y0, x1, y1, why) a person may accept."""

    reason_code: str
    detail: str = ""
    tag: str | None = None
    proposed: tuple[tuple[int, int, int, int, str], ...] = ()


def hold_study(
    app: Application,
    received_study_pk: int,
    refusal: Refusal,
    instance_count: int,
    refusals: Sequence[tuple[ReceivedInstance, Refusal]] = (),
) -> None:
    """Nothing of the study goes on; the item names the reason, and each instance of `refusals` its own."""
    with app.database.transaction() as session:
        received = locked_received_study(session, received_study_pk)
        if received.state not in (ReceivedState.COMPLETE, ReceivedState.QUARANTINED):
            # Instances came meanwhile, or another process was first: the next generation decides about all of it.
            return
        received.state = ReceivedState.QUARANTINED
        session.add(received)
        partial = partial_items(session, received_study_pk)
        item = _item(session, received, refusal, instance_count, is_partial=False, now=app.now())
        _mark(session, item, refusals)
        supersede(session, received_study_pk, partial | {item}, actor=ACTOR, now=app.now())
    log.warning("study_quarantined", received_study_pk=received_study_pk, reason=refusal.reason_code, tag=refusal.tag)


def hold_instances(
    session: Session, received: ReceivedStudy, refusals: Sequence[tuple[ReceivedInstance, Refusal]], *, now: datetime
) -> dict[str, int]:
    """The instances are held back one by one, the rest of the study goes on; how many are held now, by reason code."""
    assert received.received_study_pk is not None
    standing = partial_items(session, received.received_study_pk)
    by_reason: dict[str, list[tuple[ReceivedInstance, Refusal]]] = {}
    for row, refusal in refusals:
        by_reason.setdefault(refusal.reason_code, []).append((row, refusal))
    kept: set[int] = set()
    for own in by_reason.values():
        item = _item(session, received, own[0][1], len(own), is_partial=True, now=now)
        _mark(session, item, own)
        kept.add(item)
    session.flush()
    counts: Counter[str] = Counter()
    for item_pk in sorted(set(standing) | kept):
        count = session.exec(select(func.count()).where(ReceivedInstance.held_item_pk == item_pk)).one()
        kept_item = session.get(QuarantineItem, item_pk)
        if kept_item is not None and count:
            kept_item.instance_count = count
            session.add(kept_item)
            counts[kept_item.reason_code] += count
            kept.add(item_pk)
    supersede(session, received.received_study_pk, frozenset(kept), actor=ACTOR, now=now)
    return dict(counts)


def partial_items(session: Session, received_study_pk: int) -> frozenset[int]:
    """Items that hold single instances of a study of which the rest went on: those wait for a person, whatever else arrives."""
    found = session.exec(
        select(QuarantineItem.item_pk).where(
            QuarantineItem.received_study_pk == received_study_pk,
            QuarantineItem.state == QuarantineState.HELD,
            col(QuarantineItem.is_partial),
        )
    ).all()
    return frozenset(item_pk for item_pk in found if item_pk is not None)


def free_instances(session: Session, item_pk: int, *, is_left_out: bool) -> None:
    """What the item held is processed with the study's next generation, or (`is_left_out`) never."""
    for row in session.exec(select(ReceivedInstance).where(ReceivedInstance.held_item_pk == item_pk)).all():
        row.held_item_pk, row.held_detail, row.held_boxes, row.is_left_out = None, "", [], is_left_out
        session.add(row)


def left_out_count(session: Session, received_study_pk: int) -> int:
    return session.exec(
        select(func.count()).where(ReceivedInstance.received_study_pk == received_study_pk, col(ReceivedInstance.is_left_out))
    ).one()


def _item(session: Session, received: ReceivedStudy, refusal: Refusal, count: int, *, is_partial: bool, now: datetime) -> int:
    assert received.received_study_pk is not None
    item = hold(
        session,
        hospital_id=received.hospital_id,
        received_study_pk=received.received_study_pk,
        reason_code=refusal.reason_code,
        element_tag=refusal.tag,
        detail=refusal.detail,
        instance_count=count,
        actor=ACTOR,
        now=now,
        is_partial=is_partial,
    )
    assert item.item_pk is not None
    return item.item_pk


def _mark(session: Session, item_pk: int, refusals: Sequence[tuple[ReceivedInstance, Refusal]]) -> None:
    for row, refusal in refusals:
        kept = session.get(ReceivedInstance, row.instance_pk)
        if kept is not None:
            boxes: list[Any] = [list(box) for box in refusal.proposed]
            kept.held_item_pk, kept.held_detail, kept.held_boxes = item_pk, refusal.detail or refusal.reason_code, boxes
            session.add(kept)
    session.flush()
