"""The spool: what hospitals send, sealed and durable before it is acknowledged.

1. `open_segment`: a new file; its header holds a key of its own, wrapped under the hospital's KEK, and the association's facts, sealed.
2. `append`: one sealed frame for one instance; returns once an fdatasync that covers it has succeeded, and only then may the peer be told.
3. `read_segment`, `read_frame`: what was acknowledged, after a crash as before it.
4. `remove_segment`: when every frame has come to rest elsewhere.

A segment is a working copy under the KEK alone, not under a study's SHRED: it must not be in any backup (docs/KEYS.md).
A held `flock` marks a segment as being written; the kernel drops it when the writer dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from crypto.aead_stream import CHUNK_BYTES, StreamSealer
from crypto.append_only_file import AppendOnlyFile, Part
from crypto.blank_segments import BLANK_BYTES, BlankSegments, BlankSupply, lock_file, settle_files
from crypto.canonical import canonical_json
from crypto.disk import BLOCK_BYTES, Disk
from crypto.errors import BadInput, Conflict, NotFound, RefusedContent, TemporarilyUnable
from crypto.keys import KeyStore
from crypto.sealed_box import OVERHEAD_BYTES, seal_small
from crypto.spool_format import (
    FRAME_HEADER_BYTES_MAX,
    KIND_END,
    KIND_FRAME,
    RECORD_PREFIX_BYTES,
    RecordPrefix,
    SegmentKeys,
    pack_segment_header,
    whole_blocks,
)
from crypto.spool_reader import FramePosition, SegmentReader, facts_aad, header_aad, payload_context, read_frame

__all__ = ["FramePosition", "SegmentReader", "SegmentWriter", "Spool"]

SEGMENT_BYTES_MAX = 1024 * 1024 * 1024
#: So much may be written and not yet synced; then the writer waits for the disk.
_BEHIND_BYTES_MAX = 64 * 1024 * 1024
#: What a frame has beside its payload, generously.
_FRAME_EXTRA_BYTES = RECORD_PREFIX_BYTES + FRAME_HEADER_BYTES_MAX
#: A chunk, what stands before the first, and a block that is not full yet.
_BUFFER_BYTES = CHUNK_BYTES + 2 * FRAME_HEADER_BYTES_MAX
_BUFFERS_MAX = 8
_SUFFIX = ".segment"
#: Without spaces, which would be sealed and written with every frame.
_encode_json = json.JSONEncoder(separators=(",", ":")).encode
_SEGMENT_ID = re.compile(r"[0-9a-f]{32}")


class Spool:
    """The segments under `root`, shared by any number of threads and processes."""

    def __init__(self, root: Path, keys: KeyStore, *, segment_bytes_max: int = SEGMENT_BYTES_MAX, disk: Disk | None = None) -> None:
        """Raises `BadInput` where `root` cannot be made."""
        self._root = root
        self._keys = keys
        self._segment_bytes_max = segment_bytes_max
        self._disk = disk or Disk()
        self._lock = threading.Lock()
        self._open: dict[str, AppendOnlyFile] = {}
        self._blanks = BlankSegments(root / "blank", self._disk)
        #: Buffers at rest, the one used last on top: fresh memory for every frame costs more than the cipher. In them is ciphertext alone.
        self._buffers: list[memoryview] = []
        try:
            self._disk.make_directory(root)
            # Whoever made it may have died before its name lasted; a parent that we cannot open is not of our making.
            with contextlib.suppress(PermissionError):
                self._disk.fsync_directory(root.parent)
            self._sweep()
        except OSError:
            raise BadInput("the spool's directory cannot be used; check its owner and the file system") from None

    def open_segment(self, hospital_id: str, facts: Mapping[str, str | int]) -> SegmentWriter:
        """A new segment for one association of the hospital.

        Raises:
            NotFound: the hospital has no KEK.
            TemporarilyUnable: the disk is full or fails.
        """
        return SegmentWriter(self, hospital_id, dict(facts))

    def supply_blanks(self, count: int, may_fill: Callable[[int], bool]) -> BlankSupply:
        """What keeps `count` files ready to become segments, once it is started: for processes that receive.

        `may_fill` is asked before each with its bytes.
        """
        return BlankSupply(self._blanks, count, may_fill)

    def segments(self) -> list[str]:
        """The ids of all segments, closed, crashed or being written, sorted."""
        try:
            names = os.listdir(self._root)
        except OSError:
            raise TemporarilyUnable("the spool cannot be read") from None
        stems = (name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))
        return sorted(stem for stem in stems if _SEGMENT_ID.fullmatch(stem))

    def is_open(self, segment_id: str) -> bool:
        """Whether a living writer, in this process or another, holds the segment."""
        try:
            descriptor = os.open(self._path(segment_id), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError:
            raise TemporarilyUnable("the spool cannot be read") from None
        try:
            return not lock_file(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)

    def read_segment(self, segment_id: str) -> SegmentReader:
        """An iterator over the segment's frames: what was durable when it was called. See `SegmentReader` for damage.

        Raises:
            NotFound: no such segment.
            IntegrityFailure: the segment's header cannot be opened.
        """
        with self._lock:
            writing = self._open.get(segment_id)
            durable = None if writing is None else writing.durable
        return SegmentReader(self._path(segment_id), segment_id, self._keys, length=durable)

    def read_frame(self, position: FramePosition) -> tuple[dict[str, Any], bytes]:
        """One frame's header and payload. Raises `NotFound`, `IntegrityFailure`."""
        return read_frame(self._path(position.segment_id), position, self._keys)

    def remove_segment(self, segment_id: str) -> None:
        """The segment is gone, durably. May be called again.

        Raises:
            Conflict: it is being written.
        """
        if self.is_open(segment_id):
            raise Conflict("segment-is-open", segment_id)
        try:
            with contextlib.suppress(FileNotFoundError):
                self._disk.unlink(self._path(segment_id))
            self._disk.fsync_directory(self._root)
        except OSError:
            raise TemporarilyUnable("the spool cannot be written") from None

    def _path(self, segment_id: str) -> Path:
        if not _SEGMENT_ID.fullmatch(segment_id):
            raise NotFound("no such spool segment")
        return self._root / f"{segment_id}{_SUFFIX}"

    def _create(self, hospital_id: str, facts: dict[str, str | int]) -> tuple[SegmentKeys, AppendOnlyFile, int]:
        """A segment with its header, durable under its name and locked; and its bytes on the disk so far."""
        blank = self._blanks.take()
        segment_id, descriptor = blank or (os.urandom(16).hex(), -1)
        path = self._path(segment_id)
        temporary = self._blanks.path(segment_id) if blank else self._root / f".{segment_id}.new"
        try:
            segment_key, wrapped = self._keys.wrap_segment_key(hospital_id, segment_id)
            keys = SegmentKeys(segment_key, segment_id)
            header = pack_segment_header(hospital_id, wrapped, seal_small(keys.facts_key, canonical_json(facts), facts_aad(hospital_id)))
            if blank is None:
                descriptor = self._disk.open_direct(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR)
                if not lock_file(descriptor, fcntl.LOCK_EX):
                    raise OSError("swept away by another process that is starting")
            with self._buffer() as buffer:
                self._disk.write_at(descriptor, _in_blocks(buffer, header), 0)
            self._disk.fdatasync(descriptor)
            # Only now does it get a segment's name: whatever has one has a whole header.
            self._disk.rename(temporary, path)
            # The new name first: if we crash between the two the file has both, never none.
            self._disk.fsync_directory(self._root)
            if blank is not None:
                self._disk.fsync_directory(temporary.parent)
        except BaseException as failure:
            for leftover in (temporary, path):
                with contextlib.suppress(OSError):
                    self._disk.unlink(leftover)
            if descriptor >= 0:
                os.close(descriptor)
            if isinstance(failure, OSError):
                raise TemporarilyUnable("a spool segment cannot be made") from None
            raise
        file = AppendOnlyFile(descriptor, whole_blocks(len(header)), self._disk)
        with self._lock:
            self._open[segment_id] = file
        return keys, file, BLANK_BYTES if blank else 0

    @contextlib.contextmanager
    def _buffer(self) -> Iterator[memoryview]:
        """Memory for one frame on its way to the disk, at the start of a page."""
        try:
            buffer = self._buffers.pop()
        except IndexError:
            buffer = memoryview(mmap.mmap(-1, _BUFFER_BYTES))
        try:
            yield buffer
        finally:
            if len(self._buffers) < _BUFFERS_MAX:
                self._buffers.append(buffer)

    def _finish(self, segment_id: str, file: AppendOnlyFile) -> None:
        file.close(cut_off=True)
        with self._lock:
            self._open.pop(segment_id, None)

    def _sweep(self) -> None:
        """Puts in order what a writer left that died before its segment had a name. A living one holds its lock."""
        was_segment = settle_files(self._root, self._path, self._disk)
        if self._blanks.settle(self._path) or was_segment:
            self._disk.fsync_directory(self._root)


class SegmentWriter:
    """Appends frames to a segment, and goes on in a new one when it is full. Any number of threads may append."""

    def __init__(self, spool: Spool, hospital_id: str, facts: dict[str, str | int]) -> None:
        self._spool = spool
        self._hospital_id = hospital_id
        self._facts = facts
        self._turn = threading.Lock()
        self._is_closed = False
        self._begin()

    @property
    def segment_id(self) -> str:
        """The segment that takes the next frame; earlier ones are named by the positions that `append` returned."""
        return self._keys.segment_id

    @property
    def takes_frames(self) -> bool:
        """False once it was closed, or a sync of its segment failed: what comes next needs another writer."""
        return not self._is_closed and not self._file.is_poisoned

    def append(self, header: Mapping[str, Any], payload: Sequence[Part] | Part, *, in_segment: str | None = None) -> FramePosition:
        """The frame survives power loss when this returns, and reads back as `header` (JSON) and the joined `payload`.

        With it survives every frame that `append_behind` wrote to the same segment before it. `in_segment`: as there.

        Raises:
            TemporarilyUnable: it is not in the spool, or, where the disk failed to sync, in a segment that takes no more.
            RefusedContent: the header has more than 64 KiB.
        """
        position, file, end = self._write(header, payload, in_segment)
        # If we crash here the frame may be whole, torn or absent; nobody was told, and the peer sends it again.
        file.wait_durable(end)
        return position

    def append_behind(self, header: Mapping[str, Any], payload: Sequence[Part] | Part, *, in_segment: str | None = None) -> FramePosition:
        """The frame is written and on its way to the disk; only a later `append` to the same segment makes it survive power loss.

        For what means nothing before its last piece. `in_segment`: the segment that must take it, however full; None lets a full one end.
        Raises as `append`.
        """
        position, file, end = self._write(header, payload, in_segment)
        if end - file.durable > _BEHIND_BYTES_MAX:
            file.wait_durable(end)
        elif not file.is_syncing:
            # The disk works while the network does; without this it would begin when the last piece has come.
            threading.Thread(target=_sync_quietly, args=(file, end), name="spool-sync", daemon=True).start()
        return position

    def _write(
        self, header: Mapping[str, Any], payload: Sequence[Part] | Part, in_segment: str | None
    ) -> tuple[FramePosition, AppendOnlyFile, int]:
        parts = [payload] if isinstance(payload, bytes | bytearray | memoryview) else payload
        encoded = _encode_json(dict(header)).encode()
        if len(encoded) > FRAME_HEADER_BYTES_MAX - OVERHEAD_BYTES:
            raise RefusedContent("frame-header-too-long")
        with self._turn:
            if self._is_closed:
                raise TemporarilyUnable("the spool segment is closed")
            if in_segment is not None and in_segment != self._keys.segment_id:
                raise TemporarilyUnable("the spool segment has ended")
            if in_segment is None and self._sequence and self._is_full(sum(memoryview(part).nbytes for part in parts)):
                self._end_segment()
                self._begin()
            file, keys = self._file, self._keys
            with self._spool._buffer() as buffer:
                offset, end = file.append(lambda at, durable: self._frame(keys, encoded, parts, at, durable, buffer))
            self._sequence += 1
        return FramePosition(keys.segment_id, offset, self._record_length), file, end

    def _is_full(self, payload_bytes: int) -> bool:
        """Whether the next frame begins a new segment: this one has its length, or would outgrow its blank file and there is another."""
        end = self._file.end
        is_outgrown = end + payload_bytes + _FRAME_EXTRA_BYTES > self._blank_bytes and self._spool._blanks.has_any
        return end >= self._spool._segment_bytes_max or is_outgrown

    def close(self) -> None:
        """The segment is marked complete and released to its reader. May be called again."""
        with self._turn:
            if not self._is_closed:
                self._is_closed = True
                self._end_segment()

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _begin(self) -> None:
        self._keys, self._file, self._blank_bytes = self._spool._create(self._hospital_id, self._facts)
        self._sequence = 0

    def _end_segment(self) -> None:
        keys, file = self._keys, self._file
        # Without the end mark every acknowledged frame is still there; the segment then reads like one whose writer crashed.
        with contextlib.suppress(TemporarilyUnable):
            file.wait_durable(file.end)
            with self._spool._buffer() as buffer:
                _, end = file.append(
                    lambda at, durable: [_in_blocks(buffer, keys.pack_prefix(RecordPrefix(KIND_END, self._sequence, 0, 0, durable), at))]
                )
            file.wait_durable(end)
        self._spool._finish(keys.segment_id, file)

    def _frame(
        self, keys: SegmentKeys, header: bytes, parts: Sequence[Part], offset: int, durable: int, buffer: memoryview
    ) -> Iterator[memoryview]:
        sealed_header = seal_small(keys.header_key, header, header_aad(offset))
        sealer = StreamSealer(keys.payload_key, parts, payload_context(self._hospital_id, keys.segment_id, offset))
        prefix = RecordPrefix(KIND_FRAME, self._sequence, len(sealed_header), sealer.sealed_length, durable)
        self._record_length = prefix.record_length
        head = b"".join((keys.pack_prefix(prefix, offset), sealed_header, sealer.header))
        filled = len(head)
        buffer[:filled] = head
        # A payload of up to 1 MiB goes out in one system call.
        while True:
            filled += sealer.next_chunk_into(buffer[filled:])
            if sealer.is_done:
                break
            whole = filled // BLOCK_BYTES * BLOCK_BYTES
            yield buffer[:whole]
            buffer[: filled - whole] = buffer[whole:filled]
            filled -= whole
        yield _padded(buffer, filled)


def _in_blocks(buffer: memoryview, content: bytes) -> memoryview:
    """`content` at the start of the buffer, followed by zeros to the end of its last block."""
    if len(content) > len(buffer) - BLOCK_BYTES:
        buffer = memoryview(mmap.mmap(-1, len(content) + BLOCK_BYTES))
    buffer[: len(content)] = content
    return _padded(buffer, len(content))


def _padded(buffer: memoryview, filled: int) -> memoryview:
    whole = whole_blocks(filled)
    buffer[filled:whole] = bytes(whole - filled)
    return buffer[:whole]


def _sync_quietly(file: AppendOnlyFile, end: int) -> None:
    # A failure has poisoned the file: the `append` that matters finds out.
    with contextlib.suppress(TemporarilyUnable):
        file.wait_durable(end)
