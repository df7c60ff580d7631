"""What a worker does about jobs that died for good: nothing stays behind unseen, however often the process was killed amid it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from sqlmodel import select

from compliance.audit import EventType
from compliance.quarantine import QuarantineItem
from gateway import worker as worker_module
from gateway.jobs import JobRunner, StudyJob
from gateway.processing import archive_originals, deidentify_study
from gateway.quarantine_acts import Said, try_again
from gateway.received import ReceivedState, ReceivedStudy
from gateway.study_attempts import StudyAttempts
from gateway.worker import Worker
from reporting.delivery_queue import BACKOFF_SECONDS
from tests.builders import make_ct_study
from tests.gateway_site import GatewaySite, PlainScreener, gateway_site
from tests.signing_desk import Desk, deliveries_of, entries_of, is_log_sound, steps_of


@dataclass
class DeadRunner:
    """A job runner all of whose jobs have died, or none."""

    is_all_dead: bool = True
    studies: list[StudyJob] = field(default_factory=list)
    deliveries: list[tuple[int, int, str]] = field(default_factory=list)
    #: Asked for by a process before this one.
    known: list[StudyJob] = field(default_factory=list)

    def process_study(self, received_study_pk: int, generation: int, attempt: int = 0) -> None:
        self.studies.append((received_study_pk, generation, attempt))

    def deliver_report(self, delivery_pk: int, attempt: int, queued_at: str) -> None:
        self.deliveries.append((delivery_pk, attempt, queued_at))

    def known_studies(self, jobs: set[StudyJob]) -> set[StudyJob]:
        return set(jobs) & set(self.known)

    def dead_studies(self, jobs: set[StudyJob]) -> set[StudyJob]:
        return set(jobs) if self.is_all_dead else set()

    def is_over(self, received_study_pk: int, generation: int) -> bool:
        return self.is_all_dead

    def is_delivery_dead(self, delivery_pk: int, attempt: int, queued_at: str) -> bool:
        return self.is_all_dead


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "site") as made:
        yield made


def _worker(site: GatewaySite, runner: DeadRunner) -> Worker:
    """The duties alone: no thread, no child, no engine."""
    made = Worker.__new__(Worker)
    made._app, made._runner = site.app, cast(JobRunner, runner)
    made._attempts = StudyAttempts(site.app.database)
    made._queued_studies, made._queued_deliveries = set(), set()
    made._is_expecting = False
    return made


def _received(site: GatewaySite, received_study_pk: int) -> ReceivedStudy:
    with site.app.database.reading() as session:
        found = session.get(ReceivedStudy, received_study_pk)
    assert found is not None
    return found


def test_study_whose_job_died_before_route_is_routed_after_all(site: GatewaySite) -> None:
    before = len(steps_of(site))
    received_study_pk = site.receive(make_ct_study(instances=1, number=71))
    archive_originals(site.app, received_study_pk)
    assert deidentify_study(site.app, received_study_pk, PlainScreener())
    assert _worker(site, DeadRunner(is_all_dead=False)).route_stranded() == 0, "a living job routes by itself"
    runner = DeadRunner()
    assert [_worker(site, runner).route_stranded() for _ in range(2)] == [1, 0]
    assert len(steps_of(site)) == before + 1
    assert is_log_sound(site)


def test_images_that_came_late_are_marked_though_their_job_died(site: GatewaySite) -> None:
    datasets = make_ct_study(instances=3, number=72)
    study_instance_uid = site.process(site.receive(datasets[:2]))
    received_study_pk = site.receive(datasets[2:])
    archive_originals(site.app, received_study_pk)
    assert deidentify_study(site.app, received_study_pk, PlainScreener()) == study_instance_uid
    assert _worker(site, DeadRunner()).route_stranded() == 1
    assert [step.amendment for step in steps_of(site) if step.study_pk == steps_of(site)[-1].study_pk] == [1]


def test_study_whose_job_died_before_that_is_held_and_may_be_released(site: GatewaySite) -> None:
    received_study_pk = site.receive(make_ct_study(instances=1, number=73))
    runner = DeadRunner()
    worker = _worker(site, runner)
    worker.complete_studies()
    assert (received_study_pk, 1, 0) in runner.studies
    assert worker.hold_dead() == 1
    assert _received(site, received_study_pk).state == ReceivedState.QUARANTINED
    with site.app.database.reading() as session:
        item = session.exec(select(QuarantineItem).where(QuarantineItem.received_study_pk == received_study_pk)).one()
    assert item.reason_code == "PROCESSING_FAILED"
    try_again(site.app.database, site.app.keys, Said("h1", str(item.item_pk), "h1", "again", site.app.now()))
    runner = DeadRunner(is_all_dead=False)
    _worker(site, runner).complete_studies()
    assert (received_study_pk, 2, 0) in runner.studies, "under a name that is not used up"


def test_attempt_whose_job_died_counts_as_failed_and_the_next_has_another_name(site: GatewaySite) -> None:
    Desk(site).report()
    runner = DeadRunner()
    worker = _worker(site, runner)
    worker.queue_deliveries()
    assert [(row.state, row.attempts, row.last_reason) for row in deliveries_of(site)] == [("QUEUED", 1, "PROCESSING_FAILED")] * 2
    worker.queue_deliveries()
    assert len(runner.deliveries) == 2, "nothing is due yet"
    for pause in BACKOFF_SECONDS:
        site.clock.forward(seconds=pause)
        worker.queue_deliveries()
    assert len(set(runner.deliveries)) == len(runner.deliveries) == 2 * (len(BACKOFF_SECONDS) + 1)
    assert [row.state for row in deliveries_of(site)] == ["DEAD_LETTER", "DEAD_LETTER"]
    assert len(entries_of(site, EventType.DELIVER)) == len(runner.deliveries)


def test_studies_that_wait_are_queued_once(site: GatewaySite) -> None:
    waiting = [site.receive(make_ct_study(instances=1, number=80 + number)) for number in range(3)]
    runner = DeadRunner(is_all_dead=False)
    worker = _worker(site, runner)
    assert [worker.complete_studies() for _ in range(5)] == [3, 0, 0, 0, 0]
    assert runner.studies == [(pk, 1, 0) for pk in waiting]
    another = site.receive(make_ct_study(instances=1, number=89))
    assert [worker.complete_studies() for _ in range(2)] == [1, 0]
    assert runner.studies[-1] == (another, 1, 0)
    after_a_restart = DeadRunner(is_all_dead=False, known=runner.studies[:3])
    assert _worker(site, after_a_restart).complete_studies() == 4 and after_a_restart.studies == [(another, 1, 0)]


def test_deliveries_that_wait_are_queued_once(site: GatewaySite) -> None:
    Desk(site).report()
    runner = DeadRunner(is_all_dead=False)
    worker = _worker(site, runner)
    for _ in range(5):
        assert worker.queue_deliveries() == 2
    assert len(runner.deliveries) == 2


def test_while_a_study_comes_in_it_is_looked_often_whether_it_is_complete(site: GatewaySite) -> None:
    """Ten times a second, and as often as the rest otherwise."""
    looks = {}
    for name, expecting in (("idle", False), ("expecting", True)):
        worker = _worker(site, DeadRunner(is_all_dead=False))
        worker._is_expecting = expecting
        steps = iter([False] * 20 + [True])
        waited: list[float] = []
        worker._stopping = cast(
            threading.Event, SimpleNamespace(wait=lambda step, steps=steps, waited=waited: waited.append(step) or next(steps))
        )
        seen: list[str] = []

        def complete(seen: list[str] = seen) -> int:
            seen.append("complete")
            return 0

        def other(seen: list[str] = seen) -> None:
            seen.append("other")

        worker.complete_studies = complete  # type: ignore[method-assign]
        worker._run([worker_module._Duty("complete_studies", complete, 0.5), worker_module._Duty("other", other, 0.5)])
        looks[name] = seen.count("complete"), seen.count("other"), round(sum(waited[:20]), 6)
    assert looks == {"idle": (4, 4, 2.0), "expecting": (20, 4, 2.0)}


def test_looking_says_whether_a_study_is_coming_in(site: GatewaySite) -> None:
    worker = _worker(site, DeadRunner(is_all_dead=False))
    worker.complete_studies()
    assert not worker._is_expecting
    site.receive(make_ct_study(instances=1, number=79), complete=False)
    worker.complete_studies()
    assert worker._is_expecting
