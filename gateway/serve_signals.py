"""What `readgate serve` is told by signals: remembered by their handlers, acted upon by its loop.

Invariants
- From the first act of the process on no signal of ours kills it, whatever it has come to by then; none is forgotten either.
- A child's signals wait from before its first instruction until it can take them: what the parent sends to a child that is being started
  reaches its handler.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ASKING = (signal.SIGHUP, signal.SIGUSR2)


class ServeSignals:
    """The handlers of this process. SIGTERM and SIGINT: stop. SIGHUP: read the law again. SIGUSR2: restart the receivers one by one."""

    def __init__(self) -> None:
        """They are in force, and what waited for them has come."""
        self.stopping = threading.Event()
        self._asked: set[int] = set()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        for number in _ASKING:
            signal.signal(number, self._ask)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASKING)

    def took(self, number: signal.Signals) -> bool:
        """Whether it came since this was asked last."""
        if number not in self._asked:
            return False
        self._asked.discard(number)
        return True

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        self.stopping.set()

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        self._asked.add(number)


@contextmanager
def waiting_signals() -> Iterator[None]:
    """A child that is started within has SIGHUP and SIGUSR2 waiting until it makes its `ServeSignals`; ours wait for the end of this."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ASKING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
