"""The audit log as a file that anybody can check offline with docs/verify_audit.py, and its renderings in DICOM's and FHIR's words.

A bundle is JSON Lines, each in canonical form (RFC 8785), so that a changed byte is a finding even where it changes no value:
header {"format", "key", "kind"}; {"entry"} (in a PART with its "proof"); {"checkpoint"} behind the entry that completes it; {"end"}.
A WHOLE bundle runs from entry 0; a PART holds one hospital's or study's entries, each with its inclusion proof in the newest tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, col, select

from compliance import audit
from compliance.audit import AuditCheckpoint, AuditEntry, entries, tree_head
from compliance.audit_checkpoint import keep_checkpoint
from compliance.study import Study
from crypto.canonical import canonical_json
from crypto.errors import IntegrityFailure, TemporarilyUnable
from crypto.merkle import inclusion_proof, node_hash, root_hash
from gateway.application import Application

FORMAT = "readgate-audit-bundle/1"
Write = Callable[[bytes], object]


@dataclass(frozen=True)
class Selection:
    """Which entries: all, or those of a hospital, a study, or from an index on."""

    hospital_id: str | None = None
    study_instance_uid: str | None = None

    @property
    def is_whole(self) -> bool:
        return self.hospital_id is None and self.study_instance_uid is None

    def matches(self, entry: AuditEntry) -> bool:
        return (self.hospital_id is None or entry.hospital_id == self.hospital_id) and (
            self.study_instance_uid is None or entry.study_instance_uid == self.study_instance_uid
        )


@dataclass(frozen=True)
class Exported:
    """What a bundle holds; `checkpoint` is the note that covers it, for a witness to keep."""

    entries: int
    size: int
    root: str
    checkpoint: str


def export_bundle(app: Application, write: Write, selection: Selection, *, actor: str) -> Exported:
    """The bundle was given to `write`. The reading is itself the last entry of it (110101 Audit Log Used).

    Raises: IntegrityFailure where the log contradicts itself (run readgate audit verify).
    """
    note_reading(app, actor, selection, "bundle")
    note = checkpoint_now(app)
    size = note.size
    write(_line({"format": FORMAT, "key": app.log_signer.verifier_key, "kind": "WHOLE" if selection.is_whole else "PART"}))
    with app.database.reading() as session:
        tree = _Levels(_leaves(session, size))
        if selection.is_whole:
            counts = _write_whole(session, write, size)
        else:
            counts = _write_part(session, write, selection, tree, size), 1
            write(_line({"checkpoint": note.note}))
    root = tree.root().hex()
    write(_line({"end": {"size": size, "root": root, "entries": counts[0], "checkpoints": counts[1]}}))
    return Exported(counts[0], size, root, note.note)


def checkpoint_now(app: Application) -> AuditCheckpoint:
    """The newest checkpoint, signed now where the log grew since; one that covers the whole log as it is."""
    for _ in range(5):
        keep_checkpoint(app.database, app.log_signer, now=app.now())
        with app.database.reading() as session:
            newest = session.exec(select(AuditCheckpoint).order_by(col(AuditCheckpoint.size).desc()).limit(1)).first()
        if newest is not None:
            return newest
    raise TemporarilyUnable("the log grew faster than it could be signed")


def note_reading(app: Application, actor: str, selection: Selection, what: str) -> None:
    """That somebody read the log is itself an entry."""
    with app.database.transaction() as session:
        audit.append(
            session,
            audit.AuditEvent(
                event_id=audit.EventId.AUDIT_LOG_USED,
                event_type=audit.EventType.LOG_READ,
                action=audit.Action.READ,
                actor=actor,
                hospital_id=selection.hospital_id,
                study_instance_uid=selection.study_instance_uid,
                detail={"as": what},
            ),
            at=app.now(),
        )


def selected(session: Session, selection: Selection, *, stop: int | None = None) -> Iterator[tuple[AuditEntry, str | None]]:
    """The entries with the patient's pseudonym where one stands behind them."""
    pseudonyms = {uid: pseudonym for uid, pseudonym in session.exec(select(Study.study_instance_uid, Study.patient_pseudonym)).all()}
    for entry in entries(session, stop=stop):
        if selection.matches(entry):
            yield entry, pseudonyms.get(entry.study_instance_uid or "")


def exported_entry(entry: AuditEntry) -> dict[str, Any]:
    """Everything the leaf commits to, and the salt that opens the commitment."""
    return {
        "index": entry.entry_index,
        "at": audit.instant_text(entry.recorded_at),
        "event_id": str(entry.event_id),
        "event_type": str(entry.event_type),
        "salt": entry.salt,
        **audit.body_of(entry),
    }


def _write_whole(session: Session, write: Write, size: int) -> tuple[int, int]:
    notes = {row.size: row.note for row in session.exec(select(AuditCheckpoint).where(AuditCheckpoint.size <= size)).all()}
    count = checkpoints = 0
    for entry in entries(session, stop=size):
        write(_line({"entry": exported_entry(entry)}))
        count += 1
        if count in notes:
            write(_line({"checkpoint": notes[count]}))
            checkpoints += 1
    return count, checkpoints


def _write_part(session: Session, write: Write, selection: Selection, tree: _Levels, size: int) -> int:
    count = 0
    for entry in entries(session, stop=size):
        if selection.matches(entry):
            proof = [node.hex() for node in inclusion_proof(tree.node, entry.entry_index, size)]
            write(_line({"entry": exported_entry(entry), "proof": proof}))
            count += 1
    return count


def _leaves(session: Session, size: int) -> list[bytes]:
    rows = session.exec(select(AuditEntry.leaf_hash).where(AuditEntry.entry_index < size).order_by(col(AuditEntry.entry_index))).all()
    if len(rows) != size or tree_head(session).size < size:
        raise IntegrityFailure("the audit log has a gap")
    return [bytes.fromhex(row) for row in rows]


class _Levels:
    """Every complete subtree of the leaves, worked out once: a proof then costs a few look-ups."""

    def __init__(self, leaves: list[bytes]) -> None:
        self._levels = [leaves]
        while len(below := self._levels[-1]) > 1:
            self._levels.append([node_hash(below[at], below[at + 1]) for at in range(0, len(below) - 1, 2)])

    def node(self, level: int, index: int) -> bytes:
        return self._levels[level][index]

    def root(self) -> bytes:
        return root_hash(self.node, len(self._levels[0]))


def _line(record: dict[str, Any]) -> bytes:
    return canonical_json(record) + b"\n"
