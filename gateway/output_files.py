"""Files that get their name when they are whole: who dies while writing one leaves nothing under a name that somebody would take for it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


class OutputFiles:
    """Files without a name in `folder`, as many as are wanted at a time; until `close`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        #: Descriptor, and the name that it has all the same where the file system has no files without one.
        self._open: list[tuple[int, str]] = []
        self._folders: set[str] = set()
        self._count = 0
        self._has_nameless = hasattr(os, "O_TMPFILE") and Path("/proc/self/fd").is_dir()

    def wanted(self, count: int) -> list[int]:
        """So many, empty and open for writing. Raises OSError."""
        if not self._folders:
            self._folder.mkdir(parents=True, exist_ok=True)
        while len(self._open) < count:
            self._open.append(self._made())
        return [descriptor for descriptor, _ in self._open[:count]]

    def name(self, number: int, folder: str, name: str) -> None:
        """The `number`th of those wanted is `name` in `folder`, in place of what was called so. Raises OSError, IndexError."""
        descriptor, part = self._open[number]
        self._open[number] = (-1, "")
        path = f"{self._folder}/{folder}"
        if path not in self._folders:
            Path(path).mkdir(parents=True, exist_ok=True)
            self._folders.add(path)
        try:
            if part:
                os.replace(part, f"{path}/{name}")
            else:
                self._link(descriptor, f"{path}/{name}")
        finally:
            os.close(descriptor)

    def settle(self) -> None:
        """Those that were not named stay for the next time; each of them is empty."""
        self._open = [one for one in self._open if one[0] >= 0]

    def drop(self) -> None:
        """Those that were not named are gone."""
        self.settle()
        for descriptor, part in self._open:
            os.close(descriptor)
            if part:
                with suppress(OSError):
                    os.unlink(part)
        self._open = []

    def _made(self) -> tuple[int, str]:
        if self._has_nameless:
            try:
                return os.open(self._folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666), ""
            except OSError:
                # Not every file system has them; whatever else is wrong the next call says.
                self._has_nameless = False
        part = self._part()
        return os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), part

    def _part(self) -> str:
        self._count += 1
        return f"{self._folder}/.part-{os.getpid()}-{self._count}"

    def _link(self, descriptor: int, path: str) -> None:
        try:
            _link(descriptor, path)
        except FileExistsError:
            part = self._part()
            _link(descriptor, part)
            os.replace(part, path)


def _link(descriptor: int, path: str) -> None:
    # With a folder's descriptor Python calls linkat, which alone goes through /proc to the file; the absolute path makes nothing of it.
    os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor, follow_symlinks=True)
