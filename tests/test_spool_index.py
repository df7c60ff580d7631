"""From acknowledged frame to row: nothing acknowledged stays without its row, whatever else is broken or at work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select

from compliance.audit import AuditEntry, EventType
from compliance.database import Database
from compliance.hospital import Hospital
from crypto.errors import TemporarilyUnable
from crypto.keys import FileKeyStore
from crypto.spool import FramePosition, Spool
from gateway import spool_index
from gateway import worker as worker_module
from gateway.received import ReceivedInstance, ReceivedState, ReceivedStudy, unarchived_segments
from gateway.schema import migrate
from gateway.spool_index import SpooledFrame, SpoolIndex, index_frames
from gateway.worker import Worker

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'readgate.sqlite3'}")
    migrate(made)
    with made.transaction() as session:
        session.add(Hospital(hospital_id="h1", name="Hospital 1", jurisdiction="DE", storage_country="DE", created_at=NOW))
    yield made
    made.close()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    keys = FileKeyStore(tmp_path / "keys")
    keys.create_kek("h1")
    return Spool(tmp_path / "spool", keys)


def _header(instance: str, study: str = "s1", digest: str = "") -> dict[str, Any]:
    return {
        "hospital_id": "h1",
        "received_at": NOW.isoformat(),
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "payload_bytes": 4,
        "payload_digest": digest or f"digest of {instance}",
        "study_lookup": study,
        "instance_lookup": instance,
        "sop_instance_uid": "2.25.1",
    }


def _write(spool: Spool, *instances: str) -> list[SpooledFrame]:
    """A closed segment with these instances."""
    segment = spool.open_segment("h1", {})
    frames = [SpooledFrame(segment.append(_header(one), [b"data"]), _header(one)) for one in instances]
    segment.close()
    return frames


def _rows(database: Database) -> list[ReceivedInstance]:
    with database.reading() as session:
        return list(session.exec(select(ReceivedInstance)).all())


def _study(database: Database) -> ReceivedStudy:
    with database.reading() as session:
        return session.exec(select(ReceivedStudy)).one()


def test_recovery_writes_the_rows_that_a_crash_left_out_once(database: Database, spool: Spool) -> None:
    frames = _write(spool, "i1", "i2", "i3")
    index_frames(database, frames[:1])
    index = SpoolIndex(database, spool)
    assert [index.recover(now=NOW), index.recover(now=NOW)] == [2, 0]
    assert sorted(row.instance_lookup for row in _rows(database)) == ["i1", "i2", "i3"]
    assert _study(database).instance_count == 3
    with database.reading() as session:
        entries = session.exec(select(AuditEntry).where(AuditEntry.event_type == EventType.RECEIVE)).all()
    assert [entry.detail["instances"] for entry in entries] == [1, 2]


def test_damaged_frame_and_damaged_segment_hide_no_other(database: Database, spool: Spool, tmp_path: Path) -> None:
    damaged, headless, sound = (_write(spool, *names) for names in (("a1", "a2", "a3"), ("b1",), ("c1", "c2")))
    _flip(_path(tmp_path, damaged[1].position), damaged[1].position.offset + damaged[1].position.length - 5)
    _flip(_path(tmp_path, headless[0].position), 20)
    assert SpoolIndex(database, spool).recover(now=NOW) == 4
    assert sorted(row.instance_lookup for row in _rows(database)) == ["a1", "a3", "c1", "c2"]
    assert len(sound) == 2


def test_same_bytes_again_are_a_duplicate_and_other_bytes_a_conflict(database: Database, spool: Spool) -> None:
    (frame,) = _write(spool, "i1")
    again = SpooledFrame(FramePosition("another", 100, 10), _header("i1"))
    other = SpooledFrame(FramePosition("another", 200, 10), _header("i1", digest="other bytes"))
    index_frames(database, [frame, again, other])
    assert [(row.is_duplicate, row.is_conflicting) for row in _rows(database)] == [(False, False), (True, False), (False, True)]
    assert _study(database).instance_count == 2


def test_late_instance_reopens_a_finished_study_as_the_next_generation(database: Database, spool: Spool) -> None:
    first, second = _write(spool, "i1", "i2")
    index_frames(database, [first])
    with database.transaction() as session:
        study = session.exec(select(ReceivedStudy)).one()
        study.state, study.complete_at = ReceivedState.AVAILABLE, NOW
        session.add(study)
    index_frames(database, [first])
    assert (_study(database).state, _study(database).generation) == (ReceivedState.AVAILABLE, 1), "a frame seen before changes nothing"
    index_frames(database, [second])
    assert (_study(database).state, _study(database).generation) == (ReceivedState.RECEIVING, 2)


def test_row_that_another_process_wrote_meanwhile_is_asked_for_again(
    database: Database, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = _write(spool, "i1", "i2")
    index_frames(database, frames[:1])
    with monkeypatch.context() as patched, pytest.raises(TemporarilyUnable):
        # As on PostgreSQL, where the other's row is not seen until it is written.
        patched.setattr(spool_index, "_standing_positions", lambda session, frames: set())
        index_frames(database, frames[:1])
    index_frames(database, frames)
    assert len(_rows(database)) == 2


@pytest.mark.parametrize("error", [TemporarilyUnable("away"), IntegrityError("statement", {}, Exception("NOT NULL constraint failed"))])
def test_thread_survives_a_failed_batch(database: Database, spool: Spool, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    frames = _write(spool, "i1", "i2")
    real, failed = spool_index.index_frames, threading.Event()

    def failing_once(*args: Any) -> None:
        if not failed.is_set():
            failed.set()
            raise error
        real(*args)

    monkeypatch.setattr(spool_index, "index_frames", failing_once)
    index = SpoolIndex(database, spool)
    index.start()
    index.add(frames[0])
    assert index.flush() and failed.is_set()
    index.add(frames[1])
    assert index.flush()
    index.stop()
    # What is worth another try was tried again at once; the rest is found again in the spool.
    assert index.recover(now=NOW) == (0 if isinstance(error, TemporarilyUnable) else 1)
    assert sorted(row.instance_lookup for row in _rows(database)) == ["i1", "i2"]


def _sweep(database: Database, spool: Spool, index: SpoolIndex) -> int:
    worker = SimpleNamespace(_app=SimpleNamespace(database=database, spool=spool, now=lambda: NOW), _index=index)
    return Worker.sweep_spool(cast(Worker, worker))


def _archive(database: Database, *instances: str) -> None:
    with database.transaction() as session:
        for row in session.exec(select(ReceivedInstance).where(col(ReceivedInstance.instance_lookup).in_(instances))).all():
            row.object_id, row.pack_name, row.pack_offset, row.sealed_length = "o", "p", 0, 1
            session.add(row)


def test_sweep_removes_a_segment_once_everything_in_it_lies_in_the_vault(database: Database, spool: Spool) -> None:
    _write(spool, "i1", "i2")
    index = SpoolIndex(database, spool)
    assert _sweep(database, spool, index) == 0 and len(_rows(database)) == 2
    _archive(database, "i1")
    assert _sweep(database, spool, index) == 0
    _archive(database, "i2")
    assert [_sweep(database, spool, index), _sweep(database, spool, index)] == [1, 0]
    assert list(spool.segments()) == []


def test_sweep_keeps_a_segment_that_is_closed_while_it_sweeps(database: Database, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = spool.open_segment("h1", {})
    index_frames(database, [SpooledFrame(segment.append(_header("i1"), [b"data"]), _header("i1"))])
    _archive(database, "i1")
    index = SpoolIndex(database, spool)

    def receive_and_close(session: Any) -> set[str]:
        # The last instance of the association is acknowledged now, and its row not written yet.
        segment.append(_header("i2"), [b"data"])
        segment.close()
        return unarchived_segments(session)

    with monkeypatch.context() as patched:
        patched.setattr(worker_module, "unarchived_segments", receive_and_close)
        assert _sweep(database, spool, index) == 0
    assert _sweep(database, spool, index) == 0
    assert sorted(row.instance_lookup for row in _rows(database)) == ["i1", "i2"]
    assert [header["instance_lookup"] for _, header, _ in spool.read_segment(next(iter(spool.segments())))] == ["i1", "i2"]


def test_sweep_keeps_a_damaged_segment(database: Database, spool: Spool, tmp_path: Path) -> None:
    frames = _write(spool, "i1", "i2", "i3")
    position = frames[1].position
    _flip(_path(tmp_path, position), position.offset + position.length - 5)
    index = SpoolIndex(database, spool)
    index.recover(now=NOW)
    _archive(database, "i1", "i3")
    assert _sweep(database, spool, index) == 0 and len(list(spool.segments())) == 1


def test_segment_without_a_record_may_have_a_writer_and_is_read_again(database: Database, spool: Spool) -> None:
    segment = spool.open_segment("h1", {})
    index = SpoolIndex(database, spool)
    with_writer = spool.is_open
    spool.is_open = lambda segment_id: False  # type: ignore[method-assign]
    index.recover(now=NOW)
    spool.is_open = with_writer  # type: ignore[method-assign]
    segment.append(_header("i1"), [b"data"])
    segment.close()
    assert index.recover(now=NOW) == 1


def _path(tmp_path: Path, position: FramePosition) -> Path:
    (found,) = (path for path in (tmp_path / "spool").rglob("*") if path.is_file() and position.segment_id in path.name)
    return found


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)
