"""The fault table of intake: every effect on disk and database fails once, not persisted and persisted, and what was acknowledged is there.

One association sends two instances, one in pieces, and one of them again. Then the process dies and another recovers.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from sqlmodel import Session

from compliance.database import Database
from crypto.errors import RefusedContent, TemporarilyUnable
from crypto.spool import Spool
from gateway.intake_port import InstanceHead
from gateway.spool_index import SpooledFrame, SpoolIndex, index_frames
from tests.builders import make_ct_study, payload_of
from tests.faulty_disk import fail_every, fail_nth
from tests.intake_site import EXPLICIT, IntakeSite, intake_site

STUDY = make_ct_study(instances=3, rows=40, columns=40)
PIECE_BYTES = 2000


def receive_in_pieces(site: IntakeSite, dataset: Dataset) -> None:
    session, payload = site.sessions[0], memoryview(payload_of(dataset))
    large = site.intake.begin_large_instance(session, site.head(dataset))
    for start in range(0, len(payload), PIECE_BYTES):
        large.append([payload[start : start + PIECE_BYTES]])
    large.finish()


def send_all(site: IntakeSite) -> list[Dataset]:
    """What was acknowledged, of an association that goes on after a failure as a scanner does."""
    acknowledged = []
    session = site.session()
    acts: list[tuple[Dataset, Callable[[], object]]] = [
        (STUDY[0], lambda: site.receive(session, STUDY[0])),
        (STUDY[1], lambda: receive_in_pieces(site, STUDY[1])),
        (STUDY[0], lambda: site.receive(session, STUDY[0])),
        (STUDY[2], lambda: site.receive(session, STUDY[2])),
    ]
    for dataset, act in acts:
        try:
            act()
            acknowledged.append(dataset)
        except TemporarilyUnable:
            continue
    return acknowledged


def assert_kept(site: IntakeSite, acknowledged: list[Dataset]) -> None:
    """Every acknowledged instance has a row that is no duplicate and opens to its bytes; every row opens to something that was sent."""
    site.crash_and_recover()
    sent = {payload_of(dataset) for dataset in STUDY}
    distinct = [row for row in site.instances() if not row.is_duplicate]
    payloads = site.payloads()
    assert set(payloads) <= sent
    assert {payload_of(dataset) for dataset in acknowledged} <= set(payloads)
    assert len(distinct) == len({*payloads})
    assert not any(row.is_conflicting for row in site.instances())
    assert sum(study.instance_count for study in site.studies()) == len(distinct)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("persisted", "code"),
    [
        pytest.param(False, errno.ENOSPC, id="not-persisted-ENOSPC"),
        pytest.param(True, errno.EIO, id="persisted-EIO"),
        pytest.param(False, errno.EIO, id="not-persisted-EIO", marks=SLOW),
        pytest.param(True, errno.ENOSPC, id="persisted-ENOSPC", marks=SLOW),
    ],
)
def test_nth_effect_on_the_disk_fails(tmp_path: Path, persisted: bool, code: int) -> None:
    for number in itertools.count():
        with intake_site(tmp_path / str(number), segment_bytes_max=6000) as site:
            site.disk.plan = fail_nth(number, persisted=persisted, code=code)
            before = len(site.disk.effects)
            acknowledged = send_all(site)
            effects = len(site.disk.effects) - before
            assert len(acknowledged) >= 3, "one failure costs one instance"
            assert_kept(site, acknowledged)
        if number >= effects:
            assert len(acknowledged) == 4
            break
    assert number > 12


@pytest.mark.parametrize("effect", ["write", "fdatasync", "rename", "fsync_directory"])
def test_disk_that_fails_for_good_acknowledges_nothing(tmp_path: Path, effect: str) -> None:
    with intake_site(tmp_path) as site:
        site.disk.plan = fail_every(effect, code=errno.ENOSPC)
        assert send_all(site) == []
        assert_kept(site, [])
        assert not site.instances()


@contextmanager
def failing_commits(which: set[int], *, persisted: bool) -> Iterator[list[int]]:
    """The commits of these numbers fail, before or after they happened."""
    real, count = Session.commit, [0]

    def commit(self: Session) -> None:
        number = count[0]
        count[0] += 1
        if number in which:
            if persisted:
                real(self)
            raise TemporarilyUnable("injected")
        real(self)

    with patch.object(Session, "commit", commit):
        yield count


@pytest.mark.parametrize("persisted", [False, True], ids=["not-persisted", "persisted"])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_commit_of_the_index_fails(tmp_path: Path, number: int, persisted: bool) -> None:
    with intake_site(tmp_path) as site:
        with failing_commits({number}, persisted=persisted):
            acknowledged = send_all(site)
            assert site.index.flush()
        assert len(acknowledged) == 4
        # Without any recovery: the thread tried again by itself.
        assert len(site.instances()) == 4
        assert_kept(site, acknowledged)
        assert len(site.instances()) == 4


def test_database_that_is_away_for_good_loses_nothing(tmp_path: Path) -> None:
    with intake_site(tmp_path) as site:
        with failing_commits(set(range(1000)), persisted=False):
            acknowledged = send_all(site)
            site.index.stop()
        assert len(acknowledged) == 4
        assert not site.instances()
        assert_kept(site, acknowledged)


def test_two_processes_that_recover_write_each_row_once(tmp_path: Path) -> None:
    with intake_site(tmp_path) as site:
        frames: list[SpooledFrame] = []
        add = site.index.add
        with patch.object(site.index, "add", lambda frame: (frames.append(frame), add(frame))):
            acknowledged = send_all(site)
        site.crash_and_recover()
        other = Database(f"sqlite:///{tmp_path / 'readgate.sqlite3'}")
        index_frames(other, frames)
        other.close()
        assert len(site.instances()) == 4
        assert_kept(site, acknowledged)


# In ten-thousandths, not in floats: those Hypothesis refuses once a library has made this process flush the smallest ones to zero.
@given(cut=st.integers(0, 10_000), flips=st.lists(st.integers(0, 9_999), max_size=3))
@settings(max_examples=12, deadline=None)
def test_torn_and_flipped_tail_costs_no_other_instance(tmp_path_factory: pytest.TempPathFactory, cut: int, flips: list[int]) -> None:
    """Bytes behind the last acknowledged one are torn off or flipped, as power loss does with what was not synced."""
    with intake_site(tmp_path_factory.mktemp("torn")) as site:
        acknowledged = send_all(site)[:3]
        segment = site.sessions[0].segment
        assert segment is not None
        path = site.folder / "spool" / f"{segment.segment_id}.segment"
        assert site.index.flush()
        tail_start = max(row.frame_offset for row in site.instances())
        site.database.engine.dispose()
        content = bytearray(path.read_bytes())
        tail = len(content) - tail_start
        for flip in flips:
            content[tail_start + flip * tail // 10_000] ^= 0x40
        path.write_bytes(content[: tail_start + cut * tail // 10_000])
        site.crash_and_recover()
        found = {bytes(payload) for _, _, payload in _whole(site.spool)}
        assert payload_of(acknowledged[0]) in found
        assert found <= {payload_of(dataset) for dataset in STUDY} | _pieces() | {b""}


def _pieces() -> set[bytes]:
    payload = payload_of(STUDY[1])
    return {payload[start : start + PIECE_BYTES] for start in range(0, len(payload), PIECE_BYTES)}


def _whole(spool: Spool) -> Iterator[tuple[object, object, bytes]]:
    for segment_id in spool.segments():
        records = spool.read_segment(segment_id)
        while True:
            try:
                yield next(records)
            except StopIteration:
                break


# -- pieces of a large instance


def test_one_sync_covers_all_pieces_of_an_instance(tmp_path: Path) -> None:
    with intake_site(tmp_path) as site:
        session = site.session()
        site.receive(session, STUDY[0])
        assert session.segment is not None
        with patch("crypto.spool._sync_quietly", lambda file, end: None):
            before = site.disk.effects.count("fdatasync")
            receive_in_pieces(site, STUDY[1])
        assert site.disk.effects.count("fdatasync") - before == 1


@pytest.mark.parametrize("persisted", [False, True])
def test_sync_behind_a_piece_that_fails_refuses_the_whole_instance(tmp_path: Path, persisted: bool) -> None:
    with intake_site(tmp_path) as site:
        site.session()
        site.receive(site.sessions[0], STUDY[0])
        site.disk.plan = fail_every("fdatasync", persisted=persisted)
        with pytest.raises(TemporarilyUnable):
            receive_in_pieces(site, STUDY[1])
        site.disk.plan = lambda _: (True, None)
        # The association goes on in a segment of its own.
        site.receive(site.sessions[0], STUDY[2])
        assert_kept(site, [STUDY[0], STUDY[2]])
        assert STUDY[1].SOPInstanceUID not in str([row.instance_lookup for row in site.instances()])


def test_pieces_never_part_at_the_end_of_a_segment(tmp_path: Path) -> None:
    with intake_site(tmp_path, segment_bytes_max=3000) as site:
        site.session()
        receive_in_pieces(site, STUDY[0])
        receive_in_pieces(site, STUDY[1])
        assert len(site.spool.segments()) == 2
        assert_kept(site, [STUDY[0], STUDY[1]])


def test_dropped_instance_leaves_no_row_and_its_pieces_go_with_the_segment(tmp_path: Path) -> None:
    with intake_site(tmp_path) as site:
        session = site.session()
        large = site.intake.begin_large_instance(session, site.head(STUDY[0]))
        large.append([memoryview(payload_of(STUDY[0]))])
        large.discard()
        site.receive(session, STUDY[1])
        assert_kept(site, [STUDY[1]])
        assert len(site.instances()) == 1
        assert os.listdir(tmp_path / "spool")


# -- segments without an instance


def test_closed_segment_without_an_instance_may_be_removed_and_one_being_written_not(tmp_path: Path) -> None:
    with intake_site(tmp_path) as site:
        writers = [site.spool.open_segment("h1", {}) for _ in range(3)]
        for writer in writers[1:]:
            writer.close()
        index = SpoolIndex(site.database, site.spool)
        assert index.recover(now=site.at) == 0
        assert index.recovered_segments == {writer.segment_id for writer in writers[1:]}
        writers[0].close()
        index.recover(now=site.at)
        assert len(index.recovered_segments) == 3


def test_large_instance_refused_for_its_header_makes_no_segment(tmp_path: Path) -> None:
    with intake_site(tmp_path) as site:
        head = InstanceHead(STUDY[0].SOPClassUID, "1.2.3", EXPLICIT, 1)
        large = site.intake.begin_large_instance(site.session(), head)
        with pytest.raises(RefusedContent):
            large.append([memoryview(payload_of(STUDY[0]))])
        large.discard()
        assert site.spool.segments() == []
