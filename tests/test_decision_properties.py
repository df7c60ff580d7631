"""What holds for every decision, on random facts: 10^4 of them, and 10^5 more under `make torture`.

Taking anything away never makes the outcome more permissive, nor does an added prohibition, nor time past an expiry; order changes
nothing, down to the digest; every decision is made again byte for byte from its own document.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compliance.decision import Decision, decide, replay
from compliance.facts_schema import instant_text
from compliance.gates import SEVERITY
from compliance.lawbook import SHIPPED_LAW, LawBundle, load_law
from crypto.errors import BadInput
from tests.decision_cases import decision_cases
from tests.random_facts import copy_of, instants, random_facts, removals, shuffled, without

EXAMPLES = 10_000
EXAMPLES_UNDER_TORTURE = 100_000

#: Prohibitions and requirements of every form, each laid over the shipped packs on its own.
ADDED_RULES: tuple[dict[str, Any], ...] = (
    {"kind": "PROHIBIT", "origin": ["ANY"]},
    {"kind": "PROHIBIT", "origin": ["@EU_EEA"], "destination": ["IN", "US"]},
    {"kind": "PROHIBIT", "origin": ["US"], "when": [{"fact": "counters.us_persons_12_months", "at_least": 100}]},
    {"kind": "PROHIBIT", "origin": ["ANY"], "outcome": "REFER", "when": [{"fact": "payer.kind", "in": ["COMMERCIAL"]}]},
    {"kind": "PROHIBIT", "origin": ["ANY"], "unless": [{"evidence": "DPA"}]},
    {"kind": "REQUIRE", "gate": "G3", "origin": ["ANY"], "needs": [{"consent": ["SHARING", "TRANSFER"]}]},
    {"kind": "REQUIRE", "gate": "G4", "origin": ["ANY"], "needs": [{"credential": "REGISTRATION", "register": "GMC"}]},
    {"kind": "REQUIRE", "gate": "G2", "origin": ["ANY"], "needs": [{"evidence": "TIA", "max_age_days": 30}]},
)


@pytest.fixture(scope="module")
def law() -> LawBundle:
    return load_law()


@pytest.fixture(scope="module")
def stricter(tmp_path_factory: pytest.TempPathFactory) -> list[LawBundle]:
    """The shipped packs with one restriction more."""
    bundles = []
    for number, rule in enumerate(ADDED_RULES):
        folder = tmp_path_factory.mktemp(f"law{number}") / "law"
        shutil.copytree(SHIPPED_LAW, folder)
        source = {"text": "A test", "section": "1"}
        full = {"id": "TEST_ADDED", "valid_from": "2020-01-01", "known_from": "2020-01-01", "source": source, **rule}
        (folder / "added.yaml").write_text(yaml.safe_dump({"pack": "added", "title": "Added", "rules": [full]}))
        bundles.append(load_law(folder))
    return bundles


@pytest.fixture(scope="module")
def reordered(tmp_path_factory: pytest.TempPathFactory) -> LawBundle:
    """The shipped packs with every rule in another order and all in one file."""
    folder = tmp_path_factory.mktemp("reordered")
    rules = []
    for path in SHIPPED_LAW.glob("*.yaml"):
        pack = yaml.safe_load(path.read_text())
        rules += [{**pack.get("defaults", {}), **rule} for rule in pack.get("rules", [])]
    random.Random(7).shuffle(rules)
    (folder / "all.yaml").write_text(yaml.safe_dump({"pack": "all", "title": "All", "rules": rules}, default_flow_style=False))
    bundle = yaml.safe_load((SHIPPED_LAW / "bundle.yaml").read_text())
    bundle["sets"] = {name: members[::-1] for name, members in reversed(bundle["sets"].items())}
    (folder / "bundle.yaml").write_text(yaml.safe_dump(bundle, sort_keys=False))
    shutil.copy(SHIPPED_LAW / "demo-confirmations.json", folder)
    return load_law(folder)


def _decide(facts: dict[str, Any], law: LawBundle) -> Decision | None:
    try:
        return decide(facts, law)
    except BadInput:
        return None


def _is_no_more_permissive(changed: Decision | None, original: Decision) -> bool:
    """A refused document is no permission."""
    return changed is None or SEVERITY[changed.outcome] >= SEVERITY[original.outcome]


def _law_moves_between(law: LawBundle, facts: dict[str, Any], start: datetime, end: datetime) -> bool:
    origin = facts.get("origin", {}).get("jurisdiction")
    turns = [turn for rule in law.rules_for(origin or "ZZ") for turn in (rule.valid_from, rule.valid_to, rule.known_from)]
    turns += [turn for members in law.sets.values() for member in members for turn in (member.since, member.until)]
    return any(turn is not None and start < turn <= end for turn in turns)


def _later(facts: dict[str, Any], law: LawBundle, rng: random.Random) -> dict[str, Any] | None:
    """`facts` with the clock past one of its expiries; None where something else would begin on the way."""
    at = datetime.fromisoformat(facts["at"])
    ends = [end for end in instants(facts, "expires") if end > at]
    begins = instants(facts, "issued", "psv_at", "given_at", "observed_at")
    if not ends:
        return None
    moved = rng.choice(ends) + timedelta(seconds=rng.choice((0, 1, 3600)))
    if any(at < begin <= moved for begin in begins) or _law_moves_between(law, facts, at, moved):
        return None
    later = copy_of(facts)
    later["at"] = instant_text(moved)
    if rng.random() < 0.7 and later.get("login", {}).get("observed_at"):
        later["login"]["observed_at"] = instant_text(moved - (at - datetime.fromisoformat(facts["login"]["observed_at"])))
    return later


@pytest.fixture(scope="module")
def tried() -> Iterator[set[int]]:
    """The seeds whose facts were decided on in this module."""
    yield set()


@pytest.mark.slow
def test_properties_of_every_decision(law: LawBundle, stricter: list[LawBundle], reordered: LawBundle, tried: set[int]) -> None:
    # The seed alone is an argument: what fails is told by it, and not by twenty megabytes of law.
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(seed=st.integers(0, 2**63))
    def hold(seed: int) -> None:
        _hold(seed, law, stricter, reordered, tried)

    hold()


@pytest.mark.parametrize("seed", [2213236318, 4028133912687307987, 2013248720567268258])
def test_properties_of_decisions_that_did_not_hold_them_once(
    seed: int, law: LawBundle, stricter: list[LawBundle], reordered: LawBundle
) -> None:
    _hold(seed, law, stricter, reordered, set())


@pytest.mark.slow
def test_there_were_as_many_random_facts_as_promised(
    law: LawBundle, stricter: list[LawBundle], reordered: LawBundle, tried: set[int]
) -> None:
    """What hypothesis tried twice, and facts that were refused before any decision, are made up for."""
    for seed in range(EXAMPLES):
        if len(tried) >= EXAMPLES:
            break
        _hold(seed, law, stricter, reordered, tried)
    assert len(tried) >= EXAMPLES


@pytest.mark.torture
@pytest.mark.timeout(0)
def test_properties_of_a_hundred_thousand_decisions(law: LawBundle, stricter: list[LawBundle], reordered: LawBundle) -> None:
    tried: set[int] = set()
    seed = 0
    while len(tried) < EXAMPLES_UNDER_TORTURE:
        seed += 1
        _hold(seed, law, stricter, reordered, tried)


def _hold(seed: int, law: LawBundle, stricter: list[LawBundle], reordered: LawBundle, tried: set[int]) -> None:
    """The properties hold for the facts of `seed`."""
    rng = random.Random(seed)
    facts = random_facts(seed)
    decision = _decide(facts, law)
    if decision is None:
        return
    tried.add(seed)
    # 1. Replay, byte for byte, though facts and rules come in another order.
    document = decision.document_bytes()
    assert replay(shuffled(json.loads(document), rng), reordered) == document
    # 2. Taking away any one fact, credential or piece of evidence.
    path = rng.choice(removals(facts))
    removed = _decide(without(facts, path), law)
    assert _is_no_more_permissive(removed, decision), f"without {path}"
    # 3. Adding a prohibition.
    assert _is_no_more_permissive(_decide(facts, rng.choice(stricter)), decision)
    # 4. Time past an expiry.
    later = _later(facts, law, rng)
    if later is not None:
        assert _is_no_more_permissive(_decide(later, law), decision)


@pytest.mark.parametrize("case", decision_cases(), ids=lambda case: case.id)
def test_every_single_removal_from_an_acceptance_case_is_no_more_permissive(case: Any, law: LawBundle) -> None:
    original = decide(case.facts, law)
    for path in removals(case.facts):
        assert _is_no_more_permissive(_decide(without(case.facts, path), law), original), path


def test_random_facts_meet_every_outcome_and_gate(law: LawBundle) -> None:
    outcomes: Counter[str] = Counter()
    denying: set[str] = set()
    for seed in range(2000):
        decision = _decide(random_facts(seed), law)
        outcomes[decision.outcome if decision is not None else "REFUSED"] += 1
        if decision is not None:
            denying |= {gate["gate"] for gate in decision.gates if gate["outcome"] == "DENY"}
    assert outcomes["ALLOW"] > 200 and outcomes["DENY"] > 200 and outcomes["REFER"] > 5
    assert denying == {"G0", "G1", "G2", "G3", "G4", "G5", "G6"}


def test_law_in_another_order_is_the_same_law(law: LawBundle, reordered: LawBundle) -> None:
    assert reordered.manifest.digest == law.manifest.digest
    assert reordered.digest == law.digest


@pytest.mark.parametrize("case", decision_cases(), ids=lambda case: case.id)
def test_an_allow_ends_at_valid_until(case: Any, law: LawBundle) -> None:
    decision = decide(case.facts, law)
    if decision.outcome != "ALLOW" or decision.valid_until is None:
        return
    age = datetime.fromisoformat(case.facts["at"]) - datetime.fromisoformat(case.facts["login"]["observed_at"])

    def at(moment: datetime) -> Decision:
        moved = copy_of(case.facts)
        moved["at"], moved["login"]["observed_at"] = instant_text(moment), instant_text(moment - age)
        return decide(moved, law)

    assert at(decision.valid_until - timedelta(seconds=1)).outcome == "ALLOW"
    # A rule that replaces the one relied on may permit again: then it is another decision, with another end.
    after = at(decision.valid_until)
    assert after.outcome != "ALLOW" or after.reasons != decision.reasons
