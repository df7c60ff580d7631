"""The audit log at a repository: in order, whole, over TLS with certificates of both sides, and nothing lost while it is down."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest
from sqlmodel import select

from compliance import audit
from compliance.audit_rendering import AuditSource
from compliance.database import Database
from crypto.certificates import KeyAndCertificate, create_ca, issue_client, issue_server
from crypto.errors import BadInput, TemporarilyUnable
from gateway import audit_syslog
from gateway.audit_syslog import AuditSink, SyslogTarget, send_pending
from gateway.dicom_tls import TlsMaterial, client_context, server_context
from gateway.schema import migrate

NOW = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
SOURCE = AuditSource("readgate.audit", "site")
CA, STRANGER = create_ca("repository test"), create_ca("stranger")


def material(own: KeyAndCertificate, authority: KeyAndCertificate = CA) -> TlsMaterial:
    return TlsMaterial(own.certificate_pem, own.key_pem, authority.certificate_pem)


class Repository:
    """A syslog-over-TLS server on loopback; `broken` resets the connection after that many bytes, `is_silent` never says farewell."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.broken: int | None = None
        self.is_abrupt = False
        self._context = server_context(material(issue_server(CA, ["localhost"], ["127.0.0.1"])))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        # Closing alone does not wake the thread that waits in accept.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def indices(self) -> list[int]:
        return [
            int(re.findall(rb'ParticipantObjectID="(\d+)" ParticipantObjectTypeCode="2" ParticipantObjectTypeCodeRole="13"', one)[0])
            for one in self.received
        ]

    def _run(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            try:
                self._serve(plain)
            except OSError:
                plain.close()

    def _serve(self, plain: socket.socket) -> None:
        plain.settimeout(10)
        with self._context.wrap_socket(plain, server_side=True) as secured:
            data = b""
            while chunk := secured.recv(65536):
                data += chunk
                if self.broken is not None and len(data) >= self.broken:
                    secured.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                    return
            self.received += unframed(data)
            if not self.is_abrupt:
                secured.unwrap()


def unframed(data: bytes) -> list[bytes]:
    messages = []
    while data:
        length, _, data = data.partition(b" ")
        messages.append(data[: int(length)])
        data = data[int(length) :]
    return messages


@pytest.fixture
def repository() -> Iterator[Repository]:
    opened = Repository()
    yield opened
    opened.close()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'log.sqlite3'}")
    migrate(opened)
    yield opened
    opened.close()


def target(port: int, own: KeyAndCertificate | None = None, authority: KeyAndCertificate = CA) -> SyslogTarget:
    tls = client_context(material(own or issue_client(CA, "readgate"), authority))
    return SyslogTarget("atna", "localhost", port, tls)


def grow(database: Database, count: int) -> None:
    with database.transaction() as session:
        for number in range(count):
            event = audit.AuditEvent(
                audit.EventId.QUERY, audit.EventType.OPEN, audit.Action.READ, f"r{number}", detail={"text": "ä" * 50, "n": number}
            )
            audit.append(session, event, at=NOW)


def position(database: Database) -> int:
    with database.reading() as session:
        sink = session.exec(select(AuditSink)).first()
        return sink.next_index if sink is not None else 0


@contextmanager
def batches_of(count: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(audit_syslog, "_BATCH", count)
    yield


def test_every_entry_arrives_once_and_in_order(database: Database, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    grow(database, 25)
    with batches_of(10, monkeypatch):
        assert send_pending(database, target(repository.port), SOURCE, now=NOW) == 25
    grow(database, 3)
    assert send_pending(database, target(repository.port), SOURCE, now=NOW) == 3
    assert send_pending(database, target(repository.port), SOURCE, now=NOW) == 0
    assert repository.indices() == list(range(28))
    assert position(database) == 28


def test_a_message_is_as_rfc_5424_and_ihe_ask(database: Database, repository: Repository) -> None:
    grow(database, 1)
    send_pending(database, target(repository.port), SOURCE, now=NOW)
    head, mark, xml = repository.received[0].partition(b"\xef\xbb\xbf")
    assert re.fullmatch(rb"<85>1 2026-03-01T08:00:00\.000000Z \S+ readgate \d+ DICOM\+RFC3881 - ", head)
    assert mark
    assert ElementTree.fromstring(xml).tag == "AuditMessage"


def test_what_a_repository_that_was_down_missed_comes_when_it_is_back(database: Database) -> None:
    grow(database, 5)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(TemporarilyUnable):
        send_pending(database, target(port), SOURCE, now=NOW)
    assert position(database) == 0
    repository = Repository()
    assert send_pending(database, target(repository.port), SOURCE, now=NOW) == 5
    repository.close()
    assert repository.indices() == list(range(5))


def test_a_batch_that_broke_off_is_sent_again_whole(database: Database, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    grow(database, 400)
    with batches_of(100, monkeypatch):
        repository.broken = 20_000
        with pytest.raises(TemporarilyUnable):
            send_pending(database, target(repository.port), SOURCE, now=NOW)
        assert position(database) == 0
        repository.broken = None
        assert send_pending(database, target(repository.port), SOURCE, now=NOW) == 400
    assert repository.indices() == list(range(400))


def test_a_repository_that_ends_without_tls_farewell_is_believed(database: Database, repository: Repository) -> None:
    grow(database, 2)
    repository.is_abrupt = True
    assert send_pending(database, target(repository.port), SOURCE, now=NOW) == 2
    assert position(database) == 2


def test_a_repository_of_another_authority_gets_nothing(database: Database, repository: Repository) -> None:
    grow(database, 1)
    with pytest.raises(BadInput):
        send_pending(database, target(repository.port, authority=STRANGER), SOURCE, now=NOW)
    assert (repository.received, position(database)) == ([], 0)


def test_a_repository_that_does_not_take_our_certificate_counts_as_not_served(database: Database, repository: Repository) -> None:
    grow(database, 1)
    with pytest.raises(TemporarilyUnable):
        send_pending(database, target(repository.port, issue_client(STRANGER, "readgate")), SOURCE, now=NOW)
    assert (repository.received, position(database)) == ([], 0)
    assert isinstance(target(repository.port).tls, ssl.SSLContext)


def test_two_repositories_have_their_own_positions(database: Database, repository: Repository) -> None:
    grow(database, 2)
    send_pending(database, target(repository.port), SOURCE, now=NOW)
    other = SyslogTarget("second", "localhost", repository.port, target(repository.port).tls)
    assert send_pending(database, other, SOURCE, now=NOW) == 2
