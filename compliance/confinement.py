"""Limits that a process puts on itself before it touches a stranger's bytes; what it is made to do then stays small.

Invariants
- No core, no written file but those it is handed open, few descriptors, no further process where the user is not root, a bounded address
  space, and no capability.
- No file is opened but the interpreter's, its libraries' and this package's, and none for writing; no TCP, no signal to others (Landlock,
  Linux 5.13, 6.7 and 6.12). The key folder, the data and the configuration are none of these.
- No network: its own empty network namespace where the kernel lets an unprivileged process have one; and no new privileges in any case.
- Limits only ever grow tighter: the hard ones cannot be lifted again, and the soft ones move below them from instance to instance.
- What the kernel does not grant is said (`Confinement`), not taken for granted.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

#: linux/sched.h, linux/prctl.h and linux/capability.h.
_CLONE_NEWUSER, _CLONE_NEWNET, _CLONE_NEWIPC = 0x10000000, 0x40000000, 0x08000000
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
_CAPABILITY_VERSION_3 = 0x20080522
_DESCRIPTORS_MAX = 64
#: linux/landlock.h; the numbers are the same on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
#: Rights on files that each version of the interface knows: 13, then moving, truncating, device control.
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_FILE_RIGHTS_NEWEST = (1 << 16) - 1
_NET_RIGHTS, _SCOPES = 3, 3
_O_PATH = 0o10000000
#: What loaders and libraries read of the system. None of it is written by us or holds what is ours.
_SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/fonts", "/usr/share/zoneinfo", "/etc/ld.so.cache",
           "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu", "/dev/urandom")  # fmt: skip


@dataclass(frozen=True)
class Confinement:
    """What holds of a process. Processor time, descriptors and cores always do, or it would not run; on Linux memory does too."""

    has_no_network: bool = False
    has_no_files: bool = False
    has_no_processes: bool = False
    has_bounded_memory: bool = False

    def held(self) -> str:
        """Names of the confinements that hold, for the log."""
        also = (("memory", self.has_bounded_memory), ("network", self.has_no_network), ("files", self.has_no_files))
        names = [name for name, holds in (*also, ("processes", self.has_no_processes)) if holds]
        return " ".join(["cpu", "cores", "descriptors", *names])

    def to_json(self) -> list[bool]:
        return [self.has_no_network, self.has_no_files, self.has_no_processes, self.has_bounded_memory]

    @classmethod
    def from_json(cls, said: object) -> Confinement:
        """Raises: ValueError where it is none."""
        if not isinstance(said, list) or len(said) != 4 or not all(type(one) is bool for one in said):
            raise ValueError("not a confinement")
        return cls(*said)


def environment_of_child(threads: int) -> dict[str, str]:
    """All that a confined process is told by its environment: nothing of its parent's."""
    return {
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
        "PYTHONSAFEPATH": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
    }


def confine(address_space_bytes: int, *, written_bytes_max: int = 0) -> Confinement:
    """The calling process is confined for good, and says how. Call it while there is one thread and no descriptor but the standard ones.

    What it loads later must lie where `sys.path` and the system's libraries lie. To files that it is handed open for writing it may write
    up to `written_bytes_max` bytes; it opens none by itself.
    """
    os.umask(0o077)
    os.closerange(3, _DESCRIPTORS_MAX * 16)
    has_bounded_memory = _bound_memory(address_space_bytes)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (written_bytes_max, written_bytes_max))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS_MAX, _DESCRIPTORS_MAX))
    libc = ctypes.CDLL(None, use_errno=True)
    has_no_network = _leave_network(libc)
    has_no_files = False
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        # Nobody of the same user attaches to it, and a core is refused whatever the limits say.
        libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        has_no_files = _leave_files(libc)
    if hasattr(libc, "capset"):
        # Root without capabilities cannot lift the limits above, and owns no more than the files of root.
        libc.capset(ctypes.c_char_p(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)), ctypes.c_char_p(bytes(24)))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    # The kernel does not count root's processes.
    return Confinement(has_no_network, has_no_files, has_no_processes=os.getuid() != 0, has_bounded_memory=has_bounded_memory)


def _bound_memory(address_space_bytes: int) -> bool:
    # What was taken so far is read here, before files are out of reach.
    try:
        _statm.append(os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC))
        resource.setrlimit(resource.RLIMIT_AS, (address_space_bytes, address_space_bytes))
    except (OSError, ValueError):
        # macOS has neither: there a bomb ends at the limit of processor time. On Linux nobody reads a stranger's bytes without.
        if platform.system() == "Linux":
            raise
        return False
    return True


def _leave_network(libc: ctypes.CDLL) -> bool:
    if not hasattr(libc, "unshare"):
        return False
    # Root may without a user namespace of its own; others may with one, where the kernel allows it.
    own = _CLONE_NEWNET | _CLONE_NEWIPC
    return bool(libc.unshare(own) == 0 or libc.unshare(_CLONE_NEWUSER | own) == 0)


def _leave_files(libc: ctypes.CDLL) -> bool:
    """Whether Landlock was granted: from here on only what is needed to load code and models is opened, and for reading."""
    if sys.platform != "linux":
        return False
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION_FLAG)
    if version < 1:
        return False
    attributes = struct.pack("=Q", _FILE_RIGHTS.get(version, _FILE_RIGHTS_NEWEST))
    if version >= 4:
        attributes += struct.pack("=Q", _NET_RIGHTS)
    if version >= 6:
        attributes += struct.pack("=Q", _SCOPES)
    ruleset = libc.syscall(_CREATE_RULESET, ctypes.c_char_p(attributes), ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        return False
    try:
        for path, rights in _readable():
            _permit(libc, ruleset, path, rights)
        return bool(libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def _readable() -> list[tuple[str, int]]:
    """(path, rights) of what may be opened: of our own folder the packages alone, for keys and data may lie beside them."""
    root = Path(__file__).resolve().parent.parent
    everything = [*_SYSTEM, *(str(root / name) for name in ("compliance", "crypto"))]
    # Where it lies in the list of imports, what stands in `root` must be seen, not read.
    readable = [(str(root), _READ_DIR)]
    for entry in [*sys.path, *(str(Path(sys.base_prefix) / name) for name in ("lib", "lib64"))]:
        path = Path(entry or ".").resolve()
        if path not in (root, Path("/"), Path.cwd()) and path not in root.parents:
            everything.append(str(path))
    return readable + [(path, _READ_FILE | _READ_DIR | _EXECUTE) for path in dict.fromkeys(everything)]


def _permit(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, _O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not os.path.isdir(path):
            rights &= _READ_FILE | _EXECUTE
        rule = struct.pack("=Qi", rights, descriptor)
        libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.c_char_p(rule), 0)
    finally:
        os.close(descriptor)


def allow(more_bytes: int, seconds: float) -> None:
    """From here on the process may take `more_bytes` beside what it has, and `seconds` of processor time beside what it used."""
    if _statm:
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (min(hard, _address_space() + more_bytes), hard))
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


#: /proc/self/statm, opened before files are out of reach; nothing where memory is not bounded.
_statm: list[int] = []


def _address_space() -> int:
    return int(os.pread(_statm[0], 256, 0).split()[0]) * os.sysconf("SC_PAGE_SIZE")
