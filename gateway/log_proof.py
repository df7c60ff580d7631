"""Inclusion proofs of the audit log (RFC 6962 2.1.1) from the leaves in the database, without reading all of them each time.

The hash of a complete subtree never changes, so those of 1,024 leaves and more are kept in memory: a proof reads a few thousand leaf
hashes, however long the log is, once every part of it was visited.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlmodel import Session, col, select

from compliance.audit import AuditEntry, tree_head
from compliance.audit_checkpoint import newest_checkpoint
from crypto.checkpoint import verify_checkpoint
from crypto.errors import IntegrityFailure
from crypto.merkle import inclusion_proof, node_hash, verify_inclusion

_KEPT_LEVEL = 10


@dataclass(frozen=True)
class LogProof:
    """That entry `index` stands in the log of `size` entries with this root. `checkpoint` is the signed note of that size, or ""."""

    index: int
    leaf: bytes
    size: int
    root: bytes
    path: tuple[bytes, ...]
    checkpoint: str = ""


class SubtreeHashes:
    """Hashes of complete subtrees that were computed before. One object serves a process; two threads may compute the same hash."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int], bytes] = {}

    def node(self, session: Session, level: int, index: int) -> bytes:
        if level < _KEPT_LEVEL:
            return _hash_of(_leaves(session, index << level, (index + 1) << level))
        key = (level, index)
        if key not in self._kept:
            if level == _KEPT_LEVEL:
                self._kept[key] = _hash_of(_leaves(session, index << level, (index + 1) << level))
            else:
                self._kept[key] = node_hash(self.node(session, level - 1, 2 * index), self.node(session, level - 1, 2 * index + 1))
        return self._kept[key]


def prove_entry(session: Session, hashes: SubtreeHashes, entry_index: int, public_key: bytes) -> LogProof:
    """A proof under the newest signed checkpoint that reaches so far, else under the present head; verified before it is returned.

    Raises: IntegrityFailure where the log does not give the root it should.
    """
    checkpoint = newest_checkpoint(session)
    head = tree_head(session)
    size, root, note = head.size, head.root(), ""
    if checkpoint is not None and checkpoint.size > entry_index:
        size, root, note = checkpoint.size, verify_checkpoint(checkpoint.note, public_key).root, checkpoint.note
    path = inclusion_proof(lambda level, index: hashes.node(session, level, index), entry_index, size)
    leaf = _leaves(session, entry_index, entry_index + 1)[0]
    if not verify_inclusion(leaf, entry_index, size, path, root):
        raise IntegrityFailure("the audit log does not give the root of its head")
    return LogProof(entry_index, leaf, size, root, tuple(path), note)


def _leaves(session: Session, start: int, stop: int) -> list[bytes]:
    rows = session.exec(
        select(AuditEntry.leaf_hash)
        .where(AuditEntry.entry_index >= start, AuditEntry.entry_index < stop)
        .order_by(col(AuditEntry.entry_index))
    ).all()
    if len(rows) != stop - start:
        raise IntegrityFailure("the audit log has a gap")
    return [bytes.fromhex(row) for row in rows]


def _hash_of(leaves: list[bytes]) -> bytes:
    """The root of a complete tree over these leaves, a power of two of them."""
    while len(leaves) > 1:
        leaves = [node_hash(leaves[number], leaves[number + 1]) for number in range(0, len(leaves), 2)]
    return leaves[0]
