"""Two processes never run jobs under one executor id: the second would take over what the first is at."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from crypto.errors import BadInput
from gateway.config import Settings
from gateway.executor_lock import ExecutorLock
from gateway.server import ProcessRole, Server
from tests.gateway_site import gateway_site
from tests.postgres_server import postgres_server, postgres_url  # noqa: F401 (fixtures)

REPOSITORY = Path(__file__).resolve().parents[1]
_HOLDER = (
    "import sys, time; from pathlib import Path; from gateway.executor_lock import ExecutorLock\n"
    "lock = ExecutorLock(Path(sys.argv[1]), sys.argv[2], 'one'); print('held', flush=True); time.sleep(60)"
)


def _hold_and_be_killed(data: Path, url: str) -> None:
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER, str(data), url], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(BadInput, match=r"jobs\.executor_id 'one' is in use"):
            ExecutorLock(data, url, "one", patience_seconds=0.0)
        ExecutorLock(data, url, "another/one", patience_seconds=0.0).release()
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait(10)
        lock = ExecutorLock(data, url, "one")
        lock.release()
        lock.release()
        ExecutorLock(data, url, "one", patience_seconds=0.0).release()
    finally:
        holder.kill()
        holder.wait(10)
        assert holder.stdout is not None
        holder.stdout.close()


def test_id_is_held_until_its_process_ends(tmp_path: Path) -> None:
    _hold_and_be_killed(tmp_path, "sqlite:///jobs.sqlite3")
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


@pytest.mark.interop
def test_id_is_held_on_postgresql(tmp_path: Path, postgres_url: str) -> None:  # noqa: F811
    _hold_and_be_killed(tmp_path, postgres_url)
    assert not list(tmp_path.iterdir())


def test_second_worker_with_the_default_id_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.executor_lock.PATIENCE_SECONDS", 0.0)
    with gateway_site(tmp_path / "site", has_study=False) as site:
        lock = ExecutorLock(site.app.data, "sqlite:///", Settings().jobs.executor_id)
        with pytest.raises(BadInput, match=r"jobs\.executor_id 'readgate-1' is in use"):
            Server(site.app, ProcessRole.WORKER).start()
        lock.release()
