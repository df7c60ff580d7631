"""How fast sealing, opening and the spool are here, against the plain primitives they stand on.

python -m bench.seal [DIRECTORY]        DIRECTORY: on the disk to measure (default: the working directory)
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crypto.aead_stream import ObjectContext, open_, seal, seal_parts
from crypto.keys import FileKeyStore
from crypto.spool import Spool
from crypto.vault import local_vault

FRAME_BYTES = 512 * 1024
#: As a C-STORE arrives: PDVs of 16 KiB.
PDV_BYTES = 16 * 1024
SECONDS = 1.5
APPENDS = 600


def megabytes_per_second(act: Callable[[], object], size: int) -> float:
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        act()
        count += 1
    return count * size / 1e6 / (time.perf_counter() - start)


def bench_sealing() -> None:
    key, nonce, context = os.urandom(32), os.urandom(12), ObjectContext("h1", "study", "object")
    print(f"{'MB/s':>12} {'AESGCM enc':>12} {'seal':>8} {'seal_parts':>11} {'AESGCM dec':>12} {'open_':>8}")
    for size in (FRAME_BYTES, 8 << 20, 64 << 20):
        payload = os.urandom(size)
        parts = [memoryview(payload)[start : start + PDV_BYTES] for start in range(0, size, PDV_BYTES)]
        plain = AESGCM(key)
        one_shot, sealed = plain.encrypt(nonce, payload, b"x"), seal(key, payload, context)
        rates = (
            megabytes_per_second(partial(plain.encrypt, nonce, payload, b"x"), size),
            megabytes_per_second(partial(seal, key, payload, context), size),
            megabytes_per_second(partial(seal_parts, key, parts, context), size),
            megabytes_per_second(partial(plain.decrypt, nonce, one_shot, b"x"), size),
            megabytes_per_second(partial(open_, key, sealed, context), size),
        )
        label = f"{size / 2**20:g} MiB"
        print(f"{label:>12} {rates[0]:12.0f} {rates[1]:8.0f} {rates[2]:11.0f} {rates[3]:12.0f} {rates[4]:8.0f}")


def per_second(threads: int, act: Callable[[int], Callable[[], object]]) -> float:
    """Appends a second by `threads` threads; the disk is quiet when the clock starts."""
    acts = [act(number) for number in range(threads)]

    def run(one: Callable[[], object]) -> None:
        for _ in range(APPENDS // threads):
            one()

    os.sync()
    workers = [threading.Thread(target=run, args=(one,)) for one in acts]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return APPENDS / (time.perf_counter() - start)


def always(act: Callable[[], object], _: int) -> Callable[[], object]:
    return act


def bench_spool(directory: Path) -> None:
    payload = os.urandom(FRAME_BYTES)
    parts = [memoryview(payload)[start : start + PDV_BYTES] for start in range(0, FRAME_BYTES, PDV_BYTES)]
    header = {"sop_instance_uid": "2.25." + "1" * 39, "transfer_syntax_uid": "1.2.840.10008.1.2.1"}
    keys = FileKeyStore(directory / "keys")
    keys.create_kek("h1")

    def raw(number: int) -> Callable[[], object]:
        descriptor = os.open(directory / f"raw{number}.{time.monotonic_ns()}", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)

        def act() -> None:
            os.write(descriptor, payload)
            os.fdatasync(descriptor)

        return act

    spool = Spool(directory / "spool", keys)

    def own(number: int) -> Callable[[], object]:
        writer = spool.open_segment("h1", {"association": number})
        return lambda: writer.append(header, parts)

    print(f"\n{'appends/s':>12} {'raw write+fdatasync':>20} {'spool':>8} {'spool, one segment':>20}   (0.5 MiB each, median of 5)")
    for threads in (1, 4):
        raws, owns, shares = [], [], []
        for _ in range(5):
            raws.append(per_second(threads, raw))
            owns.append(per_second(threads, own))
            writer = spool.open_segment("h1", {})
            shares.append(per_second(threads, partial(always, partial(writer.append, header, parts))))
        label = f"{threads} thread" + "s" * (threads > 1)
        print(f"{label:>12} {sorted(raws)[2]:20.0f} {sorted(owns)[2]:8.0f} {sorted(shares)[2]:20.0f}")


def bench_vault(directory: Path) -> None:
    keys = FileKeyStore(directory / "vault-keys")
    keys.create_kek("h1")
    study_key, _ = keys.create_study_key("h1", "study")
    vault = local_vault(directory / "vault")
    payloads = [(f"object{number}", os.urandom(FRAME_BYTES)) for number in range(256)]
    start = time.perf_counter()
    sealed = vault.seal(study_key, payloads)
    sealing = time.perf_counter() - start
    start = time.perf_counter()
    for one in sealed:
        vault.open(study_key, one)
    opening = time.perf_counter() - start
    total = 256 * FRAME_BYTES / 1e6
    print(f"\nvault, 256 x 0.5 MiB: sealed and durable {total / sealing:.0f} MB/s, opened one by one {total / opening:.0f} MB/s")


def main() -> None:
    parser = argparse.ArgumentParser(description="sealing, opening and the spool against the primitives they stand on")
    parser.add_argument("directory", nargs="?", type=Path, default=Path.cwd(), help="on the disk to measure")
    base = parser.parse_args().directory
    bench_sealing()
    directory = Path(tempfile.mkdtemp(prefix="bench-seal-", dir=base))
    try:
        bench_spool(directory)
        bench_vault(directory)
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
