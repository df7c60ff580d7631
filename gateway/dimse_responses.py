"""DIMSE statuses and A-ABORT reasons the listener answers with, and the bytes of its responses.

The response command sets are encoded here by hand: pynetdicom takes about a millisecond for one, which is longer than everything else we do
for a small instance. A test holds them against pynetdicom's own encoding, byte for byte.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from crypto.errors import (
    BadInput,
    Conflict,
    IntegrityFailure,
    NotAllowed,
    NotFound,
    PermanentPeerFailure,
    ReadgateError,
    RefusedContent,
    TemporarilyUnable,
)

# PS3.7 Annex C
SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
DUPLICATE_SOP_INSTANCE = 0x0111
NO_SUCH_SOP_INSTANCE = 0x0112
INVALID_ARGUMENT_VALUE = 0x0115
INVALID_SOP_INSTANCE = 0x0117
NO_SUCH_SOP_CLASS = 0x0118
CLASS_INSTANCE_CONFLICT = 0x0119
SOP_CLASS_NOT_SUPPORTED = 0x0122
NO_SUCH_ACTION_TYPE = 0x0123
NOT_AUTHORIZED = 0x0124
UNRECOGNIZED_OPERATION = 0x0211
MISTYPED_ARGUMENT = 0x0212
RESOURCE_LIMITATION = 0x0213

# PS3.4 Table B.2-1, C-STORE
OUT_OF_RESOURCES = 0xA700
DATA_SET_DOES_NOT_MATCH_SOP_CLASS = 0xA900
CANNOT_UNDERSTAND = 0xC000

# PS3.3 C.14.1.1, Failure Reason (0008,1197) of Storage Commitment, where it has words or numbers other than those of PS3.7 Annex C.
NO_SUCH_OBJECT_INSTANCE = 0x0112
DUPLICATE_TRANSACTION_UID = 0x0131

#: Error Comment (0000,0902) of the statuses after which a person at the sender must do something; at most 64 characters.
COMMENTS: dict[int, str] = {
    PROCESSING_FAILURE: "The gateway failed; the instance was not kept",
    INVALID_SOP_INSTANCE: "SOP Instance UID is not a valid UID (PS3.5 9.1)",
    SOP_CLASS_NOT_SUPPORTED: "SOP Class is not that of the presentation context",
    NOT_AUTHORIZED: "The sender may not store this",
    UNRECOGNIZED_OPERATION: "Operation is not supported here",
    OUT_OF_RESOURCES: "Out of resources, nothing was kept; retry later",
    DATA_SET_DOES_NOT_MATCH_SOP_CLASS: "Data set does not match SOP Class or Instance UID",
    CANNOT_UNDERSTAND: "Data set cannot be read; nothing was kept",
}

#: What an error of the port becomes (one row per class; the first that matches, so the root stands last).
_STATUS_OF_ERROR: tuple[tuple[type[ReadgateError], int], ...] = (
    (RefusedContent, CANNOT_UNDERSTAND),
    (BadInput, CANNOT_UNDERSTAND),
    (NotAllowed, NOT_AUTHORIZED),
    (NotFound, NO_SUCH_SOP_INSTANCE),
    (Conflict, DUPLICATE_SOP_INSTANCE),
    (TemporarilyUnable, OUT_OF_RESOURCES),
    (PermanentPeerFailure, PROCESSING_FAILURE),
    (IntegrityFailure, PROCESSING_FAILURE),
    (ReadgateError, PROCESSING_FAILURE),
)


#: Reason codes of refused content that have a status of their own: the data set is another instance than the command names.
CLASS_MISMATCH = "CLASS_MISMATCH"
UID_MISMATCH = "UID_MISMATCH"
_STATUS_OF_REASON = {CLASS_MISMATCH: DATA_SET_DOES_NOT_MATCH_SOP_CLASS, UID_MISMATCH: DATA_SET_DOES_NOT_MATCH_SOP_CLASS}


def status_of_error(error: BaseException) -> int:
    """The DIMSE status for what a port method raised; an unknown exception is a processing failure without text."""
    if isinstance(error, RefusedContent) and error.reason_code in _STATUS_OF_REASON:
        return _STATUS_OF_REASON[error.reason_code]
    for kind, status in _STATUS_OF_ERROR:
        if isinstance(error, kind):
            return status
    return PROCESSING_FAILURE


# PS3.8 Table 9-26, A-ABORT
ABORT_BY_SERVICE_USER = 0
ABORT_BY_SERVICE_PROVIDER = 2
ABORT_REASON_NOT_SPECIFIED = 0
ABORT_UNRECOGNIZED_PDU = 1
ABORT_UNEXPECTED_PDU = 2
ABORT_UNRECOGNIZED_PDU_PARAMETER = 4
ABORT_UNEXPECTED_PDU_PARAMETER = 5
ABORT_INVALID_PDU_PARAMETER_VALUE = 6

# PS3.7 Table E.1-1, Command Field (0000,0100)
C_STORE_RQ = 0x0001
C_STORE_RSP = 0x8001
C_ECHO_RQ = 0x0030
C_ECHO_RSP = 0x8030
C_CANCEL_RQ = 0x0FFF
N_EVENT_REPORT_RQ = 0x0100
N_EVENT_REPORT_RSP = 0x8100
N_ACTION_RQ = 0x0130
N_ACTION_RSP = 0x8130

NO_DATASET = 0x0101

_COMMAND_ELEMENT = struct.Struct("<HHI")
_PDV = struct.Struct(">BBIIBB")
#: Message Control Header, PS3.8 E.2
COMMAND_LAST = 0b11
DATASET_LAST = 0b10
DATASET_MORE = 0b00


@dataclass(frozen=True, slots=True)
class EventReport:
    """The addresses of an N-EVENT-REPORT-RQ (PS3.7 10.3.1)."""

    message_id: int
    sop_class_uid: str
    sop_instance_uid: str
    event_type_id: int


def c_store_response(context_id: int, message_id: int, sop_class_uid: bytes, sop_instance_uid: bytes, status: int) -> bytes:
    """A C-STORE-RSP as one P-DATA-TF PDU (PS3.7 9.3.1.2)."""
    elements = [(0x0002, sop_class_uid), *_answer(C_STORE_RSP, message_id, status)]
    comment = COMMENTS.get(status)
    if comment is not None:
        elements.append((0x0902, comment.encode("ascii")))
    elements.append((0x1000, sop_instance_uid))
    return command_pdu(context_id, elements)


def plain_response(context_id: int, command_field: int, message_id: int, status: int, sop_class_uid: bytes = b"") -> bytes:
    """A response without a data set and without instance, C-ECHO-RSP for one (PS3.7 9.3.5.2), as one P-DATA-TF PDU."""
    elements = [(0x0002, sop_class_uid)] if sop_class_uid else []
    elements += _answer(command_field, message_id, status)
    comment = COMMENTS.get(status)
    if comment is not None:
        elements.append((0x0902, comment.encode("ascii")))
    return command_pdu(context_id, elements)


def n_action_response(
    context_id: int, message_id: int, sop_class_uid: bytes, sop_instance_uid: bytes, action_type_id: int, status: int
) -> bytes:
    """An N-ACTION-RSP without action reply (PS3.7 10.3.4.2), as one P-DATA-TF PDU."""
    elements = [(0x0002, sop_class_uid), *_answer(N_ACTION_RSP, message_id, status)]
    elements += [(0x1000, sop_instance_uid), (0x1008, _us(action_type_id))]
    return command_pdu(context_id, elements)


def n_event_report(context_id: int, report: EventReport, dataset: bytes, peer_pdu_bytes_max: int) -> bytes:
    """An N-EVENT-REPORT-RQ with its data set, split into PDUs that the peer takes (PS3.7 10.3.1.1)."""
    command = command_pdu(
        context_id,
        [
            (0x0002, report.sop_class_uid.encode("ascii")),
            (0x0100, _us(N_EVENT_REPORT_RQ)),
            (0x0110, _us(report.message_id)),
            (0x0800, _us(0x0001)),
            (0x1000, report.sop_instance_uid.encode("ascii")),
            (0x1002, _us(report.event_type_id)),
        ],
    )
    fragment = max(64, (peer_pdu_bytes_max or 131072) - 6)
    pieces = [command]
    for start in range(0, max(1, len(dataset)), fragment):
        part = dataset[start : start + fragment]
        control = DATASET_LAST if start + fragment >= len(dataset) else DATASET_MORE
        pieces.append(_PDV.pack(4, 0, len(part) + 6, len(part) + 2, context_id, control) + part)
    return b"".join(pieces)


def command_pdu(context_id: int, elements: list[tuple[int, bytes]]) -> bytes:
    """A command set (Implicit VR Little Endian, PS3.7 6.3.1) with its group length, as one P-DATA-TF PDU. Elements in ascending order."""
    body = bytearray()
    for number, value in elements:
        padded = value + b"\0" if len(value) % 2 and number in _UI else value + b" " if len(value) % 2 else value
        body += _COMMAND_ELEMENT.pack(0, number, len(padded))
        body += padded
    length = len(body) + 12
    head = _PDV.pack(4, 0, length + 6, length + 2, context_id, COMMAND_LAST)
    return head + _COMMAND_ELEMENT.pack(0, 0, 4) + struct.pack("<I", len(body)) + body


_UI = frozenset({0x0002, 0x0003, 0x1000, 0x1001})


def _answer(command_field: int, message_id: int, status: int) -> list[tuple[int, bytes]]:
    return [(0x0100, _us(command_field)), (0x0120, _us(message_id)), (0x0800, _us(NO_DATASET)), (0x0900, _us(status))]


def _us(value: int) -> bytes:
    return value.to_bytes(2, "little")


def abort_pdu(source: int, reason: int) -> bytes:
    """A-ABORT (PS3.8 9.3.8)."""
    return bytes((7, 0, 0, 0, 0, 4, 0, 0, source, reason))


def reject_pdu(result: int, source: int, reason: int) -> bytes:
    """A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
    return bytes((3, 0, 0, 0, 0, 4, 0, result, source, reason))


#: A-RELEASE-RP (PS3.8 9.3.7)
RELEASE_RESPONSE = bytes((6, 0, 0, 0, 0, 4, 0, 0, 0, 0))
