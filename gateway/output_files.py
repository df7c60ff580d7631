"""Files that get their name when they are whole: who dies while writing one leaves nothing under a name that somebody would take for it.

Whoever wrote to what was handed out changes no byte, mode or attribute of what was named. Where the kernel says that nobody has the file
open for writing any more (it grants a lease to read, fcntl(2)), that file itself gets the name; what it says counts descriptors on
their way in a socket and mappings too. Otherwise, and where its attributes are not those of a new file, what is named is a copy in a
file of ours that nobody else ever had open.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import signal
from contextlib import suppress
from pathlib import Path

from crypto.errors import RefusedContent

_NO_COPY = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})
_PIECE_BYTES = 1 << 20


class OutputFiles:
    """Files without a name in `folder`, as many as are wanted at a time; until `drop`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        #: -1 for one that was named, or is to be read only, until it is wanted again.
        self._open: list[int] = []
        #: Of those, how many were wanted, and which of them were taken since.
        self._wanted, self._taken = 0, set[int]()
        self._folders: set[str] = set()
        #: Names given by this object, of a million not more than a number each.
        self._given: set[int] = set()
        #: Of a new file, once one was made.
        self._mode = 0
        self._has_nameless = hasattr(os, "O_TMPFILE") and Path("/proc/self/fd").is_dir()
        self._has_leases = hasattr(fcntl, "F_SETLEASE") and hasattr(os, "listxattr")

    def wanted(self, count: int) -> list[int]:
        """So many, empty and open for writing. Raises OSError."""
        if not self._folders:
            self._folder.mkdir(parents=True, exist_ok=True)
        self._open += [-1] * (count - len(self._open))
        for number in range(count):
            if self._open[number] < 0:
                self._open[number], part = self._made()
                if part:
                    os.unlink(part)
        self._wanted = count
        self._taken.clear()
        return self._open[:count]

    def name(self, number: int, folder: str, name: str) -> None:
        """What stands in the `number`th of those wanted is `name` in `folder`, in place of what was called so before this object was made.

        Raises: RefusedContent DUPLICATE_UID_DIFFERENT_CONTENT where something else got that name before (the same again is nothing);
        IndexError where that number was not wanted or was taken; ValueError where what was written shrinks; OSError.
        """
        self._take(number)
        descriptor = self._open[number]
        path = f"{self._folder}/{folder}"
        if path not in self._folders:
            Path(path).mkdir(parents=True, exist_ok=True)
            self._folders.add(path)
        path = f"{path}/{name}"
        if hash(path) in self._given and (is_same := _is_same(descriptor, path)) is not None:
            if is_same:
                return
            raise RefusedContent("DUPLICATE_UID_DIFFERENT_CONTENT", "another file of the same name went before it")
        if self._has_nameless and self._has_leases:
            # What was written there is over either way: another file takes its place.
            written, self._open[number] = descriptor, -1
            self._publish(written, path)
        else:
            self._publish_copy(descriptor, path)
        self._given.add(hash(path))

    def _publish(self, written: int, path: str) -> None:
        """The file itself if nobody else can write to it any more, else a copy. `written` is closed."""
        try:
            reading = os.open(f"/proc/self/fd/{written}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(written)
        try:
            if self._is_alone(reading) and self._is_as_made(reading):
                os.utime(reading)
                self._link(reading, path)
            else:
                self._publish_copy(reading, path)
        finally:
            os.close(reading)

    def _is_as_made(self, descriptor: int) -> bool:
        status = os.fstat(descriptor)
        return (status.st_mode, status.st_nlink) == (self._mode, 0) and not os.listxattr(descriptor)

    def _is_alone(self, reading: int) -> bool:
        """Whether nobody has the file open for writing, nor ever will: it has no name, and we hold it to read."""
        try:
            # Not SIGIO, which ends a process: somebody of our own user might open it through /proc just now.
            fcntl.fcntl(reading, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(reading, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(reading, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except OSError as problem:
            # EAGAIN: somebody has. Anything else: this file system, or this kernel, has no leases.
            self._has_leases = problem.errno == errno.EAGAIN
            return False
        return True

    def _publish_copy(self, descriptor: int, path: str) -> None:
        own, part = self._made()
        try:
            _copy(descriptor, own)
            if part:
                os.replace(part, path)
                part = ""
            else:
                self._link(own, path)
        finally:
            os.close(own)
            if part:
                os.unlink(part)

    def discard(self, number: int) -> None:
        """What stands in the `number`th of those wanted gets no name. Raises IndexError as `name` does."""
        self._take(number)

    def settle(self) -> None:
        """All are empty, and stay for the next time."""
        for descriptor in self._open[: self._wanted]:
            if descriptor >= 0:
                os.ftruncate(descriptor, 0)
                os.lseek(descriptor, 0, os.SEEK_SET)
        self._wanted = 0

    def drop(self) -> None:
        """What was not named is gone."""
        for descriptor in self._open:
            if descriptor >= 0:
                os.close(descriptor)
        self._open, self._wanted = [], 0

    def _take(self, number: int) -> None:
        # Who says the number may have been taken over by what it read.
        if type(number) is not int or not 0 <= number < self._wanted or number in self._taken:
            raise IndexError
        self._taken.add(number)

    def _made(self) -> tuple[int, str]:
        """A new file, and the name that it has all the same where the file system has no files without one."""
        if self._has_nameless:
            try:
                made = os.open(self._folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)
                self._mode = self._mode or os.fstat(made).st_mode
                return made, ""
            except OSError:
                # Not every file system has them; whatever else is wrong the next call says.
                self._has_nameless = False
        part = self._part()
        return os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), part

    def _part(self) -> str:
        # In a container each run has the same process id: what one left behind when it was killed must not stop the next.
        return f"{self._folder}/.part-{secrets.token_hex(8)}"

    def _link(self, descriptor: int, path: str) -> None:
        try:
            _link(descriptor, path)
        except FileExistsError:
            part = self._part()
            _link(descriptor, part)
            try:
                os.replace(part, path)
            except OSError:
                with suppress(OSError):
                    os.unlink(part)
                raise


def _link(descriptor: int, path: str) -> None:
    # With a folder's descriptor Python calls linkat, which alone goes through /proc to the file; the absolute path makes nothing of it.
    os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor, follow_symlinks=True)


def _copy(source: int, target: int) -> None:
    """`target`, empty, is what `source` is. Raises ValueError where it shrinks meanwhile, OSError."""
    at, size, is_ranged = 0, os.fstat(source).st_size, hasattr(os, "copy_file_range")
    while at < size:
        if is_ranged:
            try:
                count = os.copy_file_range(source, target, size - at, at, at)
            except OSError as problem:
                if problem.errno not in _NO_COPY:
                    raise
                is_ranged = False
                continue
        else:
            count = os.pwrite(target, os.pread(source, min(size - at, _PIECE_BYTES), at), at)
        if not count:
            raise ValueError("less than there was")
        at += count


def _is_same(descriptor: int, path: str) -> bool | None:
    """Whether what is open is what `path` holds; None where that is not there any more."""
    try:
        there = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        at = 0
        while True:
            piece = os.pread(descriptor, _PIECE_BYTES, at)
            if piece != os.pread(there, _PIECE_BYTES, at):
                return False
            if not piece:
                return True
            at += len(piece)
    finally:
        os.close(there)
