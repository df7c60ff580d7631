"""Answers of a confined child: what repeats in a series is worked out once, is the same, and counts as often as it comes."""

from __future__ import annotations

import os
import struct
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest

from compliance import child_answer, element_runs
from compliance.confined_process import ConfinedProcess
from compliance.dataset_bytes import encode_element, encode_items
from compliance.deid_child import ChildLimits, DeidChild
from compliance.deid_serve import GIVES_WAY
from compliance.deidentify import deidentify
from compliance.device_masks import DeviceMask, known_masks
from compliance.identity_terms import collect_identity
from compliance.instance_facts import InstanceFacts
from tests.builders import make_ct_study
from tests.deid_samples import clean_screen, instance_of, names_for


def test_what_repeats_is_worked_out_once_and_is_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [instance_of(one) for one in make_ct_study(5)]
    under = names_for(collect_identity(sources))
    seen: list[int] = []
    real = child_answer.json_values

    def counted(vr: str, value: bytes, tag: int) -> dict[str, Any]:
        seen.append(tag)
        return real(vr, value, tag)

    monkeypatch.setattr(child_answer, "json_values", counted)
    counts = []
    with DeidChild(ChildLimits(seconds_per_instance=120)) as child:
        for source in sources:
            before = len(seen)
            answer = child.deidentify(source, under, masks=known_masks(), reviewed=None)
            counts.append(len(seen) - before)
            alone = deidentify(source, replace(under), screen=clean_screen)
            assert (answer.payload, answer.dicom_json, answer.attributes) == (alone.payload, alone.dicom_json, alone.attributes)
            assert (answer.frame_table, answer.action_counts, answer.sop_instance_uid) == (
                alone.frame_table,
                alone.action_counts,
                alone.sop_instance_uid,
            )
        # Who receives goes first.
        assert child.pid is not None
        assert os.getpriority(os.PRIO_PROCESS, child.pid) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + GIVES_WAY)
    assert counts[0] > 30 and max(counts[3:]) < counts[0] / 2, counts


def test_elements_that_were_met_before_count_as_often_as_they_come() -> None:
    item = encode_element(0x00080100, "SH", b"1") + encode_element(0x00080104, "LO", b"x")
    payload = b"".join(
        [
            encode_element(0x00080060, "CS", b"CT"),
            encode_element(0x00081032, "SQ", encode_items([item, item])),
            encode_element(0x00180050, "DS", b"5"),
        ]
    )
    known = child_answer._Known()
    enough = 3 + 2 + 4
    for count_max in (enough, enough, enough + 1):
        assert len(known.model(payload, known.parser.parts(payload), count_max)) == 3
    for count_max in (enough - 1, 0):
        with pytest.raises(ValueError, match="more elements"):
            known.model(payload, known.parser.parts(payload), count_max)
        with pytest.raises(ValueError, match="more elements"):
            fresh = child_answer._Known()
            fresh.model(payload, fresh.parser.parts(payload), count_max)


def test_what_is_kept_of_answers_is_bounded_in_memory_and_right_after_it_was_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that never come again, of numbers: a value of two bytes becomes an int of twenty-eight."""
    monkeypatch.setattr(element_runs, "KEPT_MEMORY_MAX", 4 * 1024 * 1024)
    known = child_answer._Known()
    dropped, most = 0, 0
    tracemalloc.start()
    try:
        for number in range(30):
            values = [struct.pack("<2000H", *range(number, number + 2000)) for _ in range(15)]
            head = encode_element(0x00180010 + number, "US", struct.pack("<H", 700 + number))
            payload = head + b"".join(encode_element(0x00200100 + index, "US", value) for index, value in enumerate(values))
            before = known.models.memory
            parts = known.parser.parts(payload)
            model = known.model(payload, parts, 1_000)
            InstanceFacts(payload, parts, known.facts)
            assert model["00200101"]["Value"] == list(range(number, number + 2000)) and len(model) == 16
            dropped += known.models.memory < before
            most = max(most, known.models.memory, known.facts.memory)
            del model, parts, payload, values
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert dropped >= 2 and most <= element_runs.KEPT_MEMORY_MAX
    assert kept < 4 * element_runs.KEPT_MEMORY_MAX


def test_a_mask_that_comes_between_is_told_to_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    source = instance_of(make_ct_study(1)[0])
    under = names_for(collect_identity([source]))
    told: list[list[Any]] = []
    real = ConfinedProcess.send

    def noted(process: ConfinedProcess, header: dict[str, Any], *given: Any) -> None:
        if "masks" in header:
            told.append([mask["name"] for mask in header["masks"]])
        real(process, header, *given)

    monkeypatch.setattr(ConfinedProcess, "send", noted)
    mask = DeviceMask("ours", "hospital", ({"attribute": "Modality", "equals": ["CT"]},), ((0, 0, 8, 8),))
    with DeidChild(ChildLimits(seconds_per_instance=120)) as child:
        for masks in ([], [], [mask], [mask]):
            child.deidentify(source, under, masks=masks, reviewed=None)
    assert told == [[], ["ours"]]
