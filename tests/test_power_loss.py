"""Power loss, as far as names are concerned: one is durable when its directory was synced after the change, and not before.

Every name made, moved or removed is a change of one directory, a rename one of each of two. At every effect the power may go: the changes
that no sync covered are then kept and undone in every combination, the content stays, and the spool is opened again.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import crypto.blank_segments as blank_segments
import crypto.spool as spool_module
from crypto.disk import Disk
from crypto.keys import FileKeyStore
from crypto.spool import FramePosition, Spool
from tests.spool_segments import FACTS, payload

BLANK_BYTES = 256 * 1024


class ForgetfulDisk(Disk):
    """Knows which names would survive a power loss; asks `on_effect` before each effect and once more after it."""

    def __init__(self, contents: Path) -> None:
        #: Another name for every file ever made, so that its content is there whatever becomes of the first.
        self._contents = contents
        self.durable: dict[Path, int] = {}
        #: Changes of names no sync covered: (name, the file or None for "gone").
        self.pending: list[tuple[Path, int | None]] = []
        self.on_effect: Callable[[], None] = lambda: None

    def open_direct(self, path: Path, flags: int) -> int:
        descriptor = super().open_direct(path, flags)
        if flags & os.O_CREAT:
            number = os.fstat(descriptor).st_ino
            os.link(path, self._contents / str(number))
            self._changed((path, number))
        return descriptor

    def write_at(self, descriptor: int, piece: memoryview, offset: int) -> None:
        super().write_at(descriptor, piece, offset)
        self.on_effect()

    def fdatasync(self, descriptor: int) -> None:
        super().fdatasync(descriptor)
        self.on_effect()

    def rename(self, source: Path, target: Path) -> None:
        number = source.stat().st_ino
        super().rename(source, target)
        self._changed((target, number), (source, None))

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self._changed((path, None))

    def fsync_directory(self, path: Path) -> None:
        super().fsync_directory(path)
        covered = [change for change in self.pending if change[0].parent == path]
        self.pending = [change for change in self.pending if change[0].parent != path]
        self.durable = _with(self.durable, covered)
        self.on_effect()

    def _changed(self, *changes: tuple[Path, int | None]) -> None:
        self.pending.extend(changes)
        self.on_effect()

    def after_power_loss(self, root: Path, target: Path) -> int:
        """What may be found at `root`, each in a numbered folder of `target`; how many."""
        possible = {
            frozenset(_with(self.durable, kept).items())
            for count in range(len(self.pending) + 1)
            for kept in itertools.combinations(self.pending, count)
        }
        for number, names in enumerate(possible):
            found: dict[int, Path] = {}
            for path, file in sorted(names):
                copy = target / str(number) / path.relative_to(root)
                copy.parent.mkdir(parents=True, exist_ok=True)
                if file in found:
                    copy.hardlink_to(found[file])
                else:
                    copy.write_bytes((self._contents / str(file)).read_bytes())
                    found[file] = copy
        return len(possible)


def _with(names: dict[Path, int], changes: Sequence[tuple[Path, int | None]]) -> dict[Path, int]:
    left: dict[Path, int | None] = {**names, **dict(changes)}
    return {path: file for path, file in left.items() if file is not None}


@pytest.mark.parametrize("blanks", [0, 1, 2])
def test_every_acknowledged_frame_is_found_whenever_the_power_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blanks: int) -> None:
    for module in (blank_segments, spool_module):
        monkeypatch.setattr(module, "BLANK_BYTES", BLANK_BYTES)
    monkeypatch.setattr(blank_segments, "_STEP_BYTES", BLANK_BYTES)
    keys = FileKeyStore(tmp_path / "keys")
    keys.create_kek("h1")
    (tmp_path / "contents").mkdir()
    disk = ForgetfulDisk(tmp_path / "contents")
    root = tmp_path / "spool"
    acknowledged: list[FramePosition] = []
    worlds = itertools.count()

    def power_goes() -> None:
        world = tmp_path / f"world-{next(worlds)}"
        for number in range(disk.after_power_loss(root, world)):
            _assert_found(world / str(number), keys, acknowledged)

    disk.on_effect = power_goes
    spool = Spool(root, keys, disk=disk)
    if blanks:
        spool._blanks.fill(blanks, lambda _: True)
    with spool.open_segment("h1", FACTS) as writer:
        for frame in range(4):
            # Two fill a blank file; where there is no other the segment grows.
            acknowledged.append(writer.append({"n": frame}, payload(frame, 100_000)))
            assert root / f"{writer.segment_id}.segment" in disk.durable
            power_goes()
    assert len({position.segment_id for position in acknowledged}) == max(1, blanks)
    assert next(worlds) > 10


def _assert_found(root: Path, keys: FileKeyStore, acknowledged: list[FramePosition]) -> None:
    spool = Spool(root, keys)
    found: list[tuple[FramePosition, Any]] = []
    for segment_id in spool.segments():
        found += [(position, header["n"]) for position, header, _ in spool.read_segment(segment_id)]
    assert set(acknowledged) <= {position for position, _ in found}
    assert len(found) == len({number for _, number in found})
    assert not list(root.glob(".*.new"))
    assert not [path for path in root.glob("blank/*") if path.read_bytes().strip(b"\0")]
