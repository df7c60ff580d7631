"""A child process that confines itself before it reads a stranger's bytes, as its parent holds it.

Invariants
- It is given nothing but its arguments: no environment, descriptor or working directory of the parent's (confinement.py says what else).
- Standard error is dropped, because a codec's warning may quote what it read.
- Its first message says what holds of it; the log has that, and a warning where network or files are within its reach.
"""

from __future__ import annotations

import logging
import os
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

    def __init__(self, module: str, arguments: Sequence[str], *, kind: str, seconds_to_start: float, threads: int = 1) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment_of_child(threads),
            cwd="/",
            umask=0o077,
            close_fds=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._to, self._answers = self._process.stdin.fileno(), self._process.stdout.fileno()
        try:
            os.set_blocking(self._to, False)
            for descriptor in (self._to, self._answers):
                child_wire.widen(descriptor)
            ready, _ = self.receive(0, time.monotonic() + seconds_to_start)
            self.confinement = Confinement.from_json(ready["confinement"])
        except BaseException:
            self.close()
            raise
        is_whole = self.confinement.has_no_network and self.confinement.has_no_files
        level = logging.INFO if is_whole else logging.WARNING
        log.log(level, "confined_process_started", kind=kind, process_id=self.pid, how=self.confinement.held())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def send(self, words: dict[str, Any], payload: bytes, deadline: float) -> None:
        """All of it is on its way. `deadline` by the monotonic clock."""
        child_wire.send(self._to, words, payload, deadline)

    def receive(self, question_bytes: int, deadline: float) -> tuple[dict[str, Any], bytes]:
        """Its next answer, to a question with a payload of so many bytes."""
        return child_wire.receive(self._answers, _ANSWER_BYTES + _ANSWER_TIMES * question_bytes, deadline, _WORDS_BYTES_MAX)

    def kill(self) -> None:
        """It dies; whoever waits for its answer finds out, and closes it."""
        self._process.kill()

    def close(self) -> None:
        """It is gone."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
