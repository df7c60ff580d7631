"""Files of zeros, written before they are needed, that become spool segments.

Why: a sync of a file that grew waits for a commit of the file system's journal; of blocks that were written before, for the device alone.

Invariants
- `<id>.blank` in this directory is durable, its name too, whole and has no reader. Its blocks are written without another commit of the
  journal, so no name that does not last may be taken: until its directory was synced, its maker holds its lock.
- With a segment's header in it, whatever it is called, it is a segment whose new name was lost with the power: `settle` gives it that name.
- Whoever takes one holds its lock from before the first byte of a header until it is closed as a segment.
- Nothing here is needed: where there is no blank file, or no room for one, a segment grows as it is written.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from crypto.disk import BLOCK_BYTES, Disk
from crypto.errors import IntegrityFailure
from crypto.spool_format import SEGMENT_HEADER_BYTES_MAX, SEGMENT_MAGIC, SEGMENT_PREFIX, unpack_segment_header

BLANK_BYTES = 16 * 1024 * 1024
_SUFFIX = ".blank"
_STEP_BYTES = 1024 * 1024
_POLL_SECONDS = 0.25
_IN_USE_SECONDS = 1.0


class BlankSegments:
    """The blank files under `root`, shared by any number of threads and processes."""

    def __init__(self, root: Path, disk: Disk) -> None:
        self._root = root
        self._disk = disk
        self._names: list[str] = []
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """The ids of the files that are blank, or were a moment ago."""
        try:
            return [name.removesuffix(_SUFFIX) for name in os.listdir(self._root) if name.endswith(_SUFFIX)]
        except FileNotFoundError:
            return []

    def path(self, segment_id: str) -> Path:
        return self._root / f"{segment_id}{_SUFFIX}"

    @property
    def count(self) -> int:
        """How many files `take` may find. Costs nothing."""
        return len(self._names)

    @property
    def has_any(self) -> bool:
        """Whether `take` may find one. Costs nothing."""
        return bool(self._names)

    def take(self) -> tuple[str, int] | None:
        """Id and locked descriptor of a file that is the caller's alone from here on; None where there is none."""
        with self._lock:
            while self._names:
                segment_id = self._names.pop()
                with contextlib.suppress(OSError):
                    descriptor = self._disk.open_direct(self.path(segment_id), os.O_RDWR)
                    if self._is_ours(descriptor, segment_id):
                        return segment_id, descriptor
                    os.close(descriptor)
        return None

    def _is_ours(self, descriptor: int, segment_id: str) -> bool:
        if not lock_file(descriptor, fcntl.LOCK_EX):
            return False
        # Between the opening and the lock another process may have made a segment of it, and closed that.
        try:
            is_there = os.stat(self.path(segment_id)).st_ino == os.fstat(descriptor).st_ino
        except FileNotFoundError:
            return False
        return is_there and not _read(self.path(segment_id), len(SEGMENT_MAGIC)).strip(b"\0")

    def look(self) -> None:
        """`take` knows what other processes made and took."""
        names = self.names()
        with self._lock:
            self._names = names

    def fill(self, wanted: int, may_fill: Callable[[int], bool]) -> int:
        """There are `wanted` blank files, or as many as `may_fill` (asked with the bytes of each) allows; returns how many were made.

        Raises: OSError.
        """
        self.look()
        if len(self._names) >= wanted:
            return 0
        self._disk.make_directory(self._root)
        made = 0
        directory = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # One process at a time: together they would make as many each.
            if lock_file(directory, fcntl.LOCK_EX):
                self.look()
                while len(self._names) < wanted and may_fill(BLANK_BYTES):
                    segment_id = self._make()
                    with self._lock:
                        self._names.append(segment_id)
                    made += 1
        finally:
            os.close(directory)
        return made

    def _make(self) -> str:
        segment_id = os.urandom(16).hex()
        temporary = self._root / f".{segment_id}.new"
        descriptor = self._disk.open_direct(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR)
        try:
            if not lock_file(descriptor, fcntl.LOCK_EX):
                raise OSError("swept away by another process that is starting")
            with mmap.mmap(-1, _STEP_BYTES) as zeros:
                view = memoryview(zeros)
                for offset in range(0, BLANK_BYTES, _STEP_BYTES):
                    self._disk.write_at(descriptor, view, offset)
                view.release()
            self._disk.fdatasync(descriptor)
            self._disk.rename(temporary, self.path(segment_id))
            # Before the lock goes: what is acknowledged in this file hangs on its name.
            self._disk.fsync_directory(self._root)
        except OSError:
            for leftover in (temporary, self.path(segment_id)):
                with contextlib.suppress(OSError):
                    self._disk.unlink(leftover)
            raise
        finally:
            os.close(descriptor)
        return segment_id

    @property
    def is_in_use(self) -> bool:
        """Whether a segment was begun within the last second, by whatever process: then the disk has better to do than to write zeros.

        The directory above tells: a segment's name was made there (or one was removed, which is work of the disk too).
        """
        try:
            return abs(time.time() - os.stat(self._root.parent).st_mtime) < _IN_USE_SECONDS
        except OSError:
            return False

    def settle(self, path_of: Callable[[str], Path]) -> bool:
        """As `settle_files` of this directory, and what it did here lasts. Raises: OSError."""
        if not self._root.is_dir() or not settle_files(self._root, path_of, self._disk):
            return False
        self._disk.fsync_directory(self._root)
        return True


class BlankSupply:
    """A thread that keeps blank files in store while they are used up."""

    def __init__(self, blanks: BlankSegments, wanted: int, may_fill: Callable[[int], bool]) -> None:
        self._blanks, self._wanted, self._may_fill = blanks, wanted, may_fill
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spool-blanks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """The thread has ended; the files stay for the next start."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=60)

    def _run(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                self._blanks.fill(self._wanted, self._goes_on)
            if self._stopping.wait(_POLL_SECONDS):
                return

    def _goes_on(self, length: int) -> bool:
        # Up to a quarter is made again at once, the rest when the senders pause; asked before each file, since they may begin any time.
        is_wanted_now = self._blanks.count < self._wanted // 4 or not self._blanks.is_in_use
        return is_wanted_now and not self._stopping.is_set() and self._may_fill(length)


def settle_files(root: Path, path_of: Callable[[str], Path], disk: Disk) -> bool:
    """What a crash left in `root` is in order: segments have their names (`path_of`), half-made files are gone. Whether any was a segment.

    A name may be older than its file's content: the content was synced, and the power took the rename back. So the content decides.

    Raises: OSError.
    """
    was_segment = False
    for path in [*root.glob("*" + _SUFFIX), *root.glob(".*.new")]:
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if not lock_file(descriptor, fcntl.LOCK_EX):
                    continue
                if _may_have_frames(path):
                    _give_name(path, path_of(path.stem.removeprefix(".")), disk)
                    was_segment = True
                elif path.suffix == ".new" or _read(path, len(SEGMENT_MAGIC)).strip(b"\0"):
                    disk.unlink(path)
            finally:
                os.close(descriptor)
    return was_segment


def _may_have_frames(path: Path) -> bool:
    content = _read(path, SEGMENT_PREFIX.size + SEGMENT_HEADER_BYTES_MAX)
    if not content[: len(SEGMENT_MAGIC)].strip(b"\0"):
        return False
    try:
        unpack_segment_header(content)
    except IntegrityFailure:
        # A frame is written only when the header lasts: with zeros alone behind it, to the end of the file, it was cut short by the power.
        with path.open("rb") as file:
            file.seek(BLOCK_BYTES)
            return any(stretch.strip(b"\0") for stretch in iter(lambda: file.read(_STEP_BYTES), b""))
    return True


def _give_name(path: Path, target: Path, disk: Disk) -> None:
    if target.exists() and os.path.samestat(path.stat(), target.stat()):
        # Both halves of a rename, and only the first of them lasted; to rename one name of a file to its other does nothing.
        disk.unlink(path)
    else:
        disk.rename(path, target)


def lock_file(descriptor: int, kind: int) -> bool:
    """Whether the lock (`fcntl.LOCK_EX`, `LOCK_SH`) was free; the kernel drops it when its holder dies."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: Path, length: int) -> bytes:
    with path.open("rb") as file:
        return file.read(length)
