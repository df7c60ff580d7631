"""Jobs on a real DBOS: an error that carries an identity leaves none in its database, and each kind of failure has its reason."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from dbos import DBOS

from crypto.errors import BadInput, Conflict, IntegrityFailure, NotAllowed, NotFound, RefusedContent, TemporarilyUnable
from gateway.config import JobSettings
from gateway.jobs import DELIVERIES, STUDIES, JobRunner, ProcessStopping, _system_engine, _without_text

PLANTED = "Gruenwald^Kaethe"
FAILURES: dict[int, Exception] = {
    1: ValueError(f"cannot parse {PLANTED}"),
    2: IntegrityFailure(f"{PLANTED} contradicts"),
    3: RefusedContent("NOT_A_DATASET", PLANTED, tag="(0010,0010)"),
    4: NotFound(PLANTED),
    5: TemporarilyUnable(PLANTED),
}


@dataclass
class Failing:
    """Work that fails with what is planted for the study; study 9 is in order."""

    held: dict[int, str] = field(default_factory=dict)
    tried: list[int] = field(default_factory=list)

    def archive(self, received_study_pk: int) -> int:
        return 1

    def deidentify(self, received_study_pk: int) -> str:
        self.tried.append(received_study_pk)
        if received_study_pk in FAILURES:
            try:
                raise KeyError(PLANTED)
            except KeyError:
                raise FAILURES[received_study_pk] from None
        return "2.25.9"

    def route(self, study_instance_uid: str) -> str:
        return "2.25.10"

    def hold_failed(self, received_study_pk: int, reason: str, generation: int | None) -> None:
        self.held[received_study_pk] = reason

    def deliver(self, delivery_pk: int) -> str:
        raise ValueError(PLANTED)


def test_no_text_of_an_error_reaches_the_database_of_jobs_and_each_kind_has_its_reason(tmp_path: Path) -> None:
    work, path = Failing(), tmp_path / "jobs.sqlite3"
    runner = JobRunner(f"sqlite:///{path}", JobSettings(poll_seconds=0.05), work)
    runner.start()
    try:
        for received_study_pk in (*FAILURES, 9):
            runner.process_study(received_study_pk, 1)
        runner.deliver_report(1, 0, "now")
        # The last of the five attempts at study 5 comes after 15 seconds.
        until = time.monotonic() + 60
        while time.monotonic() < until and not (len(work.held) == len(FAILURES) and runner.is_delivery_dead(1, 0, "now")):
            time.sleep(0.1)
        assert work.held == {
            1: "PROCESSING_FAILED",
            2: "INTEGRITY_FAILURE",
            3: "PROCESSING_FAILED",
            4: "PROCESSING_FAILED",
            5: "RESOURCES_EXHAUSTED",
        }
        assert work.tried.count(5) == 5 and work.tried.count(2) == 1 and runner.is_delivery_dead(1, 0, "now")
        kept = _everything(path)
    finally:
        runner.stop()
    assert "StepFailed" in kept and "NOT_A_DATASET" in kept, "the search sees what is kept of errors"
    assert PLANTED not in kept


def _everything(path: Path) -> str:
    connection = sqlite3.connect(path)
    try:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return "\n".join(repr(connection.execute(f'SELECT * FROM "{table}"').fetchall()) for table in tables)
    finally:
        connection.close()


@pytest.mark.parametrize(
    "error",
    [*FAILURES.values(), Conflict("MOVED_ON", PLANTED), NotAllowed("DENIED", PLANTED), BadInput(PLANTED)],
    ids=lambda error: type(error).__name__,
)
def test_error_keeps_its_class_and_its_constant_reason_and_no_way_back_to_its_text(error: Exception) -> None:
    def act() -> None:
        raise error

    with pytest.raises(Exception, match=r"^[A-Za-z_]+$") as raised:
        _without_text(act)
    assert type(raised.value) is type(error) or type(raised.value).__name__ == "StepFailed"
    assert getattr(raised.value, "reason_code", None) == getattr(error, "reason_code", None)
    assert raised.value.__cause__ is None and raised.value.__context__ is None


def test_process_that_stops_is_no_failure() -> None:
    def act() -> None:
        raise ProcessStopping

    with pytest.raises(ProcessStopping):
        _without_text(act)


def test_a_second_runner_of_one_process_does_its_work(tmp_path: Path) -> None:
    """Stopped and started again, as a command or a test does: the workflows are found, and do the second runner's work."""
    for name in ("first", "second"):
        work = Failing()
        runner = JobRunner(f"sqlite:///{tmp_path / name}.sqlite3", JobSettings(poll_seconds=0.05), work)
        runner.start()
        try:
            runner.process_study(9, 1)
            until = time.monotonic() + 20
            while time.monotonic() < until and not runner.is_over(9, 1):
                time.sleep(0.05)
            assert work.tried == [9] and not runner.dead_studies({(9, 1, 0)}), name
        finally:
            runner.stop()


def test_studies_are_asked_for_more_often_than_deliveries(tmp_path: Path) -> None:
    runner = JobRunner(f"sqlite:///{tmp_path / 'jobs.sqlite3'}", JobSettings(poll_seconds=0.5), Failing())
    runner.start()
    try:
        seconds = {queue.name: queue.polling_interval_sec for queue in DBOS.list_queues()}
    finally:
        runner.stop()
    assert seconds[STUDIES] == 0.15 and seconds[DELIVERIES] == 0.5


def test_time_that_jobs_ask_of_sqlite_is_there_with_an_older_library(tmp_path: Path) -> None:
    """Asked so by DBOS from Python 3.12 on, which Debian 12's SQLite 3.40 does not know: it answers NULL."""
    engine = _system_engine(f"sqlite:///{tmp_path / 'jobs.sqlite3'}")
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE one (number INTEGER, at INTEGER NOT NULL DEFAULT (unixepoch('subsec') * 1000))")
        connection.exec_driver_sql("INSERT INTO one (number) VALUES (1)")
        (at,) = connection.exec_driver_sql("SELECT at FROM one").one()
    engine.dispose()
    assert abs(at / 1000 - time.time()) < 60
