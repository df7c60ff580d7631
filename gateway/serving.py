"""One `readgate serve`: a process in a role, and where there are several receivers the parent that keeps that many of them on one port.

Signals are remembered from the first act on (serve_signals.py). Stopping (SIGTERM, SIGINT) drains: the server ends its associations, writes
its rows and finishes its jobs; a second signal changes nothing.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from gateway.config import Settings, load_settings
from gateway.listening import listening_socket, refuse_plaintext_beyond_loopback
from gateway.logs import configure_logs
from gateway.serve_signals import ServeSignals, waiting_signals

if TYPE_CHECKING:
    from gateway.server import Server

log = structlog.get_logger()
#: A receiver that dies this often within a minute will not come up by trying again.
_RESTARTS_PER_MINUTE_MAX = 5
_POLL_SECONDS = 0.2
#: What a receiver may need to end beyond its drain time.
_STOP_SECONDS = 15.0
#: A successor that does not listen by then will not.
_LISTEN_SECONDS = 60.0
#: Until one that did not come up in a rolling restart is tried again.
_RETRY_SECONDS = 30.0


def serve(data: Path, role: str, *, receiver: int | None = None, ready: int | None = None, listening: Sequence[int] = ()) -> int:
    """Runs until a signal; the exit code. SIGUSR2 restarts several receivers one by one.

    `ready` is written to once a receiver listens; `listening` are the descriptors of the sockets it shares.

    Raises: BadInput naming what is missing, before anything runs.
    """
    signals = ServeSignals()
    os.umask(0o077)
    # A core dump would hold keys and identities.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    settings = load_settings(data)
    configure_logs(as_json=settings.log_json)
    receivers = None
    if role in ("all", "receiver") and receiver is None and settings.dicom.receiver_processes > 1:
        receivers = _Receivers(data, settings)
        if role == "receiver":
            return _supervise(receivers, signals)
    return _serve_here(data, role, settings, signals, receivers, _Place(receiver, ready, listening))


def _supervise(receivers: _Receivers, signals: ServeSignals) -> int:
    code = None
    try:
        receivers.start()
        while code is None and not signals.stopping.wait(_POLL_SECONDS):
            _do_as_asked(signals, None, receivers)
            code = receivers.look()
    finally:
        receivers.stop()
    return code or 0


def _serve_here(
    data: Path,
    role: str,
    settings: Settings,
    signals: ServeSignals,
    receivers: _Receivers | None,
    place: _Place,
) -> int:
    from gateway.application import open_application
    from gateway.server import ProcessRole, Server

    if place.number:
        # Orders come by a port that one process alone can hold.
        settings = settings.model_copy(update={"orders": []})
    parent, code = os.getppid(), None
    app = open_application(data, settings=settings)
    try:
        server = Server(app, ProcessRole(role), receives=receivers is None, listening=place.listening)
        server.start()
        if place.ready is not None:
            os.write(place.ready, b"1")
            os.close(place.ready)
        try:
            if receivers is not None:
                receivers.start()
            # With a timeout, because a wait without one keeps Python from running the signal's handler on some platforms.
            while code is None and not signals.stopping.wait(_POLL_SECONDS):
                _do_as_asked(signals, server, receivers)
                code = receivers.look() if receivers is not None else None
                if place.number is not None and os.getppid() != parent:
                    log.error("receiver_left_alone", receiver=place.number)
                    break
        finally:
            # What they acknowledge to the end has a worker as long as there is one.
            if receivers is not None:
                receivers.stop()
            server.stop()
    finally:
        app.close()
    return code or 0


def _do_as_asked(signals: ServeSignals, server: Server | None, receivers: _Receivers | None) -> None:
    """What was asked for by signals since the last look."""
    if signals.took(signal.SIGHUP):
        if server is not None and server.law_watch is not None:
            server.law_watch.wake()
        if receivers is not None:
            receivers.pass_on(signal.SIGHUP)
    if signals.took(signal.SIGUSR2):
        if receivers is not None:
            receivers.restart_one_by_one()
        else:
            # One process alone cannot hand its port over: SIGTERM and a new start restart it.
            log.warning("rolling_restart_not_possible")


@dataclass(frozen=True, slots=True)
class _Place:
    """Which of several receivers a process is, and what its parent gave it."""

    number: int | None
    ready: int | None
    listening: Sequence[int]


@dataclass
class _Receivers:
    """Receiver processes that accept from the same sockets, bound here; one that dies is started again.

    A rolling restart takes one at a time: it drains while the others listen, ends, and its successor listens before the next one's turn.
    A successor that does not come up, or does not listen in time, ends the rolling restart: the others stay what they are, and it is tried
    again every half minute.
    """

    data: Path
    settings: Settings
    _listeners: list[socket.socket] = field(default_factory=list)
    _running: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    _deaths: deque[float] = field(default_factory=deque)
    #: Of each the end of a pipe that says when it listens.
    _ready: dict[int, int] = field(default_factory=dict)
    #: Those whose turn is still to come; the one whose turn it is, and until when it is to end, and its successor to listen.
    _waiting: deque[int] = field(default_factory=deque)
    _turn: int | None = None
    _ends_by: float = 0.0
    #: Those that did not come up in their turn: when to try again, or until when the one that was started is to listen.
    _given_up: dict[int, float] = field(default_factory=dict)

    def start(self) -> None:
        """Raises: BadInput where a port cannot be bound; none was started then."""
        dicom = self.settings.dicom
        if dicom.plaintext_port is not None and not dicom.allow_plaintext_beyond_loopback:
            refuse_plaintext_beyond_loopback(dicom.host)
        for host, port in dicom.addresses:
            self._listeners.append(listening_socket(host, port, is_shared=True))
        for number in range(dicom.receiver_processes):
            self._start_one(number)

    def look(self) -> int | None:
        """One that died was started again; the exit code with which to give up, where that is of no use."""
        self._roll()
        self._try_again()
        for number, process in list(self._running.items()):
            code = process.poll()
            if code is None or number == self._turn or number in self._given_up:
                continue
            if code == 2 and any(other.poll() is None for other in self._running.values()):
                # What is configured by now is wrong; the others run as they were told before.
                log.error("receiver_not_replaced", receiver=number, exit_code=code)
                self._put_back(number)
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
        """`look` does it from here on. May be called again."""
        self._waiting = deque(range(self.settings.dicom.receiver_processes))

    def _roll(self) -> None:
        if self._turn is None:
            if not self._waiting:
                return
            self._turn = self._waiting.popleft()
            self._given_up.pop(self._turn, None)
            if self._turn not in self._running:
                # It was given up before.
                self._start_successor(self._turn)
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
                self._start_successor(self._turn)
            elif time.monotonic() > self._ends_by:
                log.error("receiver_killed", receiver=self._turn)
                process.kill()
        elif self._is_listening(self._turn):
            log.info("receiver_replaced", receiver=self._turn)
            self._turn = None
        elif self._has_failed(self._turn, self._ends_by):
            # The others go on as they are: an operator mends what is wrong and asks again, or it comes up at a later try.
            log.error("rolling_restart_given_up", receiver=self._turn, exit_code=process.returncode)
            self._put_back(self._turn)
            self._waiting.clear()
            self._turn = None

    def _start_successor(self, number: int) -> None:
        self._start_one(number)
        self._ends_by = time.monotonic() + _LISTEN_SECONDS

    def _try_again(self) -> None:
        """Those that did not come up in their turn are started again until they listen, and never count as deaths."""
        for number, at in list(self._given_up.items()):
            if number not in self._running:
                if time.monotonic() >= at:
                    self._start_one(number)
                    self._given_up[number] = time.monotonic() + _LISTEN_SECONDS
            elif self._is_listening(number):
                log.info("receiver_replaced", receiver=number)
                del self._given_up[number]
            elif self._has_failed(number, at):
                self._put_back(number)

    def _has_failed(self, number: int, listens_by: float) -> bool:
        """Whether a successor ended before it listened; one that took too long for it has ended now."""
        process = self._running[number]
        if process.poll() is None and time.monotonic() > listens_by:
            log.error("receiver_killed", receiver=number)
            process.kill()
            process.wait()
        return process.poll() is not None

    def _put_back(self, number: int) -> None:
        self._forget_ready(number)
        self._running.pop(number)
        self._given_up[number] = time.monotonic() + _RETRY_SECONDS

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
        listening = [each.fileno() for each in self._listeners]
        command = [sys.executable, "-m", "gateway.cli", "serve", "--role", "receiver", "--receiver", str(number), "--data", str(self.data)]
        command += ["--ready", str(told), *(option for each in listening for option in ("--listening", str(each)))]
        with waiting_signals():
            self._running[number] = subprocess.Popen(command, pass_fds=(told, *listening))
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
        # The last to close them sends away who waits: nobody is kept waiting while they drain.
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
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
