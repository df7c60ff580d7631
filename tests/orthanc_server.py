"""An Orthanc of one test: its archive in a folder of its own, on free ports of loopback, without a password."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.peers import require_peer

_START_SECONDS = 60.0


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc; `dicom` and `http` are ports."""

    ae_title: str
    dicom: int
    http: int

    def get(self, path: str) -> Any:
        return self._ask(urllib.request.Request(self._url(path)))

    def post(self, path: str, body: bytes) -> Any:
        return self._ask(urllib.request.Request(self._url(path), data=body, method="POST"))

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.http}{path}"

    def _ask(self, request: urllib.request.Request) -> Any:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())


@contextmanager
def running_orthanc(folder: Path, *, ae_title: str, modalities: Mapping[str, tuple[str, int]]) -> Iterator[Orthanc]:
    """An Orthanc that knows `modalities` (AE title, port), by name; stopped at the end. Skips the test where there is none."""
    program = require_peer("Orthanc")
    folder.mkdir(parents=True)
    orthanc = Orthanc(ae_title, _free_port(), _free_port())
    configuration = {
        "Name": ae_title,
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "HttpPort": orthanc.http,
        "DicomPort": orthanc.dicom,
        "DicomAet": ae_title,
        "DicomAlwaysAllowStore": True,
        "DicomCheckCalledAet": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomModalities": {name: [title, "127.0.0.1", port] for name, (title, port) in modalities.items()},
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(configuration))
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([program, str(path)], stdout=log, stderr=log)
    try:
        _wait(orthanc, process, folder / "orthanc.log")
        yield orthanc
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(orthanc: Orthanc, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            orthanc.get("/system")
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"Orthanc was not up after {_START_SECONDS} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
