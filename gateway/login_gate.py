"""What logins of nobody may cost: so many password derivations at a time, and one audit entry a minute for all names that do not exist."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from crypto.errors import TemporarilyUnable

#: Each derivation takes 64 MiB and a core for a while; more at a time would keep everybody else out.
DERIVATIONS_MAX = 4
_WAIT_SECONDS = 5.0
_UNKNOWN_EVERY = timedelta(minutes=1)


class LoginGate:
    """One per process. Safe between threads."""

    def __init__(self) -> None:
        self._slots = threading.BoundedSemaphore(DERIVATIONS_MAX)
        self._lock = threading.Lock()
        self._unknown = 0
        self._written_at: datetime | None = None

    @contextmanager
    def derivation(self, *, wait_seconds: float = _WAIT_SECONDS) -> Iterator[None]:
        """A password may be derived now. Raises: TemporarilyUnable where too many wait."""
        if not self._slots.acquire(timeout=wait_seconds):
            raise TemporarilyUnable("too many logins at once")
        try:
            yield
        finally:
            self._slots.release()

    def count_unknown(self, now: datetime) -> int | None:
        """One more attempt under a name that does not exist: how many to put on record now; None while the last entry is young."""
        with self._lock:
            self._unknown += 1
            if self._written_at is not None and now - self._written_at < _UNKNOWN_EVERY:
                return None
            found, self._unknown, self._written_at = self._unknown, 0, now
            return found
