"""Receivers restarted one by one under load: nobody's instance is cut, nothing acknowledged is lost, and who calls finds another one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlmodel import select

from compliance.crosswalk import lookup_secret
from crypto.canonical import keyed_digest
from crypto.spool import FramePosition
from gateway.application import open_application
from gateway.config import load_settings
from gateway.fsck import Fsck
from gateway.intake import read_spooled_payload
from gateway.received import ReceivedInstance
from tests.builders import make_ct_study, payload_of
from tests.kill_sender import Lost, _associate, _message, _read_pdu, _status
from tests.test_serving import REPOSITORY, Serving

pytestmark = pytest.mark.slow
_ASSOCIATIONS = 4
_INSTANCES = 12
#: Shorter than the quiet time after which a draining association is ended.
_PAUSE_SECONDS = 0.08


@dataclass
class Sender(threading.Thread):
    """Study after study, each over an association of its own, until told to stop."""

    number: int
    port: int
    stop: threading.Event
    acknowledged: list[tuple[str, str]] = field(default_factory=list)
    #: An association that had been accepted was gone before the answer to an instance.
    cut: int = 0
    #: A call that met no listener, or one that was just closing; made again at once.
    called_again: int = 0
    associations: int = 0

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    def __hash__(self) -> int:
        return self.number

    def run(self) -> None:
        study = 0
        while not self.stop.is_set():
            study += 1
            self._send(study)

    def _send(self, study: int) -> None:
        connection = self._called()
        for dataset in make_ct_study(_INSTANCES, 48, 48, number=1000 * self.number + study, seed=study):
            payload = payload_of(dataset)
            try:
                connection.sendall(_message(dataset.SOPInstanceUID, payload))
                status = _status(_read_pdu(connection))
            except (OSError, Lost):
                self.cut += 1
                connection.close()
                return
            assert status == 0x0000
            self.acknowledged.append((dataset.SOPInstanceUID, hashlib.sha256(payload).hexdigest()))
            time.sleep(_PAUSE_SECONDS)
        connection.sendall(b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00")
        with contextlib.suppress(OSError, Lost):
            _read_pdu(connection)
        connection.close()

    def _called(self) -> socket.socket:
        for _ in range(600):
            try:
                connection = _associate(self.port)
            except (OSError, Lost):
                self.called_again += 1
                time.sleep(0.02)
                continue
            self.associations += 1
            return connection
        raise AssertionError("nobody takes the call")


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    site = Serving(tmp_path, "receiver")
    for words in (["add", "h1", "--name", "A hospital", "--jurisdiction", "IE"], ["sender", "h1", "H1_PACS", "--plaintext"]):
        subprocess.run(
            [sys.executable, "-m", "gateway.cli", "site", *words, "--data", str(tmp_path)], cwd=REPOSITORY, check=True, capture_output=True
        )
    yield site
    if site.process.poll() is None:
        site.process.terminate()
        site.process.wait(60)
    site._reading.join(60)
    assert site.process.stderr is not None
    site.process.stderr.close()


def test_receivers_are_restarted_one_by_one_under_load(serving: Serving, tmp_path: Path) -> None:
    serving.wait_for("receiver_listening", 4)
    before = [line["process_id"] for line in serving.said("receiver_started")]
    stop = threading.Event()
    senders = [Sender(number + 1, serving.port, stop) for number in range(_ASSOCIATIONS)]
    for sender in senders:
        sender.start()
    time.sleep(1.0)
    os.kill(serving.process.pid, signal.SIGUSR2)
    serving.wait_for("receiver_replaced", 2)
    done = sum(sender.associations for sender in senders)
    until = time.monotonic() + 30
    while sum(sender.associations for sender in senders) < done + _ASSOCIATIONS and time.monotonic() < until:
        time.sleep(0.05)
    stop.set()
    for sender in senders:
        sender.join(60)
        assert not sender.is_alive()
    after = [line["process_id"] for line in serving.said("receiver_started")][2:]
    assert len(after) == 2 and not {*before} & {*after}
    assert [line["receiver"] for line in serving.said("receiver_draining")] == [0, 1]
    assert [line["receiver"] for line in serving.said("receiver_replaced")] == [0, 1]
    assert not serving.said("receiver_restarted") and not serving.said("receiver_killed"), "a planned end is no death"
    order = [line["event"] for line in serving.lines if line["event"] in ("receiver_draining", "receiver_replaced")]
    assert order == ["receiver_draining", "receiver_replaced"] * 2, "the second drains only when the first one's successor listens"
    assert [sender.cut for sender in senders] == [0] * _ASSOCIATIONS
    assert all(line["cut"] == 0 for line in serving.said("receiver_stopped"))
    serving.process.terminate()
    assert serving.process.wait(60) == 0
    _check(tmp_path, [one for sender in senders for one in sender.acknowledged])


def _check(data: Path, acknowledged: list[tuple[str, str]]) -> None:
    assert len(acknowledged) > _ASSOCIATIONS * _INSTANCES
    app = open_application(data, settings=load_settings(data))
    try:
        key = lookup_secret(app.keys, "h1")
        with app.database.reading() as session:
            rows = {row.instance_lookup: row for row in session.exec(select(ReceivedInstance)).all()}
        for sop_instance_uid, digest in acknowledged:
            row = rows[keyed_digest(key, "instance", sop_instance_uid)]
            payload = read_spooled_payload(app.spool, FramePosition(row.segment_id, row.frame_offset, row.frame_length))
            assert hashlib.sha256(payload).hexdigest() == digest
        assert Fsck(app, is_alone=True).run(deep=True).findings == []
    finally:
        app.close()


def test_successor_that_does_not_come_up_leaves_the_others_alone(serving: Serving, tmp_path: Path) -> None:
    serving.wait_for("receiver_listening", 4)
    config = tmp_path / "readgate.toml"
    good = config.read_text()
    config.write_text(good + "no_such_setting = 1\n")
    os.kill(serving.process.pid, signal.SIGUSR2)
    assert serving.wait_for("rolling_restart_given_up", 1)[0]["receiver"] == 0
    assert len(serving.wait_for("receiver_draining", 1)) == 1
    assert serving.is_answered() and serving.process.poll() is None
    config.write_text(good)
    os.kill(serving.process.pid, signal.SIGUSR2)
    serving.wait_for("receiver_replaced", 2)
    assert serving.is_answered()
