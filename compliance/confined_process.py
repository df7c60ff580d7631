"""A child process that confines itself before it reads a stranger's bytes, as its parent holds it.

Invariants
- It is given nothing but its arguments: no environment, descriptor or working directory of the parent's (confinement.py says what else).
- Standard error is dropped, because a codec's warning may quote what it read.
- Its first message says what holds of it; the log has that, and a warning where network or files are within its reach.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import structlog

from compliance import child_wire
from compliance.confinement import Confinement, environment_of_child

log = structlog.get_logger()
#: What an answer says beside its payload: 10,000 boxes are 400 kB.
_WORDS_BYTES_MAX = 1 << 20
#: And its payload: a part for lossy frames that were cleaned and are lossless now, and so many times the question.
_ANSWER_BYTES, _ANSWER_TIMES = 256 << 20, 8


class ConfinedProcess:
    """One child that is up.

    Raises, as do its methods: TimeoutError, EOFError, OSError; ValueError or RecursionError for what is no message.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        kind: str,
        seconds_to_start: float,
        threads: int = 1,
        takes_descriptors: bool = False,
        words_bytes_max: int = _WORDS_BYTES_MAX,
    ) -> None:
        """With `takes_descriptors` its standard input is a socket, over which `hand` gives it open files."""
        self._words_bytes_max = words_bytes_max
        self._socket: socket.socket | None = None
        its_end: socket.socket | None = None
        if takes_descriptors:
            self._socket, its_end = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE if its_end is None else its_end.fileno(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment_of_child(threads),
            cwd="/",
            umask=0o077,
            close_fds=True,
        )
        if its_end is not None:
            its_end.close()
        to = self._process.stdin if self._socket is None else self._socket
        assert to is not None and self._process.stdout is not None
        self._to, self._answers = to.fileno(), self._process.stdout.fileno()
        try:
            os.set_blocking(self._to, False)
            for descriptor in (self._to, self._answers):
                child_wire.widen(descriptor)
            ready, _ = self.receive(0, time.monotonic() + seconds_to_start)
            self.confinement = Confinement.from_json(ready["confinement"])
        except BaseException:
            self.close()
            raise
        holds = self.confinement
        is_whole = holds.has_no_network and holds.has_no_files and holds.has_bounded_memory
        level = logging.INFO if is_whole else logging.WARNING
        log.log(level, "confined_process_started", kind=kind, process_id=self.pid, how=holds.held())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def send(self, words: dict[str, Any], payload: bytes, deadline: float) -> None:
        """All of it is on its way. `deadline` by the monotonic clock."""
        child_wire.send(self._to, words, payload, deadline)

    def hand(self, descriptors: Sequence[int], deadline: float) -> None:
        """These open files are its own too, behind one byte that says so."""
        assert self._socket is not None
        self._socket.settimeout(max(0.0, deadline - time.monotonic()))
        socket.send_fds(self._socket, [b"\0"], descriptors)
        self._socket.setblocking(False)

    def receive(self, question_bytes: int, deadline: float) -> tuple[dict[str, Any], bytes]:
        """Its next answer, to a question with a payload of so many bytes."""
        return child_wire.receive(self._answers, _ANSWER_BYTES + _ANSWER_TIMES * question_bytes, deadline, self._words_bytes_max)

    def kill(self) -> None:
        """It dies; whoever waits for its answer finds out, and closes it."""
        self._process.kill()

    def close(self) -> None:
        """It is gone."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._socket, self._process.stdout):
            if pipe is not None:
                pipe.close()
