"""One `readgate serve`: a process in a role, and where there are several receivers the parent that keeps that many of them on one port.

Stopping (SIGTERM, SIGINT) drains: the server ends its associations, writes its rows and finishes its jobs; a second signal changes nothing.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import structlog

from crypto.errors import BadInput
from gateway.config import Settings, load_settings
from gateway.logs import configure_logs

if TYPE_CHECKING:
    from gateway.server import Server

log = structlog.get_logger()
#: A receiver that dies this often within a minute will not come up by trying again.
_RESTARTS_PER_MINUTE_MAX = 5
_POLL_SECONDS = 0.2
#: What a receiver may need to end beyond its drain time.
_STOP_SECONDS = 15.0


def serve(data: Path, role: str, *, receiver: int | None = None, ready: int | None = None) -> int:
    """Runs until a signal; the exit code. SIGUSR2 restarts several receivers one by one. `ready` is written to once a receiver listens.

    Raises: BadInput naming what is missing, before anything runs.
    """
    os.umask(0o077)
    # A core dump would hold keys and identities.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    settings = load_settings(data)
    configure_logs(as_json=settings.log_json)
    stopping = _stop_on_signals()
    receivers = None
    if role in ("all", "receiver") and receiver is None and settings.dicom.receiver_processes > 1:
        receivers = _Receivers(data, settings)
        if role == "receiver":
            return _supervise(receivers, stopping)
    return _serve_here(data, role, settings, stopping, receiver, receivers, ready)


def _supervise(receivers: _Receivers, stopping: threading.Event) -> int:
    signal.signal(signal.SIGHUP, lambda *_: receivers.pass_on(signal.SIGHUP))
    signal.signal(signal.SIGUSR2, lambda *_: receivers.restart_one_by_one())
    code = None
    try:
        receivers.start()
        while code is None and not stopping.wait(_POLL_SECONDS):
            code = receivers.look()
    finally:
        receivers.stop()
    return code or 0


def _serve_here(
    data: Path,
    role: str,
    settings: Settings,
    stopping: threading.Event,
    receiver: int | None,
    receivers: _Receivers | None,
    ready: int | None,
) -> int:
    from gateway.application import open_application
    from gateway.server import ProcessRole, Server

    if receiver:
        # Orders come by a port that one process alone can hold.
        settings = settings.model_copy(update={"orders": []})
    parent, code = os.getppid(), None
    app = open_application(data, settings=settings)
    try:
        server = Server(app, ProcessRole(role), receives=receivers is None, shares_ports=receiver is not None)
        server.start()
        signal.signal(signal.SIGHUP, lambda *_: _read_law_again(server, receivers))
        if ready is not None:
            os.write(ready, b"1")
            os.close(ready)
        try:
            if receivers is not None:
                signal.signal(signal.SIGUSR2, lambda *_: receivers.restart_one_by_one())
                receivers.start()
            # With a timeout, because a wait without one keeps Python from running the signal's handler on some platforms.
            while code is None and not stopping.wait(_POLL_SECONDS):
                code = receivers.look() if receivers is not None else None
                if receiver is not None and os.getppid() != parent:
                    log.error("receiver_left_alone", receiver=receiver)
                    break
        finally:
            # What they acknowledge to the end has a worker as long as there is one.
            if receivers is not None:
                receivers.stop()
            server.stop()
    finally:
        app.close()
    return code or 0


def _read_law_again(server: Server, receivers: _Receivers | None) -> None:
    if server.law_watch is not None:
        server.law_watch.wake()
    if receivers is not None:
        receivers.pass_on(signal.SIGHUP)


def _stop_on_signals() -> threading.Event:
    stopping = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    return stopping


@dataclass
class _Receivers:
    """Receiver processes that share the DICOM port by SO_REUSEPORT; one that dies is started again.

    A rolling restart takes one at a time: it drains while the others listen, ends, and its successor listens before the next one's turn.
    A successor that does not come up ends the rolling restart, and the others stay what they are.
    """

    data: Path
    settings: Settings
    _running: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    _deaths: deque[float] = field(default_factory=deque)
    #: Of each the end of a pipe that says when it listens.
    _ready: dict[int, int] = field(default_factory=dict)
    #: Those whose turn is still to come; the one whose turn it is, and since when it is to end.
    _waiting: deque[int] = field(default_factory=deque)
    _turn: int | None = None
    _ends_by: float = 0.0

    def start(self) -> None:
        """Raises: BadInput where the ports cannot be shared; none was started then."""
        dicom = self.settings.dicom
        if 0 in (dicom.tls_port, dicom.plaintext_port):
            raise BadInput(
                "dicom.receivers is more than 1, so dicom.tls_port and dicom.plaintext_port must be fixed: port 0 cannot be shared"
            )
        for number in range(dicom.receiver_processes):
            self._start_one(number)

    def look(self) -> int | None:
        """One that died was started again; the exit code with which to give up, where that is of no use."""
        self._roll()
        for number, process in list(self._running.items()):
            code = process.poll()
            if code is None or number == self._turn:
                continue
            if code == 2 or not self._may_restart():
                # Bad configuration said so on stderr itself.
                log.error("receivers_given_up", receiver=number, exit_code=code)
                return code if code == 2 else 1
            log.error("receiver_restarted", receiver=number, exit_code=code)
            self._start_one(number)
        return None

    def pass_on(self, number: signal.Signals) -> None:
        for process in list(self._running.values()):
            if process.poll() is None:
                process.send_signal(number)

    def restart_one_by_one(self) -> None:
        """`look` does it from here on. May be called from a signal's handler, and again."""
        self._waiting = deque(range(self.settings.dicom.receiver_processes))

    def _roll(self) -> None:
        if self._turn is None:
            if not self._waiting:
                return
            self._turn = self._waiting.popleft()
            if self._turn not in self._running:
                # It was given up before.
                self._start_one(self._turn)
                return
            self._ends_by = time.monotonic() + self.settings.dicom.drain_seconds + _STOP_SECONDS
            # The pipe of the one that ends says nothing about its successor.
            self._forget_ready(self._turn)
            self._running[self._turn].terminate()
            log.info("receiver_draining", receiver=self._turn)
            return
        process = self._running[self._turn]
        if self._turn not in self._ready:
            if process.poll() is not None:
                self._start_one(self._turn)
            elif time.monotonic() > self._ends_by:
                log.error("receiver_killed", receiver=self._turn)
                process.kill()
        elif self._is_listening(self._turn):
            log.info("receiver_replaced", receiver=self._turn)
            self._turn = None
        elif process.poll() is not None:
            # The others go on as they are: an operator mends what is wrong and asks again.
            log.error("rolling_restart_given_up", receiver=self._turn, exit_code=process.returncode)
            self._forget_ready(self._turn)
            self._running.pop(self._turn)
            self._waiting.clear()
            self._turn = None

    def _is_listening(self, number: int) -> bool:
        readable, _, _ = select.select([self._ready[number]], [], [], 0)
        return bool(readable) and os.read(self._ready[number], 1) == b"1"

    def _forget_ready(self, number: int) -> None:
        descriptor = self._ready.pop(number, None)
        if descriptor is not None:
            os.close(descriptor)

    def _start_one(self, number: int) -> None:
        self._forget_ready(number)
        self._ready[number], told = os.pipe()
        command = [sys.executable, "-m", "gateway.cli", "serve", "--role", "receiver", "--receiver", str(number), "--data", str(self.data)]
        self._running[number] = subprocess.Popen([*command, "--ready", str(told)], pass_fds=(told,))
        os.close(told)
        log.info("receiver_started", receiver=number, process_id=self._running[number].pid)

    def _may_restart(self) -> bool:
        now = time.monotonic()
        self._deaths.append(now)
        while self._deaths and now - self._deaths[0] > 60:
            self._deaths.popleft()
        return len(self._deaths) <= _RESTARTS_PER_MINUTE_MAX

    def stop(self) -> None:
        """All have drained and ended, or were killed when their time was over."""
        for process in self._running.values():
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + self.settings.dicom.drain_seconds + _STOP_SECONDS
        for number, process in self._running.items():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.error("receiver_killed", receiver=number)
                process.kill()
                process.wait()
        for number in list(self._ready):
            self._forget_ready(number)
