#!/usr/bin/env python3
"""How many instances one core de-identifies, files in and files out, proof scan included; beside it dicom-anonymizer and gdcmanon.

usage: python -m bench.deidentify [--ct 400] [--mr 1000] [--rounds 5] [--dicom-anonymizer PYTHON] [--directory DIR]

Two sets lie as files in DIR (default: memory, where there is /dev/shm): CT slices of 512x512 int16 with 258 elements each, a hundred of
them private, and MR slices of 256x256. Every contestant reads the same files and writes new ones, in turn, on one core; a round that is not
counted comes first. Each runs in a process of its own, whose start and end are not counted for the two that are Python. Rates are of
processor time (user and system); ours is that of the command and its confined child together, and so is its memory. PYTHON is an
interpreter that has dicom-anonymizer; without it, and without gdcmanon (python-gdcm), that line is missing.

  readgate native    the command `readgate deidentify --native`: both passes, pixels as they came
  readgate HTJ2K     the command as it is: pixels encoded, decoded again and compared
  gdcmanon -e        PS3.15 E.1 with the originals encrypted in the file; --dumb: four elements by hand, nothing else
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.tag import Tag

from bench.machine import describe
from tests.builders import make_ct_study, make_mr_study, part10_of

ELEMENTS = 258
_VALUES = {"FD": 1.5, "CS": "YES", "FL": 2.5, "US": 3, "UL": 7, "SH": "x", "LO": "Helical", "IS": "3"}


def fill(dataset: Dataset, index: int) -> Dataset:
    """The dataset with elements added, a hundred private ones among them, until it has ELEMENTS at the top level."""
    for number in range(100):
        group = 0x0019 + 0x10 * (number // 50)
        if number % 50 == 0:
            dataset.add_new(Tag(group, 0x0010), "LO", f"ACME CT HEADER {number // 50}")
        changing = index if number % 10 == 0 else 0
        dataset.add_new(Tag(group, 0x1001 + number % 50), "DS", f"{number * 0.37 + changing:.4f}")
    for element in range(0x9300, 0x9400):
        tag = Tag(0x0018, element)
        if len(dataset) >= ELEMENTS - 20:
            break
        try:
            vr = dictionary_VR(tag)
        except KeyError:
            continue
        if tag not in dataset and (vr in _VALUES or vr == "DS"):
            dataset.add_new(tag, vr, f"{element / 7:.5f}" if vr == "DS" else _VALUES[vr])
    number = 0
    while len(dataset) < ELEMENTS:
        dataset.add_new(Tag(0x0029, 0x1101 + number), "SH", f"v{number}")
        number += 1
    return dataset


def make_ct(folder: Path, count: int) -> None:
    """`count` files: what changes from slice to slice in a scanner's files changes here."""
    folder.mkdir(parents=True)
    base = make_ct_study(1, 512, 512)[0]
    still = np.frombuffer(base.PixelData, np.int16).reshape(512, 512)
    noise = np.random.default_rng(1).integers(-15, 15, (513, 513), dtype=np.int16)
    for index in range(count):
        one = Dataset(base)
        one.file_meta = base.file_meta
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.3680043.9.{index + 1}.7"
        one.InstanceNumber, one.AcquisitionNumber = index + 1, index // 40 + 1
        one.ImagePositionPatient, one.SliceLocation = [-120.5, -130.25, index * 1.25], index * 1.25
        one.ContentTime = one.AcquisitionTime = f"09{index // 60:02}{index % 60:02}.{index:06}"
        moved = np.roll(noise, (index * 7, index * 11), (0, 1))[:512, :512]
        one.PixelData = (still + moved).astype(np.int16).tobytes()
        (folder / f"{index:05}.dcm").write_bytes(part10_of(fill(one, index)))


def make_mr(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for start in range(0, count, 100):
        for index, one in enumerate(make_mr_study(min(100, count - start), 256, 256, seed=start + 2), start):
            one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.3680043.9.{index + 1}.8"
            one.InstanceNumber = index + 1
            (folder / f"{index:05}.dcm").write_bytes(part10_of(one))


# -- contestants: each de-identifies the folder `source` into `target` and answers with its processor seconds


_READGATE = """
import json, sys, time
from pathlib import Path
from compliance.deid_profile import profile_of
from gateway.deidentify_run import DeidentifyRun
source, target, native = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "native"
run = DeidentifyRun(profile_of([]), b"a secret of the bench, 32 bytes.", compress=not native)
child = run.child
child.start()
def used():
    return time.process_time() + (time.clock_gettime(~child.pid << 3 | 2) if child.pid else 0)
def peak():
    # What getrusage says of a process begins with that of who started it.
    lines = [line for pid in ("self", child.pid) for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
end = []
close = child.close
def close_once():
    if child.pid:
        end.extend((used(), peak()))
    close()
child.close = close_once
before = used()
summary = run.folder(source, target)
seconds, peak = end[0] - before, end[1]
print(json.dumps([seconds, summary["passed"], peak]))
"""

_DICOM_ANONYMIZER = """
import json, resource, sys, time
from pathlib import Path
from dicomanonymizer import anonymize_dicom_file
source, target = Path(sys.argv[1]), Path(sys.argv[2])
target.mkdir()
before = time.process_time()
count = 0
for path in sorted(source.iterdir()):
    anonymize_dicom_file(str(path), str(target / path.name))
    count += 1
print(json.dumps([time.process_time() - before, count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""

Outcome = tuple[float, int, float]  # processor seconds, files written, peak resident MB


def _python(interpreter: str, program: str, *arguments: str) -> Outcome:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    done = subprocess.run([interpreter, "-c", program, *arguments], capture_output=True, text=True, check=True, env=environment)
    seconds, count, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, count, peak / 1024


def _gdcmanon(program: Path, options: list[str], source: str, target: str) -> Outcome:
    Path(target).mkdir()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([str(program), *options, "-i", source, "-o", target], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, sum(1 for _ in Path(target).iterdir()), 0.0


def contestants(dicom_anonymizer: str | None, directory: Path) -> dict[str, Callable[[str, str], Outcome]]:
    found: dict[str, Callable[[str, str], Outcome]] = {
        "readgate native": lambda source, target: _python(sys.executable, _READGATE, source, target, "native"),
        "readgate HTJ2K": lambda source, target: _python(sys.executable, _READGATE, source, target, "HTJ2K"),
    }
    if dicom_anonymizer:
        found["dicom-anonymizer"] = lambda source, target: _python(dicom_anonymizer, _DICOM_ANONYMIZER, source, target)
    program = _gdcmanon_program()
    if program is not None:
        dumb = ["--dumb", "--replace", "10,10=X", "--replace", "10,20=X", "--empty", "8,90", "--remove", "8,80"]
        found["gdcmanon --dumb"] = lambda source, target: _gdcmanon(program, dumb, source, target)
        certificate = directory / "certificate.pem"
        if _made_certificate(certificate):
            found["gdcmanon -e"] = lambda source, target: _gdcmanon(program, ["-e", "-c", str(certificate)], source, target)
    return found


def _gdcmanon_program() -> Path | None:
    try:
        import _gdcm  # type: ignore[import-untyped]
    except ImportError:
        return None
    program = Path(_gdcm.__file__ or "").parent / "gdcmanon"
    return program if program.exists() else None


def _made_certificate(path: Path) -> bool:
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        str(path) + ".key",
        "-out",
        str(path),
        "-subj",
        "/CN=b",
    ]
    return shutil.which("openssl") is not None and subprocess.run(command, capture_output=True).returncode == 0


# -- rounds


def measure(name: str, source: Path, runs: dict[str, Callable[[str, str], Outcome]], rounds: int) -> None:
    count = sum(1 for _ in source.iterdir())
    size = sum(path.stat().st_size for path in source.iterdir()) / count
    found: dict[str, list[Outcome]] = {who: [] for who in runs}
    for turn in range(rounds + 1):
        order = list(runs)
        for who in order[turn % len(order) :] + order[: turn % len(order)]:
            target = source.with_name(f"out-{name}")
            outcome = runs[who](str(source), str(target))
            shutil.rmtree(target)
            if outcome[1] != count:
                raise SystemExit(f"{who} wrote {outcome[1]} of {count} files of {name}")
            if turn:
                found[who].append(outcome)
    print(f"\n{name}: {count} files of {size / 1e3:.0f} kB, medians of {rounds} rounds (least to greatest)")
    ours = statistics.median(outcome[0] for outcome in found["readgate native"])
    for who, outcomes in found.items():
        seconds = sorted(outcome[0] for outcome in outcomes)
        middle = statistics.median(seconds)
        peak = max(outcome[2] for outcome in outcomes)
        least, most = 1000 * seconds[0] / count, 1000 * seconds[-1] / count
        line = f"  {who:18s} {count / middle:7.0f}/s   {1000 * middle / count:7.3f} ms ({least:.3f} to {most:.3f})"
        print(line + f"   native is {middle / ours:5.1f} times as fast" + (f"   peak {peak:.0f} MB" if peak else ""), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ct", type=int, default=400)
    parser.add_argument("--mr", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dicom-anonymizer", metavar="PYTHON")
    parser.add_argument("--directory", type=Path, default=Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir()))
    arguments = parser.parse_args()
    # One core for us and for every process we start; the last one, where a machine has least else to do.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as made:
        directory = Path(made)
        for key, value in describe(directory).items():
            print(f"{key}: {value}")
        runs = contestants(arguments.dicom_anonymizer, directory)
        for name, count, make in (("CT", arguments.ct, make_ct), ("MR", arguments.mr, make_mr)):
            if count:
                make(directory / name, count)
                measure(name, directory / name, runs, arguments.rounds)
    print(f"\n{time.monotonic() - started:.0f} s in all")


if __name__ == "__main__":
    main()
