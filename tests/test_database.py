"""Transactions on both databases: all or nothing, and every way a busy database says no is one that the caller may try again."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError
from sqlmodel import select

from compliance.audit import AuditHead, ensure_head
from compliance.credential import Employer, Reader
from compliance.crosswalk import PatientLink, ensure_patient
from compliance.database import Database
from compliance.hospital import Hospital
from crypto.errors import TemporarilyUnable
from crypto.keys import FileKeyStore
from gateway.schema import migrate
from tests.postgres_server import new_database, postgres_server  # noqa: F401 (fixture)

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.interop)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        made = Database(f"sqlite:///{tmp_path / 'readgate.sqlite3'}")
    else:
        made = Database(new_database(request.getfixturevalue("postgres_server")))
    migrate(made)
    with made.transaction() as session:
        session.add(Hospital(hospital_id="h1", name="Hospital 1", jurisdiction="DE", storage_country="DE", created_at=NOW))
    yield made
    made.close()


def test_row_that_somebody_else_wrote_first_may_be_asked_for_again(database: Database) -> None:
    with pytest.raises(TemporarilyUnable), database.transaction() as session:
        session.add(Employer(employer_id="e1", name="Firm", country="ES"))
        session.add(Hospital(hospital_id="h1", name="Again", jurisdiction="DE", storage_country="DE", created_at=NOW))
    with database.reading() as session:
        assert session.get(Employer, "e1") is None


def test_new_file_that_another_connection_writes_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "new.sqlite3"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE written (x)")
    other.execute("BEGIN IMMEDIATE")
    end = threading.Timer(0.3, other.rollback)
    end.start()
    made = Database(f"sqlite:///{path}")
    with made.engine.connect() as connection:
        modes = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous", "busy_timeout")]
    assert modes == ["wal", 2, 30_000]
    end.join()
    made.close()
    other.close()


def test_row_that_contradicts_the_schema_is_no_passing_trouble(database: Database) -> None:
    with pytest.raises(IntegrityError), database.transaction() as session:
        session.add(
            Reader(
                reader_id="nobody",
                employer_id="none",
                establishment="ES",
                residence="ES",
                citizenship="ES",
                public_key_pem="",
                wrapped_signing_key=b"",
            )
        )


def test_instants_come_back_aware_and_in_utc(database: Database) -> None:
    with database.reading() as session:
        assert session.exec(select(Hospital.created_at)).one() == NOW
        assert session.exec(select(Hospital.created_at)).one().tzinfo is UTC


def test_pool_that_ran_out_may_be_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(f"sqlite:///{tmp_path / 'readgate.sqlite3'}")
    migrate(database)
    pool = database.engine.pool
    monkeypatch.setattr(pool, "_timeout", 0.1)
    held = [database.engine.connect() for _ in range(40)]
    for use in (database.transaction, database.reading):
        with pytest.raises(TemporarilyUnable), use() as session:
            session.exec(select(Hospital)).all()
    for connection in held:
        connection.close()
    database.close()


def test_head_of_the_audit_log_is_made_once_by_many(database: Database) -> None:
    with database.transaction() as session:
        for head in session.exec(select(AuditHead)).all():
            session.delete(head)
    start, failures = threading.Barrier(6), list[str]()

    def work() -> None:
        with database.reading() as session:
            session.get(Hospital, "h1")
        start.wait(60)
        try:
            ensure_head(database)
        except Exception as error:
            failures.append(type(error).__name__)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    with database.reading() as session:
        assert len(session.exec(select(AuditHead)).all()) == 1


def test_studies_of_a_new_patient_that_come_at_once_have_one_pseudonym(database: Database, tmp_path: Path) -> None:
    keys = FileKeyStore(tmp_path / "keys")
    keys.create_kek("h1")
    start, found = threading.Barrier(6), set[tuple[str, int]]()

    def work() -> None:
        with database.reading() as session:
            session.get(Hospital, "h1")
        start.wait(60)
        for _ in range(5):
            try:
                with database.transaction() as session:
                    found.add(ensure_patient(session, keys, "h1", "PATIENT-1", "HOSPITAL", now=NOW))
                return
            except TemporarilyUnable:
                continue

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 1
    with database.reading() as session:
        assert [link.pseudonym for link in session.exec(select(PatientLink)).all()] == [next(iter(found))[0]]
