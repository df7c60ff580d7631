"""The audit log to an ATNA repository: syslog (RFC 5424) over TLS with client certificate (RFC 5425), every entry, in order.

How nothing is lost: syslog has no acknowledgement, so the position (a row: the next entry to send) moves only after a batch was sent, our
end of the connection was closed, and the repository closed its own without an error. A peer that dies with unread bytes resets the
connection, and then the batch is sent again: an entry arrives at least once, with its number in it (object "LEAF").
The log itself is the queue: a repository that is down for a week gets the week when it is back.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy import BigInteger
from sqlmodel import Field, Session, SQLModel, select

from compliance.audit import AuditEntry, instant_text
from compliance.audit_rendering import AuditSource, audit_message
from compliance.database import Database, UtcDateTime
from compliance.study import Study
from crypto.errors import BadInput, TemporarilyUnable

log = structlog.get_logger()
#: RFC 5425 section 4.1.
SYSLOG_TLS_PORT = 6514
#: Facility 10 (security), severity 5 (notice): IHE ITI TF-2 3.20.7.
_PRIORITY = 10 * 8 + 5
_BATCH = 200
_TIMEOUT_SECONDS = 20.0
_CHUNK_BYTES = 16_384
_BOM = b"\xef\xbb\xbf"


class AuditSink(SQLModel, table=True):
    """How far a repository has got; `next_index` is the first entry it was not sent."""

    __tablename__ = "audit_sink"
    name: str = Field(primary_key=True, max_length=64)
    next_index: int = Field(sa_type=BigInteger)
    sent_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


@dataclass(frozen=True)
class SyslogTarget:
    """A repository; `tls` holds our certificate and the authorities that we trust for its own."""

    name: str
    host: str
    port: int
    tls: ssl.SSLContext


def send_pending(database: Database, target: SyslogTarget, source: AuditSource, *, now: datetime) -> int:
    """Every entry that the repository was not sent is sent; how many.

    Raises: TemporarilyUnable where it does not answer or breaks off; what is not known to have arrived is sent again next time.
    """
    sent = 0
    while True:
        with database.reading() as session:
            sink = session.get(AuditSink, target.name)
            start = sink.next_index if sink is not None else 0
            batch = _messages(session, start, source, now)
        if not batch:
            return sent
        _send(target, batch)
        # If we crash here the batch is sent once more.
        with database.transaction() as session:
            sink = session.get(AuditSink, target.name, with_for_update=True) or AuditSink(name=target.name, next_index=start)
            # Another process may have sent the same batch and gone on: never step back.
            sink.next_index, sink.sent_at = max(sink.next_index, start + len(batch)), now
            session.add(sink)
        sent += len(batch)
        log.info("audit_entries_sent", sink=target.name, count=len(batch), entry_index=start + len(batch))


def syslog_message(entry: AuditEntry, source: AuditSource, *, patient_pseudonym: str | None, sent_at: datetime) -> bytes:
    """The entry as RFC 5424 text; MSGID as IHE ATNA asks, the XML behind the byte order mark that says UTF-8."""
    host = _printable(socket.gethostname())
    head = f"<{_PRIORITY}>1 {instant_text(sent_at)} {host} readgate {os.getpid()} DICOM+RFC3881 - "
    return head.encode() + _BOM + audit_message(entry, source, patient_pseudonym=patient_pseudonym)


def framed(messages: Iterable[bytes]) -> bytes:
    """Octet counting (RFC 5425 4.3.1): length, a space, the message."""
    return b"".join(f"{len(message)} ".encode() + message for message in messages)


def _messages(session: Session, start: int, source: AuditSource, now: datetime) -> list[bytes]:
    rows = session.exec(
        select(AuditEntry).where(AuditEntry.entry_index >= start, AuditEntry.entry_index < start + _BATCH).order_by(AuditEntry.entry_index)  # type: ignore[arg-type]
    ).all()
    uids = {row.study_instance_uid for row in rows if row.study_instance_uid is not None}
    pseudonyms = {
        uid: pseudonym for uid, pseudonym in session.exec(select(Study.study_instance_uid, Study.patient_pseudonym)).all() if uid in uids
    }
    return [syslog_message(row, source, patient_pseudonym=pseudonyms.get(row.study_instance_uid or ""), sent_at=now) for row in rows]


def _send(target: SyslogTarget, messages: list[bytes]) -> None:
    try:
        with socket.create_connection((target.host, target.port), _TIMEOUT_SECONDS) as plain:
            _exchange(plain, target, framed(messages))
    except ssl.SSLCertVerificationError:
        raise BadInput(f"the certificate of {target.host} is none that --ca vouches for") from None
    except OSError:
        raise TemporarilyUnable(f"the audit repository {target.name} does not answer or broke off") from None


def _exchange(plain: socket.socket, target: SyslogTarget, data: bytes) -> None:
    """`data` went over TLS, our end is closed, and the peer closed its own in order. Raises: OSError, for a reset and an alert too.

    TLS runs in memory here, because a wrapped socket's closing hides a reset (unread bytes), and in TLS 1.3 a client learns only
    after its first bytes that its certificate was not taken.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = target.tls.wrap_bio(incoming, outgoing, server_hostname=target.host)
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            plain.sendall(outgoing.read())
            if not (chunk := plain.recv(65536)):
                raise ConnectionResetError from None
            incoming.write(chunk)
    for start in range(0, len(data), _CHUNK_BYTES):
        tls.write(data[start : start + _CHUNK_BYTES])
        plain.sendall(outgoing.read())
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.unwrap()
    plain.sendall(outgoing.read())
    plain.shutdown(socket.SHUT_WR)
    while chunk := plain.recv(65536):
        incoming.write(chunk)
    incoming.write_eof()
    # An alert stands in what came; a missing farewell does not matter: many repositories end with TCP's own.
    with contextlib.suppress(ssl.SSLZeroReturnError, ssl.SSLEOFError):
        while tls.read(4096):
            pass


def _printable(text: str) -> str:
    return "".join(character for character in text if "!" <= character <= "~")[:255] or "-"
