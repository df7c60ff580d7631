"""PDUs on the wire: the framing of PS3.8 9.3, and nothing of what is in them.

Invariants, for every byte a peer may send:
- A length is compared with the cap of its PDU type before anything is allocated or awaited for it:
  A-ASSOCIATE-RQ 64 KiB, P-DATA-TF the maximum we announced, all others exactly 4 bytes.
- The items of a P-DATA-TF fill it exactly; an item has at least its 2-byte head.
- A fragment goes from the socket into the window of its connection and stays there. The fragments of a payload are moved together within
  it: every call that is given a payload then takes it in one piece, and gives the interpreter's lock away once, not once a fragment.
- Every read has an absolute deadline, fixed when the wait for the PDU began.
"""

from __future__ import annotations

import contextlib
import mmap
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
_SHORTEST_PDU_BYTES = 10
#: Presentation-context-ID and Message Control Header before a fragment (PS3.8 9.3.5.1, E.2).
FRAGMENT_HEAD_BYTES = 2
_DATA_HEAD_BYTES = 12
#: So much more than what is needed is taken in one call if it has come.
_READ_AHEAD_BYTES = 1024 * 1024

_HEADER = struct.Struct(">BBI")
_LENGTH = struct.Struct(">I")
#: The head of a PDU and the length of the first item of a P-DATA-TF, or the four bytes of a short PDU.
_HEAD = struct.Struct(">BxII")
_ITEM_HEAD = struct.Struct(">IBB")


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
    """Reads the PDUs of one connection, each with as few system calls as its bytes come in. Not for use from several threads."""

    def __init__(self, transport: Transport, *, pdu_seconds_max: float, pdu_bytes_max: int = PDU_BYTES_MAX, window_bytes: int = 0) -> None:
        """A message may be kept in the window until it has `window_bytes` (`is_full`)."""
        self._transport = transport
        self._pdu_seconds_max = pdu_seconds_max
        self._pdu_bytes_max = pdu_bytes_max
        self._window = ReceiveWindow(window_bytes + _READ_AHEAD_BYTES + _DATA_HEAD_BYTES + pdu_bytes_max)
        self._full = window_bytes
        #: Of the window, what came in and was not looked at yet.
        self._start, self._end = 0, 0
        #: Bytes of the current P-DATA-TF that were not read yet, including the head of its next item.
        self._pdu_left = 0
        #: Where the fragment that was read last begins, and of the window, what `keep` has put together.
        self._fragment_start = 0
        self._kept_start, self._kept_end = 0, 0
        self._short_pdu = b""
        self._deadline = 0.0

    def read_associate_request(self, deadline: float) -> bytes:
        """The first PDU of a connection, whole, header included. Raises: ProtocolViolation, ConnectionLost, DeadlinePassed."""
        head = bytearray(_HEADER.size)
        self._transport.read_into(memoryview(head), deadline)
        kind, _, length = _HEADER.unpack(head)
        if kind != PduType.A_ASSOCIATE_RQ:
            reason = dimse.ABORT_UNEXPECTED_PDU if kind in _KNOWN_TYPES else dimse.ABORT_UNRECOGNIZED_PDU
            raise ProtocolViolation("first_pdu_is_no_association_request", abort_reason=reason)
        if not _ASSOCIATE_BYTES_MIN <= length <= ASSOCIATE_BYTES_MAX:
            raise ProtocolViolation("association_request_length_refused", abort_reason=dimse.ABORT_INVALID_PDU_PARAMETER_VALUE)
        body = bytearray(length)
        self._transport.read_into(memoryview(body), deadline)
        return bytes(head + body)

    @property
    def is_between_pdus(self) -> bool:
        """True if the next byte is the first of a PDU."""
        return self._pdu_left == 0

    @property
    def is_ahead(self) -> bool:
        """True if bytes of what comes next were received already: there is nothing to wait for."""
        return self._end > self._start

    def read_soon(self) -> bool:
        """Called between messages: whether anything of the next one came within a moment. Raises: ConnectionLost."""
        self.forget()
        self._end = self._transport.read_soon(self._window.view[:_READ_AHEAD_BYTES])
        return self._end > 0

    @property
    def is_full(self) -> bool:
        """True if the fragments read since `forget` leave no room in the window for another beside them."""
        return self._start >= self._full

    def keep(self) -> None:
        """The fragment just read joins those kept since `forget`; nothing is read between them that is kept later."""
        start, end = self._fragment_start, self._start
        if self._kept_end == 0:
            self._kept_start, self._kept_end = start, end
        elif end > start:
            kept_end = self._kept_end
            self._kept_end = kept_end + end - start
            if start != kept_end:
                view = self._window.view
                view[kept_end : self._kept_end] = view[start:end]

    def kept(self) -> list[memoryview]:
        """What was kept since `forget`, as one view that is good until then, or none of nothing."""
        return [self._window.view[self._kept_start : self._kept_end]] if self._kept_end > self._kept_start else []

    def forget(self) -> None:
        """The fragments read so far are done with; their views must not be used any more."""
        left = self._end - self._start
        if left and self._start:
            view = self._window.view
            view[:left] = view[self._start : self._end]
        self._start, self._end = 0, left
        self._kept_start = self._kept_end = 0

    def relax(self) -> None:
        """Give the window's memory back, unless bytes wait in it. Called between messages."""
        self.forget()
        if not self._end:
            self._window.relax()

    def close(self) -> None:
        """Nothing is read any more."""
        self._start = self._end = self._kept_start = self._kept_end = 0
        self._window.close()

    def next_pdu(self, message_deadline: float) -> int:
        """Read the head of the next PDU and return its type; a PDU of the 4-byte kind is read whole.

        Raises: ProtocolViolation on a type or length that cannot be, ConnectionLost, DeadlinePassed.
        """
        self._deadline = min(time.monotonic() + self._pdu_seconds_max, message_deadline)
        # Ten bytes are the shortest PDU there is.
        if self._end - self._start < _SHORTEST_PDU_BYTES:
            self._require(_SHORTEST_PDU_BYTES)
        kind, length, first = _HEAD.unpack_from(self._window.view, self._start)
        if kind == PduType.P_DATA_TF:
            if length > self._pdu_bytes_max:
                raise ProtocolViolation("data_pdu_length_refused", abort_reason=dimse.ABORT_INVALID_PDU_PARAMETER_VALUE)
            self._start += _HEADER.size
            self._pdu_left = length
            self._check_item(first)
            return int(kind)
        if kind not in _KNOWN_TYPES:
            raise ProtocolViolation("pdu_type_unknown", abort_reason=dimse.ABORT_UNRECOGNIZED_PDU)
        if kind in (PduType.A_ASSOCIATE_RQ, PduType.A_ASSOCIATE_AC):
            raise ProtocolViolation("pdu_unexpected", abort_reason=dimse.ABORT_UNEXPECTED_PDU)
        if length != _SHORT_PDU_BYTES:
            raise ProtocolViolation("pdu_length_refused", abort_reason=dimse.ABORT_INVALID_PDU_PARAMETER_VALUE)
        self._short_pdu = bytes(self._window.view[self._start : self._start + _SHORTEST_PDU_BYTES])
        self._start += _SHORTEST_PDU_BYTES
        return int(kind)

    def abort_fields(self) -> tuple[int, int]:
        """Source and Reason of the A-ABORT that `next_pdu` has just read."""
        return self._short_pdu[8], self._short_pdu[9]

    def read_fragment(self, message_deadline: float) -> tuple[int, int, memoryview]:
        """Read the next item of the message: (context id, Message Control Header, fragment). The view is good until `forget`.

        Raises: MessageInterrupted, ProtocolViolation, ConnectionLost, DeadlinePassed.
        """
        if self._pdu_left == 0:
            kind = self.next_pdu(message_deadline)
            if kind != PduType.P_DATA_TF:
                raise MessageInterrupted(kind)
        # An item has at least these six bytes, or its PDU was refused.
        if self._end - self._start < _ITEM_HEAD.size:
            self._require(_ITEM_HEAD.size)
        view = self._window.view
        length, context_id, control = _ITEM_HEAD.unpack_from(view, self._start)
        self._check_item(length)
        whole = _LENGTH.size + length
        if self._end - self._start < whole:
            self._require(whole)
        self._fragment_start = start = self._start + _LENGTH.size + FRAGMENT_HEAD_BYTES
        self._start += whole
        self._pdu_left -= whole
        return context_id, control, view[start : self._start]

    def _check_item(self, length: int) -> None:
        """The item that is next has this length: it lies within its PDU and leaves room in it for no item or a whole one."""
        rest = self._pdu_left - _LENGTH.size - length
        if length < FRAGMENT_HEAD_BYTES or rest < 0 or 0 < rest < _LENGTH.size + FRAGMENT_HEAD_BYTES:
            raise ProtocolViolation("data_item_length_refused", abort_reason=dimse.ABORT_INVALID_PDU_PARAMETER_VALUE)

    def _require(self, count: int) -> None:
        """The next `count` bytes are in the window, and with them whatever else has come."""
        missing = count - (self._end - self._start)
        if missing > 0:
            end = self._end
            self._end += self._transport.read_some(self._window.view[end : end + missing + _READ_AHEAD_BYTES], missing, self._deadline)


class ReceiveWindow:
    """The memory that one connection's bytes come into: address space once, pages only while they are used."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._mapping: mmap.mmap | None = None
        self._view: memoryview | None = None
        self._is_touched = False

    @property
    def view(self) -> memoryview:
        """The whole window."""
        if self._view is None:
            # Private: of a shared mapping, which is the default, MADV_DONTNEED keeps the pages and what is in them.
            self._mapping = mmap.mmap(-1, self._length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            self._view = memoryview(self._mapping)
        self._is_touched = True
        return self._view

    def relax(self) -> None:
        """Give the pages back; the contents are gone."""
        if self._mapping is not None and self._is_touched:
            self._mapping.madvise(mmap.MADV_DONTNEED)
            self._is_touched = False

    def close(self) -> None:
        """Unmap. A view that somebody kept against his promise keeps the mapping alive, so the pages go first."""
        self.relax()
        with contextlib.suppress(BufferError):
            if self._view is not None:
                self._view.release()
            if self._mapping is not None:
                self._mapping.close()
        self._view = self._mapping = None
