"""What the DICOM listener asks of the gateway behind it: who may associate, and where the bytes go.

The listener knows the protocol and nothing else: no database, no spool, no key. Everything it must decide or keep, it asks an
`IntakePort`. Every method is called from the one thread of its association, several associations at a time.

- No association is accepted before `admit` has said so; `open_session` is called once for each association that was accepted,
  `released` once for each session that was opened.
- A status of 0x0000 is sent to the sender after the port has returned it, and for no other reason. Whoever returns it has made the
  instance durable.
- Payload parts are views of a buffer that is written again as soon as the call returns; who keeps bytes longer copies them.
- Whatever a port method raises becomes a DIMSE status by `dimse_responses.status_of_error`; no text of an error reaches the peer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Peer:
    """Who asks for an association. The certificate's facts are those of a certificate that was verified, or None without TLS."""

    calling_ae_title: str
    called_ae_title: str
    address: str
    certificate_sha256: str | None
    certificate_subject: str | None
    is_tls: bool


@dataclass(frozen=True, slots=True)
class Admission:
    """The peer is a sender of this hospital. `session` is whatever `open_session` needs to carry on from here."""

    hospital_id: str
    session: object = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """The peer is refused with this Result, Source and Reason of A-ASSOCIATE-RJ (PS3.8 9.3.4), logged as `event_name`."""

    result: int
    source: int
    reason: int
    event_name: str


#: PS3.8 Table 9-21, the two refusals a port decides on.
CALLING_AE_TITLE_NOT_RECOGNIZED = Refusal(1, 1, 3, "calling_ae_title_refused")
CALLED_AE_TITLE_NOT_RECOGNIZED = Refusal(1, 1, 7, "called_ae_title_refused")
#: A certificate that is not the AE title's own: the standard has no reason of its own for it (result permanent, no reason given).
CERTIFICATE_NOT_OF_AE_TITLE = Refusal(1, 1, 1, "certificate_refused_for_ae_title")
#: The hospital has as many associations as it may have, or the gateway takes no more for now (transient, PS3.8 Table 9-21).
LOCAL_LIMIT_EXCEEDED = Refusal(2, 3, 2, "association_limit_reached")
TEMPORARY_CONGESTION = Refusal(2, 3, 1, "association_refused_for_congestion")


@dataclass(frozen=True, slots=True)
class AcceptedContext:
    """A presentation context as it was accepted (PS3.8 9.3.3.2)."""

    context_id: int
    sop_class_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True, slots=True)
class InstanceHead:
    """What the C-STORE-RQ command and its presentation context say of an instance (PS3.7 9.3.1.1).

    The dataset may say otherwise: comparing the two is the port's duty (`header_scan.scan_header`).
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    message_id: int
    move_originator_ae_title: str | None = None
    move_originator_message_id: int | None = None


class LargeInstance(Protocol):
    """An instance too large for the window of its association: handed over piece by piece, in order."""

    def append(self, parts: Sequence[memoryview]) -> None:
        """Take the next piece of the payload; it need not be durable yet. Raises: as `IntakePort.receive_instance`."""
        ...

    def finish(self) -> int:
        """The payload is whole. As `IntakePort.receive_instance`: the DIMSE status, success only when all pieces are durable."""
        ...

    def discard(self) -> None:
        """The rest will not come or is not wanted; what was appended is forgotten. Called instead of `finish`, at most once."""
        ...


@dataclass(frozen=True, slots=True)
class InstanceReference:
    """One item of a Referenced SOP Sequence (PS3.3 C.14)."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class FailedReference:
    """An instance whose storage is not committed, with its Failure Reason (0008,1197), PS3.3 C.14.1.1."""

    sop_class_uid: str
    sop_instance_uid: str
    failure_reason: int


@dataclass(frozen=True, slots=True)
class CommitmentResult:
    """The outcome of one Storage Commitment request; every instance asked for stands in exactly one of the two lists."""

    committed: Sequence[InstanceReference]
    failed: Sequence[FailedReference]


class SessionEnd(StrEnum):
    """How an association ended."""

    RELEASED = "RELEASED"
    ABORTED = "ABORTED"
    LOST = "LOST"


class IntakePort(Protocol):
    """The gateway as the listener sees it. One object serves all associations of a process."""

    def handshake_refused(self, address: str, reason: str) -> None:
        """A peer of the TLS port had no acceptable certificate, or spoke no TLS; it was refused. `reason` is a constant."""
        ...

    def admit(self, peer: Peer) -> Admission | Refusal:
        """Decide whether this peer may associate, by AE titles, address and certificate."""
        ...

    def open_session(self, peer: Peer, admission: Admission, contexts: Sequence[AcceptedContext]) -> object:
        """The association is about to be accepted with these contexts. What is returned goes into every later call."""
        ...

    def receive_instance(self, session: object, head: InstanceHead, parts: Sequence[memoryview]) -> int:
        """Keep one whole instance. Returns the DIMSE status; success only after the instance is durable."""
        ...

    def begin_large_instance(self, session: object, head: InstanceHead) -> LargeInstance:
        """The payload exceeds the window; the pieces follow. The header of the dataset lies within the first piece."""
        ...

    def commit_storage(self, session: object, transaction_uid: str, instances: Sequence[InstanceReference]) -> CommitmentResult:
        """Say which instances are kept (PS3.4 J.3.2). Called after the N-ACTION was answered with success."""
        ...

    def commitment_undelivered(self, session: object, transaction_uid: str, result: CommitmentResult) -> None:
        """The association ended before the peer confirmed the N-EVENT-REPORT.

        Deliver it on a new association (`store_scu.send_commitment_result`).
        """
        ...

    def released(self, session: object, how: SessionEnd) -> None:
        """The association is over; nothing follows for this session."""
        ...
