"""May this reader do this with this object, now?

`decide` is a pure function of the facts and the law: no clock, no network, no randomness, no database, no state.

- Every gate is evaluated and every reason returned; the outcome is the worst: ALLOW, REFER (a person decides), DENY.
- Denied by default: what is not known, not listed or not confirmed does not pass.
- The same facts and law give the same bytes, in whatever order rules, credentials and evidence come.
- `valid_until` is the earliest end among what an ALLOW stands on; how often to ask again is the caller's rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from compliance.decision_record import RECORD_FORMAT, digest_of, facts_record, gate_record, record_bytes
from compliance.facts_schema import Facts, Part, instant_text, read_facts
from compliance.gates import SEVERITY, Gate, evaluate
from compliance.lawbook import LawBundle
from compliance.requirement import Papers
from crypto.errors import BadInput, Conflict


@dataclass
class Verdict:
    """What came out for one kind of case: the same for every reader about whom the same is known but the name."""

    outcome: str
    reasons: tuple[str, ...]
    obligations: tuple[str, ...]
    valid_until: datetime | None
    alert: bool
    gates: Mapping[str, Gate]
    _gate_records: list[dict[str, Any]] | None = None

    def gate_records(self) -> list[dict[str, Any]]:
        """Made once; not to be changed."""
        if self._gate_records is None:
            self._gate_records = [gate_record(gate) for gate in self.gates.values()]
        return self._gate_records


@dataclass
class Decision:
    """An outcome with all its reasons. `law` is the digest of the packs and confirmations it was made under."""

    outcome: str
    reasons: tuple[str, ...]
    obligations: tuple[str, ...]
    valid_until: datetime | None
    alert: bool
    law: str
    at: datetime | None
    _facts: Facts
    _verdict: Verdict
    _bundle: LawBundle
    _known_at: datetime | None
    _record: dict[str, Any] | None = field(default=None, compare=False)
    _digest: str | None = field(default=None, compare=False)

    @property
    def gates(self) -> list[dict[str, Any]]:
        """Each gate with its outcome, reasons, rules (with source and status) and what it stands on, G0 first."""
        return self._verdict.gate_records()

    def record(self) -> dict[str, Any]:
        """Everything the decision was made of and came to; its canonical JSON is what `digest` digests."""
        if self._record is None:
            self._record = self._make_record()
        return self._record

    @property
    def digest(self) -> str:
        """'sha256:...' of the canonical JSON of the record."""
        if self._digest is None:
            self._digest = digest_of(record_bytes(self.record(), self._facts.has_float))
        return self._digest

    def document(self) -> dict[str, Any]:
        """The record with its digest: what is stored, exported and replayed."""
        return {**self.record(), "digest": self.digest}

    def document_bytes(self) -> bytes:
        """The canonical JSON of `document()`."""
        return record_bytes(self.document(), self._facts.has_float)

    def _make_record(self) -> dict[str, Any]:
        return {
            "format": RECORD_FORMAT,
            "known_at": instant_text(self._known_at) if self._known_at is not None else None,
            "outcome": self.outcome,
            "reasons": list(self.reasons),
            "obligations": list(self.obligations),
            "valid_until": instant_text(self.valid_until) if self.valid_until is not None else None,
            "alert": self.alert,
            "gates": self._verdict.gate_records(),
            "law": self.law,
            "law_bundle": self._bundle.stamp_record(),
            "facts": facts_record(self._facts),
        }


def decide(facts: Mapping[str, Any], law: LawBundle, known_at: datetime | None = None) -> Decision:
    """The decision on `facts` under `law`, as far as it was known at `known_at` (by default at the instant of the facts).

    Raises:
        BadInput: an unknown fact, a value outside its vocabulary, or facts that contradict each other.
    """
    return decide_facts(read_facts(facts), law, known_at)


def decide_facts(facts: Facts, law: LawBundle, known_at: datetime | None = None) -> Decision:
    """`decide` for facts that have been read already."""
    known = known_at if known_at is not None else facts.at
    return _decision(facts, law, known, _verdict(facts, law, known))


def decide_many(documents: Iterable[Mapping[str, Any]], law: LawBundle) -> list[Decision]:
    """`decide` of each of `documents`, byte for byte, with what they share done once.

    Groups that are one object in several documents (the study's half, a firm's evidence) are read once, and readers about whom the same is
    known but their names are weighed once.

    Raises:
        BadInput: as `decide`.
    """
    read: dict[int, Part] = {}
    weighed: dict[tuple[Any, ...], Verdict] = {}
    papers: dict[tuple[datetime | None, str | None], Papers] = {}
    decisions = []
    for document in documents:
        facts = read_facts(document, read)
        case = _case_of(facts)
        verdict = weighed.get(case)
        if verdict is None:
            verdict = weighed[case] = _verdict(facts, law, facts.at, papers.setdefault((facts.at, facts.action), {}))
        decisions.append(_decision(facts, law, facts.at, verdict))
    return decisions


def eligible_readers(study: Mapping[str, Any], readers: Iterable[Mapping[str, Any]], law: LawBundle) -> list[Decision]:
    """One decision per element of `readers`, each a mapping of facts laid over `study` ("reader", "evidence", "login" ...)."""
    return decide_many([{**study, **reader} for reader in readers], law)


def _verdict(facts: Facts, law: LawBundle, known: datetime | None, papers: Papers | None = None) -> Verdict:
    origin = facts.values.get("origin.jurisdiction")
    if origin is None or facts.action is None or facts.at is None or known is None:
        evaluation = evaluate(facts, None)
    else:
        evaluation = evaluate(facts, law.live(origin, facts.action, facts.at, known), papers)
    gates = evaluation.gates
    outcome = max((gate.outcome for gate in gates.values()), key=SEVERITY.__getitem__)
    # An ALLOW is explained by what grants it, anything else by what stands in the way.
    reasons = [
        reason for gate in gates.values() for reason in sorted(gate.reasons) if (gate.reasons[reason] == "ALLOW") is (outcome == "ALLOW")
    ]
    obligations = sorted({text for gate in gates.values() for text in gate.obligations}) if outcome != "DENY" else []
    ends = [item.until for gate in gates.values() for item in gate.relied if item.until is not None]
    valid_until = min(ends, default=None) if outcome == "ALLOW" else None
    return Verdict(outcome, tuple(dict.fromkeys(reasons)), tuple(obligations), valid_until, evaluation.alert, gates)


def _decision(facts: Facts, law: LawBundle, known: datetime | None, verdict: Verdict) -> Decision:
    return Decision(
        outcome=verdict.outcome,
        reasons=verdict.reasons,
        obligations=verdict.obligations,
        valid_until=verdict.valid_until,
        alert=verdict.alert,
        law=law.digest,
        at=facts.at,
        _facts=facts,
        _verdict=verdict,
        _bundle=law,
        _known_at=known,
    )


def _case_of(facts: Facts) -> tuple[Any, ...]:
    """Everything the gates look at: equal cases have equal verdicts. Names that no rule may ask for are left out.

    Evidence is told apart by identity: it is the same object where it was read once.
    """
    values = frozenset(item for item in facts.values.items() if item[0] not in _ASKED_BY_NO_RULE)
    credentials = frozenset(
        (credential.kind, credential.gaps, *(item for item in credential.values.items() if item[0] not in _OF_THE_PAPER))
        for credential in facts.credentials
    )
    return values, credentials, id(facts.evidence), facts.flags, facts.missing


#: Recorded, and looked at by no gate.
_ASKED_BY_NO_RULE = frozenset({"reader.id", "reader.citizenship", "object.study"})
_OF_THE_PAPER = frozenset({"id", "psv_method"})


def replay(document: Mapping[str, Any], law: LawBundle) -> bytes:
    """The bytes of the decision document made anew from the facts in `document`; equal bytes prove it.

    Raises:
        BadInput: not a decision document.
        Conflict: it was made under another law than `law`.
    """
    if document.get("format") != RECORD_FORMAT or not isinstance(document.get("facts"), Mapping):
        raise BadInput("not a decision document of this format")
    if document.get("law") != law.digest:
        raise Conflict("LAW_DIFFERS", "the decision was made under other packs or confirmations; name them with --law and --confirmations")
    return decide(document["facts"], law, known_at_of(document)).document_bytes()


def known_at_of(document: Mapping[str, Any]) -> datetime | None:
    """The instant up to which law was known to the decision in `document`.

    Raises:
        BadInput: not an instant.
    """
    written = document.get("known_at")
    if written is None:
        return None
    try:
        instant = datetime.fromisoformat(written)
    except (TypeError, ValueError):
        raise BadInput("known_at is no instant") from None
    if instant.tzinfo is None:
        raise BadInput("known_at has no time zone")
    return instant.astimezone(UTC)


def refuse_backward_clock(last_decided_at: datetime | None, at: datetime) -> None:
    """Returns if `at` is not before the last decision of the same process or log.

    Raises:
        Conflict: the clock has run backwards; deciding on would revive what has expired.
    """
    if last_decided_at is not None and at < last_decided_at:
        raise Conflict("CLOCK_BACKWARDS", "the clock stands before the last decision; nothing is decided until it is right")
