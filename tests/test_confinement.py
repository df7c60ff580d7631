"""Where the system bounds no address space, a process says so; on Linux it does not start without."""

from __future__ import annotations

import subprocess
import sys

import pytest

_CONFINED = """
import os, resource, sys
from compliance.confinement import allow, confine
{before}
told = confine(4 << 30)
allow(1 << 30, 5.0)
print(told.held(), told.has_bounded_memory)
"""
_NO_PROC = """
real = os.open
def nothing(path, *rest, **named):
    if str(path).startswith("/proc"):
        raise FileNotFoundError(2, "no such file", path)
    return real(path, *rest, **named)
os.open = nothing
"""


def _confined(before: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _CONFINED.format(before=before)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_bounded_memory_is_said() -> None:
    done = _confined("")
    assert "memory" in done.stdout.split() and done.stdout.split()[-1] == "True"


def test_memory_that_cannot_be_bounded_is_said_and_the_rest_holds() -> None:
    done = _confined(_NO_PROC + "import platform; platform.system = lambda: 'Darwin'")
    assert done.returncode == 0, done.stderr
    assert "memory" not in done.stdout.split() and {"cpu", "cores", "descriptors", "False"} <= set(done.stdout.split())


@pytest.mark.skipif(sys.platform != "linux", reason="what holds on Linux")
def test_on_linux_nothing_is_read_without_the_bound() -> None:
    assert _confined(_NO_PROC).returncode != 0
