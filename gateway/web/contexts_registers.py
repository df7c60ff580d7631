"""What the pages of single entries of the registers are given; the rules of contexts.py hold here too. Pseudonyms only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from gateway.web.contexts import Shell, Tone


@dataclass(frozen=True)
class ConsentImportPage:
    """consent_import.html.j2; posts to itself as multipart/form-data: csrf_token, document (text) or file."""

    shell: Shell


@dataclass(frozen=True)
class Term:
    """One provision of a consent in a sentence; `depth` 0 is the base rule, 1 an exception of it, and so on."""

    depth: int
    text: str


@dataclass(frozen=True)
class ConsentPage:
    """consent.html.j2; GET /consents/{key}. POST .../withdraw (form: csrf_token, reason). GET .../fhir is the same as FHIR JSON."""

    shell: Shell
    consent_key: str
    pseudonym: str
    hospital_name: str
    kind: str
    status: str
    tone: Tone
    version: int
    is_newest: bool
    given_at: datetime | None
    withdrawn_at: datetime | None
    expires_at: datetime | None
    recorded_at: datetime
    document_digest: str
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class LogEntryPage:
    """log_entry.html.j2; GET /privacy/entries/{index}. POST .../open (form: csrf_token, reason) shows once what is sealed."""

    shell: Shell
    index: int
    event: str
    outcome: str
    tone: Tone
    at: datetime
    who: str
    address: str
    hospital_id: str
    pseudonym: str
    study_instance_uid: str
    about: str  # the object acted on, in words
    object_id: str
    details: tuple[tuple[str, str], ...]
    links: tuple[tuple[str, str], ...]
    decision_digest: str
    leaf_hash: str
    is_sealed: bool
    text: str | None = None  # what was written; None while it stays sealed
