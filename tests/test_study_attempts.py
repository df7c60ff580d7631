"""Deaths of the worker process and the studies that were in flight: a burst of kills blames nobody, a study that kills is held."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from sqlmodel import select

from compliance.quarantine import QuarantineItem
from crypto.errors import IntegrityFailure
from gateway.jobs import PUT_OFF
from gateway.received import ReceivedState, ReceivedStudy
from gateway.spool_index import SpoolIndex
from gateway.study_attempts import CALM_SECONDS, OWN_DEATHS_MAX, SUSPECT_DEATHS, StudyAttempt, StudyAttempts, Turn
from gateway.worker import Work, Worker
from tests.builders import make_ct_study
from tests.gateway_site import GatewaySite, PlainScreener, gateway_site


class ProcessDies(BaseException):
    """kill -9: nothing of what would be done on the way out is done."""


@dataclass
class Process:
    """A worker process over the site that may die amid a step; `up_seconds` is how long it has been up."""

    site: GatewaySite
    up_seconds: float = 0.0
    attempts: StudyAttempts = field(init=False)

    def __post_init__(self) -> None:
        times = iter([0.0])
        self.attempts = StudyAttempts(self.site.app.database, clock=lambda: next(times, self.up_seconds))

    def work(self) -> Work:
        return Work(self.site.app, PlainScreener(), self.attempts)

    def die_amid(self, received_study_pk: int) -> Turn:
        """The turn that the study had as the process died."""
        held = self.attempts.attempt(received_study_pk, is_last_step=False)
        turn = held.__enter__()
        _never_left.append(held)
        return turn


#: Kept from being closed, as a killed process closes nothing.
_never_left: list[object] = []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path_factory.mktemp("attempts") / "site") as made:
        yield made


_numbers = iter(range(300, 400))


def _received(site: GatewaySite) -> int:
    return site.receive(make_ct_study(instances=1, number=next(_numbers)))


def _row(site: GatewaySite, received_study_pk: int) -> StudyAttempt | None:
    with site.app.database.reading() as session:
        return session.get(StudyAttempt, received_study_pk)


def _state(site: GatewaySite, received_study_pk: int) -> str:
    with site.app.database.reading() as session:
        return session.exec(select(ReceivedStudy.state).where(ReceivedStudy.received_study_pk == received_study_pk)).one()


def _reasons(site: GatewaySite, received_study_pk: int) -> list[str]:
    with site.app.database.reading() as session:
        return list(session.exec(select(QuarantineItem.reason_code).where(QuarantineItem.received_study_pk == received_study_pk)).all())


def test_study_amid_a_burst_of_kills_comes_out_and_is_not_held(site: GatewaySite) -> None:
    pk = _received(site)
    for number in range(50):
        turn = Process(site, up_seconds=number % 20).die_amid(pk)
        assert turn is (Turn.NOW if number < SUSPECT_DEATHS else Turn.LATER)
    row = _row(site, pk)
    assert row is not None and (row.deaths, row.own_deaths, row.put_off) == (SUSPECT_DEATHS, 0, 50 - SUSPECT_DEATHS)
    assert Process(site, up_seconds=1.0).work().archive(pk) == PUT_OFF and _state(site, pk) == ReceivedState.COMPLETE
    calm = Process(site, up_seconds=CALM_SECONDS).work()
    assert calm.archive(pk) == 1 and calm.deidentify(pk)
    assert _state(site, pk) == ReceivedState.AVAILABLE and _row(site, pk) is None and not _reasons(site, pk)


def test_study_that_kills_its_process_each_time_is_held(site: GatewaySite) -> None:
    pk, deaths = _received(site), 0
    while Process(site, up_seconds=CALM_SECONDS + 1).die_amid(pk) is Turn.NOW:
        deaths += 1
        assert deaths < 20
    assert deaths == SUSPECT_DEATHS + OWN_DEATHS_MAX
    assert Process(site).work().archive(pk) == PUT_OFF
    assert _state(site, pk) == ReceivedState.QUARANTINED and _reasons(site, pk) == ["PROCESSING_FAILED"]


def test_process_that_was_long_at_its_start_is_not_up(site: GatewaySite) -> None:
    pk = _received(site)
    for _ in range(SUSPECT_DEATHS + OWN_DEATHS_MAX + 1):
        times = [0.0, 200.0, 201.0, 202.0]
        clock = iter(times)
        process = Process(site)
        process.attempts = StudyAttempts(site.app.database, clock=lambda clock=clock: next(clock, 203.0))  # type: ignore[misc]
        process.attempts.note_started()
        turn = process.die_amid(pk)
    assert turn is Turn.LATER
    row = _row(site, pk)
    assert row is not None and row.own_deaths == 0 and _state(site, pk) == ReceivedState.COMPLETE


def test_worker_is_up_when_all_of_it_has_started(site: GatewaySite, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    index = SpoolIndex(site.app.database, site.app.spool)
    worker = Worker(site.app, index)
    monkeypatch.setattr(index, "recover", lambda **_: happened.append("recover"))
    monkeypatch.setattr(worker._runner, "start", lambda: happened.append("start"))
    monkeypatch.setattr(worker._attempts, "note_started", lambda: happened.append("up"))
    for part in (worker._ahead, worker._deidentify_ahead, *worker._threads):
        monkeypatch.setattr(part, "start", lambda: happened.append("part"))
    worker.start()
    assert happened[:3] == ["recover", "up", "start"] and happened[-1] == "up" and "part" in happened


def test_orderly_stop_is_no_death(site: GatewaySite) -> None:
    pk = _received(site)
    for _ in range(SUSPECT_DEATHS + 1):
        process = Process(site)
        assert process.die_amid(pk) is Turn.NOW
        process.attempts.stop()
    row = _row(site, pk)
    assert row is not None and (row.deaths, row.run_id) == (0, None)


def test_error_is_no_death(site: GatewaySite) -> None:
    pk = _received(site)
    for _ in range(SUSPECT_DEATHS + 1):
        with pytest.raises(IntegrityFailure), Process(site).attempts.attempt(pk, is_last_step=True):
            raise IntegrityFailure("cannot be opened")
    row = _row(site, pk)
    assert row is not None and (row.deaths, row.run_id) == (0, None)


def test_generation_that_a_person_released_begins_anew(site: GatewaySite) -> None:
    pk = _received(site)
    while Process(site, up_seconds=CALM_SECONDS).die_amid(pk) is Turn.NOW:
        pass
    with site.app.database.transaction() as session:
        study = session.get(ReceivedStudy, pk)
        assert study is not None
        study.generation += 1
        session.add(study)
    assert Process(site).die_amid(pk) is Turn.NOW
    row = _row(site, pk)
    assert row is not None and (row.deaths, row.own_deaths, row.put_off) == (0, 0, 0)


def test_suspect_runs_alone(site: GatewaySite) -> None:
    """Whoever else is in flight as the suspect's process dies is not blamed, because nobody else is."""
    suspect, other, later = _received(site), _received(site), _received(site)
    for _ in range(SUSPECT_DEATHS):
        Process(site).die_amid(suspect)
    process = Process(site, up_seconds=CALM_SECONDS)
    is_in, may_end, order = threading.Event(), threading.Event(), []

    def run(pk: int, name: str) -> None:
        with process.attempts.attempt(pk, is_last_step=True):
            order.append(name)
            if name == "other":
                is_in.set()
                assert may_end.wait(20)
            elif name == "suspect":
                row = _row(site, suspect)
                assert row is not None and row.is_alone

    threads = [threading.Thread(target=run, args=(other, "other"))]
    threads[0].start()
    assert is_in.wait(20)
    threads.append(threading.Thread(target=run, args=(suspect, "suspect")))
    threads[1].start()
    until = time.monotonic() + 20
    while not process.attempts._road._waiting and time.monotonic() < until:
        time.sleep(0.01)
    threads.append(threading.Thread(target=run, args=(later, "later")))
    threads[2].start()
    assert order == ["other"]
    may_end.set()
    for thread in threads:
        thread.join(20)
    assert order == ["other", "suspect", "later"]
