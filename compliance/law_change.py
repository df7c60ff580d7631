"""What a change of law would do: the difference of two bundles, and past decisions made again under another one.

Pure: bundles and recorded decisions come in, descriptions go out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from compliance.decision import Decision, decide, known_at_of
from compliance.decision_record import RECORD_FORMAT
from compliance.lawbook import LawBundle
from crypto.errors import BadInput


@dataclass(frozen=True)
class LawDifference:
    """What the second bundle has otherwise; names sorted."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: Mapping[str, tuple[str, ...]]
    parts_changed: tuple[str, ...]
    confirmed: tuple[str, ...]
    unconfirmed: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)

    @property
    def is_empty(self) -> bool:
        """Whether nothing differs."""
        return not any((self.added, self.removed, self.changed, self.parts_changed, self.confirmed, self.unconfirmed))


@dataclass(frozen=True)
class Changed:
    """One decision that would come out otherwise."""

    digest: str
    outcome: str
    reasons: tuple[str, ...]
    obligations: tuple[str, ...]
    new_outcome: str
    new_reasons: tuple[str, ...]
    new_obligations: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def diff(before: LawBundle, after: LawBundle) -> LawDifference:
    """What `after` adds, removes and changes; for a changed rule the names of the fields that differ."""
    old, new = before.manifest, after.manifest
    changed = {
        rule_id: tuple(sorted(_changed_fields(before, after, rule_id)))
        for rule_id in sorted(set(old.rules) & set(new.rules))
        if old.rules[rule_id] != new.rules[rule_id]
    }
    was = {rule_id for rule_id, rule in before.rules.items() if rule.is_confirmed}
    now = {rule_id for rule_id, rule in after.rules.items() if rule.is_confirmed}
    return LawDifference(
        added=tuple(sorted(set(new.rules) - set(old.rules))),
        removed=tuple(sorted(set(old.rules) - set(new.rules))),
        changed=changed,
        parts_changed=tuple(sorted(name for name in {**old.parts, **new.parts} if old.parts.get(name) != new.parts.get(name))),
        confirmed=tuple(sorted(now - was)),
        unconfirmed=tuple(sorted(was - now)),
    )


def simulate(documents: Iterable[Mapping[str, Any]], law: LawBundle, known_at: datetime | None = None) -> Iterator[Changed]:
    """The decisions in `documents` that would come out otherwise under `law`: outcome, reasons or obligations.

    Law is taken as known at `known_at`, by default as at each decision's own time.

    Raises:
        BadInput: not a decision document.
    """
    for document in documents:
        new = redecide(document, law, known_at)
        then = (document["outcome"], tuple(document["reasons"]), tuple(document["obligations"]))
        if then != (new.outcome, new.reasons, new.obligations):
            yield Changed(str(document.get("digest", "")), *then, new.outcome, new.reasons, new.obligations)


def redecide(document: Mapping[str, Any], law: LawBundle, known_at: datetime | None = None) -> Decision:
    """The facts of a recorded decision under `law`: what it would say, beside the record and never in its place.

    Raises:
        BadInput: not a decision document.
    """
    wanted = ("facts", "outcome", "reasons", "obligations")
    is_record = document.get("format") == RECORD_FORMAT and all(name in document for name in wanted)
    if not is_record or not isinstance(document["facts"], Mapping):
        raise BadInput("not a decision document of this format")
    return decide(document["facts"], law, known_at if known_at is not None else known_at_of(document))


def _changed_fields(before: LawBundle, after: LawBundle, rule_id: str) -> list[str]:
    old, new = before.texts[rule_id].model_dump(mode="json"), after.texts[rule_id].model_dump(mode="json")
    return [name for name in {**old, **new} if old.get(name) != new.get(name)]
