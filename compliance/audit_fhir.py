"""An audit entry as a FHIR R4 AuditEvent; decisions and disclosures after IHE BALP (Basic Audit Log Patterns).

A profile is claimed only where everything it asks for is known: a disclosure names source, recipient, patient and data, a decision
names user, patient, consent and itself. Everything else is a plain AuditEvent with the same codes as the DICOM message.
"""

from __future__ import annotations

from typing import Any

from compliance.audit import AuditEntry, EventId, EventType, instant_text
from compliance.audit_rendering import (
    APPLICATION,
    DESTINATION,
    EVENT_MEANINGS,
    SOURCE,
    AuditSource,
    is_disclosure,
    recipient_of,
    type_coding,
)
from crypto.canonical import canonical_json

BALP = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit."
DCM_SYSTEM = "http://dicom.nema.org/resources/ontology/DCM"
OWN_SYSTEM = "urn:readgate:audit"
_ISO_21089 = "http://terminology.hl7.org/CodeSystem/iso-21089-lifecycle"
_AUTHZ_TYPES = "https://profiles.ihe.net/ITI/BALP/CodeSystem/AuthZsubType"
_PARTICIPATION = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
_ENTITY = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
_OBJECT_ROLE = "http://terminology.hl7.org/CodeSystem/object-role"
_REASON = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
_TREATMENT = [{"coding": [{"system": _REASON, "code": "TREAT", "display": "treatment"}]}]


def audit_event(entry: AuditEntry, source: AuditSource, *, patient_pseudonym: str | None = None) -> dict[str, Any]:
    """The entry as an AuditEvent resource."""
    event: dict[str, Any] = {"resourceType": "AuditEvent"}
    is_patients = patient_pseudonym is not None
    if is_disclosure(entry) and is_patients:
        event["meta"] = {"profile": [BALP + "PrivacyDisclosure.Source"]}
        event["type"] = _coding(DCM_SYSTEM, EventId.EXPORT, EVENT_MEANINGS[EventId.EXPORT])
        event["subtype"] = [_coding(_ISO_21089, "disclose", "Disclose"), _own_type(entry)]
        event["action"] = "R"
    elif entry.event_type == EventType.DECIDE and is_patients:
        event["meta"] = {"profile": [BALP + "AuthZconsent"]}
        event["type"] = _coding(DCM_SYSTEM, EventId.SECURITY_ALERT, EVENT_MEANINGS[EventId.SECURITY_ALERT])
        event["subtype"] = [_coding(_AUTHZ_TYPES, "AuthZ-Consent", "Consent Authorization Decision Audit Event")]
        event["action"] = "E"
    else:
        event["type"] = _coding(DCM_SYSTEM, entry.event_id, EVENT_MEANINGS[EventId(entry.event_id)])
        event["subtype"] = [_own_type(entry)]
        event["action"] = entry.action
    event["recorded"] = instant_text(entry.recorded_at)
    event["outcome"] = entry.outcome
    reason = entry.detail.get("reason") or entry.detail.get("refused") or entry.detail.get("reasons")
    if entry.outcome != "0" and reason:
        event["outcomeDesc"] = ", ".join(reason) if isinstance(reason, list) else str(reason)
    if "meta" in event:
        event["purposeOfEvent"] = _TREATMENT
    event["agent"] = _agents(entry, source)
    event["source"] = {
        "observer": {"display": source.source_id},
        "type": [_coding("http://terminology.hl7.org/CodeSystem/security-source-type", "4", "Application Server")],
    }
    if source.site:
        event["source"]["site"] = source.site
    event["entity"] = _entities(entry, patient_pseudonym)
    return event


def _agents(entry: AuditEntry, source: AuditSource) -> list[dict[str, Any]]:
    own = {"who": {"display": source.source_id}, "requestor": False}
    requestor: dict[str, Any] = {"who": {"identifier": {"system": OWN_SYSTEM, "value": entry.actor}}, "requestor": True}
    if entry.network_address:
        requestor["network"] = {"address": entry.network_address, "type": "2"}
    if is_disclosure(entry):
        requestor["who"]["identifier"]["value"] = recipient_of(entry)
        return [_typed(own, DCM_SYSTEM, SOURCE), _typed(requestor, DCM_SYSTEM, DESTINATION)]
    if entry.event_type == EventType.DECIDE:
        reader = str(entry.detail.get("reader") or entry.actor)
        user = {"who": {"identifier": {"system": OWN_SYSTEM, "value": reader}}, "requestor": True, "purposeOfUse": _TREATMENT}
        if entry.network_address:
            user["network"] = requestor["network"]
        return [_typed(own, DCM_SYSTEM, APPLICATION), _typed(user, _PARTICIPATION, ("IRCP", "information recipient"))]
    return [requestor, _typed(own, DCM_SYSTEM, APPLICATION)]


def _entities(entry: AuditEntry, patient_pseudonym: str | None) -> list[dict[str, Any]]:
    entities: list[dict[str, Any]] = []
    if patient_pseudonym is not None:
        entities.append(_entity("1", "Person", "1", "Patient", f"{entry.hospital_id or ''}/{patient_pseudonym}"))
    if entry.study_instance_uid is not None:
        study = _entity("2", "System Object", "3", "Report", f"urn:oid:{entry.study_instance_uid}")
        study["what"]["identifier"]["system"] = "urn:dicom:uid"
        entities.append(study)
    if entry.event_type == EventType.DECIDE and patient_pseudonym is not None:
        consent = _entity("2", "System Object", "4", "Domain Resource", f"consent/{entry.hospital_id or ''}/{patient_pseudonym}")
        entities.append(consent | {"what": {**consent["what"], "type": "Consent"}})
    if entry.decision_digest is not None:
        entities.append(_entity("2", "System Object", "13", "Security Resource", entry.decision_digest))
    record = _entity("2", "System Object", "13", "Security Resource", f"entry/{entry.entry_index}")
    details = {"leaf": entry.leaf_hash, "object": entry.object_id or "", "detail": canonical_json(entry.detail).decode()}
    record["detail"] = [{"type": kind, "valueString": value} for kind, value in details.items() if value]
    return [*entities, record]


def _own_type(entry: AuditEntry) -> dict[str, str]:
    code, scheme, meaning = type_coding(entry.event_type)
    return _coding(DCM_SYSTEM if scheme == "DCM" else OWN_SYSTEM, code, meaning)


def _typed(agent: dict[str, Any], system: str, role: tuple[str, str]) -> dict[str, Any]:
    return {"type": {"coding": [_coding(system, *role)]}, **agent}


def _entity(kind: str, meaning: str, role: str, role_meaning: str, value: str) -> dict[str, Any]:
    return {
        "what": {"identifier": {"system": OWN_SYSTEM, "value": value}},
        "type": _coding(_ENTITY, kind, meaning),
        "role": _coding(_OBJECT_ROLE, role, role_meaning),
    }


def _coding(system: str, code: str, display: str) -> dict[str, str]:
    return {"system": system, "code": str(code), "display": display}
