"""Audit entries in other people's words: DICOM PS3.15 A.5 messages, FHIR R4 AuditEvents, and the two reports the law asks for."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from xml.etree import ElementTree

import pytest
from fhir.resources.R4B.auditevent import AuditEvent as FhirAuditEvent
from sqlmodel import select

from compliance.audit import AuditEntry, EventId, EventType, entries
from compliance.audit_fhir import BALP, audit_event
from compliance.audit_rendering import AuditSource, audit_message, is_disclosure
from crypto.errors import NotFound
from gateway.audit_reports import accounting_of_disclosures, readable, records_of_processing
from tests.builders import make_ct_study
from tests.gateway_site import PAGE, GatewaySite, gateway_site

SOURCE = AuditSource("readgate.audit", "exchange")
#: The order of PS3.15 A.5.1's schema.
ORDER = ["EventIdentification", "ActiveParticipant", "AuditSourceIdentification", "ParticipantObjectIdentification"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewaySite]:
    """A study that went all the way: every step's entries are there."""
    with gateway_site(tmp_path_factory.mktemp("rendering") / "site") as opened:
        step_uid = opened.claim()
        opened.client("r1").get(f"/read/{step_uid}", headers=PAGE)
        opened.write(step_uid)
        opened.sign(step_uid)
        opened.deliver()
        yield opened


def log_of(site: GatewaySite) -> list[AuditEntry]:
    with site.app.database.reading() as session:
        return list(entries(session))


def test_every_entry_is_a_message_in_the_schemas_order(site: GatewaySite) -> None:
    for entry in log_of(site):
        message = ElementTree.fromstring(audit_message(entry, SOURCE, patient_pseudonym="RG-1"))
        tags = [child.tag for child in message]
        assert tags == sorted(tags, key=ORDER.index)
        event = message.find("EventIdentification")
        assert event is not None
        assert event.attrib["EventActionCode"] in "CRUDE"
        assert event.attrib["EventOutcomeIndicator"] in ("0", "4", "8", "12")
        assert [child.attrib["csd-code"] for child in event][:2] == [entry.event_id, entry.event_type]
        assert sum(one.attrib["UserIsRequestor"] == "true" for one in message.iter("ActiveParticipant")) == 1
        for participant in message.iter("ParticipantObjectIdentification"):
            assert [child.tag for child in participant][:2] == ["ParticipantObjectIDTypeCode", "ParticipantObjectName"]


def test_a_study_is_said_to_be_anonymized_and_encrypted(site: GatewaySite) -> None:
    entry = next(one for one in log_of(site) if one.event_type == EventType.OPEN)
    message = ElementTree.fromstring(audit_message(entry, SOURCE))
    described = [(child.tag, child.text) for one in message.iter("ParticipantObjectDescription") for child in one]
    assert described == [("Encrypted", "true"), ("Anonymized", "true")]
    roles = {code.attrib["csd-code"] for code in message.iter("RoleIDCode")}
    assert roles == {"110152", "110153"}


def test_every_entry_is_a_valid_fhir_resource(site: GatewaySite) -> None:
    for entry in log_of(site):
        for pseudonym in (None, "RG-1"):
            FhirAuditEvent.model_validate(audit_event(entry, SOURCE, patient_pseudonym=pseudonym))


def test_disclosures_and_decisions_claim_their_balp_profiles(site: GatewaySite) -> None:
    claimed = {}
    for entry in log_of(site):
        event = audit_event(entry, SOURCE, patient_pseudonym="RG-1" if entry.study_instance_uid else None)
        for profile in event.get("meta", {}).get("profile", []):
            claimed.setdefault(profile.removeprefix(BALP), []).append(event)
            assert {"patient"} <= {"patient" if one["role"]["code"] == "1" else "" for one in event["entity"]}
    assert set(claimed) == {"PrivacyDisclosure.Source", "AuthZconsent"}
    disclosure = claimed["PrivacyDisclosure.Source"][0]
    assert (disclosure["type"]["code"], disclosure["action"]) == (EventId.EXPORT, "R")
    assert [agent["type"]["coding"][0]["code"] for agent in disclosure["agent"]] == ["110153", "110152"]
    decision = claimed["AuthZconsent"][0]
    assert (decision["type"]["code"], decision["action"], decision["outcome"]) == (EventId.SECURITY_ALERT, "E", "0")


def test_no_rendering_names_a_patient(site: GatewaySite) -> None:
    sample = make_ct_study(instances=1)[0]
    text = "".join(str(audit_event(one, SOURCE)) + audit_message(one, SOURCE).decode() for one in log_of(site))
    for value in (sample.PatientID, str(sample.PatientName), sample.StudyInstanceUID, sample.AccessionNumber):
        assert str(value) not in text


def test_the_accounting_has_a_row_per_recipient_for_every_opening(site: GatewaySite) -> None:
    now = site.clock.at
    with site.app.database.reading() as session:
        report = accounting_of_disclosures(session, "h1", until=now + timedelta(seconds=1))
        without = accounting_of_disclosures(session, "h1", until=now + timedelta(seconds=1), without_tpo=True)
        before = accounting_of_disclosures(session, "h1", until=now - timedelta(days=400))
        openings = session.exec(select(AuditEntry).where(AuditEntry.event_type == EventType.OPEN)).all()
        with pytest.raises(NotFound):
            accounting_of_disclosures(session, "h7", until=now)
    assert openings
    [row] = report["disclosures"]
    assert row["entries"] == [entry.entry_index for entry in openings if is_disclosure(entry)]
    assert (row["recipient"]["id"], row["recipient"]["country"], row["purpose"], row["is_tpo"]) == ("r1", "ES", "TREAT", True)
    assert (without["disclosures"], before["disclosures"]) == ([], [])
    assert "1 disclosures" in readable(report)
    assert row["recipient"]["name"] in readable(report)


def test_the_records_of_processing_name_recipients_and_safeguards(site: GatewaySite) -> None:
    with site.app.database.reading() as session:
        report = records_of_processing(session, "h1", site.app.law, at=site.clock.at, contact={"controller_dpo": "dpo@example"})
    [recipient] = report["controller"]["recipients"]
    assert recipient["is_third_country"] is False
    assert recipient["safeguards"] == ["DPA (dpa-1)"]
    assert report["processor"]["transfers"] == []
    assert report["controller"]["data_protection_officer"] == "dpo@example"
    assert "Art. 30(2)" in readable(report)


def test_reports_are_made_of_the_same_rows_twice(site: GatewaySite) -> None:
    until = site.clock.at + timedelta(seconds=1)
    with site.app.database.reading() as session:
        assert accounting_of_disclosures(session, "h1", until=until) == accounting_of_disclosures(session, "h1", until=until)
