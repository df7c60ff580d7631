"""The audit log: numbered without gaps whoever writes, with the effect or not at all, and no change goes unseen. On both databases."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from compliance import audit
from compliance.audit import AuditCheckpoint, AuditEntry, AuditHead
from compliance.audit_checkpoint import keep_checkpoint, verify_log
from compliance.database import Database
from compliance.hospital import Hospital
from crypto.checkpoint import LogSigner
from gateway.schema import migrate
from tests.postgres_server import postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]
NOW = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
SIGNER = LogSigner("readgate.audit", bytes(32))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.interop)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path / 'log.sqlite3'}" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    opened = Database(url)
    migrate(opened)
    yield opened
    opened.close()


def event(number: int, **fields: Any) -> audit.AuditEvent:
    kept = {"event_id": audit.EventId.QUERY, "event_type": audit.EventType.OPEN, "action": audit.Action.READ, "actor": f"r{number}"}
    return audit.AuditEvent(**{**kept, "detail": {"n": number, "share": number / 3}, **fields})


def append(database: Database, number: int, **fields: Any) -> audit.AuditReceipt:
    with database.transaction() as session:
        return audit.append(session, event(number, **fields), at=NOW + timedelta(seconds=number, microseconds=number))


def findings(database: Database, *witnessed: str) -> list[str]:
    with database.reading() as session:
        return verify_log(session, SIGNER.public_key, witnessed=witnessed).findings


def fill(database: Database, count: int = 12) -> list[str]:
    """Entries, and the checkpoints of every fourth."""
    notes = []
    for number in range(count):
        append(database, number, sealed_body=b"x" if number == 3 else None)
        if number % 4 == 3:
            notes.append(keep_checkpoint(database, SIGNER, now=NOW) or "")
    return notes


def test_entries_are_numbered_from_zero_and_verify(database: Database) -> None:
    receipts = [append(database, number) for number in range(9)]
    assert [receipt.entry_index for receipt in receipts] == list(range(9))
    assert len({receipt.leaf_hash for receipt in receipts}) == 9
    assert findings(database) == []


def test_an_effect_that_fails_leaves_no_entry_and_no_gap(database: Database) -> None:
    append(database, 0)
    with pytest.raises(ZeroDivisionError), database.transaction() as session:
        session.add(Hospital(hospital_id="h9", name="x", jurisdiction="DE", storage_country="DE", created_at=NOW))
        audit.append(session, event(1), at=NOW)
        raise ZeroDivisionError
    assert append(database, 2).entry_index == 1
    with database.reading() as session:
        assert session.get(Hospital, "h9") is None
    assert findings(database) == []


def test_sixteen_writers_at_once_leave_no_gap_and_one_tree(database: Database) -> None:
    barrier = threading.Barrier(16)
    indices: list[int] = []

    def write(number: int) -> None:
        barrier.wait()
        for turn in range(5):
            indices.append(append(database, number * 100 + turn).entry_index)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(indices) == list(range(80))
    assert findings(database) == []


def test_a_checkpoint_is_signed_once_per_size(database: Database) -> None:
    assert keep_checkpoint(database, SIGNER, now=NOW) is None
    append(database, 0)
    assert keep_checkpoint(database, SIGNER, now=NOW) is not None
    assert keep_checkpoint(database, SIGNER, now=NOW) is None


TAMPERINGS = {
    "actor": {"actor": "somebody-else"},
    "backdated": {"recorded_at": NOW - timedelta(days=1)},
    "outcome": {"outcome": "8"},
    "detail": {"detail": {"n": -1}},
    "code": {"event_type": audit.EventType.CLAIM},
    "salt": {"salt": "0" * 32},
    "leaf": {"leaf_hash": "0" * 64},
    "sealed": {"sealed_body": b"other"},
    "study": {"study_instance_uid": "2.25.1"},
}


@pytest.mark.parametrize("fields", TAMPERINGS.values(), ids=TAMPERINGS.keys())
def test_a_changed_column_is_seen(database: Database, fields: dict[str, Any]) -> None:
    fill(database)
    with database.transaction() as session:
        entry = session.get(AuditEntry, 3)
        assert entry is not None
        for name, value in fields.items():
            setattr(entry, name, value)
        session.add(entry)
    assert findings(database)


@pytest.mark.parametrize("index", [0, 5, 11])
def test_a_deleted_entry_is_seen(database: Database, index: int) -> None:
    fill(database)
    with database.transaction() as session:
        session.delete(session.get(AuditEntry, index))
    assert findings(database)


def test_two_swapped_entries_are_seen(database: Database) -> None:
    fill(database)
    with database.transaction() as session:
        one, other = session.get(AuditEntry, 4), session.get(AuditEntry, 5)
        assert one is not None and other is not None
        one.actor, other.actor = other.actor, one.actor
        session.add_all([one, other])
    assert findings(database)


def test_a_head_that_was_set_back_is_seen(database: Database) -> None:
    fill(database)
    with database.transaction() as session:
        head = session.exec(select(AuditHead)).one()
        head.size, head.frontier = 8, head.frontier[:1]
        session.add(head)
    assert findings(database)


def test_a_forged_checkpoint_is_seen(database: Database) -> None:
    fill(database)
    with database.transaction() as session:
        note = LogSigner("readgate.audit", bytes(range(32))).sign_checkpoint(5, bytes(32))
        session.add(AuditCheckpoint(size=5, note=note, signed_at=NOW))
    assert findings(database) == ["a checkpoint's signature does not verify"]


def rewrite(database: Database, until: int) -> None:
    """The log made anew from its first entry, consistently, by who can write every row and sign."""
    with database.transaction() as session:
        kept = [entry.model_dump() for entry in audit.entries(session, stop=until)]
        for kind in (AuditCheckpoint, AuditEntry):
            for row in session.exec(select(kind)).all():
                session.delete(row)
        head = session.exec(select(AuditHead)).one()
        head.size, head.frontier = 0, []
        session.add(head)
        session.flush()
        session.expunge_all()
        for row in kept:
            audit.append(session, event(row["entry_index"], actor="nobody"), at=row["recorded_at"])


def test_a_log_rewritten_whole_agrees_with_itself_and_not_with_its_witnesses(database: Database) -> None:
    notes = fill(database)
    rewrite(database, until=12)
    assert findings(database) == []
    assert [finding for note in notes for finding in findings(database, note)] == [
        f"the log contradicts its checkpoint of size {size}" for size in (4, 8, 12)
    ]


def test_a_log_cut_short_is_seen_by_its_witness(database: Database) -> None:
    notes = fill(database)
    rewrite(database, until=6)
    assert findings(database, notes[-1]) == ["a checkpoint of size 12 reaches beyond the log"]


def test_a_document_is_no_detail(database: Database) -> None:
    with pytest.raises(ValueError, match="identifiers and counts"), database.transaction() as session:
        audit.append(session, event(0, detail={"text": "x" * 20_000}), at=NOW)
    assert append(database, 1).entry_index == 0
