"""The rules that can bear on one kind of question: an origin, an action, an instant, and how much law was known.

Worked out once and used for every reader asked about; it holds nothing of any reader or patient.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from compliance.jurisdiction import Territory
from compliance.rule import Rule


@dataclass(frozen=True)
class LiveLaw:
    """Rules in force and known, by kind; `regimes` are those that govern the origin."""

    at: datetime
    regimes: tuple[str, ...]
    permits: tuple[Rule, ...]
    relaxing: tuple[Rule, ...]
    prohibitions: tuple[Rule, ...]
    requirements: tuple[Rule, ...]
    obligations: tuple[Rule, ...]
    _reaching: dict[tuple[str, str, str], tuple[Rule, ...]] = field(default_factory=dict, compare=False)

    def permits_reaching(self, regime: str, role: str, place: str) -> tuple[Rule, ...]:
        """The mechanisms of `regime` that can serve a `role` (READER or STORAGE) at `place`."""
        key = (regime, role, place)
        found = self._reaching.get(key)
        if found is None:
            found = self._reaching[key] = tuple(
                rule for rule in self.permits if rule.regime == regime and role in rule.covers and reaches(rule, place, self.at)
            )
        return found


def reaches(rule: Rule, place: str, at: datetime) -> bool:
    """Whether `place` is one of the destinations of `rule`."""
    outside = rule.destination_outside
    return rule.destination.matches(place, at) and (outside is None or not outside.matches(place, at))


def live_law(
    rules: Iterable[Rule], regimes: Mapping[str, Territory], origin: str, action: str, at: datetime, known_at: datetime
) -> LiveLaw:
    """The part of `rules` that bears on `action` with something from `origin` at `at`, as known at `known_at`."""
    live = [
        rule
        for rule in rules
        if action in rule.actions
        and rule.valid_from <= at
        and (rule.valid_to is None or at < rule.valid_to)
        and rule.known_from <= known_at
        and rule.origin.matches(origin, at)
        and (action != "STORE" or rule.gate != "G4")  # storing names no reader, so nobody's credentials are asked for
    ]
    return LiveLaw(
        at=at,
        regimes=tuple(sorted(name for name, territory in regimes.items() if territory.matches(origin, at))),
        permits=tuple(rule for rule in live if rule.kind == "PERMIT" and not rule.relaxes_consent),
        relaxing=tuple(rule for rule in live if rule.kind == "PERMIT" and rule.relaxes_consent),
        prohibitions=tuple(rule for rule in live if rule.kind == "PROHIBIT"),
        requirements=tuple(rule for rule in live if rule.kind == "REQUIRE"),
        obligations=tuple(rule for rule in live if rule.kind == "OBLIGE"),
    )
