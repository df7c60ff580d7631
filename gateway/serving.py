"""One `readgate serve`: a process in a role, and where there are several receivers the parent that keeps that many of them on one port.

Stopping (SIGTERM, SIGINT) drains: the server ends its associations, writes its rows and finishes its jobs; a second signal changes nothing.
"""

from __future__ import annotations

import os
import resource
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


def serve(data: Path, role: str, *, receiver: int | None = None) -> int:
    """Runs until a signal; the exit code. Raises: BadInput naming what is missing, before anything runs."""
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
    return _serve_here(data, role, settings, stopping, receiver, receivers)


def _supervise(receivers: _Receivers, stopping: threading.Event) -> int:
    signal.signal(signal.SIGHUP, lambda *_: receivers.pass_on(signal.SIGHUP))
    code = None
    try:
        receivers.start()
        while code is None and not stopping.wait(_POLL_SECONDS):
            code = receivers.look()
    finally:
        receivers.stop()
    return code or 0


def _serve_here(
    data: Path, role: str, settings: Settings, stopping: threading.Event, receiver: int | None, receivers: _Receivers | None
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
        try:
            if receivers is not None:
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
    """Receiver processes that share the DICOM port by SO_REUSEPORT; one that dies is started again."""

    data: Path
    settings: Settings
    _running: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    _deaths: deque[float] = field(default_factory=deque)

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
        for number, process in list(self._running.items()):
            code = process.poll()
            if code is None:
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

    def _start_one(self, number: int) -> None:
        command = [sys.executable, "-m", "gateway.cli", "serve", "--role", "receiver", "--receiver", str(number), "--data", str(self.data)]
        self._running[number] = subprocess.Popen(command)
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
        deadline = time.monotonic() + self.settings.dicom.drain_seconds + 15
        for number, process in self._running.items():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.error("receiver_killed", receiver=number)
                process.kill()
                process.wait()
