"""What a person may do with a held study: try again, settle which of two contents is right, reject it.

Each act changes the item, the received study and the log in one transaction: if we crash before it commits, the study is held as before;
after it, the worker's next round finds the study COMPLETE and processes it again. There is no act that shows a study which did not pass
de-identification: what a person confirms by looking cannot be proved later.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlmodel import Session

from compliance.database import Database
from compliance.quarantine import QuarantineItem, QuarantineState, settle
from crypto.errors import BadInput, Conflict, NotFound
from crypto.keys import KeyStore
from gateway.received import ReceivedInstance, ReceivedState, ReceivedStudy, distinct_instances, locked_received_study
from gateway.study_holds import DUPLICATE_UID_DIFFERENT_CONTENT, free_instances

KEEP_FIRST, KEEP_LAST = "KEEP_FIRST", "KEEP_LAST"
#: Reason of quarantine -> what can be mended here, with its words. Everything else is mended at the sender.
REPAIRS: dict[str, dict[str, str]] = {
    DUPLICATE_UID_DIFFERENT_CONTENT: {
        KEEP_FIRST: "Read the instance that came first, leave the later one out",
        KEEP_LAST: "Read the instance that came last, leave the earlier one out",
    }
}


@dataclass(frozen=True)
class Said:
    """What a person of the hospital says about one item, and why."""

    hospital_id: str | None
    quarantine_id: str
    actor: str
    note: str
    now: datetime


def own_item(session: Session, hospital_id: str | None, quarantine_id: str) -> QuarantineItem:
    """Raises: NotFound, for another hospital's item as for none."""
    is_number = quarantine_id.isascii() and quarantine_id.isdigit() and len(quarantine_id) < 16
    item = session.get(QuarantineItem, int(quarantine_id)) if is_number else None
    if item is None or item.hospital_id != hospital_id:
        raise NotFound("no such item")
    return item


def can_settle(item: QuarantineItem, study: ReceivedStudy) -> bool:
    """Whether a person can decide about the item now: single instances at any time but while their study is being processed."""
    if item.state != QuarantineState.HELD:
        return False
    # An item held in a rejected study says that the study came again.
    return study.state != ReceivedState.COMPLETE if item.is_partial else study.state in (ReceivedState.QUARANTINED, ReceivedState.REJECTED)


def try_again(database: Database, keys: KeyStore, said: Said) -> None:
    """The study is de-identified again from its sealed originals. Raises: NotFound, Conflict when somebody decided already."""
    with database.transaction() as session:
        release_in(session, keys, said)


def release_in(session: Session, keys: KeyStore, said: Said) -> None:
    """`try_again` within the caller's transaction. Raises: NotFound, Conflict."""
    item, study = _open_item(session, said)
    _process_again(session, item, study, said.now)
    _settle(session, keys, item, QuarantineState.RELEASED, said)


def reject(database: Database, keys: KeyStore, said: Said) -> None:
    """The study is never read; its sealed originals stay until they are shredded. Raises: NotFound, Conflict."""
    with database.transaction() as session:
        item, study = _open_item(session, said)
        _reject(session, item, study, said.now)
        _settle(session, keys, item, QuarantineState.REJECTED, said)


def repair(database: Database, keys: KeyStore, said: Said, chosen: str) -> None:
    """The conflict is settled as chosen and the study is de-identified again. Raises: NotFound, Conflict, BadInput."""
    with database.transaction() as session:
        item, study = _open_item(session, said)
        if chosen not in REPAIRS.get(item.reason_code, {}):
            raise BadInput("there is no such repair for this reason")
        _keep_one_content(session, item.received_study_pk, is_first=chosen == KEEP_FIRST)
        _process_again(session, item, study, said.now)
        _settle(session, keys, item, QuarantineState.RELEASED, said, repair=chosen)


def _open_item(session: Session, said: Said) -> tuple[QuarantineItem, ReceivedStudy]:
    item = own_item(session, said.hospital_id, said.quarantine_id)
    study = locked_received_study(session, item.received_study_pk)
    if not can_settle(item, study):
        raise Conflict("ALREADY_SETTLED", "the study is on its way again")
    return item, study


def _settle(session: Session, keys: KeyStore, item: QuarantineItem, state: QuarantineState, said: Said, *, repair: str = "") -> None:
    assert item.item_pk is not None
    settle(session, keys, item.item_pk, state, actor=said.actor, note=said.note, now=said.now, repair=repair)


def _process_again(session: Session, item: QuarantineItem, study: ReceivedStudy, now: datetime) -> None:
    assert item.item_pk is not None
    free_instances(session, item.item_pk, is_left_out=False)
    _next_generation(session, study, now)


def _reject(session: Session, item: QuarantineItem, study: ReceivedStudy, now: datetime) -> None:
    assert item.item_pk is not None
    if item.is_partial:
        # The rest of the study is being read; its manifest is made anew and says that these are left out.
        free_instances(session, item.item_pk, is_left_out=True)
        _next_generation(session, study, now)
        return
    study.state = ReceivedState.REJECTED
    session.add(study)


def _next_generation(session: Session, study: ReceivedStudy, now: datetime) -> None:
    if study.state == ReceivedState.RECEIVING:
        return  # the generation that is arriving takes what was freed with it
    study.state, study.generation, study.complete_at = ReceivedState.COMPLETE, study.generation + 1, now
    session.add(study)


def _keep_one_content(session: Session, received_study_pk: int, *, is_first: bool) -> None:
    """Of instances under one UID the first or the last stays; the others are set aside as repetitions, their bytes kept where they lie."""
    groups: dict[str, list[ReceivedInstance]] = {}
    for row in distinct_instances(session, received_study_pk):
        groups.setdefault(row.instance_lookup, []).append(row)
    for rows in groups.values():
        kept = rows[0 if is_first else -1]
        for row in rows:
            row.is_conflicting, row.is_duplicate = False, row is not kept
            session.add(row)
