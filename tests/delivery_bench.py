"""A site with a signed report, and peers of the hospital that answer as they are told."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage
from pynetdicom import AE, evt
from sqlmodel import select

from compliance.hospital import ReportTarget, TargetKind
from gateway.delivery_senders import senders_of
from gateway.negotiation import silence_pynetdicom
from reporting.delivery import deliver
from reporting.delivery_queue import due_deliveries
from reporting.mllp import frame, unframe
from reporting.oru import acknowledgement
from tests.gateway_site import GatewaySite
from tests.postgres_server import postgres_server, postgres_url  # noqa: F401 (fixtures)
from tests.signing_desk import deliveries_of


@dataclass
class Archive:
    """A C-STORE SCP that keeps what it takes in memory and answers as it is told."""

    status: int = 0x0000
    instances: list[Dataset] = field(default_factory=list)
    port: int = 0

    @contextmanager
    def listening(self) -> Iterator[Archive]:
        silence_pynetdicom()
        entity = AE(ae_title="H1_ARCHIVE")
        entity.add_supported_context(EncapsulatedPDFStorage)
        server = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)])
        assert server is not None
        self.port = server.socket.getsockname()[1]
        try:
            yield self
        finally:
            server.shutdown()

    def _store(self, event: Any) -> int:
        if self.status == 0x0000:
            self.instances.append(event.dataset)
        return self.status


@dataclass
class Ris:
    """An MLLP listener that keeps messages and answers with the code it is told, or hangs up."""

    code: str = "AA"
    messages: list[bytes] = field(default_factory=list)
    port: int = 0

    @contextmanager
    def listening(self) -> Iterator[Ris]:
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        thread = threading.Thread(target=self._serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            thread.join(10)

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                received = b""
                while True:
                    message, received = unframe(received)
                    if message is not None:
                        break
                    chunk = connection.recv(65536)
                    if not chunk:
                        break
                    received += chunk
                if message is None or self.code == "hang up":
                    continue
                if self.code == "AA":
                    self.messages.append(message)
                connection.sendall(frame(acknowledgement(message, self.code, now=datetime.now(UTC), control_id="77")))


@dataclass
class Bench:
    """A site with a signed report for h1, and the peers it is to reach."""

    site: GatewaySite
    archive: Archive
    ris: Ris

    def attempt(self) -> list[str]:
        """One attempt at everything that is due, over the network; the states in the order of the rows."""
        app = self.site.app
        with app.database.reading() as session:
            due = due_deliveries(session, now=self.site.clock.at)
        for delivery_pk in due:
            self.deliver(delivery_pk)
        return [row.state for row in deliveries_of(self.site)]

    def deliver(self, delivery_pk: int) -> str:
        app = self.site.app
        return deliver(
            app.database,
            app.keys,
            app.law,
            delivery_pk=delivery_pk,
            senders=senders_of(app),
            signer_of=app.document_signer,
            trust_roots=app.certificates.trust_roots(),
            now=self.site.clock.at,
        )


def point_targets(site: GatewaySite, ports: dict[TargetKind, int], hospital_id: str = "h1") -> None:
    with site.app.database.transaction() as session:
        for target in session.exec(select(ReportTarget).where(ReportTarget.hospital_id == hospital_id)).all():
            target.port = ports[TargetKind(target.kind)]
            session.add(target)
