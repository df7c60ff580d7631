"""Checkpoints of the audit log, and the check that the log is what every checkpoint said.

A checkpoint (C2SP signed note) says: at this size the tree had this root. Witnesses keep copies outside our reach; a log that was
rewritten cannot reproduce the roots they hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from sqlmodel import Session, col, select

from compliance.audit import AuditCheckpoint, entries, leaf_bytes, tree_head
from compliance.database import Database
from crypto.checkpoint import LogSigner, verify_checkpoint
from crypto.errors import IntegrityFailure
from crypto.merkle import CompactRange, leaf_hash


@dataclass
class LogVerification:
    """What was found; sound when `findings` is empty."""

    size: int
    root: str
    checkpoints: int
    findings: list[str] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        return not self.findings


def keep_checkpoint(database: Database, signer: LogSigner, *, now: datetime) -> str | None:
    """A signed checkpoint of the present tree stands in the database; its text, or None where one of this size stands already."""
    with database.transaction() as session:
        tree = tree_head(session)
        if tree.size == 0 or session.get(AuditCheckpoint, tree.size) is not None:
            return None
        note = signer.sign_checkpoint(tree.size, tree.root())
        session.add(AuditCheckpoint(size=tree.size, note=note, signed_at=now))
        return note


def newest_checkpoint(session: Session) -> AuditCheckpoint | None:
    return session.exec(select(AuditCheckpoint).order_by(col(AuditCheckpoint.size).desc()).limit(1)).first()


def verify_log(session: Session, public_key: bytes, *, witnessed: Iterable[str] = ()) -> LogVerification:
    """Every entry gives its leaf, every checkpoint (kept here or `witnessed`) its root, and the head is the end of the log.

    `witnessed` are notes a witness kept: the only ones a rewritten database cannot have rewritten too.
    """
    head = tree_head(session)
    findings: list[str] = []
    expected: dict[int, set[bytes]] = {}
    notes = [row.note for row in session.exec(select(AuditCheckpoint)).all()]
    for note in [*notes, *witnessed]:
        try:
            checkpoint = verify_checkpoint(note, public_key)
        except IntegrityFailure:
            findings.append("a checkpoint's signature does not verify")
            continue
        expected.setdefault(checkpoint.size, set()).add(checkpoint.root)
    tree = CompactRange()
    for entry in entries(session):
        if entry.entry_index != tree.size:
            findings.append(f"entry {tree.size} is missing")
            break
        leaf = leaf_hash(leaf_bytes(entry))
        if leaf.hex() != entry.leaf_hash:
            findings.append(f"entry {entry.entry_index} is not what was logged")
        tree = tree.append(leaf)
        for root in expected.pop(tree.size, set()):
            if root != tree.root():
                findings.append(f"the log contradicts its checkpoint of size {tree.size}")
    findings += [f"a checkpoint of size {size} reaches beyond the log" for size in sorted(expected)]
    if (tree.size, tree.root()) != (head.size, head.root()):
        findings.append("the log does not end where its head says")
    return LogVerification(tree.size, tree.root().hex(), len(notes), findings)
