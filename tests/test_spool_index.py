"""The rows of spooled frames on both databases, written by several processes' worth of threads at once: each once, none lost."""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlmodel import select

from compliance.database import Database
from compliance.hospital import Hospital
from crypto.errors import TemporarilyUnable
from crypto.spool import FramePosition, Spool
from gateway import spool_index
from gateway.received import ReceivedInstance, ReceivedStudy
from gateway.received_usage import stored_bytes
from gateway.schema import migrate
from gateway.spool_index import SpooledFrame, SpoolIndex, index_frames
from tests.intake_site import AT
from tests.postgres_server import postgres_server  # noqa: F401 (fixture)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.interop)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    from tests.postgres_server import new_database

    url = (
        f"sqlite:///{tmp_path / 'rows.sqlite3'}" if request.param == "sqlite" else new_database(request.getfixturevalue("postgres_server"))
    )
    made = Database(url)
    migrate(made)
    with made.transaction() as session:
        for hospital_id in ("h1", "h2"):
            session.add(Hospital(hospital_id=hospital_id, name="A", jurisdiction="IE", storage_country="IE", created_at=AT))
    yield made
    made.close()


def frame(
    number: int, *, hospital_id: str = "h1", study: int = 0, instance: int | None = None, digest: str = "d", segment: int = 0
) -> SpooledFrame:
    header = {
        "hospital_id": hospital_id,
        "received_at": AT.isoformat(),
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "payload_bytes": 10,
        "payload_digest": digest,
        "study_lookup": f"{hospital_id}-study-{study}",
        "instance_lookup": f"{hospital_id}-{number if instance is None else instance}",
        "sop_instance_uid": "2.25.1",
        "order_lookup": f"{hospital_id}-order-{study}",
    }
    return SpooledFrame(FramePosition(f"{segment:032x}", number * 100, 100), header)


def test_batches_of_many_writers_come_out_once(database: Database) -> None:
    """Four writers, some frames written by two of them, studies of two hospitals shared by all."""
    batches = [
        [frame(number, hospital_id=hospital, study=number % 3, segment=writer % 3) for number in range(30) for hospital in ("h1", "h2")][
            ::2
        ]
        for writer in range(4)
    ]
    gave_up: list[Exception] = []

    def write(batch: list[SpooledFrame]) -> None:
        for start in range(0, len(batch), 7):
            for attempt in range(20):
                try:
                    index_frames(database, batch[start : start + 7])
                    break
                except TemporarilyUnable as error:
                    if attempt == 19:
                        gave_up.append(error)

    threads = [threading.Thread(target=write, args=(batch,)) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not gave_up
    expected = {(one.position.segment_id, one.position.offset) for batch in batches for one in batch}
    with database.reading() as session:
        rows = session.exec(select(ReceivedInstance)).all()
        studies = session.exec(select(ReceivedStudy)).all()
        assert sorted((row.segment_id, row.frame_offset) for row in rows) == sorted(expected)
        distinct = [row for row in rows if not row.is_duplicate]
        assert len(distinct) == len({(row.hospital_id, row.instance_lookup) for row in rows})
        assert sum(study.instance_count for study in studies) == len(distinct)
        assert stored_bytes(session, "h1") + stored_bytes(session, "h2") == 10 * len(distinct)


def test_duplicates_and_conflicts_within_one_batch_are_told_apart(database: Database) -> None:
    index_frames(database, [frame(0, instance=7), frame(1, instance=7), frame(2, instance=7, digest="e"), frame(3, instance=7, study=1)])
    index_frames(database, [frame(4, instance=7, digest="e"), frame(5, hospital_id="h2", instance=7)])
    with database.reading() as session:
        rows = sorted(session.exec(select(ReceivedInstance)).all(), key=lambda row: row.frame_offset)
    flags = ["duplicate" if row.is_duplicate else "conflict" if row.is_conflicting else "new" for row in rows]
    assert flags == ["new", "duplicate", "conflict", "conflict", "duplicate", "new"]


def test_rows_wait_for_more_frames_only_as_long_as_they_come() -> None:
    """In pauses of a twelfth of the linger: who sent the last frame waits for one of them, and a stream for no more than all."""
    waits = {}
    for name, coming in (("the last", 0), ("a stream", 100)):
        index = SpoolIndex.__new__(SpoolIndex)
        index._frames = deque()
        slept: list[float] = []

        def wait(seconds: float, index: SpoolIndex = index, slept: list[float] = slept, coming: int = coming) -> bool:
            slept.append(seconds)
            index._frames.extend([frame(number) for number in range(coming)])
            return False

        index._hurry = cast(threading.Event, SimpleNamespace(wait=wait))
        index._linger()
        waits[name] = round(sum(slept), 6)
    assert waits == {"the last": 0.05, "a stream": 0.6}


@pytest.mark.parametrize("kind", [MemoryError, RuntimeError])
def test_the_thread_outlives_an_error_of_any_kind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: type[Exception]
) -> None:
    """What it had in hand is found again by `recover`; who comes after it has its rows, and who waits is not left waiting."""
    written: list[list[SpooledFrame]] = []

    def failing_once(_database: Database, batch: list[SpooledFrame]) -> None:
        written.append(batch)
        if len(written) == 1:
            raise kind("value Muster^Erika")

    monkeypatch.setattr(spool_index, "index_frames", failing_once)
    index = SpoolIndex(cast(Database, None), cast(Spool, None))
    index.start()
    for number in range(2):
        index.add(frame(number))
        assert index.flush(10)
    index.stop()
    assert [one.position.offset for batch in written for one in batch] == [0, 100]
    said = "".join(capsys.readouterr())
    assert "spool_index_failed" in said and kind.__name__ in said and "Erika" not in said
