"""Limits that a process puts on itself before it touches a stranger's bytes; what it is made to do then stays small.

Invariants
- No core, no written file, few descriptors, a bounded address space, and no network: its own empty network namespace where the kernel
  lets an unprivileged process have one (Linux), and no new privileges in any case.
- Limits only ever grow tighter: the hard ones cannot be lifted again, and the soft ones move below them from instance to instance.
"""

from __future__ import annotations

import ctypes
import os
import resource

#: linux/sched.h and linux/prctl.h.
_CLONE_NEWUSER, _CLONE_NEWNET, _CLONE_NEWIPC = 0x10000000, 0x40000000, 0x08000000
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
_DESCRIPTORS_MAX = 64


def confine(address_space_bytes: int) -> bool:
    """The calling process is confined for good; whether it has lost the network. Call it while there is one thread."""
    resource.setrlimit(resource.RLIMIT_AS, (address_space_bytes, address_space_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS_MAX, _DESCRIPTORS_MAX))
    libc = ctypes.CDLL(None, use_errno=True)
    has_no_network = _leave_network(libc)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        # Nobody of the same user attaches to it, and a core is refused whatever the limits say.
        libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    return has_no_network


def _leave_network(libc: ctypes.CDLL) -> bool:
    if not hasattr(libc, "unshare"):
        return False
    # Root may without a user namespace of its own; others may with one, where the kernel allows it.
    own = _CLONE_NEWNET | _CLONE_NEWIPC
    return bool(libc.unshare(own) == 0 or libc.unshare(_CLONE_NEWUSER | own) == 0)


def allow(more_bytes: int, seconds: float) -> None:
    """From here on the process may take `more_bytes` beside what it has, and `seconds` of processor time beside what it used."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (min(hard, _address_space() + more_bytes), hard))
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _address_space() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
