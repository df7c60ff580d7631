"""Deadlines, limits and the drain of the listener."""

from __future__ import annotations

import threading
import time

import pytest
from structlog.testing import capture_logs

from gateway.association_limits import AssociationLimits
from gateway.intake_port import SessionEnd
from gateway.receiver import Endpoint, Receiver, ReceiverLimits
from tests.dicom_peers import (
    BOTH_CONTEXTS,
    C_ECHO_RQ,
    RawPeer,
    RecordingPort,
    associate_rq,
    c_store_rq,
    pdu,
    pdv,
    running_receiver,
    wait_until,
)


def test_idle_association_is_ended() -> None:
    port = RecordingPort()
    limits = ReceiverLimits(association=AssociationLimits(idle_seconds_max=0.6))
    with running_receiver(port, limits=limits) as receiver, RawPeer(receiver.addresses[0]) as peer:
        peer.associate()
        time.sleep(0.4)
        assert peer.echo() < 5
        began = time.monotonic()
        assert peer.read_pdu() == (7, bytes(4))
        assert 0.4 < time.monotonic() - began < 3


@pytest.mark.parametrize("point", ["nothing", "request", "command", "dataset"])
def test_no_byte_extends_a_deadline(point: str) -> None:
    limits = ReceiverLimits(association=AssociationLimits(acse_seconds_max=0.8, pdu_seconds_max=0.8))
    trickle = {
        "nothing": b"",
        "request": associate_rq(BOTH_CONTEXTS),
        "command": pdu(4, pdv(1, 3, C_ECHO_RQ)),
        "dataset": pdu(4, pdv(3, 2, bytes(1000))),
    }[point]
    with capture_logs() as logs, running_receiver(RecordingPort(), limits=limits) as receiver, RawPeer(receiver.addresses[0]) as peer:
        if point in ("command", "dataset"):
            peer.associate()
        if point == "dataset":
            peer.send_command(3, c_store_rq("1.2.3"))
        began = time.monotonic()
        with pytest.raises(ConnectionError):
            for byte in trickle:
                peer.send(bytes((byte,)))
                time.sleep(0.05)
            assert peer.is_closed()
            raise ConnectionError
        assert time.monotonic() - began < 2.5
    assert any(each["event"] == "deadline_passed" for each in logs)


def test_connections_without_association_displace_the_oldest_of_the_greediest() -> None:
    limits = ReceiverLimits(unassociated_max=8)
    with running_receiver(RecordingPort(), limits=limits) as receiver:
        quiet = RawPeer(receiver.addresses[0], source="127.0.0.7")
        greedy = [RawPeer(receiver.addresses[0], source="127.0.0.8") for _ in range(20)]
        assert wait_until(lambda: receiver.connections <= 9)
        quiet.send(associate_rq(BOTH_CONTEXTS))
        answer = quiet.read_pdu()
        assert answer is not None and answer[0] == 2
        greedy[0].socket.settimeout(2)
        assert greedy[0].is_closed()
        for each in (quiet, *greedy):
            each.socket.close()


def test_limits_by_address_hospital_and_total_are_answered_as_transient() -> None:
    limits = ReceiverLimits(associations_max=4, connections_per_address_max=2, associations_per_hospital_max=2)
    with running_receiver(RecordingPort(), limits=limits) as receiver:
        address = receiver.addresses[0]
        held = [RawPeer(address, source="127.0.0.2"), RawPeer(address, source="127.0.0.2")]
        held[0].associate(calling="A")
        held[1].associate(calling="B")

        def refused(source: str, calling: str) -> bool:
            with RawPeer(address, source=source) as peer:
                peer.send(associate_rq(BOTH_CONTEXTS, calling=calling))
                return peer.read_pdu() == (3, bytes((0, 2, 3, 2)))

        assert refused("127.0.0.2", "C")
        held.append(RawPeer(address, source="127.0.0.3"))
        held[2].associate(calling="A")
        assert refused("127.0.0.4", "A")
        held.append(RawPeer(address, source="127.0.0.4"))
        held[3].associate(calling="C")
        assert refused("127.0.0.5", "D")
        held.pop().socket.close()
        assert wait_until(lambda: receiver.connections == 3)
        with RawPeer(address, source="127.0.0.5") as peer:
            peer.associate(calling="D")
        for each in held:
            each.socket.close()


def test_stop_waits_for_the_instance_under_way_and_ends_the_idle() -> None:
    port = RecordingPort(hold=threading.Event())
    outcome = []
    receiver = Receiver(port, [Endpoint("127.0.0.1", 0)])
    receiver.start()
    with RawPeer(receiver.addresses[0]) as idle, RawPeer(receiver.addresses[0]) as busy, RawPeer(receiver.addresses[0]) as half_sent:
        for peer in (idle, busy, half_sent):
            peer.associate()
        busy.send_command(3, c_store_rq("1.2.3"))
        busy.send_dataset(3, b"payload!")
        assert port.receiving.wait(5)
        half_sent.send_command(3, c_store_rq("1.2.4"))
        half_sent.send(pdu(4, pdv(3, 0, b"first")))
        stopping = threading.Thread(target=lambda: outcome.append(receiver.stop(8)))
        stopping.start()
        assert idle.read_pdu() == (7, bytes(4))
        with pytest.raises(OSError):
            RawPeer(receiver.addresses[0], timeout_seconds=0.5).associate()
        time.sleep(0.5)
        half_sent.send(pdu(4, pdv(3, 2, b"last")))
        assert port.hold is not None
        port.hold.set()
        assert busy.read_status() == 0
        assert half_sent.read_status() == 0
        assert half_sent.read_pdu() == (7, bytes(4))
        stopping.join(10)
    assert (outcome[0].ended, outcome[0].cut) == (3, 0)
    assert sorted(data for _, data in port.instances) == [b"firstlast", b"payload!"]


def test_drain_time_over_cuts_what_is_not_over() -> None:
    port = RecordingPort()
    receiver = Receiver(port, [Endpoint("127.0.0.1", 0)])
    receiver.start()
    with RawPeer(receiver.addresses[0]) as peer:
        peer.associate()
        peer.send_command(3, c_store_rq("1.2.4"))
        peer.send(pdu(4, pdv(3, 0, b"first")))
        time.sleep(0.2)
        outcome = receiver.stop(0.5)
        assert peer.is_closed()
    assert (outcome.ended, outcome.cut) == (0, 1)
    assert port.ends == [SessionEnd.LOST]
