"""What an entry of the log says, in words: the names of its details, and where each thing it names is found.

A detail without a word here is shown under its own name: a missing word hides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from compliance.audit import AuditEntry, EventType
from gateway.reason_words import held_words, reason_sentence, refusal_sentence

_NAMES: Mapping[str, str] = {
    "act": "What",
    "action": "Asked",
    "active": "May log in",
    "ae_title": "AE title",
    "amendment": "Addition number",
    "attempts": "Attempts",
    "before": "Readers before",
    "bytes": "Bytes",
    "can_consent": "Can consent",
    "certificate": "Certificate (SHA-256)",
    "checkpoints": "Checkpoints",
    "completed": "After the report",
    "consent": "Consent",
    "count": "How many",
    "credential": "Credential",
    "declared_country": "Said to sit in",
    "device_enrolled": "Device enrolled",
    "document": "Document (digest)",
    "eligible": "Readers who may read it",
    "employer": "Firm",
    "entry": "Entry",
    "evidence": "Evidence",
    "filters": "Filtered by",
    "findings": "Findings",
    "held": "Images held back",
    "hospital": "Hospital",
    "how": "How",
    "instances": "Images",
    "kind": "Kind",
    "law": "Law",
    "locked": "Locked",
    "manifest": "Manifest (digest)",
    "network": "Network",
    "opened": "Identities opened",
    "outcome": "Outcome",
    "parties": "Parties",
    "patient": "Patient",
    "plaintext": "Without TLS",
    "principal": "Person",
    "prior": "A prior",
    "priors": "Priors shown",
    "purpose": "What for",
    "reader": "Reader",
    "readers": "Readers",
    "reason": "Reason",
    "reasons": "Reasons",
    "refused": "Refused",
    "reminders": "Reminders",
    "role": "Role",
    "root": "Tree head",
    "rows": "Credentials changed",
    "scopes": "May",
    "sha256": "SHA-256",
    "size": "Entries",
    "slots_left": "Devices that may still enrol",
    "state": "State",
    "status": "Status",
    "subjects": "About",
    "target": "Destination",
    "tls": "With TLS",
    "token": "Token",
    "type": "Type",
    "us_person": "A US person",
    "verdict": "Verdict",
    "version": "Version",
    "withdrawn": "Withdrawn",
}
_ACTIONS = {
    "ROUTE": "to be offered the study",
    "VIEW": "to open it",
    "SIGN_PRELIMINARY": "to sign a preliminary report",
    "SIGN_FINAL": "to sign a final report",
    "STORE": "to keep it",
    "DELIVER": "to have the report delivered",
}
_SHORT = 48
#: Shown in a column of their own.
_ELSEWHERE = ("refused", "reason", "reasons")
_OBJECTS = {
    "quarantine": "quarantine item",
    "received": "received study",
    "evidence": "evidence",
    "privacy-review": "review",
    "emergency-access": "emergency access",
    "patient-status": "statement about the patient",
    "law": "law",
    "token": "token",
    "report": "report",
    "received-instance": "received image",
    "reminder": "reminder",
    "entry": "entry",
    "address": "address",
    "device": "device",
    "hospital-mask": "device mask",
}


def details_of(entry: AuditEntry) -> tuple[tuple[str, str], ...]:
    """(name, words) of everything the entry says, in words and whole."""
    return tuple(
        (name_words(name), value_words(entry.event_type, name, value)) for name, value in sorted(entry.detail.items()) if _is_said(value)
    )


def subject_words(entry: AuditEntry) -> str:
    """What was acted on and how, for a line of a list."""
    if entry.event_type == EventType.REIDENTIFY:
        count = entry.detail.get("opened", 1)
        return f"{count} {'identity' if count == 1 else 'identities'}, {entry.detail.get('purpose', '')}"
    if entry.event_type == EventType.DECIDE:
        action = str(entry.detail.get("action", ""))
        return f"{entry.detail.get('reader', '')} asked {_ACTIONS.get(action, action)}".strip()
    said = {name: value for name, value in entry.detail.items() if _is_said(value) and value is not False and name not in _ELSEWHERE}
    words = ", ".join(
        f"{_lowered(name_words(name))} {_short(value_words(entry.event_type, name, value))}" for name, value in sorted(said.items())
    )
    return "; ".join(part for part in (object_words(entry.object_id or ""), words) if part)


def object_words(object_id: str) -> str:
    """ "quarantine item 7", "procedure step 2.25…" """
    kind, _, name = object_id.partition("/")
    if name and kind in _OBJECTS:
        return f"{_OBJECTS[kind]} {_short(name)}"
    return _short(object_id)


def name_words(name: str) -> str:
    return _NAMES.get(name, name.replace("_", " ").capitalize())


def value_words(event_type: str, name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(value_words(event_type, name, one) for one in value) if name == "reasons" else ", ".join(str(one) for one in value)
    if name in ("reasons", "refused", "reason") and isinstance(value, str) and value:
        if event_type == EventType.QUARANTINE:
            return f"{held_words(value)[0].partition('.')[0]} ({value})"
        return f"{(refusal_sentence(value) or reason_sentence(value)).rstrip('.')} ({value})"
    if name == "action":
        return _ACTIONS.get(str(value), str(value))
    if isinstance(value, str) and value.isupper() and value.isascii() and "_" in value:
        return value.replace("_", " ").lower()
    return str(value)


def links_of(entry: AuditEntry) -> tuple[tuple[str, str], ...]:
    """(words, address) of everything else the log holds about what this entry names."""
    found = []
    if entry.study_instance_uid:
        found.append(("Everything about this study", _search(entry.study_instance_uid)))
    if entry.object_id:
        found.append((f"Everything about {object_words(entry.object_id)}", _search(entry.object_id)))
    if entry.detail.get("patient"):
        found.append(("Everything about this patient", _search(str(entry.detail["patient"]))))
    return tuple(found)


def _search(text: str) -> str:
    return f"/privacy?{urlencode({'q': text})}"


def _is_said(value: Any) -> bool:
    return value not in ("", None, []) and not (value == 0 and not isinstance(value, bool))


def _lowered(words: str) -> str:
    return words if words[1:2].isupper() else words[:1].lower() + words[1:]


def _short(text: str) -> str:
    return text if len(text) <= _SHORT else text[: _SHORT - 3] + "..."
