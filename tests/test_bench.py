"""The measurements start as the README says, from a checkout that is not installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import PROGRAMS

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_each_measurement_is_found_by_its_name(name: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-m", "bench", name, "--", "--help"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and "usage:" in done.stdout, done.stderr
