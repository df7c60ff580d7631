"""What makes bytes survive power loss, on systems that lack one or the other of its calls."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from crypto import disk


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    made: list[str] = []
    monkeypatch.setattr(fcntl, "fcntl", lambda descriptor, command, *argument: made.append(f"fcntl {command}"))
    monkeypatch.setattr(os, "fsync", lambda descriptor: made.append("fsync"))
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: made.append("fdatasync"), raising=False)
    return made


def _sync_both(folder: Path) -> None:
    with (folder / "file").open("wb") as file:
        disk.Disk().fdatasync(file.fileno())
    disk.Disk().fsync_directory(folder)


def test_file_needs_its_data_and_a_directory_its_names(calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_FULL_SYNC", None)
    _sync_both(tmp_path)
    assert calls == ["fdatasync", "fsync"]


def test_without_fdatasync_everything_is_synced(calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_FULL_SYNC", None)
    monkeypatch.delattr(os, "fdatasync")
    _sync_both(tmp_path)
    assert calls == ["fsync", "fsync"]


def test_where_fsync_stops_at_the_drives_cache_the_cache_is_emptied(
    calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_FULL_SYNC", 51)
    _sync_both(tmp_path)
    assert calls == ["fcntl 51", "fcntl 51"]
