"""Numbers too small for full precision count as zero while a network is run, and only then.

Each of them costs the processor some hundred cycles. The switch is a bit of the thread's floating-point environment (Intel SDM 10.2.3, FTZ
and DAZ in MXCSR) that nobody puts back: left on, sums elsewhere in the thread would be other sums.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_FLUSH_AND_ZERO = 0x8040
#: fenv_t of glibc on x86-64: 28 bytes of the x87 unit, then MXCSR.
_FENV_BYTES, _MXCSR_AT = 32, 28
_LIBM: Any = None
if sys.platform == "linux" and platform.machine() == "x86_64" and platform.libc_ver()[0] == "glibc":
    _LIBM = ctypes.CDLL("libm.so.6")


@contextmanager
def denormals_are_zero(wanted: bool = True) -> Iterator[None]:
    """Within it the calling thread computes so (`wanted`) or not; then it is as it was. Elsewhere than on x86-64 glibc it does nothing."""
    before = _environment()
    if before is None:
        yield
        return
    inside = bytearray(before)
    register = int.from_bytes(inside[_MXCSR_AT:], "little")
    register = register | _FLUSH_AND_ZERO if wanted else register & ~_FLUSH_AND_ZERO
    inside[_MXCSR_AT:] = register.to_bytes(4, "little")
    _set(bytes(inside))
    try:
        yield
    finally:
        _set(before)


def _environment() -> bytes | None:
    if _LIBM is None:
        return None
    buffer = ctypes.create_string_buffer(_FENV_BYTES)
    return buffer.raw if _LIBM.fegetenv(buffer) == 0 else None


def _set(environment: bytes) -> None:
    _LIBM.fesetenv(ctypes.create_string_buffer(environment, _FENV_BYTES))
