"""Reading and writing exactly so many bytes within an absolute deadline, over TCP or over TLS.

A deadline is a moment of `time.monotonic()`, fixed before the first byte is waited for. A peer that sends a byte now and then gains
nothing by it.

Over TCP the socket stays blocking: one system call takes what has come, and if that is not enough a second has the kernel gather the rest
(MSG_WAITALL under SO_RCVTIMEO), with no poll before either. Every call that waits also costs a change of the thread that may run.
The kernel's own timeout is a short tick, after which the deadline is looked at. A low-water mark (SO_RCVLOWAT) would save calls, but a
reading call that has taken a part of what it waits for is woken only once as much as the whole mark has come beside that part: where the
peer sends no more before our answer, it slept until the tick.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import struct
import time
from enum import Enum, auto
from typing import Protocol

from crypto.errors import TemporarilyUnable

_WAIT_ALL = socket.MSG_WAITALL
_TICK_SECONDS = 0.25
_STASH_BYTES = 10


class ConnectionLost(TemporarilyUnable):
    """The peer's end of the connection is gone."""


class DeadlinePassed(TemporarilyUnable):
    """The peer did not send, or did not take, its bytes in time."""


class Wait(Enum):
    """Why waiting for the peer ended."""

    READABLE = auto()
    TIMED_OUT = auto()
    WOKEN = auto()


class Transport(Protocol):
    """A connection of which bytes are read to the last one asked for, or not at all."""

    def wait_readable(self, deadline: float, wake_fd: int | None) -> Wait:
        """Wait for the peer's next bytes (or its hanging up), for the deadline, or for `wake_fd` to become readable."""
        ...

    def read_soon(self, view: memoryview) -> int:
        """Read what comes within the next moment (a quarter of a second at most), 0 for nothing. Raises: ConnectionLost.

        For the pause between two messages, which is nearly always short: one system call where waiting and then reading are two.
        """
        ...

    def read_into(self, view: memoryview, deadline: float) -> None:
        """Fill `view`. Raises: ConnectionLost, DeadlinePassed."""
        ...

    def read_some(self, view: memoryview, wanted: int, deadline: float) -> int:
        """Read `wanted` bytes (at least 1) to the start of `view`, and more of them if they have come: how many. Raises: as `read_into`."""
        ...

    def send(self, data: bytes, deadline: float) -> None:
        """Hand all of `data` to the kernel. Raises: ConnectionLost, DeadlinePassed."""
        ...

    def close(self, linger_seconds: float = 0.0) -> None:
        """Close the connection; never raises.

        With `linger_seconds` the peer gets that long to read our last PDU and hang up: closing a socket with bytes unread in it makes the
        kernel reset the connection, and the peer would lose what we said.
        """
        ...


class PlainTransport:
    """TCP without TLS."""

    def __init__(self, connection: socket.socket, *, tick_seconds: float = _TICK_SECONDS) -> None:
        connection.settimeout(None)
        self._tick_seconds = tick_seconds
        tick = struct.pack("@ll", int(tick_seconds), int(tick_seconds % 1 * 1_000_000))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, tick)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, tick)
        self._connection = connection
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._wake_fd: int | None = None

    def wait_readable(self, deadline: float, wake_fd: int | None) -> Wait:
        if wake_fd != self._wake_fd:
            if self._wake_fd is not None:
                self._poll.unregister(self._wake_fd)
            if wake_fd is not None:
                self._poll.register(wake_fd, select.POLLIN)
            self._wake_fd = wake_fd
        return _wait(self._poll, self._connection.fileno(), deadline)

    def read_soon(self, view: memoryview) -> int:
        try:
            got = self._connection.recv_into(view)
        except BlockingIOError:
            return 0
        except OSError:
            got = 0
        if got == 0:
            raise ConnectionLost("the peer closed the connection")
        return got

    def read_into(self, view: memoryview, deadline: float) -> None:
        self.read_some(view, len(view), deadline)

    def read_some(self, view: memoryview, wanted: int, deadline: float) -> int:
        try:
            got = self._connection.recv_into(view)
        except BlockingIOError:
            got = -1
        except OSError:
            raise ConnectionLost("the peer closed the connection") from None
        return got if got >= wanted else self._read_rest(view, wanted, max(got, 0), got == 0, deadline)

    def _read_rest(self, view: memoryview, wanted: int, got: int, is_over: bool, deadline: float) -> int:
        while got < wanted:
            if is_over:
                raise ConnectionLost("the peer closed the connection")
            left = deadline - time.monotonic()
            if left <= 0:
                raise DeadlinePassed("the peer sent too slowly")
            if left < self._tick_seconds:
                # The last stretch is waited for by poll, so that the deadline holds to the millisecond and not to the tick.
                if _wait(self._poll, self._connection.fileno(), deadline) is Wait.TIMED_OUT:
                    continue
                flags = socket.MSG_DONTWAIT
            else:
                flags = _WAIT_ALL
            try:
                count = self._connection.recv_into(view[got:], wanted - got, flags)
            except BlockingIOError:
                continue
            except OSError:
                raise ConnectionLost("the peer closed the connection") from None
            got += count
            is_over = count == 0
        return got

    def send(self, data: bytes, deadline: float) -> None:
        view = memoryview(data)
        while view:
            try:
                count = self._connection.send(view)
            except BlockingIOError:
                count = 0
            except OSError:
                raise ConnectionLost("the peer closed the connection") from None
            view = view[count:]
            if view and time.monotonic() >= deadline:
                raise DeadlinePassed("the peer did not take what was sent")

    def close(self, linger_seconds: float = 0.0) -> None:
        _close(self._connection, linger_seconds)


class TlsTransport:
    """TLS, after its handshake."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._connection = connection
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._wake_fd: int | None = None
        self._stash = b""

    def wait_readable(self, deadline: float, wake_fd: int | None) -> Wait:
        if wake_fd != self._wake_fd:
            if self._wake_fd is not None:
                self._poll.unregister(self._wake_fd)
            if wake_fd is not None:
                self._poll.register(wake_fd, select.POLLIN)
            self._wake_fd = wake_fd
        while not self._stash:
            if not self._connection.pending():
                outcome = _wait(self._poll, self._connection.fileno(), deadline)
                if outcome is not Wait.READABLE:
                    return outcome
            # A record need not hold data (a key update, half a record): only data starts the clock of a PDU.
            self._connection.settimeout(0)
            try:
                self._stash = self._connection.recv(_STASH_BYTES)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                continue
            except (OSError, ValueError):
                return Wait.READABLE
            if not self._stash:
                return Wait.READABLE
        return Wait.READABLE

    def read_soon(self, view: memoryview) -> int:
        return 0

    def read_into(self, view: memoryview, deadline: float) -> None:
        self.read_some(view, len(view), deadline)

    def read_some(self, view: memoryview, wanted: int, deadline: float) -> int:
        got = 0
        if self._stash:
            got = min(len(self._stash), len(view))
            view[:got] = self._stash[:got]
            self._stash = self._stash[got:]
        while got < wanted:
            left = deadline - time.monotonic()
            if left <= 0:
                raise DeadlinePassed("the peer sent too slowly")
            try:
                self._connection.settimeout(left)
                count = self._connection.recv_into(view[got:], len(view) - got)
            except TimeoutError:
                raise DeadlinePassed("the peer sent too slowly") from None
            except (OSError, ValueError):
                raise ConnectionLost("the peer closed the connection") from None
            if count == 0:
                raise ConnectionLost("the peer closed the connection")
            got += count
        return got

    def send(self, data: bytes, deadline: float) -> None:
        try:
            self._connection.settimeout(max(0.001, deadline - time.monotonic()))
            self._connection.sendall(data)
        except TimeoutError:
            raise DeadlinePassed("the peer did not take what was sent") from None
        except (OSError, ValueError):
            raise ConnectionLost("the peer closed the connection") from None

    def close(self, linger_seconds: float = 0.0) -> None:
        # No close_notify is waited for: the DICOM layer has its own farewell, and a dead peer must not hold the thread.
        _close(self._connection, linger_seconds)


def _wait(poll: select.poll, own_fd: int, deadline: float) -> Wait:
    if own_fd < 0:
        return Wait.READABLE
    while True:
        left = deadline - time.monotonic()
        # Rounded up: a wait that ends a fraction of a millisecond early would be asked for again and again.
        events = poll.poll(max(0, int(left * 1000) + 1) if left > 0 else 0)
        if any(fd == own_fd for fd, _ in events):
            return Wait.READABLE
        if events:
            return Wait.WOKEN
        if time.monotonic() >= deadline:
            return Wait.TIMED_OUT


def _close(connection: socket.socket, linger_seconds: float) -> None:
    with contextlib.suppress(OSError, ValueError):
        if linger_seconds > 0:
            # Below TLS, if there is TLS: what still comes is thrown away unread.
            fd = connection.fileno()
            socket.socket.shutdown(connection, socket.SHUT_WR)
            deadline = time.monotonic() + linger_seconds
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            while (left := deadline - time.monotonic()) > 0 and poll.poll(left * 1000):
                if not os.read(fd, 65536):
                    break
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)  # the peer may have been quicker
    connection.close()
