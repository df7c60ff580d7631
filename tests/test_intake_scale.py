"""What intake costs does not depend on what is stored, and memory not on what is sent."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
from sqlalchemy import event
from sqlmodel import select

from bench import dicom_load
from bench.dicom_load import Work, payloads, run_load
from bench.ingest_servers import prepare_readgate
from compliance.database import Database
from crypto.keys import FileKeyStore
from crypto.spool import FramePosition, Spool
from gateway.intake import read_spooled_payload
from gateway.listening import listening_socket
from gateway.received import ReceivedInstance
from tests.builders import make_ct_study
from tests.dicom_peers import wait_until
from tests.intake_site import intake_site

REPOSITORY = Path(__file__).resolve().parents[1]
#: SOP classes of the load are of the standard; 100 MB of pixels each.
LARGE = Work("large", "1.2.840.10008.5.1.4.1.1.2", 8, 7071, 7071)
SMALL = Work("small", "1.2.840.10008.5.1.4.1.1.2", 24, 64, 64)


@contextmanager
def receivers(folder: Path, count: int) -> Iterator[tuple[tuple[str, int], list[subprocess.Popen[bytes]]]]:
    """Receiver processes with the whole intake, sharing a socket and a data folder."""
    prepare_readgate(folder)
    with listening_socket("127.0.0.1", 0) as listener:
        port, descriptor = int(listener.getsockname()[1]), listener.fileno()
        command = [sys.executable, "-m", "bench.ingest_servers", "readgate", str(port), str(folder), str(descriptor)]
        processes = [subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, pass_fds=(descriptor,)) for _ in range(count)]
        try:
            # Each says so once it listens.
            assert [process.stdout.read(1) for process in processes if process.stdout is not None] == [b"1"] * count
            yield ("127.0.0.1", port), processes
        finally:
            for process in processes:
                process.terminate()
            codes = [process.wait(60) for process in processes]
            for process in processes:
                if process.stdout is not None:
                    process.stdout.close()
    assert codes == [0] * count


def _resident_bytes(process: subprocess.Popen[bytes], field: str) -> int:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


@pytest.mark.slow
def test_eight_associations_of_hundred_megabytes_stay_under_three_hundred(tmp_path: Path) -> None:
    instances = payloads(LARGE)
    with receivers(tmp_path, 1) as (address, (process,)):
        outcome = run_load(address, LARGE, instances, 8)
        assert (outcome.instances, outcome.refused) == (8, 0)
        assert _resident_bytes(process, "VmHWM") <= 300_000_000
    assert len(_rows(tmp_path)) == 8


@pytest.mark.slow
def test_idle_association_holds_less_than_a_megabyte(tmp_path: Path) -> None:
    work = Work("idle", "1.2.840.10008.5.1.4.1.1.2", 60, 1024, 1024)
    instances = payloads(work)
    with receivers(tmp_path, 1) as (address, (process,)), contextlib.ExitStack() as open_connections:
        # What a process takes once, for its first association, is nobody's in particular.
        run_load(address, work, instances[:8], 4)
        before = _resident_bytes(process, "VmRSS")
        for number, (uid, payload) in enumerate(instances[10:]):
            connection = open_connections.enter_context(socket.create_connection(address))
            connection.sendall(dicom_load._associate_request(f"LOAD{number}", work.sop_class_uid))
            assert dicom_load._read_pdu(connection)[0] == 2
            connection.sendall(dicom_load._message(work.sop_class_uid, uid, payload, 1, 100_000))
            kind, body = dicom_load._read_pdu(connection)
            assert (kind, dicom_load._status(body)) == (4, 0)
        assert wait_until(lambda: (_resident_bytes(process, "VmRSS") - before) / 50 < 1_000_000, 10)


@pytest.mark.slow
def test_two_receivers_share_port_and_folder_and_lose_nothing(tmp_path: Path) -> None:
    instances = payloads(SMALL)
    with receivers(tmp_path, 2) as (address, _):
        outcomes = [run_load(address, SMALL, instances, 6) for _ in range(2)]
        assert [outcome.refused for outcome in outcomes] == [0, 0]
    rows = _rows(tmp_path)
    assert (len(rows), sum(row.is_duplicate for row in rows)) == (48, 24)
    assert not any(row.is_conflicting for row in rows)
    spool = Spool(tmp_path / "spool", FileKeyStore(tmp_path / "keys"))
    kept = {read_spooled_payload(spool, FramePosition(row.segment_id, row.frame_offset, row.frame_length)) for row in rows}
    assert kept == {payload for _, payload in instances}


def _rows(folder: Path) -> list[ReceivedInstance]:
    database = Database(f"sqlite:///{folder / 'readgate.sqlite3'}")
    with database.reading() as session:
        rows = list(session.exec(select(ReceivedInstance)).all())
    database.close()
    return rows


def test_every_statement_of_a_batch_finds_its_rows_by_an_index(tmp_path: Path) -> None:
    study = make_ct_study(instances=3, rows=8, columns=8)
    statements: list[tuple[str, object]] = []
    with intake_site(tmp_path) as site:
        session = site.session()
        site.receive(session, study[0])
        assert site.index.flush()

        def note(connection: object, cursor: object, statement: str, parameters: object, *_: object) -> None:
            statements.append((statement, parameters))

        event.listen(site.database.engine, "before_cursor_execute", note)
        for dataset in study[1:]:
            site.receive(session, dataset)
        assert site.index.flush()
        event.remove(site.database.engine, "before_cursor_execute", note)
        asked = [(statement, parameters) for statement, parameters in statements if statement.startswith(("SELECT", "UPDATE", "DELETE"))]
        assert len(asked) < 20
        with site.database.engine.connect() as connection:
            for statement, parameters in asked:
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()  # type: ignore[arg-type]
                assert not [row for row in plan if str(row[3]).startswith("SCAN")], statement


@pytest.mark.parametrize("instances", [2, 40])
def test_number_of_statements_does_not_grow_with_the_batch(tmp_path: Path, instances: int) -> None:
    seen: list[str] = []
    with intake_site(tmp_path) as site:
        session, hold, write = site.session(), threading.Event(), site.index._write
        # Held back until all are there, so that they are one batch or two.
        with patch.object(site.index, "_write", lambda batch: (hold.wait(30), write(batch))):
            for dataset in make_ct_study(instances=instances, rows=8, columns=8):
                site.receive(session, dataset)
            event.listen(site.database.engine, "before_cursor_execute", lambda c, k, statement, *_: seen.append(statement))
            hold.set()
            assert site.index.flush()
        assert len(site.instances()) == instances
        assert len(seen) < 60
