"""`readgate serve` with several receivers: processes on one port that are started again, drain together, and never outlive their parent."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config import DicomSettings
from tests.dicom_peers import wait_until

REPOSITORY = Path(__file__).resolve().parents[1]


class Serving:
    """`readgate serve` as a process, and what it and its children said."""

    def __init__(self, data: Path, role: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        command = [sys.executable, "-m", "gateway.cli"]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        subprocess.run([*command, "init", "--data", str(data)], cwd=REPOSITORY, check=True, capture_output=True, env=environment)
        (data / "readgate.toml").write_text(
            f"[law]\ndemo_confirmations = true\n[http]\nport = 0\n[dicom]\nreceivers = 2\nplaintext_port = {self.port}\n" + self._no_tls()
        )
        self.lines: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [*command, "serve", "--role", role, "--data", str(data)], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, env=environment
        )
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _no_tls(self) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return f"tls_port = {probe.getsockname()[1]}\n"

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            # One that refuses to start says so in plain words.
            with contextlib.suppress(json.JSONDecodeError):
                self.lines.append(json.loads(line))

    def said(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event]

    def wait_for(self, event: str, count: int) -> list[dict[str, Any]]:
        assert wait_until(lambda: len(self.said(event)) >= count, 60), [line["event"] for line in self.lines]
        return self.said(event)

    def is_answered(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Callable[[str], Serving]]:
    started: list[Serving] = []

    def start(role: str) -> Serving:
        started.append(Serving(tmp_path, role))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.terminate()
            one.process.wait(60)
        one._reading.join(60)
        assert one.process.stderr is not None
        one.process.stderr.close()


@pytest.mark.slow
@pytest.mark.parametrize("role", ["all", "receiver"])
def test_receiver_that_dies_is_started_again_and_all_drain(serving: Callable[[str], Serving], role: str) -> None:
    site = serving(role)
    # Two endpoints each.
    site.wait_for("receiver_listening", 4)
    first, second = [line["process_id"] for line in site.said("receiver_started")]
    assert len({first, second, site.process.pid}) == 3
    os.kill(second, signal.SIGKILL)
    site.wait_for("receiver_restarted", 1)
    site.wait_for("receiver_listening", 6)
    assert site.is_answered()
    site.process.terminate()
    assert site.process.wait(60) == 0
    assert len(site.said("receiver_stopped")) == 2
    assert not site.is_answered()


@pytest.mark.slow
def test_receivers_end_when_their_parent_is_killed(serving: Callable[[str], Serving]) -> None:
    site = serving("all")
    site.wait_for("receiver_listening", 4)
    site.process.kill()
    site.process.wait(10)
    assert len(site.wait_for("receiver_left_alone", 2)) == 2
    assert wait_until(lambda: not site.is_answered(), 30)


def test_number_of_receivers_that_nobody_chose() -> None:
    assert DicomSettings(receivers=3).receiver_processes == 3
    assert DicomSettings(tls_port=0).receiver_processes == 1
    assert DicomSettings(tls_port=2762).receiver_processes == min(2, os.cpu_count() or 1)
