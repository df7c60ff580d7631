"""The canonical pseudonymous report: what the reader signs.

- It names the patient, the study and the order only by pseudonyms.
- `study_manifest_digest` is inside it, so that a signature over the report is a signature over what was read.
- Its bytes are canonical JSON (RFC 8785): equal reports have equal bytes, and `digest` is the name of a report everywhere.
- A `ReportContent` that exists is valid: the constructor refuses everything else.
- An addendum or correction names the report before it by digest; that a preliminary report never follows a final
  one is the rule of the caller, who knows the chain.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from crypto.canonical import canonical_json, digest
from crypto.errors import RefusedContent
from reporting.text_rules import MALFORMED, MISSING, require_digest, require_language, require_text, require_uid

FORMAT = "readgate-report/1"
SECTION_CHARACTERS_MAX = 32_768
NAME_CHARACTERS_MAX = 256
#: An envelope, or the list of ten thousand instances beside it; what is larger is not parsed.
JSON_BYTES_MAX = 16 * 1024 * 1024

PREDECESSOR_MISSING = "predecessor-missing"

#: The sections in the order in which every rendering shows them.
SECTIONS = ("indication", "technique", "comparison", "findings", "impression")
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


class ReportKind(StrEnum):
    """Where a report stands in the chain of reports on one study."""

    PRELIMINARY = "PRELIMINARY"
    FINAL = "FINAL"
    ADDENDUM = "ADDENDUM"
    CORRECTION = "CORRECTION"


class SignatureMeaning(StrEnum):
    """What the reader declares by signing (21 CFR 11.50(a)(3))."""

    AUTHORED = "AUTHORED"
    REVIEWED = "REVIEWED"
    APPROVED = "APPROVED"


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningReader:
    """Who signs: the exchange's identifier, the name as printed, the qualification as printed (may be empty)."""

    id: str
    display_name: str
    qualification: str = ""

    def __post_init__(self) -> None:
        require_text("reader.id", self.id, characters_max=NAME_CHARACTERS_MAX)
        require_text("reader.display_name", self.display_name, characters_max=NAME_CHARACTERS_MAX)
        require_text("reader.qualification", self.qualification, characters_max=NAME_CHARACTERS_MAX, empty=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticalResult:
    """A finding that somebody had to be told at once; `communicated_at` is None as long as nobody has been."""

    statement: str
    communicated_to: str = ""
    communicated_at: datetime | None = None

    def __post_init__(self) -> None:
        require_text("critical_result.statement", self.statement, characters_max=SECTION_CHARACTERS_MAX, lines=True)
        require_text("critical_result.communicated_to", self.communicated_to, characters_max=NAME_CHARACTERS_MAX, empty=True)
        if self.communicated_at is not None:
            _require_instant("critical_result.communicated_at", self.communicated_at)
        if (self.communicated_at is None) != (not self.communicated_to):
            raise RefusedContent(MISSING, "critical_result.communicated_to and communicated_at are given together")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportContent:
    """One report, complete and valid; see the module for what holds of it."""

    report_uid: str
    kind: ReportKind
    predecessor_digest: str | None
    study_instance_uid: str
    patient_pseudonym: str
    accession_pseudonym: str
    study_manifest_digest: str
    indication: str = ""
    technique: str = ""
    comparison: str = ""
    findings: str = ""
    impression: str = ""
    critical_result: CriticalResult | None = None
    language: str = "en"
    reader: SigningReader
    decision_digest: str
    signed_at: datetime
    meaning: SignatureMeaning = SignatureMeaning.AUTHORED

    def __post_init__(self) -> None:
        require_uid("report_uid", self.report_uid)
        require_uid("study_instance_uid", self.study_instance_uid)
        require_text("patient_pseudonym", self.patient_pseudonym, characters_max=64)
        require_text("accession_pseudonym", self.accession_pseudonym, characters_max=64, empty=True)
        require_digest("study_manifest_digest", self.study_manifest_digest)
        require_digest("decision_digest", self.decision_digest)
        require_language("language", self.language)
        _require_instant("signed_at", self.signed_at)
        if not isinstance(self.kind, ReportKind) or not isinstance(self.meaning, SignatureMeaning):
            raise RefusedContent(MALFORMED, "kind or meaning")
        for name in SECTIONS:
            require_text(name, getattr(self, name), characters_max=SECTION_CHARACTERS_MAX, lines=True, empty=True)
        self._require_what_the_kind_needs()

    def _require_what_the_kind_needs(self) -> None:
        """A final text needs findings and impression; an addendum needs either; what follows a report says which."""
        if self.predecessor_digest is not None:
            require_digest("predecessor_digest", self.predecessor_digest)
        elif self.kind in (ReportKind.ADDENDUM, ReportKind.CORRECTION):
            raise RefusedContent(PREDECESSOR_MISSING, self.kind.value)
        required = ("findings", "impression") if self.kind in (ReportKind.FINAL, ReportKind.CORRECTION) else ()
        for name in required:
            if not getattr(self, name):
                raise RefusedContent(MISSING, name)
        if not (self.findings or self.impression):
            raise RefusedContent(MISSING, "findings or impression")

    def sections(self) -> list[tuple[str, str]]:
        """The sections that have text, (field name, text), in the order of display."""
        return [(name, text) for name in SECTIONS if (text := getattr(self, name))]

    def document(self) -> dict[str, Any]:
        """The JSON object whose canonical bytes are signed."""
        critical = self.critical_result
        return {
            "format": FORMAT,
            "report_uid": self.report_uid,
            "kind": self.kind.value,
            "predecessor_digest": self.predecessor_digest,
            "study_instance_uid": self.study_instance_uid,
            "patient_pseudonym": self.patient_pseudonym,
            "accession_pseudonym": self.accession_pseudonym,
            "study_manifest_digest": self.study_manifest_digest,
            **{name: getattr(self, name) for name in SECTIONS},
            "critical_result": critical
            and {
                "statement": critical.statement,
                "communicated_to": critical.communicated_to,
                "communicated_at": critical.communicated_at and instant_text(critical.communicated_at),
            },
            "language": self.language,
            "reader": {"id": self.reader.id, "display_name": self.reader.display_name, "qualification": self.reader.qualification},
            "decision_digest": self.decision_digest,
            "signed_at": instant_text(self.signed_at),
            "meaning": self.meaning.value,
        }

    def to_bytes(self) -> bytes:
        """The canonical JSON (RFC 8785) of this report."""
        return canonical_json(self.document())

    def digest(self) -> str:
        """`sha256:<hex>` of the canonical bytes: the name under which a successor refers to this report."""
        return digest(self.document())


def content_from_document(document: object) -> ReportContent:
    """The report of a parsed JSON object.

    Raises:
        RefusedContent: a field is missing, unknown, of the wrong type or not acceptable.
    """
    if not isinstance(document, Mapping) or document.get("format") != FORMAT:
        raise RefusedContent(MALFORMED, f"the report is not of the format {FORMAT}")
    fields = {name: value for name, value in document.items() if name != "format"}
    if set(fields) != set(ReportContent.__dataclass_fields__):
        raise RefusedContent(MALFORMED, "the report lacks a field, or has one that the format does not know")
    reader, critical = fields["reader"], fields["critical_result"]
    if not isinstance(reader, Mapping) or set(reader) != {"id", "display_name", "qualification"}:
        raise RefusedContent(MALFORMED, "reader")
    if critical is not None and (not isinstance(critical, Mapping) or set(critical) != {"statement", "communicated_to", "communicated_at"}):
        raise RefusedContent(MALFORMED, "critical_result")
    try:
        fields["kind"] = ReportKind(fields["kind"])
        fields["meaning"] = SignatureMeaning(fields["meaning"])
    except ValueError:
        raise RefusedContent(MALFORMED, "kind or meaning") from None
    fields["signed_at"] = parse_instant("signed_at", fields["signed_at"])
    fields["reader"] = SigningReader(**reader)
    if critical is not None:
        told_at = critical["communicated_at"]
        fields["critical_result"] = CriticalResult(
            statement=critical["statement"],
            communicated_to=critical["communicated_to"],
            communicated_at=None if told_at is None else parse_instant("critical_result.communicated_at", told_at),
        )
    return ReportContent(**fields)


def content_from_bytes(payload: bytes) -> ReportContent:
    """The report of its canonical bytes; other spellings of the same JSON are refused, since their digest would differ.

    Raises:
        RefusedContent: not JSON, not canonical, or not an acceptable report.
    """
    content = content_from_document(parse_json(payload))
    if content.to_bytes() != payload:
        raise RefusedContent(MALFORMED, "the report's JSON is not canonical (RFC 8785)")
    return content


def parse_json(payload: bytes) -> Any:
    """The JSON value of at most JSON_BYTES_MAX bytes of UTF-8, without repeated names.

    Raises:
        RefusedContent: too large, not UTF-8, not JSON, a name twice, or nested deeper than any format of ours.
    """
    if len(payload) > JSON_BYTES_MAX:
        raise RefusedContent(MALFORMED, f"{len(payload)} bytes of JSON, at most {JSON_BYTES_MAX} are read")
    try:
        return json.loads(payload.decode("utf-8"), object_pairs_hook=_unique_names)
    except (ValueError, RecursionError):
        raise RefusedContent(MALFORMED, "not JSON in UTF-8 with unique names") from None


def instant_text(instant: datetime) -> str:
    """An aware instant in UTC, always with microseconds, so that equal instants have equal text."""
    return instant.astimezone(UTC).strftime(_TIME)


def parse_instant(name: str, text: object) -> datetime:
    """The inverse of `instant_text`.

    Raises:
        RefusedContent: any other spelling.
    """
    try:
        instant = datetime.strptime(text, _TIME).replace(tzinfo=UTC) if isinstance(text, str) else None
    except ValueError:
        instant = None
    if instant is None or instant_text(instant) != text:
        raise RefusedContent(MALFORMED, f"{name} is not an instant of the form YYYY-MM-DDTHH:MM:SS.ffffffZ")
    return instant


def _require_instant(name: str, instant: object) -> None:
    if not isinstance(instant, datetime) or instant.utcoffset() is None or instant.year < 1900:
        raise RefusedContent(MALFORMED, f"{name} is not an aware instant")


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError("repeated name")
    return names
