"""The demonstration as a person starts it: in a process of its own, once, and once more on the same folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

_STEPS = [
    "receive",
    "de-identify",
    "seal",
    "route",
    "claim",
    "view",
    "report",
    "sign",
    "deliver",
    "never shown",
    "verify report",
    "verify audit log",
]
_COMMAND = [
    sys.executable,
    "-m",
    "gateway.cli",
    "demo",
    "--once",
    "--json",
    "--http-port",
    "0",
    "--dicom-port",
    "0",
    "--dicom-tls-port",
    "0",
]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_demo_once_holds_and_a_second_start_carries_on(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for _ in range(2):
        done = subprocess.run(
            [*_COMMAND, "--data", str(data)], capture_output=True, timeout=430, cwd=Path(__file__).parents[1], check=False
        )
        assert done.returncode == 0, done.stdout.decode()[-3000:] + done.stderr.decode()[-3000:]
        play = json.loads(done.stdout)
        assert play["holds"] is True
        assert [step["name"] for step in play["steps"]] == _STEPS
        assert all(step["holds"] for step in play["steps"])
    received = sorted((data / "received" / "h1").glob("*.pdf"))
    assert len(received) == 2
    assert len(list((data / "received" / "h1").glob("*.hl7"))) == 2


@pytest.mark.slow
def test_demo_says_which_port_is_taken(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [*_COMMAND, "--data", str(tmp_path / "data")]
        command[command.index("--http-port") + 1] = str(taken.getsockname()[1])
        done = subprocess.run(command, capture_output=True, timeout=120, cwd=Path(__file__).parents[1], check=False)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr and str(taken).encode() not in done.stderr
    assert b"http.port" in done.stderr
