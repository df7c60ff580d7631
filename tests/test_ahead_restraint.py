"""De-identifying ahead keeps off what is shredded, suspect or in the hands of a job, within bounds, and outlives its errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from compliance.identity_terms import IdentityCollector
from compliance.memory_size import memory_of
from gateway import archiving, deidentify_ahead, processing
from gateway.archiving import archive_originals
from gateway.processing import Maker
from gateway.received import ReceivedInstance, ReceivedState, distinct_instances
from gateway.shredding import shred_study
from gateway.study_attempts import CALM_SECONDS, StudyAttempt, StudyAttempts
from tests.ahead_site import begin, counting, process, receiving, study_of, suspect_of
from tests.builders import make_ct_study
from tests.gateway_site import GatewaySite, gateway_site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "site", has_study=False) as made:
        yield made


def test_study_of_the_process_before_is_left_to_its_job(site: GatewaySite) -> None:
    """It may be what took that process down: only its job's deaths are counted."""
    receiving(site, make_ct_study(instances=2, number=886))
    assert begin(site).look() == 0


def test_nothing_is_begun_while_a_job_is_at_it_and_a_batch_under_way_ends_for_it(site: GatewaySite) -> None:
    ahead = begin(site)
    pk = receiving(site, make_ct_study(instances=3, number=891))
    receiving(site, make_ct_study(instances=2, number=892))
    started, go_on = threading.Event(), threading.Event()
    real, made = Maker.make, []

    def held(maker: Maker, row: ReceivedInstance) -> object:
        made.append(row.instance_pk)
        started.set()
        assert go_on.wait(30)
        return real(maker, row)

    with patch.object(Maker, "make", held), patch.object(deidentify_ahead, "DEIDENTIFIED_AT_ONCE", 1):
        worker = threading.Thread(target=ahead.look)
        worker.start()
        assert started.wait(30)
        with patch.object(processing, "DEIDENTIFIED_AT_ONCE", 1):
            job = threading.Thread(target=process, args=(site, pk, ahead))
            job.start()
            while not ahead._jobs:
                assert job.is_alive()
            go_on.set()
            job.join(30)
            worker.join(30)
    assert len(made) == 3, "each once, and none of the other study while the job was there"
    assert ahead.look() == 2


def test_a_study_that_was_shredded_since_it_was_looked_at_gets_no_new_key(site: GatewaySite) -> None:
    ahead = begin(site)
    pk = site.receive(make_ct_study(instances=2, number=861))
    stale = study_of(site, pk)
    archive_originals(site.app, pk)
    study_of(site, pk, state=ReceivedState.QUARANTINED)
    shred_study(site.app, f"received/{pk}", actor="po", reason="ERASURE")
    before = study_of(site, pk)
    assert before.wrapped_dek is None
    with counting() as made:
        assert ahead._work(stale) == 0
    after = study_of(site, pk)
    assert not made and (after.study_key_id, after.wrapped_dek) == (before.study_key_id, None)
    assert not list(site.app.keys.shred_key_ids())


@pytest.mark.parametrize("changes", [{"state": ReceivedState.QUARANTINED}, {"generation": 2}], ids=str)
def test_a_study_that_went_on_since_it_was_looked_at_is_left_alone(site: GatewaySite, changes: dict[str, Any]) -> None:
    ahead = begin(site)
    pk = receiving(site, make_ct_study(instances=2, number=862))
    stale = study_of(site, pk)
    study_of(site, pk, **changes)
    with counting() as made:
        assert ahead._work(stale) == 0 and not made


@pytest.mark.parametrize("is_last_step", [False, True], ids=["archive", "deidentify"])
def test_nothing_is_made_ahead_while_a_suspect_is_tried_alone(site: GatewaySite, is_last_step: bool) -> None:
    """Its process dies of itself then, or of nothing."""
    attempts = StudyAttempts(site.app.database, calm_seconds=0)
    ahead = begin(site, attempts)
    pk = site.receive(make_ct_study(instances=2, number=863))
    suspect_of(site, pk)
    receiving(site, make_ct_study(instances=3, number=864))
    with attempts.attempt(pk, is_last_step=is_last_step), counting() as made:
        assert ahead.look() == 0 and not made
    with site.app.database.reading() as session:
        row = session.get(StudyAttempt, pk)
    assert row is None if is_last_step else row is not None and row.run_id and not row.is_alone, "between its steps others may run"
    if is_last_step:
        study_of(site, pk, state=ReceivedState.AVAILABLE)
    assert ahead.look() == 3, "and the suspect is its job's alone"


def test_a_suspect_waits_for_the_batch_under_way_which_ends_for_it(site: GatewaySite) -> None:
    times = iter([0.0])
    attempts = StudyAttempts(site.app.database, clock=lambda: next(times, CALM_SECONDS))
    ahead = begin(site, attempts)
    suspect = site.receive(make_ct_study(instances=1, number=865))
    suspect_of(site, suspect)
    receiving(site, make_ct_study(instances=3, number=866))
    started, go_on, order = threading.Event(), threading.Event(), []
    real = Maker.make

    def held(maker: Maker, row: ReceivedInstance) -> object:
        order.append("made")
        started.set()
        assert go_on.wait(30)
        return real(maker, row)

    def alone() -> None:
        with attempts.attempt(suspect, is_last_step=True):
            order.append("alone")

    with patch.object(Maker, "make", held), patch.object(deidentify_ahead, "DEIDENTIFIED_AT_ONCE", 1):
        worker = threading.Thread(target=ahead.look)
        worker.start()
        assert started.wait(30)
        job = threading.Thread(target=alone)
        job.start()
        while not attempts.is_alone_wanted:
            assert job.is_alive()
        assert order == ["made"]
        go_on.set()
        job.join(30)
        worker.join(30)
    assert order == ["made", "alone"]


def test_a_study_that_was_amid_a_death_is_left_to_its_job(site: GatewaySite) -> None:
    ahead = begin(site)
    pk = receiving(site, make_ct_study(instances=2, number=867))
    with site.app.database.transaction() as session:
        session.add(StudyAttempt(received_study_pk=pk, generation=1, deaths=1))
    assert ahead.look() == 0 and not ahead._given_up
    study_of(site, pk, generation=2)
    assert ahead.look() == 2, "of this generation nobody died"


def test_the_thread_outlives_an_error_of_any_kind_and_says_nothing_of_it(
    site: GatewaySite, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ahead = begin(site)
    failed_pk = receiving(site, make_ct_study(instances=1, number=868))
    monkeypatch.setattr(deidentify_ahead, "_FAILED_SECONDS", 0.01)
    real = IdentityCollector.add

    def failing(*_: object) -> None:
        raise ValueError("value Muster^Erika")

    monkeypatch.setattr(IdentityCollector, "add", failing)
    ahead.start()
    try:
        until = threading.Event()
        for _ in range(600):
            if (failed_pk, 1) in ahead._given_up:
                break
            until.wait(0.05)
        monkeypatch.setattr(IdentityCollector, "add", real)
        later = receiving(site, make_ct_study(instances=2, number=869))
        for _ in range(600):
            if later in ahead._begun and len(ahead._begun[later].made) == 2:
                break
            until.wait(0.05)
        assert ahead._thread.is_alive() and len(ahead._begun[later].made) == 2
    finally:
        ahead.stop()
        ahead.join()
    said = "".join(capsys.readouterr())
    assert "deidentify_ahead_failed" in said and "ValueError" in said and "Erika" not in said


def test_what_is_begun_is_looked_through_and_changed_under_the_lock_alone(site: GatewaySite) -> None:
    ahead = begin(site)

    class Guarded(dict[int, Any]):
        def values(self) -> Any:
            assert ahead._lock.locked()
            return super().values()

        def pop(self, *given: Any) -> Any:
            assert ahead._lock.locked()
            return super().pop(*given)

    ahead._begun = Guarded()
    pk = receiving(site, make_ct_study(instances=1, number=870))
    assert ahead.look() == 1
    ahead._give_up(pk, ahead._begun[pk])
    assert not ahead._begun


def test_what_is_made_is_bounded_by_its_memory(site: GatewaySite) -> None:
    ahead = begin(site)
    pk = receiving(site, make_ct_study(instances=3, number=871))
    with patch.object(deidentify_ahead, "batches", lambda rows: iter([[row] for row in rows])):
        assert ahead.look() == 1
        one = ahead._begun[pk].memory
        assert one > 10_000
        with patch.object(deidentify_ahead, "MEMORY_MAX", one + 1):
            assert [ahead.look(), ahead.look()] == [1, 0]
        assert ahead.look() == 1
    begun = ahead._begun[pk]
    assert begun.memory == sum(memory_of(made.dicom_json) + memory_of(made.frame_table) for made, _ in begun.made.values())
    begun.drop()
    assert not begun.memory


def test_a_batch_is_bounded_by_number_too(site: GatewaySite) -> None:
    pk = site.receive(make_ct_study(instances=3, number=872))
    with site.app.database.reading() as session:
        rows = distinct_instances(session, pk)
    with patch.object(archiving, "BATCH_INSTANCES", 2):
        assert [len(batch) for batch in archiving.batches(rows)] == [2, 1]
