"""A whole set against one tool's result: each output judged, what was held counted as held, what is gone without a word as lost."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

from pydicom import dcmread

from bench.deid_score.answer_key import Canary
from bench.deid_score.canary_search import SearchedFile
from bench.deid_score.seeded_set import SeededSet
from bench.deid_score.structure import StructureCheck
from bench.deid_score.tools import Result
from bench.deid_score.verdict import Links, Verdict, judge, judge_links


@dataclass
class Score:
    """A verdict with the structure check beside it."""

    verdict: Verdict = field(default_factory=Verdict)
    structure: StructureCheck = field(default_factory=StructureCheck)


def score(made: SeededSet, result: Result, *, structure: bool = True) -> Score:
    """Judge every output of `result`."""
    with warnings.catch_warnings():
        # What pydicom says of values is counted by `structure`.
        warnings.simplefilter("ignore")
        return _score(made, result, structure)


def _score(made: SeededSet, result: Result, structure: bool) -> Score:
    total, links = Score(), Links()
    verdict = total.verdict
    for name, path in result.outputs.items():
        try:
            links.learn(made.carriers[name], dcmread(path, stop_before_pixels=True, force=True))
        except Exception:
            # Counted as unreadable when it is judged.
            continue
    for name, carrier in made.carriers.items():
        verdict.carriers[carrier.slot.split(":")[0]] += 1
        if name in result.outputs:
            judge(carrier, result.outputs[name], verdict, links, result.columns)
            # An instance with every row of the table in it is no legal object before either.
            if structure and not carrier.rows:
                total.structure.compare(carrier.slot.split(":")[0], made.folder / name, result.outputs[name])
        elif name in result.held:
            verdict.held[result.held[name]] += 1
            verdict.held_by_kind[carrier.slot.split(":")[0]] += 1
            if not carrier.may_be_held:
                verdict.needlessly_held[f"{carrier.slot}: {result.held[name]}"] += 1
        else:
            verdict.lost += 1
            verdict.failures[f"lost: {carrier.slot}"] += 1
    judge_links(verdict, links, result.columns)
    _said(made, result, verdict)
    return total


def _said(made: SeededSet, result: Result, verdict: Verdict) -> None:
    """Messages and reports name nobody."""
    if not result.said:
        return
    searched = SearchedFile(result.said)
    people = {carrier.persona.number: carrier.persona for carrier in made.carriers.values()}
    for person in people.values():
        for canary in (Canary(letter, text) for letter, text in person.canaries()):
            is_found = searched.holds(canary.text)
            verdict.require("report and messages", not is_found, canary.letter)
            if is_found:
                verdict.leaks[canary.letter] += 1
                verdict.leaks_by_slot["report and messages"] += 1
