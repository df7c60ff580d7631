"""The spool on a disk that fails or is slow, and under writers that are killed."""

from __future__ import annotations

import errno
import itertools
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from crypto.errors import TemporarilyUnable
from crypto.keys import FileKeyStore
from crypto.spool import FramePosition, Spool
from tests.faulty_disk import FaultyDisk, fail_every, fail_nth
from tests.spool_segments import FACTS, append_some, path_of, payload, read_all

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def keys(tmp_path: Path) -> FileKeyStore:
    store = FileKeyStore(tmp_path / "keys")
    store.create_kek("h1")
    return store


def faulty(tmp_path: Path, keys: FileKeyStore) -> tuple[Spool, FaultyDisk]:
    disk = FaultyDisk()
    return Spool(tmp_path / "spool", keys, disk=disk), disk


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_failed_write_leaves_no_trace_and_the_segment_goes_on(tmp_path: Path, keys: FileKeyStore, code: int) -> None:
    spool, disk = faulty(tmp_path, keys)
    writer = spool.open_segment("h1", FACTS)
    append_some(writer, 2)
    size = path_of(tmp_path, writer.segment_id).stat().st_size
    disk.plan = fail_every("write", code=code)
    with pytest.raises(TemporarilyUnable):
        writer.append({"n": 99}, payload(99, 3_000_000))
    assert path_of(tmp_path, writer.segment_id).stat().st_size == size
    disk.plan = lambda _: (True, None)
    writer.append({"n": 2}, payload(2))
    writer.close()
    assert [header["n"] for _, header, _ in spool.read_segment(writer.segment_id)] == [0, 1, 2]


@pytest.mark.parametrize("persisted", [False, True], ids=["not-persisted", "persisted"])
def test_failed_sync_poisons_the_segment(tmp_path: Path, keys: FileKeyStore, persisted: bool) -> None:
    spool, disk = faulty(tmp_path, keys)
    writer = spool.open_segment("h1", FACTS)
    append_some(writer, 2)
    disk.plan = fail_every("fdatasync", persisted=persisted)
    with pytest.raises(TemporarilyUnable):
        writer.append({"n": 99}, payload(99))
    disk.plan = lambda _: (True, None)
    with pytest.raises(TemporarilyUnable):
        writer.append({"n": 2}, payload(2))
    writer.close()
    assert not spool.is_open(writer.segment_id)
    frames, failures = read_all(spool.read_segment(writer.segment_id))
    assert ([header["n"] for _, header, _ in frames], failures) == ([0, 1], 0)
    # The association's next segment works.
    with spool.open_segment("h1", FACTS) as again:
        append_some(again, 1)


@pytest.mark.parametrize("persisted", [False, True], ids=["not-persisted", "persisted"])
def test_nth_failing_effect_never_loses_what_was_acknowledged(tmp_path: Path, keys: FileKeyStore, persisted: bool) -> None:
    """One association under every single fault; after each, the whole spool is read."""
    for number in itertools.count():
        directory = tmp_path / str(number)
        disk = FaultyDisk()
        spool = Spool(directory / "spool", keys, disk=disk, segment_bytes_max=12000)
        done = len(disk.effects)
        disk.plan = fail_nth(number, persisted=persisted)
        acknowledged: dict[int, FramePosition] = {}
        refused = set()
        try:
            writer = spool.open_segment("h1", FACTS)
        except TemporarilyUnable:
            writer = None
        if writer is not None:
            for frame in range(4):
                try:
                    acknowledged[frame] = writer.append({"n": frame}, payload(frame, 2000))
                except TemporarilyUnable:
                    refused.add(frame)
            writer.close()
        assert number >= len(disk.effects) - done or refused or len(acknowledged) in (0, 4)
        for checked in (spool, Spool(directory / "spool", keys)):
            found: dict[int, bytes] = {}
            for segment_id in checked.segments():
                assert not checked.is_open(segment_id)
                found |= {header["n"]: body for _, header, body in checked.read_segment(segment_id)}
            assert acknowledged.keys() <= found.keys()
            assert all(body == payload(frame, 2000) for frame, body in found.items())
            for frame, position in acknowledged.items():
                assert checked.read_frame(position) == ({"n": frame}, payload(frame, 2000))
        assert not list((directory / "spool").glob(".*"))
        if number >= len(disk.effects) - done:
            assert len(acknowledged) == 4
            break
    assert number > 15


def test_what_a_writer_left_that_died_before_its_segment_had_a_name_is_swept(tmp_path: Path, keys: FileKeyStore) -> None:
    Spool(tmp_path / "spool", keys)
    stray = tmp_path / "spool" / ".0123.new"
    stray.write_bytes(b"RGSP")
    assert Spool(tmp_path / "spool", keys).segments() == []
    assert not stray.exists()


class SlowDisk(FaultyDisk):
    """fdatasync waits for leave."""

    def __init__(self) -> None:
        super().__init__()
        self.leave = threading.Event()
        self.leave.set()
        self.syncs = 0

    def fdatasync(self, descriptor: int) -> None:
        self.syncs += 1
        assert self.leave.wait(30)
        super().fdatasync(descriptor)


def start(threads: int, act: Callable[[int], None]) -> list[threading.Thread]:
    started = [threading.Thread(target=act, args=(number,)) for number in range(threads)]
    for thread in started:
        thread.start()
    return started


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        threading.Event().wait(0.01)
    pytest.fail("waited 30 s in vain")


@pytest.mark.parametrize("fails", [False, True], ids=["synced", "sync-fails"])
def test_one_sync_serves_all_who_wait(tmp_path: Path, keys: FileKeyStore, fails: bool) -> None:
    disk = SlowDisk()
    spool = Spool(tmp_path / "spool", keys, disk=disk)
    writer = spool.open_segment("h1", FACTS)
    outcomes: dict[int, str] = {}
    disk.leave.clear()
    disk.syncs = 0
    if fails:
        disk.plan = fail_every("fdatasync")

    def act(number: int) -> None:
        try:
            writer.append({"n": number}, payload(number))
            outcomes[number] = "durable"
        except TemporarilyUnable:
            outcomes[number] = "unable"

    before = len(disk.effects)
    threads = start(8, act)
    wait_until(lambda: disk.effects[before:].count("write") == 8 and disk.syncs == 1)
    assert outcomes == {}
    # A reader meanwhile sees nothing that is not durable.
    assert list(spool.read_segment(writer.segment_id)) == []
    disk.leave.set()
    for thread in threads:
        thread.join(30)
    disk.plan = lambda _: (True, None)
    writer.close()
    frames, failures = read_all(spool.read_segment(writer.segment_id))
    assert failures == 0
    if fails:
        assert (set(outcomes.values()), frames) == ({"unable"}, [])
    else:
        # One for the first to come, one for all who wrote while it ran, and one or two to close.
        assert set(outcomes.values()) == {"durable"}
        assert disk.syncs <= 4
        assert {header["n"] for _, header, _ in frames} == set(range(8))


def test_many_threads_on_many_segments(tmp_path: Path, keys: FileKeyStore) -> None:
    spool = Spool(tmp_path / "spool", keys, segment_bytes_max=40_000)
    writers = [spool.open_segment("h1", {"association": number}) for number in range(3)]
    positions: list[tuple[FramePosition, int]] = []

    def act(number: int) -> None:
        for frame in range(15):
            tag = number * 100 + frame
            positions.append((writers[number % 3].append({"n": tag}, payload(tag)), tag))

    for thread in start(6, act):
        thread.join(60)
    for writer in writers:
        writer.close()
    assert len(positions) == 90
    assert all(spool.read_frame(position) == ({"n": tag}, payload(tag)) for position, tag in positions)
    read = [header["n"] for segment_id in spool.segments() for _, header, _ in spool.read_segment(segment_id)]
    assert sorted(read) == sorted(tag for _, tag in positions)


def test_killed_writer_leaves_every_frame_it_acknowledged(tmp_path: Path, keys: FileKeyStore) -> None:
    program = (
        "import sys; from pathlib import Path; from crypto.keys import FileKeyStore; from crypto.spool import Spool\n"
        "root = Path(sys.argv[1]); writer = Spool(root / 'spool', FileKeyStore(root / 'keys')).open_segment('h1', {})\n"
        "for n in range(100000): p = writer.append({'n': n}, bytes(200000)); print(n, p.offset, p.length, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, cwd=REPOSITORY, text=True)
    assert process.stdout is not None
    told = [process.stdout.readline() for _ in range(20)]
    spool = Spool(tmp_path / "spool", keys)
    (segment_id,) = spool.segments()
    assert spool.is_open(segment_id)
    process.send_signal(signal.SIGKILL)
    told += process.stdout.read().splitlines()
    process.wait(30)
    process.stdout.close()
    assert not spool.is_open(segment_id)
    acknowledged = [tuple(map(int, line.split())) for line in told if line.count(" ") == 2]
    reader = spool.read_segment(segment_id)
    frames = [(header["n"], position.offset, position.length) for position, header, body in reader if body == bytes(200000)]
    assert frames[: len(acknowledged)] == acknowledged
    assert len(frames) - len(acknowledged) <= 1
    assert not reader.is_complete
