"""What a confined process cannot do any more, and what it says of it where the system lacks one of its limits."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deid_children import has_landlock

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


CONFINED = """
import os, resource, signal, socket, sys
from compliance.confinement import confine
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
inherited = os.dup2(0, 40)
told = confine(2 << 30)
if told.has_no_network:
    for address in (("127.0.0.1", int(sys.argv[1])), ("192.0.2.1", 9)):
        try:
            socket.create_connection(address, 2)
        except OSError:
            continue
        sys.exit("the network is there")
def opens(path, mode="rb"):
    try:
        with open(path, mode) as file:
            return file.read() if mode == "rb" else file.write("x" * 8192)
    except OSError:
        return None
if opens(sys.argv[2], "w") and os.path.getsize(sys.argv[2]):
    sys.exit("a file was written")
if told.has_no_files and (opens(sys.argv[3]) or opens("/etc/passwd") or opens(f"/proc/{os.getppid()}/environ")):
    sys.exit("a file was read")
if told.has_no_files and os.path.exists(sys.argv[2]):
    sys.exit("a file was made")
if told.has_no_processes:
    try:
        os.fork() or os._exit(0)
    except OSError:
        pass
    else:
        sys.exit("a process was made")
import json.tool  # what is loaded later is found
try:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
except (OSError, ValueError):
    pass
else:
    sys.exit("a limit was lifted")
try:
    os.fstat(inherited)
except OSError:
    pass
else:
    sys.exit("a descriptor was kept")
try:
    bytearray(4 << 30)
except MemoryError:
    pass
else:
    sys.exit("memory without end")
if resource.getrlimit(resource.RLIMIT_CORE) != (0, 0):
    sys.exit("a core could be written")
try:
    descriptors = [os.dup(0) for _ in range(100)]
except OSError:
    pass
else:
    sys.exit("descriptors without end")
if told.has_no_files and sys.platform == "linux" and sys.argv[4] == "new":
    try:
        os.kill(os.getppid(), 0)
    except OSError:
        pass
    else:
        sys.exit("others hear its signals")
"""


def test_a_confined_process_has_no_network_no_file_no_core_and_little_memory(tmp_path: Path) -> None:
    key = tmp_path / "uid_h1.key"
    key.write_bytes(b"a secret of the hospital")
    with socket.create_server(("127.0.0.1", 0)) as server:
        age = "new" if has_landlock() >= 6 else "old"
        run = subprocess.run(
            [sys.executable, "-c", CONFINED, str(server.getsockname()[1]), str(tmp_path / "x"), str(key), age],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert (run.returncode, run.stderr.strip()) == (0, "")
