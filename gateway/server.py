"""One process of a deployment: any of receiver, worker and web, started in that order and stopped in the other.

Stopping drains: no association is cut while an instance is on its way, no acknowledged instance waits for its row, workflows end.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import structlog
import uvicorn

from compliance import audit
from crypto.blank_segments import BlankSupply
from crypto.errors import BadInput
from gateway.application import Application, jobs_url
from gateway.association_limits import AssociationLimits
from gateway.dicom_tls import TlsMaterial, server_context
from gateway.executor_lock import ExecutorLock
from gateway.http_app import make_http_app
from gateway.intake import GatewayIntake, free_bytes
from gateway.intake_limits import HospitalRates
from gateway.law_watch import LawWatch
from gateway.listening import inherited_sockets
from gateway.negotiation import StorageOffer
from gateway.order_listener import OrderListener
from gateway.receiver import Endpoint, Receiver, ReceiverLimits
from gateway.spool_index import SpoolIndex
from gateway.worker import Worker

log = structlog.get_logger()


class ProcessRole(StrEnum):
    ALL = "all"
    RECEIVER = "receiver"
    WORKER = "worker"
    WEB = "web"


@dataclass
class Server:
    """What runs in this process, from `start` to `stop`. Addresses are known after `start`."""

    app: Application
    role: ProcessRole = ProcessRole.ALL
    #: False where receivers of their own processes stand beside this one.
    receives: bool = True
    #: Descriptors of the sockets that other receivers accept from too (`DicomSettings.addresses`); none where this one binds its own.
    listening: Sequence[int] = ()
    index: SpoolIndex = field(init=False)
    receiver: Receiver | None = field(init=False, default=None)
    worker: Worker | None = field(init=False, default=None)
    executor: ExecutorLock | None = field(init=False, default=None)
    law_watch: LawWatch | None = field(init=False, default=None)
    orders: list[OrderListener] = field(init=False, default_factory=list)
    blanks: BlankSupply | None = field(init=False, default=None)
    http_address: tuple[str, int] | None = field(init=False, default=None)
    _http: uvicorn.Server | None = field(init=False, default=None)
    _http_thread: threading.Thread | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.index = SpoolIndex(self.app.database, self.app.spool)

    def start(self) -> None:
        """Raises: BadInput naming the setting that keeps it from starting; nothing runs then."""
        app = self.app
        self._note(audit.EventType.APPLICATION_START)
        self.index.start()
        try:
            self.law_watch = LawWatch(app)
            self.law_watch.start()
            if self.role in (ProcessRole.ALL, ProcessRole.RECEIVER) and self.receives:
                self.blanks = app.spool.supply_blanks(app.settings.dicom.blank_segments, self._may_fill)
                self.blanks.start()
                self.receiver = make_receiver(app, self.index, listening=self.listening)
                self.receiver.start()
                self.orders = [OrderListener(app, settings) for settings in app.settings.orders]
                for listener in self.orders:
                    listener.start()
            if self.role in (ProcessRole.ALL, ProcessRole.WORKER):
                self.executor = ExecutorLock(app.data, jobs_url(app.data, app.settings), app.settings.jobs.executor_id)
                self.worker = Worker(app, self.index)
                self.worker.start()
            if self.role in (ProcessRole.ALL, ProcessRole.WEB):
                self._start_http()
        except BaseException:
            self.stop()
            raise
        log.info("server_started", role=str(self.role))

    def stop(self) -> None:
        """May be called again."""
        self.app.stopping.set()
        for listener in self.orders:
            listener.stop()
        if self.receiver is not None:
            self.receiver.stop(self.app.settings.dicom.drain_seconds)
        if self.blanks is not None:
            self.blanks.stop()
        if self._http is not None and self._http_thread is not None:
            self._http.should_exit = True
            self._http_thread.join(timeout=15)
        if self.worker is not None:
            self.worker.stop()
        if self.executor is not None:
            self.executor.release()
        if self.law_watch is not None:
            self.law_watch.stop()
        self.index.flush()
        self.index.stop()
        self.orders, self.receiver, self.blanks, self.worker, self.law_watch, self._http = [], None, None, None, None, None
        log.info("server_stopped", role=str(self.role))

    @property
    def dicom_addresses(self) -> list[tuple[str, int]]:
        """Plaintext first where there is one, then TLS."""
        return self.receiver.addresses if self.receiver is not None else []

    def _may_fill(self, length: int) -> bool:
        """Whether so much may be filled before it is needed: never what is kept free for something else."""
        return free_bytes(self.app.data / "spool") - length > self.app.settings.dicom.free_bytes_floor

    def _start_http(self) -> None:
        settings = self.app.settings.http
        try:
            listener = socket.create_server((settings.host, settings.port))
        except OSError:
            raise BadInput(f"http.port {settings.port} on {settings.host} cannot be opened; is it in use?") from None
        self.http_address = (settings.host, listener.getsockname()[1])
        config = uvicorn.Config(
            make_http_app(self.app),
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            timeout_graceful_shutdown=5,
            ssl_certfile=settings.tls_certificate,
            ssl_keyfile=settings.tls_key,
            h11_max_incomplete_event_size=65536,
        )
        self._http = uvicorn.Server(config)
        self._http_thread = threading.Thread(target=self._http.run, args=([listener],), name="http", daemon=True)
        self._http_thread.start()

    def _note(self, event_type: audit.EventType) -> None:
        with self.app.database.transaction() as session:
            audit.append(
                session,
                audit.AuditEvent(
                    event_id=audit.EventId.APPLICATION_ACTIVITY,
                    event_type=event_type,
                    action=audit.Action.EXECUTE,
                    actor=f"readgate/{self.role}",
                ),
                at=self.app.now(),
            )


def make_receiver(app: Application, index: SpoolIndex, *, listening: Sequence[int] = ()) -> Receiver:
    """The DICOM listener of `app`. Raises: BadInput."""
    settings = app.settings.dicom
    intake = GatewayIntake(
        app.database,
        app.keys,
        app.spool,
        index,
        spool_path=app.data / "spool",
        ae_title=settings.ae_title,
        free_bytes_floor=settings.free_bytes_floor,
        now=app.now,
        rates=HospitalRates(settings.instances_per_minute_max, settings.associations_per_minute_max),
    )
    endpoints = []
    if settings.plaintext_port is not None:
        endpoints.append(
            Endpoint(settings.host, settings.plaintext_port, allow_plaintext_beyond_loopback=settings.allow_plaintext_beyond_loopback)
        )
    if settings.tls_port is not None:
        endpoints.append(Endpoint(settings.host, settings.tls_port, tls=_dicom_tls(app)))
    limits = ReceiverLimits(
        associations_max=settings.associations_max,
        associations_per_hospital_max=settings.associations_per_hospital_max,
        association=AssociationLimits(instance_bytes_max=settings.instance_bytes_max),
    )
    return Receiver(
        intake,
        endpoints,
        limits=limits,
        offer=StorageOffer(private_sop_classes=tuple(settings.private_sop_classes)),
        listening=inherited_sockets(listening, settings.addresses) if listening else (),
    )


def _dicom_tls(app: Application) -> ssl.SSLContext:
    pair = app.certificates.server()
    roots = b"".join(app.certificates.trust_roots())
    return server_context(TlsMaterial(certificate_pem=pair.certificate_pem, key_pem=pair.key_pem, trusted_authorities_pem=roots))
