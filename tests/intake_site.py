"""The intake alone, over a database and a disk that can be told to fail: no worker, no listener, no people."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from sqlmodel import select

from compliance.database import Database
from compliance.hospital import DicomPeer, Hospital
from crypto.keys import FileKeyStore
from crypto.spool import FramePosition, Spool
from gateway.intake import GatewayIntake, IntakeSession, read_spooled_payload, receive_instance
from gateway.intake_limits import HospitalRates
from gateway.intake_port import InstanceHead, Peer
from gateway.received import ReceivedInstance, ReceivedStudy
from gateway.schema import migrate
from gateway.spool_index import SpoolIndex
from tests.builders import payload_of
from tests.faulty_disk import FaultyDisk

EXPLICIT = "1.2.840.10008.1.2.1"
AT = datetime(2026, 3, 14, 10, 0, tzinfo=UTC)


@functools.cache
def _empty_database() -> Path:
    path = Path(tempfile.mkdtemp(prefix="readgate-intake-")) / "empty.sqlite3"
    database = Database(f"sqlite:///{path}")
    migrate(database)
    with database.transaction() as session:
        for number in (1, 2):
            session.add(Hospital(hospital_id=f"h{number}", name="A hospital", jurisdiction="IE", storage_country="IE", created_at=AT))
        session.flush()
        for number in (1, 2):
            session.add(DicomPeer(calling_ae_title=f"H{number}_PACS", hospital_id=f"h{number}", is_plaintext_allowed=True))
    database.close()
    return path


@dataclass
class IntakeSite:
    folder: Path
    disk: FaultyDisk
    database: Database
    keys: FileKeyStore
    spool: Spool
    index: SpoolIndex
    intake: GatewayIntake
    at: datetime = AT
    #: Seconds of the limits' own clock.
    ticks: float = 0.0
    sessions: list[IntakeSession] = field(default_factory=list)

    def now(self) -> datetime:
        return self.at

    def forward(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)
        self.ticks += seconds

    def peer(self, calling: str = "H1_PACS") -> Peer:
        return Peer(calling, "READGATE", "127.0.0.1", None, None, False)

    def session(self, hospital_id: str = "h1") -> IntakeSession:
        made = self.intake.session(hospital_id, f"{hospital_id.upper()}_PACS", {})
        self.sessions.append(made)
        return made

    def receive(self, session: IntakeSession, dataset: Dataset) -> int:
        return receive_instance(self.intake, session, self.head(dataset), [memoryview(payload_of(dataset))])

    def head(self, dataset: Dataset) -> InstanceHead:
        return InstanceHead(dataset.SOPClassUID, dataset.SOPInstanceUID, EXPLICIT, 1)

    def studies(self) -> list[ReceivedStudy]:
        with self.database.reading() as session:
            return list(session.exec(select(ReceivedStudy)).all())

    def instances(self) -> list[ReceivedInstance]:
        with self.database.reading() as session:
            return list(session.exec(select(ReceivedInstance)).all())

    def payloads(self) -> list[bytes]:
        """Of every row, from the spool."""
        return [
            read_spooled_payload(self.spool, FramePosition(row.segment_id, row.frame_offset, row.frame_length)) for row in self.instances()
        ]

    def crash_and_recover(self) -> None:
        """The process is gone without a word; another one starts on what it left."""
        for session in self.sessions:
            if session.segment is not None:
                self.spool._finish(session.segment.segment_id, session.segment._file)
                session.segment = None
        self.index._frames.clear()
        self.disk.plan = lambda _: (True, None)
        self.spool = Spool(self.folder / "spool", self.keys)
        SpoolIndex(self.database, self.spool).recover(now=self.at)


@contextmanager
def intake_site(folder: Path, *, rates: HospitalRates | None = None, free_bytes_floor: int = 0, **spool: Any) -> Iterator[IntakeSite]:
    """A site of two hospitals in `folder`, with its index running."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(_empty_database(), folder / "readgate.sqlite3")
    disk, database = FaultyDisk(), Database(f"sqlite:///{folder / 'readgate.sqlite3'}")
    keys = FileKeyStore(folder / "keys")
    for hospital_id in ("h1", "h2"):
        keys.create_kek(hospital_id)
    store = Spool(folder / "spool", keys, disk=disk, **spool)
    index = SpoolIndex(database, store)
    site: IntakeSite
    intake = GatewayIntake(
        database,
        keys,
        store,
        index,
        spool_path=folder / "spool",
        ae_title="READGATE",
        free_bytes_floor=free_bytes_floor,
        now=lambda: site.now(),
        rates=rates,
    )
    intake.limits._clock = lambda: site.ticks
    site = IntakeSite(folder, disk, database, keys, store, index, intake)
    index.start()
    try:
        yield site
    finally:
        disk.plan = lambda _: (True, None)
        for session in site.sessions:
            intake.close(session)
        index.stop()
        database.close()
