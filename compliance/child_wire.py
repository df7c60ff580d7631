"""Messages between a process and its confined child: JSON and bytes, never a pickle, each with a deadline.

The wire: 4 bytes length, that many bytes of JSON, 8 bytes length, that many bytes of payload. Numbers are big-endian.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import struct
import time
from typing import Any

#: What a parent says of a study with many names and numbers; answers are held shorter by whoever waits for them.
_WORDS_BYTES_MAX = 256 << 20
_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ = 1031


def widen(descriptor: int) -> None:
    """The pipe takes more at once where the system lets it; a payload of 500 kB is then one write."""
    try:
        fcntl.fcntl(descriptor, _F_SETPIPE_SZ, _PIPE_BYTES)
    except OSError:
        return


def send(descriptor: int, words: dict[str, Any], payload: bytes = b"", deadline: float | None = None) -> None:
    """All of it is on its way. Raises: TimeoutError, OSError."""
    text = json.dumps(words, separators=(",", ":")).encode()
    for part in (struct.pack(">I", len(text)) + text + struct.pack(">Q", len(payload)), payload):
        view = memoryview(part)
        while view:
            if deadline is not None and not select.select([], [descriptor], [], max(0.0, deadline - time.monotonic()))[1]:
                raise TimeoutError
            view = view[os.write(descriptor, view[:_PIPE_BYTES]) :]


def receive(
    descriptor: int, payload_bytes_max: int, deadline: float | None = None, words_bytes_max: int = _WORDS_BYTES_MAX
) -> tuple[dict[str, Any], bytes]:
    """The next message. Raises: TimeoutError, EOFError, OSError; ValueError or RecursionError for what is no message."""
    (length,) = struct.unpack(">I", _exactly(descriptor, 4, deadline))
    if length > words_bytes_max:
        raise ValueError("too many words")
    words = json.loads(_exactly(descriptor, length, deadline))
    (size,) = struct.unpack(">Q", _exactly(descriptor, 8, deadline))
    if size > payload_bytes_max or not isinstance(words, dict):
        raise ValueError("not a message")
    return words, _exactly(descriptor, size, deadline)


def _exactly(descriptor: int, count: int, deadline: float | None) -> bytes:
    whole = _part(descriptor, min(count, _PIPE_BYTES), deadline) if count else b""
    if len(whole) == count:
        return whole
    # One buffer, whatever the pieces: a writer of single bytes would else cost fifty times what it writes.
    buffer = bytearray(count)
    buffer[: len(whole)] = whole
    view, have = memoryview(buffer), len(whole)
    while have < count:
        part = _part(descriptor, min(count - have, _PIPE_BYTES), deadline)
        view[have : have + len(part)] = part
        have += len(part)
    return bytes(buffer)


def _part(descriptor: int, count: int, deadline: float | None) -> bytes:
    if deadline is not None and not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
        raise TimeoutError
    part = os.read(descriptor, count)
    if not part:
        raise EOFError
    return part
