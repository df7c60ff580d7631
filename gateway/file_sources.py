"""Files to read, wherever they lie: one file, a folder with all below it, the members of tar archives; in the same order every time."""

from __future__ import annotations

import gzip
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from crypto.errors import BadInput, RefusedContent

_FILE_BYTES_MAX = 4 << 30
#: For a file that says it is empty and is not, or that grew.
_READ_BYTES_MIN = 4096
_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2")
#: What the readers of tar, gzip, bzip2 and xz raise of bytes that are none.
_BROKEN = (tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError)


class Read(Protocol):
    """How to read one file."""

    def __call__(self, limit: int | None, start: int = 0) -> bytes:
        """Its first `limit` bytes or more, or all, from `start` on. Raises RefusedContent: too large; BadInput, OSError: cannot be read."""
        ...


def entries(source: Path, destination: Path) -> Iterator[tuple[str, Read]]:
    """(name, how to read it) of every file of `source`: itself, a folder's, or a tar archive's members; nothing under `destination`.

    Raises BadInput where there is nothing to read.
    """
    if source.is_dir():
        yield from _of_folder(str(source), "", destination.resolve())
    elif source.is_file():
        yield from _of_file(str(source), source.name)
    else:
        raise BadInput(f"{source} is neither a file nor a folder")


def _of_folder(folder: str, name: str, outside: Path) -> Iterator[tuple[str, Read]]:
    if Path(folder).resolve().is_relative_to(outside):
        return
    with os.scandir(folder) as found:
        inside = sorted(found, key=lambda entry: entry.name)
    for entry in inside:
        named = f"{name}/{entry.name}" if name else entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _of_folder(entry.path, named, outside)
        elif entry.is_file() and not (entry.is_symlink() and Path(entry.path).resolve().is_relative_to(outside)):
            yield from _of_file(entry.path, named)


def _of_file(path: str, name: str) -> Iterator[tuple[str, Read]]:
    if not path.lower().endswith(_TAR_SUFFIXES):
        yield name, _File(path)
        return
    try:
        with tarfile.open(path) as archive:
            while (member := archive.next()) is not None:
                if member.isfile():
                    yield f"{name}:{member.name}", _Member(archive, member, name)
                # The archive keeps every member it met: of a hundred thousand slices that is a hundred megabytes.
                archive.members = []  # type: ignore[attr-defined]
    except _BROKEN:
        raise _broken(name) from None


def _broken(name: str) -> BadInput:
    return BadInput(f"{name} is not a tar archive that can be read to its end")


class _File:
    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(self, limit: int | None, start: int = 0) -> bytes:
        # The system's own calls: a file object costs as much again as opening and reading a header.
        file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(file).st_size
            if size > _FILE_BYTES_MAX:
                raise _too_large()
            return _rest_of(file, size, start) if limit is None else os.pread(file, limit, start)
        finally:
            os.close(file)


def _rest_of(file: int, size: int, start: int) -> bytes:
    pieces: list[bytes] = []
    while piece := os.pread(file, max(size - start + 1, _READ_BYTES_MIN), start):
        pieces.append(piece)
        start += len(piece)
        if start > _FILE_BYTES_MAX:
            raise _too_large()
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _too_large() -> RefusedContent:
    return RefusedContent("PIXELS_TOO_LARGE", "the file is larger than an instance may be")


class _Member:
    def __init__(self, archive: tarfile.TarFile, member: tarfile.TarInfo, archive_name: str) -> None:
        self._archive, self._member, self._archive_name = archive, member, archive_name

    def __call__(self, limit: int | None, start: int = 0) -> bytes:
        if self._member.size > _FILE_BYTES_MAX:
            raise _too_large()
        # To go back in a compressed archive is to read it from its start: there a second look must never be needed.
        is_plain = self._archive_name.lower().endswith(".tar")
        try:
            file = self._archive.extractfile(self._member)
            if file is None:
                return b""
            file.seek(start)
            return file.read(limit if is_plain and limit is not None else -1)
        except _BROKEN:
            raise _broken(self._archive_name) from None
