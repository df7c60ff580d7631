"""One association as its acceptor, from the accepted connection to its end, in one thread (PS3.8 7, PS3.7 7.5).

Invariants
- A connection has `acse_seconds_max` from its first moment, TLS handshake included, to an association; a PDU `pdu_seconds_max` from
  the moment we wait for it; a message `message_seconds_max`; silence between messages `idle_seconds_max`. No byte from the peer extends
  any of them.
- Between messages a quiet association holds no payload memory; during one it holds at most the window and one PDU.
- An association that is draining ends between two messages, never within one, as long as the drain time lasts.
- The session is told how the association ended, exactly once, whatever happened.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import time
from enum import Enum, auto
from typing import Protocol

import structlog

from crypto.errors import ReadgateError
from gateway import dimse_responses as dimse
from gateway.association_limits import AssociationLimits
from gateway.dicom_tls import refusal_reason, subject_of
from gateway.dicom_transport import ConnectionLost, DeadlinePassed, PlainTransport, TlsTransport, Transport, Wait
from gateway.dimse_scp import DimseScp
from gateway.intake_port import LOCAL_LIMIT_EXCEEDED, IntakePort, Peer, Refusal, SessionEnd
from gateway.negotiation import AssociationRefused, Negotiator, read_titles
from gateway.pdu import MessageInterrupted, PduReader, PduType, ProtocolViolation

#: Quiet time after which an association gives its payload memory back, and after which a draining one is ended.
_QUIET_SECONDS = 0.25
_LINGER_SECONDS = 0.5


class AssociationState(Enum):
    """Where an association stands; `RECEIVING` is mid-message."""

    CONNECTED = auto()
    IDLE = auto()
    RECEIVING = auto()
    CLOSED = auto()


class Host(Protocol):
    """The receiver as its associations see it."""

    @property
    def drain_deadline(self) -> float | None:
        """The moment of `time.monotonic()` until which associations may go on, None while nobody has asked to stop."""
        ...

    @property
    def wake_fd(self) -> int:
        """Becomes readable when `drain_deadline` is set."""
        ...

    def may_associate(self, association: Association, hospital_id: str) -> bool:
        """Count this association against the hospital's limit, unless the limit is reached."""
        ...


class Association:
    """The acceptor's side of one connection. `run` is the thread's whole life; the other methods may be called from outside."""

    def __init__(
        self,
        connection: socket.socket,
        address: str,
        *,
        host: Host,
        port: IntakePort,
        negotiator: Negotiator,
        limits: AssociationLimits,
        tls: ssl.SSLContext | None,
        refuse_with: Refusal | None = None,
    ) -> None:
        self.address = address
        self.state = AssociationState.CONNECTED
        self.hospital_id: str | None = None
        self._began = time.monotonic()
        self._connection = connection
        self._host = host
        self._port = port
        self._negotiator = negotiator
        self._limits = limits
        self._tls = tls
        self._refuse_with = refuse_with
        self._cut_because: str | None = None
        self._session: object = None
        self._transport: Transport | None = None
        self._scp: DimseScp | None = None
        self._log = structlog.get_logger().bind(peer_address=address, is_tls=tls is not None)

    def cut(self, because: str) -> None:
        """End the association at once, whatever it is doing; `because` is the event's reason."""
        self._cut_because = self._cut_because or because
        with contextlib.suppress(OSError, ValueError):
            socket.socket.shutdown(self._connection, socket.SHUT_RDWR)

    @property
    def is_cut(self) -> bool:
        """True once `cut` was called."""
        return self._cut_because is not None

    def run(self) -> None:
        """Serve the association to its end. Raises nothing."""
        how = SessionEnd.LOST
        linger_seconds = 0.0
        try:
            transport = self._transport = self._secure()
            reader = PduReader(transport, pdu_seconds_max=self._limits.pdu_seconds_max, window_bytes=self._limits.window_bytes)
            scp = self._scp = self._associate(transport, reader)
            how = self._serve(transport, reader, scp)
        except AssociationRefused as refused:
            linger_seconds = _LINGER_SECONDS
            self._reject(refused.refusal)
        except ProtocolViolation as violation:
            how, linger_seconds = SessionEnd.ABORTED, _LINGER_SECONDS
            self._abort(violation.abort_source, violation.abort_reason)
            self._log.warning("protocol_violated", reason=violation.reason_code, state=self.state.name)
        except DeadlinePassed:
            how = SessionEnd.ABORTED
            self._abort(dimse.ABORT_BY_SERVICE_PROVIDER, dimse.ABORT_REASON_NOT_SPECIFIED)
            self._log.warning("deadline_passed", state=self.state.name)
        except ConnectionLost:
            # A connection that said nothing at all is a port scan or a load balancer's probe: no more than a word for it.
            say = self._log.warning if self._scp is not None or self._cut_because else self._log.debug
            say("connection_lost", state=self.state.name, reason=self._cut_because or "peer_hung_up")
        except _HandshakeRefused as refused:
            self._log.warning("tls_handshake_refused", reason=refused.reason)
            self._tell_of_handshake(refused.reason)
        except Exception as error:
            how = SessionEnd.ABORTED
            self._abort(dimse.ABORT_BY_SERVICE_PROVIDER, dimse.ABORT_REASON_NOT_SPECIFIED)
            self._log.error("association_failed", error_class=type(error).__name__, state=self.state.name)
        finally:
            self._finish(how, linger_seconds)

    # --- to an association -----------------------------------------------------------------------------------------------

    def _secure(self) -> Transport:
        if self._tls is None:
            shortest = min(self._limits.pdu_seconds_max, self._limits.acse_seconds_max)
            return PlainTransport(self._connection, tick_seconds=min(_QUIET_SECONDS, shortest / 4))
        self._connection.settimeout(self._limits.acse_seconds_max)
        try:
            secured = self._tls.wrap_socket(self._connection, server_side=True, do_handshake_on_connect=False)
            self._connection = secured
            if self._cut_because is not None:
                # A cut that came while the connection changed hands has hit the socket that is no more.
                raise ConnectionLost("cut")
            secured.do_handshake()
        except TimeoutError:
            raise _HandshakeRefused("deadline_passed") from None
        except ssl.SSLError as error:
            raise _HandshakeRefused(refusal_reason(error)) from None
        except (OSError, ValueError):
            raise ConnectionLost("the peer closed the connection") from None
        return TlsTransport(secured)

    def _tell_of_handshake(self, reason: str) -> None:
        try:
            self._port.handshake_refused(self.address, reason)
        except Exception as error:
            # The peer is refused all the same; that it could not be written down is said.
            self._log.error("handshake_refusal_not_audited", error_class=type(error).__name__)

    def _associate(self, transport: Transport, reader: PduReader) -> DimseScp:
        deadline = self._began + self._limits.acse_seconds_max
        request = reader.read_associate_request(deadline)
        calling, called = read_titles(request)
        self._log = self._log.bind(calling_ae_title=calling, called_ae_title=called)
        if self._refuse_with is not None:
            raise AssociationRefused(self._refuse_with)
        peer = self._peer_facts(calling, called)
        answer = self._port.admit(peer)
        if isinstance(answer, Refusal):
            raise AssociationRefused(answer)
        self._log = self._log.bind(hospital_id=answer.hospital_id)
        negotiated = self._negotiator.negotiate(request)
        if self._host.drain_deadline is not None or not self._host.may_associate(self, answer.hospital_id):
            raise AssociationRefused(LOCAL_LIMIT_EXCEEDED)
        self._session = self._port.open_session(peer, answer, tuple(negotiated.contexts.values()))
        # From here on there is a session, and `_finish` tells it how the association ended.
        scp = self._scp = DimseScp(
            reader=reader,
            send=self._send,
            port=self._port,
            session=self._session,
            contexts=negotiated.contexts,
            peer_pdu_bytes_max=negotiated.peer_pdu_bytes_max,
            limits=self._limits,
            log=self._log,
        )
        self.state = AssociationState.IDLE
        transport.send(negotiated.acceptance_pdu, deadline)
        self._log.info("association_accepted", contexts=len(negotiated.contexts), contexts_refused=negotiated.refused_contexts)
        return scp

    def _peer_facts(self, calling: str, called: str) -> Peer:
        fingerprint = subject = None
        if isinstance(self._connection, ssl.SSLSocket):
            encoded = self._connection.getpeercert(binary_form=True)
            fingerprint = hashlib.sha256(encoded).hexdigest() if encoded else None
            subject = subject_of(self._connection.getpeercert())
        return Peer(calling, called, self.address, fingerprint, subject, self._tls is not None)

    # --- messages --------------------------------------------------------------------------------------------------------

    def _serve(self, transport: Transport, reader: PduReader, scp: DimseScp) -> SessionEnd:
        while True:
            kind = int(PduType.P_DATA_TF)
            if reader.is_between_pdus:
                self.state = AssociationState.IDLE
                if not reader.is_ahead and not self._await_pdu(transport, reader, scp):
                    return SessionEnd.ABORTED
                self.state = AssociationState.RECEIVING
                kind = reader.next_pdu(time.monotonic() + self._limits.pdu_seconds_max)
            if kind == PduType.P_DATA_TF:
                try:
                    scp.receive_message(time.monotonic() + self._limits.message_seconds_max)
                    continue
                except MessageInterrupted as interrupted:
                    kind = interrupted.kind
                    if kind != PduType.A_ABORT:
                        raise ProtocolViolation("message_interrupted", abort_reason=dimse.ABORT_UNEXPECTED_PDU) from None
            return self._end_of(kind, reader, scp)

    def _await_pdu(self, transport: Transport, reader: PduReader, scp: DimseScp) -> bool:
        """Wait between two messages. False if the association ended here: idle for too long, or drained."""
        if self._host.drain_deadline is None and reader.read_soon():
            return True
        now = time.monotonic()
        idle_deadline, quiet_deadline = now + self._limits.idle_seconds_max, now + _QUIET_SECONDS
        while True:
            drain_deadline = self._host.drain_deadline
            if drain_deadline is None:
                outcome = transport.wait_readable(min(quiet_deadline, idle_deadline), self._host.wake_fd)
            else:
                outcome = transport.wait_readable(min(quiet_deadline, drain_deadline), None)
            if outcome is Wait.READABLE:
                return True
            now = time.monotonic()
            if outcome is Wait.WOKEN:
                # The quiet counts from the last message: who has long been idle is ended at once.
                quiet_deadline = idle_deadline - self._limits.idle_seconds_max + _QUIET_SECONDS
            elif drain_deadline is not None or now >= idle_deadline:
                self._abort(dimse.ABORT_BY_SERVICE_USER, dimse.ABORT_REASON_NOT_SPECIFIED)
                event = "association_idle_too_long" if drain_deadline is None else "association_drained"
                self._log.info(event, instances=scp.instances_kept)
                return False
            else:
                scp.relax()
                quiet_deadline = idle_deadline

    def _end_of(self, kind: int, reader: PduReader, scp: DimseScp) -> SessionEnd:
        if kind == PduType.A_RELEASE_RQ:
            self._send(dimse.RELEASE_RESPONSE)
            self._log.info("association_released", instances=scp.instances_kept)
            return SessionEnd.RELEASED
        if kind == PduType.A_ABORT:
            source, reason = reader.abort_fields()
            self._log.info("association_aborted_by_peer", source=source, reason=reason, instances=scp.instances_kept)
            return SessionEnd.ABORTED
        raise ProtocolViolation("pdu_unexpected", abort_reason=dimse.ABORT_UNEXPECTED_PDU)

    # --- the end ---------------------------------------------------------------------------------------------------------

    def _send(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.send(data, time.monotonic() + self._limits.pdu_seconds_max)

    def _reject(self, refusal: Refusal) -> None:
        self._log.warning("association_refused", reason=refusal.event_name, reject=f"{refusal.result}/{refusal.source}/{refusal.reason}")
        with contextlib.suppress(ReadgateError):
            self._send(dimse.reject_pdu(refusal.result, refusal.source, refusal.reason))

    def _abort(self, source: int, reason: int) -> None:
        if self._transport is not None:
            with contextlib.suppress(ReadgateError):
                self._transport.send(dimse.abort_pdu(source, reason), time.monotonic() + _LINGER_SECONDS)

    def _finish(self, how: SessionEnd, linger_seconds: float) -> None:
        self.state = AssociationState.CLOSED
        try:
            if self._transport is not None:
                self._transport.close(linger_seconds)
            else:
                self._connection.close()
        finally:
            if self._scp is not None:
                self._scp.close()
                try:
                    self._port.released(self._session, how)
                except Exception as error:
                    self._log.error("session_end_failed", error_class=type(error).__name__)


class _HandshakeRefused(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
