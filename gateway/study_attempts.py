"""Which studies were being worked on as a worker process died, and which of them is to blame (ADR 10).

Invariants
- A row says who is at the study; a row of a run that is gone says that the run died amid it. An orderly stop leaves none in flight.
- A death counts against no study by itself: kill -9, power and a full machine hit whatever happens to be in flight. A study that was in
  flight at `SUSPECT_DEATHS` deaths is tried alone, in a process that had been up for `CALM_SECONDS` before: only deaths then are its own.
  Work ahead of other studies' jobs rests meanwhile, and a study that was amid any death is not worked on ahead.
  Up is it from the end of its start: reading a full spool anew takes longer than that, and kills then come at the same moment each time.
- With `OWN_DEATHS_MAX` deaths of its own a study is held; a new generation (a person released it, instances came) begins anew.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum

from sqlmodel import Field, SQLModel, col, update

from compliance.database import Database
from crypto.errors import ReadgateError
from gateway.received import locked_received_study

SUSPECT_DEATHS = 3
OWN_DEATHS_MAX = 2
#: A burst of kills is over, or the process would not have come this far.
CALM_SECONDS = 30.0


class StudyAttempt(SQLModel, table=True):
    """Work on a received study that is going on, was cut short, or was put off."""

    __tablename__ = "study_attempt"
    received_study_pk: int = Field(foreign_key="received_study.received_study_pk", primary_key=True)
    generation: int
    #: The run of a worker process that is at it; None while nobody is.
    run_id: str | None = Field(default=None, index=True)
    #: It runs alone, in a process that had been up for a while: if that dies, it is the study.
    is_alone: bool = False
    deaths: int = 0
    own_deaths: int = 0
    #: How often it was put off: each time its job gets another name.
    put_off: int = 0

    @property
    def is_suspect(self) -> bool:
        return self.deaths >= SUSPECT_DEATHS


class Turn(StrEnum):
    """Whether the study may be worked on now."""

    NOW = "NOW"
    #: It has to wait for its process to be up a while; its job ends and is asked for again under another name.
    LATER = "LATER"
    #: It took its process down, alone, as often as it may.
    NEVER = "NEVER"


class StudyAttempts:
    """The attempts of this run of a worker process. Safe between threads."""

    def __init__(self, database: Database, *, calm_seconds: float = CALM_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._database, self._calm_seconds, self._clock = database, calm_seconds, clock
        self._run_id, self._began = uuid.uuid4().hex, clock()
        self._road = _Road()

    def note_started(self) -> None:
        """The process is up from now on."""
        self._began = self._clock()

    @property
    def is_calm(self) -> bool:
        """Whether this process has been up long enough that its death would mean something."""
        return self._clock() - self._began >= self._calm_seconds

    @contextmanager
    def attempt(self, received_study_pk: int, *, is_last_step: bool) -> Iterator[Turn]:
        """Within, this run is at the study, if the turn is NOW. After the last step, or an error, nobody is.

        If we crash within, the row stays, and the next run to come by counts the death. Raises: NotFound, TemporarilyUnable.
        """
        with self._road.beside():
            turn = self._begin(received_study_pk, is_alone=False)
            if turn is not None:
                with self._ending(received_study_pk, turn, is_last_step):
                    yield turn
                return
        with self._road.alone():
            turn = self._begin(received_study_pk, is_alone=True)
            assert turn is not None
            with self._ending(received_study_pk, turn, is_last_step):
                yield turn
            if turn is Turn.NOW and not is_last_step:
                self._pause(received_study_pk)

    @contextmanager
    def work_ahead(self) -> Iterator[bool]:
        """Within, if True, no suspect is tried alone: it waits for the end of this, which has to come soon once `is_alone_wanted`.

        False where one is at it, or waits to be.
        """
        with self._road.beside_if_open() as is_open:
            yield is_open

    @property
    def is_alone_wanted(self) -> bool:
        """Whether a suspect is tried alone, or waits for what is beside it."""
        return self._road.is_alone_wanted

    def stop(self) -> None:
        """Nothing is in flight: what this run was at goes on in the next one, and its end is no death."""
        with self._database.transaction() as session:
            session.exec(update(StudyAttempt).where(col(StudyAttempt.run_id) == self._run_id).values(run_id=None, is_alone=False))

    def _begin(self, received_study_pk: int, *, is_alone: bool) -> Turn | None:
        """The turn, and with NOW the row that says so; None where the study must be tried alone."""
        with self._database.transaction() as session:
            generation = locked_received_study(session, received_study_pk).generation
            row = session.get(StudyAttempt, received_study_pk)
            if row is None:
                row = StudyAttempt(received_study_pk=received_study_pk, generation=generation)
            elif row.generation != generation:
                row.generation, row.run_id, row.deaths, row.own_deaths, row.put_off = generation, None, 0, 0, 0
            if row.run_id not in (None, self._run_id):
                row.deaths += 1
                row.own_deaths += row.is_alone
            session.add(row)
            row.run_id, row.is_alone = None, False
            if row.own_deaths >= OWN_DEATHS_MAX:
                return Turn.NEVER
            if row.is_suspect and not self.is_calm:
                row.put_off += 1
                return Turn.LATER
            if row.is_suspect and not is_alone:
                return None
            row.run_id, row.is_alone = self._run_id, is_alone
        return Turn.NOW

    @contextmanager
    def _ending(self, received_study_pk: int, turn: Turn, is_last_step: bool) -> Iterator[None]:
        try:
            yield
        except BaseException:
            if turn is Turn.NOW:
                # Where even this fails the next run counts a death that was none: one is not enough for anything.
                with contextlib.suppress(ReadgateError):
                    self._rest(received_study_pk, is_done=False)
            raise
        if turn is Turn.NOW and is_last_step:
            self._rest(received_study_pk, is_done=True)

    def _pause(self, received_study_pk: int) -> None:
        """Until the next step nothing of this study runs, and others may: a death now is not its own."""
        with self._database.transaction() as session:
            session.exec(
                update(StudyAttempt)
                .where(col(StudyAttempt.received_study_pk) == received_study_pk, col(StudyAttempt.run_id) == self._run_id)
                .values(is_alone=False)
            )

    def _rest(self, received_study_pk: int, *, is_done: bool) -> None:
        with self._database.transaction() as session:
            row = session.get(StudyAttempt, received_study_pk)
            if row is None or row.run_id != self._run_id:
                return
            if is_done:
                session.delete(row)
            else:
                row.run_id, row.is_alone = None, False
                session.add(row)


class _Road:
    """Any number of studies beside each other, or one alone; who waits to be alone is let in before those who come later."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._beside = self._waiting = 0
        self._is_closed = False

    @contextmanager
    def beside(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_closed and not self._waiting)
            self._beside += 1
        try:
            yield
        finally:
            with self._changed:
                self._beside -= 1
                self._changed.notify_all()

    @contextmanager
    def beside_if_open(self) -> Iterator[bool]:
        """As `beside`, without waiting: False, and not on the road, where somebody is alone or waits to be."""
        with self._changed:
            is_open = not self.is_alone_wanted
            self._beside += is_open
        try:
            yield is_open
        finally:
            with self._changed:
                self._beside -= is_open
                self._changed.notify_all()

    @property
    def is_alone_wanted(self) -> bool:
        return self._is_closed or self._waiting > 0

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: not self._is_closed and not self._beside)
            self._waiting -= 1
            self._is_closed = True
        try:
            yield
        finally:
            with self._changed:
                self._is_closed = False
                self._changed.notify_all()
