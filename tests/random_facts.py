"""Random facts documents near enough to lawful reads that every outcome is common, and ways to change one."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

from compliance.facts_schema import instant_text
from compliance.facts_vocabulary import CREDENTIAL_STATUSES, FACT_TYPES, FLAGS
from tests.decision_cases import decision_cases

PLACES = tuple(
    """IE ES DE FR GB CH US-TX US-CA US-FL US-OH US AE-DU SA CN HK AU-NSW CA-NS CA-QC BR IN SG TH PH JP KR NZ IL ZA
    RU KE ZZ""".split()
)
_MODALITIES = ["CT", "MR", "US", "XA", "CR"]
_SOURCES = tuple(json.dumps(case.facts) for case in decision_cases())


def random_facts(seed: int) -> dict[str, Any]:
    """The document of `seed`: an acceptance case with up to four things about it changed."""
    rng = random.Random(seed)
    facts: dict[str, Any] = json.loads(rng.choice(_SOURCES))
    for _ in range(rng.choice((0, 1, 1, 2, 3, 4))):
        _change(facts, rng)
    return facts


def copy_of(facts: dict[str, Any]) -> dict[str, Any]:
    """A deep copy, faster than copy.deepcopy."""
    found: dict[str, Any] = json.loads(json.dumps(facts))
    return found


def removals(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every fact, group, credential, piece of evidence and attribute that can be taken away."""
    found: list[tuple[Any, ...]] = []
    if isinstance(node, dict):
        for key, value in node.items():
            found.append((*path, key))
            found += removals(value, (*path, key))
    elif isinstance(node, list) and path and path[-1] in ("credentials", "evidence"):
        for number, item in enumerate(node):
            found.append((*path, number))
            found += removals(item, (*path, number))
    return found


def without(facts: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    """`facts` without what stands at `path`."""
    changed = copy_of(facts)
    node: Any = changed
    for step in path[:-1]:
        node = node[step]
    del node[path[-1]]
    return changed


def shuffled(node: Any, rng: random.Random) -> Any:
    """The same document with every object's names and every list in another order."""
    if isinstance(node, dict):
        keys = list(node)
        rng.shuffle(keys)
        return {key: shuffled(node[key], rng) for key in keys}
    if isinstance(node, list):
        items = [shuffled(item, rng) for item in node]
        rng.shuffle(items)
        return items
    return node


def instants(facts: dict[str, Any], *names: str) -> list[datetime]:
    """Every instant of the document whose name is one of `names`."""
    found: list[datetime] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                if key in names and isinstance(value, str):
                    found.append(datetime.fromisoformat(value))
                walk(value)
        elif isinstance(node, list):
            for item in node:
                walk(item)

    walk(facts)
    return found


def _change(facts: dict[str, Any], rng: random.Random) -> None:
    at = datetime.fromisoformat(facts["at"])
    kind = rng.randrange(9)
    credentials, evidence = facts["reader"]["credentials"], facts["evidence"]
    if kind <= 2:
        name = rng.choice(sorted(FACT_TYPES))
        value = _value(FACT_TYPES[name][0], at, rng)
        parents, leaf = name.split(".")[:-1], name.split(".")[-1]
        node = facts
        for parent in parents:
            if node.get(parent) is None:
                node[parent] = {}
            node = node[parent]
        if name != "at" and name != "consent.withdrawn_at":
            node[leaf] = value
    elif kind == 3:
        facts["origin"]["flags"] = sorted({*facts["origin"]["flags"], rng.choice([*sorted(FLAGS), "REQUIRE_REGISTER:GMC"])})
    elif kind == 4 and credentials:
        rng.choice(credentials)[rng.choice(("expires", "psv_at"))] = _instant(at, rng)
    elif kind == 5 and credentials:
        rng.choice(credentials)["status"] = rng.choice(CREDENTIAL_STATUSES)
    elif kind == 6 and evidence:
        rng.choice(evidence)["expires"] = _instant(at, rng)
    elif kind == 7:
        donor = json.loads(rng.choice(_SOURCES))
        evidence += donor["evidence"]
        credentials += donor["reader"]["credentials"]
    elif kind == 8:
        name = rng.choice(("consent", "login", "break_glass", "counters", "object"))
        facts[name] = json.loads(rng.choice(_SOURCES))[name]


def _value(kind: Any, at: datetime, rng: random.Random) -> Any:
    if isinstance(kind, tuple):
        return rng.choice(kind)
    if kind == "code":
        return rng.choice(PLACES)
    if kind == "instant":
        return _instant(at, rng)
    if kind == "bool":
        return rng.random() < 0.5
    if kind == "count":
        return rng.choice((0, 1, 9_999, 10_000, 10_001))
    if kind == "percent":
        return rng.choice((0, 12.5, 49, 50, 100))
    return rng.choice(_MODALITIES)


def _instant(at: datetime, rng: random.Random) -> str:
    days = rng.choice((-400, -30, -1, 0, 0, 1, 30, 90))
    return instant_text((at + timedelta(days=days, seconds=rng.randrange(-600, 600))).astimezone(UTC))
