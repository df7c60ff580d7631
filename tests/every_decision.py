"""Every decision that a run of the tests recorded is made again from its own document, and has to come out byte for byte.

Collected are the rows this process inserted, and those that other processes of the tests left in databases under the run's folder. The
law of a decision is the bundle that was loaded when it was made, or the one its site kept beside its database.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import event

from compliance.decision import replay
from compliance.decision_log import DecisionRow
from compliance.lawbook import OWN_CONFIRMATIONS, LawBundle, load_law
from crypto.errors import ReadgateError

_ROOT = Path(__file__).parents[1]


@dataclass
class EveryDecision:
    """What was recorded, by digest, and the law of it. The documents wait in a file: there may be tens of thousands."""

    folder: Path
    laws: dict[str, LawBundle] = field(default_factory=dict)
    #: Digest -> digest of its law.
    seen: dict[str, str] = field(default_factory=dict)
    replayed: int = 0
    differences: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._files: dict[str, Any] = {}

    def start(self) -> None:
        """From now on every inserted row and every loaded law is noticed."""
        event.listen(DecisionRow, "before_insert", lambda _mapper, _connection, row: self.add(row.digest, row.document))
        made = LawBundle.__init__

        def noticed(bundle: LawBundle, *arguments: Any, **named: Any) -> None:
            made(bundle, *arguments, **named)
            self.laws.setdefault(bundle.digest, bundle)

        LawBundle.__init__ = noticed  # type: ignore[method-assign]

    def add(self, digest: str, document: str) -> None:
        if digest in self.seen:
            return
        law = json.loads(document)["law"]
        self.seen[digest] = law
        if law not in self._files:
            self._files[law] = (self.folder / f"{law.removeprefix('sha256:')}.jsonl").open("w", encoding="utf-8")
        self._files[law].write(document + "\n")

    def read_databases(self, below: Path) -> None:
        """Rows in every database that a process of the run left under `below`. One that somebody tampered with is no decision."""
        for path in below.rglob("*.sqlite3"):
            with (
                contextlib.suppress(sqlite3.Error),
                contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection,
            ):
                for digest, document in connection.execute("select digest, document from decision").fetchall():
                    if digest not in self.seen and _is_whole(digest, document):
                        self.add(digest, document)
                        self._find_law(path.parent, json.loads(document)["law"])

    def replay(self) -> None:
        """`replayed` and `differences` say what came of it."""
        for file in self._files.values():
            file.close()
        for law in self._files:
            path = self.folder / f"{law.removeprefix('sha256:')}.jsonl"
            lines = path.read_bytes().splitlines()
            if law == load_law().digest:
                self._replay_by_command(path, len(lines))
            for line in lines:
                self._replay_one(law, line)
            self.replayed += len(lines)

    def _replay_one(self, law: str, line: bytes) -> None:
        document = json.loads(line)
        try:
            made = replay(document, self.laws[law]) if law in self.laws else b""
        except ReadgateError:
            made = b""
        if made != line:
            self.differences.append(document["digest"])

    def _replay_by_command(self, path: Path, count: int) -> None:
        """As somebody would who was handed the file, years later: the command alone, without any site."""
        command = [sys.executable, "-m", "gateway.cli", "replay", str(path)]
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode != 0 or f"{count} decision" not in done.stderr:
            self.differences.append(f"readgate replay: {done.stderr.strip()[:300]}")

    def _find_law(self, data: Path, law: str) -> None:
        folder = data / "law" / law.removeprefix("sha256:")
        if law not in self.laws and folder.is_dir():
            confirmations = folder / OWN_CONFIRMATIONS
            with contextlib.suppress(ReadgateError):
                load_law(folder, confirmations if confirmations.is_file() else None)


def _is_whole(digest: str, document: str) -> bool:
    record = document.replace(f'"digest":"{digest}",', "", 1).encode()
    return f"sha256:{hashlib.sha256(record).hexdigest()}" == digest
