"""Originals move to the vault before their study is whole, and nothing else about the study changes by it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import event
from sqlmodel import select

from crypto.errors import NotFound, TemporarilyUnable
from gateway import archive_ahead, archiving, processing
from gateway.archive_ahead import ArchiveAhead
from gateway.received import ReceivedInstance, ReceivedState, ReceivedStudy
from gateway.unsettled_packs import UnsettledPack, reclaim_packs
from tests.builders import make_ct_study, payload_of
from tests.gateway_site import GatewaySite, gateway_site


def rows_of(site: GatewaySite, received_study_pk: int) -> list[ReceivedInstance]:
    with site.app.database.reading() as session:
        return list(session.exec(select(ReceivedInstance).where(ReceivedInstance.received_study_pk == received_study_pk)).all())


def receiving(site: GatewaySite, number: int) -> int:
    """A study that is still coming in."""
    return site.receive(make_ct_study(instances=3, number=number), complete=False)


def complete(site: GatewaySite, pk: int) -> None:
    with site.app.database.transaction() as session:
        study = session.get(ReceivedStudy, pk)
        assert study is not None and study.state == ReceivedState.RECEIVING
        study.state, study.complete_at = ReceivedState.COMPLETE, site.app.now()
        session.add(study)


def test_enough_of_a_study_that_comes_in_is_moved_and_processed_as_ever(tmp_path: Path) -> None:
    with gateway_site(tmp_path / "site") as site:
        pk = receiving(site, 81)
        ahead = ArchiveAhead(site.app)
        assert ahead.look() == 0, "a pack for three small slices is not worth it"
        with patch.object(archive_ahead, "BYTES_MIN", 1):
            assert [ahead.look() for _ in range(2)] == [3, 0]
        originals = sorted(payload_of(one) for one in make_ct_study(instances=3, number=81))
        study_key = processing.study_key_of(site.app, pk)
        rows = rows_of(site, pk)
        assert sorted(processing.original_of(site.app, study_key, row).payload for row in rows) == originals
        complete(site, pk)
        assert site.process(pk)
        assert [row.pack_name for row in rows_of(site, pk)] == [row.pack_name for row in rows]


def test_study_that_is_whole_is_left_to_its_job(tmp_path: Path) -> None:
    with gateway_site(tmp_path / "site") as site, patch.object(archive_ahead, "BYTES_MIN", 1):
        pk = receiving(site, 82)
        complete(site, pk)
        assert ArchiveAhead(site.app).look() == 0
        assert not any(row.pack_name for row in rows_of(site, pk))


def test_the_job_and_the_thread_at_once_keep_one_pack_and_know_of_the_other(tmp_path: Path) -> None:
    with gateway_site(tmp_path / "site") as site, patch.object(archive_ahead, "BYTES_MIN", 1):
        pk = receiving(site, 83)
        real, again = archiving.seal_unsettled, [True]

        def meanwhile(*args: Any) -> Any:
            if again:
                again.clear()
                processing.archive_originals(site.app, pk)
            return real(*args)

        with patch.object(archiving, "seal_unsettled", meanwhile), patch.object(archiving, "_WAIT_SECONDS", 0.0):
            assert ArchiveAhead(site.app).look() == 0
        packs = {row.pack_name for row in rows_of(site, pk)}
        assert len(packs) == 1
        with site.app.database.reading() as session:
            unsettled = {row.pack_name: row.is_condemned for row in session.exec(select(UnsettledPack)).all()}
        assert list(unsettled.values()) == [True] and not unsettled.keys() & packs
        assert reclaim_packs(site.app.database, site.app.vault, now=site.app.now()) == 1, "at once, and not after an hour"
        complete(site, pk)
        assert site.process(pk)


def test_thread_goes_on_after_a_failure(tmp_path: Path) -> None:
    with gateway_site(tmp_path / "site") as site:
        ahead, asked, done = ArchiveAhead(site.app), [0], threading.Event()

        def look() -> int:
            asked[0] += 1
            if asked[0] == 1:
                raise TemporarilyUnable("injected")
            done.set()
            return 0

        with patch.object(ahead, "look", look), patch.object(archive_ahead, "_FAILED_SECONDS", 0.01):
            ahead.start()
            assert done.wait(30)
            ahead.stop()
        assert not ahead._thread.is_alive()


def test_one_worker_at_a_time_is_at_a_study(tmp_path: Path) -> None:
    """While one has read the batch the others find the study taken, and put nothing."""
    with gateway_site(tmp_path / "site") as site, patch.object(archive_ahead, "BYTES_MIN", 1):
        pk, before = receiving(site, 84), len(list(site.app.vault.pack_names()))
        real, others = archiving.seal_unsettled, []

        def meanwhile(*args: Any) -> Any:
            if not others:
                others.append(None)
                others.append(archiving.archive_some(site.app, pk))
            return real(*args)

        with patch.object(archiving, "seal_unsettled", meanwhile):
            assert ArchiveAhead(site.app).look() == 3
        assert others == [None, 0]
        assert len(list(site.app.vault.pack_names())) == before + 1
        with site.app.database.reading() as session:
            assert not session.exec(select(UnsettledPack)).all()
            study = session.get(ReceivedStudy, pk)
        assert study is not None and study.archiving_until is None


def test_claim_of_a_worker_that_died_ends_by_itself_and_never_holds_the_job(tmp_path: Path) -> None:
    with gateway_site(tmp_path / "site") as site, patch.object(archive_ahead, "BYTES_MIN", 1):
        pk = receiving(site, 85)
        with site.app.database.transaction() as session:
            study = session.get(ReceivedStudy, pk)
            assert study is not None
            study.archiving_until = site.app.now() + archiving.CLAIM_TIME
            session.add(study)
        assert ArchiveAhead(site.app).look() == 0
        with patch.object(archiving, "_WAIT_SECONDS", 0.2):
            assert archiving.archive_originals(site.app, pk) == 3
        pk = site.receive(make_ct_study(instances=4, number=85)[3:], complete=False)
        site.clock.forward(minutes=3)
        assert ArchiveAhead(site.app).look() == 1


def test_archiver_whose_segment_was_swept_meanwhile_takes_nothing_for_lost(tmp_path: Path) -> None:
    with gateway_site(tmp_path / "site") as site:
        pk = receiving(site, 86)
        before = rows_of(site, pk)
        originals = sorted(payload_of(one) for one in make_ct_study(instances=3, number=86))
        study_key = processing.study_key_of(site.app, pk)
        assert archiving.archive_originals(site.app, pk) == 3
        for segment_id in {row.segment_id for row in before}:
            site.app.spool.remove_segment(segment_id)
        with patch.object(archiving, "_waiting", return_value=before):
            assert archiving.archive_some(site.app, pk) == 0
        # Who read the rows before they were moved finds the instances where they are now.
        assert sorted(processing.original_of(site.app, study_key, row).payload for row in before) == originals


def test_instance_that_lies_nowhere_is_not_passed_over(tmp_path: Path) -> None:
    with gateway_site(tmp_path / "site") as site:
        pk = receiving(site, 87)
        for segment_id in {row.segment_id for row in rows_of(site, pk)}:
            site.app.spool.remove_segment(segment_id)
        with pytest.raises(NotFound):
            archiving.archive_originals(site.app, pk)


def test_rows_of_a_batch_are_asked_for_together(tmp_path: Path) -> None:
    """As many questions for nine originals as for three."""
    counts = []
    with gateway_site(tmp_path / "site") as site:
        for number, instances in ((91, 3), (92, 9)):
            pk = site.receive(make_ct_study(instances=instances, number=number))
            seen: list[str] = []

            def note(_c: object, _u: object, statement: str, *_: object, seen: list[str] = seen) -> None:
                seen.append(statement)

            event.listen(site.app.database.engine, "before_cursor_execute", note)
            try:
                assert archiving.archive_originals(site.app, pk) == instances
            finally:
                event.remove(site.app.database.engine, "before_cursor_execute", note)
            counts.append(len([one for one in seen if one.startswith("SELECT")]))
    assert counts[0] == counts[1], counts
