"""A sender that cuts its data set into the smallest items there are costs no more memory, and not much more time, than another."""

from __future__ import annotations

import gc
import random
import time
from typing import Any

import pytest

from gateway.association_limits import AssociationLimits
from gateway.dimse_commands import parse_command
from gateway.dimse_scp import DimseScp
from gateway.intake_port import AcceptedContext
from gateway.pdu import PduReader
from tests.dicom_peers import CT, EXPLICIT_LE, RecordingPort, c_store_rq, pdu, pdv

PDU_ITEMS = 9000


class Stored:
    """A transport on which everything has come already, and which takes every answer."""

    def __init__(self, content: bytes) -> None:
        self._content, self._position = memoryview(content), 0

    def read_some(self, view: memoryview, wanted: int, deadline: float) -> int:
        assert wanted <= len(view), "the window is full"
        piece = self._content[self._position : self._position + len(view)]
        assert len(piece) >= wanted, "nothing more comes"
        view[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)


class Counting(RecordingPort):
    """Notes how many parts instances come in, how many views there are then, and how many pieces of memory they lie in."""

    parts_max: int = 0
    views_max: int = 0
    memories: int = 0

    def receive_instance(self, session: object, head: Any, parts: Any) -> int:
        self.parts_max = max(self.parts_max, len(parts))
        self.views_max = max(self.views_max, sum(type(each) is memoryview for each in gc.get_objects()))
        self.memories = len({id(part.obj) for part in parts})
        return super().receive_instance(session, head, parts)


def wire(fragments: list[bytes], *, sop_class: str = CT) -> bytes:
    """One C-STORE whose data set comes as these fragments."""
    items = [pdv(3, 2 if number == len(fragments) - 1 else 0, each) for number, each in enumerate(fragments)]
    pdus: list[bytes] = []
    waiting: list[bytes] = []
    length = 0
    for each in items:
        if length + len(each) > 131072 or len(waiting) == PDU_ITEMS:
            pdus.append(pdu(4, b"".join(waiting)))
            waiting, length = [], 0
        waiting.append(each)
        length += len(each)
    return pdu(4, pdv(3, 3, c_store_rq("1.2.3", sop_class))) + b"".join(pdus) + pdu(4, b"".join(waiting))


def serve(content: bytes, port: RecordingPort) -> list[bytes]:
    """The answers to the message."""
    limits = AssociationLimits()
    reader = PduReader(Stored(content), pdu_seconds_max=60, window_bytes=limits.window_bytes)  # type: ignore[arg-type]
    answers: list[bytes] = []
    scp = DimseScp(
        reader=reader,
        send=answers.append,
        port=port,
        session=object(),
        contexts={3: AcceptedContext(3, CT, EXPLICIT_LE)},
        peer_pdu_bytes_max=16384,
        limits=limits,
        log=_Silent(),
    )
    reader.next_pdu(time.monotonic() + 60)
    scp.receive_message(time.monotonic() + 60)
    scp.close()
    return answers


class _Silent:
    def warning(self, event: str, **fields: object) -> None:
        pass


def test_bytes_that_come_one_by_one_take_no_memory_beside_the_window() -> None:
    payload = random.Random(1).randbytes(300_000)
    content, port = wire([payload[at : at + 1] for at in range(len(payload))]), Counting()
    began = time.process_time()
    serve(content, port)
    assert time.process_time() - began < 10
    assert [body for _, body in port.instances] == [payload]
    # A view takes 200 bytes; it is of the window, so nothing was copied out of it.
    assert (port.parts_max, port.views_max < 100) == (1, True)
    assert port.memories == 1


@pytest.mark.parametrize("seed", range(6))
def test_fragments_of_any_size_are_handed_over_in_order(seed: int) -> None:
    chance = random.Random(seed)
    sizes = [chance.choice([0, 1, 2, 7, 100, 5000, 60_000]) if chance.random() < 0.02 else chance.choice([0, 1, 3]) for _ in range(20_000)]
    fragments = [chance.randbytes(size) for size in sizes]
    port = Counting()
    serve(wire(fragments), port)
    assert b"".join(body for _, body in port.instances) == b"".join(fragments)


def test_instance_is_handed_over_in_one_piece() -> None:
    port = Counting()
    serve(wire([bytes([number]) * 10_000 for number in range(40)]), port)
    assert port.parts_max == 1


def test_refused_data_set_of_single_bytes_is_read_past_in_good_time() -> None:
    port = Counting()
    # Of another class than its context: nothing of it is wanted, all of it is read.
    content = wire([b"x"] * 300_000, sop_class="1.2.840.10008.5.1.4.1.1.4")
    began = time.process_time()
    (answer,) = serve(content, port)
    assert (port.instances, b"\x22\x01" in answer) == ([], True)
    assert time.process_time() - began < 10


def test_drained_data_set_moves_what_came_ahead_once_for_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten: list[int] = []
    forget = PduReader.forget

    def counted(self: PduReader) -> None:
        forgotten.append(1)
        forget(self)

    monkeypatch.setattr(PduReader, "forget", counted)
    content = pdu(4, pdv(3, 2, b""))
    content = b"".join([pdu(4, b"".join([pdv(3, 0, b"x")] * PDU_ITEMS))] * 5) + content
    reader = PduReader(Stored(content), pdu_seconds_max=60, window_bytes=100_000)  # type: ignore[arg-type]
    context = AcceptedContext(3, CT, EXPLICIT_LE)
    scp = DimseScp(
        reader=reader,
        send=lambda _: None,
        port=RecordingPort(),
        session=object(),
        contexts={3: context},
        peer_pdu_bytes_max=16384,
        limits=AssociationLimits(),
        log=_Silent(),
    )
    command = parse_command(c_store_rq("1.2.3"))
    scp._drain_dataset(context, command, time.monotonic() + 60)
    assert 1 <= len(forgotten) <= len(content) // 100_000
