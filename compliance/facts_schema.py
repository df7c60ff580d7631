"""The facts of one decision: which there are, of what type, and how they are read.

- Every name and value is of a closed vocabulary: an unknown fact, flag, kind or value is refused (BadInput), never ignored.
- A required fact that is absent or null is not an error but a missing fact: the engine denies and names it (`Facts.missing`).
- A credential or piece of evidence with a gap is kept and is unusable; two credentials that contradict each other are refused.
- The normal form does not depend on the order in which credentials, evidence and flags came, nor on how an instant was written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any

from compliance.facts_items import Credential, Evidence, read_credentials, read_evidence, refuse_contradictory_credentials
from compliance.facts_values import NAME, TEXT_MAX, quoted, read_value
from compliance.facts_values import instant_text as instant_text
from compliance.facts_vocabulary import ACTIONS_WITHOUT_LOGIN, ACTIONS_WITHOUT_READER, FACT_TYPES, FLAGS, REQUIRE_REGISTER
from crypto.errors import BadInput


@dataclass(frozen=True)
class Facts:
    """Facts in normal form. `document` is JSON-able; `values` holds it flat, instants as datetimes."""

    document: Mapping[str, Any]
    values: Mapping[str, Any]
    missing: tuple[str, ...]
    at: datetime | None
    action: str | None
    flags: frozenset[str]
    credentials: tuple[Credential, ...]
    evidence: Mapping[str, tuple[Evidence, ...]]  # by type
    has_float: bool


def read_facts(document: Any, read: dict[int, Part] | None = None) -> Facts:
    """The normal form of `document`.

    `read` holds the groups that were read before, by identity of the objects they were read from: of many readers of one study the
    study's half is read once. It serves as long as nobody changes those objects.

    Raises:
        BadInput: an unknown fact, a value outside its type or list, or credentials that contradict each other; the message names it.
    """
    if not isinstance(document, Mapping):
        raise BadInput("a facts document is a JSON object")
    for name in document:
        if name not in _TOPS:
            raise BadInput(f"unknown fact: {quoted(str(name))}")
    normal: dict[str, Any] = {"break_glass": None}
    values: dict[str, Any] = {}
    missing: list[str] = []
    parts: dict[str, Part] = {}
    for top in _TOPS:
        raw = document.get(top)
        part = _nothing(top) if raw is None else read.get(id(raw)) if read is not None else None
        if part is None or part.top != top:
            part = _read_part(top, raw)
            if read is not None:
                read[id(raw)] = part
        parts[top] = part
        values.update(part.values)
        missing += part.missing
        if part.normal is not None:
            normal[top] = part.normal
    action = values.get("action")
    return Facts(
        document=normal,
        values=values,
        missing=tuple(name for name in missing if is_asked_for(name, action)) if missing else (),
        at=values.get("at"),
        action=action,
        flags=parts["origin"].flags,
        credentials=parts["reader"].credentials,
        evidence=parts["evidence"].evidence,
        has_float=isinstance(values.get("reader.employer.coc_ownership_pct"), float),
    )


@dataclass(frozen=True)
class Part:
    """One top-level fact or group in normal form. `raw` is kept so that its identity stays its own."""

    top: str
    raw: Any
    values: Mapping[str, Any]
    normal: Any
    missing: tuple[str, ...]
    flags: frozenset[str] = frozenset()
    credentials: tuple[Credential, ...] = ()
    evidence: Mapping[str, tuple[Evidence, ...]] = field(default_factory=dict)


@cache
def _nothing(top: str) -> Part:
    return _read_part(top, None)


def _read_part(top: str, raw: Any) -> Part:
    if top in FACT_TYPES and raw is not None:
        value, written = read_value(top, FACT_TYPES[top][0], raw)
        return Part(top, raw, {top: value}, written, ())
    flat: dict[str, Any] = {}
    lists: dict[str, Any] = {}
    absent = set(_ABSENT.get(top, ()))
    if raw is not None:
        _flatten({top: raw}, "", flat, lists, absent)
    normal: dict[str, Any] = {}
    values: dict[str, Any] = {}
    missing: list[str] = []
    for name, kind, required in _TOPS[top]:
        value = flat.get(name)
        if value is None:
            if required:
                missing.append(name)
            continue
        values[name], written = read_value(name, kind, value)
        parents, leaf = _PATHS[name]
        node = normal
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = written
    missing += absent
    flags: frozenset[str] = frozenset()
    credentials: tuple[Credential, ...] = ()
    evidence: dict[str, tuple[Evidence, ...]] = {}
    if top == "origin":
        flags = _read_flags(lists.get("origin.flags"))
        if not absent:
            normal.setdefault("origin", {})["flags"] = sorted(flags)
    elif top == "reader":
        found = read_credentials(lists.get("reader.credentials"))
        credentials = tuple(credential for credential, _ in found)
        if not absent:
            normal.setdefault("reader", {})["credentials"] = [written for _, written in found]
        refuse_contradictory_credentials(credentials)
    elif top == "evidence":
        papers = read_evidence(lists.get("evidence"))
        types = {item.type for item, _ in papers}
        evidence = {kind: tuple(item for item, _ in papers if item.type == kind) for kind in types}
        if not absent:
            normal["evidence"] = [written for _, written in papers]
    elif top == "counters" and not absent:
        normal.setdefault("counters", {})
    elif top == "sources" and lists.get("sources") is not None:
        normal["sources"] = _read_sources(lists["sources"])
    elif top == "consent":
        _refuse_contradictory_consent(values)
    return Part(top, raw, values, normal.get(top), tuple(missing), flags, credentials, evidence)


def is_asked_for(name: str, action: str | None) -> bool:
    """Whether the fact `name` bears on `action` at all: nobody is logged in while routing, and storing names no reader."""
    if action in ACTIONS_WITHOUT_LOGIN and name.startswith("login."):
        return False
    return not (action in ACTIONS_WITHOUT_READER and name.startswith("reader."))


_GROUPS = frozenset(name.rsplit(".", depth)[0] for name in FACT_TYPES for depth in (1, 2) if name.count(".") >= depth)
_PATHS = {name: (tuple(name.split(".")[:-1]), name.split(".")[-1]) for name in FACT_TYPES}
_LISTS = frozenset({"origin.flags", "reader.credentials", "evidence", "sources"})
#: Lists and groups that are facts of their own: without them nothing is known of what they would hold.
_ABSENT = {"origin": ("origin.flags",), "reader": ("reader.credentials",), "evidence": ("evidence",), "counters": ("counters",)}


def _top_groups() -> dict[str, tuple[tuple[str, Any, bool], ...]]:
    """Top-level name -> (fact, type, whether it is required) of everything in it, in the vocabulary's order."""
    found: dict[str, list[tuple[str, Any, bool]]] = {}
    for name, (kind, required) in FACT_TYPES.items():
        found.setdefault(name.partition(".")[0], []).append((name, kind, required))
    return {**{name: tuple(rows) for name, rows in found.items()}, "evidence": (), "sources": ()}


_TOPS = _top_groups()


def _flatten(node: Mapping[str, Any], prefix: str, flat: dict[str, Any], lists: dict[str, Any], absent: set[str]) -> None:
    for key, value in node.items():
        name = f"{prefix}{key}"
        if name in FACT_TYPES:
            flat[name] = value
        elif name in _LISTS:
            if value is not None:
                lists[name] = value
                absent.discard(name)
        elif name in _GROUPS:
            if value is None:
                continue
            if not isinstance(value, Mapping):
                raise BadInput(f"the fact {name} must be an object")
            absent.discard(name)
            _flatten(value, name + ".", flat, lists, absent)
        else:
            raise BadInput(f"unknown fact: {quoted(name)}")


def _read_flags(raw: Any) -> frozenset[str]:
    if raw is None:
        return frozenset()
    if not isinstance(raw, (list, tuple)):
        raise BadInput("origin.flags must be a list")
    for flag in raw:
        if not isinstance(flag, str) or not (flag in FLAGS or (flag.startswith(REQUIRE_REGISTER) and NAME.match(flag[17:]))):
            raise BadInput(f"unknown flag in origin.flags: {quoted(str(flag))}")
    return frozenset(raw)


def _read_sources(raw: Any) -> dict[str, str]:
    if not isinstance(raw, Mapping):
        raise BadInput("sources must be an object from a fact's name to where it came from")
    for name, source in raw.items():
        is_name = isinstance(name, str) and (name == "*" or (name.isascii() and NAME.match(name) is not None))
        if not is_name or not isinstance(source, str) or len(source) > TEXT_MAX:
            raise BadInput("sources must be an object from a fact's name to where it came from")
    return dict(sorted(raw.items()))


def _refuse_contradictory_consent(values: Mapping[str, Any]) -> None:
    if values.get("consent.status") == "ACTIVE" and "consent.withdrawn_at" in values:
        raise BadInput("contradictory consent: ACTIVE, and withdrawn_at is given")
    if values.get("consent.term") == "UNLIMITED" and "consent.expires" in values:
        raise BadInput("contradictory consent: UNLIMITED, and expires is given")
    # One without the other is a consent that lost its limit: with one fact less still it would look like one that never had any.
    if (values.get("consent.term") == "LIMITED") is not ("consent.expires" in values):
        raise BadInput("contradictory consent: LIMITED and expires go together")
