"""The sockets that the DICOM ports listen on.

Several receivers accept from one socket, which their parent bound: a connection is taken by whoever is free. With a socket each
(SO_REUSEPORT alone) the kernel deals connections out by chance, of those queued at a socket that closes it resets every one, and some
systems deal out nothing. SO_REUSEPORT is set beside it, so that two parents may hold the port.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

from crypto.errors import BadInput

_BACKLOG = 512


def refuse_plaintext_beyond_loopback(host: str) -> None:
    """Raises: BadInput for a host that others than this machine reach."""
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = host == "localhost"
    if not is_loopback:
        raise BadInput(
            f"a plaintext DICOM port on {host} would send patients' names over the network unencrypted; "
            "bind it to 127.0.0.1, use the TLS port, or set allow_plaintext_beyond_loopback"
        )


def listening_socket(host: str, port: int, *, is_shared: bool = False) -> socket.socket:
    """A socket that listens and never blocks; of another parent on the same port if `is_shared`. Raises: BadInput if it cannot be bound."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise BadInput(f"port {port} on {host} cannot be bound; choose another port or stop what holds it") from None
    return listener


def inherited_sockets(descriptors: Sequence[int], addresses: Sequence[tuple[str, int]]) -> list[socket.socket]:
    """The parent's sockets, one for each of `addresses`.

    Raises: BadInput if they are not those, host and port, as when the configuration has changed: a port that it closes to others by now
    must not stay open to them.
    """
    try:
        sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    except OSError:
        raise BadInput("--listening is for the parent of several receivers, which passes its sockets on") from None
    if len(sockets) != len(addresses) or not all(map(_is_bound_to, sockets, addresses)):
        for each in sockets:
            each.close()
        raise BadInput("the DICOM ports or their host have changed since readgate serve was started; stop it and start it again")
    return sockets


def _is_bound_to(listener: socket.socket, address: tuple[str, int]) -> bool:
    host, port = address
    bound = listener.getsockname()
    try:
        hosts = {found[4][0] for found in socket.getaddrinfo(host, None, listener.family, socket.SOCK_STREAM)}
    except OSError:
        return False
    return bound[0] in hosts and port in (0, bound[1])
