"""Receive: an instance is encrypted and has reached the disk before its sender is told success.

0. The association was admitted: called and calling AE title, certificate and hospital belong together (`admit`).
1. The header says which study and instance it is, and the command said the same (a swapped UID is an attack or a broken sender).
2. There is room: the free-space floor, the hospital's quota and its rate hold.
3. The payload is sealed into the association's spool segment, and the segment is synchronised (group commit).
   If we crash before this, the sender was told nothing and sends again; after it, recovery finds the frame.
4. The frame is handed to the index, which writes its row within a second; only then could anybody look for it, never the sender.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

from compliance import audit
from compliance.crosswalk import accession_digest, lookup_secret
from compliance.database import Database
from compliance.hospital import DicomPeer
from crypto.canonical import keyed_digest
from crypto.errors import RefusedContent, TemporarilyUnable
from crypto.keys import KeyStore
from crypto.payload_digest import PayloadDigestKey
from crypto.spool import FramePosition, SegmentWriter, Spool
from gateway import dimse_responses as dimse
from gateway.commitment_queue import CommitmentAnswer, queue_commitment
from gateway.header_scan import HeaderFacts, scan_header
from gateway.intake_limits import HospitalRates, IntakeLimits
from gateway.intake_limits import free_bytes as free_bytes
from gateway.intake_port import (
    CALLED_AE_TITLE_NOT_RECOGNIZED,
    CALLING_AE_TITLE_NOT_RECOGNIZED,
    CERTIFICATE_NOT_OF_AE_TITLE,
    TEMPORARY_CONGESTION,
    AcceptedContext,
    Admission,
    CommitmentResult,
    FailedReference,
    InstanceHead,
    InstanceReference,
    Peer,
    Refusal,
    SessionEnd,
)
from gateway.received import ReceivedStudy, instances_by_lookup
from gateway.spool_index import SpooledFrame, SpoolIndex

log = structlog.get_logger()

#: A refused peer that hammers gets one audit entry per this many seconds, with the count of the silent ones in the next.
_REFUSAL_AUDIT_SECONDS = 1.0


@dataclass
class IntakeSession:
    """One association (or upload) of one hospital; its segment is opened with its first instance."""

    hospital_id: str
    sender: str
    lookup_key: bytes
    digest_key: PayloadDigestKey
    segment: SegmentWriter | None = None
    instances: int = 0
    facts: dict[str, str | int] = field(default_factory=dict)
    #: Study Instance UID and accession number of the instance before, and their lookups: those of the next are nearly always the same.
    lookups: tuple[str, bytes, dict[str, str]] | None = None


class GatewayIntake:
    """The listener's port onto spool, index and database. One object serves all associations of a process."""

    def __init__(
        self,
        database: Database,
        keys: KeyStore,
        spool: Spool,
        index: SpoolIndex,
        *,
        spool_path: Path,
        ae_title: str,
        free_bytes_floor: int,
        now: Callable[[], datetime],
        rates: HospitalRates | None = None,
    ) -> None:
        self.database, self.keys, self.spool, self.index, self.now = database, keys, spool, index, now
        self.limits = IntakeLimits(database, spool_path, free_bytes_floor=free_bytes_floor, now=now, rates=rates)
        self._ae_title = ae_title
        self._refusals: dict[tuple[str, str], tuple[datetime, int]] = {}
        self._refusals_lock = threading.Lock()

    # -- IntakePort

    def handshake_refused(self, address: str, reason: str) -> None:
        self._audit_refusal("tls_handshake_refused", address, {"reason": reason, "tls": True})

    def admit(self, peer: Peer) -> Admission | Refusal:
        with self.database.reading() as session:
            sender = session.get(DicomPeer, peer.calling_ae_title)
        refusal = self._refusal(peer, sender)
        if refusal is not None:
            detail = {"calling": peer.calling_ae_title, "called": peer.called_ae_title, "tls": peer.is_tls}
            self._audit_refusal(refusal.event_name, peer.address, {**detail, "certificate": peer.certificate_sha256 or ""})
            return refusal
        assert sender is not None
        if not self.limits.may_associate(sender.hospital_id):
            return TEMPORARY_CONGESTION
        return Admission(hospital_id=sender.hospital_id)

    def open_session(self, peer: Peer, admission: Admission, contexts: Sequence[AcceptedContext]) -> IntakeSession:
        return self.session(admission.hospital_id, peer.calling_ae_title, {"address": peer.address, "is_tls": int(peer.is_tls)})

    def receive_instance(self, session: object, head: InstanceHead, parts: Sequence[memoryview]) -> int:
        assert isinstance(session, IntakeSession)
        return receive_instance(self, session, head, parts)

    def begin_large_instance(self, session: object, head: InstanceHead) -> LargeIntake:
        assert isinstance(session, IntakeSession)
        return LargeIntake(self, session, head)

    def commit_storage(self, session: object, transaction_uid: str, instances: Sequence[InstanceReference]) -> CommitmentResult:
        """Which instances are kept (PS3.4 J.3.2). Being asked also means: the sender has sent everything of these studies."""
        assert isinstance(session, IntakeSession)
        if not self.index.flush():
            raise TemporarilyUnable("the index has not caught up")
        committed: list[InstanceReference] = []
        failed: list[FailedReference] = []
        with self.database.transaction() as rows:
            studies: set[int] = set()
            for instance in instances:
                lookup = self._instance_lookup(session, instance.sop_instance_uid)
                kept = [row for row in instances_by_lookup(rows, session.hospital_id, lookup) if not row.is_duplicate]
                same_class = [row for row in kept if row.sop_class_uid == instance.sop_class_uid]
                if same_class:
                    committed.append(instance)
                    studies.update(row.received_study_pk for row in same_class)
                else:
                    reason = dimse.CLASS_INSTANCE_CONFLICT if kept else dimse.NO_SUCH_OBJECT_INSTANCE
                    failed.append(FailedReference(instance.sop_class_uid, instance.sop_instance_uid, reason))
            for study_pk in sorted(studies):
                study = rows.get(ReceivedStudy, study_pk)
                if study is not None:
                    study.is_commitment_asked = True
                    rows.add(study)
            audit.append(
                rows,
                audit.AuditEvent(
                    event_id=audit.EventId.INSTANCES_TRANSFERRED,
                    event_type=audit.EventType.RECEIVE,
                    action=audit.Action.READ,
                    actor=session.sender,
                    hospital_id=session.hospital_id,
                    outcome=audit.Outcome.SUCCESS if not failed else audit.Outcome.MINOR_FAILURE,
                    detail={"commitment": True, "committed": len(committed), "failed": len(failed)},
                ),
                at=self.now(),
            )
        return CommitmentResult(committed, failed)

    def commitment_undelivered(self, session: object, transaction_uid: str, result: CommitmentResult) -> None:
        assert isinstance(session, IntakeSession)
        queue_commitment(
            self.database, self.keys, session.hospital_id, session.sender, CommitmentAnswer(transaction_uid, result), now=self.now()
        )

    def released(self, session: object, how: SessionEnd) -> None:
        assert isinstance(session, IntakeSession)
        self.close(session)
        log.info("association_ended", hospital_id=session.hospital_id, how=str(how), instances=session.instances)

    # -- also for uploads that come another way

    def session(self, hospital_id: str, sender: str, facts: dict[str, str | int]) -> IntakeSession:
        secret = lookup_secret(self.keys, hospital_id)
        return IntakeSession(hospital_id, sender, secret, PayloadDigestKey(secret), facts={"sender": sender, **facts})

    def close(self, session: IntakeSession) -> None:
        if session.segment is not None:
            session.segment.close()
            session.segment = None

    def segment_of(self, session: IntakeSession) -> SegmentWriter:
        """The session's open segment, or a new one: the first, or one after a sync that failed and spoiled the last."""
        if session.segment is not None and not session.segment.takes_frames:
            self.close(session)
        if session.segment is None:
            session.segment = self.spool.open_segment(session.hospital_id, session.facts)
        return session.segment

    def frame_header(
        self, session: IntakeSession, head: InstanceHead, facts: HeaderFacts, payload_bytes: int, payload_digest: str
    ) -> dict[str, Any]:
        """What a frame says of itself: enough to write its row again from the spool alone."""
        header = {
            "hospital_id": session.hospital_id,
            "received_at": self.now().isoformat(),
            "sop_class_uid": head.sop_class_uid,
            "transfer_syntax_uid": head.transfer_syntax_uid,
            "payload_bytes": payload_bytes,
            "payload_digest": payload_digest,
            "instance_lookup": self._instance_lookup(session, facts.sop_instance_uid),
            "sop_instance_uid": facts.sop_instance_uid,
        }
        header.update(_study_lookups(session, facts))
        return header

    # -- inside

    def _instance_lookup(self, session: IntakeSession, sop_instance_uid: str) -> str:
        return keyed_digest(session.lookup_key, "instance", sop_instance_uid)

    def _refusal(self, peer: Peer, sender: DicomPeer | None) -> Refusal | None:
        if peer.called_ae_title != self._ae_title:
            return CALLED_AE_TITLE_NOT_RECOGNIZED
        if sender is None:
            return CALLING_AE_TITLE_NOT_RECOGNIZED
        if peer.is_tls:
            is_own = sender.certificate_sha256 is not None and peer.certificate_sha256 == sender.certificate_sha256
            return None if is_own else CERTIFICATE_NOT_OF_AE_TITLE
        return None if sender.is_plaintext_allowed else CALLING_AE_TITLE_NOT_RECOGNIZED

    def _audit_refusal(self, event_name: str, address: str, detail: dict[str, Any]) -> None:
        now, key = self.now(), (event_name, address)
        with self._refusals_lock:
            last, silent = self._refusals.get(key, (now - timedelta(days=1), 0))
            if (now - last).total_seconds() < _REFUSAL_AUDIT_SECONDS:
                self._refusals[key] = (last, silent + 1)
                return
            if len(self._refusals) > 10_000:
                self._refusals.clear()
            self._refusals[key] = (now, 0)
        with self.database.transaction() as session:
            audit.append(
                session,
                audit.AuditEvent(
                    event_id=audit.EventId.SECURITY_ALERT,
                    event_type=audit.EventType.NODE_AUTHENTICATION,
                    action=audit.Action.EXECUTE,
                    actor="readgate/receive",
                    outcome=audit.Outcome.SERIOUS_FAILURE,
                    network_address=address,
                    detail={"event": event_name, **detail, "not_audited_before": silent},
                ),
                at=now,
            )


def _study_lookups(session: IntakeSession, facts: HeaderFacts) -> dict[str, str]:
    uid, accession_number = facts.study_instance_uid, facts.accession_number
    if session.lookups is not None and session.lookups[0] == uid and session.lookups[1] == accession_number:
        return session.lookups[2]
    lookups = {"study_lookup": keyed_digest(session.lookup_key, "study", uid)}
    if accession_number and accession_number.isascii():
        # As `accession_lookup` makes it. Outside ASCII it depends on the character set, which nobody decodes here.
        lookups["order_lookup"] = accession_digest(session.lookup_key, accession_number.decode("ascii"))
    session.lookups = (uid, accession_number, lookups)
    return lookups


def receive_instance(intake: GatewayIntake, session: IntakeSession, head: InstanceHead, parts: Sequence[memoryview]) -> int:
    """The instance is sealed and on the disk; returns 0x0000 (PS3.7 9.1.1). See the module for the steps.

    Raises: RefusedContent (mismatch, malformed header), TemporarilyUnable (no room, disk failed): nothing was kept then.
    """
    facts = checked_header(head, parts)
    payload_bytes = sum(part.nbytes for part in parts)
    intake.limits.require_instance(session.hospital_id)
    intake.limits.require_room(session.hospital_id, payload_bytes)
    digest = session.digest_key.begin()
    for part in parts:
        digest.update(part)
    header = intake.frame_header(session, head, facts, payload_bytes, digest.hexdigest())
    position = intake.segment_of(session).append(header, parts)
    session.instances += 1
    intake.index.add(SpooledFrame(position, header))
    return dimse.SUCCESS


def checked_header(head: InstanceHead, parts: Sequence[memoryview]) -> HeaderFacts:
    """The UIDs of the dataset, equal to those of the command (threat V8). Raises: RefusedContent."""
    facts = scan_header(parts, head.transfer_syntax_uid)
    if facts.sop_class_uid != head.sop_class_uid:
        raise RefusedContent(dimse.CLASS_MISMATCH, "the dataset is not of the class the command names", tag="(0008,0016)")
    if facts.sop_instance_uid != head.sop_instance_uid:
        raise RefusedContent(dimse.UID_MISMATCH, "the dataset is not the instance the command names", tag="(0008,0018)")
    return facts


class LargeIntake:
    """An instance over the association's window: each piece is a sealed frame of its own, the last frame names the pieces.

    Only the last frame makes an instance of them, and one sync behind it covers them all; pieces without it are dropped with their segment.
    All lie in one segment: the row of the instance names one, and a segment that no row names is removed.
    """

    def __init__(self, intake: GatewayIntake, session: IntakeSession, head: InstanceHead) -> None:
        self._intake, self._session, self._head = intake, session, head
        self._facts: HeaderFacts | None = None
        self._digest = session.digest_key.begin()
        self._bytes = 0
        self._pieces: list[list[int]] = []
        self._segment_id: str | None = None
        intake.limits.require_instance(session.hospital_id)
        self._segment: SegmentWriter | None = None

    def append(self, parts: Sequence[memoryview]) -> None:
        if self._facts is None:
            self._facts = checked_header(self._head, parts)
        self._intake.limits.require_room(self._session.hospital_id, sum(part.nbytes for part in parts))
        for part in parts:
            self._digest.update(part)
            self._bytes += part.nbytes
        if self._segment is None:
            # Not before the header was checked: a sender of nonsense makes no files.
            self._segment = self._intake.segment_of(self._session)
        position = self._segment.append_behind({"piece": len(self._pieces)}, parts, in_segment=self._segment_id)
        self._segment_id = position.segment_id
        self._pieces.append([position.offset, position.length])

    def finish(self) -> int:
        assert self._facts is not None and self._segment is not None, "the listener hands over at least one piece"
        header = self._intake.frame_header(self._session, self._head, self._facts, self._bytes, self._digest.hexdigest())
        header["pieces"] = self._pieces
        # If we crash before this returns, some pieces are on the disk and nothing names them.
        position = self._segment.append(header, [], in_segment=self._segment_id)
        self._session.instances += 1
        self._intake.index.add(SpooledFrame(position, header))
        return dimse.SUCCESS

    def discard(self) -> None:
        """Nothing to undo: pieces that no frame names are nobody's."""


def read_spooled_payload(spool: Spool, position: FramePosition) -> bytes:
    """The payload of an acknowledged instance as it was received, bit for bit. Raises: IntegrityFailure, NotFound."""
    header, payload = spool.read_frame(position)
    pieces = header.get("pieces")
    if pieces is None:
        return payload
    return b"".join(spool.read_frame(FramePosition(position.segment_id, offset, length))[1] for offset, length in pieces)
