"""Disks that fail on purpose: the one fake of the crypto package, at its one seam, and folders that tell no names."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from crypto.disk import BLOCK_BYTES, Disk

#: Asked before each effect with its name; returns whether the effect happens, and the error to raise afterwards.
Plan = Callable[[str], tuple[bool, OSError | None]]


class FaultyDisk(Disk):
    """Every effect asks `plan` first, so that each can fail without happening and fail after happening."""

    def __init__(self, plan: Plan | None = None) -> None:
        self.plan: Plan = plan or (lambda _: (True, None))
        self.effects: list[str] = []

    def _effect(self, name: str, act: Callable[[], None]) -> None:
        self.effects.append(name)
        applies, error = self.plan(name)
        if applies:
            act()
        if error is not None:
            raise error

    def write(self, descriptor: int, pieces: Sequence[bytes | bytearray | memoryview]) -> None:
        self.effects.append("write")
        applies, error = self.plan("write")
        if applies:
            super().write(descriptor, pieces)
        if error is not None:
            if not applies:
                # A failed write leaves a prefix behind, as a full disk does.
                joined = b"".join(bytes(piece) for piece in pieces)
                super().write(descriptor, [joined[: len(joined) // 2]])
            raise error

    def write_at(self, descriptor: int, piece: memoryview, offset: int) -> None:
        self.effects.append("write")
        applies, error = self.plan("write")
        if applies:
            super().write_at(descriptor, piece, offset)
        if error is not None:
            if not applies:
                super().write_at(descriptor, piece[: len(piece) // BLOCK_BYTES // 2 * BLOCK_BYTES], offset)
            raise error

    def fdatasync(self, descriptor: int) -> None:
        self._effect("fdatasync", lambda: super(FaultyDisk, self).fdatasync(descriptor))

    def truncate(self, descriptor: int, length: int) -> None:
        self._effect("truncate", lambda: super(FaultyDisk, self).truncate(descriptor, length))

    def fsync_directory(self, path: Path) -> None:
        self._effect("fsync_directory", lambda: super(FaultyDisk, self).fsync_directory(path))

    def rename(self, source: Path, target: Path) -> None:
        self._effect("rename", lambda: super(FaultyDisk, self).rename(source, target))

    def link(self, source: Path, target: Path) -> None:
        self._effect("link", lambda: super(FaultyDisk, self).link(source, target))

    def unlink(self, path: Path) -> None:
        self._effect("unlink", lambda: super(FaultyDisk, self).unlink(path))


def fail_nth(number: int, *, persisted: bool, code: int = errno.EIO) -> Plan:
    """The `number`-th effect (from 0) fails, once."""
    count = -1

    def plan(_: str) -> tuple[bool, OSError | None]:
        nonlocal count
        count += 1
        return (persisted, OSError(code, "injected")) if count == number else (True, None)

    return plan


def fail_every(name: str, *, persisted: bool = False, code: int = errno.EIO) -> Plan:
    """Every effect of that name fails."""
    return lambda effect: (persisted, OSError(code, "injected")) if effect == name else (True, None)


def no_names(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """What lies in `folder` cannot be listed."""
    listed = os.scandir

    def failing(path: str = ".") -> Any:
        if str(path) == str(folder):
            raise OSError(errno.EIO, "injected")
        return listed(path)

    monkeypatch.setattr(os, "scandir", failing)
