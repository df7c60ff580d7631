"""What a rule of law may say: the closed vocabulary of the law packs, and its compiled form.

- A rule is data. Its conditions are the few forms below; nothing in a pack is ever evaluated as code.
- Kinds: PROHIBIT (denied unless its exception is met), REQUIRE (denied unless met), PERMIT (one of a regime's must be met),
  OBLIGE (adds obligations). A rule is DRAFT until confirmed; a DRAFT restricts like any other and never grants.
- A rule has two times: law time (`valid_from`, `valid_to`, the latter exclusive) and knowledge time (`known_from`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from compliance.facts_vocabulary import ACTIONS, ASKABLE_FACTS, CONSENT_KINDS, DELIVER, FACT_TYPES, FLAGS, REQUIRE_REGISTER
from compliance.jurisdiction import Membership, Territory, compile_territory

GATES = ("G0", "G1", "G2", "G3", "G4", "G5", "G6")
#: Transfer mechanisms, the one to rely on first when several are met.
MECHANISMS = (
    "INTRA", "ADEQUACY", "STATUTE", "DPF", "SCC_M1", "SCC_M2", "SCC_M3", "SCC_M4", "IDTA", "BCR", "CODE", "CONTRACT", "ASSESSMENT",
    "CONSENT", "VITAL",
)  # fmt: skip
#: Obligations that the product enforces; a pack may name no other.
OBLIGATION = re.compile(
    r"(NO_PERSIST|VIEW_ONLY|PRELIMINARY_ONLY|FINAL_BY_US_READER|WATERMARK|DEFACE|NOTIFY_PO|REVIEW_72H"
    r"|(STORE_REGION|COPY_IN|KEYS_IN)\([A-Z]{2}([|][A-Z]{2})*\)|COUNT\((us_persons|sensitive_persons)\))\Z"
)
_RULE_ID = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*(:[A-Z][A-Z0-9_-]*)?\Z")
_REASON = re.compile(r"[A-Z][A-Z0-9_]*(:[A-Za-z0-9_.-]+)?\Z")
_EVIDENCE_TYPE = re.compile(r"[A-Z][A-Z0-9_]*\Z")
#: Where a credential's jurisdiction comes from.
SUBJECTS = ("patient.jurisdiction", "patient.country", "origin.jurisdiction", "origin.country", "reader.establishment", "reader.country")
#: Primary-source verification counts for three years, the longest re-privileging interval in use.
PSV_MAX_AGE_DAYS = 1095


def _as_instant(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("not a date") from None
    if isinstance(value, datetime):
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    raise ValueError("not a date")


Instant = Annotated[datetime, BeforeValidator(_as_instant)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Condition(_Model):
    """One condition on the facts; exactly one of its forms."""

    fact: str | None = None
    is_in: list[str] | None = Field(None, alias="in")
    not_in: list[str] | None = None
    within: list[str] | None = None
    outside: list[str] | None = None
    at_least: int | None = None
    below: int | None = None
    is_true: bool | None = Field(None, alias="is")
    flag: str | None = None
    no_flag: str | None = None
    located_outside: list[str] | None = None
    located_within: list[str] | None = None
    reader_outside: list[str] | None = None
    no_direct_privilege: Literal[True] | None = None
    any_of: list[Condition] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Condition:
        forms = (self.is_in, self.not_in, self.within, self.outside, self.at_least, self.below, self.is_true)
        tests = sum(form is not None for form in forms)
        others: tuple[object, ...] = (self.flag, self.no_flag, self.located_outside, self.located_within, self.reader_outside, self.any_of)
        others = (*others, self.no_direct_privilege)
        if self.fact is not None:
            if tests != 1 or any(other is not None for other in others):
                raise ValueError("a condition on a fact has exactly one test")
            _check_fact(self)
        elif tests or sum(other is not None for other in others) != 1:
            raise ValueError("a condition has exactly one form")
        for flag in (self.flag, self.no_flag):
            if flag is not None and flag not in FLAGS and not flag.startswith(REQUIRE_REGISTER):
                raise ValueError(f"unknown flag {flag}")
        return self


def _check_fact(condition: Condition) -> None:
    name = condition.fact or ""
    if name not in ASKABLE_FACTS:
        raise ValueError(f"unknown fact {name}, or one no rule may ask about")
    kind = FACT_TYPES[name][0]
    values = condition.is_in or condition.not_in
    if isinstance(kind, tuple) and values is not None and not set(values) <= set(kind):
        raise ValueError(f"{name} can only be one of {', '.join(kind)}")
    number = condition.at_least if condition.at_least is not None else condition.below
    fits: dict[str, Any] = {"code": condition.within or condition.outside, "bool": condition.is_true, "count": number, "percent": number}
    expected = fits.get(kind, values) if isinstance(kind, str) else values
    if expected is None:
        raise ValueError(f"{name} cannot be tested that way")


class Need(_Model):
    """One thing that must be on file; exactly one of evidence, consent, credential, mechanism, any_of."""

    evidence: str | None = None
    parties: list[Literal["hospital", "employer"]] | None = None
    max_age_days: int | None = Field(None, gt=0)
    consent: list[str] | None = None
    credential: Literal["LICENCE", "SPECIALTY", "PRIVILEGE", "COVER", "REGISTRATION", "BOARD", "EXCLUSION_CHECK"] | None = None
    jurisdiction: str | None = None
    register_name: str | None = Field(None, alias="register")
    value: str | None = None
    psv_max_age_days: int = Field(PSV_MAX_AGE_DAYS, gt=0)
    mechanism: list[str] | None = None
    any_of: list[list[Need]] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Need:
        forms = (self.evidence, self.consent, self.credential, self.mechanism, self.any_of)
        if sum(form is not None for form in forms) != 1:
            raise ValueError("a need is exactly one of evidence, consent, credential, mechanism, any_of")
        if self.evidence is not None and not _EVIDENCE_TYPE.match(self.evidence):
            raise ValueError("an evidence type is written in capitals")
        if self.consent is not None and not (self.consent and set(self.consent) <= set(CONSENT_KINDS)):
            raise ValueError(f"a consent is of {', '.join(CONSENT_KINDS)}")
        if self.mechanism is not None and not set(self.mechanism) <= set(MECHANISMS):
            raise ValueError(f"a mechanism is one of {', '.join(MECHANISMS)}")
        if self.credential == "LICENCE" and self.jurisdiction not in SUBJECTS:
            raise ValueError(f"a licence is asked for the jurisdiction of one of {', '.join(SUBJECTS)}")
        if self.credential in ("REGISTRATION", "EXCLUSION_CHECK") and self.register_name is None:
            raise ValueError(f"a {self.credential} needs its register")
        if self.credential in ("SPECIALTY", "BOARD") and self.value is None:
            raise ValueError(f"a {self.credential} needs its value")
        return self


class Source(_Model):
    """Where the rule is written."""

    text: str = Field(min_length=3)
    section: str = Field(min_length=1)


class RuleText(_Model):
    """A rule as a pack writes it."""

    id: str
    kind: Literal["PROHIBIT", "REQUIRE", "PERMIT", "OBLIGE"]
    gate: Literal["G1", "G2", "G3", "G4", "G5"] | None = None
    regime: str | None = None
    mechanism: str | None = None
    actions: list[str] = ["ANY"]
    origin: list[str] = Field(min_length=1)
    destination: list[str] = ["ANY"]
    destination_outside: list[str] | None = None
    covers: list[Literal["READER", "STORAGE"]] = ["READER"]
    when: list[Condition] = []
    needs: list[Need] = []
    unless: list[Need] = []
    relaxes: Literal["CONSENT"] | None = None
    outcome: Literal["DENY", "REFER"] = "DENY"
    obligations: list[str] = []
    unmet_reason: str | None = None
    report_when_met: bool = False
    valid_from: Instant
    valid_to: Instant | None = None
    known_from: Instant
    source: Source
    note: str | None = None
    status: Literal["DRAFT"] = "DRAFT"

    @model_validator(mode="after")
    def _coherent(self) -> RuleText:
        checks = (
            (not _RULE_ID.match(self.id), "the id is written in capitals, digits and underscores"),
            (not set(self.actions) <= {*ACTIONS, "ANY"}, f"actions are of {', '.join(ACTIONS)}, ANY"),
            (self.kind == "REQUIRE" and self.gate is None, "a REQUIRE names its gate"),
            (self.kind == "REQUIRE" and not self.needs, "a REQUIRE needs something"),
            (self.kind == "PERMIT" and self.relaxes is None and (self.mechanism not in MECHANISMS or self.regime is None),
             "a PERMIT names its regime and a known mechanism"),
            (self.kind != "PERMIT" and (self.mechanism, self.relaxes) != (None, None), "only a PERMIT has a mechanism or relaxes"),
            (self.kind == "PERMIT" and any(_asks_mechanism(need) for need in self.needs), "a PERMIT cannot need a mechanism"),
            (self.kind != "PROHIBIT" and bool(self.unless), "only a PROHIBIT has unless"),
            (self.kind in ("PROHIBIT", "OBLIGE") and bool(self.needs), f"a {self.kind} has no needs"),
            (self.kind == "OBLIGE" and not self.obligations, "an OBLIGE has obligations"),
            (self.valid_to is not None and self.valid_to <= self.valid_from, "valid_to is not after valid_from"),
            (self.unmet_reason is not None and not _REASON.match(self.unmet_reason), "unmet_reason is no reason code"),
        )  # fmt: skip
        for is_wrong, message in checks:
            if is_wrong:
                raise ValueError(message)
        for obligation in self.obligations:
            if not OBLIGATION.match(obligation):
                raise ValueError(f"unknown obligation {obligation}")
        return self


def _asks_mechanism(need: Need) -> bool:
    return need.mechanism is not None or any(_asks_mechanism(inner) for group in need.any_of or [] for inner in group)


@dataclass(frozen=True, slots=True)
class Test:
    """A compiled condition."""

    form: str
    fact: str
    values: frozenset[str]
    number: int
    territory: Territory | None
    parts: tuple[Test, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A compiled need."""

    form: str
    name: str
    parties: tuple[str, ...]
    max_age_days: int | None
    kinds: frozenset[str]
    jurisdiction: str
    register: str | None
    value: str | None
    psv_max_age_days: int
    groups: tuple[tuple[Wanted, ...], ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """A compiled rule; `digest` is that of its text, `is_confirmed` that two named people signed that digest."""

    id: str
    kind: str
    gate: str
    regime: str | None
    mechanism: str | None
    rank: int
    actions: frozenset[str]
    origin: Territory
    destination: Territory
    destination_outside: Territory | None
    covers: frozenset[str]
    tests: tuple[Test, ...]
    needs: tuple[Wanted, ...]
    relaxes_consent: bool
    outcome: str
    obligations: tuple[str, ...]
    unmet_reason: str | None
    report_when_met: bool
    valid_from: datetime
    valid_to: datetime | None
    known_from: datetime
    source: str
    digest: str
    is_confirmed: bool


Sets = Mapping[str, tuple[Membership, ...]]
_DEFAULT_GATE = {"PROHIBIT": "G1", "PERMIT": "G2", "OBLIGE": "G2"}


def compile_rule(text: RuleText, sets: Sets, digest: str, is_confirmed: bool) -> Rule:
    """The compiled form of `text`.

    Raises:
        ValueError: a pattern names no jurisdiction and no set.
    """
    return Rule(
        id=text.id,
        kind=text.kind,
        gate=text.gate or _DEFAULT_GATE[text.kind],
        regime=text.regime,
        mechanism=text.mechanism,
        rank=MECHANISMS.index(text.mechanism) if text.mechanism else len(MECHANISMS),
        actions=_actions_of(text),
        origin=compile_territory(tuple(text.origin), sets),
        destination=compile_territory(tuple(text.destination), sets),
        destination_outside=compile_territory(tuple(text.destination_outside), sets) if text.destination_outside else None,
        covers=frozenset(text.covers),
        tests=tuple(_compile_condition(condition, sets) for condition in text.when),
        needs=tuple(_compile_need(need) for need in (*text.needs, *text.unless)),
        relaxes_consent=text.relaxes == "CONSENT",
        outcome=text.outcome,
        obligations=tuple(text.obligations),
        unmet_reason=text.unmet_reason,
        report_when_met=text.report_when_met,
        valid_from=text.valid_from,
        valid_to=text.valid_to,
        known_from=text.known_from,
        source=f"{text.source.text}, {text.source.section}",
        digest=digest,
        is_confirmed=is_confirmed,
    )


def _actions_of(text: RuleText) -> frozenset[str]:
    """ANY is every action; but what a reading needs on file (REQUIRE) or owes (OBLIGE) names DELIVER where it means that too."""
    named = frozenset(text.actions) - {"ANY"}
    if "ANY" not in text.actions:
        return named
    return named | (frozenset(ACTIONS) if text.kind in ("PROHIBIT", "PERMIT") else frozenset(ACTIONS) - {DELIVER})


_TERRITORY_FORMS = ("within", "outside", "located_outside", "located_within", "reader_outside")


def _compile_condition(condition: Condition, sets: Sets) -> Test:
    written = {name: value for name, value in condition.model_dump(exclude_none=True).items() if name != "fact"}
    ((form, value),) = written.items()
    territory = compile_territory(tuple(value), sets) if form in _TERRITORY_FORMS else None
    parts = tuple(_compile_condition(part, sets) for part in condition.any_of or ())
    values = frozenset(value) if form in ("is_in", "not_in") else frozenset({value} if form in ("flag", "no_flag") else ())
    number = int(value) if form in ("at_least", "below", "is_true") else 0
    return Test(form, condition.fact or "", values, number, territory, parts)


def _compile_need(need: Need) -> Wanted:
    forms = ("evidence", "consent", "credential", "mechanism", "any_of")
    form = next(name for name in forms if getattr(need, name) is not None)
    return Wanted(
        form=form,
        name=need.evidence or need.credential or "",
        parties=tuple(sorted(need.parties if need.parties is not None else ("hospital", "employer"))),
        max_age_days=need.max_age_days,
        kinds=frozenset(need.consent or need.mechanism or ()),
        jurisdiction=need.jurisdiction or "",
        register=need.register_name,
        value=need.value,
        psv_max_age_days=need.psv_max_age_days,
        groups=tuple(tuple(_compile_need(inner) for inner in group) for group in need.any_of or ()),
    )
