"""Answers of a confined child: what repeats in a series is worked out once, is the same, and counts as often as it comes."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

from compliance import child_answer
from compliance.dataset_bytes import encode_element, encode_items
from compliance.deid_child import ChildLimits, DeidChild
from compliance.deid_serve import GIVES_WAY
from compliance.deidentify import deidentify
from compliance.device_masks import known_masks
from compliance.identity_terms import collect_identity
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
