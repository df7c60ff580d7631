"""The rows that make spooled instances findable: written in batches just after the acknowledgement, rebuilt from the spool after a crash.

The spool is the truth. If we crash between an acknowledgement and its row, `recover` reads the segment again with the same reader and
writes the row; a row that is there already is left alone (unique by segment and offset).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlmodel import Session, select

from compliance import audit
from compliance.database import Database, is_unique_violation
from crypto.errors import IntegrityFailure, NotFound, ReadgateError, TemporarilyUnable
from crypto.spool import FramePosition, Spool
from gateway.received import ReceivedInstance, ReceivedState, ReceivedStudy, instances_by_lookup

log = structlog.get_logger()
_BATCH_MAX = 2000
_LINGER_SECONDS = 0.2
ACTOR = "readgate/receive"


@dataclass(frozen=True)
class SpooledFrame:
    """What an acknowledged frame's sealed header says, and where the frame lies."""

    position: FramePosition
    header: dict[str, Any]


class SpoolIndex:
    """One thread that turns acknowledged frames into rows."""

    def __init__(self, database: Database, spool: Spool) -> None:
        self._database, self._spool = database, spool
        self._frames: queue.SimpleQueue[SpooledFrame | threading.Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="spool-index", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(self, frame: SpooledFrame) -> None:
        self._frames.put(frame)

    def flush(self, timeout_seconds: float = 30.0) -> bool:
        """Every frame added before this call has its row when this returns True."""
        done = threading.Event()
        self._frames.put(done)
        return done.wait(timeout_seconds)

    def stop(self) -> None:
        self._frames.put(None)
        self._thread.join(timeout=60)

    def recover(self, *, now: datetime) -> int:
        """Frames of segments nobody writes any more, and that have no row, get one; how many."""
        found = 0
        for segment_id in self._spool.segments():
            if self._spool.is_open(segment_id):
                continue
            with self._database.reading() as session:
                known = set(session.exec(select(ReceivedInstance.frame_offset).where(ReceivedInstance.segment_id == segment_id)).all())
            batch = [frame for frame in self._read(segment_id) if frame.position.offset not in known]
            for start in range(0, len(batch), _BATCH_MAX):
                index_frames(self._database, batch[start : start + _BATCH_MAX])
            found += len(batch)
        if found:
            log.info("spool_recovered", instances=found)
        return found

    def _read(self, segment_id: str) -> list[SpooledFrame]:
        """The instances of a segment. One that cannot be opened any more is named and does not hide the others."""
        found: list[SpooledFrame] = []
        try:
            records = self._spool.read_segment(segment_id)
        except NotFound:
            # Another worker archived and removed it meanwhile.
            return found
        except IntegrityFailure:
            log.error("spool_segment_damaged", segment_id=segment_id)
            return found
        while True:
            try:
                position, header, _payload = next(records)
            except StopIteration:
                return found
            except IntegrityFailure:
                log.error("spool_frame_damaged", segment_id=segment_id)
                continue
            if "piece" not in header:
                found.append(SpooledFrame(position, header))

    def _run(self) -> None:
        is_stopping = False
        while not is_stopping:
            batch: list[SpooledFrame] = []
            waiters: list[threading.Event] = []
            is_stopping = self._collect(batch, waiters)
            self._write(batch)
            for waiter in waiters:
                waiter.set()

    def _collect(self, batch: list[SpooledFrame], waiters: list[threading.Event]) -> bool:
        """Fill a batch; True when the index is to stop after it."""
        item = self._frames.get()
        while True:
            if item is None:
                return True
            if isinstance(item, threading.Event):
                waiters.append(item)
                return False
            batch.append(item)
            if len(batch) >= _BATCH_MAX:
                return False
            try:
                item = self._frames.get(timeout=_LINGER_SECONDS)
            except queue.Empty:
                return False

    def _write(self, batch: list[SpooledFrame]) -> None:
        delay = 0.1
        while batch:
            try:
                index_frames(self._database, batch)
                return
            except TemporarilyUnable:
                # The frames are safe in the spool; only their finding waits. A process that ends here recovers at its next start.
                log.warning("spool_index_waits", instances=len(batch))
                threading.Event().wait(delay)
                delay = min(delay * 2, 5.0)
            except (ReadgateError, SQLAlchemyError) as error:
                # The thread goes on for the others; these frames are found again by `recover`.
                log.error("spool_index_failed", instances=len(batch), error=type(error).__name__)
                return


def index_frames(database: Database, frames: Sequence[SpooledFrame]) -> None:
    """Rows for `frames`, and one audit entry per study and batch, in one transaction.

    Raises: TemporarilyUnable, also when another process wrote the same row meanwhile: asked again, it is found there.
    """
    try:
        _index_frames(database, frames)
    except IntegrityError as error:
        if not is_unique_violation(error):
            raise
        raise TemporarilyUnable("another process wrote the same row") from None


def _index_frames(database: Database, frames: Sequence[SpooledFrame]) -> None:
    with database.transaction() as session:
        counts: dict[int, int] = {}
        hospital_of: dict[int, str] = {}
        for frame in frames:
            study = _study_of(session, frame)
            assert study.received_study_pk is not None
            if _add_instance(session, study, frame):
                counts[study.received_study_pk] = counts.get(study.received_study_pk, 0) + 1
                hospital_of[study.received_study_pk] = study.hospital_id
        for received_study_pk, count in counts.items():
            audit.append(
                session,
                audit.AuditEvent(
                    event_id=audit.EventId.INSTANCES_TRANSFERRED,
                    event_type=audit.EventType.RECEIVE,
                    action=audit.Action.CREATE,
                    actor=ACTOR,
                    hospital_id=hospital_of[received_study_pk],
                    object_id=f"received/{received_study_pk}",
                    detail={"instances": count},
                ),
                at=_received_at(frame),
            )


def _study_of(session: Session, frame: SpooledFrame) -> ReceivedStudy:
    header, at = frame.header, _received_at(frame)
    study = session.exec(
        select(ReceivedStudy)
        .where(ReceivedStudy.hospital_id == header["hospital_id"], ReceivedStudy.study_lookup == header["study_lookup"])
        .with_for_update()
    ).first()
    if study is None:
        study = ReceivedStudy(hospital_id=header["hospital_id"], study_lookup=header["study_lookup"], first_at=at, last_at=at)
    study.last_at = max(study.last_at, at)
    session.add(study)
    session.flush()
    return study


def _add_instance(session: Session, study: ReceivedStudy, frame: SpooledFrame) -> bool:
    """Whether a row was added. An instance that is new to a finished study reopens it as the next generation."""
    header, position = frame.header, frame.position
    standing = session.exec(
        select(ReceivedInstance.instance_pk).where(
            ReceivedInstance.segment_id == position.segment_id, ReceivedInstance.frame_offset == position.offset
        )
    ).first()
    if standing is not None:
        return False
    same_uid = [row for row in instances_by_lookup(session, study.hospital_id, header["instance_lookup"]) if not row.is_duplicate]
    is_duplicate = any(
        row.payload_digest == header["payload_digest"] and row.received_study_pk == study.received_study_pk for row in same_uid
    )
    assert study.received_study_pk is not None
    session.add(
        ReceivedInstance(
            received_study_pk=study.received_study_pk,
            hospital_id=study.hospital_id,
            instance_lookup=header["instance_lookup"],
            payload_digest=header["payload_digest"],
            sop_class_uid=header["sop_class_uid"],
            transfer_syntax_uid=header["transfer_syntax_uid"],
            payload_bytes=header["payload_bytes"],
            received_at=_received_at(frame),
            segment_id=position.segment_id,
            frame_offset=position.offset,
            frame_length=position.length,
            is_duplicate=is_duplicate,
            is_conflicting=bool(same_uid) and not is_duplicate,
        )
    )
    if not is_duplicate:
        study.instance_count += 1
        if study.state != ReceivedState.RECEIVING:
            study.state, study.complete_at, study.is_commitment_asked = ReceivedState.RECEIVING, None, False
            study.generation += 1
    session.add(study)
    session.flush()
    return True


def _received_at(frame: SpooledFrame) -> datetime:
    return datetime.fromisoformat(frame.header["received_at"])
