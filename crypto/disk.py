"""The few effects on a file system that durability hangs on, in one place, so that a test can make each of them fail.

Nothing here decides anything. Every method raises the `OSError` it met; the module that calls turns it into one of `crypto/errors.py`.
A name is durable only once its directory has been synced, and `fdatasync` of a file does not do that.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600
#: Offset, length and memory of a direct write are multiples of this: the largest block of the disks there are, and a page of memory.
BLOCK_BYTES = 4096
_DIRECT = getattr(os, "O_DIRECT", 0)
_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)


class Disk:
    """The operating system itself; `tests/faulty_disk.py` has the one that fails on purpose."""

    def write(self, descriptor: int, pieces: Sequence[bytes | bytearray | memoryview]) -> None:
        """All of `pieces` are in the page cache, in order. A failure may leave a prefix of them in the file."""
        waiting = [memoryview(piece) for piece in pieces if len(piece)]
        while waiting:
            written = os.writev(descriptor, waiting[:512])
            while waiting and written >= waiting[0].nbytes:
                written -= waiting.pop(0).nbytes
            if written:
                waiting[0] = waiting[0][written:]

    def open_direct(self, path: Path, flags: int) -> int:
        """A descriptor whose writes go past the page cache where the file system can do that, and through it elsewhere.

        The copy into fresh pages of the cache costs more than cipher and network together, and nobody reads them soon.
        """
        try:
            return os.open(path, flags | _DIRECT | os.O_CLOEXEC, FILE_MODE)
        except OSError as error:
            if error.errno != errno.EINVAL or not _DIRECT:
                raise
        return os.open(path, flags & ~os.O_EXCL | os.O_CLOEXEC, FILE_MODE)

    def write_at(self, descriptor: int, piece: memoryview, offset: int) -> None:
        """All of `piece` is at `offset`, not yet durably; of a direct descriptor in whole blocks. A failure may leave a prefix of it."""
        while piece:
            try:
                written = os.pwrite(descriptor, piece, offset)
            except OSError as error:
                # Some file systems take the flag and refuse the write; and what is left after a short write need not be whole blocks.
                flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
                if error.errno != errno.EINVAL or not flags & _DIRECT:
                    raise
                fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~_DIRECT)
                continue
            offset += written
            piece = piece[written:]

    def fdatasync(self, descriptor: int) -> None:
        """The file's bytes and its length survive power loss."""
        _sync(descriptor)

    def truncate(self, descriptor: int, length: int) -> None:
        """The file ends after `length` bytes (in the page cache)."""
        os.ftruncate(descriptor, length)

    def fsync_directory(self, path: Path) -> None:
        """The names made, moved and removed in `path` survive power loss."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _sync(descriptor, with_metadata=True)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)

    def link(self, source: Path, target: Path) -> None:
        os.link(source, target)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def make_directory(self, path: Path) -> None:
        """`path` is a directory for our user alone, and its name and those of its new ancestors are durable."""
        if path.is_dir():
            return
        if not path.parent.is_dir():
            self.make_directory(path.parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, DIRECTORY_MODE)
        self.fsync_directory(path.parent)

    def publish(self, path: Path, content: bytes) -> bool:
        """`path` durably holds `content`, whole; False, and nothing changed, where the name was taken before.

        A hard link and not a rename publishes the name: of two processes that race, one learns that it lost, and no reader
        ever sees half a file. If we crash before the link a stray temporary file remains, which nothing reads.
        """
        temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.new")
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, FILE_MODE)
        try:
            try:
                self.write(descriptor, [content])
                self.fdatasync(descriptor)
            finally:
                os.close(descriptor)
            try:
                self.link(temporary, path)
            except FileExistsError:
                # The winner's name may not be durable yet, and our caller is about to rely on it.
                self.fsync_directory(path.parent)
                return False
        finally:
            with contextlib.suppress(OSError):
                self.unlink(temporary)
        self.fsync_directory(path.parent)
        return True

    def destroy(self, path: Path) -> None:
        """`path` is gone for good; nothing happens where it was gone before.

        The bytes are overwritten first. On copy-on-write file systems and flash that is a courtesy, not a proof: see docs/KEYS.md.
        """
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self.fsync_directory(path.parent) if path.parent.is_dir() else None
            return
        try:
            self.write(descriptor, [os.urandom(os.fstat(descriptor).st_size)])
            self.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):
            self.unlink(path)
        self.fsync_directory(path.parent)


def _sync(descriptor: int, *, with_metadata: bool = False) -> None:
    # On macOS fsync leaves the bytes in the drive's own cache (fsync(2) there); only this command empties it. It has no fdatasync.
    if _FULL_SYNC is not None:
        fcntl.fcntl(descriptor, _FULL_SYNC)
    elif with_metadata or not hasattr(os, "fdatasync"):
        os.fsync(descriptor)
    else:
        os.fdatasync(descriptor)
