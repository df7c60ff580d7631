"""The one way to the database: SQLite in WAL by default, PostgreSQL in production, the same rows in both.

Invariants
- A write happens in `transaction()`: it holds the write lock from its first statement (SQLite BEGIN IMMEDIATE), so what it read cannot
  have changed when it commits; on PostgreSQL rows that guard an invariant are read with FOR UPDATE.
- `reading()` never writes: it is rolled back at its end.
- Instants are aware UTC in Python; SQLite drops the zone, so it is put back here and nowhere else.
- A commit has reached the disk (synchronous=FULL; PostgreSQL's default).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Engine, create_engine, event
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.types import TypeDecorator
from sqlmodel import Session, SQLModel

from crypto.errors import TemporarilyUnable

#: Constraint names that are the same on every database, so that one migration can name them.
SQLModel.metadata.naming_convention = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

_WRITES = "readgate_writes"
_BUSY_TIMEOUT_MS = 30_000
#: Until a file that another connection writes is asked again to go over to the write-ahead log.
_GO_OVER_SECONDS = 0.01


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC instant; naive values are refused because nobody knows what they mean."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("an instant without a time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Database:
    """One engine and the two kinds of sessions on it."""

    def __init__(self, url: str) -> None:
        self.engine = make_engine(url)

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session that commits on leaving, or rolls back on any exception.

        Raises: TemporarilyUnable when the database cannot be written now (locked, full, away, too busy), and when somebody else wrote the
        same row first: asked again, it is found there.
        """
        with Session(self.engine, expire_on_commit=False) as session:
            try:
                session.connection(execution_options={_WRITES: True})
                yield session
                session.commit()
            except (OperationalError, PoolTimeoutError) as error:
                session.rollback()
                raise TemporarilyUnable("the database cannot be written now") from error
            except IntegrityError as error:
                session.rollback()
                if not is_unique_violation(error):
                    raise
                raise TemporarilyUnable("somebody else wrote the same row") from error
            except BaseException:
                session.rollback()
                raise

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that is rolled back at the end, whatever was done in it.

        Raises: TemporarilyUnable when the database is away.
        """
        with Session(self.engine, expire_on_commit=False) as session:
            try:
                yield session
            except (OperationalError, PoolTimeoutError) as error:
                raise TemporarilyUnable("the database cannot be read now") from error
            finally:
                # A rollback expires what was loaded; detached first, rows keep what was read.
                session.expunge_all()
                session.rollback()

    def close(self) -> None:
        self.engine.dispose()


def make_engine(url: str) -> Engine:
    """An engine with Readgate's conditions: WAL and full synchronisation on SQLite, BEGIN under our own control."""
    if not url.startswith("sqlite"):
        return create_engine(url, pool_size=10, max_overflow=20, pool_pre_ping=True)
    engine = create_engine(
        url, connect_args={"check_same_thread": False, "timeout": _BUSY_TIMEOUT_MS / 1000}, pool_size=10, max_overflow=30
    )
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def log_ahead(connection: sqlite3.Connection) -> None:
    """The file keeps a write-ahead log, synced at each commit, and a statement waits for a lock. Raises: sqlite3.OperationalError.

    A file goes over to that log once, at its first connection. While another connection holds the write lock of the old journal, SQLite
    answers "locked" at once, however long a statement may wait: processes that start together on a new file would fail by chance.
    """
    connection.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
    deadline = time.monotonic() + _BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
        time.sleep(_GO_OVER_SECONDS)
    connection.execute("PRAGMA synchronous=FULL")


def _configure_sqlite(dbapi_connection: sqlite3.Connection, _record: Any) -> None:
    # The driver's own transaction handling begins late and upgrades locks midway, which is how two readers both "win"; we begin ourselves.
    dbapi_connection.isolation_level = None
    log_ahead(dbapi_connection)
    for pragma in ("foreign_keys=ON", "secure_delete=ON"):
        dbapi_connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get(_WRITES) else "BEGIN")


def is_unique_violation(error: DBAPIError) -> bool:
    """Whether a constraint (not the network or the disk) refused the write, on either database."""
    return getattr(error.orig, "sqlstate", None) == "23505" or "UNIQUE constraint" in str(error.orig)
