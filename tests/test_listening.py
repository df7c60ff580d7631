"""Sockets that several receivers accept from."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack

import pytest

from crypto.errors import BadInput
from gateway.listening import inherited_sockets, listening_socket
from gateway.receiver import Endpoint, Receiver
from tests.dicom_peers import RawPeer, RecordingPort, wait_until


def _sharing(listener: socket.socket) -> Receiver:
    receiver = Receiver(RecordingPort(), [Endpoint("127.0.0.1", 0)], listening=[listener.dup()])
    receiver.start()
    return receiver


def test_two_receivers_share_a_socket_evenly() -> None:
    with listening_socket("127.0.0.1", 0) as listener:
        receivers = [_sharing(listener), _sharing(listener)]
        try:
            # More than twenty calls in a second were a flood.
            for _ in range(2):
                with ExitStack() as stack:
                    for _ in range(8):
                        stack.enter_context(RawPeer(receivers[0].addresses[0])).associate()
                    assert {receiver.connections for receiver in receivers} <= {2, 3, 4, 5, 6}
                assert wait_until(lambda: not any(receiver.connections for receiver in receivers))
        finally:
            for receiver in receivers:
                receiver.stop(1)


def test_a_receiver_with_many_connections_leaves_the_next_to_one_with_few() -> None:
    with listening_socket("127.0.0.1", 0) as listener, ExitStack() as stack:
        address = listener.getsockname()[:2]
        before = _sharing(listener)
        stack.callback(before.stop, 1)
        for _ in range(20):
            stack.enter_context(RawPeer(address)).associate()
        # So many within a second were a flood.
        time.sleep(1.0)
        after = _sharing(listener)
        stack.callback(after.stop, 1)
        for _ in range(20):
            stack.enter_context(RawPeer(address)).associate()
        assert before.connections + after.connections == 40 and after.connections >= 12


def test_in_a_flood_nobody_is_let_first() -> None:
    with listening_socket("127.0.0.1", 0) as listener, ExitStack() as stack:
        receiver = _sharing(listener)
        stack.callback(receiver.stop, 1)
        for _ in range(20):
            stack.enter_context(RawPeer(receiver.addresses[0])).associate()
        began = time.monotonic()
        for _ in range(1000):
            socket.create_connection(receiver.addresses[0]).close()
        with RawPeer(receiver.addresses[0]) as genuine:
            genuine.associate()
        # A thousand turns of 16 ms would be sixteen seconds.
        assert time.monotonic() - began < 12


def test_who_calls_while_one_receiver_ends_waits_for_the_next() -> None:
    with listening_socket("127.0.0.1", 0) as listener:
        _sharing(listener).stop(1)
        with RawPeer(("127.0.0.1", listener.getsockname()[1])) as peer:
            successor = _sharing(listener)
            peer.associate()
            successor.stop(1)


def test_two_parents_may_hold_a_port_and_a_stranger_may_not() -> None:
    with listening_socket("127.0.0.1", 0, is_shared=True) as first:
        port = first.getsockname()[1]
        listening_socket("127.0.0.1", port, is_shared=True).close()
        with pytest.raises(BadInput, match=f"port {port} on 127.0.0.1 cannot be bound"):
            listening_socket("127.0.0.1", port)


def test_sockets_of_a_parent_are_those_of_the_configuration() -> None:
    with listening_socket("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        for addresses in ([("127.0.0.1", 0)], [("127.0.0.1", port)]):
            (same,) = inherited_sockets([listener.dup().detach()], addresses)
            assert same.getsockname() == listener.getsockname()
            same.close()
        for addresses in (
            [],
            [("127.0.0.1", port + 1)],
            [("127.0.0.1", port)] * 2,
            [("0.0.0.0", port)],
            [("::1", port)],
            [("no.such.host.", 0)],
        ):
            with pytest.raises(BadInput, match="have changed"):
                inherited_sockets([listener.dup().detach()], addresses)
    with pytest.raises(BadInput, match="for the parent"):
        inherited_sockets([10_000_000], [("127.0.0.1", port)])
