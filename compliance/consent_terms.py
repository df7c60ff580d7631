"""To whom, for what and until when a patient's consent extends: nested provisions, asked about one read.

Pure. Terms are a JSON object, made by consent_fhir.py:

    {"type": "permit" | "deny", "start", "end": instant or absent,
     "actors": [{"kind": "reader" | "employer", "id"}], "purposes": [...], "actions": [...],
     "classes": [{"kind": "modality" | "sop_class", "code"}], "countries": [...], "exceptions": [terms, ...]}

- A provision without a list says nothing about it, and so covers all of it.
- A permission holds only for what it covers whole; a denial holds as soon as it touches anything of what is asked.
- An exception is narrower than what it is an exception of, and wins over it; of several that apply, a denial wins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

PERMIT = "permit"
DENY = "deny"
#: consentaction codes that reading a study is: the hospital discloses, the reader accesses.
_READING = frozenset({"access", "disclose"})


@dataclass(frozen=True)
class ConsentQuestion:
    """One read as a consent sees it. `places` are countries (ISO 3166-1) where the reader and the employer are."""

    reader_id: str
    employer_id: str
    purpose: str
    modality: str
    sop_classes: frozenset[str]
    places: frozenset[str]


@dataclass(frozen=True)
class Standing:
    """What the terms say now, and until when they go on saying it (None: for ever)."""

    #: PERMIT, DENY, or None where they do not speak of this read.
    verdict: str | None
    until: datetime | None


def standing_of(terms: Mapping[str, Any], question: ConsentQuestion, at: datetime) -> Standing:
    """What `terms` say of `question` at `at`."""
    verdict = _verdict(terms, question, at)
    until = next((edge for edge in sorted(set(_edges(terms))) if edge > at and _verdict(terms, question, edge) != verdict), None)
    return Standing(verdict, until)


def _verdict(terms: Mapping[str, Any], question: ConsentQuestion, at: datetime) -> str | None:
    if not _applies(terms, question, at):
        return None
    verdicts = {_verdict(exception, question, at) for exception in terms.get("exceptions", ())}
    if DENY in verdicts:
        return DENY
    return PERMIT if PERMIT in verdicts else str(terms["type"])


def _applies(terms: Mapping[str, Any], question: ConsentQuestion, at: datetime) -> bool:
    is_denial = terms["type"] == DENY
    start, end = _instant(terms, "start"), _instant(terms, "end")
    if (start is not None and at < start) or (end is not None and at >= end):
        return False
    who = {("reader", question.reader_id), ("employer", question.employer_id)}
    if "actors" in terms and not who & {(actor["kind"], actor["id"]) for actor in terms["actors"]}:
        return False
    if "purposes" in terms and question.purpose not in terms["purposes"]:
        return False
    if "actions" in terms and not _READING & set(terms["actions"]):
        return False
    if "countries" in terms:
        inside = question.places & set(terms["countries"])
        if not (inside if is_denial else question.places and inside == question.places):
            return False
    if "classes" not in terms:
        return True
    codes = {(one["kind"], one["code"]) for one in terms["classes"]}
    if ("modality", question.modality) in codes:
        return True
    covered = {uid for uid in question.sop_classes if ("sop_class", uid) in codes}
    return bool(covered) if is_denial else bool(question.sop_classes) and covered == question.sop_classes


def _edges(terms: Mapping[str, Any]) -> Iterator[datetime]:
    """Every instant at which a provision begins or ends."""
    for name in ("start", "end"):
        if (edge := _instant(terms, name)) is not None:
            yield edge
    for exception in terms.get("exceptions", ()):
        yield from _edges(exception)


def _instant(terms: Mapping[str, Any], name: str) -> datetime | None:
    written = terms.get(name)
    return datetime.fromisoformat(written) if written is not None else None
