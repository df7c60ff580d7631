"""What is de-identified before a study is whole is used only where it would come out the same now; nothing else changes by it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import event
from sqlmodel import select

from compliance.device_masks import DeviceMask
from compliance.pixel_review import record_mask
from crypto.errors import TemporarilyUnable
from gateway import deidentify_ahead, processing
from gateway.archiving import archive_originals
from gateway.processing import Maker, deidentify_study
from gateway.received import ReceivedInstance, distinct_instances
from gateway.study_holds import Refusal
from gateway.study_registration import register_study
from gateway.unsettled_packs import OwnPacks, reclaim_packs
from tests.ahead_site import begin, counting, packs_of, process, receiving, rows_of
from tests.builders import make_ct_study
from tests.gateway_site import GatewaySite, PlainScreener, gateway_site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "site", has_study=False) as made:
        yield made


def test_job_takes_over_what_was_made_while_the_study_came_in(site: GatewaySite) -> None:
    ahead = begin(site)
    datasets = make_ct_study(instances=4, number=881)
    pk = receiving(site, datasets[:3])
    with counting() as made:
        assert [ahead.look(), ahead.look()] == [3, 0] and len(made) == 3
        receiving(site, datasets[3:])
        uid = process(site, pk, ahead)
    assert len(made) == 4, "the job made the last one only"
    rows = rows_of(site, uid)
    assert len(rows) == 4 and not packs_of(site)
    assert sorted(row.number or 0 for row in rows) == [1, 2, 3, 4]


def test_what_came_out_is_what_the_job_alone_would_have_made(site: GatewaySite) -> None:
    ahead = begin(site)
    pk = receiving(site, make_ct_study(instances=3, number=882))
    assert ahead.look() == 3
    begun = ahead._begun[pk]
    before = {output.sop_instance_uid: output.payload_digest for output, _ in begun.made.values()}
    begun.drop()
    ahead._begun.clear()
    uid = process(site, pk, ahead)
    assert {row.sop_instance_uid: row.payload_digest for row in rows_of(site, uid)} == before
    assert set(packs_of(site).values()) == {True}, "what nobody took over is condemned"


def test_a_late_name_makes_everything_anew(site: GatewaySite) -> None:
    ahead = begin(site)
    datasets = make_ct_study(instances=3, number=883)
    datasets[0].ImageComments = "second look Pfaffenlehner ok"
    datasets[2].PerformingPhysicianName = "Pfaffenlehner^Udo"
    pk = receiving(site, datasets[:2])
    assert ahead.look() == 2
    receiving(site, datasets[2:])
    with counting() as made:
        uid = process(site, pk, ahead)
    assert len(made) == 3 and len(rows_of(site, uid)) == 3
    assert list(packs_of(site).values()) == [True]


def test_identity_that_grows_while_the_study_comes_in_begins_anew_and_at_last_waits(site: GatewaySite) -> None:
    ahead = begin(site)
    datasets = make_ct_study(instances=5, number=884)
    for index, dataset in enumerate(datasets):
        dataset.PerformingPhysicianName = f"Name{'abcde'[index]}heim^Udo"
    done = []
    for dataset in datasets:
        pk = receiving(site, [dataset])
        done.append(ahead.look())
    assert done == [1, 2, 3, 0, 0]
    assert not ahead._begun and set(packs_of(site).values()) == {True}
    assert len(rows_of(site, process(site, pk, ahead))) == 5


def test_a_mask_made_meanwhile_counts_for_what_was_made_before(site: GatewaySite) -> None:
    ahead = begin(site)
    pk = receiving(site, make_ct_study(instances=2, number=885))
    assert ahead.look() == 2
    mask = DeviceMask("ours", "hospital", ({"attribute": "Modality", "equals": ["CT"]},), ((0, 0, 8, 8),))
    with site.app.database.transaction() as session:
        record_mask(session, site.app.keys, hospital_id="h1", mask=mask, actor="p", note="n", now=site.app.now())
    with counting() as made:
        process(site, pk, ahead)
    assert len(made) == 2


def test_a_death_loses_nothing_and_leaves_nothing(site: GatewaySite) -> None:
    ahead = begin(site)
    pk = receiving(site, make_ct_study(instances=2, number=887))
    assert ahead.look() == 2 and len(packs_of(site)) == 1
    after = begin(site)
    with counting() as made:
        uid = process(site, pk, after)
    assert len(made) == 2 and len(rows_of(site, uid)) == 2
    site.clock.forward(hours=2)
    assert reclaim_packs(site.app.database, site.app.vault, now=site.app.now()) == 1
    assert len(rows_of(site, uid)) == 2


def test_packs_of_what_is_waited_for_stay_young(site: GatewaySite) -> None:
    ahead = begin(site)
    datasets = make_ct_study(instances=3, number=888)
    pk = receiving(site, datasets[:2])
    assert ahead.look() == 2
    site.clock.forward(minutes=50)
    receiving(site, datasets[2:])
    assert ahead.look() == 1
    site.clock.forward(minutes=50)
    assert reclaim_packs(site.app.database, site.app.vault, now=site.app.now()) == 0
    with counting() as made:
        assert len(rows_of(site, process(site, pk, ahead))) == 3
    assert not made


def test_packs_that_were_reclaimed_before_the_job_came_are_made_again(site: GatewaySite) -> None:
    ahead = begin(site)
    pk = receiving(site, make_ct_study(instances=2, number=889))
    assert ahead.look() == 2
    site.clock.forward(hours=3)
    assert reclaim_packs(site.app.database, site.app.vault, now=site.app.now()) == 1
    with pytest.raises(TemporarilyUnable):
        process(site, pk, ahead)
    assert len(rows_of(site, process(site, pk, ahead))) == 2


def test_new_generation_drops_what_was_begun_of_the_one_before(site: GatewaySite) -> None:
    ahead = begin(site)
    datasets = make_ct_study(instances=3, number=890)
    pk = receiving(site, datasets[:2])
    assert ahead.look() == 2
    process(site, pk, begin(site))
    assert ahead.look() == 0 and not ahead._begun
    receiving(site, datasets[2:])
    with counting() as made:
        assert ahead.look() == 1
        assert len(rows_of(site, process(site, pk, ahead))) == 3
    assert len(made) == 1, "of a later generation only what is new"


def test_what_is_refused_ahead_is_the_jobs_to_say(site: GatewaySite) -> None:
    ahead = begin(site)
    pk = receiving(site, make_ct_study(instances=3, number=893))
    real = Maker.make

    def refusing(maker: Maker, row: ReceivedInstance) -> object:
        return Refusal("WORKER_DIED") if row.instance_pk == first else real(maker, row)

    with site.app.database.reading() as session:
        first = session.exec(select(ReceivedInstance.instance_pk).order_by(ReceivedInstance.instance_pk)).first()  # type: ignore[arg-type]
    with patch.object(Maker, "make", refusing):
        assert [ahead.look(), ahead.look()] == [2, 0]
    with counting() as made:
        assert len(rows_of(site, process(site, pk, ahead))) == 3
    assert made == [first]


def test_the_rest_of_the_originals_moves_within_the_quiet_time(site: GatewaySite) -> None:
    ahead = begin(site)
    pk = receiving(site, make_ct_study(instances=2, number=880))
    assert ahead.look() == 2
    with site.app.database.reading() as session:
        rows = distinct_instances(session, pk)
    assert len(rows) == 2 and all(row.pack_name for row in rows)
    assert not archive_originals(site.app, pk), "nothing is left for the job"


def test_study_that_still_comes_in_fast_is_taken_in_larger_pieces(site: GatewaySite) -> None:
    ahead = begin(site)
    site.receive(make_ct_study(instances=2, number=894), complete=False)
    assert ahead.look() == 0, "a pack for two small slices is not worth it yet"
    with patch.object(deidentify_ahead, "BYTES_MIN", 1):
        assert ahead.look() == 2


def test_study_that_is_whole_goes_on_until_its_job_comes(site: GatewaySite) -> None:
    ahead = begin(site)
    pk = site.receive(make_ct_study(instances=2, number=895))
    assert ahead.look() == 2
    with counting() as made:
        assert len(rows_of(site, process(site, pk, ahead))) == 2
    assert not made


def test_the_next_batch_is_made_while_one_is_sealed(site: GatewaySite) -> None:
    pk = site.receive(make_ct_study(instances=3, number=896))
    real_make, real_seal = Maker.make, OwnPacks.seal
    made = threading.Semaphore(0)

    def counted(maker: Maker, row: ReceivedInstance) -> object:
        made.release()
        return real_make(maker, row)

    def waiting(packs: OwnPacks, *given: object) -> object:
        if not waiting.is_over:  # type: ignore[attr-defined]
            waiting.is_over = True  # type: ignore[attr-defined]
            # Its own, and one of the next batch.
            assert made.acquire(timeout=30) and made.acquire(timeout=30)
        return real_seal(packs, *given)  # type: ignore[arg-type]

    waiting.is_over = False  # type: ignore[attr-defined]
    one_by_one = patch.object(processing, "batches", lambda rows: iter([[row] for row in rows]))
    with one_by_one, patch.object(Maker, "make", counted), patch.object(OwnPacks, "seal", waiting):
        assert len(rows_of(site, deidentify_study(site.app, pk, PlainScreener()))) == 3


def test_registering_asks_for_rows_together(site: GatewaySite) -> None:
    """As many statements for twelve instances as for three."""
    counts = []
    for number, instances in ((897, 3), (898, 12)):
        pk = site.receive(make_ct_study(instances=instances, number=number))
        archive_originals(site.app, pk)
        statements: list[str] = []

        def registered(*given: Any, seen: list[str] = statements, **named: Any) -> str:
            def note(_c: object, _u: object, statement: str, *_: object) -> None:
                seen.append(statement)

            event.listen(site.app.database.engine, "before_cursor_execute", note)
            try:
                return register_study(*given, **named)
            finally:
                event.remove(site.app.database.engine, "before_cursor_execute", note)

        with patch("gateway.processing.register_study", registered):
            assert deidentify_study(site.app, pk, PlainScreener())
        counts.append(len([one for one in statements if one.startswith("SELECT")]))
    assert counts[0] == counts[1] > 5, counts


def test_quiet_studies_have_all_cores_and_others_one(site: GatewaySite) -> None:
    ahead, sizes = begin(site), []

    def noted(count: int, thread_name_prefix: str) -> ThreadPoolExecutor:
        sizes.append(count)
        return ThreadPoolExecutor(count, thread_name_prefix)

    with patch("gateway.deidentify_ahead.ThreadPoolExecutor", noted), patch.object(deidentify_ahead, "DEIDENTIFIED_AT_ONCE", 3):
        with patch.object(deidentify_ahead, "BYTES_MIN", 1):
            site.receive(make_ct_study(instances=1, number=899), complete=False)
            ahead.look()
        receiving(site, make_ct_study(instances=2, number=899)[1:])
        ahead.look()
    assert sizes == [1, 3]


@pytest.mark.parametrize("is_held", [True, False], ids=["held", "failed"])
def test_what_the_job_did_not_take_over_is_condemned_as_it_ends(site: GatewaySite, is_held: bool) -> None:
    ahead = begin(site)
    pk = receiving(site, make_ct_study(instances=2, number=873))
    assert ahead.look() == 2 and list(packs_of(site).values()) == [False]
    if is_held:
        with site.app.database.transaction() as session:
            row = distinct_instances(session, pk)[0]
            row.is_conflicting = True
            session.add(row)
        assert process(site, pk, ahead) == ""
    else:
        with patch("gateway.processing.names_of", side_effect=TemporarilyUnable("injected")), pytest.raises(TemporarilyUnable):
            process(site, pk, ahead)
    assert list(packs_of(site).values()) == [True]
