"""Reads a spool segment: the one reader of the normal path and of recovery after a crash.

What it promises of a frame whose append returned: it is given out unchanged, or its loss is raised as `IntegrityFailure`, with one
limit. In a segment that was never closed (`is_complete` is False), damage that reaches from some frame to the end of the file looks like
a write that power loss cut short, and is dropped as such; `torn_bytes` tells how much was, and `read_frame` of a position on record raises.
"""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crypto.aead_stream import ObjectContext, open_
from crypto.disk import BLOCK_BYTES
from crypto.errors import IntegrityFailure, NotFound, TemporarilyUnable
from crypto.keys import KeyStore
from crypto.sealed_box import open_small
from crypto.spool_format import (
    KIND_END,
    RECORD_PREFIX_BYTES,
    SEGMENT_HEADER_BYTES_MAX,
    SEGMENT_PREFIX,
    RecordPrefix,
    SegmentKeys,
    unpack_segment_header,
    whole_blocks,
)

_SEARCH_BYTES = 1024 * 1024
_READ_BYTES_MAX = 1 << 30


@dataclass(frozen=True)
class FramePosition:
    """Where a frame lies: what a row keeps to find it again."""

    segment_id: str
    offset: int
    length: int


@dataclass(frozen=True)
class SegmentHeader:
    """A segment's header, opened."""

    hospital_id: str
    facts: dict[str, str | int]
    keys: SegmentKeys
    length: int


class SegmentReader(Iterator[tuple[FramePosition, dict[str, Any], bytes]]):
    """Iterates the frames of one segment: position, header, payload.

    A frame that was acknowledged and cannot be opened raises `IntegrityFailure` in its turn; the next `next()` goes on behind it.
    Its position is then in `damaged`. What was never acknowledged and is not whole is left out and counted in `torn_bytes`.
    """

    def __init__(self, path: Path, segment_id: str, keys: KeyStore, *, length: int | None = None) -> None:
        """`length` is given for a segment still being written: what is durable of it.

        Raises:
            NotFound: no such segment.
            IntegrityFailure: its header cannot be opened.
        """
        self._file = _File(path)
        self.segment_id = segment_id
        self.header = read_segment_header(self._file, segment_id, keys)
        self.damaged: list[FramePosition] = []
        self.torn_bytes = 0
        #: Whether the writer closed it: nothing can be missing at the end.
        self.is_complete = False
        self._durable = 0
        self._records = self._scan(self._file.length() if length is None else length)

    @property
    def hospital_id(self) -> str:
        return self.header.hospital_id

    @property
    def facts(self) -> dict[str, str | int]:
        return self.header.facts

    def __next__(self) -> tuple[FramePosition, dict[str, Any], bytes]:
        while self._records:
            position, prefix = self._records.pop(0)
            try:
                if prefix is None:
                    raise IntegrityFailure("cannot be opened")
                return (position, *open_frame(self._file, self.header, position, prefix))
            except IntegrityFailure:
                # Acknowledged means: someone later knew that it was durable.
                if position.offset < self._durable:
                    self.damaged.append(position)
                    raise
                self.torn_bytes += position.length
        self.close()
        raise StopIteration

    def close(self) -> None:
        """The file is closed; nothing more is read."""
        self._records = []
        self._file.close()

    def _scan(self, length: int) -> list[tuple[FramePosition, RecordPrefix | None]]:
        """Every record by its framing alone; None for a stretch that has none."""
        records: list[tuple[FramePosition, RecordPrefix | None]] = []
        offset = self.header.length
        while offset < length:
            prefix = self.header.keys.unpack_prefix(self._file.read(offset, RECORD_PREFIX_BYTES), offset)
            if prefix is None or offset + prefix.record_length > length:
                end = self._next_record(offset + BLOCK_BYTES, length)
                if end >= length and self._is_blank(offset):
                    break
                records.append((FramePosition(self.segment_id, offset, end - offset), None))
                offset = end
                continue
            self._durable = max(self._durable, prefix.durable_offset)
            if prefix.kind == KIND_END:
                self.is_complete = True
                break
            records.append((FramePosition(self.segment_id, offset, prefix.record_length), prefix))
            offset += prefix.record_span
        return records

    def _next_record(self, start: int, length: int) -> int:
        while start < length:
            stretch = self._file.read(start, min(_SEARCH_BYTES, length - start))
            for at in range(0, len(stretch), BLOCK_BYTES):
                if self.header.keys.unpack_prefix(stretch[at : at + RECORD_PREFIX_BYTES], start + at) is not None:
                    return start + at
            start += _SEARCH_BYTES
        return length

    def _is_blank(self, offset: int) -> bool:
        """Whether no record was begun here: the rest of a file that was made of zeros."""
        return not self._file.read(offset, BLOCK_BYTES).strip(b"\0")


def read_frame(path: Path, position: FramePosition, keys: KeyStore) -> tuple[dict[str, Any], bytes]:
    """The header and payload of the frame at `position`.

    Raises:
        NotFound: no such segment.
        IntegrityFailure: no such frame there, or it cannot be opened.
    """
    file = _File(path)
    try:
        header = read_segment_header(file, position.segment_id, keys)
        prefix = header.keys.unpack_prefix(file.read(position.offset, RECORD_PREFIX_BYTES), position.offset)
        if prefix is None or prefix.kind == KIND_END or prefix.record_length != position.length:
            raise IntegrityFailure("cannot be opened")
        return open_frame(file, header, position, prefix)
    finally:
        file.close()


def read_segment_header(file: _File, segment_id: str, keys: KeyStore) -> SegmentHeader:
    """The header, its key unwrapped and its facts opened. Raises `IntegrityFailure`."""
    content = file.read(0, BLOCK_BYTES)
    if int.from_bytes(content[SEGMENT_PREFIX.size - 4 : SEGMENT_PREFIX.size], "big") > BLOCK_BYTES - SEGMENT_PREFIX.size:
        content = file.read(0, SEGMENT_PREFIX.size + SEGMENT_HEADER_BYTES_MAX)
    hospital_id, wrapped, sealed_facts, length = unpack_segment_header(content)
    segment_keys = SegmentKeys(keys.open_segment_key(hospital_id, segment_id, wrapped), segment_id)
    facts: dict[str, str | int] = json.loads(open_small(segment_keys.facts_key, sealed_facts, facts_aad(hospital_id)))
    return SegmentHeader(hospital_id, facts, segment_keys, whole_blocks(length))


def open_frame(file: _File, header: SegmentHeader, position: FramePosition, prefix: RecordPrefix) -> tuple[dict[str, Any], bytes]:
    """A frame's header and payload, both authenticated. Raises `IntegrityFailure`."""
    body = file.read(position.offset + RECORD_PREFIX_BYTES, prefix.record_length - RECORD_PREFIX_BYTES)
    view = memoryview(body)
    sealed_header = bytes(view[: prefix.header_length])
    fields: dict[str, Any] = json.loads(open_small(header.keys.header_key, sealed_header, header_aad(position.offset)))
    context = payload_context(header.hospital_id, position.segment_id, position.offset)
    payload = open_(header.keys.payload_key, view[prefix.header_length :], context)
    return fields, payload


def facts_aad(hospital_id: str) -> bytes:
    return b"readgate spool facts v1\0" + hospital_id.encode()


def header_aad(offset: int) -> bytes:
    return b"readgate spool header v1\0" + offset.to_bytes(8, "big")


def payload_context(hospital_id: str, segment_id: str, offset: int) -> ObjectContext:
    return ObjectContext(hospital_id, f"spool/{segment_id}", str(offset))


class _File:
    """Positioned reads; short only at the end of the file. Errors of the disk come out as `TemporarilyUnable`."""

    def __init__(self, path: Path) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound("no such spool segment") from None
        except OSError:
            raise TemporarilyUnable("the spool cannot be read") from None
        self.close = weakref.finalize(self, os.close, self._descriptor)

    def length(self) -> int:
        return os.fstat(self._descriptor).st_size

    def read(self, offset: int, length: int) -> bytes:
        pieces = []
        try:
            while length > 0 and (piece := os.pread(self._descriptor, min(length, _READ_BYTES_MAX), offset)):
                pieces.append(piece)
                offset += len(piece)
                length -= len(piece)
        except OSError:
            raise TemporarilyUnable("the spool cannot be read") from None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
