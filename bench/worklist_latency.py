#!/usr/bin/env python3
"""From the last byte of a study to its workitem: a whole site, as `readgate serve`, with its worker.

    python -m bench.worklist_latency [--slices 400] [--rounds 3] [--quiet-seconds 2] [--directory DIR]

CT slices of 512x512 are sent over DICOM as fast as they are taken, one study a round. Half of the rounds end by the quiet time, half
because the expected number is there. Printed from the moment the last success was received: when the study was found complete, when its
originals lay in the vault, when its de-identified images were kept (headers rewritten, pixels encoded as HTJ2K, decoded again and compared,
sealed), and when its workitem stood on the worklist. All roles in one process with one receiver: the worst place for the worker.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import logging
import multiprocessing
import shutil
import sqlite3
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from pydicom.uid import generate_uid

from bench.dicom_load import Work, run_load
from bench.machine import describe
from tests.builders import make_ct_study, payload_of

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
_SECONDS_MAX = 300.0
PARTS = ("complete", "archived", "de-identified", "on the worklist")


def run_site(folder: Path, quiet_seconds: float, pipe: Connection) -> None:
    """The site of two hospitals in `folder`; answers each (study UID, number) on the pipe once that number is expected; ends at None."""
    from compliance.hospital import DicomPeer
    from gateway.application import open_application
    from gateway.config import Settings
    from gateway.demo_hospital import DemoHospital
    from gateway.demo_site import HospitalPorts, populate
    from gateway.expected_instances import expect_instances
    from gateway.logs import configure_logs
    from gateway.server import Server

    configure_logs(as_json=True, level=logging.ERROR)
    folder.mkdir()
    settings = Settings.model_validate(
        {
            "dicom": {"plaintext_port": 0, "tls_port": None, "free_bytes_floor": 1},
            "http": {"port": 0},
            "law": {"demo_confirmations": True},
        }
    )
    app = open_application(folder, settings=settings)
    app.certificates.enrol_authority("Measurement")
    app.certificates.enrol_server(["localhost"], ["127.0.0.1"])
    hospitals = {name: DemoHospital(name, folder / "received" / name) for name in ("h1", "h2")}
    for hospital in hospitals.values():
        hospital.start()
    ports = HospitalPorts({key: one.dicom_port for key, one in hospitals.items()}, {key: one.mllp_port for key, one in hospitals.items()})
    populate(app, ports, quiet_seconds=quiet_seconds)
    with app.database.transaction() as session:
        session.add(DicomPeer(calling_ae_title="LOAD0", hospital_id="h1", is_plaintext_allowed=True))
    server = Server(app)
    server.start()
    pipe.send(server.dicom_addresses[0])
    while (expected := pipe.recv()) is not None:
        expect_instances(app, "h1", expected[1], actor="bench", study_instance_uid=expected[0])
        pipe.send(True)
    server.stop()
    app.close()
    for hospital in hospitals.values():
        hospital.stop()


def slices(count: int, number: int) -> tuple[str, list[tuple[str, bytes]]]:
    """Study Instance UID, and (SOP Instance UID, encoded data set) of each slice: an image with fresh noise, not random bytes."""
    base = make_ct_study(1, 512, 512, number=number)[0]
    pixels = np.frombuffer(base.PixelData, np.int16)
    source = np.random.default_rng(number)
    base.StudyInstanceUID, made = generate_uid(), []
    base.SeriesInstanceUID = generate_uid()
    for index in range(count):
        base.SOPInstanceUID, base.InstanceNumber = generate_uid(), index + 1
        base.ImagePositionPatient, base.SliceLocation = [-120.5, -130.25, index * 1.25], index * 1.25
        base.PixelData = (pixels + source.integers(-15, 15, pixels.shape, dtype=np.int16)).astype(np.int16).tobytes()
        made.append((str(base.SOPInstanceUID), payload_of(base)))
    return str(base.StudyInstanceUID), made


def follow(database: Path, known: int, sent_at: float) -> dict[str, float]:
    """Seconds from `sent_at` to each of PARTS, for the study that has come beside `known` others."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)
    questions = {
        "complete": "SELECT count(*) FROM received_study WHERE complete_at IS NOT NULL",
        "archived": "SELECT count(*) FROM received_study s WHERE complete_at IS NOT NULL AND NOT EXISTS "
        "(SELECT 1 FROM received_instance i WHERE i.received_study_pk = s.received_study_pk AND i.pack_name IS NULL)",
        "de-identified": "SELECT count(*) FROM study",
        "on the worklist": "SELECT count(*) FROM procedure_step",
    }
    seen: dict[str, float] = {}
    while len(seen) < len(PARTS) and time.time() - sent_at < _SECONDS_MAX:
        for part in PARTS:
            if part not in seen and connection.execute(questions[part]).fetchone()[0] > known:
                seen[part] = time.time() - sent_at
        time.sleep(0.01)
    connection.close()
    if len(seen) < len(PARTS):
        raise SystemExit(f"the study did not reach the worklist: {seen}")
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description="Last byte to workitem.")
    parser.add_argument("--slices", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3, help="of each kind")
    parser.add_argument("--quiet-seconds", type=float, default=2.0)
    parser.add_argument("--directory", type=Path, default=Path.cwd())
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    conditions = describe(arguments.directory)
    print("\n".join(f"{name}: {value}" for name, value in conditions.items()), flush=True)
    folder = Path(tempfile.mkdtemp(prefix="readgate-latency-", dir=arguments.directory))
    ours, theirs = multiprocessing.Pipe()
    site = multiprocessing.get_context("spawn").Process(target=run_site, args=(folder / "data", arguments.quiet_seconds, theirs))
    site.start()
    try:
        address = ours.recv()
        work = Work("ct", CT_IMAGE_STORAGE, arguments.slices, 512, 512)
        rows: list[dict[str, object]] = []
        for number in range(1 + 2 * arguments.rounds):
            by_count = number % 2 == 1
            study, instances = slices(arguments.slices if number else 8, number + 1)
            if by_count:
                ours.send((study, len(instances)))
                ours.recv()
            outcome = run_load(address, work, instances, 1)
            seen = follow(folder / "data" / "readgate.sqlite3", number, time.time())
            if number == 0:
                continue  # the first of a process's life
            ending = "expected number" if by_count else "quiet time"
            rows.append({"ending": ending, "sending": outcome.seconds} | seen)
            parts = "  ".join(f"{part} {seen[part]:6.2f} s" for part in PARTS)
            print(
                f"{dt.datetime.now(dt.UTC):%H:%M:%S} {arguments.slices} slices, {ending:15}  sent in {outcome.seconds:5.2f} s  {parts}",
                flush=True,
            )
        _summarise(rows, arguments.quiet_seconds)
        if arguments.json:
            arguments.json.write_text(json.dumps({"conditions": conditions, "rows": rows}, indent=1) + "\n")
        ours.send(None)
        site.join(60)
    finally:
        if site.is_alive():
            site.kill()
        shutil.rmtree(folder)


def _summarise(rows: list[dict[str, object]], quiet_seconds: float) -> None:
    for ending, allowed in (("quiet time", quiet_seconds), ("expected number", 0.0)):
        found = [float(str(row["on the worklist"])) for row in rows if row["ending"] == ending]
        if found:
            print(
                f"{ending}: {statistics.median(found):.2f} s from the last byte, "
                f"{statistics.median(found) - allowed:.2f} s beyond the quiet time"
            )


if __name__ == "__main__":
    main()
