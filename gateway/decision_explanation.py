"""Why this was shown, there, then: one decision explained from its record, with what proves it and what would be said today.

Everything is read from the record that was digested when the decision was made; names are added from the registers of now. What today's law
says is a new question with the old facts, and is marked as such.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlmodel import Session, col, select

from compliance.audit import AuditEntry, EventType
from compliance.decision import Decision, decide, replay
from compliance.decision_log import DecisionRow, decisions_of_study
from compliance.facts import instant
from compliance.hospital import Hospital
from compliance.lawbook import LawBundle
from compliance.principal import Principal
from compliance.study import Study
from crypto.errors import BadInput, Conflict
from crypto.keys import KeyStore
from gateway.log_proof import LogProof, SubtreeHashes, prove_entry
from gateway.log_rows import EVENT_WORDS, route_of
from gateway.obligation_evidence import obligation_rows, what_followed
from gateway.reason_words import reason_sentence
from gateway.web.contexts import Reason, Tone
from gateway.web.contexts_oversight import DecisionRow as ShownDecision
from gateway.web.contexts_oversight import FollowingEntry, GateResult, ObligationRow, OtherReader
from gateway.web.rendering import instant as written

GATE_NAMES = {
    "G0": "Facts known and fresh",
    "G1": "Prohibitions",
    "G2": "Transfer mechanism",
    "G3": "Consent or legal basis",
    "G4": "Credentials",
    "G5": "Payer",
    "G6": "Login and location",
}
_ACTIONS = {
    "ROUTE": "be offered",
    "VIEW": "open",
    "SIGN_PRELIMINARY": "sign a preliminary report on",
    "SIGN_FINAL": "sign a final report on",
    "STORE": "store",
    "DELIVER": "have the report delivered on",
}
_TONES: dict[str, Tone] = {"ALLOW": "good", "REFER": "warning", "DENY": "bad"}
_OUTCOMES = {"ALLOW": "Passed", "REFER": "Referred", "DENY": "Denied"}
Outcome = Literal["ALLOW", "ALLOW_WITH_OBLIGATIONS", "REFER", "DENY"]


@dataclass(frozen=True)
class Explanation:
    """One decision with everything that belongs to it."""

    row: DecisionRow
    document: Mapping[str, Any]
    question: str
    shown: ShownDecision
    gates: tuple[GateResult, ...]
    facts: tuple[tuple[str, str, str], ...]
    obligations: tuple[ObligationRow, ...]
    others: tuple[OtherReader, ...]
    replay: str
    today: str
    today_reasons: tuple[Reason, ...]
    about: tuple[tuple[str, str], ...]
    followed: tuple[FollowingEntry, ...]
    proof: LogProof | None

    def as_json(self) -> dict[str, Any]:
        """What the page shows, for programs; `decision` is the document that `readgate replay` takes."""
        return {
            "question": self.question,
            "decision": self.document,
            "others": [
                {"reader": one.reader_id, "outcome": one.outcome, "reasons": [reason.code for reason in one.reasons]} for one in self.others
            ],
            "about": dict(self.about),
            "gates": [
                {
                    "gate": one.gate,
                    "name": one.name,
                    "outcome": one.outcome,
                    "reasons": list(one.reasons),
                    "rules": list(one.rules),
                    "evidence": list(one.evidence),
                }
                for one in self.gates
            ],
            "obligations": [{"code": one.code, "state": one.state, "evidence": one.evidence} for one in self.obligations],
            "followed": [{"entry": one.index, "at": one.at.isoformat(), "event": one.event} for one in self.followed],
            "replay": self.replay,
            "today": {"text": self.today, "reasons": [reason.code for reason in self.today_reasons]},
            "log": None
            if self.proof is None
            else {
                "index": self.proof.index,
                "leaf_hash": self.proof.leaf.hex(),
                "size": self.proof.size,
                "root": self.proof.root.hex(),
                "proof": [node.hex() for node in self.proof.path],
                "checkpoint": self.proof.checkpoint,
            },
        }


def explain(
    session: Session, law: LawBundle, keys: KeyStore, hashes: SubtreeHashes, row: DecisionRow, *, public_key: bytes, now: datetime
) -> Explanation:
    """Raises: IntegrityFailure where the log contradicts itself."""
    document = json.loads(row.document)
    facts = document["facts"]
    study = session.exec(select(Study).where(Study.study_instance_uid == row.study_instance_uid)).first()
    pseudonym = study.patient_pseudonym if study is not None else ""
    names = dict(session.exec(select(Principal.principal_id, Principal.display_name)).all())
    hospital = session.get(Hospital, row.hospital_id)
    who = names.get(row.reader_id, row.reader_id)
    question = (
        f"May {who}, in {facts.get('reader', {}).get('establishment', 'an unknown place')}, {_ACTIONS.get(row.action, row.action)} "
        f"study {pseudonym} of {hospital.name if hospital is not None else row.hospital_id}, "
        f"{facts.get('origin', {}).get('jurisdiction', 'an unknown place')}?"
    )
    entry_index = session.exec(
        select(AuditEntry.entry_index)
        .where(AuditEntry.decision_digest == row.digest, AuditEntry.event_type == EventType.DECIDE)
        .order_by(col(AuditEntry.entry_index))
        .limit(1)
    ).first()
    today, today_reasons = _today(document, law, now)
    return Explanation(
        row=row,
        document=document,
        question=question,
        shown=shown_decision(row, who, pseudonym),
        gates=tuple(_gate(gate) for gate in document["gates"]),
        facts=tuple(_facts(facts)),
        obligations=obligation_rows(session, law, keys, row, now=now),
        others=_others(session, row, names),
        replay=_replayed(row, document, law, now),
        today=today,
        today_reasons=today_reasons,
        about=_about(row, facts, who, pseudonym, hospital.name if hospital is not None else row.hospital_id),
        followed=tuple(FollowingEntry(index, at, EVENT_WORDS.get(event, event)) for index, at, event in what_followed(session, row.digest)),
        proof=prove_entry(session, hashes, entry_index, public_key) if entry_index is not None else None,
    )


def shown_decision(row: DecisionRow, who: str, pseudonym: str) -> ShownDecision:
    gate_of = {reason: gate["gate"] for gate in json.loads(row.document)["gates"] for reason in gate["reasons"]}
    return ShownDecision(
        digest=row.digest,
        at=row.decided_at,
        action=row.action,
        principal=who,
        pseudonym=pseudonym,
        route=route_of(row.document),
        outcome=outcome_of(row),
        reasons=tuple(_reason(code, row.outcome, gate_of.get(code, "")) for code in row.reasons),
    )


def outcome_of(row: DecisionRow) -> Outcome:
    if row.outcome == "ALLOW":
        return "ALLOW_WITH_OBLIGATIONS" if row.obligations else "ALLOW"
    return "REFER" if row.outcome == "REFER" else "DENY"


def _reason(code: str, outcome: str, gate: str) -> Reason:
    text = f"The rule {code} permits it." if outcome == "ALLOW" else reason_sentence(code)
    return Reason(code=code, text=text, gate=gate)


def _gate(gate: Mapping[str, Any]) -> GateResult:
    rules = tuple(
        f"{rule['rule']} ({rule['result'].lower()}{', draft' if rule['status'] != 'CONFIRMED' else ''}): {_source(rule['source'])}"
        for rule in gate["rules"]
    )
    evidence = tuple(
        f"{item['name']}{', until ' + written(datetime.fromisoformat(item['until'])) if item['until'] else ''}"
        for item in gate["relied_on"]
    )
    outcome = gate["outcome"]
    return GateResult(
        gate=gate["gate"],
        name=GATE_NAMES.get(gate["gate"], ""),
        outcome=_OUTCOMES.get(outcome, outcome),
        tone=_TONES.get(outcome, "neutral"),
        reasons=tuple(gate["reasons"]) if outcome != "ALLOW" else (),
        rules=rules,
        evidence=evidence,
    )


def _source(source: Any) -> str:
    return ", ".join(str(value) for value in source.values() if value) if isinstance(source, Mapping) else str(source)


def _facts(facts: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Each fact with its source: the longest name in `sources` that it starts with, or "*"."""
    sources = dict(facts.get("sources", {}))

    def source_of(name: str) -> str:
        parts = name.split(".")
        for length in range(len(parts), 0, -1):
            if (prefix := ".".join(parts[:length])) in sources:
                return str(sources[prefix])
        return str(sources.get("*", ""))

    def walk(name: str, value: Any) -> Iterator[tuple[str, str, str]]:
        if isinstance(value, Mapping):
            for key in sorted(value):
                yield from walk(f"{name}.{key}" if name else key, value[key])
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for number, item in enumerate(value, start=1):
                words = ", ".join(f"{key} {_plain(item[key])}" for key in sorted(item))
                yield f"{name}[{number}]", words, source_of(name)
        else:
            yield name, _plain(value), source_of(name)

    for key in sorted(facts):
        if key != "sources":
            yield from walk(key, facts[key])


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "none"
    return {True: "yes", False: "no", None: "not given"}.get(value, str(value)) if value is None or isinstance(value, bool) else str(value)


def _others(session: Session, row: DecisionRow, names: Mapping[str, str]) -> tuple[OtherReader, ...]:
    """What was decided about every other reader when this study was offered, the newest decision on each up to this one."""
    newest: dict[str, DecisionRow] = {}
    for other in decisions_of_study(session, row.study_instance_uid):
        if other.action == "ROUTE" and other.reader_id != row.reader_id and other.decided_at <= row.decided_at:
            newest[other.reader_id] = other
    return tuple(
        OtherReader(
            reader_id=reader_id,
            name=names.get(reader_id, reader_id),
            outcome=outcome_of(other),
            reasons=tuple(_reason(code, other.outcome, "") for code in other.reasons),
            decision_digest=other.digest,
        )
        for reader_id, other in sorted(newest.items())
    )


def _replayed(row: DecisionRow, document: Mapping[str, Any], law: LawBundle, now: datetime) -> str:
    try:
        is_same = replay(document, law) == row.document.encode()
    except Conflict:
        return "Made under another law than the one in force: readgate replay --law repeats it with the packs of that time"
    except BadInput:
        return "Cannot be read: the stored record is not a decision"
    return f"Came out byte for byte on {written(now)}" if is_same else "Differs: what is stored is not what the law gives"


def _about(row: DecisionRow, facts: Mapping[str, Any], who: str, pseudonym: str, hospital: str) -> tuple[tuple[str, str], ...]:
    """Who, what, where and when, in words; each of them stands among the facts with its source."""
    reader, login, origin = facts.get("reader", {}), facts.get("login") or {}, facts.get("origin", {})
    employer = reader.get("employer", {})
    what = facts.get("object", {})
    study = " ".join(
        str(part) for part in (what.get("modality"), what.get("body_part"), "as a prior" if what.get("kind") == "PRIOR" else "") if part
    )
    sat = ", ".join(
        part
        for part in (
            f"said {login['declared_country']}" if login.get("declared_country") else "",
            f"address in {login['ip_country']} ({str(login.get('ip_kind', '')).lower()})" if login.get("ip_country") else "",
        )
        if part
    )
    who_words = f"{who} ({row.reader_id}), {employer.get('id', 'no firm')} in {employer.get('country', 'an unknown place')}"
    where = f"established in {reader.get('establishment')}, residence {reader.get('residence')}; "
    where += f"logged in: {sat}" if sat else "asked before anybody logged in"
    return (
        ("Who", who_words if row.reader_id else "nobody: a place is decided on"),
        ("What", f"{_ACTIONS.get(row.action, row.action)}: {study}, patient {pseudonym}, study {row.study_instance_uid}"),
        ("From", f"{hospital}, {origin.get('jurisdiction', 'an unknown place')}"),
        ("Where", where if row.reader_id else f"kept in {facts.get('storage', {}).get('country', 'an unknown place')}"),
        ("When", written(row.decided_at)),
        ("Purpose", "emergency treatment" if facts.get("purpose") == "ETREAT" else "treatment"),
    )


def _today(document: Mapping[str, Any], law: LawBundle, now: datetime) -> tuple[str, tuple[Reason, ...]]:
    """The same facts asked now: the law in force, and what has expired since, say something of their own."""
    facts = {**document["facts"], "at": instant(now)}
    if facts.get("login"):
        facts["login"] = {**facts["login"], "observed_at": instant(now)}
    try:
        asked: Decision = decide(facts, law)
    except BadInput:
        return "The facts of then are not facts that today's law can read", ()
    law_words = "the same law" if asked.law == document.get("law") else "another law than then"
    words = {"ALLOW": "It would be allowed", "REFER": "It would be referred to a person", "DENY": "It would be denied"}[asked.outcome]
    reasons = tuple(_reason(code, asked.outcome, "") for code in asked.reasons)
    return f"{words}. Asked {written(now)}, with the facts of then, under {law_words}.", reasons
