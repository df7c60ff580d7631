"""Instances are de-identified while their study is still coming in, within its quiet time, and until its job comes to it, so that the job
has less to do.

Invariants
- What is made ahead goes nowhere by itself. The study's job reads the identity of the whole study, and takes over only what was made under
  exactly the names, terms, profile and masks that it found; everything else is made anew by the job, as if nothing had been begun.
- What was begun lies in memory, and sealed in packs that no row names: a process that dies loses time and nothing else, the packs are
  reclaimed (unsettled_packs.py).
- Work ahead is for studies whose first instance came since this process began: a study that took the last process down is not touched
  before its job, of which study_attempts.py counts the deaths.
- Nobody waits for it: a batch under way ends with the instance at hand when the job comes, and while a job de-identifies nothing is begun.
- While a suspect is tried alone (study_attempts.py), from its first step to the last, nothing is made; a study that was amid any death is
  not made ahead.
- A study that was shredded, or that went on to another state, since it was looked at is not touched: its row is read anew for each batch.
- What is kept is bounded by number and by memory, and what the job did not take over is condemned as it ends.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import col, select

from compliance.identified import DeidentifiedDataset
from compliance.memory_size import memory_of
from crypto.errors import ReadgateError, RefusedContent
from crypto.vault import SealedObject
from gateway.application import Application
from gateway.archiving import archive_some, batches, study_key_of
from gateway.grown_identity import Output
from gateway.jobs import ProcessStopping
from gateway.pixel_screening import ConfinedDeidentifier, PixelScreener
from gateway.processing import DEIDENTIFIED_AT_ONCE, Maker, StudyNames, StudyReading, names_of
from gateway.received import ReceivedInstance, ReceivedState, ReceivedStudy, distinct_instances, received_study
from gateway.study_attempts import StudyAttempt, StudyAttempts
from gateway.study_holds import Refusal
from gateway.unsettled_packs import OwnPacks, condemn_packs

log = structlog.get_logger()
_REST_SECONDS = 0.2
_FAILED_SECONDS = 5.0
_BEFORE_ITS_JOB = (ReceivedState.RECEIVING, ReceivedState.COMPLETE)
#: So long after its last instance a study may have all cores; before, its senders need them too.
_QUIET = timedelta(seconds=0.5)
#: A pack is worth its sync from here on, while instances still come.
BYTES_MIN = 8 * 1024 * 1024
#: What was made of this many instances is kept for jobs to come, all studies together.
INSTANCES_MAX = 5_000
#: And as long as it takes no more memory than this; a slice takes 60 KB.
MEMORY_MAX = 256 * 1024 * 1024
#: A study whose identity still grows after so many beginnings is left to its job.
_BEGINNINGS_MAX = 3


@dataclass
class Begun:
    """What is made ahead of one generation of a study."""

    app: Application
    generation: int
    packs: OwnPacks
    reading: StudyReading = field(default_factory=StudyReading)
    names: StudyNames | None = None
    made: dict[int, tuple[DeidentifiedDataset, SealedObject]] = field(default_factory=dict)
    #: Instances that were refused ahead: the job says why, and holds them.
    refused: set[int] = field(default_factory=set)
    #: About what `made` takes.
    memory: int = 0
    beginnings: int = 0
    #: The job wants what there is.
    is_wanted: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def waiting(self, rows: Sequence[ReceivedInstance]) -> list[ReceivedInstance]:
        """Those of `rows` that can be made now."""
        return [
            row
            for row in rows
            if row.sop_instance_uid is None
            and not row.is_left_out
            and row.instance_pk not in self.made
            and row.instance_pk not in self.refused
        ]

    def keep(self, instance_pk: int, output: DeidentifiedDataset, place: SealedObject) -> None:
        """The instance was made, and lies there."""
        output.let_payload_go()
        self.made[instance_pk] = output, place
        self.memory += memory_of(output.dicom_json) + memory_of(output.frame_table)

    def under(self, names: StudyNames) -> StudyNames:
        """The names to go on under: those of before where nothing has changed; else what was made is dropped."""
        if self.names is None or not _is_same(self.names, names):
            self.drop()
            self.names, self.beginnings = names, self.beginnings + 1
        return self.names

    def made_under(self, names: StudyNames, waiting: Sequence[ReceivedInstance], packs: OwnPacks) -> list[Output]:
        """See `BegunStudy`."""
        if self.names is None or not _is_same(self.names, names):
            self.drop()
            return []
        places = {row.instance_pk: self.made[row.instance_pk] for row in waiting if row.instance_pk in self.made}
        packs.adopt({place.pack_name for _, place in places.values()})
        self.made = {pk: one for pk, one in self.made.items() if pk not in places}
        used = {place.pack_name for _, place in places.values()}
        self.drop(but=used)
        return [(row, *places[row.instance_pk]) for row in waiting if row.instance_pk in places]

    def drop(self, but: set[str] | frozenset[str] = frozenset()) -> None:
        """What was made is forgotten, and its packs are condemned, `but` those that somebody took over."""
        places = [place for _, place in self.made.values() if place.pack_name not in but]
        self.made, self.memory, self.packs = {}, 0, OwnPacks(self.app)
        if not places:
            return
        with self.app.database.transaction() as session:
            condemn_packs(session, places)


def _is_same(one: StudyNames, other: StudyNames) -> bool:
    return one.under == other.under and one.decisions == other.decisions


class DeidentifyAhead:
    """One thread of a worker."""

    def __init__(self, app: Application, screener: PixelScreener | ConfinedDeidentifier, attempts: StudyAttempts) -> None:
        self._app, self._screener, self._attempts = app, screener, attempts
        self._began_at = app.now()
        self._begun: dict[int, Begun] = {}
        self._given_up: set[tuple[int, int]] = set()
        self._jobs = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="deidentify-ahead", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """No instance is begun any more; one under way ends with its child."""
        self._stopping.set()

    def join(self) -> None:
        if self._thread.ident is not None:
            self._thread.join(timeout=60)

    @contextmanager
    def job(self, received_study_pk: int) -> Iterator[Begun | None]:
        """Within, a job de-identifies this study, and has what was made of it ahead; nothing is begun meanwhile."""
        with self._lock:
            self._jobs += 1
            begun = self._begun.pop(received_study_pk, None)
        try:
            if begun is None:
                yield None
                return
            begun.is_wanted.set()
            with begun.lock:
                try:
                    with self._app.database.reading() as session:
                        generation = received_study(session, received_study_pk).generation
                    yield begun if generation == begun.generation else None
                finally:
                    # A job that held the study early, or failed, took nothing over, and no other will: where not even this can be
                    # written, the packs are reclaimed by their age.
                    with suppress(ReadgateError, SQLAlchemyError):
                        begun.drop()
        finally:
            with self._lock:
                self._jobs -= 1

    def look(self) -> int:
        """One batch of each study that has enough waiting was made; how many instances. Raises: IntegrityFailure, TemporarilyUnable."""
        with self._app.database.reading() as session:
            coming = session.exec(
                select(ReceivedStudy).where(col(ReceivedStudy.state).in_(_BEFORE_ITS_JOB), col(ReceivedStudy.first_at) >= self._began_at)
            ).all()
        self._forget(coming)
        return sum(self._work(study) for study in coming if self._may_work(study))

    def _may_work(self, study: ReceivedStudy) -> bool:
        with self._lock:
            return (
                not self._stopping.is_set()
                and not self._jobs
                and (study.received_study_pk, study.generation) not in self._given_up
                and sum(len(begun.made) for begun in self._begun.values()) < INSTANCES_MAX
                and sum(begun.memory for begun in self._begun.values()) < MEMORY_MAX
            )

    def _work(self, study: ReceivedStudy) -> int:
        pk = study.received_study_pk
        assert pk is not None
        with self._lock:
            begun = self._begun.get(pk) or Begun(self._app, study.generation, OwnPacks(self._app))
            if begun.generation != study.generation or self._jobs:
                return 0
            self._begun[pk] = begun
        with self._attempts.work_ahead() as is_open, begun.lock:
            now = self._still_waiting(pk, begun.generation) if is_open and not begun.is_wanted.is_set() else None
            if now is None:
                return 0
            try:
                return self._batch(now, begun)
            except (RefusedContent, ProcessStopping):
                # What is wrong with the whole study its job finds too, and says.
                self._give_up(pk, begun)
            except Exception:
                self._give_up(pk, begun)
                raise
        return 0

    def _still_waiting(self, pk: int, generation: int) -> ReceivedStudy | None:
        """The study, where it still waits for its job as this generation and was amid no death."""
        with self._app.database.reading() as session:
            study, attempt = session.get(ReceivedStudy, pk), session.get(StudyAttempt, pk)
        if study is None or study.state not in _BEFORE_ITS_JOB or study.generation != generation:
            return None
        return None if attempt is not None and attempt.generation == generation and attempt.deaths else study

    def _is_wanted_elsewhere(self, begun: Begun) -> bool:
        return begun.is_wanted.is_set() or self._stopping.is_set() or self._jobs > 0 or self._attempts.is_alone_wanted

    def _batch(self, study: ReceivedStudy, begun: Begun) -> int:
        app, pk = self._app, study.received_study_pk
        assert pk is not None
        with app.database.reading() as session:
            rows = distinct_instances(session, pk)
        waiting = begun.waiting(rows)
        is_quiet = study.state == ReceivedState.COMPLETE or app.now() - study.last_at >= _QUIET
        if not waiting or any(row.is_conflicting for row in rows):
            return 0
        if not is_quiet and sum(row.payload_bytes for row in waiting) < BYTES_MIN:
            return 0
        if is_quiet and study.state == ReceivedState.RECEIVING:
            # Within the quiet time the rest of the originals moves too, be it never so little: else the job would have to wait for that.
            archive_some(app, pk)
            with app.database.reading() as session:
                rows = distinct_instances(session, pk)
        study_key = study_key_of(app, pk)
        if not begun.reading.is_start_of(rows):
            begun.reading = StudyReading()
        # Read as far as is made now: each original is opened once.
        last = next(batches(waiting))[-1].instance_pk or 0
        rows = [row for row in rows if (row.instance_pk or 0) <= last]
        opened = begun.reading.add(app, study_key, rows)
        names = begun.under(names_of(app, study, begun.reading, rows))
        if begun.beginnings > _BEGINNINGS_MAX:
            self._give_up(pk, begun)
            return 0
        begun.packs.renew()
        # What a person has to look at is not made, nor asked about again.
        begun.refused.update(pk for pk in names.held_before if pk is not None)
        maker = Maker(app, study_key, names.under, self._screener, names.decisions, begun.packs, opened)

        def make(row: ReceivedInstance) -> DeidentifiedDataset | Refusal | None:
            return None if self._is_wanted_elsewhere(begun) else maker.make(row)

        batch = next(batches(begun.waiting(rows)), [])
        with ThreadPoolExecutor(DEIDENTIFIED_AT_ONCE if is_quiet else 1, thread_name_prefix="deidentify-ahead") as pool:
            answers = list(zip(batch, pool.map(make, batch), strict=True))
        made = [(row.instance_pk, answer) for row, answer in answers if isinstance(answer, DeidentifiedDataset)]
        begun.refused.update(row.instance_pk or 0 for row, answer in answers if isinstance(answer, Refusal))
        sealed = begun.packs.seal(study_key, [(uuid.uuid4().hex, output.payload) for _, output in made])
        for (instance_pk, output), place in zip(made, sealed, strict=True):
            begun.keep(instance_pk or 0, output, place)
        return len(made)

    def _give_up(self, pk: int, begun: Begun) -> None:
        with self._lock:
            self._given_up.add((pk, begun.generation))
            self._begun.pop(pk, None)
        with suppress(ReadgateError, SQLAlchemyError):
            begun.drop()

    def _forget(self, coming: Sequence[ReceivedStudy]) -> None:
        """What was begun of studies that went on without it, or came in again, is of no use to anybody."""
        generations = {study.received_study_pk: study.generation for study in coming}
        with self._lock:
            self._given_up &= {(pk, generation) for pk, generation in generations.items() if pk is not None}
            useless = [pk for pk, begun in self._begun.items() if generations.get(pk) != begun.generation]
            dropped = [self._begun.pop(pk) for pk in useless]
        for begun in dropped:
            begun.drop()

    def _run(self) -> None:
        did = 0
        while not self._stopping.wait(0 if did else _REST_SECONDS):
            did = 0
            try:
                did = self.look()
            except Exception as error:
                # The study's own job meets the same and says whose fault it is. Of a foreign error only its kind is no identity.
                log.warning("deidentify_ahead_failed", error=type(error).__name__)
                self._stopping.wait(_FAILED_SECONDS)
