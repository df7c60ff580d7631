"""What a child that was taken over may say: nothing of it is believed but the bytes, and those are looked through."""

from __future__ import annotations

import ast
import os
import struct
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from compliance import child_wire
from compliance.child_answer import proposed_of, refusal_of
from compliance.dataset_bytes import EXPLICIT_LITTLE, elements, encode_element, encode_items
from compliance.deid_child import DeidChild, _made
from compliance.deidentify import deidentify
from compliance.identified import IdentifiedDataset, Pseudonymity
from compliance.identity_terms import IdentityTerms
from compliance.refusal_words import REASONS, known_detail
from crypto.canonical import keyed_uid
from crypto.errors import RefusedContent
from tests.builders import make_ct_study
from tests.deid_children import asked
from tests.deid_samples import SECRET, bare_instance, clean_screen, instance_of, names_for

NAMED = "Zorvathine Quillan PID7788991"


def real_answer() -> tuple[dict[str, Any], bytes, IdentifiedDataset, Pseudonymity]:
    """(facts, payload, source, names) as an honest child would give them."""
    source = instance_of(bare_instance())
    under = names_for(IdentityTerms(patient_names=frozenset({"Zorvathine^Quillan"}), patient_ids=frozenset({"PID7788991"})))
    made = deidentify(source, under, screen=clean_screen)
    return (
        {"transfer_syntax_uid": made.transfer_syntax_uid, "action_counts": dict(made.action_counts), "flags": []},
        made.payload,
        source,
        under,
    )


def test_what_a_child_says_of_its_bytes_is_not_believed() -> None:
    facts, payload, source, under = real_answer()
    honest = _made(facts, payload, source, under)
    lies = {
        "dicom_json": {**honest.dicom_json, "00081030": {"vr": "LO", "Value": [NAMED]}},
        "attributes": {**asdict(honest.attributes), "study_description": NAMED},
        "sop_instance_uid": source.sop_instance_uid,
        "study_instance_uid": "1.2.826.0.1.3680043.2.2.1",
        "series_instance_uid": "1.2.826.0.1.3680043.2.3.1",
        "frame_table": [],
    }
    made = _made({**facts, **lies}, payload, source, under)
    assert (made.dicom_json, made.attributes) == (honest.dicom_json, honest.attributes)
    assert made.study_instance_uid == keyed_uid(SECRET, "1.2.826.0.1.3680043.2.2.1")
    assert made.sop_instance_uid == keyed_uid(SECRET, source.sop_instance_uid)
    assert "Zorvathine" not in repr(vars(made)) and "1.2.826" not in repr(made.dicom_json)


def changed(payload: bytes, tag: int, value: bytes | None) -> bytes:
    """The payload with another value of `tag`, or without it."""
    parts = []
    for element in elements(payload, 0, len(payload), EXPLICIT_LITTLE):
        if element.tag != tag:
            parts.append(payload[element.start : element.stop])
        elif value is not None:
            parts.append(encode_element(tag, element.vr, value))
    return b"".join(parts)


def deep_sequences(depth: int) -> bytes:
    inside = b""
    for _ in range(depth):
        inside = encode_element(0x0040A730, "SQ", encode_items([inside]))
    return inside


BEHIND = encode_element(0x7FE00001, "LO", b"a word of the child's")
FORGED: dict[str, Callable[[bytes], bytes]] = {
    "another instance": lambda payload: changed(payload, 0x00080018, b"2.25.1234567890123456"),
    "another study": lambda payload: changed(payload, 0x0020000D, b"2.25.1234567890123456"),
    "no series": lambda payload: changed(payload, 0x0020000E, None),
    "another class": lambda payload: changed(payload, 0x00080016, b"1.2.840.10008.5.1.4.1.1.4"),
    "another patient": lambda payload: changed(payload, 0x00100010, b"Somebody^Else"),
    "another number": lambda payload: changed(payload, 0x00100020, b"12"),
    "another accession": lambda payload: changed(payload, 0x00080050, b"12"),
    "text in the group of pixels": lambda payload: payload + BEHIND,
    "elements without number": lambda payload: payload + encode_element(0x0040A730, "SQ", encode_items([b""] * 100_000)),
    "half an element": lambda payload: payload + b"\0",
    "400 sequences deep": lambda payload: payload + deep_sequences(400),
}


@pytest.mark.parametrize("kind", FORGED)
def test_bytes_that_are_no_work_on_the_source_are_refused(kind: str) -> None:
    facts, payload, source, under = real_answer()
    with pytest.raises((ValueError, RefusedContent)) as refused:
        _made(facts, FORGED[kind](payload), source, under)
    assert "Zorvathine" not in str(refused.value)


@pytest.mark.parametrize("flags", [[NAMED], NAMED, [["UNUSED_BITS_CLEARED"]]])
def test_flags_and_counts_are_of_closed_lists(flags: Any) -> None:
    facts, payload, source, under = real_answer()
    with pytest.raises((ValueError, TypeError)):
        _made({**facts, "flags": flags}, payload, source, under)
    for counts in ({NAMED: 1}, {"X": NAMED}, {"X": -1}):
        with pytest.raises(ValueError):
            _made({**facts, "action_counts": counts}, payload, source, under)


def answering(monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any], payload: bytes = b"") -> None:
    """Every child says this in place of what it made."""
    receive = child_wire.receive

    def lie(*arguments: Any) -> tuple[dict[str, Any], bytes]:
        words, made = receive(*arguments)
        return (answer, payload) if "made" in words else (words, made)

    monkeypatch.setattr(child_wire, "receive", lie)


def test_a_refusal_says_nothing_but_words_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for refused in ([NAMED, "", None], ["DOUBTFUL_TEXT", "", NAMED], ["DOUBTFUL_TEXT", 1, None]):
        with pytest.raises(ValueError):
            refusal_of(refused)
    for box in ([0, 0, 1, 1, NAMED], [0, 0, 1, 1 << 60, "mask"], [0, 0, 1, NAMED, "mask"]):
        with pytest.raises(ValueError):
            proposed_of([box])
    answering(monkeypatch, {"refused": [NAMED, "", None], "proposed": []})
    with DeidChild() as liar, pytest.raises(RefusedContent) as refusal:
        asked(liar, instance_of(make_ct_study(1)[0]))
    assert (refusal.value.reason_code, refusal.value.tag) == ("WORKER_DIED", None) and liar.pid is None


def test_a_detail_that_is_none_of_ours_is_dropped() -> None:
    for said, kept in ((NAMED, ""), ("TEXT_REMAINS", "TEXT_REMAINS"), ("an original day is left", "an original day is left")):
        assert refusal_of(["BURNED_IN_TEXT", said, "(7FE0,0010)"]) == ("BURNED_IN_TEXT", kept, "(7FE0,0010)")


def test_every_refusal_of_the_package_is_known_by_its_words() -> None:
    said: set[str] = set()
    for path in Path(child_wire.__file__).parent.glob("*.py"):
        if path.name in ("deid_child.py", "part10.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("RefusedContent", "_malformed", "_not_held", "_refused")
            ):
                said.update(one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str))
    assert len(said) > 80 and not [one for one in said if one not in REASONS and known_detail(one) != one]


@pytest.mark.parametrize("harm", [RecursionError, MemoryError, OverflowError, AssertionError])
def test_whatever_an_answer_does_to_the_parent_it_is_a_death(harm: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    source = instance_of(make_ct_study(1)[0])
    with DeidChild() as child:
        asked(child, source)

        def receive(*_: Any) -> tuple[dict[str, Any], bytes]:
            raise harm

        monkeypatch.setattr(child_wire, "receive", receive)
        with pytest.raises(RefusedContent, match="WORKER_DIED"):
            asked(child, source)
        assert child.pid is None


def test_an_answer_is_no_larger_than_its_question_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    source = instance_of(make_ct_study(1)[0])
    bounds: list[tuple[int, int]] = []
    receive = child_wire.receive

    def listen(descriptor: int, payload_max: int, deadline: float | None, words_max: int) -> tuple[dict[str, Any], bytes]:
        bounds.append((payload_max, words_max))
        return receive(descriptor, payload_max, deadline, words_max)

    monkeypatch.setattr(child_wire, "receive", listen)
    with DeidChild() as child:
        asked(child, source)
    assert bounds and max(words for _, words in bounds) <= 1 << 20
    assert max(size for size, _ in bounds) <= (256 << 20) + 8 * len(source.payload)


@pytest.mark.parametrize(
    "message",
    [struct.pack(">I", 1 << 31), struct.pack(">I", 2) + b"{}" + struct.pack(">Q", 1 << 40), struct.pack(">I", 4) + b"[[]]" + bytes(8)],
    ids=["words", "payload", "no object"],
)
def test_a_message_that_is_too_long_is_none(message: bytes) -> None:
    source, sink = os.pipe()
    os.write(sink, message)
    os.close(sink)
    with pytest.raises(ValueError):
        child_wire.receive(source, 100, None, 1 << 20)
    os.close(source)
