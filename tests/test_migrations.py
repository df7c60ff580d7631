"""The same migrations on both databases: up from nothing, no drift, down and up again, and two processes at once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import inspect, text

from compliance.database import Database
from gateway.schema import METADATA, alembic_config, migrate
from tests.postgres_server import postgres_server  # noqa: F401 (fixture)
from tests.reading_rows import ReadingRows

_PROCESSES = 3


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.interop)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'readgate.sqlite3'}"
    from tests.postgres_server import new_database

    return new_database(request.getfixturevalue("postgres_server"))


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    made = Database(url)
    yield made
    made.close()


def _tables(database: Database) -> set[str]:
    return set(inspect(database.engine).get_table_names()) - {"alembic_version"}


def test_empty_database_gets_every_table(database: Database) -> None:
    migrate(database)
    assert _tables(database) == set(METADATA.tables)
    migrate(database)


def test_models_and_migrations_do_not_drift(database: Database) -> None:
    migrate(database)
    command.check(alembic_config(database))


def test_migrations_go_down_and_up_again(database: Database) -> None:
    migrate(database)
    command.downgrade(alembic_config(database), "base")
    assert _tables(database) == set()
    migrate(database)
    command.check(alembic_config(database))
    rows = ReadingRows(database)
    rows.add_site("r1")
    rows.claim(rows.routed())
    assert rows.verified_log().is_sound


def test_processes_that_migrate_at_once_migrate_once(url: str, database: Database) -> None:
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(_PROCESSES)
    processes = [context.Process(target=_migrate, args=(url, start)) for _ in range(_PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * _PROCESSES
    with database.engine.connect() as connection:
        assert len(connection.execute(text("SELECT version_num FROM alembic_version")).all()) == 1
    command.check(alembic_config(database))


def _migrate(url: str, start: object) -> None:
    database = Database(url)
    start.wait(60)  # type: ignore[attr-defined]
    migrate(database)
    database.close()
