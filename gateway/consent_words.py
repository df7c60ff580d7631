"""To whom, for what and until when a consent extends, in sentences: what consent_terms.py decides by, for a person to check."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from pydicom.uid import UID

from compliance.consent_terms import DENY
from gateway.web.contexts_registers import Term
from gateway.web.rendering import instant

_PURPOSES = {
    "TREAT": "treatment",
    "ETREAT": "emergency treatment",
    "BTG": "break-glass",
    "HPAYMT": "payment",
    "HOPERAT": "operations",
    "HRESCH": "research",
    "PATRQT": "the patient's own request",
    "PUBHLTH": "public health",
}


def terms_words(terms: Mapping[str, Any] | None) -> tuple[Term, ...]:
    """The provisions, each before its exceptions."""
    return (Term(0, "Permitted: every read."),) if terms is None else tuple(_provisions(terms, 0))


def extent_words(terms: Mapping[str, Any] | None) -> str:
    """In a word or two, for a list."""
    if terms is None:
        return "every read"
    exceptions = len(terms.get("exceptions", ()))
    own = "limited" if set(terms) - {"type", "exceptions"} else "no read" if terms["type"] == DENY else "every read"
    return f"{own}, {exceptions} {'exception' if exceptions == 1 else 'exceptions'}" if exceptions else own


def _provisions(terms: Mapping[str, Any], depth: int) -> Iterator[Term]:
    yield Term(depth, f"{'Denied' if terms['type'] == DENY else 'Permitted'}: {_what(terms)}.")
    for exception in terms.get("exceptions", ()):
        yield from _provisions(exception, depth + 1)


def _what(terms: Mapping[str, Any]) -> str:
    parts = []
    if "actors" in terms:
        parts.append("by " + " or ".join(f"{'reader' if one['kind'] == 'reader' else 'firm'} {one['id']}" for one in terms["actors"]))
    if "countries" in terms:
        parts.append("in " + " or ".join(terms["countries"]))
    if "purposes" in terms:
        parts.append("for " + " or ".join(_PURPOSES.get(code, code) for code in terms["purposes"]))
    if "actions" in terms:
        parts.append("to " + " or ".join(terms["actions"]))
    if "classes" in terms:
        parts.append("of " + " or ".join(one["code"] if one["kind"] == "modality" else UID(one["code"]).name for one in terms["classes"]))
    if "start" in terms:
        parts.append(f"from {instant(datetime.fromisoformat(terms['start']))}")
    if "end" in terms:
        # The terms hold the first instant at which it is over; people say the last one at which it holds.
        parts.append(f"until {instant(datetime.fromisoformat(terms['end']) - timedelta(seconds=1))}")
    return "every read" if not parts else "reads " + ", ".join(parts)
