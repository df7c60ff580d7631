"""Sites that start within a fraction of a second: a process with everything imported forks them, each a process group of its own.

To a site it makes no difference: a fork that was killed leaves what any process leaves, and the next one opens the data folder anew.
As a program, `python -m tests.site_nursery`: forks one site for each line of options on stdin and answers with its process id.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

_REPOSITORY = Path(__file__).resolve().parents[1]
#: Hundreds of segments are read again at a start amid the kills, on a machine that does other things too.
_START_SECONDS = 300.0


class SiteFork:
    """One run of a site; what it printed is in the nursery's log."""

    def __init__(self, process_id: int, ready: Path) -> None:
        self._process_id, self._ready = process_id, ready

    @property
    def is_running(self) -> bool:
        try:
            os.kill(self._process_id, 0)
        except ProcessLookupError:
            return False
        return True

    def wait_ready(self, seconds: float = _START_SECONDS) -> None:
        until = time.monotonic() + seconds
        while not self._ready.exists():
            assert self.is_running, "the site ended at its start"
            assert time.monotonic() < until, f"the site was not up after {seconds} s"
            time.sleep(0.005)

    def kill(self) -> None:
        """kill -9 of the process and the children it made."""
        os.killpg(self._process_id, signal.SIGKILL)
        until = time.monotonic() + 10
        while self.is_running:
            assert time.monotonic() < until, "a killed process is still there"
            time.sleep(0.002)
        self._ready.unlink(missing_ok=True)


class SiteNursery:
    """Forks sites over `folder` until `close`."""

    def __init__(self, folder: Path, log: Path) -> None:
        self._folder, self._count = folder, 0
        # A process may fork as long as it has one thread; some libraries make theirs at import.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.site_nursery"],
                cwd=_REPOSITORY,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
            )

    def start(self, options: dict[str, Any]) -> SiteFork:
        """The site was started, with the options of tests/site_process.py; `wait_ready` says when it is up."""
        self._count += 1
        ready = self._folder.with_name(f"ready-{self._count}")
        line = json.dumps({"folder": str(self._folder), "ready": str(ready), "options": options})
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the nursery ended"
        return SiteFork(int(answer), ready)

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        finally:
            self._process.kill()
            self._process.wait(20)
            self._process.stdout.close()


def _serve() -> None:
    import gateway.http_app
    import gateway.server
    import tests.site_process

    assert gateway.http_app and gateway.server and tests.site_process, "imported once, for every fork"
    assert threading.active_count() == 1 and len(os.listdir("/proc/self/task")) == 1, "a process with threads cannot fork"
    # Nobody waits for the sites.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    nursery = os.getpid()
    for line in sys.stdin.buffer:
        process_id = os.fork()
        if process_id == 0:
            _become_site(json.loads(line), nursery)
        sys.stdout.write(f"{process_id}\n")
        sys.stdout.flush()


def _become_site(order: dict[str, Any], nursery: int) -> None:
    """Does not return."""
    from tests.site_process import run_site

    code = 1
    try:
        os.setsid()
        # PR_SET_PDEATHSIG: a nursery that is gone, as after a test run that was killed, leaves no site behind.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        assert os.getppid() == nursery, "the nursery was gone before"
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        ready = Path(order["ready"])
        run_site(Path(order["folder"]), order["options"], lambda addresses: ready.write_text(json.dumps(addresses)))
        code = 0
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
