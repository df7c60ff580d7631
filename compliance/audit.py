"""The audit log: an effect happens if and only if its entry does.

Invariants
- `append` runs inside the caller's transaction; entry, tree head and effect commit together or not at all.
- Entries are numbered without gaps from 0; entry i is leaf i of one Merkle tree (RFC 6962, crypto/merkle.py).
- A leaf is a commitment: it holds the entry's number, time, event code and the salted SHA-256 of its body. What names a patient stands
  sealed in `sealed_body` under a key that can be shredded; the proof survives the shredding.
- Columns of an entry never hold an identifying value: pseudonymous identifiers, codes and counts only.

Event codes are those of DICOM PS3.15 A.5 (CID 400), the renderings are in `audit_rendering.py`.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, LargeBinary
from sqlmodel import Field, Session, SQLModel, col, select

from compliance.database import Database, UtcDateTime
from crypto.canonical import canonical_json
from crypto.errors import IntegrityFailure, TemporarilyUnable
from crypto.merkle import CompactRange, leaf_hash

_HEAD_PK = 1
#: No leaf may grow beyond this (C2SP tlog-tiles gives an entry 65,535 bytes; a commitment needs far less).
LEAF_BYTES_MAX = 1024
_DETAIL_BYTES_MAX = 16_384


class EventId(StrEnum):
    """EventID of PS3.15 A.5.3, coding scheme DCM."""

    APPLICATION_ACTIVITY = "110100"
    AUDIT_LOG_USED = "110101"
    BEGIN_TRANSFERRING = "110102"
    INSTANCES_ACCESSED = "110103"
    INSTANCES_TRANSFERRED = "110104"
    STUDY_DELETED = "110105"
    EXPORT = "110106"
    IMPORT = "110107"
    NETWORK_ENTRY = "110108"
    ORDER_RECORD = "110109"
    PATIENT_RECORD = "110110"
    PROCEDURE_RECORD = "110111"
    QUERY = "110112"
    SECURITY_ALERT = "110113"
    USER_AUTHENTICATION = "110114"


class EventType(StrEnum):
    """EventTypeCode where PS3.15 A.5.3 has one, and Readgate's own acts (scheme 99READGATE) where it has none."""

    APPLICATION_START = "110120"
    APPLICATION_STOP = "110121"
    LOGIN = "110122"
    LOGOUT = "110123"
    ATTACH = "110124"
    NODE_AUTHENTICATION = "110126"
    EMERGENCY_OVERRIDE_STARTED = "110127"
    EMERGENCY_OVERRIDE_STOPPED = "110138"
    NETWORK_CONFIGURATION = "110128"
    SECURITY_CONFIGURATION = "110129"
    RESTRICTED_FUNCTION = "110132"
    USER_SECURITY_CHANGED = "110137"
    RECEIVE = "RG_RECEIVE"
    DEIDENTIFY = "RG_DEIDENTIFY"
    QUARANTINE = "RG_QUARANTINE"
    ROUTE = "RG_ROUTE"
    CLAIM = "RG_CLAIM"
    RELEASE = "RG_RELEASE"
    LEASE_EXPIRED = "RG_LEASE_EXPIRED"
    OPEN = "RG_OPEN"
    DRAFT = "RG_DRAFT"
    SIGN = "RG_SIGN"
    DELIVER = "RG_DELIVER"
    REIDENTIFY = "RG_REIDENTIFY"
    DECIDE = "RG_DECIDE"
    REVOKE = "RG_REVOKE"
    KEY_ROTATED = "RG_KEY_ROTATED"
    SHRED = "RG_SHRED"
    REFUSED = "RG_REFUSED"
    AMENDED = "RG_AMENDED"
    REMIND = "RG_REMIND"
    LOG_READ = "RG_LOG_READ"
    LOG_VERIFIED = "RG_LOG_VERIFIED"


class Action(StrEnum):
    """EventActionCode of PS3.15 A.5.2."""

    CREATE = "C"
    READ = "R"
    UPDATE = "U"
    DELETE = "D"
    EXECUTE = "E"


class Outcome(StrEnum):
    """EventOutcomeIndicator of PS3.15 A.5.2."""

    SUCCESS = "0"
    MINOR_FAILURE = "4"
    SERIOUS_FAILURE = "8"
    MAJOR_FAILURE = "12"


@dataclass(frozen=True)
class AuditEvent:
    """What happened, who did it, to what; pseudonymous identifiers and codes only."""

    event_id: EventId
    event_type: EventType
    action: Action
    actor: str
    outcome: Outcome = Outcome.SUCCESS
    hospital_id: str | None = None
    study_instance_uid: str | None = None
    object_id: str | None = None
    decision_digest: str | None = None
    network_address: str | None = None
    detail: Mapping[str, str | int | float | bool | list[str] | None] = field(default_factory=dict)
    sealed_body: bytes | None = None


@dataclass(frozen=True)
class AuditReceipt:
    entry_index: int
    leaf_hash: str


class AuditEntry(SQLModel, table=True):
    __tablename__ = "audit_entry"
    entry_index: int = Field(sa_column=Column(BigInteger().with_variant(BigInteger(), "postgresql"), primary_key=True, autoincrement=False))
    recorded_at: datetime = Field(sa_type=UtcDateTime, index=True)
    event_id: str = Field(index=True)
    event_type: str = Field(index=True)
    action: str
    outcome: str
    actor: str = Field(index=True)
    hospital_id: str | None = Field(default=None, index=True)
    study_instance_uid: str | None = Field(default=None, index=True)
    object_id: str | None = None
    decision_digest: str | None = None
    network_address: str | None = None
    detail: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    sealed_body: bytes | None = Field(default=None, sa_column=Column(LargeBinary))
    salt: str
    leaf_hash: str


class AuditHead(SQLModel, table=True):
    """One row: the compact range of the whole tree, so that an append costs O(log n)."""

    __tablename__ = "audit_head"
    head_pk: int = Field(primary_key=True)
    size: int = Field(sa_type=BigInteger)
    frontier: list[str] = Field(sa_column=Column(JSON, nullable=False))


class AuditCheckpoint(SQLModel, table=True):
    """A signed tree head (C2SP signed note) as it was handed to the witnesses."""

    __tablename__ = "audit_checkpoint"
    size: int = Field(sa_type=BigInteger, primary_key=True)
    note: str
    signed_at: datetime = Field(sa_type=UtcDateTime)


def append(session: Session, event: AuditEvent, *, at: datetime) -> AuditReceipt:
    """The event is entry n of the log when the caller's transaction commits, and not otherwise.

    The head row is locked for the rest of the transaction: appends are totally ordered, so call this late.
    """
    (receipt,) = append_many(session, [event], at=at)
    return receipt


def append_many(session: Session, events: Sequence[AuditEvent], *, at: datetime) -> list[AuditReceipt]:
    """`append` of each of `events`, in their order; the log's head is read and written once."""
    head = session.exec(select(AuditHead).where(AuditHead.head_pk == _HEAD_PK).with_for_update()).first()
    if head is None:
        head = AuditHead(head_pk=_HEAD_PK, size=0, frontier=[])
    tree = _compact(head)
    receipts = []
    for event in events:
        if len(canonical_json(dict(event.detail))) > _DETAIL_BYTES_MAX:
            raise ValueError("an audit entry's detail is for identifiers and counts, not for documents")
        entry = AuditEntry(
            entry_index=tree.size,
            recorded_at=at,
            event_id=event.event_id,
            event_type=event.event_type,
            action=event.action,
            outcome=event.outcome,
            actor=event.actor,
            hospital_id=event.hospital_id,
            study_instance_uid=event.study_instance_uid,
            object_id=event.object_id,
            decision_digest=event.decision_digest,
            network_address=event.network_address,
            detail=dict(event.detail),
            sealed_body=event.sealed_body,
            salt=secrets.token_hex(16),
            leaf_hash="",
        )
        leaf = leaf_hash(leaf_bytes(entry))
        entry.leaf_hash = leaf.hex()
        tree = tree.append(leaf)
        session.add(entry)
        receipts.append(AuditReceipt(entry_index=entry.entry_index, leaf_hash=entry.leaf_hash))
    head.size, head.frontier = tree.size, [node.hex() for node in tree.hashes]
    session.add(head)
    session.flush()
    return receipts


def ensure_head(database: Database) -> None:
    """The row every append locks is there. Made with the schema: two first appends at once would both make it."""
    with database.reading() as session:
        if session.get(AuditHead, _HEAD_PK) is not None:
            return
    try:
        with database.transaction() as session:
            if session.get(AuditHead, _HEAD_PK) is None:
                session.add(AuditHead(head_pk=_HEAD_PK, size=0, frontier=[]))
    except TemporarilyUnable:
        # Another process made it first, or the database is away.
        with database.reading() as session:
            if session.get(AuditHead, _HEAD_PK) is None:
                raise


def leaf_bytes(entry: AuditEntry) -> bytes:
    """The bytes that stand in the tree for `entry`: number, time, code and the salted digest of everything else."""
    leaf = canonical_json(
        {
            "v": 1,
            "index": entry.entry_index,
            "at": instant_text(entry.recorded_at),
            "event": f"{entry.event_id}/{entry.event_type}",
            "body": hashlib.sha256(entry.salt.encode() + canonical_json(body_of(entry))).hexdigest(),
        }
    )
    if len(leaf) > LEAF_BYTES_MAX:
        raise ValueError("an audit leaf over its limit")
    return leaf


def body_of(entry: AuditEntry) -> dict[str, Any]:
    """Everything of the entry that its leaf commits to; the sealed part by its digest, so that it can be shredded."""
    return {
        "action": entry.action,
        "outcome": entry.outcome,
        "actor": entry.actor,
        "hospital_id": entry.hospital_id,
        "study_instance_uid": entry.study_instance_uid,
        "object_id": entry.object_id,
        "decision_digest": entry.decision_digest,
        "network_address": entry.network_address,
        "detail": entry.detail,
        "sealed_body": hashlib.sha256(entry.sealed_body).hexdigest() if entry.sealed_body is not None else None,
    }


def instant_text(at: datetime) -> str:
    """RFC 3339 in UTC to the microsecond: the same text from either database."""
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def entries(session: Session, *, start: int = 0, stop: int | None = None, batch: int = 1000) -> Iterator[AuditEntry]:
    """Entries from `start` up to `stop` (exclusive), in order, in batches."""
    while stop is None or start < stop:
        end = start + batch if stop is None else min(start + batch, stop)
        rows = session.exec(
            select(AuditEntry).where(AuditEntry.entry_index >= start, AuditEntry.entry_index < end).order_by(col(AuditEntry.entry_index))
        ).all()
        yield from rows
        if len(rows) < end - start:
            return
        start = end
        session.expunge_all()


def tree_head(session: Session) -> CompactRange:
    """The log's present compact range: `.size` entries, `.root()`."""
    head = session.get(AuditHead, _HEAD_PK)
    if head is None:
        return CompactRange()
    return _compact(head)


def require_entry(session: Session, entry_index: int) -> AuditEntry:
    """Entry `entry_index`. Raises: IntegrityFailure where the log has a gap."""
    entry = session.get(AuditEntry, entry_index)
    if entry is None:
        raise IntegrityFailure("the audit log has no such entry")
    return entry


def _compact(head: AuditHead) -> CompactRange:
    return CompactRange(head.size, tuple(bytes.fromhex(node) for node in head.frontier))
