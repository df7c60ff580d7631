"""Jurisdictions: ISO 3166 codes, the patterns rules name them by, and sets of them whose membership has dates.

- A code is `CC` (ISO 3166-1 alpha-2) or `CC-SUB` (ISO 3166-2); `CC` is the parent of `CC-SUB`.
- A pattern is `ANY`, a code (which matches itself and what lies below it) or `@SET`, a named set of the law bundle.
- A code that is well formed and unknown is never guessed at: no pattern but ANY matches it, and the engine denies it by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


CODE = re.compile(r"[A-Z]{2}(-[A-Z0-9]{1,3})?\Z")

#: ISO 3166-1 alpha-2, officially assigned elements, edition of 2020 (ISO online browsing platform).
COUNTRIES = _words(
    """AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ CA CC CD CF CG
    CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL
    GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA
    LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP
    NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV
    SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW"""
)

#: ISO 3166-2:US (states and the district), :CA and :AU; the law packs ask below the country only in these and in the UAE.
SUBDIVISIONS: Mapping[str, frozenset[str]] = {
    "US": _words(
        """AL AK AZ AR CA CO CT DE DC FL GA HI ID IL IN IA KS KY LA ME MD MA MI MN MS MO MT NE NV NH NJ NM NY NC ND OH OK OR PA RI SC SD
    TN TX UT VT VA WA WV WI WY AS GU MP PR VI"""
    ),
    "CA": _words("""AB BC MB NB NL NS NT NU ON PE QC SK YT"""),
    "AU": _words("ACT NSW NT QLD SA TAS VIC WA"),
    "AE": _words("AJ AZ DU FU RK SH UQ"),
}


def country_of(code: str) -> str:
    """The country of `code`: itself, or the part before the hyphen."""
    return code[:2]


def is_known(code: str) -> bool:
    """Whether ISO 3166 assigns `code`; below the countries not listed in SUBDIVISIONS any well-formed part is taken."""
    country = code[:2]
    if country not in COUNTRIES:
        return False
    below = SUBDIVISIONS.get(country)
    return len(code) == 2 or below is None or code[3:] in below


def most_specific(codes: frozenset[str]) -> tuple[str, ...]:
    """`codes` sorted, without those that another one lies below: {US, US-CA} is one place, US-CA."""
    return tuple(sorted(code for code in codes if not any(other.startswith(code + "-") for other in codes)))


@dataclass(frozen=True)
class Membership:
    """A code in a named set from `since` on, until before `until` (None: still)."""

    code: str
    since: datetime | None
    until: datetime | None


@dataclass(frozen=True)
class Territory:
    """A compiled list of patterns; `matches` answers in constant time."""

    patterns: tuple[str, ...]
    is_any: bool
    always: frozenset[str]
    dated: Mapping[str, tuple[Membership, ...]] = field(default_factory=dict)

    def matches(self, code: str, at: datetime) -> bool:
        """Whether `code` or its country stands in the list at the instant `at`."""
        if self.is_any:
            return True
        if code in self.always or code[:2] in self.always:
            return True
        if not self.dated:
            return False
        spans = self.dated.get(code) or self.dated.get(code[:2])
        return spans is not None and any((s.since is None or s.since <= at) and (s.until is None or at < s.until) for s in spans)


def compile_territory(patterns: tuple[str, ...], sets: Mapping[str, tuple[Membership, ...]]) -> Territory:
    """The compiled form of `patterns`.

    Raises:
        ValueError: a pattern that is no code and no known set.
    """
    always: set[str] = set()
    dated: dict[str, list[Membership]] = {}
    for pattern in patterns:
        if pattern == "ANY":
            continue
        if pattern.startswith("@"):
            if pattern[1:] not in sets:
                raise ValueError(f"the set {pattern} is not defined")
            for member in sets[pattern[1:]]:
                dated.setdefault(member.code, []).append(member)
        elif CODE.match(pattern) and is_known(pattern):
            always.add(pattern)
        else:
            raise ValueError(f"{pattern!r} is no jurisdiction, no @SET and not ANY")
    return Territory(patterns, "ANY" in patterns, frozenset(always), {code: tuple(spans) for code, spans in dated.items()})
