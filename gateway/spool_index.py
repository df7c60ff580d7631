"""The rows that make spooled instances findable: written in batches just after the acknowledgement, rebuilt from the spool after a crash.

The spool is the truth. If we crash between an acknowledgement and its row, `recover` reads the segment again with the same reader and
writes the row; a row that is there already is left alone (unique by segment and offset).
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import insert
from sqlmodel import Session, col, select

from compliance import audit
from compliance.database import Database
from compliance.quarantine import hold
from crypto.errors import IntegrityFailure, NotFound, TemporarilyUnable
from crypto.spool import FramePosition, Spool
from gateway.expected_instances import note_expected_reached
from gateway.received import ReceivedInstance, ReceivedState, ReceivedStudy
from gateway.received_usage import add_usage

log = structlog.get_logger()
_BATCH_MAX = 2000
#: Rows follow their frames by this much at most, so that a batch is worth its commit; by less once nothing comes any more.
_LINGER_SECONDS = 0.6
_PAUSE_SECONDS = 0.05
ACTOR = "readgate/receive"
REJECTED_STUDY_CAME_AGAIN = "REJECTED_STUDY_CAME_AGAIN"


@dataclass(frozen=True)
class SpooledFrame:
    """What an acknowledged frame's sealed header says, and where the frame lies."""

    position: FramePosition
    header: dict[str, Any]


class SpoolIndex:
    """One thread that turns acknowledged frames into rows."""

    def __init__(self, database: Database, spool: Spool) -> None:
        self._database, self._spool = database, spool
        #: Appended to without a lock by every association; taken from by the one thread.
        self._frames: deque[SpooledFrame] = deque()
        self._waiters: list[threading.Event] = []
        self._lock = threading.Lock()
        self._is_stopping = False
        #: Set when there is something to do, and when it must not wait.
        self._wake, self._hurry = threading.Event(), threading.Event()
        self._recovered: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="spool-index", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(self, frame: SpooledFrame) -> None:
        """The frame gets its row soon. Costs the caller nothing: the thread is woken once for a batch, not for a frame."""
        self._frames.append(frame)
        if not self._wake.is_set():
            self._wake.set()

    def flush(self, timeout_seconds: float = 30.0) -> bool:
        """Every frame added before this call has its row, or was given up and named in the log, when this returns True."""
        done = threading.Event()
        with self._lock:
            self._waiters.append(done)
        self._hurry.set()
        self._wake.set()
        return done.wait(timeout_seconds)

    def stop(self) -> None:
        """What was added has its row; the thread ends. A frame that could not be written is found by the next `recover`."""
        self._is_stopping = True
        self._hurry.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=60)

    def recover(self, *, now: datetime) -> int:
        """Frames of segments nobody writes any more, and that have no row, get one; how many."""
        found, segments = 0, self._spool.segments()
        self._recovered.intersection_update(segments)
        for segment_id in segments:
            # A closed segment does not change: it is read once, however often this is called.
            if segment_id in self._recovered or self._spool.is_open(segment_id):
                continue
            frames, is_whole = self._read(segment_id)
            with self._database.reading() as session:
                known = set(session.exec(select(ReceivedInstance.frame_offset).where(ReceivedInstance.segment_id == segment_id)).all())
            batch = [frame for frame in frames if frame.position.offset not in known]
            for start in range(0, len(batch), _BATCH_MAX):
                index_frames(self._database, batch[start : start + _BATCH_MAX])
            found += len(batch)
            # Also one without any record: a segment is locked before it has its name, so nobody writes what is not open, ever again.
            if is_whole:
                self._recovered.add(segment_id)
        if found:
            log.info("spool_recovered", instances=found)
        return found

    @property
    def recovered_segments(self) -> frozenset[str]:
        """Closed segments that `recover` read to their end without damage: every instance in them has its row."""
        return frozenset(self._recovered)

    def _read(self, segment_id: str) -> tuple[list[SpooledFrame], bool]:
        """The instances of a segment, and whether all its records could be opened: one that cannot hides no other."""
        found: list[SpooledFrame] = []
        is_whole = True
        try:
            reader = self._spool.read_segment(segment_id)
        except NotFound:
            # Another worker archived and removed it meanwhile.
            return found, False
        except IntegrityFailure:
            log.error("spool_segment_damaged", segment_id=segment_id)
            return found, False
        while True:
            try:
                position, header, _payload = next(reader)
            except StopIteration:
                return found, is_whole
            except IntegrityFailure:
                log.error("spool_frame_damaged", segment_id=segment_id)
                is_whole = False
                continue
            if "piece" not in header:
                found.append(SpooledFrame(position, header))

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._linger()
            # Cleared before the frames are taken: one added from here on sets it again.
            self._wake.clear()
            self._hurry.clear()
            with self._lock:
                waiters, self._waiters = self._waiters, []
            is_stopping = self._is_stopping
            # What comes while this batch is written waits for the next: a batch of one or two frames costs as much as one of a hundred.
            left = len(self._frames)
            while left > 0:
                batch = self._taken(left)
                self._write(batch)
                left -= len(batch)
            for waiter in waiters:
                waiter.set()
            if is_stopping:
                return

    def _linger(self) -> None:
        """More frames for the batch are waited for as long as they come; who sent the last one waits for nothing."""
        for _ in range(round(_LINGER_SECONDS / _PAUSE_SECONDS)):
            before = len(self._frames)
            if self._hurry.wait(_PAUSE_SECONDS) or len(self._frames) == before:
                return

    def _taken(self, count: int) -> list[SpooledFrame]:
        return [self._frames.popleft() for _ in range(min(count, _BATCH_MAX))]

    def _write(self, batch: list[SpooledFrame]) -> None:
        delay = 0.1
        while True:
            try:
                index_frames(self._database, batch)
                return
            except TemporarilyUnable:
                if self._is_stopping:
                    log.error("spool_index_left_behind", instances=len(batch))
                    return
                # The frames are safe in the spool; only their finding waits. A process that ends here recovers at its next start.
                log.warning("spool_index_waits", instances=len(batch))
                threading.Event().wait(delay)
                delay = min(delay * 2, 5.0)
            except Exception as error:
                # Whatever it was, the thread goes on for the others; these frames are found again by `recover`.
                log.error("spool_index_failed", instances=len(batch), error=type(error).__name__)
                return


def index_frames(database: Database, frames: Sequence[SpooledFrame]) -> None:
    """Rows for `frames`, and one audit entry per study and batch, in one transaction.

    Raises: TemporarilyUnable, also when another process wrote the same row meanwhile: asked again, it is found there.
    """
    # A handful of statements for a batch, whatever its size and whatever is stored: every one of them finds its rows by an index.
    with database.transaction() as session:
        standing = _standing_positions(session, frames)
        fresh = [frame for frame in frames if (frame.position.segment_id, frame.position.offset) not in standing]
        if not fresh:
            return
        studies = _studies_of(session, fresh)
        same_uid = _kept_under(session, fresh)
        rows, added, added_bytes = [], Counter[int](), Counter[str]()
        again: list[ReceivedStudy] = []
        counts_before = {key: study.instance_count for key, study in studies.items()}
        for frame in fresh:
            study = studies[_study_key(frame)]
            assert study.received_study_pk is not None
            study.last_at = max(study.last_at, _received_at(frame))
            earlier = same_uid[_instance_key(frame)]
            mine = (study.received_study_pk, str(frame.header["payload_digest"]))
            is_duplicate = mine in earlier
            rows.append(_row(study, frame, is_duplicate=is_duplicate, is_conflicting=bool(earlier) and not is_duplicate))
            added[study.received_study_pk] += 1
            if not is_duplicate:
                earlier.add(mine)
                added_bytes[study.hospital_id] += frame.header["payload_bytes"]
                if _count_in(study):
                    again.append(study)
        session.execute(insert(ReceivedInstance), rows)
        for study in again:
            _hold_again(session, study)
        # Of several accession numbers the first counts, as in the identity of the study.
        orders = {studies[_study_key(frame)].received_study_pk or 0: lookup for frame in reversed(fresh) if (lookup := _order_of(frame))}
        note_expected_reached(
            session,
            [(study, counts_before[key]) for key, study in studies.items()],
            orders,
        )
        add_usage(session, added_bytes)
        session.add_all(studies.values())
        hospital_of = {study.received_study_pk: study.hospital_id for study in studies.values()}
        for received_study_pk, count in added.items():
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
                at=_received_at(fresh[-1]),
            )


def _standing_positions(session: Session, frames: Sequence[SpooledFrame]) -> set[tuple[str, int]]:
    """The frames that have their row already, after a commit whose answer was lost."""
    offsets: dict[str, list[int]] = defaultdict(list)
    for frame in frames:
        offsets[frame.position.segment_id].append(frame.position.offset)
    found: set[tuple[str, int]] = set()
    for segment_id, own in offsets.items():
        statement = select(ReceivedInstance.frame_offset).where(
            ReceivedInstance.segment_id == segment_id, col(ReceivedInstance.frame_offset).between(min(own), max(own))
        )
        found.update((segment_id, offset) for offset in session.exec(statement).all())
    return found


def _studies_of(session: Session, frames: Sequence[SpooledFrame]) -> dict[tuple[str, str], ReceivedStudy]:
    """The studies of the frames, by hospital and digest, locked or made."""
    first = {_study_key(frame): _received_at(frame) for frame in reversed(frames)}
    studies: dict[tuple[str, str], ReceivedStudy] = {}
    # In one order everywhere: two processes that lock the same studies do not wait for each other.
    for hospital_id, lookup in sorted(first):
        study = session.exec(
            select(ReceivedStudy).where(ReceivedStudy.hospital_id == hospital_id, ReceivedStudy.study_lookup == lookup).with_for_update()
        ).first()
        if study is None:
            at = first[hospital_id, lookup]
            study = ReceivedStudy(hospital_id=hospital_id, study_lookup=lookup, first_at=at, last_at=at)
            session.add(study)
        studies[hospital_id, lookup] = study
    session.flush()
    return studies


def _kept_under(session: Session, frames: Sequence[SpooledFrame]) -> dict[tuple[str, str], set[tuple[int, str]]]:
    """(study, payload digest) of what came before under the SOP Instance UIDs of the frames, by hospital and digest of the UID."""
    lookups: dict[str, list[str]] = defaultdict(list)
    for hospital_id, lookup in {_instance_key(frame) for frame in frames}:
        lookups[hospital_id].append(lookup)
    found: dict[tuple[str, str], set[tuple[int, str]]] = defaultdict(set)
    for hospital_id, own in lookups.items():
        statement = select(ReceivedInstance.instance_lookup, ReceivedInstance.received_study_pk, ReceivedInstance.payload_digest).where(
            ReceivedInstance.hospital_id == hospital_id,
            col(ReceivedInstance.instance_lookup).in_(own),
            col(ReceivedInstance.is_duplicate).is_(False),
        )
        for lookup, received_study_pk, payload_digest in session.exec(statement).all():
            found[hospital_id, lookup].add((received_study_pk, payload_digest))
    return found


def _row(study: ReceivedStudy, frame: SpooledFrame, *, is_duplicate: bool, is_conflicting: bool) -> dict[str, Any]:
    header, position = frame.header, frame.position
    return _ROW_DEFAULTS | {
        "received_study_pk": study.received_study_pk,
        "hospital_id": study.hospital_id,
        "instance_lookup": header["instance_lookup"],
        "payload_digest": header["payload_digest"],
        "sop_class_uid": header["sop_class_uid"],
        "transfer_syntax_uid": header["transfer_syntax_uid"],
        "payload_bytes": header["payload_bytes"],
        "received_at": _received_at(frame),
        "segment_id": position.segment_id,
        "frame_offset": position.offset,
        "frame_length": position.length,
        "is_duplicate": is_duplicate,
        "is_conflicting": is_conflicting,
    }


#: A bulk insert goes past the model, which would fill these in.
_ROW_DEFAULTS: dict[str, Any] = {
    name: description.get_default(call_default_factory=True)
    for name, description in ReceivedInstance.model_fields.items()
    if not description.is_required() and name != "instance_pk"
}


def _count_in(study: ReceivedStudy) -> bool:
    """One more instance. New to a study that was complete, it opens the study again as its next generation.

    A rejected study stays rejected, whatever its sender sends: True asks for a person to be told.
    """
    study.instance_count += 1
    if study.state == ReceivedState.REJECTED:
        return True
    if study.state != ReceivedState.RECEIVING:
        study.state, study.complete_at, study.is_commitment_asked = ReceivedState.RECEIVING, None, False
        study.generation += 1
    return False


def _hold_again(session: Session, study: ReceivedStudy) -> None:
    """The hospital said that this study is not to be read, and it came again: a person decides anew, nothing is processed meanwhile."""
    assert study.received_study_pk is not None
    hold(
        session, hospital_id=study.hospital_id, received_study_pk=study.received_study_pk, reason_code=REJECTED_STUDY_CAME_AGAIN,
        element_tag=None, detail="", instance_count=study.instance_count, actor=ACTOR, now=study.last_at,
    )  # fmt: skip


def _study_key(frame: SpooledFrame) -> tuple[str, str]:
    return str(frame.header["hospital_id"]), str(frame.header["study_lookup"])


def _instance_key(frame: SpooledFrame) -> tuple[str, str]:
    return str(frame.header["hospital_id"]), str(frame.header["instance_lookup"])


def _order_of(frame: SpooledFrame) -> str:
    return str(frame.header.get("order_lookup", ""))


def _received_at(frame: SpooledFrame) -> datetime:
    return datetime.fromisoformat(frame.header["received_at"])
