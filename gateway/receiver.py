"""The DICOM listener: accepts connections, gives each a thread, keeps their number within bounds, and drains on stop.

Invariants
- The plaintext port is bound beyond loopback only where the configuration says so aloud.
- Connections are counted from the moment they are accepted, in total, by address and by whether they are associations yet. When the
  places for connections that are no association yet are all taken, the oldest of the address that holds most of them loses its place:
  whoever dribbles bytes into hundreds of connections displaces himself.
- The accepting loop ends only with `stop`. Running out of descriptors or threads costs the newest connection, not the listener.
- Of several receivers on the same sockets the one with fewer connections is quicker to accept: but for floods their load is even.
- `stop` lets every message that has begun come to its end and its answer, as long as the drain time lasts.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from crypto.errors import BadInput
from gateway.association import Association, AssociationState
from gateway.association_limits import AssociationLimits
from gateway.intake_port import LOCAL_LIMIT_EXCEEDED, IntakePort
from gateway.listening import listening_socket, refuse_plaintext_beyond_loopback
from gateway.negotiation import Negotiator, StorageOffer

#: For each connection it has, up to so many, a receiver that shares its sockets lets the others go first for so long.
_TURN_SECONDS = 0.001
_TURN_CONNECTIONS_MAX = 16
#: In a flood of calls nobody is let first: a genuine one stands in the same queue.
_TURNS_PER_SECOND_MAX = 20
_PAUSE_SECONDS = 0.05
_CUT_SECONDS = 5.0
_ASSOCIATED = frozenset({AssociationState.IDLE, AssociationState.RECEIVING})
_OUT_OF_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One port to listen on. Port 0 takes any free one."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    allow_plaintext_beyond_loopback: bool = False


@dataclass(frozen=True, slots=True)
class ReceiverLimits:
    """What all associations of a process together may take."""

    associations_max: int = 256
    connections_per_address_max: int = 64
    associations_per_hospital_max: int = 64
    #: Connections that are no association yet.
    unassociated_max: int = 128
    association: AssociationLimits = field(default_factory=AssociationLimits)


@dataclass(frozen=True, slots=True)
class DrainOutcome:
    """How `stop` went: associations that came to an end by themselves or between two messages, and those that were cut."""

    ended: int
    cut: int


class Receiver:
    """Listens on its endpoints from `start` to `stop`."""

    def __init__(
        self,
        port: IntakePort,
        endpoints: Sequence[Endpoint],
        *,
        limits: ReceiverLimits | None = None,
        offer: StorageOffer | None = None,
        listening: Sequence[socket.socket] = (),
    ) -> None:
        """`listening`: of each endpoint the socket, from which other processes accept too; without them each is bound here.

        Raises: BadInput for a plaintext endpoint beyond loopback that is not allowed aloud.
        """
        if not endpoints:
            raise BadInput("the receiver has no port to listen on; configure a TLS port or a plaintext port on loopback")
        for endpoint in endpoints:
            if endpoint.tls is None and not endpoint.allow_plaintext_beyond_loopback:
                refuse_plaintext_beyond_loopback(endpoint.host)
        self._port = port
        self._endpoints = tuple(endpoints)
        self._limits = limits or ReceiverLimits()
        self._negotiator = Negotiator(offer or StorageOffer())
        self._is_shared = bool(listening)
        self._turns_since, self._turns = 0.0, 0
        self._lock = threading.Lock()
        self._associations: dict[Association, threading.Thread] = {}
        self._hospitals: Counter[str] = Counter()
        self._listeners = list(listening)
        self._threads: list[threading.Thread] = []
        self._drain_deadline: float | None = None
        self._wake_read_fd, self._wake_write_fd = -1, -1
        self._log = structlog.get_logger()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of each endpoint, in the order given, once started."""
        return [(str(name[0]), int(name[1])) for name in (listener.getsockname() for listener in self._listeners)]

    @property
    def drain_deadline(self) -> float | None:
        """The moment of `time.monotonic()` until which associations may go on; None before `stop`."""
        return self._drain_deadline

    @property
    def wake_fd(self) -> int:
        """Readable from `stop` on."""
        return self._wake_read_fd

    @property
    def connections(self) -> int:
        """Connections open now, associations or not yet."""
        with self._lock:
            return len(self._associations)

    def start(self) -> None:
        """Bind every endpoint and accept on all of them. Raises: BadInput if an address cannot be bound; then none is."""
        self._wake_read_fd, self._wake_write_fd = os.pipe()
        try:
            for endpoint in self._endpoints[len(self._listeners) :]:
                self._listeners.append(listening_socket(endpoint.host, endpoint.port))
        except BaseException:
            self._close_listeners()
            raise
        for endpoint, listener in zip(self._endpoints, self._listeners, strict=True):
            thread = threading.Thread(target=self._accept_loop, args=(listener, endpoint), name="dicom-accept", daemon=True)
            self._threads.append(thread)
            thread.start()
            self._log.info("receiver_listening", port=listener.getsockname()[1], is_tls=endpoint.tls is not None)

    def stop(self, drain_seconds: float) -> DrainOutcome:
        """Accept no more, let what is under way end, cut what is not over in `drain_seconds`. After it, no thread of ours is left."""
        self._drain_deadline = time.monotonic() + drain_seconds
        with contextlib.suppress(OSError):
            os.write(self._wake_write_fd, b"x")
        for thread in self._threads:
            thread.join()
        # Closed before the drain: who calls now is sent away at once, or waits for another process on the same socket.
        for listener in self._listeners:
            listener.close()
        with self._lock:
            running = dict(self._associations)
        for association in running:
            if association.state is AssociationState.CONNECTED:
                association.cut("stopping")
        cut = 0
        for thread in running.values():
            thread.join(max(0.0, self._drain_deadline - time.monotonic()))
        for association, thread in running.items():
            if thread.is_alive():
                # Between two messages it is ending by itself just now; within one its time is over.
                cut += association.state is AssociationState.RECEIVING
                association.cut("drain_time_over")
        for thread in running.values():
            thread.join(_CUT_SECONDS)
        self._close_listeners()
        self._log.info("receiver_stopped", ended=len(running) - cut, cut=cut)
        return DrainOutcome(len(running) - cut, cut)

    def may_associate(self, association: Association, hospital_id: str) -> bool:
        """Count the association as one of this hospital's, unless that or the total is at its limit."""
        with self._lock:
            established = sum(self._hospitals.values())
            if established >= self._limits.associations_max or self._hospitals[hospital_id] >= self._limits.associations_per_hospital_max:
                return False
            self._hospitals[hospital_id] += 1
            association.hospital_id = hospital_id
            return True

    # --- accepting -------------------------------------------------------------------------------------------------------

    def _accept_loop(self, listener: socket.socket, endpoint: Endpoint) -> None:
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        poll.register(self._wake_read_fd, select.POLLIN)
        while True:
            poll.poll()
            if self.drain_deadline is None and self._is_shared:
                self._let_others_first()
            if self.drain_deadline is not None:
                return
            try:
                connection, address = listener.accept()
            except OSError as error:
                if error.errno in _OUT_OF_ROOM:
                    self._log.error("connection_not_accepted", reason=errno.errorcode[error.errno])
                    with self._lock:
                        self._displace()
                    time.sleep(_PAUSE_SECONDS)
                # Everything else is the connection's own end between knocking and entering, or another receiver that took it.
                continue
            try:
                self._begin(connection, str(address[0]), endpoint)
            except Exception as error:
                connection.close()
                self._log.error("connection_not_served", error_class=type(error).__name__)
                time.sleep(_PAUSE_SECONDS)

    def _let_others_first(self) -> None:
        now = time.monotonic()
        if now - self._turns_since >= 1.0:
            self._turns_since, self._turns = now, 0
        self._turns += 1
        if self._turns <= _TURNS_PER_SECOND_MAX:
            time.sleep(min(self.connections, _TURN_CONNECTIONS_MAX) * _TURN_SECONDS)

    def _begin(self, connection: socket.socket, address: str, endpoint: Endpoint) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            associated = sum(each.state in _ASSOCIATED for each in self._associations)
            of_address = sum(each.address == address and each.state is not AssociationState.CLOSED for each in self._associations)
            is_full = associated >= self._limits.associations_max or of_address >= self._limits.connections_per_address_max
            waiting = len(self._associations) - associated
            if waiting >= self._limits.unassociated_max:
                self._displace()
            association = Association(
                connection,
                address,
                host=self,
                port=self._port,
                negotiator=self._negotiator,
                limits=self._limits.association,
                tls=endpoint.tls,
                refuse_with=LOCAL_LIMIT_EXCEEDED if is_full else None,
            )
            thread = threading.Thread(target=self._run, args=(association,), name="dicom-association", daemon=True)
            self._associations[association] = thread
        try:
            thread.start()
        except BaseException:
            self._forget(association)
            raise

    def _displace(self) -> None:
        """End the oldest connection without an association, of the address that has most of them. The lock is held."""
        waiting = [each for each in self._associations if each.state not in _ASSOCIATED and not each.is_cut]
        if not waiting:
            return
        greediest, _ = Counter(each.address for each in waiting).most_common(1)[0]
        next(each for each in waiting if each.address == greediest).cut("displaced")

    def _run(self, association: Association) -> None:
        try:
            association.run()
        finally:
            self._forget(association)

    def _forget(self, association: Association) -> None:
        with self._lock:
            self._associations.pop(association, None)
            if association.hospital_id is not None:
                self._hospitals[association.hospital_id] -= 1
                if not self._hospitals[association.hospital_id]:
                    del self._hospitals[association.hospital_id]

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for fd in (self._wake_read_fd, self._wake_write_fd):
            if fd >= 0:
                os.close(fd)
        self._wake_read_fd = self._wake_write_fd = -1
