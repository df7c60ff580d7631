"""The receivers that `bench/ingest.py` starts, one process each.

    python -m bench.ingest_servers readgate|pynetdicom PORT DIRECTORY [DESCRIPTOR]

`readgate` is the receiver as it is deployed: header check, encryption, the spool (success only after fdatasync) and the index that writes
the rows; one of several is given the descriptor of the socket they share, and each writes a byte once it listens. `pynetdicom` is the plain
SCP of its documentation: it writes a file and never syncs.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path

import structlog

from compliance.database import Database
from compliance.hospital import DicomPeer, Hospital
from crypto.keys import FileKeyStore
from crypto.spool import Spool
from gateway.config import DicomSettings
from gateway.intake import GatewayIntake
from gateway.receiver import Endpoint, Receiver
from gateway.schema import migrate
from gateway.spool_index import SpoolIndex

#: Calling AE titles the load may use: LOAD0, LOAD1, ...
SENDERS = 64


def prepare_readgate(directory: Path) -> None:
    """An empty deployment of one hospital in `directory`."""
    database = Database(f"sqlite:///{directory / 'readgate.sqlite3'}")
    migrate(database)
    FileKeyStore(directory / "keys").create_kek("h1")
    with database.transaction() as session:
        session.add(Hospital(hospital_id="h1", name="Load", jurisdiction="IE", storage_country="IE", created_at=datetime.now(UTC)))
        session.flush()
        for number in range(SENDERS):
            session.add(DicomPeer(calling_ae_title=f"LOAD{number}", hospital_id="h1", is_plaintext_allowed=True))
    database.close()


def serve_readgate(port: int, directory: Path, descriptor: int | None = None) -> None:
    """One receiver process as `readgate serve --role receiver` is one: several may share the socket and the directory."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    database, keys = Database(f"sqlite:///{directory / 'readgate.sqlite3'}"), FileKeyStore(directory / "keys")
    spool = Spool(directory / "spool", keys)
    index = SpoolIndex(database, spool)
    index.start()
    blanks = spool.supply_blanks(DicomSettings().blank_segments, lambda _: True)
    blanks.start()
    intake = GatewayIntake(
        database,
        keys,
        spool,
        index,
        spool_path=directory / "spool",
        ae_title="READGATE",
        free_bytes_floor=1 << 30,
        now=lambda: datetime.now(UTC),
    )
    receiver = Receiver(intake, [Endpoint("127.0.0.1", port)], listening=() if descriptor is None else [socket.socket(fileno=descriptor)])
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    receiver.start()
    os.write(sys.stdout.fileno(), b"1")
    stopped.wait()
    receiver.stop(5)
    blanks.stop()
    index.flush()
    index.stop()


def serve_pynetdicom(port: int, directory: Path) -> None:
    from pynetdicom import AE, AllStoragePresentationContexts, evt

    def handle(event: evt.Event) -> int:
        (directory / uuid.uuid4().hex).write_bytes(event.encoded_dataset())
        return 0

    entity = AE("READGATE")
    entity.maximum_pdu_size = 131072
    entity.maximum_associations = 64
    entity.supported_contexts = AllStoragePresentationContexts
    entity.start_server(("127.0.0.1", port), block=True, evt_handlers=[(evt.EVT_C_STORE, handle)])


if __name__ == "__main__":
    {"readgate": serve_readgate, "pynetdicom": serve_pynetdicom}[sys.argv[1]](int(sys.argv[2]), Path(sys.argv[3]), *map(int, sys.argv[4:]))
