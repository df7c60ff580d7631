"""A receiver with a port that remembers, and a peer that speaks PS3.8 byte by byte, so that it can also speak it wrongly."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from crypto.certificates import KeyAndCertificate
from gateway.dicom_tls import TlsMaterial
from gateway.intake_port import (
    CALLED_AE_TITLE_NOT_RECOGNIZED,
    CALLING_AE_TITLE_NOT_RECOGNIZED,
    AcceptedContext,
    Admission,
    CommitmentResult,
    InstanceHead,
    InstanceReference,
    LargeInstance,
    Peer,
    Refusal,
    SessionEnd,
)
from gateway.receiver import Endpoint, Receiver, ReceiverLimits

CT = "1.2.840.10008.5.1.4.1.1.2"
VERIFICATION = "1.2.840.10008.1.1"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
IMPLICIT_LE = "1.2.840.10008.1.2"


@dataclass
class RecordingPort:
    """An `IntakePort` that keeps what it is given in memory and answers as it is told."""

    status: int | Exception = 0
    stranger: str = "STRANGER"
    hold: threading.Event | None = None
    peers: list[Peer] = field(default_factory=list)
    contexts: list[Sequence[AcceptedContext]] = field(default_factory=list)
    instances: list[tuple[InstanceHead, bytes]] = field(default_factory=list)
    pieces: list[int] = field(default_factory=list)
    discarded: int = 0
    commitments: list[tuple[str, list[InstanceReference]]] = field(default_factory=list)
    commitment: Callable[[Sequence[InstanceReference]], CommitmentResult] = lambda instances: CommitmentResult(instances, [])
    undelivered: list[tuple[str, CommitmentResult]] = field(default_factory=list)
    ends: list[SessionEnd] = field(default_factory=list)
    handshakes_refused: list[tuple[str, str]] = field(default_factory=list)
    receiving: threading.Event = field(default_factory=threading.Event)

    def handshake_refused(self, address: str, reason: str) -> None:
        self.handshakes_refused.append((address, reason))

    def admit(self, peer: Peer) -> Admission | Refusal:
        self.peers.append(peer)
        if peer.called_ae_title != "READGATE":
            return CALLED_AE_TITLE_NOT_RECOGNIZED
        if peer.calling_ae_title == self.stranger:
            return CALLING_AE_TITLE_NOT_RECOGNIZED
        return Admission(f"h-{peer.calling_ae_title}")

    def open_session(self, peer: Peer, admission: Admission, contexts: Sequence[AcceptedContext]) -> object:
        self.contexts.append(contexts)
        return peer.calling_ae_title

    def receive_instance(self, session: object, head: InstanceHead, parts: Sequence[memoryview]) -> int:
        self.receiving.set()
        if self.hold is not None:
            assert self.hold.wait(20)
        self.instances.append((head, b"".join(parts)))
        return self._answer()

    def begin_large_instance(self, session: object, head: InstanceHead) -> LargeInstance:
        return _RecordingLarge(self, head)

    def commit_storage(self, session: object, transaction_uid: str, instances: Sequence[InstanceReference]) -> CommitmentResult:
        self.commitments.append((transaction_uid, list(instances)))
        return self.commitment(instances)

    def commitment_undelivered(self, session: object, transaction_uid: str, result: CommitmentResult) -> None:
        self.undelivered.append((transaction_uid, result))

    def released(self, session: object, how: SessionEnd) -> None:
        self.ends.append(how)

    def _answer(self) -> int:
        if isinstance(self.status, Exception):
            raise self.status
        return self.status


class _RecordingLarge:
    def __init__(self, port: RecordingPort, head: InstanceHead) -> None:
        self._port, self._head, self._data = port, head, bytearray()

    def append(self, parts: Sequence[memoryview]) -> None:
        for part in parts:
            self._data += part
        self._port.pieces.append(len(self._data))

    def finish(self) -> int:
        self._port.instances.append((self._head, bytes(self._data)))
        return self._port._answer()

    def discard(self) -> None:
        self._port.discarded += 1


@contextmanager
def running_receiver(
    port: RecordingPort,
    *,
    tls: ssl.SSLContext | None = None,
    limits: ReceiverLimits | None = None,
    host: str = "127.0.0.1",
    drain_seconds: float = 1.0,
) -> Iterator[Receiver]:
    """A receiver on port 0, stopped at the end; asserts that it leaves no connection."""
    receiver = Receiver(port, [Endpoint(host, 0, tls)], limits=limits)
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.stop(drain_seconds)
        assert receiver.connections == 0


def tls_material(own: KeyAndCertificate, *authorities: KeyAndCertificate) -> TlsMaterial:
    """What both contexts are built from."""
    return TlsMaterial(own.certificate_pem, own.key_pem, b"".join(each.certificate_pem for each in authorities))


# --- PS3.8, by hand ----------------------------------------------------------------------------------------------------------


def item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBI", kind, 0, len(body)) + body


def pdv(context_id: int, control: int, data: bytes) -> bytes:
    return struct.pack(">IBB", len(data) + 2, context_id, control) + data


def associate_rq(
    contexts: dict[int, tuple[str, Sequence[str]]],
    *,
    called: str = "READGATE",
    calling: str = "PACS",
    application_context: str = "1.2.840.10008.3.1.1.1",
    version: int = 1,
    user_items: bytes = b"",
) -> bytes:
    items = item(0x10, application_context.encode())
    for context_id, (sop_class, syntaxes) in contexts.items():
        inner = item(0x30, sop_class.encode()) + b"".join(item(0x40, syntax.encode()) for syntax in syntaxes)
        items += item(0x20, bytes((context_id, 0, 0, 0)) + inner)
    items += item(0x50, item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3.4.5") + user_items)
    titles = called.encode().ljust(16)[:16] + calling.encode().ljust(16)[:16]
    return pdu(1, struct.pack(">HH", version, 0) + titles + bytes(32) + items)


def command(elements: dict[int, bytes | int]) -> bytes:
    body = b""
    for number, value in sorted(elements.items()):
        encoded = value.to_bytes(2, "little") if isinstance(value, int) else value
        encoded += b"\0" * (len(encoded) % 2)
        body += struct.pack("<HHI", 0, number, len(encoded)) + encoded
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def c_store_rq(sop_instance: str, sop_class: str = CT, *, message_id: int = 1, has_dataset: bool = True) -> bytes:
    return command(
        {
            0x0002: sop_class.encode(),
            0x0100: 1,
            0x0110: message_id,
            0x0700: 0,
            0x0800: 1 if has_dataset else 0x0101,
            0x1000: sop_instance.encode(),
        }
    )


C_ECHO_RQ = command({0x0002: VERIFICATION.encode(), 0x0100: 0x30, 0x0110: 7, 0x0800: 0x0101})
RELEASE_RQ = pdu(5, bytes(4))
ABORT = pdu(7, bytes(4))
BOTH_CONTEXTS = {1: (VERIFICATION, [IMPLICIT_LE]), 3: (CT, [EXPLICIT_LE])}


class RawPeer:
    """A socket, and PDUs read from it."""

    def __init__(self, address: tuple[str, int], *, source: str | None = None, timeout_seconds: float = 10.0) -> None:
        self.socket = socket.create_connection(address, timeout_seconds, (source, 0) if source else None)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read_pdu(self) -> tuple[int, bytes] | None:
        """(type, body), None when the peer has hung up."""
        head = self._read(6)
        if head is None:
            return None
        kind, _, length = struct.unpack(">BBI", head)
        body = self._read(length)
        return None if body is None else (kind, body)

    def associate(self, contexts: dict[int, tuple[str, Sequence[str]]] | None = None, **titles: str) -> bytes:
        """Sends the request and returns the acceptance; fails the test on any other answer."""
        self.send(associate_rq(contexts or BOTH_CONTEXTS, **titles))  # type: ignore[arg-type]
        answer = self.read_pdu()
        assert answer is not None and answer[0] == 2, answer
        return answer[1]

    def send_command(self, context_id: int, encoded: bytes) -> None:
        self.send(pdu(4, pdv(context_id, 3, encoded)))

    def send_dataset(self, context_id: int, payload: bytes, fragment: int = 16000) -> None:
        pieces = range(0, max(1, len(payload)), fragment)
        self.send(
            b"".join(pdu(4, pdv(context_id, 2 if at + fragment >= len(payload) else 0, payload[at : at + fragment])) for at in pieces)
        )

    def read_status(self) -> int:
        """The status of the next response; fails the test if something else comes."""
        answer = self.read_pdu()
        assert answer is not None and answer[0] == 4, answer
        return status_of(answer[1])

    def echo(self) -> float:
        """Seconds that a C-ECHO on context 1 took."""
        began = time.perf_counter()
        self.send_command(1, C_ECHO_RQ)
        assert self.read_status() == 0
        return time.perf_counter() - began

    def is_closed(self) -> bool:
        """True if the peer hung up, by FIN or by RST, within the timeout."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionError:
            pass
        except TimeoutError:
            return False
        return True

    def _read(self, count: int) -> bytes | None:
        data = b""
        while len(data) < count:
            try:
                piece = self.socket.recv(count - len(data))
            except ConnectionError:
                return None
            if not piece:
                return None
            data += piece
        return data


def elements_of(encoded: bytes) -> dict[int, bytes]:
    found, position = {}, 0
    while position < len(encoded):
        _, number, length = struct.unpack_from("<HHI", encoded, position)
        found[number] = encoded[position + 8 : position + 8 + length]
        position += 8 + length
    return found


def status_of(pdu_body: bytes) -> int:
    return int.from_bytes(elements_of(pdu_body[6:])[0x0900], "little")


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    """True as soon as the condition holds, False if it does not within the time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return condition()
