"""Orders from the hospital's information system: HL7 v2 over MLLP, each acknowledged once it is durable.

1. The port belongs to one hospital: HL7 v2 has no authentication of its own, so the port is loopback, TLS, or said aloud.
2. The message is one order; what is not is answered AE and kept nowhere (the sender has it).
3. The order is filed, sealed, with an audit entry, in one transaction; then AA. If we crash before, no acknowledgement was sent.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
import uuid
from dataclasses import asdict

import structlog

from compliance import audit
from compliance.order import file_order
from crypto.errors import BadInput, ReadgateError, RefusedContent, TemporarilyUnable
from gateway.application import Application
from gateway.config import OrdersSettings
from gateway.expected_instances import note_order_expects
from reporting.mllp import frame, unframe
from reporting.order_message import Order, parse_order
from reporting.oru import acknowledgement

log = structlog.get_logger()
ACTOR = "readgate/orders"
#: Priority of the message -> Scheduled Procedure Step Priority (0074,1200).
_PRIORITIES = {"STAT": "HIGH", "ASAP": "HIGH", "ROUTINE": "MEDIUM"}
_CONNECTIONS_MAX = 32
_IDLE_SECONDS = 300.0
_CHUNK_BYTES = 65_536


class OrderListener:
    """Listens for one hospital's orders from `start` to `stop`."""

    def __init__(self, app: Application, settings: OrdersSettings) -> None:
        """Raises: BadInput for a port beyond loopback that is not allowed aloud."""
        if not ipaddress.ip_address(settings.host).is_loopback and not settings.allow_plaintext_beyond_loopback:
            raise BadInput(
                f"orders for {settings.hospital_id}: {settings.host} is beyond loopback and MLLP is plaintext; "
                "set allow_plaintext_beyond_loopback = true if a tunnel protects it"
            )
        self._app, self._settings = app, settings
        self._listener: socket.socket | None = None
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._is_stopping = False

    @property
    def address(self) -> tuple[str, int]:
        assert self._listener is not None, "started"
        host, port = self._listener.getsockname()[:2]
        return str(host), int(port)

    def start(self) -> None:
        try:
            self._listener = socket.create_server((self._settings.host, self._settings.port))
        except OSError:
            raise BadInput(f"orders for {self._settings.hospital_id}: port {self._settings.port} cannot be opened; is it in use?") from None
        threading.Thread(target=self._accept, name="orders", daemon=True).start()

    def stop(self) -> None:
        self._is_stopping = True
        with self._lock:
            open_sockets = [*self._connections, *([self._listener] if self._listener is not None else [])]
        for one in open_sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        assert self._listener is not None
        while not self._is_stopping:
            try:
                connection, _address = self._listener.accept()
            except OSError:
                return
            with self._lock:
                is_full = len(self._connections) >= _CONNECTIONS_MAX
                if not is_full:
                    self._connections.add(connection)
            if is_full:
                log.warning("order_connection_refused", hospital_id=self._settings.hospital_id)
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection,), name="order", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        received = b""
        try:
            connection.settimeout(_IDLE_SECONDS)
            while not self._is_stopping:
                message, received = unframe(received)
                if message is not None:
                    connection.sendall(frame(answer_order(self._app, self._settings.hospital_id, message)))
                    continue
                chunk = connection.recv(_CHUNK_BYTES)
                if not chunk:
                    return
                received += chunk
        except RefusedContent:
            log.warning("order_framing_refused", hospital_id=self._settings.hospital_id)
        except OSError:
            return
        except Exception as error:
            # A message of which not even the acknowledgement can be written; the text of the error may be its text.
            log.warning("order_connection_failed", hospital_id=self._settings.hospital_id, error=type(error).__name__)
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.close()


def answer_order(app: Application, hospital_id: str, message: bytes) -> bytes:
    """The acknowledgement of one message, after the order was filed: AA; AE for what is no order; AR for what the sender may send again.

    Raises: RefusedContent for a message that cannot even be answered.
    """
    now, control_id = app.now(), uuid.uuid4().hex[:20]
    try:
        order = parse_order(message)
        with app.database.transaction() as session:
            expected = int(order.expected_instances) if order.expected_instances else None
            filed = file_order(
                session,
                app.keys,
                hospital_id,
                order.accession_number,
                order_document(order),
                priority=_PRIORITIES.get(order.priority, "MEDIUM"),
                expected_instances=expected,
                now=now,
            )
            if expected is not None:
                note_order_expects(session, filed)
            audit.append(
                session,
                audit.AuditEvent(
                    event_id=audit.EventId.ORDER_RECORD,
                    event_type=audit.EventType.RECEIVE,
                    action=audit.Action.CREATE,
                    actor=ACTOR,
                    hospital_id=hospital_id,
                    detail={"message": order.message_type, "priority": order.priority, "expected": expected},
                ),
                at=now,
            )
    except RefusedContent as refused:
        log.warning("order_refused", hospital_id=hospital_id, reason=refused.reason_code)
        _audit_refusal(app, hospital_id, refused.reason_code)
        return acknowledgement(message, "AE", now=now, control_id=control_id)
    except TemporarilyUnable:
        # Also where the same order came twice at once: the second is filed when it is sent again.
        return acknowledgement(message, "AR", now=now, control_id=control_id)
    except Exception as error:
        log.error("order_not_filed", hospital_id=hospital_id, error=type(error).__name__)
        return acknowledgement(message, "AR", now=now, control_id=control_id)
    return acknowledgement(message, "AA", now=now, control_id=control_id)


def order_document(order: Order) -> dict[str, str]:
    """What is kept of an order, sealed."""
    fields = asdict(order)
    return {**{name: str(value) for name, value in fields.items()}, "procedure": order.procedure_text, "question": ""}


def _audit_refusal(app: Application, hospital_id: str, reason_code: str) -> None:
    try:
        with app.database.transaction() as session:
            audit.append(
                session,
                audit.AuditEvent(
                    event_id=audit.EventId.ORDER_RECORD,
                    event_type=audit.EventType.REFUSED,
                    action=audit.Action.CREATE,
                    actor=ACTOR,
                    outcome=audit.Outcome.MINOR_FAILURE,
                    hospital_id=hospital_id,
                    detail={"reason": reason_code},
                ),
                at=app.now(),
            )
    except ReadgateError:
        log.error("order_refusal_not_audited", hospital_id=hospital_id)
