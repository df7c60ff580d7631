"""The credentials and the evidence of a facts document: read, put in order, and refused where they contradict each other.

One with a gap is kept and is unusable: what lost an attribute on its way must not help, and must not hide the rest either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from compliance.facts_values import quoted, read_value
from compliance.facts_vocabulary import CREDENTIAL_SUBJECT, CREDENTIAL_TYPES, EVIDENCE_REQUIRED, EVIDENCE_TYPES
from crypto.errors import BadInput

_ITEMS_MAX = 512


class Credential(NamedTuple):
    """One credential; `gaps` names the attributes it lacks, and with any it can be relied on for nothing."""

    kind: str
    values: Mapping[str, Any]
    issued: datetime | None
    expires: datetime | None
    psv_at: datetime | None
    gaps: tuple[str, ...]


class Evidence(NamedTuple):
    """One document somebody verified; with a gap it can be relied on for nothing."""

    id: str
    type: str
    parties: frozenset[str]
    issued: datetime | None
    expires: datetime | None
    gaps: tuple[str, ...]


def read_credentials(raw: Any) -> list[tuple[Credential, dict[str, Any]]]:
    found = []
    for item in items_of("reader.credentials", raw):
        kind = item.get("kind")
        if kind is None:  # a credential that lost its kind proves nothing, and is no reason to refuse the rest
            found.append((Credential("", {}, None, None, None, ("kind",)), {"kind": None}))
            continue
        if not isinstance(kind, str) or kind not in CREDENTIAL_TYPES:
            raise BadInput(f"reader.credentials.kind must be one of {', '.join(CREDENTIAL_TYPES)}")
        own, own_required = CREDENTIAL_TYPES[kind]
        values, written = _read_item(f"reader.credentials.{kind}", item, own, "kind")
        gaps = tuple([key for key in (*own_required, "status", "issued", "expires", "psv_at") if key not in values])
        written["kind"] = kind
        credential = Credential(kind, values, values.get("issued"), values.get("expires"), values.get("psv_at"), gaps)
        found.append((credential, written))
    return sorted(found, key=lambda pair: repr(pair[1]))


def read_evidence(raw: Any) -> list[tuple[Evidence, dict[str, Any]]]:
    found = []
    for item in items_of("evidence", raw):
        values, written = _read_item("evidence", item, EVIDENCE_TYPES)
        gaps = tuple([key for key in EVIDENCE_REQUIRED if key not in values])
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


def refuse_contradictory_credentials(credentials: Iterable[Credential]) -> None:
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


def _read_item(name: str, raw: Mapping[str, Any], types: Mapping[str, Any], *others: str) -> tuple[dict[str, Any], dict[str, Any]]:
    values: dict[str, Any] = {}
    written: dict[str, Any] = {}
    known = sum([other in raw for other in others])
    for key, kind in types.items():  # in the vocabulary's order, so that equal items are written equally
        if key in raw:
            known += 1
            value = raw[key]
            if value is not None:
                values[key], written[key] = read_value(name, kind, value, key)
    if known != len(raw):
        unknown = raw.keys() - types.keys() - set(others)
        raise BadInput(f"unknown attribute: {quoted(f'{name}.{min(unknown, key=str)}')}")
    return values, written


def items_of(name: str, raw: Any) -> list[Mapping[str, Any]]:
    if raw is None:
        return []
    if (
        not isinstance(raw, (list, tuple))
        or len(raw) > _ITEMS_MAX
        or not all(type(item) is dict or isinstance(item, Mapping) for item in raw)
    ):
        raise BadInput(f"{name} must be a list of at most {_ITEMS_MAX} objects")
    return list(raw)
