"""One process at a time runs the jobs of an executor id: at its start it takes over what that id left pending.

Invariants
- On SQLite the lock is a `flock` on a file of the data folder, on PostgreSQL an advisory lock of a connection that does nothing else: both
  end with the process, however it ends.
- Children of a process that was killed may hold it a moment longer; who comes then waits for them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from crypto.errors import BadInput, TemporarilyUnable

#: A restarted process comes while the children of the killed one still end.
PATIENCE_SECONDS = 10.0
_POLL_SECONDS = 0.2


class ExecutorLock:
    """From its making to `release` this process alone runs jobs under the executor id."""

    def __init__(self, data: Path, url: str, executor_id: str, *, patience_seconds: float | None = None) -> None:
        """`url`: of the jobs' database.

        Raises:
            BadInput: another process has it, and keeps it for `patience_seconds` (`PATIENCE_SECONDS`).
            TemporarilyUnable: the database is away.
        """
        give_up_at = time.monotonic() + (PATIENCE_SECONDS if patience_seconds is None else patience_seconds)
        take = _take_file if url.startswith("sqlite") else _take_advisory
        while (release := take(data, url, executor_id)) is None:
            if time.monotonic() >= give_up_at:
                raise BadInput(
                    f"jobs.executor_id {executor_id!r} is in use by another process that runs jobs; give each of them its own "
                    "(READGATE_JOBS__EXECUTOR_ID or [jobs] executor_id)"
                )
            time.sleep(_POLL_SECONDS)
        self._release: Callable[[], None] | None = release

    def release(self) -> None:
        """May be called again."""
        release, self._release = self._release, None
        if release is not None:
            release()


def _take_file(data: Path, _url: str, executor_id: str) -> Callable[[], None] | None:
    # An id is an operator's word: it may hold what no file name may.
    path = data / f"executor-{hashlib.sha256(executor_id.encode()).hexdigest()[:16]}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    # The file stays: one that is unlinked under a lock is another file to who comes next.
    return lambda: os.close(descriptor)


def _take_advisory(_data: Path, url: str, executor_id: str) -> Callable[[], None] | None:
    key = int.from_bytes(hashlib.sha256(b"readgate executor\0" + executor_id.encode()).digest()[:8], "big", signed=True)
    try:
        connection = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT").connect()
        try:
            is_ours = connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}).scalar_one()
        except BaseException:
            connection.close()
            raise
    except SQLAlchemyError:
        raise TemporarilyUnable("the database cannot be read now") from None
    if not is_ours:
        connection.close()
        return None
    return connection.close
