"""The files in a tar archive, one after the other, as a confined process reads them: what a stranger packed may be made to hurt.

Invariants
- Nothing is written anywhere and no name of a member is ever a path; links, devices and folders are members without a file.
- Compressed archives are read once from front to back. What they expand to is held against what they are: beyond RATIO_MAX bytes for each
  byte read (and a free part) reading stops. Members and files that are mostly holes are not read at all.
- An archive without its end mark, with anything but zeros behind it, or with a header that is none, is broken: the rest of it could be
  the rest of a study.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable
from typing import IO, Any, NamedTuple, Protocol

from crypto.errors import RefusedContent

FILE_BYTES_MAX = 4 << 30
#: Masks and empty slices pack a hundred times smaller; a bomb a thousand times.
RATIO_MAX = 100
_FREE_BYTES, _FREE_SPARSE_BYTES = 128 << 20, 16 << 20
#: Extended headers hold a name or two.
_HEADER_BYTES_MAX = 1 << 20
_BLOCK_BYTES = tarfile.BLOCKSIZE
_UNREADABLE = "the system could not read it"
_NAME_LENGTH_MAX = 1024
_STREAM_BYTES = 1 << 18
#: For a file that says it is empty and is not, or that grew.
_READ_BYTES_MIN = 4096
_HEADERS = frozenset({tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK})
#: What the readers of tar, gzip, bzip2 and xz raise of bytes that are none; ValueError of numbers that are none.
_BROKEN = (tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, RecursionError, OverflowError)


#: What the system says of a place that cannot be, which a number in an archive made; whatever else it says is not the archive's fault.
_PLACES = frozenset({None, errno.EINVAL, errno.EOVERFLOW})


class Read(Protocol):
    """How to read one file."""

    def __call__(self, limit: int | None, start: int = 0) -> bytes:
        """Its first `limit` bytes or more, or all, from `start` on.

        Raises RefusedContent where it is too large, or FILE_UNREADABLE where the system cannot read it.
        """
        ...


class Member(NamedTuple):
    """`read` is None where there is no file to read: a link, a device, a folder."""

    name: str
    read: Read | None
    size: int = 0
    is_folder: bool = False


def broken_archive() -> RefusedContent:
    return RefusedContent("BROKEN_ARCHIVE", "not a tar archive that can be read to its end")


def _broken_of(problem: BaseException) -> RefusedContent:
    if isinstance(problem, OSError) and problem.errno not in _PLACES:
        return RefusedContent("ARCHIVE_UNREADABLE", _UNREADABLE)
    return broken_archive()


def _pread(descriptor: int, count: int, at: int) -> bytes:
    try:
        return os.pread(descriptor, count, at)
    except OSError:
        raise RefusedContent("FILE_UNREADABLE", _UNREADABLE) from None


def _expanding() -> RefusedContent:
    return RefusedContent("ARCHIVE_EXPANDS", "unpack it first: it holds far more than its size")


def reader_of(descriptor: int) -> Read:
    """How to read the file that is open there."""

    def read(limit: int | None, start: int = 0) -> bytes:
        what = os.fstat(descriptor)
        size = what.st_size
        if size > FILE_BYTES_MAX or size > _FREE_BYTES + RATIO_MAX * 512 * what.st_blocks:
            raise _too_large()
        return _rest_of(descriptor, size, start) if limit is None else _pread(descriptor, limit, start)

    return read


def _rest_of(descriptor: int, size: int, start: int) -> bytes:
    pieces: list[bytes] = []
    while piece := _pread(descriptor, max(size - start + 1, _READ_BYTES_MIN), start):
        pieces.append(piece)
        start += len(piece)
        if start > FILE_BYTES_MAX:
            raise _too_large()
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _too_large() -> RefusedContent:
    return RefusedContent("PIXELS_TOO_LARGE", "the file is larger than an instance may be")


class Archive:
    """An archive from its first member to its end; the descriptor is the archive's from here on.

    Raises, as does `next`: RefusedContent BROKEN_ARCHIVE, ARCHIVE_EXPANDS, ARCHIVE_UNREADABLE.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._at = descriptor, -1
        self._raw = os.fdopen(descriptor, "rb", buffering=0)
        try:
            opener = _opener(os.pread(descriptor, 6, 0))
            self._is_plain = opener is None
            if opener is None:
                self._tar = tarfile.open(fileobj=self._raw, mode="r:", tarinfo=_Header)  # noqa: SIM115
            else:
                stream: Any = _Expanded(opener(self._raw), self._raw)
                self._tar = tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header, bufsize=_STREAM_BYTES)  # noqa: SIM115
        except BaseException as problem:
            self._raw.close()
            if isinstance(problem, _BROKEN):
                raise _broken_of(problem) from None
            raise

    def next(self) -> Member | None:
        """The next member, None behind the last one; what was `read` of the one before is out of reach."""
        try:
            member = self._tar.next()
            if member is None:
                self._require_end()
        except _BROKEN as problem:
            raise _broken_of(problem) from None
        # The archive keeps every member it met: of a hundred thousand slices that is a hundred megabytes.
        self._tar.members = []  # type: ignore[attr-defined]
        if member is None:
            return None
        # A size may also come from an extended header, and lead back to where a member was.
        if member.size < 0 or self._tar.offset <= self._at:
            raise broken_archive()
        self._at = self._tar.offset
        name = member.name[:_NAME_LENGTH_MAX]
        if not member.isreg():
            return Member(name, None, is_folder=member.isdir())
        return Member(name, self._reader(member), member.size)

    def _require_end(self) -> None:
        """Behind the block of zeros that was read last are another one and nothing else. Raises RefusedContent, and those of _BROKEN."""
        stream: Any = self._tar.fileobj
        if self._is_plain:
            at, size = self._tar.offset, os.fstat(self._descriptor).st_size
            count = size - at - _BLOCK_BYTES
            while (at := _data_from(self._descriptor, at, size)) < size and (piece := os.pread(self._descriptor, _STREAM_BYTES, at)):
                if piece.strip(b"\0"):
                    raise broken_archive()
                at += len(piece)
        else:
            count = 0
            while piece := stream.read(_STREAM_BYTES):
                if piece.strip(b"\0"):
                    raise broken_archive()
                count += len(piece)
        if count < _BLOCK_BYTES:
            raise broken_archive()

    def close(self) -> None:
        """Its file is closed."""
        self._raw.close()

    def _reader(self, member: tarfile.TarInfo) -> Read:
        is_sparse = member.issparse()
        if member.size > FILE_BYTES_MAX or (is_sparse and _expands(member)):
            return _refusing
        if self._is_plain and not is_sparse:
            return self._reader_at(member.offset_data, member.size)
        whole: list[bytes] = []

        def read(limit: int | None, start: int = 0) -> bytes:
            if not whole:
                whole.append(self._extracted(member))
            return whole[0][start:]

        return read

    def _reader_at(self, offset: int, size: int) -> Read:
        def read(limit: int | None, start: int = 0) -> bytes:
            wanted = max(0, size - start if limit is None else min(limit, size - start))
            data = _pread(self._descriptor, wanted, offset + start)
            if len(data) < wanted:
                raise broken_archive()
            return data

        return read

    def _extracted(self, member: tarfile.TarInfo) -> bytes:
        try:
            file = self._tar.extractfile(member)
            data = b"" if file is None else file.read()
        except _BROKEN as problem:
            raise _broken_of(problem) from None
        except MemoryError:
            # What was read of it so far is lost, and with it the place of the next member.
            raise _expanding() from None
        if len(data) < member.size:
            raise broken_archive()
        return data


def _data_from(descriptor: int, at: int, size: int) -> int:
    """Where bytes stand from `at` on that are no hole, `size` where none are."""
    try:
        return os.lseek(descriptor, at, os.SEEK_DATA)
    except OSError as problem:
        return size if problem.errno == errno.ENXIO else at


def _refusing(limit: int | None, start: int = 0) -> bytes:
    raise _too_large()


def _expands(member: tarfile.TarInfo) -> bool:
    stored = sum(count for _, count in getattr(member, "sparse", None) or ())
    return bool(member.size > _FREE_SPARSE_BYTES + RATIO_MAX * stored)


def _opener(magic: bytes) -> Callable[[Any], Any] | None:
    if magic[:2] == b"\x1f\x8b":
        return lambda raw: gzip.GzipFile(fileobj=raw, mode="rb")
    if magic[:3] == b"BZh":
        return lambda raw: bz2.BZ2File(raw)
    if magic == b"\xfd7zXZ\0" or magic[:3] == b"\x5d\0\0":
        return lambda raw: lzma.LZMAFile(raw)
    return None


class _Expanded:
    """What a compressed file holds, as long as it is in proportion."""

    def __init__(self, file: Any, raw: IO[bytes]) -> None:
        self._file, self._raw, self._count = file, raw, 0

    def read(self, size: int) -> bytes:
        data: bytes = self._file.read(size)
        self._count += len(data)
        if self._count > _FREE_BYTES + RATIO_MAX * self._raw.tell():
            raise _expanding()
        return data


class _Header(tarfile.TarInfo):
    """A member's header, where one must stand; `tarfile` takes what is none, and a file that ends without its mark, for the end."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> _Header:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError:
            raise tarfile.ReadError("no header") from None
        if header.size < 0 or (header.type in _HEADERS and header.size > _HEADER_BYTES_MAX):
            raise tarfile.ReadError("a size that cannot be")
        return header
