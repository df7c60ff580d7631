"""How reports leave: C-STORE to the hospital's archive, MLLP to its information system, each with the peer's own word as receipt."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import Any

from compliance.hospital import ReportTarget, may_leave_in_plaintext
from crypto.errors import PermanentPeerFailure, RefusedContent, TemporarilyUnable
from gateway.application import Application
from gateway.dicom_tls import TlsMaterial, client_context
from gateway.dimse_responses import SUCCESS
from gateway.store_scu import RemoteAe, store
from reporting.mllp import frame, unframe
from reporting.oru import parse_ack

_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 30.0
_ANSWER_BYTES_MAX = 64 * 1024


class NetworkSenders:
    """Over mutual TLS where the target says so; in plaintext to loopback, and further only where the target says that it may be.

    What leaves carries the patient's name.
    """

    def __init__(self, calling_ae_title: str, tls_of: Callable[[], ssl.SSLContext | None]) -> None:
        """`tls_of` is asked when a target wants TLS: a certificate that cannot be read fails that target's delivery, and no other."""
        self._calling_ae_title, self._tls_of = calling_ae_title, tls_of

    @property
    def tls(self) -> ssl.SSLContext | None:
        """The context for peers that ask for TLS; None where this deployment has no certificate."""
        return self._tls_of()

    def store(self, target: ReportTarget, part10: bytes) -> dict[str, Any]:
        remote = RemoteAe(
            host=target.host,
            port=target.port,
            called_ae_title=target.ae_title or "ANY-SCP",
            calling_ae_title=self._calling_ae_title,
            tls=self._context(target),
        )
        status = store(part10, remote)
        # PS3.4 Table B.2-1: warnings store the instance; 0xA7xx and 0xC0xx failures may pass, 0xA9xx and 0x01xx do not.
        if status == SUCCESS or status & 0xF000 == 0xB000:
            return {"dimse_status": f"0x{status:04X}"}
        if status & 0xFF00 == 0xA700:
            raise TemporarilyUnable("the archive is out of resources")
        raise PermanentPeerFailure(f"the archive refused the instance with status 0x{status:04X}")

    def send_message(self, target: ReportTarget, message: bytes) -> dict[str, Any]:
        answer = self._exchange(target, frame(message))
        try:
            ack = parse_ack(answer)
        except RefusedContent:
            raise TemporarilyUnable("the acknowledgement is not HL7") from None
        if ack.code == "AA":
            return {"acknowledgement": ack.code, "control_id": ack.control_id}
        if ack.code == "AR":
            # AR: rejected for reasons of the receiver (HL7 v2 2.9.2.2), it may accept it later; AE: the content is in error.
            raise TemporarilyUnable("the receiver rejected the message for now")
        raise PermanentPeerFailure("the receiver says that the message is in error")

    def _context(self, target: ReportTarget) -> ssl.SSLContext | None:
        if not target.is_tls:
            if not may_leave_in_plaintext(target):
                raise PermanentPeerFailure("the target lies beyond loopback, without TLS")
            return None
        tls = self.tls
        if tls is None:
            raise TemporarilyUnable("no certificate to call the target with")
        return tls

    def _exchange(self, target: ReportTarget, framed: bytes) -> bytes:
        context = self._context(target)
        try:
            with socket.create_connection((target.host, target.port), timeout=_CONNECT_SECONDS) as plain:
                plain.settimeout(_ANSWER_SECONDS)
                connection = context.wrap_socket(plain, server_hostname=target.host) if context is not None else plain
                connection.sendall(framed)
                received = bytearray()
                while len(received) <= _ANSWER_BYTES_MAX:
                    chunk = connection.recv(8192)
                    if not chunk:
                        raise TemporarilyUnable("the receiver closed without an acknowledgement")
                    received += chunk
                    message, _rest = unframe(bytes(received))
                    if message is not None:
                        return message
                raise TemporarilyUnable("the acknowledgement is too long")
        except RefusedContent:
            raise TemporarilyUnable("the acknowledgement is not framed as MLLP") from None
        except (OSError, ssl.SSLError):
            raise TemporarilyUnable("the receiver cannot be reached") from None


def senders_of(app: Application) -> NetworkSenders:
    """The senders of this deployment, with its own certificate for targets that ask for TLS."""
    return NetworkSenders(app.settings.dicom.ae_title, lambda: _own_tls(app))


def _own_tls(app: Application) -> ssl.SSLContext | None:
    if not app.certificates.path("server", ".pem").exists():
        return None
    pair = app.certificates.server()
    authorities = b"".join(app.certificates.trust_roots())
    return client_context(TlsMaterial(certificate_pem=pair.certificate_pem, key_pem=pair.key_pem, trusted_authorities_pem=authorities))
