"""Whether a condition holds and whether what a rule needs is on file, at one instant.

- Conditions are three-valued: a fact that is not known makes a condition unknown, and unknown never helps the reader.
- What is on file counts from `issued` until before its end; the end is the earlier of `expires` and the age the rule allows.
- Of several that would do, the one that lasts longest is relied on, so that no order of arrival shows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from compliance.facts_items import Credential, Evidence
from compliance.facts_schema import Facts
from compliance.facts_vocabulary import ACTIONS_WITHOUT_LOGIN
from compliance.jurisdiction import most_specific
from compliance.rule import PSV_MAX_AGE_DAYS, Test, Wanted

_DIRECT_PRIVILEGE = Wanted("credential", "PRIVILEGE", (), None, frozenset(), "", None, None, PSV_MAX_AGE_DAYS, ())


@dataclass(frozen=True, slots=True)
class Relied:
    """Something a decision stands on, and the instant it stops standing (None: never)."""

    name: str
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether needs are met; if not, why; if so, on what."""

    is_met: bool
    reasons: tuple[str, ...] = ()
    relied: tuple[Relied, ...] = ()

    @property
    def until(self) -> datetime | None:
        """The earliest end among what was relied on."""
        return min((item.until for item in self.relied if item.until is not None), default=None)


#: What was found among one firm's evidence at one instant, by identity of the need and of the evidence, and by party.
Papers = dict[tuple[int, int, Any, Any], Finding]


@dataclass
class Question:
    """One set of facts as the rules see it. `mechanisms` is filled by the transfer gate before anything asks for it."""

    facts: Facts
    at: datetime
    destinations: tuple[str, ...]
    locations: tuple[str, ...]
    mechanisms: tuple[frozenset[str], ...] = ()
    is_consent_relaxed: bool = False
    papers: Papers | None = None
    _found: dict[int, Finding] = field(default_factory=dict)  # by identity of the need: hashing one costs more than answering it

    def holds(self, tests: Iterable[Test]) -> tuple[bool | None, tuple[str, ...]]:
        """(all of `tests` hold, the facts that would have to be known); False wins over unknown."""
        unknown: list[str] = []
        for test in tests:
            result = self._test(test, unknown)
            if result is False:
                return False, ()
        return (None, tuple(sorted(set(unknown)))) if unknown else (True, ())

    def find(self, needs: Iterable[Wanted]) -> Finding:
        """Whether every one of `needs` is on file."""
        is_met = True
        reasons: list[str] = []
        relied: list[Relied] = []
        for need in needs:
            finding = self._found.get(id(need))
            if finding is None:
                finding = self._found[id(need)] = self.look_for(need)
            is_met = is_met and finding.is_met
            reasons += finding.reasons
            relied += finding.relied
        return Finding(is_met, tuple(reasons), tuple(relied) if is_met else ())

    def _test(self, test: Test, unknown: list[str]) -> bool | None:
        if test.form == "flag":
            return test.values <= self.facts.flags
        if test.form == "no_flag":
            return not test.values <= self.facts.flags
        if test.form == "any_of":
            pending: list[str] = []
            results = [self._test(part, pending) for part in test.parts]
            if True in results:
                return True
            unknown += pending
            return None if pending else False
        if test.form == "no_direct_privilege":
            return not self._find_credential(_DIRECT_PRIVILEGE).is_met
        if test.territory is not None and not test.fact:
            places = self.destinations if test.form == "reader_outside" else self.locations
            wanted = test.form == "located_within"
            return any(test.territory.matches(place, self.at) is wanted for place in places)
        value = self.facts.values.get(test.fact)
        if value is None:
            unknown.append(test.fact)
            return None
        if test.territory is not None:
            return test.territory.matches(value, self.at) is (test.form == "within")
        if test.form == "is_in":
            return value in test.values
        if test.form == "not_in":
            return value not in test.values
        if test.form == "at_least":
            return bool(value >= test.number)
        if test.form == "below":
            return bool(value < test.number)
        return bool(value) is bool(test.number)

    def look_for(self, need: Wanted) -> Finding:
        """Whether `need` is on file, asked anew. (`find` remembers by identity, which only rules' own needs keep.)"""
        if need.form == "evidence":
            return self._find_paper(need)
        if need.form == "credential":
            return self._find_credential(need)
        if need.form == "consent":
            return self._find_consent(need)
        if need.form == "mechanism":
            return Finding(bool(self.mechanisms) and all(met & need.kinds for met in self.mechanisms))
        found = [self.find(group) for group in need.groups]
        met = [finding for finding in found if finding.is_met]
        if not met:
            return Finding(False, tuple(sorted({reason for finding in found for reason in finding.reasons})))
        return max(met, key=lambda finding: (finding.until is None, finding.until or self.at, [item.name for item in finding.relied]))

    def _find_paper(self, need: Wanted) -> Finding:
        if self.papers is None:
            return self._find_evidence(need)
        values = self.facts.values
        key = (id(need), id(self.facts.evidence), values.get("reader.employer.id"), values.get("origin.hospital"))
        finding = self.papers.get(key)
        if finding is None:
            finding = self.papers[key] = self._find_evidence(need)
        return finding

    def _find_evidence(self, need: Wanted) -> Finding:
        wanted = set()
        for party in need.parties:
            if party == "employer" and self.facts.action == "STORE":
                continue
            name = self.facts.values.get("origin.hospital" if party == "hospital" else "reader.employer.id")
            if name is None:
                return Finding(False, (f"EVIDENCE_MISSING:{need.name}",))
            wanted.add(name)
        best: Relied | None = None
        states: set[str] = set()
        for item in self.facts.evidence.get(need.name, ()):
            if not item.gaps and not wanted <= item.parties:
                continue
            state, until = _evidence_state(item, need, self.at)
            if until is None:
                states.add(state)
            elif best is None or best.until is None or (until, item.id) > (best.until, best.name):
                best = Relied(item.id, until)
        if best is not None:
            return Finding(True, (), (best,))
        return Finding(False, tuple(f"EVIDENCE_{state}:{need.name}" for state in sorted(states or {"MISSING"})))

    def _find_credential(self, need: Wanted) -> Finding:
        kind = need.name
        subject = self._subject(need)
        if subject is None:
            return Finding(False, (f"CRED_{kind}_MISSING:UNKNOWN",))
        best: Relied | None = None
        states: set[str] = set()
        for item in self.facts.credentials:
            if item.kind != kind or not self._is_about(item, need, subject):
                continue
            state, until = _credential_state(item, need, self.at)
            if until is None:
                states.add(state)
            elif best is None or best.until is None or until > best.until:
                best = Relied(f"{kind}:{subject}", until)
        if best is not None:
            return Finding(True, (), (best,))
        return Finding(False, tuple(f"CRED_{kind}_{state}:{subject}" for state in sorted(states or {"MISSING"})))

    def _subject(self, need: Wanted) -> str | None:
        """What the credential must be for, as reasons name it."""
        values = self.facts.values
        if need.name == "LICENCE":
            where, _, part = need.jurisdiction.partition(".")
            code = values.get("reader.establishment" if where == "reader" else f"{where}.jurisdiction")
            return code[:2] if code is not None and part == "country" else code
        if need.name in ("REGISTRATION", "EXCLUSION_CHECK"):
            return need.register
        if need.name in ("SPECIALTY", "BOARD"):
            return need.value
        return values.get("origin.jurisdiction" if need.name == "COVER" else "origin.hospital")

    def _is_about(self, item: Credential, need: Wanted, subject: str) -> bool:
        values = item.values
        if item.kind == "LICENCE":
            return bool(_covers(values.get("jurisdiction"), subject))
        if item.kind in ("REGISTRATION", "EXCLUSION_CHECK"):
            return values.get("register") == subject and (need.value is None or values.get("value") == need.value)
        if item.kind in ("SPECIALTY", "BOARD"):
            return values.get("value") == subject
        if item.kind == "COVER":
            territory = values.get("territory", frozenset())
            return "ANY" in territory or subject in territory or subject[:2] in territory
        modalities = values.get("modalities", frozenset())
        is_modality = "ANY" in modalities or self.facts.values.get("object.modality") in modalities
        return values.get("hospital") == subject and is_modality and not (need is _DIRECT_PRIVILEGE and values.get("by_proxy") is True)

    def _find_consent(self, need: Wanted) -> Finding:
        values = self.facts.values
        status = values.get("consent.status")
        if self.is_consent_relaxed:
            return Finding(True)
        if status != "ACTIVE":
            return Finding(False, (f"CONSENT_{status}" if status in ("REFUSED", "WITHDRAWN", "UNKNOWN") else "CONSENT_MISSING",))
        gaps = [f"FACT_MISSING:consent.{name}" for name in ("kind", "version", "given_at") if f"consent.{name}" not in values]
        if gaps:
            return Finding(False, tuple(gaps))
        expires = values.get("consent.expires")
        if values["consent.kind"] not in need.kinds:
            return Finding(False, tuple(f"CONSENT_MISSING:{kind}" for kind in sorted(need.kinds)))
        if values["consent.given_at"] > self.at:
            return Finding(False, ("CONSENT_NOT_YET_GIVEN",))
        if expires is not None and expires <= self.at:
            return Finding(False, ("CONSENT_EXPIRED",))
        return Finding(True, (), (Relied(f"CONSENT:{values['consent.version']}", expires),))


def ask(facts: Facts, at: datetime, papers: Papers | None = None) -> Question:
    """`facts` with the reader's places worked out: where the reader is, and every place the data would come to."""
    values = facts.values
    if facts.action == "STORE":
        return Question(facts, at, (), (), papers=papers)
    names = ["reader.establishment"]
    if facts.action not in ACTIONS_WITHOUT_LOGIN:
        names += ["login.declared_country", "login.ip_country"]
    locations = frozenset(values[name] for name in names if name in values)
    employer = values.get("reader.employer.country")
    everywhere = locations | {employer} if employer is not None else locations
    return Question(facts, at, most_specific(everywhere), most_specific(locations), papers=papers)


def _covers(held: str | None, subject: str) -> bool:
    """A licence of the country serves below it; one of a state serves that state."""
    return held is not None and (held == subject or held == subject[:2])


def _evidence_state(item: Evidence, need: Wanted, at: datetime) -> tuple[str, datetime | None]:
    if item.gaps or item.issued is None or item.expires is None:
        return "INCOMPLETE", None
    until = item.expires
    if need.max_age_days is not None:
        until = _earlier(until, item.issued, need.max_age_days)
    if until <= at:
        return "EXPIRED", None
    return ("NOT_YET_VALID", None) if item.issued > at else ("VALID", until)


def _credential_state(item: Credential, need: Wanted, at: datetime) -> tuple[str, datetime | None]:
    if item.gaps or item.issued is None or item.expires is None or item.psv_at is None:
        return "INCOMPLETE", None
    if item.values["status"] != "ACTIVE":
        return str(item.values["status"]), None
    if item.expires <= at:
        return "EXPIRED", None
    if item.issued > at:
        return "NOT_YET_VALID", None
    until = _earlier(item.expires, item.psv_at, need.psv_max_age_days)
    if item.psv_at > at or until <= at:
        return "UNVERIFIED", None
    return "VALID", until


def _earlier(end: datetime, start: datetime, days: int) -> datetime:
    try:
        return min(end, start + timedelta(days=days))
    except OverflowError:  # a date near the year 9999: the age can never be reached
        return end
