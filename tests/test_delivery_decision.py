"""The law is asked again when a report leaves: what forbids giving it back holds it, and nothing else does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlmodel import col, select

from compliance.audit import AuditEntry, EventType
from compliance.credential import Consent, Credential, Employer, Evidence
from compliance.decision import decide, replay
from compliance.decision_clock import move_clock
from compliance.decision_log import DecisionRow
from compliance.hospital import Hospital
from compliance.lawbook import SHIPPED_LAW, LawBundle, load_law
from compliance.principal import Principal
from crypto.errors import TemporarilyUnable
from gateway.register_effects import take_effect
from reporting.delivery_decision import ASK_AGAIN, LAW_SAYS_NO
from reporting.delivery_queue import Delivery, DeliveryState, note_failure
from tests.decision_cases import base_facts
from tests.gateway_site import PAGE, GatewaySite, gateway_site
from tests.signing_desk import Desk, deliveries_of, entries_of, is_log_sound

SANCTION: dict[str, Any] = {
    "id": "TEST_SANCTION",
    "kind": "PROHIBIT",
    "origin": ["ANY"],
    "when": [{"fact": "reader.employer.country", "within": ["RU"]}],
}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    """A site with a report of r1 that is signed and waits to be delivered, and with a sanction in its law."""
    with gateway_site(tmp_path / "site") as site:
        site.app.law = _law(tmp_path / "law", SANCTION)
        Desk(site).report()
        yield site


def _law(folder: Path, *rules: dict[str, Any]) -> LawBundle:
    shutil.copytree(SHIPPED_LAW, folder)
    common = {"valid_from": "2020-01-01", "known_from": "2020-01-01", "source": {"text": "A test", "section": "1"}}
    (folder / "added.yaml").write_text(yaml.safe_dump({"pack": "added", "title": "Added", "rules": [{**common, **rule} for rule in rules]}))
    return load_law(folder)


def _decisions(site: GatewaySite) -> list[DecisionRow]:
    with site.app.database.reading() as session:
        return list(session.exec(select(DecisionRow).where(DecisionRow.action == "DELIVER").order_by(col(DecisionRow.decided_at))).all())


def _sanction(site: GatewaySite, country: str = "RU") -> None:
    with site.app.database.transaction() as session:
        for firm in session.exec(select(Employer).where(Employer.employer_id == "e1")).all():
            firm.country = country
            session.add(firm)


def test_delivery_stands_on_a_recorded_decision_that_replays(site: GatewaySite) -> None:
    assert site.deliver() == [DeliveryState.DELIVERED] * 2
    row = _decisions(site)[0]
    assert (row.outcome, row.reasons, row.reader_id) == ("ALLOW", ["EU_INTRA"], "r1")
    assert replay(json.loads(row.document), site.app.law) == row.document.encode()
    entries = [entry for entry in entries_of(site, EventType.DELIVER) if entry.detail["state"] == "DELIVERED"]
    assert {entry.decision_digest for entry in entries} == {row.digest}
    with site.app.database.reading() as session:
        decided = session.exec(
            select(AuditEntry).where(AuditEntry.decision_digest == row.digest, AuditEntry.event_type == "RG_DECIDE")
        ).all()
    assert len(decided) == 2 and is_log_sound(site)


def test_prohibition_holds_the_report_back_and_the_hospital_sees_why(site: GatewaySite) -> None:
    _sanction(site)
    assert site.deliver() == [DeliveryState.QUEUED] * 2
    assert not site.outbox.documents and not [one for one in entries_of(site, EventType.REIDENTIFY) if one.actor == "readgate/deliver"]
    for row in deliveries_of(site):
        assert (row.denied_reasons, row.last_reason, row.attempts) == (["TEST_SANCTION"], LAW_SAYS_NO, 0)
    page = site.client("h1").get("/studies", headers=PAGE).text
    assert "TEST_SANCTION" in page and "Report held back by the law" in page
    # Asked again, and again, it waits; the same answer is recorded once.
    recorded = len(_decisions(site))
    for _ in range(12):
        site.clock.at += ASK_AGAIN
        assert site.deliver() == [DeliveryState.QUEUED] * 2
    assert len(_decisions(site)) == recorded and is_log_sound(site)


def test_report_leaves_at_once_when_the_prohibition_ends(site: GatewaySite) -> None:
    _sanction(site)
    site.deliver()
    assert site.deliver() == [], "it waits"
    _sanction(site, "ES")
    take_effect(site.app)
    assert site.deliver() == [DeliveryState.DELIVERED] * 2
    assert {row.denied_reasons == [] for row in deliveries_of(site)} == {True}
    assert len(site.outbox.documents) == 2


def test_delivery_that_failed_for_another_cause_since_is_asked_about_at_once_too(site: GatewaySite) -> None:
    _sanction(site)
    site.deliver()
    with site.app.database.transaction() as session:
        for row in session.exec(select(Delivery)).all():
            note_failure(session, row, "TEMPORARILY_UNABLE", is_permanent=False, now=site.clock.at)
            row.next_attempt_at = site.clock.at + timedelta(hours=4)
    _sanction(site, "ES")
    take_effect(site.app)
    assert site.deliver() == [DeliveryState.DELIVERED] * 2
    take_effect(site.app)
    assert {row.state for row in deliveries_of(site)} == {DeliveryState.DELIVERED}


def test_delivery_that_waits_for_no_law_keeps_its_time(site: GatewaySite) -> None:
    with site.app.database.transaction() as session:
        for row in session.exec(select(Delivery)).all():
            note_failure(session, row, "TEMPORARILY_UNABLE", is_permanent=False, now=site.clock.at)
    take_effect(site.app)
    assert all(row.next_attempt_at > site.clock.at for row in deliveries_of(site))


def test_report_that_the_law_holds_for_a_day_reaches_people(site: GatewaySite) -> None:
    def badge(person: str, path: str) -> bool:
        return 'class="count"' in _entry(site.client(person).get(path, headers=PAGE).text, path)

    _sanction(site)
    site.deliver()
    assert "readgate_deliveries_long_denied{" not in site.anonymous().get("/metrics").text
    site.clock.at += timedelta(hours=23)
    _log_in_again(site)
    assert "Report held back" not in site.client("po").get("/privacy/reviews", headers=PAGE).text and not badge("h1", "/studies")
    recorded = len(_decisions(site))
    site.clock.at += timedelta(hours=2)
    _log_in_again(site)
    page = site.client("po").get("/privacy/reviews", headers=PAGE).text
    assert page.count("Report held back<") == 2 and "TEST_SANCTION" in page
    assert badge("po", "/privacy/reviews") and badge("h1", "/studies") and not badge("h2", "/studies")
    assert 'readgate_deliveries_long_denied{hospital="h1"} 2.0' in site.anonymous().get("/metrics").text
    assert len(_decisions(site)) == recorded, "looking decides nothing"
    _sanction(site, "ES")
    take_effect(site.app)
    site.deliver()
    assert "Report held back<" not in site.client("po").get("/privacy/reviews", headers=PAGE).text
    assert "readgate_deliveries_long_denied{" not in site.anonymous().get("/metrics").text


def _log_in_again(site: GatewaySite) -> None:
    """At their next use: the sessions have run out."""
    site._clients.clear()


def _entry(page: str, path: str) -> str:
    """The navigation's entry of this page."""
    start = page.index(f'href="{path}"', page.index("<nav"))
    return page[start : page.index("</a>", start)]


def test_copy_that_was_made_before_the_law_said_no_is_not_downloaded(site: GatewaySite) -> None:
    site.outbox.refusal = TemporarilyUnable("the archive is away")
    site.deliver()
    _sanction(site)
    site.clock.at += timedelta(minutes=5)
    before = len(_decisions(site))
    answer = site.client("h1").get("/studies/1/report.pdf", headers=PAGE)
    assert answer.status_code == 403 and "TEST_SANCTION" in answer.text and "%PDF" not in answer.text
    last = _decisions(site)[-1]
    assert len(_decisions(site)) == before + 1 and last.reasons == ["TEST_SANCTION"]
    entry = [one for one in entries_of(site, EventType.DELIVER) if one.actor == "h1"][-1]
    assert (entry.decision_digest, entry.detail["reason"], entry.detail["reasons"]) == (last.digest, LAW_SAYS_NO, ["TEST_SANCTION"])
    _sanction(site, "ES")
    site.clock.at += timedelta(minutes=1)
    answer = site.client("h1").get("/studies/1/report.pdf", headers=PAGE)
    entry = [one for one in entries_of(site, EventType.DELIVER) if one.actor == "h1"][-1]
    assert answer.content.startswith(b"%PDF-") and entry.decision_digest == _decisions(site)[-1].digest and is_log_sound(site)


def test_report_that_its_hospital_has_is_downloaded_whatever_came_since(site: GatewaySite) -> None:
    site.deliver()
    _sanction(site)
    decided = len(_decisions(site))
    answer = site.client("h1").get("/studies/1/report.pdf", headers=PAGE)
    assert answer.content.startswith(b"%PDF-") and len(_decisions(site)) == decided


def _withdraw_consent(site: GatewaySite) -> None:
    with site.app.database.transaction() as session:
        session.add(
            Consent(
                hospital_id="h1", patient_pseudonym=site.study.patient_pseudonym, kind="SHARING", status="WITHDRAWN", version=2,
                given_at=site.clock.at - timedelta(days=9), withdrawn_at=site.clock.at, recorded_at=site.clock.at, recorded_by="po",
            )
        )  # fmt: skip


def _lapse_licence(site: GatewaySite) -> None:
    with site.app.database.transaction() as session:
        for row in session.exec(select(Credential).where(Credential.reader_id == "r1")).all():
            row.status, row.expires_at = "SUSPENDED", site.clock.at
            session.add(row)


def _let_evidence_end(site: GatewaySite) -> None:
    with site.app.database.transaction() as session:
        for row in session.exec(select(Evidence)).all():
            row.expires_at = site.clock.at
            session.add(row)


def _leave(site: GatewaySite) -> None:
    with site.app.database.transaction() as session:
        person = session.get(Principal, "r1")
        assert person is not None
        person.is_active = False
        session.add(person)


@pytest.mark.parametrize("change", [_withdraw_consent, _lapse_licence, _let_evidence_end, _leave])
def test_what_ends_reading_does_not_keep_a_signed_report_from_its_hospital(site: GatewaySite, change: Any) -> None:
    change(site)
    site.clock.at += timedelta(seconds=1)
    assert site.deliver() == [DeliveryState.DELIVERED] * 2


def test_origin_that_no_regime_names_gets_nothing(site: GatewaySite) -> None:
    with site.app.database.transaction() as session:
        hospital = session.get(Hospital, "h1")
        assert hospital is not None
        hospital.jurisdiction = "KE"
        session.add(hospital)
    assert site.deliver() == [DeliveryState.QUEUED] * 2
    assert "JURISDICTION_UNKNOWN:KE" in deliveries_of(site)[0].denied_reasons


def test_rule_that_refers_to_a_person_holds_the_report_too(site: GatewaySite, tmp_path: Path) -> None:
    rule = {"id": "TEST_ASK", "kind": "REQUIRE", "gate": "G5", "origin": ["ANY"], "actions": ["DELIVER"], "outcome": "REFER"}
    site.app.law = _law(tmp_path / "other", {**rule, "needs": [{"evidence": "LETTER"}]})
    assert site.deliver() == [DeliveryState.QUEUED] * 2
    assert deliveries_of(site)[0].denied_reasons == ["EVIDENCE_MISSING:LETTER", "TEST_ASK"]


def test_clock_that_runs_backwards_is_tried_again_and_never_a_dead_letter(site: GatewaySite) -> None:
    with site.app.database.transaction() as session:
        move_clock(session, site.clock.at + timedelta(hours=1))
    assert site.deliver() == [DeliveryState.QUEUED] * 2
    assert not site.outbox.documents
    with site.app.database.reading() as session:
        assert {row.last_reason for row in session.exec(select(Delivery)).all()} == {"TEMPORARILY_UNABLE"}


# --- the engine ---------------------------------------------------------------------------------------------------------------


def _delivery_facts(**changes: Any) -> dict[str, Any]:
    facts = base_facts()
    facts.update(action="DELIVER", **changes)
    return facts


def test_delivery_asks_for_no_login_no_credentials_and_no_consent() -> None:
    facts = _delivery_facts(login={}, consent={"status": "WITHDRAWN"}, evidence=[])
    facts["reader"]["credentials"] = []
    facts["origin"]["flags"] = ["CONSENT_REQUIRED", "REQUIRE_REGISTER:GMC"]
    decision = decide(facts, load_law())
    assert (decision.outcome, decision.reasons, decision.obligations) == ("ALLOW", ("EU_INTRA",), ())


@pytest.mark.parametrize(
    ("origin", "reason"),
    [("US-TX", "US_DOMESTIC"), ("GB", "UK_DOMESTIC"), ("AE-DU", "AE_DOMESTIC"), ("SA", "SA_DOMESTIC"), ("CN", "CN_DOMESTIC"),
     ("AU-NSW", "AU_DOMESTIC"), ("CA-NS", "CA_DOMESTIC"), ("BR", "BR_DOMESTIC"), ("IN", "IN_DOMESTIC"), ("CH", "CH_DOMESTIC")],
)  # fmt: skip
def test_every_regime_lets_a_report_go_home(origin: str, reason: str) -> None:
    facts = _delivery_facts(login={})
    facts["origin"].update(jurisdiction=origin, flags=["PUBLIC_BODY"])
    facts["patient"]["jurisdiction"] = origin
    decision = decide(facts, load_law())
    assert (decision.outcome, decision.reasons) == ("ALLOW", (reason,))


def test_country_of_concern_holds_a_report_for_the_united_states() -> None:
    facts = _delivery_facts(login={})
    facts["origin"]["jurisdiction"] = facts["patient"]["jurisdiction"] = "US-TX"
    facts["reader"]["employer"]["coc_ownership_pct"] = 50
    decision = decide(facts, load_law())
    assert (decision.outcome, decision.reasons) == ("DENY", ("HOUSE_POLICY_COC",))


@pytest.mark.parametrize("name", ["origin", "reader", "object", "patient", "storage"])
def test_delivery_with_a_fact_missing_is_denied(name: str) -> None:
    facts = _delivery_facts()
    del facts[name]
    assert decide(facts, load_law()).outcome == "DENY"
