"""A hospital's sender as a process of its own: small studies over one association, and each acknowledgement on its disk before the next.

As a program, `python -m tests.kill_sender NUMBER PORT LEDGER STOP ALLOWED`: sends until the file STOP exists, then finishes the study it is
at, and before that no more instances than the file ALLOWED says. What was not acknowledged is sent again, as an archive does; a ledger line
says which instance was, and which bytes.
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import sys
import time
from pathlib import Path

from tests.builders import make_ct_study, payload_of
from tests.dicom_peers import CT, EXPLICIT_LE, associate_rq, c_store_rq, pdu, pdv

INSTANCES_PER_STUDY = 4
_PAUSE_SECONDS = 0.25
_ANSWER_SECONDS = 20.0
_GIVE_UP_SECONDS = 600.0
_FRAGMENT_BYTES = 16_000


class Lost(Exception):
    """The association is gone; what was on its way may or may not have arrived."""


def send_studies(sender: int, port: int, ledger: Path, stop: Path, allowed: Path) -> None:
    """See the module."""
    connection: socket.socket | None = None
    sent = 0
    with ledger.open("a") as acknowledged:
        number = 0
        while not stop.exists():
            number += 1
            # One patient per sender: later studies have earlier ones as priors.
            for dataset in make_ct_study(INSTANCES_PER_STUDY, 32, 32, number=sender * 10_000 + number, seed=sender * 100 + number):
                while sent >= int(allowed.read_text() or "0") and not stop.exists():
                    time.sleep(0.05)
                sent += 1
                payload = payload_of(dataset)
                connection = _send(connection, port, dataset.SOPInstanceUID, payload)
                digest = hashlib.sha256(payload).hexdigest()
                acknowledged.write(f"{dataset.StudyInstanceUID} {dataset.SOPInstanceUID} {digest}\n")
                acknowledged.flush()
                os.fsync(acknowledged.fileno())
                time.sleep(_PAUSE_SECONDS)
    if connection is not None:
        connection.sendall(pdu(5, bytes(4)))
        connection.close()


def _send(connection: socket.socket | None, port: int, sop_instance_uid: str, payload: bytes) -> socket.socket:
    """The connection on which the instance was acknowledged with 0x0000, after as many attempts as it takes."""
    until = time.monotonic() + _GIVE_UP_SECONDS
    while time.monotonic() < until:
        try:
            if connection is None:
                connection = _associate(port)
            connection.sendall(_message(sop_instance_uid, payload))
            if _status(_read_pdu(connection)) == 0x0000:
                return connection
        except (OSError, Lost):
            if connection is not None:
                connection.close()
            connection = None
        time.sleep(0.1)
    raise SystemExit("the site did not take an instance in time")


def _associate(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_SECONDS)
    connection.sendall(associate_rq({1: (CT, [EXPLICIT_LE])}, calling="H1_PACS"))
    kind, _ = _read_pdu(connection)
    if kind != 2:
        connection.close()
        raise Lost
    return connection


def _message(sop_instance_uid: str, payload: bytes) -> bytes:
    out = pdu(4, pdv(1, 3, c_store_rq(sop_instance_uid)))
    for at in range(0, len(payload), _FRAGMENT_BYTES):
        part = payload[at : at + _FRAGMENT_BYTES]
        out += pdu(4, pdv(1, 2 if at + _FRAGMENT_BYTES >= len(payload) else 0, part))
    return out


def _read_pdu(connection: socket.socket) -> tuple[int, bytes]:
    kind, _, length = struct.unpack(">BBI", _read(connection, 6))
    return kind, _read(connection, length)


def _read(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise Lost
        data += piece
    return data


def _status(answer: tuple[int, bytes]) -> int:
    """The Status (0000,0900) of a C-STORE-RSP in one PDV."""
    kind, body = answer
    if kind != 4:
        raise Lost
    at = 6
    while at + 8 <= len(body):
        _, number, length = struct.unpack_from("<HHI", body, at)
        if number == 0x0900:
            return int.from_bytes(body[at + 8 : at + 10], "little")
        at += 8 + length
    raise Lost


if __name__ == "__main__":
    send_studies(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), Path(sys.argv[5]))
