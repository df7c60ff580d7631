"""The parent of several receivers, with children that misbehave: that start slowly, never listen, or do not come up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway import serving
from gateway.config import Settings
from gateway.serve_signals import ServeSignals
from gateway.serving import _Receivers

_LISTENS = "import os, sys, time; os.write(int(sys.argv[1]), b'1'); time.sleep(60)"
_HANGS = "import time; time.sleep(60)"
_FAILS = "raise SystemExit(2)"
_SLOW = "import os, sys, time; time.sleep(1); " + _LISTENS
#: As `serve`: asks for its handlers once it has come that far, and says what came before.
_SLOW_SERVE = (
    "import os, signal, sys, time; time.sleep(1)\n"
    "from gateway.serve_signals import ServeSignals\n"
    "signals = ServeSignals()\n"
    "os.write(int(sys.argv[1]), b'1' if signals.took(signal.SIGHUP) else b'0'); time.sleep(60)"
)


class Children:
    """What stands for the program of a receiver."""

    def __init__(self) -> None:
        self.code = _LISTENS
        self._real = subprocess.Popen

    def __call__(self, _command: list[str], *, pass_fds: tuple[int]) -> subprocess.Popen[bytes]:
        return self._real([sys.executable, "-c", self.code, str(pass_fds[0])], pass_fds=pass_fds, cwd=Path(__file__).resolve().parents[1])


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Children:
    made = Children()
    monkeypatch.setattr(serving.subprocess, "Popen", made)
    monkeypatch.setattr(serving, "_STOP_SECONDS", 1.0)
    return made


@pytest.fixture
def receivers(children: Children, tmp_path: Path) -> Iterator[_Receivers]:
    dicom = {"receivers": 2, "tls_port": 0, "plaintext_port": None, "drain_seconds": 0.1}
    made = _Receivers(tmp_path, Settings.model_validate({"dicom": dicom}))
    made.start()
    yield made
    made.stop()


def _look_until(receivers: _Receivers, is_so: Callable[[], bool], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until
        assert receivers.look() is None
        time.sleep(0.02)


def _process_ids(receivers: _Receivers) -> dict[int, int]:
    return {number: process.pid for number, process in receivers._running.items() if process.poll() is None}


@pytest.mark.parametrize("code", [_SLOW, _SLOW_SERVE])
def test_law_that_is_read_again_ends_no_receiver_that_is_just_starting(receivers: _Receivers, children: Children, code: str) -> None:
    before, children.code = _process_ids(receivers), code
    receivers.restart_one_by_one()
    _look_until(receivers, lambda: receivers._turn == 0 and 0 in receivers._ready)
    receivers.pass_on(signal.SIGHUP)
    _look_until(receivers, lambda: receivers._turn != 0)
    after = _process_ids(receivers)
    assert after[0] != before[0] and not receivers._given_up


def test_successor_that_never_listens_is_ended_and_tried_again(
    receivers: _Receivers, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_LISTEN_SECONDS", 0.5)
    monkeypatch.setattr(serving, "_RETRY_SECONDS", 0.5)
    before, children.code = _process_ids(receivers), _HANGS
    receivers.restart_one_by_one()
    _look_until(receivers, lambda: 0 in receivers._given_up)
    assert receivers._turn is None and not receivers._waiting and _process_ids(receivers) == {1: before[1]}
    # Again, and again in vain; the other one serves on.
    _look_until(receivers, lambda: 0 in receivers._running)
    _look_until(receivers, lambda: 0 not in receivers._running)
    monkeypatch.setattr(serving, "_LISTEN_SECONDS", 20.0)
    children.code = _LISTENS
    _look_until(receivers, lambda: not receivers._given_up)
    after = _process_ids(receivers)
    assert after[1] == before[1] and after.keys() == {0, 1}


def test_successor_with_a_wrong_configuration_takes_nobody_down_and_comes_back(
    receivers: _Receivers, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Receiver 0 holds the port for orders: without it none comes, however many others there are."""
    monkeypatch.setattr(serving, "_RETRY_SECONDS", 0.2)
    before, children.code = _process_ids(receivers), _FAILS
    receivers.restart_one_by_one()
    for _ in range(3):
        _look_until(receivers, lambda: 0 in receivers._given_up and 0 in receivers._running)
        _look_until(receivers, lambda: 0 in receivers._given_up and 0 not in receivers._running)
    assert _process_ids(receivers) == {1: before[1]}
    children.code = _LISTENS
    _look_until(receivers, lambda: not receivers._given_up)
    # From here on it is one as the others: its death is noticed.
    receivers._running[0].kill()
    _look_until(receivers, lambda: len(receivers._deaths) == 1 and len(_process_ids(receivers)) == 2)


def test_a_death_under_a_configuration_that_is_wrong_by_now_leaves_the_others_alone(
    receivers: _Receivers, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_RETRY_SECONDS", 0.2)
    before, children.code = _process_ids(receivers), _FAILS
    os.kill(before[0], signal.SIGKILL)
    _look_until(receivers, lambda: 0 in receivers._given_up)
    assert _process_ids(receivers) == {1: before[1]}
    children.code = _LISTENS
    _look_until(receivers, lambda: not receivers._given_up)
    assert _process_ids(receivers).keys() == {0, 1}


def test_configuration_that_no_receiver_takes_ends_them_all(receivers: _Receivers, children: Children) -> None:
    before, children.code = _process_ids(receivers), _FAILS
    for process_id in before.values():
        os.kill(process_id, signal.SIGKILL)
    until, code = time.monotonic() + 20, None
    while code is None and time.monotonic() < until:
        code = receivers.look()
        time.sleep(0.02)
    assert code == 2


def test_receiver_that_waits_to_be_tried_again_has_its_turn_when_asked(receivers: _Receivers, children: Children) -> None:
    before, children.code = _process_ids(receivers), _FAILS
    receivers.restart_one_by_one()
    _look_until(receivers, lambda: 0 in receivers._given_up)
    children.code = _LISTENS
    receivers.restart_one_by_one()
    _look_until(receivers, lambda: receivers._turn is None and not receivers._waiting)
    after = _process_ids(receivers)
    assert after.keys() == {0, 1} and not {*before.values()} & {*after.values()} and not receivers._given_up


@pytest.fixture
def handlers() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
    before: dict[int, Any] = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_signals_are_remembered_once_each() -> None:
    signals = ServeSignals()
    for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGUSR2):
        os.kill(os.getpid(), number)
    assert [signals.took(number) for number in (signal.SIGHUP, signal.SIGUSR2, signal.SIGHUP, signal.SIGUSR2)] == [True, True, False, False]
    assert not signals.stopping.is_set()
    os.kill(os.getpid(), signal.SIGTERM)
    assert signals.stopping.is_set()


@pytest.mark.slow
@pytest.mark.parametrize("role", ["worker", "web"])
def test_rolling_restart_of_what_has_no_receivers_ends_nothing(tmp_path: Path, role: str) -> None:
    from tests.test_serving import Serving

    site = Serving(tmp_path, role)
    try:
        site.wait_for("server_started", 1)
        site.process.send_signal(signal.SIGUSR2)
        site.wait_for("rolling_restart_not_possible", 1)
        assert site.process.poll() is None
        site.process.terminate()
        assert site.process.wait(60) == 0
    finally:
        site.process.kill()
        site.process.wait(10)
        site._reading.join(60)
        assert site.process.stderr is not None
        site.process.stderr.close()
