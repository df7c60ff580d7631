"""Originals move from the spool into the vault: the study's own job moves them all, and while they come in workers move them ahead.

Invariants
- One at a time is at a study: who archives holds its claim, a time in its row. What others read and sealed meanwhile would be for nothing.
- Nothing depends on the claim: it ends by itself, and of two who were at it all the same the one whose rows were written first is kept.
  The study's row is locked while they are written; a pack that the other put is condemned in its own transaction.
- A segment that was swept has its instances in the vault: who does not find it any more reads the row again.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlmodel import Session, col, or_, select, update

from crypto.errors import NotFound
from crypto.keys import StudyKey
from crypto.spool import FramePosition
from crypto.vault import SealedObject
from gateway.application import Application
from gateway.healthy_copy import spooled_original
from gateway.intake import read_spooled_payload
from gateway.received import ReceivedInstance, ReceivedStudy, distinct_instances, locked_received_study
from gateway.unsettled_packs import condemn_packs, seal_unsettled, settle_packs

#: Sealed together; a crash loses at most the work on this many bytes.
#: It lies in memory three times over while it is sealed: 16 MiB cost a worker 80 MB, 48 MiB cost it 190, and no batch size is quicker.
BATCH_BYTES = 16 * 1024 * 1024
#: However small they are: what is made of each takes memory beside its bytes.
BATCH_INSTANCES = 500
#: Longer than a batch takes on a slow store; after a crash nobody moves ahead in that study for so long.
CLAIM_TIME = timedelta(minutes=2)
#: What a batch usually takes: the study's job waits so long for who is ahead of it, and then goes on beside it.
_WAIT_SECONDS = 5.0
_POLL_SECONDS = 0.1
_ROWS_PER_QUERY = 500


def archive_originals(app: Application, received_study_pk: int) -> int:
    """Every original of the study lies in the vault; how many were moved now. Raises: IntegrityFailure, NotFound, TemporarilyUnable."""
    study_key = study_key_of(app, received_study_pk)
    with _claimed(app, received_study_pk, wait_seconds=_WAIT_SECONDS) as claim:
        waiting = _waiting(app, received_study_pk)
        for batch in batches(waiting):
            claim.renew()
            _archive(app, study_key, received_study_pk, batch)
    return len(waiting)


def archive_some(app: Application, received_study_pk: int) -> int:
    """As `archive_originals`, of one batch alone, and of none where somebody else is at the study."""
    study_key = study_key_of(app, received_study_pk)
    with _claimed(app, received_study_pk, wait_seconds=0.0) as claim:
        if claim.until is None:
            return 0
        batch = next(batches(_waiting(app, received_study_pk)), [])
        return _archive(app, study_key, received_study_pk, batch) if batch else 0


def study_key_of(app: Application, received_study_pk: int) -> StudyKey:
    """The key of the received study, made at the first call. Raises: NotFound of one that was shredded: it gets no other key, ever."""
    with app.database.transaction() as session:
        received = locked_received_study(session, received_study_pk)
        if received.study_key_id is not None:
            if received.wrapped_dek is None:
                # Under another key it would be there again, and no list of shredded keys would name it.
                raise NotFound("the study was shredded")
            return app.keys.open_study_key(received.hospital_id, received.study_key_id, received.wrapped_dek)
        # If we crash between the two, a SHRED key without a study is left behind; fsck names it and nothing is sealed under it.
        study_key_id = uuid.uuid4().hex
        study_key, wrapped = app.keys.create_study_key(received.hospital_id, study_key_id)
        received.study_key_id, received.wrapped_dek = study_key_id, wrapped
        session.add(received)
        return study_key


def original_payload(app: Application, study_key: StudyKey, row: ReceivedInstance) -> bytes:
    """The instance as it was received, from wherever it lies by now. Raises: IntegrityFailure, NotFound, TemporarilyUnable."""
    if row.pack_name is None:
        try:
            return read_spooled_payload(app.spool, _position(row))
        except NotFound:
            moved = _moved(app, row)
            if moved is None:
                raise
            row = moved
    assert row.object_id is not None and row.pack_name is not None and row.pack_offset is not None and row.sealed_length is not None
    return app.vault.open(study_key, SealedObject(row.object_id, row.pack_name, row.pack_offset, row.sealed_length))


def batches(rows: Sequence[ReceivedInstance]) -> Iterator[list[ReceivedInstance]]:
    """The rows in their order, by so many as are worked on together."""
    batch: list[ReceivedInstance] = []
    size = 0
    for row in rows:
        if batch and (size + row.payload_bytes > BATCH_BYTES or len(batch) >= BATCH_INSTANCES):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += row.payload_bytes
    if batch:
        yield batch


@dataclass
class _Claim:
    """The right to move a study's originals; `until` is None where somebody else has it."""

    app: Application
    received_study_pk: int
    until: datetime | None = None

    def take(self) -> bool:
        now = self.app.now()
        return self._set(now + CLAIM_TIME, or_(col(ReceivedStudy.archiving_until).is_(None), col(ReceivedStudy.archiving_until) <= now))

    def renew(self) -> None:
        """Where it was lost meanwhile nothing changes: both go on."""
        if self.until is not None:
            self._set(self.app.now() + CLAIM_TIME, col(ReceivedStudy.archiving_until) == self.until)

    def give_back(self) -> None:
        if self.until is not None:
            self._set(None, col(ReceivedStudy.archiving_until) == self.until)

    def _set(self, until: datetime | None, where: object) -> bool:
        with self.app.database.transaction() as session:
            claim = update(ReceivedStudy).where(col(ReceivedStudy.received_study_pk) == self.received_study_pk, where)  # type: ignore[arg-type]
            is_ours = session.exec(claim.values(archiving_until=until)).rowcount == 1
        if is_ours:
            self.until = until
        return is_ours


@contextmanager
def _claimed(app: Application, received_study_pk: int, *, wait_seconds: float) -> Iterator[_Claim]:
    claim, give_up_at = _Claim(app, received_study_pk), time.monotonic() + wait_seconds
    while not claim.take() and time.monotonic() < give_up_at and not app.stopping.wait(_POLL_SECONDS):
        pass
    try:
        yield claim
    finally:
        # A process that dies here leaves it to its time.
        claim.give_back()


def _waiting(app: Application, received_study_pk: int) -> list[ReceivedInstance]:
    with app.database.reading() as session:
        return [row for row in distinct_instances(session, received_study_pk) if row.pack_name is None]


def _archive(app: Application, study_key: StudyKey, received_study_pk: int, batch: list[ReceivedInstance]) -> int:
    """How many of the batch were moved by this call."""
    items: list[tuple[ReceivedInstance, bytes]] = []
    for row in batch:
        try:
            items.append((row, spooled_original(app, row)))
        except NotFound:
            # Somebody else moved it, and its segment was swept, since the row was read.
            if _moved(app, row) is None:
                raise
    sealed = seal_unsettled(app, study_key, [(uuid.uuid4().hex, payload) for _, payload in items])
    with app.database.transaction() as session:
        locked_received_study(session, received_study_pk)
        now = _as_they_stand(session, [row for row, _ in items])
        used = [place for (row, _), place in zip(items, sealed, strict=True) if _is_written(session, now.get(row.instance_pk), place)]
        settle_packs(session, used)
        named = {place.pack_name for place in used}
        condemn_packs(session, [place for place in sealed if place.pack_name not in named])
    return len(used)


def _as_they_stand(session: Session, rows: Sequence[ReceivedInstance]) -> dict[int | None, ReceivedInstance]:
    """The same rows, read now; together, because each question of its own would write the row before it first."""
    found: dict[int | None, ReceivedInstance] = {}
    for start in range(0, len(rows), _ROWS_PER_QUERY):
        keys = [row.instance_pk for row in rows[start : start + _ROWS_PER_QUERY]]
        standing = session.exec(select(ReceivedInstance).where(col(ReceivedInstance.instance_pk).in_(keys))).all()
        found.update((row.instance_pk, row) for row in standing)
    return found


def _is_written(session: Session, kept: ReceivedInstance | None, place: SealedObject) -> bool:
    """Whether the row says from now on that it lies there; not where it lies somewhere already."""
    if kept is None or kept.pack_name is not None:
        return False
    kept.object_id, kept.pack_name = place.object_id, place.pack_name
    kept.pack_offset, kept.sealed_length = place.offset, place.length
    session.add(kept)
    return True


def _moved(app: Application, row: ReceivedInstance) -> ReceivedInstance | None:
    """The row as it is now, if its instance lies in the vault."""
    with app.database.reading() as session:
        now = session.get(ReceivedInstance, row.instance_pk)
    return now if now is not None and now.pack_name is not None else None


def _position(row: ReceivedInstance) -> FramePosition:
    return FramePosition(row.segment_id, row.frame_offset, row.frame_length)
