"""The record of one decision: everything it was made of, in canonical form, so that it can be made again years later.

The digest is the SHA-256 of the record's canonical JSON (RFC 8785); the document is the record and its digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from compliance.facts_schema import Facts, instant_text
from compliance.gates import Gate
from compliance.requirement import Relied
from crypto.canonical import canonical_json
from crypto.errors import BadInput

RECORD_FORMAT = "readgate-decision-1"
_DEFAULT_SOURCES = {"*": "request"}


def record_bytes(record: Mapping[str, Any], has_float: bool) -> bytes:
    """The canonical JSON of `record`.

    The keys of a record are ASCII and its leaves text, whole numbers, booleans and null, and for these the C encoder of the
    standard library writes exactly RFC 8785, several times faster; a test holds the two against each other. A fraction goes the long way.

    Raises:
        BadInput: text that is no Unicode (a lone surrogate).
    """
    if has_float:
        return canonical_json(record)
    try:
        return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False, check_circular=False).encode()
    except UnicodeEncodeError:
        raise BadInput("the facts hold text that is no Unicode") from None


def digest_of(encoded: bytes) -> str:
    """'sha256:' and the hex digest of `encoded`."""
    return "sha256:" + hashlib.sha256(encoded).hexdigest()


def gate_record(gate: Gate) -> dict[str, Any]:
    """One gate as the record holds it: order of discovery does not show."""
    return {
        "gate": gate.name,
        "outcome": gate.outcome,
        "reasons": sorted(gate.reasons),
        "rules": sorted(
            (
                {"rule": rule.id, "result": result, "status": "CONFIRMED" if rule.is_confirmed else "DRAFT", "source": rule.source}
                for rule, result in gate.rules
            ),
            key=lambda row: (row["rule"], row["result"]),
        ),
        "relied_on": [
            {"name": name, "until": until}
            for name, until in sorted({(item.name, _until_text(item)) for item in gate.relied}, key=lambda pair: (pair[0], pair[1] or ""))
        ],
    }


def facts_record(facts: Facts) -> dict[str, Any]:
    """The facts in normal form, each with its source: the longest name in `sources` that it starts with, or "*"."""
    return {**facts.document, "sources": {**_DEFAULT_SOURCES, **facts.document.get("sources", {})}}


def _until_text(item: Relied) -> str | None:
    return instant_text(item.until) if item.until is not None else None
