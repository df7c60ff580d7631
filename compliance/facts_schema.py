"""The facts of one decision: which there are, of what type, and how they are read.

- Every name and value is of a closed vocabulary: an unknown fact, flag, kind or value is refused (BadInput), never ignored.
- A required fact that is absent or null is not an error but a missing fact: the engine denies and names it (`Facts.missing`).
- A credential or piece of evidence with a gap is kept and is unusable; two credentials that contradict each other are refused.
- The normal form does not depend on the order in which credentials, evidence and flags came, nor on how an instant was written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from compliance.facts_vocabulary import (
    ACTIONS_WITHOUT_LOGIN,
    ACTIONS_WITHOUT_READER,
    CREDENTIAL_SUBJECT,
    CREDENTIAL_TYPES,
    EVIDENCE_REQUIRED,
    EVIDENCE_TYPES,
    FACT_TYPES,
    FLAGS,
    REQUIRE_REGISTER,
)
from compliance.jurisdiction import CODE
from crypto.errors import BadInput

_TEXT_MAX = 512
_ITEMS_MAX = 512
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/ @+-]{0,127}\Z")


@dataclass(frozen=True)
class Credential:
    """One credential; `gaps` names the attributes it lacks, and with any it can be relied on for nothing."""

    kind: str
    values: Mapping[str, Any]
    issued: datetime | None
    expires: datetime | None
    psv_at: datetime | None
    gaps: tuple[str, ...]


@dataclass(frozen=True)
class Evidence:
    """One document somebody verified; with a gap it can be relied on for nothing."""

    id: str
    type: str
    parties: frozenset[str]
    issued: datetime | None
    expires: datetime | None
    gaps: tuple[str, ...]


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
    evidence: tuple[Evidence, ...]
    has_float: bool


def instant_text(value: datetime) -> str:
    """`value` as ISO 8601 in UTC with Z, with microseconds only where there are any."""
    value = value.astimezone(UTC)
    return value.isoformat(timespec="auto").replace("+00:00", "Z")


def read_facts(document: Any) -> Facts:
    """The normal form of `document`.

    Raises:
        BadInput: an unknown fact, a value outside its type or list, or credentials that contradict each other; the message names it.
    """
    if not isinstance(document, Mapping):
        raise BadInput("a facts document is a JSON object")
    flat: dict[str, Any] = {}
    lists: dict[str, Any] = {}
    absent_groups: set[str] = set()
    _flatten(document, "", flat, lists, absent_groups)
    normal: dict[str, Any] = {}
    values: dict[str, Any] = {}
    missing: list[str] = []
    for name, (kind, required) in FACT_TYPES.items():
        raw = flat.get(name)
        if raw is None:
            if required:
                missing.append(name)
            continue
        values[name], written = _read_value(name, kind, raw)
        parents, leaf = _PATHS[name]
        node = normal
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = written
    action = values.get("action")
    missing += [name for name in ("origin.flags", "reader.credentials", "evidence", "counters") if name in absent_groups]
    flags = _read_flags(lists.get("origin.flags"))
    credentials = _read_credentials(lists.get("reader.credentials"))
    evidence = _read_evidence(lists.get("evidence"))
    if "origin.flags" not in absent_groups:
        normal.setdefault("origin", {})["flags"] = sorted(flags)
    if "reader.credentials" not in absent_groups:
        normal.setdefault("reader", {})["credentials"] = [written for _, written in credentials]
    if "evidence" not in absent_groups:
        normal["evidence"] = [written for _, written in evidence]
    if "counters" not in absent_groups:
        normal.setdefault("counters", {})
    normal.setdefault("break_glass", None)
    if lists.get("sources") is not None:
        normal["sources"] = _read_sources(lists["sources"])
    _refuse_contradictions(values, [credential for credential, _ in credentials])
    return Facts(
        document=normal,
        values=values,
        missing=tuple(name for name in missing if is_asked_for(name, action)),
        at=values.get("at"),
        action=action,
        flags=flags,
        credentials=tuple(credential for credential, _ in credentials),
        evidence=tuple(item for item, _ in evidence),
        has_float=isinstance(values.get("reader.employer.coc_ownership_pct"), float),
    )


def is_asked_for(name: str, action: str | None) -> bool:
    """Whether the fact `name` bears on `action` at all: nobody is logged in while routing, and storing names no reader."""
    if action in ACTIONS_WITHOUT_LOGIN and name.startswith("login."):
        return False
    return not (action in ACTIONS_WITHOUT_READER and name.startswith("reader."))


_GROUPS = frozenset(name.rsplit(".", depth)[0] for name in FACT_TYPES for depth in (1, 2) if name.count(".") >= depth)
_PATHS = {name: (tuple(name.split(".")[:-1]), name.split(".")[-1]) for name in FACT_TYPES}
_LISTS = frozenset({"origin.flags", "reader.credentials", "evidence", "sources"})


def _flatten(node: Mapping[str, Any], prefix: str, flat: dict[str, Any], lists: dict[str, Any], absent: set[str]) -> None:
    if not prefix:
        absent.update({"origin.flags", "reader.credentials", "evidence", "counters"})
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
            raise BadInput(f"unknown fact: {_quoted(name)}")


def _quoted(name: str) -> str:
    return json.dumps(name[:80])


def _read_value(name: str, kind: Any, raw: Any) -> tuple[Any, Any]:
    """(value as the engine uses it, value as the record writes it)."""
    if isinstance(kind, tuple):
        if raw in kind and isinstance(raw, str):
            return raw, raw
        raise BadInput(f"{name} must be one of {', '.join(kind)}")
    if kind == "instant":
        return _read_instant(name, raw)
    if kind == "code":
        if isinstance(raw, str) and CODE.match(raw):
            return raw, raw
        raise BadInput(f"{name} must be an ISO 3166 code such as IE or US-TX")
    if kind == "bool":
        if isinstance(raw, bool):
            return raw, raw
        raise BadInput(f"{name} must be true or false")
    if kind == "count":
        if isinstance(raw, int) and not isinstance(raw, bool) and 0 <= raw <= 2**53 - 1:
            return raw, raw
        raise BadInput(f"{name} must be a whole number from 0")
    if kind == "percent":
        if isinstance(raw, (int, float)) and not isinstance(raw, bool) and 0 <= raw <= 100:
            number = int(raw) if raw == int(raw) else raw
            return number, number
        raise BadInput(f"{name} must be a number from 0 to 100")
    if kind == "names":
        if isinstance(raw, (list, tuple)) and all(isinstance(item, str) and _NAME.match(item) for item in raw):
            ordered = sorted(set(raw))
            return frozenset(ordered), ordered
        raise BadInput(f"{name} must be a list of names")
    if not isinstance(raw, str) or not raw or len(raw) > _TEXT_MAX or (kind == "name" and not _NAME.match(raw)):
        raise BadInput(f"{name} must be a {'short name' if kind == 'name' else f'text of at most {_TEXT_MAX} characters'}")
    return raw, raw


def _read_instant(name: str, raw: Any) -> tuple[datetime, str]:
    moment = raw
    if isinstance(raw, str):
        found = _parsed_instant(raw)
        if found is not None:
            return found
        moment = None
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise BadInput(f"{name} must be an instant with a time zone, such as 2026-11-22T10:00:00Z")
    return moment.astimezone(UTC), instant_text(moment)


@lru_cache(maxsize=8192)
def _parsed_instant(raw: str) -> tuple[datetime, str] | None:
    """The instant and its normal text; None where `raw` is none. The same dates come again and again, in every reader's credentials."""
    try:
        moment = datetime.fromisoformat(raw)
        if moment.tzinfo is None:
            return None
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment, instant_text(moment)


def _items(name: str, raw: Any) -> list[Mapping[str, Any]]:
    if raw is None:
        return []
    if not isinstance(raw, (list, tuple)) or len(raw) > _ITEMS_MAX or not all(isinstance(item, Mapping) for item in raw):
        raise BadInput(f"{name} must be a list of at most {_ITEMS_MAX} objects")
    return list(raw)


def _read_flags(raw: Any) -> frozenset[str]:
    if raw is None:
        return frozenset()
    if not isinstance(raw, (list, tuple)):
        raise BadInput("origin.flags must be a list")
    for flag in raw:
        if not isinstance(flag, str) or not (flag in FLAGS or (flag.startswith(REQUIRE_REGISTER) and _NAME.match(flag[17:]))):
            raise BadInput(f"unknown flag in origin.flags: {_quoted(str(flag))}")
    return frozenset(raw)


def _read_item(name: str, raw: Mapping[str, Any], types: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    unknown = raw.keys() - types.keys()
    if unknown:
        raise BadInput(f"unknown attribute: {_quoted(f'{name}.{min(unknown, key=str)}')}")
    values: dict[str, Any] = {}
    written: dict[str, Any] = {}
    for key, kind in types.items():  # in the vocabulary's order, so that equal items are written equally
        value = raw.get(key)
        if value is not None:
            values[key], written[key] = _read_value(f"{name}.{key}", kind, value)
    return values, written


def _read_credentials(raw: Any) -> list[tuple[Credential, dict[str, Any]]]:
    found = []
    for item in _items("reader.credentials", raw):
        kind = item.get("kind")
        if kind is None:  # a credential that lost its kind proves nothing, and is no reason to refuse the rest
            found.append((Credential("", {}, None, None, None, ("kind",)), {"kind": None}))
            continue
        if not isinstance(kind, str) or kind not in CREDENTIAL_TYPES:
            raise BadInput(f"reader.credentials.kind must be one of {', '.join(CREDENTIAL_TYPES)}")
        own, own_required = CREDENTIAL_TYPES[kind]
        attributes = {key: value for key, value in item.items() if key != "kind"}
        values, written = _read_item(f"reader.credentials.{kind}", attributes, own)
        gaps = tuple(key for key in (*own_required, "status", "issued", "expires", "psv_at") if key not in values)
        written["kind"] = kind
        credential = Credential(kind, values, values.get("issued"), values.get("expires"), values.get("psv_at"), gaps)
        found.append((credential, written))
    return sorted(found, key=lambda pair: repr(pair[1]))


def _read_evidence(raw: Any) -> list[tuple[Evidence, dict[str, Any]]]:
    found = []
    for item in _items("evidence", raw):
        values, written = _read_item("evidence", item, EVIDENCE_TYPES)
        gaps = tuple(key for key in EVIDENCE_REQUIRED if key not in values)
        evidence = Evidence(
            values.get("id", ""),
            values.get("type", ""),
            values.get("parties", frozenset()),
            values.get("issued"),
            values.get("expires"),
            gaps,
        )
        found.append((evidence, written))
    return sorted(found, key=lambda pair: repr(pair[1]))


def _read_sources(raw: Any) -> dict[str, str]:
    if not isinstance(raw, Mapping):
        raise BadInput("sources must be an object from a fact's name to where it came from")
    for name, source in raw.items():
        is_name = isinstance(name, str) and (name == "*" or (name.isascii() and _NAME.match(name) is not None))
        if not is_name or not isinstance(source, str) or len(source) > _TEXT_MAX:
            raise BadInput("sources must be an object from a fact's name to where it came from")
    return dict(sorted(raw.items()))


def _refuse_contradictions(values: Mapping[str, Any], credentials: list[Credential]) -> None:
    if values.get("consent.status") == "ACTIVE" and "consent.withdrawn_at" in values:
        raise BadInput("contradictory consent: ACTIVE, and withdrawn_at is given")
    if values.get("consent.term") == "UNLIMITED" and "consent.expires" in values:
        raise BadInput("contradictory consent: UNLIMITED, and expires is given")
    by_kind: dict[str, list[Credential]] = {}
    for credential in credentials:
        if credential.gaps or credential.issued is None or credential.expires is None:
            continue
        if credential.expires <= credential.issued:
            raise BadInput(f"contradictory credential: a {credential.kind} expires before it was issued")
        by_kind.setdefault(credential.kind, []).append(credential)
    for kind, group in by_kind.items():
        for i, first in enumerate(group):
            for second in group[i + 1 :]:
                if _contradict(first, second):
                    raise BadInput(f"contradictory credential: two of kind {kind} for the same subject and time differ in status")


def _contradict(first: Credential, second: Credential) -> bool:
    statuses = {first.values["status"], second.values["status"]}
    if len(statuses) == 1 or "ACTIVE" not in statuses:
        return False
    if any(first.values.get(key) != second.values.get(key) for key in CREDENTIAL_SUBJECT):
        return False
    assert first.issued and first.expires and second.issued and second.expires, "a complete credential has all of them"
    return first.issued < second.expires and second.issued < first.expires
