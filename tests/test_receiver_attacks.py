"""Peers that want the listener dead: lengths without bounds, dribbled bytes, associations dropped at every point, descriptors used up."""

from __future__ import annotations

import random
import struct
import threading
import time
from collections.abc import Callable

import pytest

from tests.dicom_peers import (
    ABORT,
    BOTH_CONTEXTS,
    C_ECHO_RQ,
    RELEASE_RQ,
    RawPeer,
    associate_rq,
    c_store_rq,
    pdu,
    pdv,
    wait_until,
)
from tests.receiver_process import ReceiverProcess, receiver_process

MEBIBYTE = 1024 * 1024
ZEROS = bytes(256 * 1024)


def lengths() -> list[int]:
    """1,000 lengths: every power of two and its neighbours, and the rest between them at random."""
    edges = {value for power in range(33) for value in (2**power - 1, 2**power, 2**power + 1) if value < 2**32}
    drawn = random.Random(7)
    while len(edges) < 1000:
        edges.add(drawn.getrandbits(drawn.randint(1, 32)))
    return sorted(edges)


@pytest.mark.parametrize("is_associated", [False, True])
def test_no_length_makes_the_listener_grow(is_associated: bool) -> None:
    with receiver_process() as receiver:
        for _ in range(20):
            _send_length(receiver, 70_000, is_associated)
        before = receiver.resident_bytes("VmHWM")
        for length in lengths():
            _send_length(receiver, length, is_associated)
        assert receiver.resident_bytes("VmHWM") - before <= 2 * MEBIBYTE
        with RawPeer(receiver.address) as peer:
            peer.associate()
            assert peer.echo() < 5


def _send_length(receiver: ReceiverProcess, length: int, is_associated: bool) -> None:
    with RawPeer(receiver.address) as peer:
        if is_associated:
            peer.associate()
        try:
            peer.send(struct.pack(">BBI", 4 if is_associated else 1, 0, length) + ZEROS[: min(length, 20_000)])
            if length > 131_072 or (length > 65_536 and not is_associated):
                assert peer.read_pdu() in ((7, bytes((0, 0, 2, 6))), None)
        except ConnectionError:
            pass  # refused while we were still sending


def _trickle_under(attackers: int) -> None:
    with receiver_process() as receiver:
        stop = threading.Event()
        attack = threading.Thread(target=_trickle, args=(receiver, attackers, stop))
        attack.start()
        try:
            time.sleep(1)
            times = []
            for _ in range(100):
                began = time.perf_counter()
                with RawPeer(receiver.address) as peer:
                    peer.associate()
                    peer.echo()
                times.append(time.perf_counter() - began)
        finally:
            stop.set()
            attack.join()
        assert sorted(times)[98] < 1.0
        assert receiver.threads() < 200


def _trickle(receiver: ReceiverProcess, attackers: int, stop: threading.Event) -> None:
    """Connections from one address, a byte of a request each now and then; whoever is thrown out comes back."""
    request = associate_rq(BOTH_CONTEXTS)
    peers: list[tuple[RawPeer, int]] = []
    while not stop.is_set():
        while len(peers) < attackers:
            try:
                peers.append((RawPeer(receiver.address, source="127.0.0.9"), 0))
            except OSError:
                break
        going_on = []
        for peer, sent in peers:
            try:
                peer.send(request[sent : sent + 1])
                going_on.append((peer, (sent + 1) % 100))
            except OSError:
                peer.socket.close()
        peers = going_on
        stop.wait(0.05)
    for peer, _ in peers:
        peer.socket.close()


def test_fifty_tricklers_do_not_delay_an_echo() -> None:
    _trickle_under(50)


@pytest.mark.slow
def test_five_hundred_tricklers_do_not_delay_an_echo() -> None:
    _trickle_under(500)


def _associated(then: Callable[[RawPeer], None]) -> Callable[[RawPeer], None]:
    def act(peer: RawPeer) -> None:
        peer.associate()
        then(peer)

    return act


#: Where an association is dropped; the peer then aborts, hangs up or resets.
POINTS: dict[str, Callable[[RawPeer], None]] = {
    "connected": lambda peer: None,
    "half a PDU header": lambda peer: peer.send(b"\1\0\0"),
    "half a request": lambda peer: peer.send(associate_rq(BOTH_CONTEXTS)[:100]),
    "request sent": lambda peer: peer.send(associate_rq(BOTH_CONTEXTS)),
    "refused": lambda peer: peer.send(associate_rq(BOTH_CONTEXTS, called="OTHER")),
    "associated": _associated(lambda peer: None),
    "half a command": _associated(lambda peer: peer.send(pdu(4, pdv(3, 1, c_store_rq("1.2.3")[:20])))),
    "command sent": _associated(lambda peer: peer.send_command(3, c_store_rq("1.2.3"))),
    "half a data set": _associated(lambda peer: peer.send(pdu(4, pdv(3, 3, c_store_rq("1.2.3"))) + pdu(4, pdv(3, 0, ZEROS[:50_000])))),
    "half a data PDU": _associated(lambda peer: peer.send(pdu(4, pdv(3, 3, c_store_rq("1.2.3"))) + pdu(4, pdv(3, 0, ZEROS[:9]))[:-5])),
    "answer not read": _associated(lambda peer: peer.send(pdu(4, pdv(1, 3, C_ECHO_RQ)))),
    "release not answered": _associated(lambda peer: peer.send(RELEASE_RQ)),
}


def _drop(receiver: ReceiverProcess, number: int) -> None:
    act = list(POINTS.values())[number % len(POINTS)]
    with RawPeer(receiver.address) as peer:
        act(peer)
        if number // len(POINTS) % 3 == 0:
            peer.send(ABORT)
        elif number // len(POINTS) % 3 == 1:
            peer.socket.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER 0: a reset instead of a goodbye


def _drop_many(count: int, growth_bytes_max: int = 2 * MEBIBYTE) -> None:
    with receiver_process() as receiver:
        for number in range(360):
            _drop(receiver, number)
        assert wait_until(lambda: receiver.threads() <= 3, 20)
        resident, descriptors, threads = receiver.resident_bytes(), receiver.descriptors(), receiver.threads()
        for number in range(count):
            _drop(receiver, number)
        assert wait_until(lambda: receiver.threads() <= threads, 20)
        assert receiver.descriptors() == descriptors
        assert receiver.resident_bytes() - resident <= growth_bytes_max


def test_a_thousand_dropped_associations_leave_nothing_behind() -> None:
    _drop_many(1000)


@pytest.mark.slow
def test_ten_thousand_dropped_associations_leave_nothing_behind() -> None:
    _drop_many(10_000)


@pytest.mark.torture
def test_hundred_thousand_dropped_associations_leave_nothing_behind() -> None:
    # The allocator's pools fill up to about 8 MiB and stay there; one object kept for each association would be 30 MiB and more.
    _drop_many(100_000, 12 * MEBIBYTE)


def test_running_out_of_descriptors_is_survived() -> None:
    with receiver_process(descriptors=40) as receiver:
        peers = [RawPeer(receiver.address, source="127.0.0.9") for _ in range(120)]
        time.sleep(0.5)
        for peer in peers:
            peer.socket.close()
        with RawPeer(receiver.address) as peer:
            peer.associate()
            assert peer.echo() < 5


def test_idle_associations_are_small() -> None:
    with receiver_process() as receiver, RawPeer(receiver.address) as warm:
        warm.associate()
        warm.send_command(3, c_store_rq("1.2.3"))
        warm.send_dataset(3, bytes(4 * MEBIBYTE), 100_000)
        assert warm.read_status() == 0
        before = receiver.resident_bytes()
        peers = [RawPeer(receiver.address) for _ in range(40)]
        for peer in peers:
            peer.associate()
            peer.send_command(3, c_store_rq("1.2.3"))
            peer.send_dataset(3, bytes(4 * MEBIBYTE), 100_000)
            assert peer.read_status() == 0
        assert wait_until(lambda: receiver.resident_bytes() - before < 40 * MEBIBYTE / 2)
        for peer in peers:
            peer.socket.close()


@pytest.mark.slow
def test_eight_large_senders_stay_under_three_hundred_megabytes() -> None:
    with receiver_process() as receiver:
        threads = [threading.Thread(target=_send_large, args=(receiver,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert receiver.resident_bytes("VmHWM") <= 300_000_000


def _send_large(receiver: ReceiverProcess) -> None:
    fragment = pdu(4, pdv(3, 0, bytes(100_000)))
    with RawPeer(receiver.address, timeout_seconds=60) as peer:
        peer.associate()
        for number in range(2):
            peer.send_command(3, c_store_rq(f"1.2.{number}"))
            for _ in range(1000):
                peer.send(fragment)
            peer.send(pdu(4, pdv(3, 2, b"end!")))
            assert peer.read_status() == 0
