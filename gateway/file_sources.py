"""Files to read, wherever they lie: one file, a folder with all below it; in the same order every time. Not what is in them."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from crypto.errors import BadInput, RefusedContent

_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2")
#: What is wrong with this process or the machine, not with the file that was to be opened.
_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class Entry(NamedTuple):
    """What lies at `path`: a file, an archive by its name, or neither: a device, a socket, a link wherever it leads.

    A folder whose names cannot be read counts as a file that cannot; its own name ends with a slash.
    """

    name: str
    path: str
    is_file: bool = True

    @property
    def is_archive(self) -> bool:
        return self.is_file and self.name.lower().endswith(_TAR_SUFFIXES)


def entries(source: Path, destination: Path, name: str = "") -> Iterator[Entry]:
    """What lies in `source`, or `source` itself, called `name`, where it is a file; nothing under `destination`.

    `source` itself may be a link, no other is followed: whoever fills a folder must not choose what else of this machine is read, least of
    all /proc/self/mem, which a link makes a file among others. Raises BadInput where there is nothing to read.
    """
    if source.is_dir():
        yield from _of_folder(str(source), destination.resolve())
    elif source.is_file():
        yield Entry(name or source.name, str(source.resolve()))
    else:
        raise BadInput(f"{source} is neither a file nor a folder")


@contextmanager
def opened(found: Sequence[Entry]) -> Iterator[tuple[dict[Entry, int], dict[Entry, RefusedContent]]]:
    """Those that can be read, open, and why the others cannot: NOT_A_FILE, FILE_UNREADABLE.

    Raises OSError where this process or the machine can open no more.
    """
    files: dict[Entry, int] = {}
    refused: dict[Entry, RefusedContent] = {}
    try:
        for entry in found:
            try:
                files[entry] = _opened(entry.path)
            except RefusedContent as problem:
                refused[entry] = problem
        yield files, refused
    finally:
        for file in files.values():
            os.close(file)


def no_file() -> RefusedContent:
    """Of what is neither a file nor a folder, and of links to either."""
    return RefusedContent("NOT_A_FILE", "a link or a device")


def _opened(path: str) -> int:
    try:
        # A link or a pipe may have been put in the file's place meanwhile: neither is followed or waited for.
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW)
    except OSError as problem:
        if problem.errno in _OURS:
            raise
        if problem.errno in (errno.ELOOP, errno.ENXIO):
            raise no_file() from None
        raise RefusedContent("FILE_UNREADABLE", "the system could not read it") from None
    what = os.fstat(file)
    if stat.S_ISDIR(what.st_mode):
        # Its names could not be read, or it was a file a moment ago.
        os.close(file)
        raise RefusedContent("FILE_UNREADABLE", "a folder that the system could not read")
    # A folder above it may have become a link too. The kernel's own files say that they are files, and have no bytes on any disk.
    if not stat.S_ISREG(what.st_mode) or (not what.st_blocks and _is_of_kernel(file)):
        os.close(file)
        raise no_file()
    return file


def _is_of_kernel(file: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{file}").startswith(("/proc/", "/sys/"))
    except OSError:
        return False


def regular_files(source: Path) -> Iterator[Path]:
    """`source`, or every file below it, no link followed: a medium must not reach out of itself.

    A folder below that cannot be read is there in place of its files. Raises BadInput where there is nothing to read.
    """
    if source.is_file():
        yield source
    elif source.is_dir():
        for entry, _ in _below(str(source)):
            if entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False):
                yield Path(entry.path)
    else:
        raise BadInput(f"{source} is neither a file nor a folder")


def _of_folder(folder: str, outside: Path) -> Iterator[Entry]:
    for entry, name in _below(folder, outside):
        if not (entry.is_symlink() and Path(entry.path).resolve().is_relative_to(outside)):
            yield Entry(name, entry.path, entry.is_file(follow_symlinks=False) or name.endswith("/"))


def _below(folder: str, outside: Path | None = None) -> Iterator[tuple[os.DirEntry[str], str]]:
    """What is no folder, or one that cannot be read, with its name from `folder` on.

    However deep they lie and however many they are, one level's names are held. Raises BadInput where `folder` cannot be read.
    """
    try:
        levels = [iter(_inside(folder, "", outside))]
    except OSError as problem:
        if problem.errno in _OURS:
            raise
        raise BadInput(f"{folder} cannot be read") from None
    while levels:
        found = next(levels[-1], None)
        if found is None:
            levels.pop()
        elif found[0].is_dir(follow_symlinks=False):
            try:
                levels.append(iter(_inside(found[0].path, found[1], outside)))
            except OSError as problem:
                if problem.errno in _OURS:
                    raise
                # Whatever lies in it is missed: its name says so, and that all beside it may belong to that.
                yield found[0], f"{found[1]}/"
        else:
            yield found


def _inside(folder: str, name: str, outside: Path | None) -> list[tuple[os.DirEntry[str], str]]:
    if outside is not None and Path(folder).resolve().is_relative_to(outside):
        return []
    with os.scandir(folder) as found:
        inside = sorted(found, key=lambda entry: entry.name)
    return [(entry, f"{name}/{entry.name}" if name else entry.name) for entry in inside]
