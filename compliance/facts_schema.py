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
from typing import Any

from compliance.jurisdiction import CODE
from crypto.errors import BadInput


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ACTIONS = ("ROUTE", "STORE", "VIEW", "SIGN_PRELIMINARY", "SIGN_FINAL")
#: Actions nobody is logged in for: the login is not asked about.
ACTIONS_WITHOUT_LOGIN = frozenset({"ROUTE", "STORE"})
#: Storing concerns a place, not a reader.
ACTIONS_WITHOUT_READER = frozenset({"STORE"})

ID_CLASSES = ("IDENTIFIED", "PSEUDONYMISED", "LIMITED_DATA_SET", "DEID_SAFE_HARBOR", "DEID_EXPERT", "ANONYMOUS")
IP_KINDS = ("RESIDENTIAL", "BUSINESS", "MOBILE", "EDUCATION", "HOSTING", "VPN", "PROXY", "TOR", "UNKNOWN")
CONSENT_STATUSES = ("NOT_REQUIRED", "ACTIVE", "REFUSED", "WITHDRAWN", "UNKNOWN")
CONSENT_KINDS = ("SHARING", "SEPARATE", "INFORMED", "TRANSFER")
CREDENTIAL_STATUSES = ("ACTIVE", "SUSPENDED", "REVOKED", "LAPSED", "EXCLUDED")
#: What a hospital or its system may carry. A register the hospital asks for of itself is REQUIRE_REGISTER:<register>.
FLAGS = _words(
    """NO_ONSITE_SPECIALIST STATUTORY_HEALTH_CLOUD HDS_REQUIRED CERTIFIED_EHR PUBLIC_BODY CONSENT_REQUIRED MEDICARE_ADVANTAGE PART2
    VETERANS_AFFAIRS DEFENSE_HEALTH TRICARE NHS CRITICAL_INFRASTRUCTURE DIFC ADGM DHCC IN_COUNTRY_HOSTING SIGNIFICANT_FIDUCIARY
    REQUIRE_EXCLUSION_CHECK"""
)
REQUIRE_REGISTER = "REQUIRE_REGISTER:"

_TEXT_MAX = 512
_ITEMS_MAX = 512
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/ @+-]{0,127}\Z")

#: dotted name -> (type, required). Types: a tuple is a closed list; "code" a jurisdiction; "instant", "text", "name", "bool", "count",
#: "percent". `reader.citizenship` is recorded and no rule may ask for it.
FACT_TYPES: Mapping[str, tuple[Any, bool]] = {
    "at": ("instant", True),
    "action": (ACTIONS, True),
    "purpose": (("TREAT", "ETREAT"), True),
    "origin.hospital": ("name", True),
    "origin.jurisdiction": ("code", True),
    "origin.sector": (("PUBLIC", "PRIVATE"), True),
    "object.kind": (("CURRENT", "PRIOR"), True),
    "object.provenance": (("HOSPITAL", "MY_HEALTH_RECORD", "IMPORTED", "PATIENT"), True),
    "object.modality": ("name", True),
    "object.body_part": ("text", False),
    "object.id_class": (ID_CLASSES, True),
    "patient.jurisdiction": ("code", True),
    "patient.us_person": ("bool", True),
    "patient.can_consent": ("bool", True),
    "payer.kind": (("PUBLIC", "COMMERCIAL", "MEDICARE", "MEDICAID", "SELF"), True),
    "storage.country": ("code", True),
    "reader.id": ("name", True),
    "reader.establishment": ("code", True),
    "reader.residence": ("code", True),
    "reader.citizenship": ("code", False),
    "reader.employer.id": ("name", True),
    "reader.employer.country": ("code", True),
    "reader.employer.kind": (("COMPANY", "PUBLIC_BODY", "NON_PROFIT", "INDIVIDUAL"), True),
    "reader.employer.role": (("PROCESSOR", "CONTROLLER", "EMPLOYEE"), True),
    "reader.employer.coc_ownership_pct": ("percent", True),
    "login.mfa": ("bool", True),
    "login.device_attested": ("bool", True),
    "login.declared_country": ("code", True),
    "login.ip_country": ("code", True),
    "login.ip_kind": (IP_KINDS, True),
    "login.observed_at": ("instant", True),
    "consent.status": (CONSENT_STATUSES, True),
    "consent.kind": (CONSENT_KINDS, False),
    "consent.version": ("count", False),
    "consent.given_at": ("instant", False),
    "consent.withdrawn_at": ("instant", False),
    # A limited consent says so twice, so that the loss of either field never widens it.
    "consent.term": (("UNLIMITED", "LIMITED"), False),
    "consent.expires": ("instant", False),
    "counters.us_persons_12_months": ("count", False),
    "counters.sensitive_persons_this_year": ("count", False),
    "break_glass.reason_code": ("name", False),
    "break_glass.text": ("text", False),
    "break_glass.requested_by": ("name", False),
}
#: What a rule may ask about, beside flags, credentials, evidence and consent.
ASKABLE_FACTS = frozenset(FACT_TYPES) - {"reader.citizenship", "reader.id", "origin.hospital", "reader.employer.id", "at"}

_COMMON = {
    "status": CREDENTIAL_STATUSES,
    "issued": "instant",
    "expires": "instant",
    "psv_at": "instant",
    "psv_method": "text",
    "id": "name",
}
_CREDENTIAL_TYPES: Mapping[str, tuple[Mapping[str, Any], tuple[str, ...]]] = {
    "LICENCE": ({"jurisdiction": "code"}, ("jurisdiction",)),
    "SPECIALTY": ({"value": "name"}, ("value",)),
    "PRIVILEGE": ({"hospital": "name", "modalities": "names", "by_proxy": "bool"}, ("hospital", "modalities", "by_proxy")),
    "COVER": ({"territory": "names"}, ("territory",)),
    "REGISTRATION": ({"register": "name", "value": "name", "jurisdiction": "code"}, ("register",)),
    "BOARD": ({"value": "name"}, ("value",)),
    "EXCLUSION_CHECK": ({"register": "name"}, ("register",)),
}
_EVIDENCE_TYPES: Mapping[str, Any] = {
    "id": "name", "type": "name", "parties": "names", "issued": "instant", "expires": "instant", "verified_by": "name", "sha256": "name",
}  # fmt: skip
_EVIDENCE_REQUIRED = ("id", "type", "parties", "issued", "expires", "verified_by")


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
        value, written = _read_value(name, kind, raw)
        values[name] = value
        _place(normal, name, written)
    action = values.get("action")
    missing += [name for name in ("origin.flags", "reader.credentials", "evidence", "counters") if name in absent_groups]
    flags = _read_flags(lists.get("origin.flags"))
    credentials = _read_credentials(lists.get("reader.credentials"))
    evidence = _read_evidence(lists.get("evidence"))
    if "origin.flags" not in absent_groups:
        _place(normal, "origin.flags", sorted(flags))
    if "reader.credentials" not in absent_groups:
        _place(normal, "reader.credentials", [written for _, written in credentials])
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


def _place(normal: dict[str, Any], name: str, written: Any) -> None:
    parts = name.split(".")
    for part in parts[:-1]:
        normal = normal.setdefault(part, {})
    normal[parts[-1]] = written


def _read_value(name: str, kind: Any, raw: Any) -> tuple[Any, Any]:
    """(value as the engine uses it, value as the record writes it)."""
    if isinstance(kind, tuple):
        if raw in kind and isinstance(raw, str):
            return raw, raw
        raise BadInput(f"{name} must be one of {', '.join(kind)}")
    if kind == "instant":
        moment = _read_instant(name, raw)
        return moment, instant_text(moment)
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


def _read_instant(name: str, raw: Any) -> datetime:
    if isinstance(raw, str):
        try:
            raw = datetime.fromisoformat(raw)
        except ValueError:
            raise BadInput(f"{name} must be an instant such as 2026-11-22T10:00:00Z") from None
    if not isinstance(raw, datetime) or raw.tzinfo is None:
        raise BadInput(f"{name} must be an instant with a time zone, such as 2026-11-22T10:00:00Z")
    try:
        return raw.astimezone(UTC)
    except OverflowError:
        raise BadInput(f"{name} is out of range") from None


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
    values: dict[str, Any] = {}
    written: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in types:
            raise BadInput(f"unknown attribute: {_quoted(f'{name}.{key}')}")
        if value is not None:
            values[key], written[key] = _read_value(f"{name}.{key}", types[key], value)
    return values, written


def _read_credentials(raw: Any) -> list[tuple[Credential, dict[str, Any]]]:
    found = []
    for item in _items("reader.credentials", raw):
        kind = item.get("kind")
        if kind is None:  # a credential that lost its kind proves nothing, and is no reason to refuse the rest
            found.append((Credential("", {}, None, None, None, ("kind",)), {"kind": None}))
            continue
        if not isinstance(kind, str) or kind not in _CREDENTIAL_TYPES:
            raise BadInput(f"reader.credentials.kind must be one of {', '.join(_CREDENTIAL_TYPES)}")
        own, own_required = _CREDENTIAL_TYPES[kind]
        values, written = _read_item(f"reader.credentials.{kind}", {k: v for k, v in item.items() if k != "kind"}, {**_COMMON, **own})
        gaps = tuple(key for key in (*own_required, "status", "issued", "expires", "psv_at") if key not in values)
        written["kind"] = kind
        credential = Credential(kind, values, values.get("issued"), values.get("expires"), values.get("psv_at"), gaps)
        found.append((credential, written))
    return sorted(found, key=lambda pair: json.dumps(pair[1], sort_keys=True))


def _read_evidence(raw: Any) -> list[tuple[Evidence, dict[str, Any]]]:
    found = []
    for item in _items("evidence", raw):
        values, written = _read_item("evidence", item, _EVIDENCE_TYPES)
        gaps = tuple(key for key in _EVIDENCE_REQUIRED if key not in values)
        evidence = Evidence(
            values.get("id", ""),
            values.get("type", ""),
            values.get("parties", frozenset()),
            values.get("issued"),
            values.get("expires"),
            gaps,
        )
        found.append((evidence, written))
    return sorted(found, key=lambda pair: json.dumps(pair[1], sort_keys=True))


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
    complete = [credential for credential in credentials if not credential.gaps]
    by_subject: dict[tuple[Any, ...], list[Credential]] = {}
    for credential in complete:
        if credential.expires is not None and credential.issued is not None and credential.expires <= credential.issued:
            raise BadInput(f"contradictory credential: a {credential.kind} expires before it was issued")
        subject = [credential.kind] + [
            sorted(value) if isinstance(value, frozenset) else value
            for key in ("jurisdiction", "value", "hospital", "modalities", "territory", "register")
            if (value := credential.values.get(key)) is not None
        ]
        by_subject.setdefault((json.dumps(subject),), []).append(credential)
    for group in by_subject.values():
        for i, first in enumerate(group):
            for second in group[i + 1 :]:
                if _contradict(first, second):
                    raise BadInput(f"contradictory credential: two of kind {first.kind} for the same subject and time differ in status")


def _contradict(first: Credential, second: Credential) -> bool:
    if first.values["status"] == second.values["status"] or "ACTIVE" not in (first.values["status"], second.values["status"]):
        return False
    assert first.issued and first.expires and second.issued and second.expires, "a complete credential has all of them"
    return first.issued < second.expires and second.issued < first.expires
