"""The de-identifiers that are scored: the product's own command, and two others where they are installed.

Each is run as its user would run it, over one folder; `Result` says for each source file what came out, or why nothing did.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread

from bench.deid_score.seeded_set import SeededSet
from bench.deid_score.table import BASIC, TELEREAD

_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parents[1]
_SECONDS_MAX = 6 * 3600


@dataclass
class Result:
    """`outputs` and `held` by source file name; `columns` are the options the tool ran with."""

    tool: str
    columns: frozenset[str]
    outputs: dict[str, Path] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    patient_map: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    #: Everything else the tool wrote where a reader could see it: report and messages.
    said: bytes = b""
    version: str = ""


def run_readgate(made: SeededSet, folder: Path, secret: bytes, *, ocr: bool = True) -> Result:
    """`readgate deidentify` in its default profile, pixel child and all."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "secret").write_bytes(secret)
    command = [sys.executable, "-m", "gateway.cli", "deidentify", str(made.folder), str(folder / "out")]
    command += ["--secret", str(folder / "secret"), "--mapping", str(folder / "map"), "--report", str(folder / "report.json")]
    started = time.monotonic()
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, timeout=_SECONDS_MAX, env=os.environ.copy())
    result = Result("readgate", TELEREAD, seconds=time.monotonic() - started)
    report_bytes = (folder / "report.json").read_bytes() if (folder / "report.json").exists() else b""
    if not report_bytes:
        raise RuntimeError(f"readgate deidentify ended with {done.returncode}: {done.stderr.decode(errors='replace')[-500:]}")
    report = json.loads(report_bytes)
    for entry in report["quarantined"]:
        detail = f" {entry['detail']}" if entry["reason"] in ("BURNED_IN_TEXT", "PIXELS_NOT_SCREENED") else ""
        result.held[entry["source"]] = f"{entry['reason']}{detail} {entry.get('tag', '')}".strip()
    # The report names files as the hospital does, so their names are not part of what is searched.
    said = done.stdout + done.stderr + report_bytes
    for name in made.carriers:
        said = said.replace(name.encode(), b"")
    result.said = said
    new_uid = _pairs(folder / "map" / "uid_mapping.csv")
    result.patient_map = _pairs(folder / "map" / "patid_mapping.csv")
    written = {path.stem: path for path in (folder / "out").rglob("*.dcm")}
    for name, carrier in made.carriers.items():
        path = written.get(new_uid.get(carrier.sop_instance_uid, ""))
        if path is not None and name not in result.held:
            result.outputs[name] = path
    return result


def run_other(tool: str, python: str, made: SeededSet, folder: Path) -> Result | None:
    """dicom-anonymizer or deid, in the interpreter `python`; None where it is not installed there."""
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    try:
        done = subprocess.run(
            [python, str(_HERE / "other_tool.py"), tool, str(made.folder), str(folder)], capture_output=True, timeout=_SECONDS_MAX
        )
    except OSError:
        return None
    if done.returncode == 3:
        return None
    result = Result(tool, BASIC, seconds=time.monotonic() - started, said=b"")
    summary = json.loads((folder / "summary.json").read_text()) if (folder / "summary.json").exists() else {"version": "", "failed": {}}
    result.version = summary["version"]
    for name in made.carriers:
        if (folder / name).exists():
            result.outputs[name] = folder / name
        else:
            result.held[name] = summary["failed"].get(name, "no output")
    for name, path in result.outputs.items():
        try:
            new = str(dcmread(path, stop_before_pixels=True, force=True).get("PatientID", ""))
        except Exception:
            continue
        result.patient_map.setdefault(made.carriers[name].persona.mrn, new)
    return result


def _pairs(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {row["id_old"]: row["id_new"] for row in csv.DictReader(file)}
