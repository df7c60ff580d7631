"""Every message gets an answer that says whether to send it again, and none ends the listener."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from crypto.errors import TemporarilyUnable
from gateway import order_listener
from gateway.config import OrdersSettings
from gateway.order_listener import OrderListener, answer_order
from reporting.mllp import frame, unframe
from reporting.oru import parse_ack
from tests.gateway_site import GatewaySite, gateway_site

ORDER = (
    b"MSH|^~\\&|RIS|H|RG|RG|20260101||ORM^O01|1|P|2.5.1\rPID|||123^^^A^MR||Doe^Jane||19700101|F\rORC|NW|P1\r"
    b"OBR|1|P1|F1|CT^CT head|||||||||||||||ACC9\r"
)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "site", has_study=False) as made:
        yield made


@pytest.mark.parametrize("error", [TemporarilyUnable("somebody else wrote the same row"), ValueError("Doe^Jane")], ids=["busy", "foreign"])
def test_order_that_cannot_be_filed_now_is_to_be_sent_again(
    site: GatewaySite, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(order_listener, "file_order", fail)
        assert parse_ack(answer_order(site.app, "h1", ORDER)).code == "AR"
    assert "Doe^Jane" not in "".join(capsys.readouterr())
    assert parse_ack(answer_order(site.app, "h1", ORDER)).code == "AA"


def test_message_that_cannot_be_answered_ends_its_connection_alone(site: GatewaySite, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_kwargs: object) -> bytes:
        raise UnicodeError("Doe^Jane")

    listener = OrderListener(site.app, OrdersSettings(hospital_id="h1", host="127.0.0.1", port=0))
    listener.start()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(order_listener, "answer_order", fail)
            assert _exchange(listener.address) is None
        answer = _exchange(listener.address)
        assert answer is not None and parse_ack(answer).code == "AA"
    finally:
        listener.stop()


def _exchange(address: tuple[str, int]) -> bytes | None:
    """The answer, or None where the connection was closed without one."""
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(frame(ORDER))
        received = b""
        while chunk := connection.recv(4096):
            received += chunk
            message, received = unframe(received)
            if message is not None:
                return message
    return None
