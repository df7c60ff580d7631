"""Looking for canaries in bytes, in files, in every row of a database: as they are, in UTF-16, in base64, in hex, and inside gzip."""

from __future__ import annotations

import base64
import contextlib
import gzip
import subprocess
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import MetaData, create_engine, select


@dataclass
class CanarySearch:
    """What was looked through so far, and where which canary was found."""

    canaries: Mapping[str, str]
    found: set[tuple[str, str, str]] = field(default_factory=set)
    looked_at: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._needles = [(path, form, needle) for path, value in self.canaries.items() for form, needle in forms(value)]

    def look(self, where: str, data: bytes) -> None:
        """Note every canary in `data`, which came from `where`; a gzip member in it is opened too."""
        self.looked_at[where] = self.looked_at.get(where, 0) + len(data)
        for path, form, needle in self._needles:
            if needle in data:
                self.found.add((where, path, form))
        if data[:2] == b"\x1f\x8b":
            try:
                self.look(f"{where} (gzip)", gzip.decompress(data))
            except (OSError, EOFError, zlib.error):
                return

    def look_into_folder(self, folder: Path, *, without: tuple[str, ...] = (), is_in_use: bool = False) -> None:
        """Every file below `folder` and every name, but those in the folders `without`; `is_in_use`: some may go while we look."""
        for path in files_below(folder):
            name = str(path.relative_to(folder))
            if not any(name == one or name.startswith(f"{one}/") for one in without):
                with contextlib.suppress(*((FileNotFoundError,) if is_in_use else ())):
                    self.look(f"file {name}", bytes_of(path))
                self.look(f"name of {name}", name.encode())

    def look_into_database(self, url: str) -> None:
        """Every value of every row of every table, as the database gives it."""
        engine = create_engine(url)
        tables = MetaData()
        tables.reflect(engine)
        with engine.connect() as connection:
            for table in tables.sorted_tables:
                for row in connection.execute(select(table)):
                    self.look(f"table {table.name}", b"\0".join(_as_bytes(value) for value in row))
        engine.dispose()


def forms(value: str) -> Iterator[tuple[str, bytes]]:
    """How `value` may stand in bytes, by name."""
    raw = value.encode()
    yield "as it is", raw
    yield "UTF-16 LE", value.encode("utf-16-le")
    yield "UTF-16 BE", value.encode("utf-16-be")
    yield "hex", raw.hex().encode()
    for shift in range(3):
        # In base64 the same bytes look different at each of three places; what the neighbours share in is left out.
        coded = base64.b64encode(b"\0" * shift + raw)
        start = (shift * 8 + 5) // 6
        stop = (shift + len(raw)) * 8 // 6
        yield f"base64 at {shift}", coded[start:stop]


def bytes_of(path: Path) -> bytes:
    """What is in the file; a database's is read by another process.

    Whoever closes a file gives up all locks its process holds on it: SQLite would lose its own, and the next process to close the database
    would believe itself the last and take the write-ahead log away under those that still use it.
    """
    if ".sqlite3" not in path.name:
        return path.read_bytes()
    return subprocess.run(["cat", "--", str(path)], capture_output=True, timeout=60, check=True).stdout


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _as_bytes(value: object) -> bytes:
    return bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode()
