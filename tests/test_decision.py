"""The acceptance cases through the function and through the command; bad facts; replay; the record."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from compliance.decision import decide, decide_many, eligible_readers, refuse_backward_clock, replay
from compliance.decision_record import record_bytes
from compliance.lawbook import LawBundle, load_law, load_packs
from crypto.canonical import canonical_json, digest
from crypto.errors import BadInput, Conflict
from gateway.law_commands import mount
from tests.decision_cases import DecisionCase, base_facts, decision_cases, facts_of
from tests.random_facts import random_facts

CASES = decision_cases()


@pytest.fixture(scope="module")
def law() -> LawBundle:
    return load_law()


@pytest.fixture(scope="module")
def command() -> typer.Typer:
    app = typer.Typer()
    mount(app)
    return app


def _check(case: DecisionCase, document: dict[str, Any]) -> None:
    assert document["outcome"] == case.expect["outcome"], document["reasons"]
    for name in ("reasons", "obligations"):
        assert set(case.expect.get(name, [])) <= set(document[name])
    assert not set(case.expect.get("not_reasons", [])) & set(document["reasons"])
    for name in ("alert", "valid_until"):
        if name in case.expect:
            assert document[name] == case.expect[name]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_case_through_the_function(case: DecisionCase, law: LawBundle) -> None:
    decision = decide(case.facts, law)
    _check(case, decision.document())
    assert replay(json.loads(decision.document_bytes()), law) == decision.document_bytes()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_case_through_the_command_and_replayed(case: DecisionCase, command: typer.Typer, tmp_path: Path) -> None:
    facts = tmp_path / "facts.json"
    facts.write_text(json.dumps(case.facts, indent=2))
    result = CliRunner().invoke(command, ["decide", str(facts)])
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1
    document = json.loads(result.stdout)
    _check(case, document)
    assert {"outcome", "reasons", "obligations", "valid_until", "alert", "gates", "law", "digest"} <= set(document)
    saved = tmp_path / "decision.json"
    saved.write_text(result.stdout)
    assert CliRunner().invoke(command, ["replay", str(saved)]).exit_code == 0


def test_json_lines_and_standard_input_give_one_line_per_document(command: typer.Typer) -> None:
    lines = "\n".join(json.dumps(case.facts) for case in CASES) + "\n"
    result = CliRunner().invoke(command, ["decide", "-"], input=lines)
    assert [json.loads(line)["outcome"] for line in result.stdout.splitlines()] == [case.expect["outcome"] for case in CASES]
    assert CliRunner().invoke(command, ["replay", "-"], input=result.stdout).exit_code == 0


def test_replay_tells_a_changed_decision_from_one_under_other_law(command: typer.Typer, tmp_path: Path, law: LawBundle) -> None:
    document = decide(base_facts(), law).document()
    document["outcome"] = "DENY"
    forged = tmp_path / "forged.json"
    forged.write_bytes(canonical_json(document))
    result = CliRunner().invoke(command, ["replay", str(forged)])
    assert result.exit_code == 1 and "outcome" in result.stderr
    other = tmp_path / "other.json"
    other.write_bytes(decide(base_facts(), load_packs()).document_bytes())
    result = CliRunner().invoke(command, ["replay", str(other)])
    assert result.exit_code == 1 and "--law" in result.stderr


def test_a_forged_fact_does_not_replay(law: LawBundle) -> None:
    document = json.loads(decide(base_facts(), law).document_bytes())
    document["facts"]["reader"]["id"] = "r2"
    assert replay(document, law) != canonical_json(document)


def test_record_is_canonical_json_and_digest_is_its_sha256(law: LawBundle) -> None:
    facts = base_facts()
    facts["break_glass"] = {"reason_code": "TRAUMA", "text": 'Unfälle \u2028 \x7f "quoted" \\ \t \x01 €', "requested_by": "c7"}
    for pct in (0, 50, 12.5):
        facts["reader"]["employer"]["coc_ownership_pct"] = pct
        decision = decide(facts, law)
        assert record_bytes(decision.record(), False) == canonical_json(decision.record())
        assert decision.digest == digest(decision.record())
        assert replay(json.loads(decision.document_bytes()), law) == decision.document_bytes()


def test_record_names_confirmations_and_every_source(law: LawBundle) -> None:
    facts = {**base_facts(), "sources": {"reader.credentials": "credential register", "login": "login service"}}
    record = decide(facts, law).record()
    assert record["law_bundle"]["confirmations"]["set"] == "readgate-demo"
    assert record["facts"]["sources"] == {"*": "request", "login": "login service", "reader.credentials": "credential register"}
    gates = {gate["gate"]: gate for gate in record["gates"]}
    assert list(gates) == ["G0", "G1", "G2", "G3", "G4", "G5", "G6"]
    assert {"name": "dpa-1", "until": "2028-01-01T00:00:00Z"} in gates["G2"]["relied_on"]
    assert all(row["source"] and row["status"] == "CONFIRMED" for gate in record["gates"] for row in gate["rules"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"readerr": {}}, "unknown fact"),
        ({"object": {"colour": "red"}}, "object.colour"),
        ({"action": "LOOK"}, "action must be one of"),
        ({"at": "yesterday"}, "at must be an instant"),
        ({"at": "2026-11-22T10:00:00"}, "time zone"),
        ({"payer": "PUBLIC"}, "payer must be an object"),
        ({"evidence": {"id": "x"}}, "evidence must be a list"),
        ({"storage": {"country": "Ireland"}}, "ISO 3166"),
        ({"consent": {"status": "ACTIVE", "withdrawn_at": "2026-11-22T09:00:00Z"}}, "contradictory consent"),
        ({"origin": {"hospital": "h1", "jurisdiction": "IE", "sector": "PUBLIC", "flags": ["CONSENT_REQUIERD"]}}, "unknown flag"),
    ],
)
def test_bad_facts_are_refused_by_name(change: dict[str, Any], message: str, law: LawBundle, command: typer.Typer) -> None:
    facts = {**base_facts(), **change}
    with pytest.raises(BadInput, match=message):
        decide(facts, law)
    result = CliRunner().invoke(command, ["decide", "-"], input=json.dumps(facts))
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1 and not result.stdout


def test_contradictory_credentials_are_refused(law: LawBundle) -> None:
    facts = base_facts()
    licence = facts["reader"]["credentials"][0]
    facts["reader"]["credentials"].append({**licence, "status": "SUSPENDED"})
    with pytest.raises(BadInput, match="contradictory credential"):
        decide(facts, law)
    facts["reader"]["credentials"][-1] = {**licence, "expires": "2019-01-01T00:00:00Z"}
    with pytest.raises(BadInput, match="expires before it was issued"):
        decide(facts, law)


@pytest.mark.parametrize(
    "text", ["", "{", '{"at": 1, "at": 2}', "[1, 2]", "null", '"x"', "{}x", "[" * 100_000, '{"at": NaN}', "\udcff"], ids=range(10)
)
def test_bad_json_is_one_clear_line_and_exit_2(text: str, command: typer.Typer) -> None:
    result = CliRunner().invoke(command, ["decide", "-"], input=text.encode("utf-8", "surrogateescape"))
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1 and "Traceback" not in result.output


def test_nothing_at_all_is_denied_and_never_an_error(law: LawBundle) -> None:
    decision = decide({}, law)
    assert decision.outcome == "DENY"
    assert {"FACT_MISSING:at", "FACT_MISSING:reader.id", "FACT_MISSING:reader.credentials"} <= set(decision.reasons)


def test_unknown_jurisdictions_are_denied_by_name(law: LawBundle) -> None:
    facts = base_facts()
    facts["origin"]["jurisdiction"] = facts["patient"]["jurisdiction"] = facts["storage"]["country"] = "KE"
    assert "JURISDICTION_UNKNOWN:KE" in decide(facts, law).reasons
    facts = base_facts()
    facts["reader"]["residence"] = "ZZ"
    assert decide(facts, law).reasons == ("JURISDICTION_UNKNOWN:ZZ",)
    facts["reader"]["residence"] = "US-ZZ"
    assert decide(facts, law).reasons == ("JURISDICTION_UNKNOWN:US-ZZ",)


def test_a_login_seen_in_the_future_is_a_clock_run_backwards(law: LawBundle) -> None:
    facts = base_facts()
    facts["login"]["observed_at"] = "2026-11-22T10:00:01Z"
    assert decide(facts, law).reasons == ("FACT_FUTURE:login.observed_at",)
    now = datetime(2026, 11, 22, 10, tzinfo=UTC)
    refuse_backward_clock(None, now)
    refuse_backward_clock(now, now)
    with pytest.raises(Conflict, match="CLOCK_BACKWARDS"):
        refuse_backward_clock(now, now - timedelta(microseconds=1))


def test_routing_asks_for_no_login_and_storing_for_no_reader(law: LawBundle) -> None:
    facts = base_facts()
    del facts["login"]
    assert "FACT_MISSING:login.mfa" in decide(facts, law).reasons
    assert decide({**facts, "action": "ROUTE"}, law).outcome == "ALLOW"
    del facts["reader"]
    assert decide({**facts, "action": "STORE"}, law).outcome == "ALLOW"
    assert decide({**facts, "action": "STORE", "storage": {"country": "CN"}}, law).outcome == "DENY"


def test_a_traveller_is_where_the_login_is(law: LawBundle) -> None:
    facts = base_facts()
    facts["login"].update(declared_country="IN", ip_country="IN")
    assert "NO_TRANSFER_MECHANISM:EU:IN" in decide(facts, law).reasons


@pytest.mark.parametrize("kind", ["HOSTING", "VPN", "PROXY", "TOR", "UNKNOWN"])
def test_a_hidden_place_is_denied_and_alerted(kind: str, law: LawBundle) -> None:
    facts = base_facts()
    facts["login"]["ip_kind"] = kind
    decision = decide(facts, law)
    assert decision.reasons == (f"LOCATION_MASKED:{kind}",) and decision.alert


@pytest.mark.parametrize("status", ["SUSPENDED", "REVOKED", "LAPSED", "EXCLUDED"])
def test_a_credential_that_is_not_active_counts_for_nothing(status: str, law: LawBundle) -> None:
    facts = base_facts()
    facts["reader"]["credentials"][2]["status"] = status
    assert f"CRED_PRIVILEGE_{status}:h1" in decide(facts, law).reasons


def test_a_verification_older_than_three_years_counts_for_nothing(law: LawBundle) -> None:
    facts = base_facts()
    facts["reader"]["credentials"][0]["psv_at"] = "2023-11-01T00:00:00Z"
    assert "CRED_LICENCE_UNVERIFIED:ES" in decide(facts, law).reasons


@pytest.mark.parametrize("lost", ["term", "expires"])
def test_a_limited_consent_that_lost_its_limit_is_not_unlimited(lost: str, law: LawBundle) -> None:
    facts = facts_of("S24a")
    facts["consent"].update(term="LIMITED", expires="2026-12-01T00:00:00Z")
    decision = decide(facts, law)
    assert decision.outcome == "ALLOW" and decision.document()["valid_until"] == "2026-12-01T00:00:00Z"
    del facts["consent"][lost]
    with pytest.raises(BadInput, match="LIMITED and expires go together"):
        decide(facts, law)


@pytest.mark.parametrize(
    "change",
    [
        {"purpose": "TREAT"},
        {"patient": {"jurisdiction": "IE", "us_person": False, "can_consent": True}},
        {"consent": {"status": "REFUSED"}},
    ],
)
def test_break_glass_relaxes_nothing_but_an_unknown_consent_in_an_emergency(change: dict[str, Any], law: LawBundle) -> None:
    assert decide(facts_of("S25a"), law).outcome == "ALLOW"
    assert decide({**facts_of("S25a"), **change}, law).outcome == "DENY"


def test_break_glass_does_not_lend_a_consent_to_a_transfer(law: LawBundle) -> None:
    facts = facts_of("S22b")
    facts.update(purpose="ETREAT", consent={"status": "UNKNOWN"}, break_glass=facts_of("S25a")["break_glass"])
    assert "IN_SPDI_R7" in decide(facts, law).reasons


def test_law_counts_from_when_it_was_known(law: LawBundle) -> None:
    facts = facts_of("S21b")
    assert decide(facts, law).outcome == "ALLOW"
    early = decide(facts, law, known_at=datetime(2026, 1, 1, tzinfo=UTC))
    assert "NO_TRANSFER_MECHANISM:BR:PT" in early.reasons
    assert replay(json.loads(early.document_bytes()), law) == early.document_bytes()


def test_unconfirmed_law_never_grants(law: LawBundle) -> None:
    drafts = load_packs()
    for case in CASES:
        decision = decide(case.facts, drafts)
        assert decision.outcome == ("DENY" if case.expect["outcome"] == "DENY" else "REFER"), case.id
    assert decide(base_facts(), drafts).law != decide(base_facts(), law).law


def test_citizenship_changes_no_outcome(law: LawBundle) -> None:
    for case in CASES:
        facts = json.loads(json.dumps(case.facts))
        facts["reader"]["citizenship"] = "RU"
        assert decide(facts, law).reasons == decide(case.facts, law).reasons


def test_eligibility_is_one_decision_per_reader(law: LawBundle) -> None:
    study = {name: value for name, value in base_facts().items() if name not in ("reader", "login")}
    study["action"] = "ROUTE"
    readers = [{"reader": base_facts()["reader"]}, {"reader": {**base_facts()["reader"], "credentials": []}}]
    assert [decision.outcome for decision in eligible_readers(study, readers, law)] == ["ALLOW", "DENY"]


@pytest.mark.parametrize(("case", "counter"), [("S14a", "us_persons_12_months"), ("S18a", "sensitive_persons_this_year")])
def test_a_counter_a_rule_asks_about_and_nobody_kept_denies_by_name(case: str, counter: str, law: LawBundle) -> None:
    facts = {**facts_of(case), "counters": {}}
    decision = decide(facts, law)
    assert decision.outcome == "DENY" and f"FACT_MISSING:counters.{counter}" in decision.reasons


def test_many_decided_together_come_out_as_each_alone_byte_for_byte(law: LawBundle) -> None:
    """Papers and study are the same objects in many documents, readers differ, and some differ by nothing that is asked about."""
    studies = [random_facts(seed) for seed in range(0, 60)]
    readers = [random_facts(seed)["reader"] for seed in range(60, 80)]
    papers = [case.facts["evidence"] for case in CASES[:7]]
    documents = []
    for number, study in enumerate(studies):
        for at, reader in enumerate(readers):
            document = {**study, "reader": {**reader, "id": f"r{at}"}, "evidence": papers[(number + at) % len(papers)]}
            try:
                decide(document, law)
            except BadInput:
                continue
            documents.append(document)
    together = decide_many(documents, law)
    assert len(together) > 800 and {decision.outcome for decision in together} >= {"ALLOW", "DENY"}
    for document, decision in zip(documents, together, strict=True):
        assert decision.document_bytes() == decide(document, law).document_bytes()


def test_many_decided_together_refuse_what_one_alone_refuses(law: LawBundle) -> None:
    good, bad = base_facts(), base_facts()
    bad["origin"]["flags"] = ["NO_SUCH_FLAG"]
    with pytest.raises(BadInput, match="NO_SUCH_FLAG"):
        decide_many([good, bad], law)
