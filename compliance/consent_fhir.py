"""A patient's consent as a FHIR R4 Consent resource, read and written.

Nothing is overlooked: an element, code or reference that this file does not understand refuses the resource, with its path. What an
element says about who may read would otherwise be lost in silence.

R4 names the base rule in `policyRule` (OPTIN, OPTOUT) and its exceptions in `provision`; resources that give the outermost provision a
type of its own and no policyRule are as common, and both are read (http://hl7.org/fhir/R4/consent.html).

The patient is known by pseudonym alone: `patient` is `Patient/<pseudonym>`, `organization` the hospital, an actor `Practitioner/<reader>`
or `Organization/<employer>`. Our own elements have names below `urn:readgate:consent:`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from compliance.consent_terms import DENY, PERMIT
from compliance.credential import Consent
from compliance.facts_vocabulary import CONSENT_KINDS
from compliance.jurisdiction import COUNTRIES
from crypto.canonical import digest
from crypto.errors import BadInput

LOINC_CONSENT = {"system": "http://loinc.org", "code": "59284-0"}
SCOPE = {"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}
KIND_SYSTEM = "urn:readgate:consent:kind"
COUNTRY_EXTENSION = "urn:readgate:consent:country"
WITHDRAWAL_EXTENSION = "urn:readgate:consent:withdrawal"
ACT_CODE = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
ACT_REASON = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
ACTION_SYSTEM = "http://terminology.hl7.org/CodeSystem/consentaction"
ROLE_SYSTEM = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
MODALITY_SYSTEM = "http://dicom.nema.org/resources/ontology/DCM"
URI_SYSTEM = "urn:ietf:rfc:3986"
_STATUSES = {"active": "ACTIVE", "rejected": "REFUSED", "inactive": "WITHDRAWN", "entered-in-error": "UNKNOWN"}
_PURPOSES = frozenset({"TREAT", "ETREAT", "BTG", "HPAYMT", "HOPERAT", "HRESCH", "PATRQT", "PUBHLTH"})
_ACTIONS = frozenset({"collect", "access", "use", "disclose", "correct"})
#: Who receives: the roles an actor may have here.
_ROLES = frozenset({"PRCP", "IRCP"})
_NESTING_MAX = 8
_MEMBER = re.compile(r"_?[a-z][A-Za-z_]{1,39}")
_PLAIN = frozenset({"resourceType", "id", "language", "text", "identifier", "performer", "policy", "sourceReference"})


@dataclass(frozen=True)
class ConsentStatement:
    """What a resource says, in our words; `terms` as consent_terms.py reads them."""

    hospital_id: str
    patient_pseudonym: str
    status: str
    kind: str
    given_at: datetime
    withdrawn_at: datetime | None
    expires_at: datetime | None
    terms: dict[str, Any] | None
    document_digest: str


def read_consent(document: Any) -> ConsentStatement:
    """What `document` says.

    Raises:
        BadInput: not a Consent of R4, or anything in it that is not understood; the message names the path.
    """
    node = _object(document, "Consent")
    if node.get("resourceType") != "Consent":
        raise BadInput("Consent.resourceType: not a Consent")
    known = {"meta", "extension", "status", "scope", "category", "patient", "dateTime", "organization", "policyRule", "provision"}
    _only(node, "Consent", known | _PLAIN)
    if "meta" in node:
        _only(_object(node["meta"], "Consent.meta"), "Consent.meta", {"versionId", "lastUpdated", "profile", "source"})
    status = _STATUSES.get(str(node.get("status")))
    if status is None:
        raise BadInput("Consent.status: is none of active, inactive, rejected, entered-in-error; a draft or proposal is no consent yet")
    if _coding(node.get("scope"), "Consent.scope") != (SCOPE["system"], SCOPE["code"]):
        raise BadInput("Consent.scope: only patient-privacy is understood")
    terms = _terms(node)
    given_at, _ = _instants(node.get("dateTime"), "Consent.dateTime")
    withdrawn_at = _withdrawal(node)
    if (status == "WITHDRAWN") is not (withdrawn_at is not None):
        raise BadInput("Consent.status: inactive, and the extension withdrawal, come together")
    ends = terms.get("end") if terms is not None and terms["type"] == PERMIT else None
    return ConsentStatement(
        hospital_id=_single(_references(node.get("organization"), "Consent.organization", ("Organization",)), "Consent.organization")[1],
        patient_pseudonym=_reference(node.get("patient"), "Consent.patient", ("Patient",))[1],
        status=status,
        kind=_kind(node.get("category")),
        given_at=given_at,
        withdrawn_at=withdrawn_at,
        expires_at=datetime.fromisoformat(ends) if ends is not None else None,
        terms=terms,
        document_digest=digest(document),
    )


def write_consent(row: Consent) -> dict[str, Any]:
    """The row as a Consent of R4; `read_consent` reads the same from it."""
    resource: dict[str, Any] = {
        "resourceType": "Consent",
        "status": next(code for code, status in _STATUSES.items() if status == row.status),
        "scope": {"coding": [SCOPE]},
        "category": [{"coding": [LOINC_CONSENT]}, {"coding": [{"system": KIND_SYSTEM, "code": row.kind}]}],
        "patient": {"reference": f"Patient/{row.patient_pseudonym}"},
        "dateTime": _written(row.given_at or row.recorded_at),
        "organization": [{"reference": f"Organization/{row.hospital_id}"}],
        "policyRule": {"coding": [{"system": ACT_CODE, "code": "OPTIN"}]},
    }
    if row.withdrawn_at is not None:
        resource["extension"] = [{"url": WITHDRAWAL_EXTENSION, "extension": [{"url": "at", "valueDateTime": _written(row.withdrawn_at)}]}]
    terms = row.terms
    if terms is None and row.expires_at is not None:
        terms = {"type": PERMIT, "end": row.expires_at.isoformat()}
    if terms is not None:
        resource["policyRule"]["coding"][0]["code"] = "OPTIN" if terms["type"] == PERMIT else "OPTOUT"
        provision = _write_provision(terms)
        del provision["type"]
        if provision:
            resource["provision"] = provision
    return resource


def actors_of(terms: Mapping[str, Any] | None) -> set[tuple[str, str]]:
    """Every ("reader" | "employer", id) that the terms name: an importer makes sure that they exist."""
    if terms is None:
        return set()
    found = {(actor["kind"], actor["id"]) for actor in terms.get("actors", ())}
    return found.union(*(actors_of(exception) for exception in terms.get("exceptions", ())))


def _terms(node: Mapping[str, Any]) -> dict[str, Any] | None:
    """The base rule with its exceptions; None for an unlimited opt-in."""
    base = None
    if "policyRule" in node:
        system, code = _coding(node["policyRule"], "Consent.policyRule")
        if system != ACT_CODE or code not in ("OPTIN", "OPTOUT"):
            raise BadInput("Consent.policyRule: only OPTIN and OPTOUT of v3-ActCode are understood")
        base = PERMIT if code == "OPTIN" else DENY
    if "provision" not in node:
        if base is None:
            raise BadInput("Consent.policyRule: neither a policyRule nor a provision says what is consented to")
        return None if base == PERMIT else {"type": DENY}
    provision = _object(node["provision"], "Consent.provision")
    if base is None:
        return _provision(provision, "Consent.provision", None, 1)
    if "type" not in provision:
        return _provision(provision, "Consent.provision", base, 1)
    return {"type": base, "exceptions": [_provision(provision, "Consent.provision", None, 1)]}


def _provision(node: Mapping[str, Any], path: str, implied_type: str | None, depth: int) -> dict[str, Any]:
    if depth > _NESTING_MAX:
        raise BadInput(f"{path}: nested more than {_NESTING_MAX} deep")
    _only(node, path, {"id", "type", "period", "actor", "action", "purpose", "class", "provision", "extension"})
    kind = node.get("type", implied_type)
    if kind not in (PERMIT, DENY):
        raise BadInput(f"{path}.type: is neither permit nor deny")
    terms: dict[str, Any] = {"type": kind}
    if "period" in node:
        period = _object(node["period"], f"{path}.period")
        _only(period, f"{path}.period", {"start", "end"})
        if "start" in period:
            terms["start"] = _instants(period["start"], f"{path}.period.start")[0].isoformat()
        if "end" in period:  # inclusive in FHIR: a day ends when the next begins
            terms["end"] = _instants(period["end"], f"{path}.period.end")[1].isoformat()
    if "actor" in node:
        terms["actors"] = [_actor(actor, where) for actor, where in _items(node["actor"], f"{path}.actor")]
    if "action" in node:
        terms["actions"] = [_code(item, where, ACTION_SYSTEM, _ACTIONS) for item, where in _items(node["action"], f"{path}.action")]
    if "purpose" in node:
        terms["purposes"] = [
            _from(_plain_coding(item, where), where, ACT_REASON, _PURPOSES) for item, where in _items(node["purpose"], f"{path}.purpose")
        ]
    if "class" in node:
        terms["classes"] = [_class(item, where) for item, where in _items(node["class"], f"{path}.class")]
    if "extension" in node:
        terms["countries"] = sorted(_country(item, where) for item, where in _items(node["extension"], f"{path}.extension"))
    if "provision" in node:
        terms["exceptions"] = [
            _provision(_object(item, where), where, None, depth + 1) for item, where in _items(node["provision"], f"{path}.provision")
        ]
    return terms


def _write_provision(terms: Mapping[str, Any]) -> dict[str, Any]:
    node: dict[str, Any] = {"type": terms["type"]}
    period = {}
    if "start" in terms:
        period["start"] = _written(datetime.fromisoformat(terms["start"]))
    if "end" in terms:
        period["end"] = _written(datetime.fromisoformat(terms["end"]) - timedelta(seconds=1))
    if period:
        node["period"] = period
    kinds = {"reader": "Practitioner", "employer": "Organization"}
    if "actors" in terms:
        role = {"coding": [{"system": ROLE_SYSTEM, "code": "IRCP"}]}
        node["actor"] = [{"role": role, "reference": {"reference": f"{kinds[one['kind']]}/{one['id']}"}} for one in terms["actors"]]
    if "actions" in terms:
        node["action"] = [{"coding": [{"system": ACTION_SYSTEM, "code": code}]} for code in terms["actions"]]
    if "purposes" in terms:
        node["purpose"] = [{"system": ACT_REASON, "code": code} for code in terms["purposes"]]
    if "classes" in terms:
        node["class"] = [
            {"system": MODALITY_SYSTEM, "code": one["code"]}
            if one["kind"] == "modality"
            else {"system": URI_SYSTEM, "code": f"urn:oid:{one['code']}"}
            for one in terms["classes"]
        ]
    if "countries" in terms:
        node["extension"] = [{"url": COUNTRY_EXTENSION, "valueCode": code} for code in terms["countries"]]
    if "exceptions" in terms:
        node["provision"] = [_write_provision(exception) for exception in terms["exceptions"]]
    return node


def _kind(value: Any) -> str:
    found = []
    for item, where in _items(value, "Consent.category"):
        system, code = _coding(item, where)
        if system == KIND_SYSTEM and code in CONSENT_KINDS:
            found.append(code)
        elif (system, code) != (LOINC_CONSENT["system"], LOINC_CONSENT["code"]):
            raise BadInput(f"{where}: not understood")
    if len(found) != 1:
        raise BadInput(f"Consent.category: has exactly one code of {KIND_SYSTEM}: {', '.join(CONSENT_KINDS)}")
    return found[0]


def _withdrawal(node: Mapping[str, Any]) -> datetime | None:
    at = None
    for item, where in _items(node.get("extension", []), "Consent.extension", can_be_empty=True):
        extension = _object(item, where)
        _only(extension, where, {"url", "extension"})
        if extension.get("url") != WITHDRAWAL_EXTENSION or at is not None:
            raise BadInput(f"{where}: not understood")
        for part, place in _items(extension.get("extension"), f"{where}.extension"):
            inner = _object(part, place)
            if inner.get("url") == "at" and set(inner) == {"url", "valueDateTime"}:
                at, _ = _instants(inner["valueDateTime"], f"{place}.valueDateTime")
            elif not (inner.get("url") in ("how", "by") and set(inner) == {"url", "valueString"}):
                raise BadInput(f"{place}: not understood")
        if at is None:
            raise BadInput(f"{where}: a withdrawal says at what time")
    return at


def _actor(value: Any, path: str) -> dict[str, str]:
    node = _object(value, path)
    _only(node, path, {"id", "role", "reference"})
    _, role = _coding(node.get("role"), f"{path}.role")
    if role not in _ROLES:
        raise BadInput(f"{path}.role: only a recipient (PRCP, IRCP) is understood")
    kind, name = _reference(node.get("reference"), f"{path}.reference", ("Practitioner", "Organization"))
    return {"kind": "reader" if kind == "Practitioner" else "employer", "id": name}


def _class(value: Any, path: str) -> dict[str, str]:
    system, code = _plain_coding(value, path)
    if system == MODALITY_SYSTEM and code.isalnum() and code.isupper() and len(code) <= 16:
        return {"kind": "modality", "code": code}
    uid = code.removeprefix("urn:oid:")
    if system == URI_SYSTEM and code.startswith("urn:oid:") and 0 < len(uid) <= 64 and all(part.isdigit() for part in uid.split(".")):
        return {"kind": "sop_class", "code": uid}
    raise BadInput(f"{path}: is neither a modality (DCM) nor a SOP class (urn:oid)")


def _country(value: Any, path: str) -> str:
    node = _object(value, path)
    if set(node) != {"url", "valueCode"} or node["url"] != COUNTRY_EXTENSION or node["valueCode"] not in COUNTRIES:
        raise BadInput(f"{path}: not understood")
    return str(node["valueCode"])


def _code(value: Any, path: str, system: str, codes: frozenset[str]) -> str:
    return _from(_coding(value, path), path, system, codes)


def _from(coding: tuple[str, str], path: str, system: str, codes: frozenset[str]) -> str:
    if coding[0] != system or coding[1] not in codes:
        raise BadInput(f"{path}: is none of {', '.join(sorted(codes))} of {system}")
    return coding[1]


def _coding(value: Any, path: str) -> tuple[str, str]:
    """(system, code) of a CodeableConcept with one coding."""
    node = _object(value, path)
    _only(node, path, {"coding", "text"})
    (coding, where) = _single(list(_items(node.get("coding"), f"{path}.coding")), f"{path}.coding")
    return _plain_coding(coding, where)


def _plain_coding(value: Any, path: str) -> tuple[str, str]:
    node = _object(value, path)
    _only(node, path, {"system", "code", "display", "version"})
    system, code = node.get("system"), node.get("code")
    if not isinstance(system, str) or not isinstance(code, str):
        raise BadInput(f"{path}: a coding has a system and a code")
    return system, code


def _references(value: Any, path: str, kinds: Sequence[str]) -> list[tuple[str, str]]:
    return [_reference(item, where, kinds) for item, where in _items(value, path)]


def _reference(value: Any, path: str, kinds: Sequence[str]) -> tuple[str, str]:
    node = _object(value, path)
    _only(node, path, {"reference", "type", "display"})
    kind, _, name = str(node.get("reference", "")).partition("/")
    if kind not in kinds or not 0 < len(name) <= 64 or "/" in name:
        raise BadInput(f"{path}.reference: refers to no {' or '.join(kinds)} here")
    return kind, name


def _instants(value: Any, path: str) -> tuple[datetime, datetime]:
    """(first instant, first instant after) of a FHIR dateTime: a day or a second; a month or year is too vague to decide on."""
    try:
        if isinstance(value, str) and len(value) == 10:
            start = datetime.fromisoformat(value).replace(tzinfo=UTC)
            return start, start + timedelta(days=1)
        at = datetime.fromisoformat(value)
        if at.tzinfo is None:
            raise ValueError
        at = at.astimezone(UTC)
        return at, at + timedelta(seconds=1)
    except (TypeError, ValueError, OverflowError):
        raise BadInput(f"{path}: is no date, and no instant with a time zone") from None


def _written(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _items(value: Any, path: str, *, can_be_empty: bool = False) -> list[tuple[Any, str]]:
    if not isinstance(value, list) or not (value or can_be_empty) or len(value) > 100:
        raise BadInput(f"{path}: is a list of 1 to 100 elements")
    return [(item, f"{path}[{index}]") for index, item in enumerate(value)]


def _single(values: Sequence[Any], path: str) -> Any:
    if len(values) != 1:
        raise BadInput(f"{path}: has exactly one element")
    return values[0]


def _object(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadInput(f"{path}: is missing or no object")
    return value


def _only(node: Mapping[str, Any], path: str, known: set[str] | frozenset[str]) -> None:
    if set(node) - known:
        raise BadInput(f"{path}.{told_name(set(node) - known)}: not understood, so the whole consent is refused")


def told_name(unknown: Set[str]) -> str:
    """One of the members that are not understood; what does not look like the name of a member is not repeated, for it may be anything."""
    return next((name for name in sorted(unknown) if _MEMBER.fullmatch(name)), "[a member]")
