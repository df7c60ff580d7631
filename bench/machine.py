"""On what a measurement was made: without it a figure means nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path


def describe(directory: Path) -> dict[str, str]:
    """Processor, kernel, Python, the file system under `directory`, the commit, and how busy the machine was before."""
    cpu = next((line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "machine": f"{os.cpu_count()} x {cpu}, {memory / 2**20:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "file system": _file_system(directory.resolve()),
        "commit": _commit(),
        "load before": " ".join(f"{each:.1f}" for each in os.getloadavg()),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _file_system(directory: Path) -> str:
    mounts = [line.split() for line in _lines("/proc/mounts")]
    holding = [(len(fields[1]), fields[2]) for fields in mounts if directory.is_relative_to(fields[1])]
    return max(holding)[1] if holding else "unknown"


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty=+changes"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"
