"""Storage Commitment results whose sender has not confirmed them: kept, and brought on an association of our own (PS3.4 J.3.3).

1. The association ended before the N-EVENT-REPORT was answered: the result is a row, sealed, before anybody forgets it.
2. A worker takes the rows that are due, one transaction each: the next attempt is set before the peer is called, so that no two workers
   call at once, and a worker that dies costs one interval.
3. The peer confirms: the row is done. If we crash here the peer gets the same result once more, which PS3.4 J.3.3 lets it expect.
A peer whose address nobody gave is not called; its rows wait until somebody does, or until they are too old to matter.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import structlog
from sqlmodel import Session, col, select

from compliance import audit
from compliance.database import Database
from compliance.hospital import dicom_peer
from crypto.canonical import canonical_json
from crypto.errors import NotFound, PermanentPeerFailure, TemporarilyUnable
from crypto.keys import KeyStore
from crypto.sealed_box import open_small, seal_small
from gateway.application import Application
from gateway.delivery_senders import senders_of
from gateway.intake_port import CommitmentResult, FailedReference, InstanceReference
from gateway.intake_rows import CommitmentReport, PeerAddress
from gateway.store_scu import RemoteAe, send_commitment_result

log = structlog.get_logger()
ACTOR = "readgate/commitment"
_BATCH = 20
_FIRST_RETRY = timedelta(seconds=30)
_RETRY_MAX = timedelta(hours=1)
#: A sender that did not ask again within this time has long decided without us.
_GIVE_UP_AFTER = timedelta(days=7)


class ReportState(StrEnum):
    WAITING = "WAITING"
    DELIVERED = "DELIVERED"
    GIVEN_UP = "GIVEN_UP"


@dataclass(frozen=True, slots=True)
class CommitmentAnswer:
    """The result of one Storage Commitment transaction."""

    transaction_uid: str
    result: CommitmentResult


#: Brings an answer to the peer of this AE title at this address. Raises: TemporarilyUnable, PermanentPeerFailure.
Send = Callable[[str, PeerAddress, CommitmentAnswer], None]


def queue_commitment(
    database: Database, keys: KeyStore, hospital_id: str, calling_ae_title: str, answer: CommitmentAnswer, *, now: datetime
) -> None:
    """The answer is durable and due at once. Raises: TemporarilyUnable."""
    document = {
        "transaction_uid": answer.transaction_uid,
        "committed": [[one.sop_class_uid, one.sop_instance_uid] for one in answer.result.committed],
        "failed": [[one.sop_class_uid, one.sop_instance_uid, one.failure_reason] for one in answer.result.failed],
    }
    with database.transaction() as session:
        session.add(
            CommitmentReport(
                hospital_id=hospital_id,
                calling_ae_title=calling_ae_title,
                state=ReportState.WAITING,
                sealed=seal_small(_key(keys, hospital_id), canonical_json(document), _context(hospital_id, calling_ae_title)),
                next_attempt_at=now,
                created_at=now,
            )
        )


def set_peer_address(database: Database, calling_ae_title: str, host: str, port: int, *, is_tls: bool, actor: str, now: datetime) -> None:
    """The sender is called there from now on; what waits for it is tried at the next look. Raises: NotFound (no such sender)."""
    with database.transaction() as session:
        peer = dicom_peer(session, calling_ae_title)
        if peer is None:
            raise NotFound("no sender of this AE title is enrolled")
        row = session.get(PeerAddress, calling_ae_title) or PeerAddress(calling_ae_title=calling_ae_title, host=host, port=port)
        row.host, row.port, row.is_tls = host, port, is_tls
        session.add(row)
        waiting = select(CommitmentReport).where(
            CommitmentReport.calling_ae_title == calling_ae_title, CommitmentReport.state == ReportState.WAITING
        )
        for report in session.exec(waiting.with_for_update()).all():
            report.next_attempt_at = now
            session.add(report)
        audit.append(
            session,
            audit.AuditEvent(
                event_id=audit.EventId.SECURITY_ALERT,
                event_type=audit.EventType.NETWORK_CONFIGURATION,
                action=audit.Action.UPDATE,
                actor=actor,
                hospital_id=peer.hospital_id,
                network_address=host,
                detail={"calling": calling_ae_title, "tls": is_tls},
            ),
            at=now,
        )


def deliver_commitments(database: Database, keys: KeyStore, send: Send, *, now: datetime) -> int:
    """One attempt for every answer that is due and whose peer has an address; how many were confirmed."""
    with database.reading() as session:
        due = session.exec(
            select(CommitmentReport.report_pk)
            .where(CommitmentReport.state == ReportState.WAITING, CommitmentReport.next_attempt_at <= now)
            .order_by(col(CommitmentReport.next_attempt_at))
            .limit(_BATCH)
        ).all()
    return sum(_attempt(database, keys, send, report_pk, now) for report_pk in due if report_pk is not None)


def network_sender(app: Application) -> Send:
    """Calls the peer by DICOM, over mutual TLS where its address says so."""
    tls = senders_of(app).tls

    def send(calling_ae_title: str, address: PeerAddress, answer: CommitmentAnswer) -> None:
        if address.is_tls and tls is None:
            raise TemporarilyUnable("no certificate to call the peer with")
        own_title = app.settings.dicom.ae_title
        remote = RemoteAe(address.host, address.port, calling_ae_title, own_title, tls=tls if address.is_tls else None)
        send_commitment_result(answer.transaction_uid, answer.result, remote)

    return send


def _attempt(database: Database, keys: KeyStore, send: Send, report_pk: int, now: datetime) -> bool:
    with database.transaction() as session:
        report = _locked(session, report_pk)
        if report.state != ReportState.WAITING or report.next_attempt_at > now:
            return False
        if now - report.created_at > _GIVE_UP_AFTER:
            report.state = ReportState.GIVEN_UP
            _note(session, report, audit.Outcome.SERIOUS_FAILURE, now)
            log.error("commitment_given_up", hospital_id=report.hospital_id, attempts=report.attempts)
            return False
        address = session.get(PeerAddress, report.calling_ae_title)
        report.next_attempt_at = now + min(_RETRY_MAX, _FIRST_RETRY * 2 ** min(report.attempts, 10))
        report.attempts += address is not None
        session.add(report)
        answer = _opened(keys, report)
    if address is None:
        return False
    try:
        send(report.calling_ae_title, address, answer)
    except (TemporarilyUnable, PermanentPeerFailure) as error:
        log.warning("commitment_put_off", hospital_id=report.hospital_id, error=type(error).__name__, attempts=report.attempts)
        return False
    with database.transaction() as session:
        report = _locked(session, report_pk)
        report.state = ReportState.DELIVERED
        session.add(report)
        _note(session, report, audit.Outcome.SUCCESS, now)
    return True


def _locked(session: Session, report_pk: int) -> CommitmentReport:
    return session.exec(select(CommitmentReport).where(CommitmentReport.report_pk == report_pk).with_for_update()).one()


def _opened(keys: KeyStore, report: CommitmentReport) -> CommitmentAnswer:
    context = _context(report.hospital_id, report.calling_ae_title)
    document = json.loads(open_small(_key(keys, report.hospital_id), report.sealed, context))
    committed = [InstanceReference(*one) for one in document["committed"]]
    return CommitmentAnswer(document["transaction_uid"], CommitmentResult(committed, [FailedReference(*one) for one in document["failed"]]))


def _note(session: Session, report: CommitmentReport, outcome: audit.Outcome, now: datetime) -> None:
    audit.append(
        session,
        audit.AuditEvent(
            event_id=audit.EventId.INSTANCES_TRANSFERRED,
            event_type=audit.EventType.DELIVER,
            action=audit.Action.EXECUTE,
            actor=ACTOR,
            hospital_id=report.hospital_id,
            outcome=outcome,
            detail={"commitment": True, "attempts": report.attempts},
        ),
        at=now,
    )


def _key(keys: KeyStore, hospital_id: str) -> bytes:
    return keys.secret(f"crosswalk/{hospital_id}")


def _context(hospital_id: str, calling_ae_title: str) -> bytes:
    return f"commitment/{hospital_id}/{calling_ae_title}".encode()
