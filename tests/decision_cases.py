"""The acceptance cases of the decision engine as complete facts documents."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from compliance.facts_schema import instant_text

_PATH = Path(__file__).parent / "data" / "decisions.yaml"


@dataclass(frozen=True)
class DecisionCase:
    """One case; `facts` is JSON-able."""

    id: str
    name: str
    facts: dict[str, Any]
    expect: dict[str, Any]


@cache
def decision_cases() -> tuple[DecisionCase, ...]:
    """All cases of tests/data/decisions.yaml."""
    document = yaml.safe_load(_PATH.read_text(encoding="utf-8"))
    return tuple(
        DecisionCase(case["id"], case["name"], _jsonable(_facts_of(document["base"], case)), _jsonable(case["expect"]))
        for case in document["cases"]
    )


def base_facts() -> dict[str, Any]:
    """A fresh copy of the ordinary lawful read."""
    return copy.deepcopy(decision_cases()[0].facts)


def facts_of(case_id: str) -> dict[str, Any]:
    """A fresh copy of the facts of one case."""
    return copy.deepcopy(next(case.facts for case in decision_cases() if case.id == case_id))


def _facts_of(base: dict[str, Any], case: dict[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = copy.deepcopy(base)
    for path, value in case.get("set", {}).items():
        node = facts
        *parents, leaf = path.split(".")
        for parent in parents:
            node = node[parent]
        node[leaf] = copy.deepcopy(value)
    facts["reader"]["credentials"] += copy.deepcopy(case.get("add_credentials", []))
    facts["evidence"] += copy.deepcopy(case.get("add_evidence", []))
    return facts


def _jsonable(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _jsonable(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_jsonable(item) for item in node]
    return instant_text(node) if isinstance(node, datetime) else node
