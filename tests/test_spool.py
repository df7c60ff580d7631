"""The spool: what was acknowledged is there, whatever happened; what was not is whole or absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.disk import BLOCK_BYTES
from crypto.errors import Conflict, IntegrityFailure, NotFound, RefusedContent, TemporarilyUnable
from crypto.keys import FileKeyStore
from crypto.spool import FramePosition, Spool
from crypto.spool_format import whole_blocks
from tests.spool_segments import FACTS, append_some, crash, path_of, payload, read_all

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def keys(tmp_path: Path) -> FileKeyStore:
    store = FileKeyStore(tmp_path / "keys")
    store.create_kek("h1")
    return store


@pytest.fixture
def spool(tmp_path: Path, keys: FileKeyStore) -> Spool:
    return Spool(tmp_path / "spool", keys)


def test_frames_come_back_in_order_with_their_facts(spool: Spool) -> None:
    with spool.open_segment("h1", FACTS) as writer:
        positions = append_some(writer, 5)
        empty = writer.append({"n": 5}, [])
        big = writer.append({"n": 6}, [b"x", memoryview(bytes(3_000_000)), bytearray(b"yz")])
        segment_id = writer.segment_id
    reader = spool.read_segment(segment_id)
    frames = list(reader)
    assert (reader.hospital_id, reader.facts, reader.is_complete, reader.torn_bytes) == ("h1", FACTS, True, 0)
    assert [position for position, _, _ in frames] == [*positions, empty, big]
    assert [header for _, header, _ in frames] == [{"n": number} for number in range(7)]
    assert [body for _, _, body in frames[:5]] == [payload(number) for number in range(5)]
    assert (frames[5][2], frames[6][2]) == (b"", b"x" + bytes(3_000_000) + b"yz")
    assert spool.read_frame(positions[3]) == ({"n": 3}, payload(3))


def test_another_process_reads_what_this_one_wrote(spool: Spool, keys: FileKeyStore, tmp_path: Path) -> None:
    with spool.open_segment("h1", FACTS) as writer:
        positions = append_some(writer, 3)
    other = Spool(tmp_path / "spool", FileKeyStore(tmp_path / "keys"))
    assert other.segments() == [writer.segment_id]
    assert [position for position, _, _ in other.read_segment(writer.segment_id)] == positions


def test_nothing_readable_stands_on_the_disk(spool: Spool, tmp_path: Path) -> None:
    with spool.open_segment("h1", {"calling_ae_title": "CANARY_AE"}) as writer:
        writer.append({"sop_instance_uid": "1.2.3.CANARY"}, b"CANARY^PATIENT" * 100)
    content = path_of(tmp_path, writer.segment_id).read_bytes()
    assert b"CANARY" not in content
    assert all("CANARY" not in str(path) for path in tmp_path.rglob("*"))
    assert path_of(tmp_path, writer.segment_id).stat().st_mode & 0o777 == 0o600


def test_segment_is_open_while_its_writer_lives_and_is_not_removed(spool: Spool, keys: FileKeyStore, tmp_path: Path) -> None:
    other = Spool(tmp_path / "spool", keys)
    writer = spool.open_segment("h1", FACTS)
    for one in (spool, other):
        assert one.is_open(writer.segment_id)
        with pytest.raises(Conflict):
            one.remove_segment(writer.segment_id)
    writer.close()
    writer.close()
    assert not other.is_open(writer.segment_id)
    other.remove_segment(writer.segment_id)
    other.remove_segment(writer.segment_id)
    assert spool.segments() == []
    for act in (spool.read_segment, lambda _: spool.read_frame(FramePosition(writer.segment_id, 0, 1))):
        with pytest.raises(NotFound):
            act(writer.segment_id)


@pytest.mark.parametrize("segment_id", ["../../etc/passwd", "", "x" * 32, "A" * 32])
def test_foreign_segment_names_reach_no_file(spool: Spool, segment_id: str) -> None:
    for act in (spool.read_segment, spool.is_open, spool.remove_segment):
        with pytest.raises(NotFound):
            act(segment_id)


def test_closed_writer_takes_no_frame(spool: Spool) -> None:
    writer = spool.open_segment("h1", FACTS)
    writer.close()
    with pytest.raises(TemporarilyUnable):
        writer.append({}, b"late")


def test_full_segment_is_followed_by_another(tmp_path: Path, keys: FileKeyStore) -> None:
    spool = Spool(tmp_path / "spool", keys, segment_bytes_max=13000)
    with spool.open_segment("h1", FACTS) as writer:
        positions = append_some(writer, 12, 2000)
    assert len(spool.segments()) == 4
    assert {position.segment_id for position in positions} == set(spool.segments())
    assert [spool.read_frame(position)[0]["n"] for position in positions] == list(range(12))
    assert all(spool.read_segment(segment_id).is_complete for segment_id in spool.segments())
    assert not any(spool.is_open(segment_id) for segment_id in spool.segments())


def test_header_too_long_is_refused_and_the_segment_goes_on(spool: Spool) -> None:
    with spool.open_segment("h1", FACTS) as writer:
        with pytest.raises(RefusedContent):
            writer.append({"x": "y" * 70_000}, b"")
        append_some(writer, 2)
    assert len(list(spool.read_segment(writer.segment_id))) == 2


# -- damage


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_crash_at_any_byte_loses_no_acknowledged_frame(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """After power loss the file ends anywhere behind the last sync, with anything in between."""
    tmp_path = tmp_path_factory.mktemp("crash")
    keys = FileKeyStore(tmp_path / "keys")
    keys.create_kek("h1")
    spool = Spool(tmp_path / "spool", keys)
    writer = spool.open_segment("h1", FACTS)
    acknowledged = append_some(writer, data.draw(st.integers(0, 4)))
    durable = writer._file.durable
    # Two frames written and never synced.
    writer._file.wait_durable = lambda target: None  # type: ignore[method-assign]
    lost = [writer.append({"n": 100 + number}, payload(number, 300)) for number in range(2)]
    crash(writer)
    path = path_of(tmp_path, writer.segment_id)
    content = bytearray(path.read_bytes())
    end = data.draw(st.integers(durable, len(content)))
    tail = content[durable:end]
    for _ in range(data.draw(st.integers(0, 3))):
        if tail:
            start = data.draw(st.integers(0, len(tail) - 1))
            width = data.draw(st.integers(1, 64))
            junk = data.draw(st.sampled_from([bytes(width), b"\xff" * width, os.urandom(width)]))
            tail[start : start + width] = junk[: len(tail) - start]
    path.write_bytes(content[:durable] + tail)

    reader = spool.read_segment(writer.segment_id)
    frames, failures = read_all(reader)
    assert [position for position, _, _ in frames[: len(acknowledged)]] == acknowledged
    assert [body for _, _, body in frames[: len(acknowledged)]] == [payload(number) for number in range(len(acknowledged))]
    # What was never acknowledged is whole or absent, and its absence is no alarm.
    assert {position for position, _, _ in frames[len(acknowledged) :]} <= set(lost)
    assert all(body == payload(header["n"] - 100, 300) for _, header, body in frames[len(acknowledged) :])
    assert failures == 0
    assert not reader.is_complete
    assert all(spool.read_frame(position) == ({"n": number}, payload(number)) for number, position in enumerate(acknowledged))


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "crashed"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_flipped_bit_spoils_one_frame_and_is_told(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, closed: bool) -> None:
    tmp_path = tmp_path_factory.mktemp("flip")
    keys = FileKeyStore(tmp_path / "keys")
    keys.create_kek("h1")
    spool = Spool(tmp_path / "spool", keys)
    writer = spool.open_segment("h1", FACTS)
    positions = append_some(writer, 4)
    writer.close() if closed else crash(writer)
    path = path_of(tmp_path, writer.segment_id)
    content = bytearray(path.read_bytes())
    victim = data.draw(st.integers(0, 3))
    position = positions[victim]
    place = position.offset + data.draw(st.one_of(st.integers(0, 79), st.integers(0, position.length - 1)))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)

    reader = spool.read_segment(writer.segment_id)
    frames, failures = read_all(reader)
    assert [header["n"] for _, header, _ in frames] == [number for number in range(4) if number != victim]
    assert all(body == payload(header["n"]) for _, header, body in frames)
    if victim == 3 and not closed:
        # The last frame of a crashed segment cannot be told from a torn write.
        assert failures == 0
        assert position.length <= reader.torn_bytes < position.length + BLOCK_BYTES
    else:
        assert (failures, [one.offset for one in reader.damaged]) == (1, [position.offset])
    with pytest.raises(IntegrityFailure, match=r"^cannot be opened$"):
        spool.read_frame(position)


def test_segment_header_changed_in_any_byte_is_told(spool: Spool, tmp_path: Path) -> None:
    with spool.open_segment("h1", FACTS) as writer:
        first = append_some(writer, 1)[0]
    path = path_of(tmp_path, writer.segment_id)
    content = path.read_bytes()
    meaning = 12 + int.from_bytes(content[8:12], "big")
    assert first.offset == whole_blocks(meaning)
    for place in range(meaning):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        if place in (5, 6, 7):
            continue  # the three zero bytes mean nothing
        with pytest.raises(IntegrityFailure):
            spool.read_segment(writer.segment_id)


def test_frame_copied_to_another_place_or_segment_is_refused(spool: Spool, tmp_path: Path) -> None:
    writers = [spool.open_segment("h1", FACTS) for _ in range(2)]
    positions = [append_some(writer, 3) for writer in writers]
    for writer in writers:
        writer.close()
    paths = [path_of(tmp_path, writer.segment_id) for writer in writers]
    contents = [path.read_bytes() for path in paths]
    first, second = positions[0][0], positions[0][1]
    assert first.length == second.length

    def frame(number: int, position: FramePosition) -> bytes:
        return contents[number][position.offset : position.offset + position.length]

    swapped = contents[0].replace(frame(0, second), frame(0, first), 1)
    spliced = contents[0].replace(frame(0, second), frame(1, positions[1][1]), 1)
    for forged in (swapped, spliced):
        paths[0].write_bytes(forged)
        frames, failures = read_all(spool.read_segment(writers[0].segment_id))
        assert failures == 1
        assert [header["n"] for _, header, _ in frames] == [0, 2]


# -- the disk


# -- group commit
