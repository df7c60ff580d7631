"""A small run of the de-identification score: the larger one is `python -m bench.deid_score`."""

from __future__ import annotations

import random

from bench.deid_score import Score, one_patient, report


def test_seeded_identities_do_not_leak_and_clinical_content_stays() -> None:
    score, rng = Score(), random.Random(7)
    for _ in range(2):
        one_patient(score, rng)
    result = report(score, 2)
    assert (result["leaks_by_slot"], result["held"]) == ({}, {})
    assert result["percent"] >= 99.95
    assert result["retained_percent"] >= 99.9
