"""Segments made of files that were filled before: they hold the same promise, and what a crash leaves of them is put in order."""

from __future__ import annotations

import errno
import itertools
import os
import time
from pathlib import Path

import pytest

from crypto.blank_segments import BLANK_BYTES, BlankSegments
from crypto.disk import BLOCK_BYTES, Disk
from crypto.errors import IntegrityFailure, TemporarilyUnable
from crypto.keys import FileKeyStore
from crypto.spool import SegmentWriter, Spool
from tests.faulty_disk import FaultyDisk, fail_every, fail_nth
from tests.spool_segments import FACTS, append_some, crash, path_of, payload, read_all


@pytest.fixture
def keys(tmp_path: Path) -> FileKeyStore:
    store = FileKeyStore(tmp_path / "keys")
    store.create_kek("h1")
    return store


def with_blanks(tmp_path: Path, keys: FileKeyStore, count: int, disk: Disk | None = None) -> Spool:
    spool = Spool(tmp_path / "spool", keys, disk=disk)
    spool._blanks.fill(count, lambda _: True)
    return spool


def blanks_of(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "spool" / "blank").iterdir())


def test_blank_file_becomes_a_segment_that_never_grows(tmp_path: Path, keys: FileKeyStore) -> None:
    spool = with_blanks(tmp_path, keys, 1)
    (blank,) = blanks_of(tmp_path)
    assert (blank.stat().st_size, blank.stat().st_mode & 0o777) == (BLANK_BYTES, 0o600)
    assert spool.segments() == []
    with spool.open_segment("h1", FACTS) as writer:
        assert writer.segment_id == blank.stem
        positions = append_some(writer, 4, 100_000)
        path = path_of(tmp_path, writer.segment_id)
        assert path.stat().st_size == BLANK_BYTES
        assert not blanks_of(tmp_path)
        assert spool.is_open(writer.segment_id)
    # What it did not need is given back.
    assert path.stat().st_size < 500_000
    reader = spool.read_segment(writer.segment_id)
    assert [position for position, _, _ in reader] == positions
    assert (reader.is_complete, reader.torn_bytes) == (True, 0)


def test_writer_goes_on_in_the_next_blank_file_and_grows_where_there_is_none(tmp_path: Path, keys: FileKeyStore) -> None:
    spool = with_blanks(tmp_path, keys, 2)
    with spool.open_segment("h1", FACTS) as writer:
        positions = append_some(writer, 10, 5_000_000)
    sizes = [path_of(tmp_path, segment_id).stat().st_size for segment_id in dict.fromkeys(one.segment_id for one in positions)]
    assert len(sizes) == 2
    assert sizes[0] < BLANK_BYTES < sizes[1]
    assert [spool.read_frame(position)[0]["n"] for position in positions] == list(range(10))


def test_crashed_segment_ends_where_its_zeros_begin(tmp_path: Path, keys: FileKeyStore) -> None:
    spool = with_blanks(tmp_path, keys, 1)
    writer = spool.open_segment("h1", FACTS)
    append_some(writer, 3)
    abandon(spool, writer)
    assert path_of(tmp_path, writer.segment_id).stat().st_size == BLANK_BYTES
    reader = spool.read_segment(writer.segment_id)
    frames, failures = read_all(reader)
    assert ([header["n"] for _, header, _ in frames], failures, reader.torn_bytes, reader.is_complete) == ([0, 1, 2], 0, 0, False)


def abandon(spool: Spool, writer: SegmentWriter) -> None:
    """As `crash`, without the courtesy of giving back what was not needed."""
    with spool._lock:
        spool._open.pop(writer.segment_id)
    os.close(writer._file._descriptor)
    writer._is_closed = True


@pytest.mark.parametrize("junk", [b"\xff", os.urandom(1)], ids=["ones", "random"])
def test_torn_frame_within_a_blank_file_costs_no_other(tmp_path: Path, keys: FileKeyStore, junk: bytes) -> None:
    """Power fails while the last frame is written: any of its blocks may be old, new or neither."""
    spool = with_blanks(tmp_path, keys, 1)
    writer = spool.open_segment("h1", FACTS)
    acknowledged = append_some(writer, 3)
    writer._file.wait_durable = lambda target: None  # type: ignore[method-assign]
    lost = writer.append({"n": 9}, payload(9, 20_000))
    abandon(spool, writer)
    whole = path_of(tmp_path, writer.segment_id).read_bytes()
    for block in range(lost.offset, lost.offset + lost.length, BLOCK_BYTES):
        for other in (bytes(BLOCK_BYTES), junk * BLOCK_BYTES):
            path_of(tmp_path, writer.segment_id).write_bytes(whole[:block] + other[:BLOCK_BYTES] + whole[block + BLOCK_BYTES :])
            frames, failures = read_all(spool.read_segment(writer.segment_id))
            assert ([position for position, _, _ in frames], failures) == (acknowledged, 0)


def test_bytes_of_another_segment_behind_the_end_are_nobodys(tmp_path: Path, keys: FileKeyStore) -> None:
    spool = with_blanks(tmp_path, keys, 2)
    writers = [spool.open_segment("h1", FACTS) for _ in range(2)]
    append_some(writers[0], 2)
    append_some(writers[1], 6)
    for writer in writers:
        abandon(spool, writer)
    older = path_of(tmp_path, writers[1].segment_id).read_bytes()
    path = path_of(tmp_path, writers[0].segment_id)
    end = writers[0]._file.end
    path.write_bytes(path.read_bytes()[:end] + older[end:])
    frames, failures = read_all(spool.read_segment(writers[0].segment_id))
    assert ([header["n"] for _, header, _ in frames], failures) == ([0, 1], 0)


def test_segment_whose_name_was_lost_with_the_power_is_found_at_the_next_start(tmp_path: Path, keys: FileKeyStore) -> None:
    spool = with_blanks(tmp_path, keys, 2)
    writer = spool.open_segment("h1", FACTS)
    positions = append_some(writer, 3)
    blank = tmp_path / "spool" / "blank" / f"{writer.segment_id}.blank"
    path_of(tmp_path, writer.segment_id).rename(blank)
    # As long as its writer lives, nobody touches it.
    assert Spool(tmp_path / "spool", keys).segments() == []
    abandon(spool, writer)
    again = Spool(tmp_path / "spool", keys)
    assert again.segments() == [writer.segment_id]
    assert [position for position, _, _ in again.read_segment(writer.segment_id)] == positions
    assert len(blanks_of(tmp_path)) == 1


def test_header_cut_short_by_the_power_is_no_segment(tmp_path: Path, keys: FileKeyStore) -> None:
    with_blanks(tmp_path, keys, 1)
    (blank,) = blanks_of(tmp_path)
    with blank.open("r+b") as file:
        file.write(b"RGSP\x02\0\0\0\0\0\xff\xff")
    assert Spool(tmp_path / "spool", keys).segments() == []
    assert not blanks_of(tmp_path)


def test_damaged_header_with_frames_behind_it_is_told(tmp_path: Path, keys: FileKeyStore) -> None:
    spool = with_blanks(tmp_path, keys, 1)
    writer = spool.open_segment("h1", FACTS)
    append_some(writer, 1)
    abandon(spool, writer)
    path = path_of(tmp_path, writer.segment_id)
    with path.open("r+b") as file:
        file.seek(8)
        file.write(b"\xff\xff\xff\xff")
    path.rename(tmp_path / "spool" / "blank" / f"{writer.segment_id}.blank")
    again = Spool(tmp_path / "spool", keys)
    assert again.segments() == [writer.segment_id]
    with pytest.raises(IntegrityFailure):
        again.read_segment(writer.segment_id)


def test_two_processes_never_take_the_same_file(tmp_path: Path, keys: FileKeyStore) -> None:
    one = with_blanks(tmp_path, keys, 3)
    other = Spool(tmp_path / "spool", keys)
    other._blanks.look()
    assert len(other._blanks._names) == 3
    writers = [spool.open_segment("h1", FACTS) for _ in range(2) for spool in (one, other)]
    assert len({writer.segment_id for writer in writers}) == 4
    for writer in writers:
        append_some(writer, 1)
        writer.close()
    assert all(len(list(one.read_segment(writer.segment_id))) == 1 for writer in writers)


def test_file_that_became_a_segment_and_was_closed_is_not_taken_again(tmp_path: Path, keys: FileKeyStore) -> None:
    one = with_blanks(tmp_path, keys, 1)
    other = Spool(tmp_path / "spool", keys)
    other._blanks.look()
    with one.open_segment("h1", FACTS) as writer:
        append_some(writer, 1)
    # The name it had is there again, as after a crash that took the rename back.
    (tmp_path / "spool" / "blank" / f"{writer.segment_id}.blank").hardlink_to(path_of(tmp_path, writer.segment_id))
    assert other._blanks.take() is None
    assert len(list(one.read_segment(writer.segment_id))) == 1


def test_half_made_files_are_swept_and_room_is_asked_for(tmp_path: Path) -> None:
    blanks = BlankSegments(tmp_path / "blank", Disk())
    room = iter([True, False])
    assert blanks.fill(5, lambda length: length == BLANK_BYTES and next(room)) == 1
    (tmp_path / "blank" / ".0123.new").write_bytes(b"\0" * 100)
    assert not blanks.settle(lambda segment_id: tmp_path / f"{segment_id}.segment")
    assert [path.suffix for path in (tmp_path / "blank").iterdir()] == [".blank"]


def test_two_processes_that_fill_make_no_more_than_is_wanted(tmp_path: Path) -> None:
    one, other = (BlankSegments(tmp_path / "blank", Disk()) for _ in range(2))
    made = []

    def may_fill(length: int) -> bool:
        made.append(other.fill(2, lambda _: True))
        return True

    assert one.fill(2, may_fill) == 2
    assert (made, len(one.names())) == ([0, 0], 2)
    assert other.fill(3, lambda _: True) == 1


@pytest.mark.parametrize("persisted", [False, True], ids=["not-persisted", "persisted"])
def test_nth_failing_effect_never_loses_what_was_acknowledged(tmp_path: Path, keys: FileKeyStore, persisted: bool) -> None:
    for number in itertools.count():
        directory = tmp_path / str(number)
        disk = FaultyDisk()
        spool = Spool(directory / "spool", keys, disk=disk)
        Spool(directory / "spool", keys)._blanks.fill(1, lambda _: True)
        spool._blanks.look()
        done = len(disk.effects)
        disk.plan = fail_nth(number, persisted=persisted, code=errno.EIO)
        acknowledged = {}
        writer = None
        for frame in range(3):
            try:
                writer = writer if writer is not None and writer.takes_frames else spool.open_segment("h1", FACTS)
                acknowledged[frame] = writer.append({"n": frame}, payload(frame, 2000))
            except TemporarilyUnable:
                continue
        effects = len(disk.effects) - done
        assert len(acknowledged) >= 2
        if writer is not None:
            crash(writer)
        checked = Spool(directory / "spool", keys)
        found: dict[int, bytes] = {}
        for segment_id in checked.segments():
            found |= {header["n"]: body for _, header, body in checked.read_segment(segment_id)}
        assert acknowledged.keys() <= found.keys()
        assert all(body == payload(frame, 2000) for frame, body in found.items())
        if number >= effects:
            break
    assert number >= 8


@pytest.mark.parametrize("name", ["blank/.{}.new", "blank/{}.blank", ".{}.new"])
def test_no_name_hides_a_segment_with_frames(tmp_path: Path, keys: FileKeyStore, name: str) -> None:
    """The content was synced; what the file is called is what the power left of its renames."""
    spool = with_blanks(tmp_path, keys, 1)
    writer = spool.open_segment("h1", FACTS)
    positions = append_some(writer, 3)
    abandon(spool, writer)
    path_of(tmp_path, writer.segment_id).rename(tmp_path / "spool" / name.format(writer.segment_id))
    again = Spool(tmp_path / "spool", keys)
    assert [position for position, _, _ in again.read_segment(writer.segment_id)] == positions
    assert not blanks_of(tmp_path)


def test_file_with_both_names_keeps_the_new_one(tmp_path: Path, keys: FileKeyStore) -> None:
    spool = with_blanks(tmp_path, keys, 1)
    writer = spool.open_segment("h1", FACTS)
    positions = append_some(writer, 2)
    abandon(spool, writer)
    (tmp_path / "spool" / "blank" / f"{writer.segment_id}.blank").hardlink_to(path_of(tmp_path, writer.segment_id))
    again = Spool(tmp_path / "spool", keys)
    assert [position for position, _, _ in again.read_segment(writer.segment_id)] == positions
    assert not blanks_of(tmp_path)


def test_damaged_header_far_before_the_next_byte_is_told_too(tmp_path: Path, keys: FileKeyStore) -> None:
    with_blanks(tmp_path, keys, 1)
    (blank,) = blanks_of(tmp_path)
    with blank.open("r+b") as file:
        file.write(b"RGSP\x02\0\0\0\0\0\xff\xff")
        file.seek(BLANK_BYTES - BLOCK_BYTES)
        file.write(b"R")
    assert Spool(tmp_path / "spool", keys).segments() == [blank.stem]


def test_blank_file_is_taken_by_nobody_before_its_name_lasts(tmp_path: Path) -> None:
    class Watched(Disk):
        def fsync_directory(self, path: Path) -> None:
            other.look()
            taken.append(other.take())
            super().fsync_directory(path)

    taken: list[tuple[str, int] | None] = []
    other = BlankSegments(tmp_path / "blank", Disk())
    (tmp_path / "blank").mkdir()
    assert BlankSegments(tmp_path / "blank", Watched()).fill(1, lambda _: True) == 1
    assert taken == [None]
    other.look()
    assert other.take() is not None


def test_blank_file_whose_name_cannot_be_made_to_last_is_none(tmp_path: Path) -> None:
    (tmp_path / "blank").mkdir()
    blanks = BlankSegments(tmp_path / "blank", FaultyDisk(fail_every("fsync_directory")))
    with pytest.raises(OSError, match="injected"):
        blanks.fill(1, lambda _: True)
    assert (blanks.names(), blanks.has_any) == ([], False)


def test_filling_stops_at_a_quarter_when_anybody_begins_to_receive(tmp_path: Path, keys: FileKeyStore) -> None:
    spool = with_blanks(tmp_path, keys, 1)
    begins_at = 4
    asked = itertools.count(1)

    def may_fill(length: int) -> bool:
        if next(asked) == begins_at:
            # Another process, of which this one knows nothing, begins a segment while the store is being filled.
            Spool(tmp_path / "spool", keys).open_segment("h1", FACTS).close()
        return True

    def senders_pause() -> None:
        os.utime(tmp_path / "spool", (time.time() - 60, time.time() - 60))

    senders_pause()
    supply = spool.supply_blanks(12, may_fill)
    assert spool._blanks.fill(12, supply._goes_on) == 4
    assert spool._blanks.fill(12, supply._goes_on) == 0
    # What a burst needs is made all the same.
    for blank in blanks_of(tmp_path)[:3]:
        blank.unlink()
    assert spool._blanks.fill(12, supply._goes_on) == 1
    senders_pause()
    assert spool._blanks.fill(12, supply._goes_on) == 9
