"""An audit entry as an audit message of DICOM PS3.15 A.5 (the RFC 3881 successor that IHE ATNA sends).

One message per entry. Everything in it is pseudonymous: the patient is the pseudonym, the study its pseudonymous UID, and
`Anonymized` says so of the data. Codes are those of PS3.15 A.5.3 and CID 400 to 405; acts without a code there stand under 99READGATE.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, tostring

from compliance.audit import AuditEntry, EventId, EventType, instant_text
from crypto.canonical import canonical_json

DCM, OWN = "DCM", "99READGATE"
#: PS3.16 CID 400 Audit Event ID.
EVENT_MEANINGS = {
    EventId.APPLICATION_ACTIVITY: "Application Activity",
    EventId.AUDIT_LOG_USED: "Audit Log Used",
    EventId.BEGIN_TRANSFERRING: "Begin Transferring DICOM Instances",
    EventId.INSTANCES_ACCESSED: "DICOM Instances Accessed",
    EventId.INSTANCES_TRANSFERRED: "DICOM Instances Transferred",
    EventId.STUDY_DELETED: "DICOM Study Deleted",
    EventId.EXPORT: "Export",
    EventId.IMPORT: "Import",
    EventId.NETWORK_ENTRY: "Network Entry",
    EventId.ORDER_RECORD: "Order Record",
    EventId.PATIENT_RECORD: "Patient Record",
    EventId.PROCEDURE_RECORD: "Procedure Record",
    EventId.QUERY: "Query",
    EventId.SECURITY_ALERT: "Security Alert",
    EventId.USER_AUTHENTICATION: "User Authentication",
}
#: PS3.16 CID 401 Audit Event Type Code.
TYPE_MEANINGS = {
    EventType.APPLICATION_START: "Application Start",
    EventType.APPLICATION_STOP: "Application Stop",
    EventType.LOGIN: "Login",
    EventType.LOGOUT: "Logout",
    EventType.ATTACH: "Attach",
    EventType.NODE_AUTHENTICATION: "Node Authentication",
    EventType.EMERGENCY_OVERRIDE_STARTED: "Emergency Override Started",
    EventType.EMERGENCY_OVERRIDE_STOPPED: "Emergency Override Stopped",
    EventType.NETWORK_CONFIGURATION: "Network Configuration",
    EventType.SECURITY_CONFIGURATION: "Security Configuration",
    EventType.RESTRICTED_FUNCTION: "Use of Restricted Function",
    EventType.USER_SECURITY_CHANGED: "User Security Attributes Changed",
}
#: CID 402 Audit Active Participant Role ID Code.
APPLICATION, DESTINATION, SOURCE = ("110150", "Application"), ("110152", "Destination Role ID"), ("110153", "Source Role ID")
#: Acts by which data of a patient leave for somebody: source and destination are both named.
_DISCLOSING = (EventType.OPEN, EventType.DELIVER)


@dataclass(frozen=True)
class AuditSource:
    """Who reports: the deployment (AuditSourceID) and its site (AuditEnterpriseSiteID)."""

    source_id: str
    site: str = ""


def audit_message(entry: AuditEntry, source: AuditSource, *, patient_pseudonym: str | None = None) -> bytes:
    """The entry as XML in UTF-8 on one line, without a declaration. It goes into a syslog message or a file as it is."""
    message = Element("AuditMessage")
    _event(message, entry)
    _participants(message, entry, source)
    identification = SubElement(message, "AuditSourceIdentification", {"AuditSourceID": source.source_id})
    if source.site:
        identification.set("AuditEnterpriseSiteID", source.site)
    # 4: application server (PS3.15 A.5.2, AuditSourceTypeCode of RFC 3881).
    SubElement(identification, "AuditSourceTypeCode", {"csd-code": "4"})
    if entry.study_instance_uid is not None:
        _study(message, entry)
    if patient_pseudonym is not None:
        _object(message, patient_pseudonym, ("1", "1"), ("2", "RFC-3881", "Patient Number"))
    _record(message, entry)
    return str(tostring(message, encoding="unicode")).encode()


def type_coding(event_type: str) -> tuple[str, str, str]:
    """(code, scheme, meaning) of an event type; Readgate's own acts are their own words."""
    meaning = TYPE_MEANINGS.get(EventType(event_type)) if event_type in set(EventType) else None
    if meaning is not None:
        return event_type, DCM, meaning
    return event_type, OWN, event_type.removeprefix("RG_").replace("_", " ").capitalize()


def is_disclosure(entry: AuditEntry) -> bool:
    """Whether data of a patient were shown or sent to somebody by this act."""
    return entry.event_type in _DISCLOSING and entry.outcome == "0" and entry.study_instance_uid is not None


def recipient_of(entry: AuditEntry) -> str:
    """Who received what `entry` disclosed: the hospital of a delivery, else whoever acted."""
    return f"hospital/{entry.hospital_id}" if entry.event_type == EventType.DELIVER else entry.actor


def _event(message: Element, entry: AuditEntry) -> None:
    event = SubElement(
        message,
        "EventIdentification",
        {
            "EventActionCode": entry.action,
            "EventDateTime": instant_text(entry.recorded_at),
            "EventOutcomeIndicator": entry.outcome,
        },
    )
    _code(event, "EventID", entry.event_id, DCM, EVENT_MEANINGS[EventId(entry.event_id)])
    _code(event, "EventTypeCode", *type_coding(entry.event_type))
    reason = entry.detail.get("reason") or entry.detail.get("refused")
    if entry.outcome != "0" and isinstance(reason, str) and reason:
        SubElement(event, "EventOutcomeDescription").text = reason


def _participants(message: Element, entry: AuditEntry, source: AuditSource) -> None:
    # Readgate's own acts are named readgate/<what>; a person is a name, or cli/<account>.
    is_person = not entry.actor.startswith("readgate/")
    actor = {"UserID": recipient_of(entry) if is_disclosure(entry) else entry.actor, "UserIsRequestor": "true"}
    if entry.network_address:
        # 2: an IP address (PS3.15 A.5.2 NetworkAccessPointTypeCode).
        actor |= {"NetworkAccessPointID": entry.network_address, "NetworkAccessPointTypeCode": "2"}
    requestor = SubElement(message, "ActiveParticipant", actor)
    if is_disclosure(entry):
        _code(requestor, "RoleIDCode", DESTINATION[0], DCM, DESTINATION[1])
        own = SubElement(message, "ActiveParticipant", {"UserID": source.source_id, "UserIsRequestor": "false"})
        _code(own, "RoleIDCode", SOURCE[0], DCM, SOURCE[1])
    elif not is_person:
        _code(requestor, "RoleIDCode", APPLICATION[0], DCM, APPLICATION[1])
    else:
        own = SubElement(message, "ActiveParticipant", {"UserID": source.source_id, "UserIsRequestor": "false"})
        _code(own, "RoleIDCode", APPLICATION[0], DCM, APPLICATION[1])


def _study(message: Element, entry: AuditEntry) -> None:
    study = _object(message, entry.study_instance_uid or "", ("2", "3"), ("110180", DCM, "Study Instance UID"))
    description = SubElement(study, "ParticipantObjectDescription")
    # What readers see is pseudonymous and rests encrypted: PS3.15 A.5.1 has an element for each.
    SubElement(description, "Encrypted").text = "true"
    SubElement(description, "Anonymized").text = "true"


def _record(message: Element, entry: AuditEntry) -> None:
    """The entry itself: its number in the tree, its leaf, and what else it says, so that a message can be proved against a checkpoint."""
    record = _object(message, f"{entry.entry_index}", ("2", "13"), ("LEAF", OWN, "Audit log entry"), entry.object_id or entry.leaf_hash)
    details = {
        "leaf": entry.leaf_hash,
        "hospital": entry.hospital_id or "",
        "decision": entry.decision_digest or "",
        "detail": canonical_json(entry.detail).decode(),
    }
    for kind, value in details.items():
        if value:
            SubElement(record, "ParticipantObjectDetail", {"type": kind, "value": base64.b64encode(value.encode()).decode()})


def _object(message: Element, object_id: str, kind: tuple[str, str], id_type: tuple[str, str, str], name: str = "") -> Element:
    made = SubElement(
        message,
        "ParticipantObjectIdentification",
        {"ParticipantObjectID": object_id, "ParticipantObjectTypeCode": kind[0], "ParticipantObjectTypeCodeRole": kind[1]},
    )
    _code(made, "ParticipantObjectIDTypeCode", *id_type)
    SubElement(made, "ParticipantObjectName").text = name or object_id
    return made


def _code(parent: Element, name: str, code: str, scheme: str, meaning: str) -> None:
    SubElement(parent, name, {"csd-code": code, "codeSystemName": scheme, "originalText": meaning})
