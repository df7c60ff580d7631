"""Changes of the registers that another process made: read from the audit log, where every change stands, and followed at once.

A command, a program behind the API of another process, or a process that died between its change and the effect of it: the entry of the
change is in the log in any case. The cursor says up to which entry every change has had its effect; it moves after the effect, so that
a crash repeats an effect (which then finds nothing left to do) and never loses one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import structlog
from sqlmodel import col, select

from compliance.audit import AuditEntry, EventType, tree_head
from compliance.bulkhead import bulkhead
from gateway.application import Application
from gateway.register_cursor import CURSOR_PK, RegisterCursor
from gateway.register_effects import take_effect, take_effect_of_evidence

log = structlog.get_logger()
_CHANGES = (EventType.SECURITY_CONFIGURATION, EventType.USER_SECURITY_CHANGED)
#: More patients of one hospital than this in one look are followed as a change of the whole hospital.
_PATIENTS_MAX = 20


@dataclass
class Changes:
    """What the entries of one look touch."""

    reader_ids: set[str] = field(default_factory=set)
    parties: set[tuple[str, ...]] = field(default_factory=set)
    #: Hospital -> patients whose consent changed.
    patients: dict[str, set[str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.reader_ids or self.parties or self.patients)


def follow_registers(app: Application) -> bool:
    """Every change that stands in the log has had its effect; whether there was one since the last look.

    Raises: TemporarilyUnable.
    """
    with app.database.reading() as session:
        cursor, size = session.get(RegisterCursor, CURSOR_PK), tree_head(session).size
        found: list[AuditEntry] = []
        if cursor is not None and cursor.next_index < size:
            found = list(
                session.exec(
                    select(AuditEntry).where(
                        AuditEntry.entry_index >= cursor.next_index,
                        AuditEntry.entry_index < size,
                        col(AuditEntry.event_type).in_(_CHANGES),
                    )
                ).all()
            )
    if cursor is not None and cursor.next_index >= size:
        return False
    changes = changes_of(found)
    if changes:
        _take_effect(app, changes)
        log.info("registers_followed", count=len(found))
    # If we crash here the same changes are followed again, and find nothing left to do.
    with app.database.transaction() as session:
        # Without a cursor nothing was ever routed here: what stands in the log was known to the first routing.
        row = session.get(RegisterCursor, CURSOR_PK, with_for_update=True) or RegisterCursor(cursor_pk=CURSOR_PK, next_index=size)
        row.next_index = max(row.next_index, size)
        session.add(row)
    return bool(changes)


def changes_of(entries: Iterable[AuditEntry]) -> Changes:
    """What these entries of the log say was changed; entries about other things are passed over."""
    changes = Changes()
    for entry in entries:
        detail = entry.detail
        if "evidence" in detail:
            changes.parties.add(tuple(detail.get("parties", ())))
        elif entry.hospital_id is not None and ("consent" in detail or "us_person" in detail):
            changes.patients.setdefault(entry.hospital_id, set()).add(str(detail.get("patient", "")))
        elif entry.event_type == EventType.USER_SECURITY_CHANGED and (name := detail.get("reader") or detail.get("principal")):
            changes.reader_ids.add(str(name))
    return changes


def _take_effect(app: Application, changes: Changes) -> None:
    """A change that cannot be followed is left out and logged: held up at it, the cursor would keep every later one from its effect."""
    if changes.reader_ids:
        with bulkhead("follow_registers"):
            take_effect(app, reader_ids=sorted(changes.reader_ids))
    for parties in sorted(changes.parties):
        with bulkhead("follow_registers"):
            take_effect_of_evidence(app, parties)
    for hospital_id, patients in sorted(changes.patients.items()):
        with bulkhead("follow_registers", hospital_id=hospital_id):
            if len(patients) > _PATIENTS_MAX or "" in patients:
                take_effect(app, hospital_ids=[hospital_id])
                continue
            for pseudonym in sorted(patients):
                take_effect(app, hospital_ids=[hospital_id], patient_pseudonym=pseudonym)
