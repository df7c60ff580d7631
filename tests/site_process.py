"""A whole site (receiver, worker, pages, and the hospitals it delivers to) as a process of its own, to be looked at or killed from outside.

As a program, `python -m tests.site_process DIR OPTIONS`: runs the site in DIR until SIGTERM; the first line on stdout are its addresses.
Everything is logged at DEBUG by everybody, third parties too: what may never be logged has every chance to be.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_REPOSITORY = Path(__file__).resolve().parents[1]
_START_SECONDS = 240.0
_STOP_SECONDS = 60.0


class SiteProcess:
    """One run of the site in `folder`, in a process group of its own; what it printed is in `log`."""

    def __init__(
        self,
        folder: Path,
        log: Path,
        *,
        plaintext_port: int | None = None,
        quiet_seconds: float = 1.0,
        temporary: Path | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """`settings` are sections of the configuration beside those that `_run` gives."""
        self._folder, self._log, self._temporary = folder, log, temporary
        self._options = {"plaintext_port": plaintext_port, "quiet_seconds": quiet_seconds, "settings": dict(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self.addresses: dict[str, Any] = {}

    def start(self) -> None:
        """The process was started; `wait_ready` says when the site is up."""
        self.addresses = {}
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        if self._temporary is not None:
            self._temporary.mkdir(exist_ok=True)
            environment |= {"TMPDIR": str(self._temporary)}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.site_process", str(self._folder), json.dumps(self._options)],
                cwd=_REPOSITORY,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    def wait_ready(self, seconds: float = _START_SECONDS) -> None:
        process = self._running()
        assert process.stdout is not None
        if self.addresses:
            return
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if select.select([process.stdout], [], [], 0.2)[0]:
                line = process.stdout.readline()
                assert line, f"the site ended at its start with {process.wait(10)}; see {self._log}"
                self.addresses = json.loads(line)
                return
        raise AssertionError(f"the site was not up after {seconds} s; see {self._log}")

    def kill(self) -> None:
        """kill -9 of the whole process group: the site and the children it made."""
        process = self._running()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        self._close()

    def stop(self) -> int:
        """SIGTERM, as a service manager sends it; the exit code."""
        process = self._running()
        process.terminate()
        try:
            code = process.wait(_STOP_SECONDS)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)
            self._close()
        return code

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "started"
        return self._process

    def _close(self) -> None:
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()


def run_site(folder: Path, options: dict[str, Any], tell: Callable[[dict[str, Any]], object]) -> None:
    """The site in `folder` until SIGTERM; `tell` is given its addresses. With a `role` it is one process of a site that was made before."""
    # Imported here: who only starts the process needs none of it.
    from gateway.application import open_application
    from gateway.config import Settings
    from gateway.demo_hospital import DemoHospital
    from gateway.demo_site import HospitalPorts, populate
    from gateway.server import ProcessRole, Server

    role = ProcessRole(options.get("role", ProcessRole.ALL))
    if "role" not in options:
        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
        # Every statement with its parameters.
        logging.getLogger("sqlalchemy.engine").setLevel(logging.INFO)
    _log_to_stderr()
    is_new = not folder.exists()
    folder.mkdir(exist_ok=True)
    settings = Settings.model_validate(
        {
            "dicom": {"plaintext_port": options["plaintext_port"], "tls_port": 0, "free_bytes_floor": 1, "drain_seconds": 5.0},
            "http": {"port": 0},
            "law": {"demo_confirmations": True},
            "orders": [{"port": 0, "hospital_id": "h1"}],
            "jobs": {"poll_seconds": 0.2},
            **options.get("settings", {}),
        }
    )
    app = open_application(folder, settings=settings)
    if is_new:
        app.certificates.enrol_authority("Readgate test authority")
        app.certificates.enrol_server(["localhost"], ["127.0.0.1"])
    hospitals = {}
    if "role" not in options:
        hospitals = {hospital_id: DemoHospital(hospital_id, folder / "received" / hospital_id) for hospital_id in ("h1", "h2")}
        for hospital in hospitals.values():
            hospital.start()
        ports = HospitalPorts(
            {key: one.dicom_port for key, one in hospitals.items()}, {key: one.mllp_port for key, one in hospitals.items()}
        )
        populate(app, ports, quiet_seconds=options["quiet_seconds"])
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    server = Server(app, role)
    server.start()
    tell({"dicom": server.dicom_addresses, "http": server.http_address, "orders": server.orders[0].address if server.orders else None})
    stopped.wait()
    server.stop()
    app.close()
    for hospital in hospitals.values():
        hospital.stop()


def _log_to_stderr() -> None:
    import structlog

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))


if __name__ == "__main__":
    run_site(Path(sys.argv[1]), json.loads(sys.argv[2]), lambda addresses: print(json.dumps(addresses), flush=True))
