"""A file that is written from front to back, in whole blocks, and synced once for all who wait (group commit).

Invariants
- `durable` never falls, and no byte below it is written again.
- `wait_durable` returns only when an fdatasync that began after the bytes were written has succeeded.
- After a failed fdatasync the kernel may have dropped the dirty pages and would report success next time; the file is poisoned:
  every waiter fails, and nothing is appended any more.

There is no committer thread. The first of the waiters syncs for all who had written by then, the others sleep; files of different
associations are synced by their own threads at once, and the kernel flushes the device for them together. Where the blocks were written
before (crypto/blank_segments.py) a sync is that flush and nothing else; where the file grows it waits for a commit of the journal.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable

from crypto.disk import Disk
from crypto.errors import TemporarilyUnable

Part = bytes | bytearray | memoryview


class AppendOnlyFile:
    """Owns `descriptor`, whose first `length` bytes are durable already; what lies behind them means nothing."""

    def __init__(self, descriptor: int, length: int, disk: Disk) -> None:
        self._descriptor = descriptor
        self._disk = disk
        self._end = length
        self._durable = length
        self._is_poisoned = False
        self._is_syncing = False
        self._is_closed = False
        self._writing = threading.Lock()
        self._progress = threading.Condition()

    @property
    def end(self) -> int:
        """Where the next append starts."""
        return self._end

    @property
    def durable(self) -> int:
        """Bytes that survive power loss."""
        return self._durable

    @property
    def is_syncing(self) -> bool:
        """Whether a sync is under way; it need not cover what was appended last."""
        return self._is_syncing

    @property
    def is_poisoned(self) -> bool:
        """Whether a sync failed, so that it takes nothing more."""
        return self._is_poisoned

    def append(self, record: Callable[[int, int], Iterable[memoryview]]) -> tuple[int, int]:
        """Writes what `record(offset, durable)` yields, whole blocks each, not yet durably; returns its offset and end.

        Raises:
            TemporarilyUnable: the bytes are not in the file; it is poisoned where they could not be taken back.
        """
        with self._writing:
            if self._is_poisoned or self._is_closed:
                raise TemporarilyUnable("the spool segment takes no more frames")
            offset, written = self._end, 0
            try:
                for piece in record(offset, self._durable):
                    self._disk.write_at(self._descriptor, piece, offset + written)
                    written += piece.nbytes
            except BaseException as failure:
                # Also for a record that fails to be made: half of it must not stay in front of the next.
                self._take_back(offset)
                if isinstance(failure, OSError):
                    raise TemporarilyUnable("the spool cannot be written") from None
                raise
            self._end = offset + written
            return offset, self._end

    def wait_durable(self, target: int) -> None:
        """The first `target` bytes survive power loss.

        Raises:
            TemporarilyUnable: they may or may not; the file is poisoned and nothing above `durable` counts.
        """
        with self._progress:
            while self._durable < target:
                if self._is_poisoned:
                    raise TemporarilyUnable("the spool cannot be made durable")
                if self._is_syncing:
                    self._progress.wait()
                else:
                    self._sync_for_all()

    def close(self, *, cut_off: bool = False) -> None:
        """No sync runs any more and the descriptor is closed; `cut_off` gives blocks behind the end back. May be called again."""
        # Never wait for a sync while holding `_writing`: a sync that fails needs it.
        with self._progress:
            while self._is_syncing:
                self._progress.wait()
            is_first = not self._is_closed
            self._is_closed = True
            self._progress.notify_all()
        if is_first:
            with self._writing:
                if cut_off:
                    # It need not last: a reader takes blocks behind the end for what they are.
                    with contextlib.suppress(OSError):
                        self._disk.truncate(self._descriptor, self._end)
                os.close(self._descriptor)

    def _sync_for_all(self) -> None:
        """Called with `_progress` held, which is given back while the disk works."""
        if self._is_closed:
            raise TemporarilyUnable("the spool segment was closed before the frame was durable")
        self._is_syncing = True
        goal = self._end
        is_synced = False
        self._progress.release()
        try:
            self._disk.fdatasync(self._descriptor)
            is_synced = True
        except OSError:
            # Frames nobody was told about should not be found later; where this fails too, they are whole or torn, and both are safe.
            with self._writing:
                self._is_poisoned = True
                with contextlib.suppress(OSError):
                    self._disk.truncate(self._descriptor, self._durable)
        finally:
            self._progress.acquire()
            self._is_syncing = False
            if is_synced:
                self._durable = goal
            else:
                self._is_poisoned = True
            self._progress.notify_all()

    def _take_back(self, offset: int) -> None:
        try:
            self._disk.truncate(self._descriptor, offset)
        except OSError:
            self._is_poisoned = True
