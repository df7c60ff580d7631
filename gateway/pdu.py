"""PDUs on the wire: the framing of PS3.8 9.3, and nothing of what is in them.

Invariants, for every byte a peer may send:
- A length is compared with the cap of its PDU type before anything is allocated or awaited for it:
  A-ASSOCIATE-RQ 64 KiB, P-DATA-TF the maximum we announced, all others exactly 4 bytes.
- The items of a P-DATA-TF fill it exactly; an item has at least its 2-byte head.
- A fragment goes from the socket straight to its place in the caller's buffer; it is never copied afterwards.
- Every read has an absolute deadline, fixed when the wait for the PDU began.
"""

from __future__ import annotations

import struct
import time
from enum import IntEnum

from crypto.errors import RefusedContent
from gateway import dimse_responses as dimse
from gateway.dicom_transport import Transport

#: PS3.8 D.1: the longest P-DATA-TF variable field we receive, in bytes.
PDU_BYTES_MAX = 131072
ASSOCIATE_BYTES_MAX = 65536
#: Fixed fields of A-ASSOCIATE-RQ after the 6-byte header (PS3.8 Table 9-11).
_ASSOCIATE_BYTES_MIN = 68
_SHORT_PDU_BYTES = 4
#: Bytes before a fragment that its Presentation-context-ID and Message Control Header occupy while it is read (PS3.8 9.3.5.1, E.2).
FRAGMENT_HEAD_BYTES = 2

_HEADER = struct.Struct(">BBI")
_LENGTH = struct.Struct(">I")


class PduType(IntEnum):
    """PS3.8 9.3.1."""

    A_ASSOCIATE_RQ = 1
    A_ASSOCIATE_AC = 2
    A_ASSOCIATE_RJ = 3
    P_DATA_TF = 4
    A_RELEASE_RQ = 5
    A_RELEASE_RP = 6
    A_ABORT = 7


_KNOWN_TYPES = frozenset(int(kind) for kind in PduType)


class ProtocolViolation(RefusedContent):
    """The peer broke PS3.8 or PS3.7; the association is aborted with this Source and Reason (PS3.8 Table 9-26)."""

    def __init__(self, reason_code: str, *, abort_reason: int, abort_source: int = dimse.ABORT_BY_SERVICE_PROVIDER) -> None:
        super().__init__(reason_code)
        self.abort_source = abort_source
        self.abort_reason = abort_reason


class MessageInterrupted(RefusedContent):
    """Another PDU than P-DATA-TF came while a message was incomplete."""

    def __init__(self, kind: int) -> None:
        super().__init__("message_interrupted")
        self.kind = kind


class PduReader:
    """Reads the PDUs of one connection. Not for use from several threads."""

    def __init__(self, transport: Transport, *, pdu_seconds_max: float, pdu_bytes_max: int = PDU_BYTES_MAX) -> None:
        self._transport = transport
        self._pdu_seconds_max = pdu_seconds_max
        self._pdu_bytes_max = pdu_bytes_max
        self._head = bytearray(10)
        self._head_view = memoryview(self._head)
        #: Bytes of the current P-DATA-TF that were not read yet, including the head of its next item.
        self._pdu_left = 0
        #: The length field of the current item, already taken off the wire.
        self._item_length = 0
        self._deadline = 0.0

    def read_associate_request(self, deadline: float) -> bytes:
        """The first PDU of a connection, whole, header included. Raises: ProtocolViolation, ConnectionLost, DeadlinePassed."""
        self._transport.read_into(self._head_view[:6], deadline)
        kind, _, length = _HEADER.unpack_from(self._head)
        if kind != PduType.A_ASSOCIATE_RQ:
            reason = dimse.ABORT_UNEXPECTED_PDU if kind in _KNOWN_TYPES else dimse.ABORT_UNRECOGNIZED_PDU
            raise ProtocolViolation("first_pdu_is_no_association_request", abort_reason=reason)
        if not _ASSOCIATE_BYTES_MIN <= length <= ASSOCIATE_BYTES_MAX:
            raise ProtocolViolation("association_request_length_refused", abort_reason=dimse.ABORT_INVALID_PDU_PARAMETER_VALUE)
        pdu = bytearray(6 + length)
        pdu[:6] = self._head[:6]
        self._transport.read_into(memoryview(pdu)[6:], deadline)
        return bytes(pdu)

    @property
    def is_between_pdus(self) -> bool:
        """True if the next byte on the wire is the first of a PDU."""
        return self._pdu_left == 0

    def next_pdu(self, message_deadline: float) -> int:
        """Read the head of the next PDU and return its type; a PDU of the 4-byte kind is read whole.

        Raises: ProtocolViolation on a type or length that cannot be, ConnectionLost, DeadlinePassed.
        """
        now = time.monotonic()
        self._deadline = min(now + self._pdu_seconds_max, message_deadline)
        # Ten bytes are the shortest PDU there is, and of a P-DATA-TF they reach to the length of its first item.
        self._transport.read_into(self._head_view, self._deadline)
        kind, _, length = _HEADER.unpack_from(self._head)
        if kind == PduType.P_DATA_TF:
            if length > self._pdu_bytes_max:
                raise ProtocolViolation("data_pdu_length_refused", abort_reason=dimse.ABORT_INVALID_PDU_PARAMETER_VALUE)
            self._pdu_left = length
            self._begin_item(_LENGTH.unpack_from(self._head, 6)[0])
            return int(kind)
        if kind not in _KNOWN_TYPES:
            raise ProtocolViolation("pdu_type_unknown", abort_reason=dimse.ABORT_UNRECOGNIZED_PDU)
        if kind in (PduType.A_ASSOCIATE_RQ, PduType.A_ASSOCIATE_AC):
            raise ProtocolViolation("pdu_unexpected", abort_reason=dimse.ABORT_UNEXPECTED_PDU)
        if length != _SHORT_PDU_BYTES:
            raise ProtocolViolation("pdu_length_refused", abort_reason=dimse.ABORT_INVALID_PDU_PARAMETER_VALUE)
        return int(kind)

    def abort_fields(self) -> tuple[int, int]:
        """Source and Reason of the A-ABORT that `next_pdu` has just read."""
        return self._head[8], self._head[9]

    def read_fragment(self, buffer: memoryview, position: int, message_deadline: float) -> tuple[int, int, int]:
        """Read the next item of the message into `buffer` from `position` on: (context id, Message Control Header, length in bytes).

        `position` is at least FRAGMENT_HEAD_BYTES; the two bytes before it are lent to the item's head and restored.
        Raises: ProtocolViolation if the item has more bytes than `buffer` room, MessageInterrupted, ConnectionLost, DeadlinePassed.
        """
        if self._pdu_left == 0:
            kind = self.next_pdu(message_deadline)
            if kind != PduType.P_DATA_TF:
                raise MessageInterrupted(kind)
        length = self._item_length - FRAGMENT_HEAD_BYTES
        if position + length > len(buffer):
            raise ProtocolViolation("message_exceeds_buffer", abort_reason=dimse.ABORT_INVALID_PDU_PARAMETER_VALUE)
        start = position - FRAGMENT_HEAD_BYTES
        lent = bytes(buffer[start:position])
        self._transport.read_into(buffer[start : position + length], self._deadline)
        context_id, control = buffer[start], buffer[start + 1]
        buffer[start:position] = lent
        self._pdu_left -= 4 + self._item_length
        if self._pdu_left:
            self._transport.read_into(self._head_view[:4], self._deadline)
            self._begin_item(_LENGTH.unpack_from(self._head)[0])
        return context_id, control, length

    def _begin_item(self, item_length: int) -> None:
        if item_length < FRAGMENT_HEAD_BYTES or 4 + item_length > self._pdu_left:
            raise ProtocolViolation("data_item_length_refused", abort_reason=dimse.ABORT_INVALID_PDU_PARAMETER_VALUE)
        rest = self._pdu_left - 4 - item_length
        if 0 < rest < 4 + FRAGMENT_HEAD_BYTES:
            raise ProtocolViolation("data_item_length_refused", abort_reason=dimse.ABORT_INVALID_PDU_PARAMETER_VALUE)
        self._item_length = item_length
