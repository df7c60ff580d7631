"""How fast instances are received here, against dcmtk's storescp, Orthanc and a plain pynetdicom SCP in the same run.

    python -m bench.ingest [--work ct,mr,mg,multiframe] [--associations 1,4,16] [--rounds 5] [--share 1.0] [--receivers 1]
                           [--peers readgate,storescp,orthanc,pynetdicom] [--stored 1000000] [--directory DIR] [--json FILE]

`--receivers` is by default what `readgate serve` keeps on this machine. `--stored` measures a receiver that has so many instances on record
beside ours that has none.
Every round starts each receiver anew on an empty store, after a sync and a pause, in rotating order; medians of the rounds are compared.
`limit` writes the same bytes to one file per association and syncs (fdatasync) after each instance, with nothing else done.
Ours encrypts and syncs before it answers; storescp and pynetdicom do neither, Orthanc keeps an index.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bench.dicom_load import CALLED_AE_TITLE, WORKS, Work, payloads, run_load
from bench.ingest_servers import prepare_readgate
from bench.machine import describe
from bench.stored_rows import store_rows
from compliance.database import Database
from gateway.config import DicomSettings
from gateway.listening import listening_socket

#: After a burst, a receiver may take a moment to put itself in order (ours fills files ahead); scanners pause longer.
PAUSE_SECONDS = 2.5
#: As it is on its first day, and with what `--stored` says on record.
OURS = ("readgate", "stored")
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    arguments = _arguments()
    rows = []
    conditions = describe(arguments.directory) | {"receivers": str(arguments.receivers), "rounds": str(arguments.rounds)}
    print("\n".join(f"{name}: {value}" for name, value in conditions.items()), flush=True)
    for name in arguments.work.split(","):
        work = WORKS[name]
        work = replace(work, count=max(1, round(work.count * arguments.share)))
        instances = payloads(work)
        for associations in [int(each) for each in arguments.associations.split(",")]:
            if associations <= work.count:
                rows.append(_compare(work, instances, associations, arguments))
                print(_line(rows[-1]), flush=True)
    print("\n" + _table(rows))
    for kept in arguments.directory.glob("readgate-stored-*.sqlite3"):
        kept.unlink()
    if arguments.json:
        arguments.json.write_text(json.dumps({"conditions": conditions, "rows": rows}, indent=1) + "\n")


def _compare(work: Work, instances: Sequence[tuple[str, bytes]], associations: int, arguments: argparse.Namespace) -> dict[str, object]:
    """Medians of instances per second of every receiver, and of the disk's limit."""
    peers = [each for each in arguments.peers.split(",") if _program(each) is not None]
    rates: dict[str, list[float]] = {each: [] for each in (*peers, "limit")}
    p99: list[float] = []
    cpu: list[float] = []
    for round_number in range(arguments.rounds):
        order = peers[round_number % len(peers) :] + peers[: round_number % len(peers)]
        for peer in order:
            with _store(arguments.directory) as directory, _server(peer, directory, arguments) as (address, processes):
                _warm_up(address)
                _settle()
                before = _cpu_seconds(processes)
                outcome = run_load(address, work, instances, associations)
                used = _cpu_seconds(processes) - before
            if outcome.refused:
                raise SystemExit(f"{peer} refused {outcome.refused} of {outcome.instances} instances")
            rates[peer].append(outcome.instances_per_second)
            if peer == OURS[0]:
                cpu.append(used / work.count)
                p99.append(outcome.response_seconds[int(len(outcome.response_seconds) * 0.99)])
        with _store(arguments.directory) as directory:
            _settle()
            rates["limit"].append(len(instances) / _raw_seconds(directory, instances, associations))
    medians = {each: round(statistics.median(values), 2) for each, values in rates.items()}
    return {
        "work": work.name,
        "instances": work.count,
        "associations": associations,
        "per_second": medians,
        "p99_ms": round(1e3 * statistics.median(p99), 1),
        "cpu_us": round(1e6 * statistics.median(cpu)),
    }


def _table(rows: Sequence[dict[str, object]]) -> str:
    """The medians as Markdown, for bench/README.md."""
    names = [name for name in ("storescp", "orthanc", "pynetdicom", "stored", "limit") if any(name in _rates(row) for row in rows)]
    lines = ["| work | associations | readgate/s | " + " | ".join(f"against {name}" for name in names) + " | p99 ms | CPU us |"]
    lines.append("|---" * (len(names) + 5) + "|")
    for row in rows:
        rates = _rates(row)
        against = " | ".join(f"{rates['readgate'] / rates[name]:.2f}x of {rates[name]:.0f}/s" if name in rates else "" for name in names)
        lines.append(f"| {row['work']} | {row['associations']} | {rates['readgate']:.0f} | {against} | {row['p99_ms']} | {row['cpu_us']} |")
    return "\n".join(lines)


def _rates(row: dict[str, object]) -> dict[str, float]:
    rates = row["per_second"]
    assert isinstance(rates, dict)
    return rates


def _line(row: dict[str, object]) -> str:
    rates = _rates(row)
    ours = rates["readgate"]
    parts = [f"{name} {rate:9.1f}/s" + ("" if name == "readgate" else f" ({ours / rate:5.2f}x)") for name, rate in rates.items()]
    return (
        f"{row['work']:<24} x{row['instances']:<5} {row['associations']:>2} assoc  "
        + "  ".join(parts)
        + f"  p99 {row['p99_ms']} ms  cpu {row['cpu_us']} us"
    )


@contextmanager
def _store(parent: Path) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="readgate-bench-", dir=parent))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@contextmanager
def _server(peer: str, directory: Path, arguments: argparse.Namespace) -> Iterator[tuple[tuple[str, int], list[subprocess.Popen[bytes]]]]:
    if peer in OURS:
        prepare_readgate(directory)
    if peer == "stored":
        _put_on_record(directory, arguments)
    listener = listening_socket("127.0.0.1", 0)
    port = int(listener.getsockname()[1])
    if peer not in OURS:
        listener.close()
    processes = [_start(peer, port, directory, listener) for _ in range(arguments.receivers if peer in OURS else 1)]
    try:
        for process in processes:
            _wait_for(port, process)
        yield ("127.0.0.1", port), processes
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(30)
        listener.close()


def _put_on_record(directory: Path, arguments: argparse.Namespace) -> None:
    """The store has the rows of `--stored` instances, which are made once and copied."""
    kept = arguments.directory / f"readgate-stored-{arguments.stored}.sqlite3"
    path = directory / "readgate.sqlite3"
    if not kept.exists():
        database = Database(f"sqlite:///{path}")
        store_rows(database, arguments.stored)
        database.close()
        shutil.copy(path, kept)
    for each in directory.glob("readgate.sqlite3*"):
        each.unlink()
    shutil.copy(kept, path)


def _cpu_seconds(processes: Sequence[subprocess.Popen[bytes]]) -> float:
    """Of ours, user and system, index and worker threads included. It hardly depends on how busy the machine is otherwise."""
    ticks = 0
    for process in processes:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _start(peer: str, port: int, directory: Path, listener: socket.socket) -> subprocess.Popen[bytes]:
    program = _program(peer)
    assert program is not None
    if peer in OURS:
        descriptor = listener.fileno()
        command = [sys.executable, "-m", "bench.ingest_servers", "readgate", str(port), str(directory), str(descriptor)]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=(descriptor,))
    if peer == "pynetdicom":
        command = [sys.executable, "-m", "bench.ingest_servers", peer, str(port), str(directory)]
    elif peer == "storescp":
        command = [program, "--fork", "-pdu", "131072", "-od", str(directory), "-aet", CALLED_AE_TITLE, str(port)]
    else:
        configuration = directory / "orthanc.json"
        settings = {"StorageDirectory": str(directory / "db"), "DicomPort": port, "HttpServerEnabled": False, "DicomAet": CALLED_AE_TITLE}
        configuration.write_text(json.dumps(settings | {"DicomAlwaysAllowStore": True, "DicomThreadsCount": 16, "Plugins": []}))
        command = [program, str(configuration)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _program(peer: str) -> str | None:
    names = {"storescp": "storescp", "orthanc": "Orthanc"}
    return sys.executable if peer not in names else shutil.which(names[peer], path=os.environ.get("PATH", "") + ":/usr/sbin")


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    if process.stdout is not None and process.stdout.read(1) == b"1":
        return
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("a receiver did not start")


def _warm_up(address: tuple[str, int]) -> None:
    """A receiver runs for months: what it does once in its life is done before the clock starts, with all of them."""
    work = replace(WORKS["ct"], count=64)
    run_load(address, work, payloads(work), 16)


def _settle() -> None:
    os.sync()
    time.sleep(PAUSE_SECONDS)


def _raw_seconds(directory: Path, instances: Sequence[tuple[str, bytes]], associations: int) -> float:
    def write(number: int) -> None:
        descriptor = os.open(directory / str(number), os.O_CREAT | os.O_WRONLY)
        for _, payload in instances[number::associations]:
            view = memoryview(payload)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fdatasync(descriptor)
        os.close(descriptor)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(associations)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Receiving speed against other receivers.")
    parser.add_argument("--work", default="ct,mr,mg,multiframe")
    parser.add_argument("--associations", default="1,4,16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--share", type=float, default=1.0, help="share of the full number of instances")
    parser.add_argument("--receivers", type=int, default=DicomSettings().receiver_processes, help="our processes on the one port")
    parser.add_argument("--stored", type=int, default=0, help="instances on record before")
    parser.add_argument("--directory", type=Path, default=Path.cwd(), help="where the stores are made: the disk that is measured")
    parser.add_argument("--peers", default="readgate,storescp,orthanc,pynetdicom")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.stored:
        arguments.peers += ",stored"
    return arguments


if __name__ == "__main__":
    main()
