"""The seven gates of a decision, every one evaluated, every reason kept.

G0 facts present and fresh, G1 prohibitions, G2 transfer mechanism, G3 consent or legal basis, G4 credentials, G5 payer,
G6 login and location. A gate's outcome is the worst of what was found at it.

- No gate is skipped because another denied.
- Nothing is permitted by silence: no regime, no mechanism, no licence rule for the origin is a denial with its own reason.
- A rule that is not confirmed restricts in full; where it would grant, a person decides (REFER, RULE_DRAFT).
- Break-glass relaxes gate G3 alone, and only for a consent that is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from compliance.facts_schema import Facts
from compliance.facts_vocabulary import ACTIONS_WITHOUT_LOGIN, DELIVER, REQUIRE_REGISTER
from compliance.jurisdiction import is_known
from compliance.live_law import LiveLaw, reaches
from compliance.requirement import Finding, Papers, Question, Relied, ask
from compliance.rule import GATES, PSV_MAX_AGE_DAYS, Rule, Wanted

SEVERITY = {"ALLOW": 0, "REFER": 1, "DENY": 2}
#: A login's place is taken as seen for this long; DESIGN asks for a new decision at least as often.
LOGIN_AGE_MAX = timedelta(minutes=15)
#: Networks that hide where somebody is.
MASKED_IP_KINDS = frozenset({"HOSTING", "VPN", "PROXY", "TOR", "UNKNOWN"})
_ANY_CONSENT = Wanted("consent", "", (), None, frozenset({"SHARING", "SEPARATE", "INFORMED", "TRANSFER"}), "", None, None, 1, ())


@dataclass
class Gate:
    """What was found at one gate."""

    name: str
    outcome: str = "ALLOW"
    reasons: dict[str, str] = field(default_factory=dict)
    rules: list[tuple[Rule, str]] = field(default_factory=list)
    relied: list[Relied] = field(default_factory=list)
    obligations: list[str] = field(default_factory=list)

    def note(self, outcome: str, *reasons: str) -> None:
        """Record `reasons`, and make the gate's outcome no better than `outcome`."""
        for reason in reasons:
            if reason not in self.reasons or SEVERITY[outcome] > SEVERITY[self.reasons[reason]]:
                self.reasons[reason] = outcome
        if SEVERITY[outcome] > SEVERITY[self.outcome]:
            self.outcome = outcome

    def rely(self, rule: Rule, finding: Finding, result: str) -> None:
        """Stand on `rule`: a draft one refers to a person."""
        self.rules.append((rule, result))
        self.relied += finding.relied
        if rule.valid_to is not None:
            self.relied.append(Relied(rule.id, rule.valid_to))
        if not rule.is_confirmed:
            self.note("REFER", f"RULE_DRAFT:{rule.id}")


@dataclass
class Evaluation:
    """All gates, and whether somebody should be told at once."""

    gates: dict[str, Gate]
    alert: bool


def evaluate(facts: Facts, law: LiveLaw | None, papers: Papers | None = None) -> Evaluation:
    """Every gate for `facts` under `law`; None where the facts lack what selects the law (instant, action, origin).

    `papers` is what was found before among the same evidence, of many readers of one firm.
    """
    gates = {name: Gate(name) for name in GATES}
    _gate_0(gates["G0"], facts)
    if law is None:
        for name in GATES[1:]:
            gates[name].note("DENY", "NOT_EVALUATED")
        return Evaluation(gates, False)
    question = ask(facts, law.at, papers)
    _gate_2(gates["G2"], question, law)
    for rule in law.prohibitions:
        _prohibit(gates[rule.gate], question, rule)
    for rule in law.requirements:
        if rule.gate != "G3":
            _require(gates[rule.gate], question, rule)
    for rule in law.obligations:
        _oblige(gates[rule.gate], question, rule)
    is_alert = _gate_3(gates["G3"], question, law)
    if facts.action not in ("STORE", DELIVER):
        _gate_4(gates["G4"], question, law)
    if facts.action not in ACTIONS_WITHOUT_LOGIN:
        is_alert |= _gate_6(gates["G6"], facts)
    return Evaluation(gates, is_alert)


def _gate_0(gate: Gate, facts: Facts) -> None:
    """Facts present, of known places, and fresh."""
    if facts.missing:
        gate.note("DENY", *(f"FACT_MISSING:{name}" for name in facts.missing))
    places = ["origin.jurisdiction", "patient.jurisdiction", "storage.country"]
    if facts.action != "STORE":
        places += ["reader.establishment", "reader.residence", "reader.employer.country"]
        places += [] if facts.action in ACTIONS_WITHOUT_LOGIN else ["login.declared_country", "login.ip_country"]
    for name in places:
        code = facts.values.get(name)
        if code is not None and not is_known(code):
            gate.note("DENY", f"JURISDICTION_UNKNOWN:{code}")
    observed_at = facts.values.get("login.observed_at")
    if facts.action in ACTIONS_WITHOUT_LOGIN or observed_at is None or facts.at is None:
        return
    if observed_at > facts.at:  # a clock has run backwards somewhere: what was seen later proves nothing about now
        gate.note("DENY", "FACT_FUTURE:login.observed_at")
    elif facts.at - observed_at > LOGIN_AGE_MAX:
        gate.note("DENY", "FACT_STALE:login.observed_at")


def _scope(gate: Gate, question: Question, rule: Rule, places: Iterable[str]) -> bool | None:
    """Whether `rule` is about this case; None where a fact it asks about is not known (the fact is noted)."""
    reached = rule.destination.is_any and rule.destination_outside is None
    if not reached and not any(reaches(rule, place, question.at) for place in places):
        return False
    result, unknown = question.holds(rule.tests)
    if result is None:
        gate.note("DENY", *(f"FACT_MISSING:{name}" for name in unknown))
    return result


def _prohibit(gate: Gate, question: Question, rule: Rule) -> None:
    scope = _scope(gate, question, rule, question.destinations)
    if scope is False:
        return
    finding = question.find(rule.needs) if rule.needs else Finding(False)
    if scope is None or not finding.is_met:
        gate.rules.append((rule, "PROHIBITED"))
        if scope:
            gate.note(rule.outcome, rule.unmet_reason or rule.id, *finding.reasons)
    else:
        gate.rely(rule, finding, "EXEMPT")
        gate.obligations += rule.obligations


def _require(gate: Gate, question: Question, rule: Rule) -> None:
    scope = _scope(gate, question, rule, question.destinations)
    if scope is False:
        return
    finding = question.find(rule.needs)
    if scope is None or not finding.is_met:
        gate.rules.append((rule, "UNMET"))
        if scope:
            gate.note(rule.outcome, rule.unmet_reason or rule.id, *finding.reasons)
        return
    gate.rely(rule, finding, "MET")
    gate.obligations += rule.obligations
    if rule.report_when_met:
        gate.note("ALLOW", rule.id)


def _oblige(gate: Gate, question: Question, rule: Rule) -> None:
    # An unknown fact obliges: the outcome is then denied anyway, and the record shows what would have been owed.
    if _scope(gate, question, rule, question.destinations) is not False:
        gate.rules.append((rule, "OBLIGED"))
        gate.obligations += rule.obligations


def _gate_2(gate: Gate, question: Question, law: LiveLaw) -> None:
    """Every regime of the origin must permit every place the data comes to: where the reader is, and where it is kept.

    A report that is delivered comes to its origin and nowhere else.
    """
    if not law.regimes:
        gate.note("DENY", f"JURISDICTION_UNKNOWN:{question.facts.values['origin.jurisdiction']}")
    storage = question.facts.values.get("storage.country")
    is_delivery = question.facts.action == DELIVER
    destinations = (question.facts.values["origin.jurisdiction"],) if is_delivery else question.destinations
    places = [("READER", place) for place in destinations]
    if storage is not None and not is_delivery:
        places.append(("STORAGE", storage))
    mechanisms: list[frozenset[str]] = []
    stood_on: set[str] = set()
    for regime in law.regimes:
        for role, place in places:
            met = _permit(gate, question, law.permits_reaching(regime, role, place), role, place, regime)
            mechanisms.append(frozenset(rule.mechanism for rule, _ in met if rule.mechanism is not None))
            if met and met[0][0].id not in stood_on:
                rule, finding = met[0]
                stood_on.add(rule.id)
                gate.rely(rule, finding, "MET")
                gate.obligations += rule.obligations
            if met and (role == "READER" or question.facts.action == "STORE"):  # what is asked about; the other stands in the rules
                gate.note("ALLOW", met[0][0].id)
    question.mechanisms = tuple(mechanisms)


def _permit(gate: Gate, question: Question, candidates: Sequence[Rule], role: str, place: str, regime: str) -> list[tuple[Rule, Finding]]:
    """The permits met for `place`, the one to stand on first: a confirmed one, then by mechanism, then by id."""
    met: list[tuple[Rule, Finding]] = []
    failed: list[str] = []
    noted = {id(rule) for rule, _ in gate.rules}
    for rule in candidates:
        scope, unknown = question.holds(rule.tests)
        if scope is False:
            continue
        finding = question.find(rule.needs)
        if scope and finding.is_met:
            met.append((rule, finding))
            continue
        if id(rule) not in noted:
            noted.add(id(rule))
            gate.rules.append((rule, "UNMET"))
        failed += [*finding.reasons, *(f"FACT_MISSING:{name}" for name in unknown)]
        failed += [rule.unmet_reason] if rule.unmet_reason else []
    if not met:
        gate.note("DENY", f"NO_{'STORAGE' if role == 'STORAGE' else 'TRANSFER'}_MECHANISM:{regime}:{place}", *failed)
    return sorted(met, key=lambda pair: (not pair[0].is_confirmed, pair[0].rank, pair[0].id))


def _gate_3(gate: Gate, question: Question, law: LiveLaw) -> bool:
    """Consent, from the law and from the hospital's own practice. Returns whether break-glass was invoked."""
    facts = question.facts
    if facts.action == DELIVER:
        # What was lawfully read stays read (GDPR Art. 7(3)): a later no ends further reading, not the hospital's own record.
        for rule in law.requirements:
            if rule.gate == "G3":
                _require(gate, question, rule)
        return False
    status = facts.values.get("consent.status")
    if status in ("WITHDRAWN", "REFUSED"):  # somebody said no: asked for or not, that stands
        gate.note("DENY", f"CONSENT_{status}")
    relaxing = _break_glass(question, law.relaxing)
    is_invoked = relaxing is not None
    question.is_consent_relaxed = is_invoked and status == "UNKNOWN"
    # What other gates found about consent was found without break-glass; here it is asked anew.
    asked = replace(question, is_consent_relaxed=question.is_consent_relaxed, _found={})
    for rule in law.requirements:
        if rule.gate == "G3":
            _require(gate, asked, rule)
    if "CONSENT_REQUIRED" in facts.flags:
        finding = asked.find((_ANY_CONSENT,))
        gate.relied += finding.relied
        if not finding.is_met:
            gate.note("DENY", *finding.reasons)
    if relaxing is not None:
        gate.rely(relaxing, Finding(True), "MET")
        gate.obligations += relaxing.obligations
        gate.note("ALLOW", f"BREAK_GLASS:{relaxing.id}")
    return is_invoked


def _break_glass(question: Question, relaxing: Sequence[Rule]) -> Rule | None:
    """The rule that lets break-glass relax consent here; None where it was not invoked, or not in full."""
    values = question.facts.values
    if not all(f"break_glass.{name}" in values for name in ("reason_code", "text", "requested_by")):
        return None
    found = [rule for rule in relaxing if question.holds(rule.tests)[0] is True]
    return min(found, key=lambda rule: (not rule.is_confirmed, rule.id), default=None)


def _gate_4(gate: Gate, question: Question, law: LiveLaw) -> None:
    """That a licence is asked for at all, and what the hospital asks beyond the law."""
    if not any(rule.gate == "G4" and any(need.name == "LICENCE" for need in rule.needs) for rule in law.requirements):
        gate.note("DENY", f"CRED_RULE_MISSING:{question.facts.values['origin.jurisdiction']}")
    for flag in sorted(question.facts.flags):
        if not flag.startswith(REQUIRE_REGISTER):
            continue
        register = flag.removeprefix(REQUIRE_REGISTER)
        wanted = Wanted("credential", "REGISTRATION", (), None, frozenset(), "", register, None, PSV_MAX_AGE_DAYS, ())
        finding = question.look_for(wanted)
        gate.relied += finding.relied
        if not finding.is_met:
            gate.note("DENY", f"CRED_HOSPITAL_POLICY:{register}", *finding.reasons)


def _gate_6(gate: Gate, facts: Facts) -> bool:
    """The login: second factor, device, and places that agree. Returns whether somebody should be told at once."""
    values = facts.values
    if values.get("login.mfa") is not True:
        gate.note("DENY", "LOGIN_SECOND_FACTOR_MISSING")
    if values.get("login.device_attested") is not True:
        gate.note("DENY", "LOGIN_DEVICE_NOT_ATTESTED")
    declared, seen = values.get("login.declared_country"), values.get("login.ip_country")
    is_alert = False
    if declared is not None and seen is not None and declared[:2] != seen[:2]:
        gate.note("DENY", "LOCATION_CONFLICT")
        is_alert = True
    if values.get("login.ip_kind") in MASKED_IP_KINDS:
        gate.note("DENY", f"LOCATION_MASKED:{values['login.ip_kind']}")
        is_alert = True
    return is_alert
