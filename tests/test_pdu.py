"""PS3.8 framing and PS3.7 commands, byte by byte; the oracle is the standard's layout and pynetdicom's encoder."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import UID
from pynetdicom.dimse_messages import C_ECHO_RSP, C_STORE_RSP, N_ACTION_RSP
from pynetdicom.dimse_primitives import C_ECHO, C_STORE, N_ACTION

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
from gateway import dimse_responses as dimse
from gateway.dicom_transport import ConnectionLost, DeadlinePassed, PlainTransport
from gateway.dimse_commands import parse_command
from gateway.pdu import PDU_BYTES_MAX, MessageInterrupted, PduReader, PduType, ProtocolViolation, ReceiveWindow
from tests.dicom_peers import CT, associate_rq, c_store_rq, pdu, pdv


@pytest.fixture
def wire() -> Iterator[tuple[socket.socket, PduReader]]:
    theirs, ours = socket.socketpair()
    transport = PlainTransport(ours, tick_seconds=0.1)
    try:
        yield theirs, PduReader(transport, pdu_seconds_max=0.6, window_bytes=2000)
    finally:
        theirs.close()
        transport.close()


def soon() -> float:
    return time.monotonic() + 5


def test_association_request_is_read_whole(wire: tuple[socket.socket, PduReader]) -> None:
    theirs, reader = wire
    request = associate_rq({1: (CT, ["1.2.840.10008.1.2"])})
    theirs.sendall(request + b"more")
    assert reader.read_associate_request(soon()) == request


@pytest.mark.parametrize(
    ("head", "abort_reason"),
    [
        (struct.pack(">BBI", 1, 0, 65537), dimse.ABORT_INVALID_PDU_PARAMETER_VALUE),
        (struct.pack(">BBI", 1, 0, 0xFFFFFFFF), dimse.ABORT_INVALID_PDU_PARAMETER_VALUE),
        (struct.pack(">BBI", 1, 0, 67), dimse.ABORT_INVALID_PDU_PARAMETER_VALUE),
        (struct.pack(">BBI", 4, 0, 10), dimse.ABORT_UNEXPECTED_PDU),
        (struct.pack(">BBI", 0x16, 3, 1), dimse.ABORT_UNRECOGNIZED_PDU),
    ],
)
def test_first_pdu_is_refused_by_its_head_alone(wire: tuple[socket.socket, PduReader], head: bytes, abort_reason: int) -> None:
    theirs, reader = wire
    theirs.sendall(head)
    with pytest.raises(ProtocolViolation) as refused:
        reader.read_associate_request(soon())
    assert refused.value.abort_reason == abort_reason


@pytest.mark.parametrize("kind", [5, 6, 7])
@pytest.mark.parametrize("length", [0, 3, 5, 0xFFFFFFFF])
def test_short_pdu_has_four_bytes(wire: tuple[socket.socket, PduReader], kind: int, length: int) -> None:
    theirs, reader = wire
    theirs.sendall(struct.pack(">BBI", kind, 0, length) + bytes(4))
    with pytest.raises(ProtocolViolation):
        reader.next_pdu(soon())


@pytest.mark.parametrize(
    "head",
    [
        struct.pack(">BBII", 4, 0, PDU_BYTES_MAX + 1, 100),
        struct.pack(">BBII", 4, 0, 100, 97),  # the item is longer than its PDU
        struct.pack(">BBII", 4, 0, 100, 1),  # no room for the item's own head
        struct.pack(">BBII", 4, 0, 100, 92),  # 4 bytes are left, too few for an item
        struct.pack(">BBII", 4, 0, 5, 2),
        struct.pack(">BBII", 4, 0, 0, 0),
    ],
)
def test_data_pdu_that_cannot_be_is_refused_by_its_head(wire: tuple[socket.socket, PduReader], head: bytes) -> None:
    theirs, reader = wire
    theirs.sendall(head)
    with pytest.raises(ProtocolViolation):
        reader.next_pdu(soon())


def read(reader: PduReader) -> tuple[int, int, bytes]:
    context_id, control, fragment = reader.read_fragment(soon())
    return context_id, control, bytes(fragment)


def test_items_of_one_pdu_come_one_after_the_other(wire: tuple[socket.socket, PduReader]) -> None:
    theirs, reader = wire
    theirs.sendall(pdu(4, pdv(1, 3, b"command") + pdv(1, 0, b"one ") + pdv(1, 2, b"two")) + pdu(4, pdv(3, 2, b"")))
    assert reader.next_pdu(soon()) == PduType.P_DATA_TF
    first = reader.read_fragment(soon())
    assert not reader.is_between_pdus
    assert reader.is_ahead
    assert read(reader) == (1, 0, b"one ")
    assert read(reader) == (1, 2, b"two")
    assert reader.is_between_pdus
    assert read(reader) == (3, 2, b"")
    # Nothing was written over meanwhile.
    assert (*first[:2], bytes(first[2])) == (1, 3, b"command")
    assert not reader.is_ahead


def test_what_came_too_early_is_kept_when_the_rest_is_forgotten(wire: tuple[socket.socket, PduReader]) -> None:
    theirs, reader = wire
    bodies = [bytes([number]) * 700 for number in range(9)]
    theirs.sendall(b"".join(pdu(4, pdv(1, 0, body)) for body in bodies))
    seen, forgotten = [], 0
    for _ in bodies:
        seen.append(read(reader)[2])
        if reader.is_full:
            reader.forget()
            forgotten += 1
    assert (seen, forgotten) == (bodies, 3)
    reader.relax()
    theirs.sendall(pdu(4, pdv(1, 2, b"later")))
    assert read(reader) == (1, 2, b"later")


def test_pause_between_messages_ends_with_the_first_bytes_or_after_a_moment(wire: tuple[socket.socket, PduReader]) -> None:
    theirs, reader = wire
    began = time.monotonic()
    assert not reader.read_soon()
    assert 0.05 < time.monotonic() - began < 1
    theirs.sendall(pdu(4, pdv(1, 0, b"one")) + pdu(4, pdv(1, 2, b"two")))
    assert reader.read_soon() and reader.is_ahead
    assert [read(reader), read(reader)] == [(1, 0, b"one"), (1, 2, b"two")]
    theirs.close()
    with pytest.raises(ConnectionLost):
        reader.read_soon()


def test_kept_fragments_are_one_piece_and_what_is_not_kept_is_not_in_it(wire: tuple[socket.socket, PduReader]) -> None:
    theirs, reader = wire
    theirs.sendall(
        pdu(4, pdv(1, 3, b"command") + pdv(1, 0, b"one ") + pdv(1, 0, b"")) + pdu(4, pdv(1, 2, b"two")) + pdu(4, pdv(3, 2, b"x"))
    )
    assert read(reader)[2] == b"command"
    assert reader.kept() == []
    for _ in range(3):
        reader.read_fragment(soon())
        reader.keep()
    assert [bytes(part) for part in reader.kept()] == [b"one two"]
    # What came ahead is where it was.
    assert read(reader) == (3, 2, b"x")
    reader.forget()
    assert reader.kept() == []


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from([1, 3]), st.sampled_from([0, 2]), st.binary(max_size=40)), min_size=1, max_size=4), max_size=6
    )
)
@settings(max_examples=60, deadline=None)
def test_any_division_into_items_gives_the_same_bytes(pdus: list[list[tuple[int, int, bytes]]]) -> None:
    theirs, ours = socket.socketpair()
    transport = PlainTransport(ours)
    reader = PduReader(transport, pdu_seconds_max=5)
    theirs.sendall(b"".join(pdu(4, b"".join(pdv(*each) for each in items)) for items in pdus))
    theirs.close()
    assert [read(reader) for items in pdus for _ in items] == [each for items in pdus for each in items]
    transport.close()


@given(st.binary(max_size=300))
@settings(max_examples=150, deadline=None)
def test_arbitrary_bytes_end_in_a_typed_error(data: bytes) -> None:
    theirs, ours = socket.socketpair()
    transport = PlainTransport(ours)
    reader = PduReader(transport, pdu_seconds_max=5)
    theirs.sendall(data)
    theirs.close()
    try:
        for _ in range(100):
            reader.read_fragment(soon())
    except (ProtocolViolation, MessageInterrupted, ConnectionLost):
        pass
    else:
        pytest.fail("an end of the data went unnoticed")
    finally:
        transport.close()


def test_rest_of_a_pdu_is_seen_when_it_comes_and_not_at_the_next_tick() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    transport = PlainTransport(ours, tick_seconds=8.0)
    view = memoryview(bytearray(100_000))
    theirs.sendall(bytes(60_000))
    # The reader has taken the first part, and waits, when less comes than that part.
    rest = threading.Timer(0.3, theirs.sendall, [bytes(40_000)])
    rest.start()
    began = time.monotonic()
    assert transport.read_some(view, len(view), time.monotonic() + 20) == len(view)
    assert time.monotonic() - began < 4
    rest.join()
    theirs.close()
    transport.close()


def test_trickled_pdu_does_not_outlive_its_deadline(wire: tuple[socket.socket, PduReader]) -> None:
    theirs, reader = wire
    theirs.sendall(struct.pack(">BBII", 4, 0, 1004, 1000))
    assert reader.next_pdu(soon()) == PduType.P_DATA_TF
    theirs.settimeout(0)

    began = time.monotonic()
    theirs.sendall(b"x")
    with pytest.raises(DeadlinePassed):
        reader.read_fragment(soon())
    assert time.monotonic() - began < 1.5


def test_hanging_up_within_a_pdu_is_seen(wire: tuple[socket.socket, PduReader]) -> None:
    theirs, reader = wire
    theirs.sendall(struct.pack(">BBII", 4, 0, 1004, 1000) + b"abc")
    theirs.close()
    with pytest.raises(ConnectionLost):
        reader.read_fragment(soon())


# --- commands ----------------------------------------------------------------------------------------------------------------


def test_command_is_read() -> None:
    command = parse_command(c_store_rq("1.2.3", message_id=9))
    assert (command.field, command.message_id, command.uid(0x1000), command.has_dataset) == (1, 9, b"1.2.3", True)


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        c_store_rq("1.2.3")[:-1],
        c_store_rq("1.2.3") + b"\0",
        struct.pack("<HHI", 8, 0x0100, 2) + b"\1\0",  # not group 0000
        struct.pack("<HHI", 0, 0x0100, 2) + b"\1\0" + struct.pack("<HHI", 0, 0x0100, 2) + b"\1\0",
        struct.pack("<HHI", 0, 0x0110, 2) + b"\1\0",  # no Command Field
        struct.pack("<HHI", 0, 0x0100, 0xFFFFFFFF),
    ],
)
def test_malformed_command_is_refused(encoded: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        parse_command(encoded)


def _by_pynetdicom(message: object, primitive: object) -> bytes:
    message.primitive_to_message(primitive)  # type: ignore[attr-defined]
    encoded = b"".join(data[1:] for each in message.encode_msg(5, 16382) for _, data in each.presentation_data_value_list)  # type: ignore[attr-defined]
    return pdu(4, pdv(5, 3, encoded))


@pytest.mark.parametrize("status", [0x0000, 0x0110, 0xA700, 0xA900, 0xC000, 0xB000])
@pytest.mark.parametrize("sop_instance", ["1.2.3", "1.2.34"])
def test_store_response_is_what_pynetdicom_would_send(status: int, sop_instance: str) -> None:
    primitive = C_STORE()
    primitive.MessageIDBeingRespondedTo = 77
    primitive.AffectedSOPClassUID = UID(CT)
    primitive.AffectedSOPInstanceUID = UID(sop_instance)
    primitive.Status = status
    if status in dimse.COMMENTS:
        primitive.ErrorComment = dimse.COMMENTS[status]
    assert dimse.c_store_response(5, 77, CT.encode(), sop_instance.encode(), status) == _by_pynetdicom(C_STORE_RSP(), primitive)


def test_echo_and_action_responses_are_what_pynetdicom_would_send() -> None:
    echo = C_ECHO()
    echo.MessageIDBeingRespondedTo = 3
    echo.AffectedSOPClassUID = UID("1.2.840.10008.1.1")
    echo.Status = 0
    assert dimse.plain_response(5, dimse.C_ECHO_RSP, 3, 0, b"1.2.840.10008.1.1") == _by_pynetdicom(C_ECHO_RSP(), echo)
    action = N_ACTION()
    action.MessageIDBeingRespondedTo = 4
    action.AffectedSOPClassUID = UID("1.2.840.10008.1.20.1")
    action.AffectedSOPInstanceUID = UID("1.2.840.10008.1.20.1.1")
    action.ActionTypeID = 1
    action.Status = 0
    ours = dimse.n_action_response(5, 4, b"1.2.840.10008.1.20.1", b"1.2.840.10008.1.20.1.1", 1, 0)
    assert ours == _by_pynetdicom(N_ACTION_RSP(), action)


@pytest.mark.parametrize("comment", dimse.COMMENTS.values())
def test_error_comments_fit_their_element(comment: str) -> None:
    assert len(comment) <= 64 and comment.isascii()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RefusedContent("x"), 0xC000),
        (BadInput("x"), 0xC000),
        (NotAllowed("x"), 0x0124),
        (NotFound("x"), 0x0112),
        (Conflict("x"), 0x0111),
        (TemporarilyUnable("x"), 0xA700),
        (PermanentPeerFailure("x"), 0x0110),
        (IntegrityFailure("x"), 0x0110),
        (ReadgateError("x"), 0x0110),
        (KeyError("x"), 0x0110),
    ],
)
def test_every_class_of_error_has_a_status(error: Exception, status: int) -> None:
    assert dimse.status_of_error(error) == status


def test_window_that_is_given_back_holds_nothing_of_what_came() -> None:
    window = ReceiveWindow(1 << 20)
    window.view[5000:5008] = b"DOE^JANE"
    window.relax()
    assert bytes(window.view[5000:5008]) == bytes(8)
    window.close()
