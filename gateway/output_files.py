"""Files that get their name when they are whole: who dies while writing one leaves nothing under a name that somebody would take for it.

What is handed out to write to has no name and never gets one: what is named is a copy, in a file of ours that nobody else ever had open,
with the mode that any new file has. Whoever wrote may still hold a descriptor, and changes through it no byte, mode or attribute of what
was named.
"""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path

from crypto.errors import RefusedContent

_NO_COPY = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})
_PIECE_BYTES = 1 << 20


class OutputFiles:
    """Files without a name in `folder`, as many as are wanted at a time; until `drop`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: list[int] = []
        #: Of those, how many were wanted, and which of them were taken since.
        self._wanted, self._taken = 0, set[int]()
        self._folders: set[str] = set()
        #: Names given by this object, of a million not more than a number each.
        self._given: set[int] = set()
        self._has_nameless = hasattr(os, "O_TMPFILE") and Path("/proc/self/fd").is_dir()

    def wanted(self, count: int) -> list[int]:
        """So many, empty and open for writing. Raises OSError."""
        if not self._folders:
            self._folder.mkdir(parents=True, exist_ok=True)
        while len(self._open) < count:
            descriptor, part = self._made()
            self._open.append(descriptor)
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
        descriptor = self._take(number)
        path = f"{self._folder}/{folder}"
        if path not in self._folders:
            Path(path).mkdir(parents=True, exist_ok=True)
            self._folders.add(path)
        path = f"{path}/{name}"
        if hash(path) in self._given and (is_same := _is_same(descriptor, path)) is not None:
            if is_same:
                return
            raise RefusedContent("DUPLICATE_UID_DIFFERENT_CONTENT", "another file of the same name went before it")
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
        self._given.add(hash(path))

    def discard(self, number: int) -> None:
        """What stands in the `number`th of those wanted gets no name. Raises IndexError as `name` does."""
        self._take(number)

    def settle(self) -> None:
        """All are empty, and stay for the next time."""
        for descriptor in self._open[: self._wanted]:
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
        self._wanted = 0

    def drop(self) -> None:
        """What was not named is gone."""
        for descriptor in self._open:
            os.close(descriptor)
        self._open, self._wanted = [], 0

    def _take(self, number: int) -> int:
        # Who says the number may have been taken over by what it read.
        if type(number) is not int or not 0 <= number < self._wanted or number in self._taken:
            raise IndexError
        self._taken.add(number)
        return self._open[number]

    def _made(self) -> tuple[int, str]:
        """A new file, and the name that it has all the same where the file system has no files without one."""
        if self._has_nameless:
            try:
                return os.open(self._folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666), ""
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
