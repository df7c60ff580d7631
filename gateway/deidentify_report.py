"""What one run of `readgate deidentify` says of itself: how many passed, what did not and why; source names, no value out of a file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from compliance.deid_profile import DeidProfile
from crypto.errors import RefusedContent

REPORT_FORMAT = "readgate-deidentify-report/1"
#: Files that the report names as quarantined; of more it says how many.
_LISTED_MAX = 100_000


@dataclass
class Outcome:
    passed: int = 0
    quarantined: list[dict[str, str]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    actions: Counter[str] = field(default_factory=Counter)

    def refuse(self, name: str, refused: RefusedContent) -> None:
        """The file stays behind for this reason."""
        self.reasons[refused.reason_code] += 1
        if len(self.quarantined) < _LISTED_MAX:
            # A name on a disk or in an archive is any bytes; a report is UTF-8.
            readable = name.encode("utf-8", "backslashreplace").decode()
            entry = {"source": readable, "reason": refused.reason_code, "detail": refused.detail}
            self.quarantined.append(entry | ({"tag": refused.tag} if refused.tag else {}))

    def report(self, profile: DeidProfile, table_edition: str) -> dict[str, Any]:
        """All of it, as JSON can hold it."""
        unlisted = sum(self.reasons.values()) - len(self.quarantined)
        return {
            "format": REPORT_FORMAT,
            "profile": {"name": profile.name, "options": sorted(profile.options)},
            "table_edition": table_edition,
            "passed": self.passed,
            "quarantined": self.quarantined,
            **({"quarantined_unlisted": unlisted} if unlisted else {}),
            "reasons": dict(self.reasons),
            "actions": dict(sorted(self.actions.items())),
        }
