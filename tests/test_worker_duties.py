"""What a worker does about jobs that died for good: nothing stays behind unseen, however often the process was killed amid it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from sqlmodel import select

from compliance.audit import EventType
from compliance.quarantine import QuarantineItem
from gateway.processing import archive_originals, deidentify_study
from gateway.quarantine_acts import try_again
from gateway.received import ReceivedState, ReceivedStudy
from gateway.worker import Worker
from reporting.delivery_queue import BACKOFF_SECONDS
from tests.builders import make_ct_study
from tests.gateway_site import GatewaySite, PlainScreener, gateway_site
from tests.signing_desk import Desk, deliveries_of, entries_of, is_log_sound, steps_of


@dataclass
class DeadRunner:
    """A job runner all of whose jobs have died, or none."""

    is_all_dead: bool = True
    studies: list[tuple[int, int]] = field(default_factory=list)
    deliveries: list[tuple[int, int, str]] = field(default_factory=list)

    def process_study(self, received_study_pk: int, generation: int) -> None:
        self.studies.append((received_study_pk, generation))

    def deliver_report(self, delivery_pk: int, attempt: int, queued_at: str) -> None:
        self.deliveries.append((delivery_pk, attempt, queued_at))

    def is_dead(self, received_study_pk: int, generation: int) -> bool:
        return self.is_all_dead

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
    return cast(Worker, SimpleNamespace(_app=site.app, _runner=runner))


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
    assert Worker.route_stranded(_worker(site, DeadRunner(is_all_dead=False))) == 0, "a living job routes by itself"
    runner = DeadRunner()
    assert [Worker.route_stranded(_worker(site, runner)) for _ in range(2)] == [1, 0]
    assert len(steps_of(site)) == before + 1
    assert is_log_sound(site)


def test_images_that_came_late_are_marked_though_their_job_died(site: GatewaySite) -> None:
    datasets = make_ct_study(instances=3, number=72)
    study_instance_uid = site.process(site.receive(datasets[:2]))
    received_study_pk = site.receive(datasets[2:])
    archive_originals(site.app, received_study_pk)
    assert deidentify_study(site.app, received_study_pk, PlainScreener()) == study_instance_uid
    assert Worker.route_stranded(_worker(site, DeadRunner())) == 1
    assert [step.amendment for step in steps_of(site) if step.study_pk == steps_of(site)[-1].study_pk] == [1]


def test_study_whose_job_died_before_that_is_held_and_may_be_released(site: GatewaySite) -> None:
    received_study_pk = site.receive(make_ct_study(instances=1, number=73))
    runner = DeadRunner()
    Worker.complete_studies(_worker(site, runner))
    assert (received_study_pk, 1) in runner.studies
    assert _received(site, received_study_pk).state == ReceivedState.QUARANTINED
    with site.app.database.reading() as session:
        item = session.exec(select(QuarantineItem).where(QuarantineItem.received_study_pk == received_study_pk)).one()
    assert item.reason_code == "PROCESSING_FAILED"
    try_again(
        site.app.database,
        site.app.keys,
        hospital_id="h1",
        quarantine_id=str(item.item_pk),
        actor="h1",
        note="again",
        now=site.app.now(),
    )
    runner = DeadRunner(is_all_dead=False)
    Worker.complete_studies(_worker(site, runner))
    assert (received_study_pk, 2) in runner.studies, "under a name that is not used up"


def test_attempt_whose_job_died_counts_as_failed_and_the_next_has_another_name(site: GatewaySite) -> None:
    Desk(site).report()
    runner = DeadRunner()
    Worker.queue_deliveries(_worker(site, runner))
    assert [(row.state, row.attempts, row.last_reason) for row in deliveries_of(site)] == [("QUEUED", 1, "PROCESSING_FAILED")] * 2
    Worker.queue_deliveries(_worker(site, runner))
    assert len(runner.deliveries) == 2, "nothing is due yet"
    for pause in BACKOFF_SECONDS:
        site.clock.forward(seconds=pause)
        Worker.queue_deliveries(_worker(site, runner))
    assert len(set(runner.deliveries)) == len(runner.deliveries) == 2 * (len(BACKOFF_SECONDS) + 1)
    assert [row.state for row in deliveries_of(site)] == ["DEAD_LETTER", "DEAD_LETTER"]
    assert len(entries_of(site, EventType.DELIVER)) == len(runner.deliveries)
