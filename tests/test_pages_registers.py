"""The registers: what is added, suspended or withdrawn counts at once, for those who read now and for those who might."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import col, select

from compliance import audit
from compliance.credential import Consent, Credential, standing_credentials
from compliance.evidence_document import EvidenceDocument
from compliance.reminders import remind
from gateway.register_note import open_reason
from tests.gateway_site import PAGE, GatewaySite, gateway_site
from tests.test_consent_fhir import actor, resource, said_at
from worklist.procedure_step import State
from worklist.routed_reader import eligible_ids
from worklist.workitem import require_step


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "data") as made:
        yield made


def page(site: GatewaySite, who: str, path: str) -> str:
    answer = site.client(who).get(path, headers=PAGE)
    assert answer.status_code == 200, answer.text
    return answer.text


def credential(site: GatewaySite, reader_id: str, kind: str) -> int:
    with site.app.database.reading() as session:
        found = next(row.credential_pk for row in standing_credentials(session, reader_id) if row.kind == kind)
    assert found is not None
    return found


def eligible(site: GatewaySite) -> list[str]:
    with site.app.database.reading() as session:
        return eligible_ids(session, require_step(session, site.step_uid).study_pk)


def licence_form(site: GatewaySite, reader_id: str, **changed: str) -> dict[str, str]:
    today = site.clock().date()
    form = {
        "reader": reader_id,
        "kind": "LICENCE",
        "subject": "ES",
        "issued": str(today - timedelta(days=10)),
        "expires": str(today + timedelta(days=300)),
        "verified": str(today - timedelta(days=1)),
        "method": "register of the chamber",
    }
    return {**form, **changed}


def test_a_suspended_licence_ends_the_claim_before_the_page_answers(site: GatewaySite) -> None:
    step_uid = site.claim()
    answer = site.post("po", f"/credentials/{credential(site, 'r1', 'LICENCE')}/suspend", reason="Letter of the chamber")
    assert answer.headers["location"] == "/credentials?done=changed"
    with site.app.database.reading() as session:
        step = require_step(session, step_uid)
        changes = session.exec(
            select(audit.AuditEntry)
            .where(audit.AuditEntry.event_type == audit.EventType.USER_SECURITY_CHANGED)
            .order_by(col(audit.AuditEntry.entry_index).desc())
        ).first()
    assert step.state == State.CANCELED and (step.cancellation_reason or "").startswith("CRED_LICENCE_SUSPENDED")
    assert changes is not None and (changes.actor, open_reason(site.app.keys, changes)) == ("po", "Letter of the chamber")
    assert "Letter of the chamber" not in str(changes.detail), "people write names"
    assert eligible(site) == []
    assert "No reader may read it" in page(site, "h1", "/studies")
    shown = page(site, "po", "/credentials?q=Suspended&done=changed")
    assert "Reinstate" in shown and "It counts from now on" in shown


def test_a_reinstated_licence_opens_the_list_again(site: GatewaySite) -> None:
    site.post("po", f"/credentials/{credential(site, 'r1', 'LICENCE')}/suspend", reason="Letter of the chamber")
    assert eligible(site) == []
    site.post("po", f"/credentials/{credential(site, 'r1', 'LICENCE')}/reinstate", reason="Letter withdrawn")
    assert eligible(site) == ["r1"]


def test_a_superseded_credential_cannot_be_changed(site: GatewaySite) -> None:
    key = credential(site, "r1", "LICENCE")
    site.post("po", f"/credentials/{key}/suspend", reason="Letter of the chamber")
    assert site.post("po", f"/credentials/{key}/reinstate", reason="From an old page").status_code == 404
    assert site.post("po", "/credentials/12345/suspend", reason="No such thing").status_code == 404
    assert site.post("po", f"/credentials/{credential(site, 'r1', 'LICENCE')}/promote", reason="No such act").status_code == 404


def test_a_new_licence_makes_a_reader_eligible_for_what_waits(site: GatewaySite) -> None:
    assert "r3" not in eligible(site)
    answer = site.post("po", "/credentials", **licence_form(site, "r3"))
    assert answer.status_code == 303, answer.text
    assert eligible(site) == ["r1", "r3"]
    assert f"/worklist/{site.step_uid}/claim" in page(site, "r3", "/worklist")


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "DIPLOMA"},
        {"subject": ""},
        {"subject": "QQ"},
        {"subject": "España"},
        {"reader": "nobody"},
        {"expires": "soon"},
        {"expires": "2020-01-01"},
        {"verified": "2999-01-01"},
        {"kind": "PRIVILEGE", "subject": "h1", "modalities": "C\u00d7T"},
        {"kind": "COVER", "subject": ","},
    ],
    ids=str,
)
def test_a_credential_the_engine_could_not_read_is_not_registered(site: GatewaySite, changed: dict[str, str]) -> None:
    with site.app.database.reading() as session:
        before = len(session.exec(select(Credential)).all())
    answer = site.post("po", "/credentials", **licence_form(site, "r3", **changed))
    assert answer.status_code == 422 and "Nothing was changed." in answer.text
    with site.app.database.reading() as session:
        assert len(session.exec(select(Credential)).all()) == before
    assert eligible(site) == ["r1"], "the law can still be asked about every reader"


def test_a_credential_that_contradicts_another_is_refused(site: GatewaySite) -> None:
    site.post("po", f"/credentials/{credential(site, 'r1', 'LICENCE')}/suspend", reason="Letter of the chamber")
    answer = site.post("po", "/credentials", **licence_form(site, "r1"))
    assert answer.status_code == 422 and "contradictory credential" in answer.text


def test_withdrawn_evidence_ends_the_claim_and_new_evidence_brings_readers(site: GatewaySite) -> None:
    step_uid = site.claim()
    assert site.post("po", "/evidence/dpa-1/withdraw").status_code == 400  # no reason given
    assert site.post("po", "/evidence/dpa-1/withdraw", reason="Contract ended").status_code == 303
    with site.app.database.reading() as session:
        assert require_step(session, step_uid).state == State.CANCELED
    assert eligible(site) == []
    assert site.post("po", "/evidence/dpa-1/withdraw", reason="Again").status_code == 404
    today = site.clock().date()
    form = {"type": "DPA", "hospital": "h1", "employer": "e1", "issued": str(today), "expires": str(today + timedelta(days=9))}
    assert site.post("po", "/evidence", **form).status_code == 303
    assert eligible(site) == ["r1"]
    assert "Expires in" in page(site, "po", "/evidence?q=DPA")


@pytest.mark.parametrize(
    "changed",
    [{"type": "PROMISE"}, {"hospital": "", "employer": ""}, {"employer": "e9"}, {"digest": "abc"}, {"issued": "2030-01-01"}],
    ids=str,
)
def test_evidence_without_type_party_or_time_is_refused(site: GatewaySite, changed: dict[str, str]) -> None:
    form = {"type": "DPA", "hospital": "h1", "employer": "e1", "issued": "2026-01-01", "expires": "2027-01-01", **changed}
    assert site.post("po", "/evidence", **form).status_code == 422


def consent_form(site: GatewaySite, **changed: str) -> dict[str, Any]:
    form = {
        "hospital": "h1",
        "patient": site.study.patient_pseudonym,
        "kind": "SHARING",
        "status": "ACTIVE",
        "given": str(site.clock().date() - timedelta(days=1)),
    }
    return {**form, **changed}


def test_a_withdrawn_consent_takes_the_images_away(site: GatewaySite) -> None:
    assert site.post("po", "/consents", **consent_form(site)).status_code == 303
    step_uid = site.claim()
    assert site.client("r1").get(f"/dicom-web/studies/{site.study_instance_uid}/metadata").status_code == 200
    with site.app.database.reading() as session:
        key = session.exec(select(Consent.consent_pk)).one()
    assert site.post("po", f"/consents/{key}/withdraw", reason="Letter of the patient").status_code == 303
    assert site.client("r1").get(f"/dicom-web/studies/{site.study_instance_uid}/metadata").status_code == 404
    beat = site.post_json("r1", f"/read/{step_uid}/heartbeat", {})
    assert (beat.status_code, beat.json()["reason_code"]) == (403, "CONSENT_WITHDRAWN")
    assert eligible(site) == []
    assert "the right of Dra. Inés Valverde Ortiz ended. The patient withdrew the consent." in page(site, "h1", "/studies")
    assert "Withdrawn" in page(site, "po", "/consents")


@pytest.mark.parametrize(
    "changed",
    [{"patient": "RG-0000000000"}, {"hospital": "h2"}, {"status": "UNKNOWN"}, {"kind": "VERBAL"}, {"given": "2999-01-01"}],
    ids=str,
)
def test_a_consent_of_nobody_or_of_no_kind_is_refused(site: GatewaySite, changed: dict[str, str]) -> None:
    assert site.post("po", "/consents", **consent_form(site, **changed)).status_code == 422


def test_ending_the_access_of_a_reader_ends_login_and_claim_at_once(site: GatewaySite) -> None:
    step_uid = site.claim()
    assert site.post("op", "/readers/r1/end", reason="Left the firm").status_code == 303
    assert site.client("r1").get("/worklist", headers=PAGE).headers["location"].startswith("/login")
    with site.app.database.reading() as session:
        assert require_step(session, step_uid).state == State.CANCELED
    assert eligible(site) == []
    assert "Access ended" in page(site, "op", "/readers?q=r1")
    assert site.post("op", "/readers/po/end", reason="Not a reader").status_code == 404


def test_hospitals_are_listed_with_senders_and_targets(site: GatewaySite) -> None:
    shown = page(site, "op", "/hospitals")
    assert "Klinikum Lindenau" in shown and "H1_PACS (TLS, plaintext)" in shown and "Encapsulated PDF to H1_ARCHIVE by C-STORE" in shown


def test_a_change_that_touches_nobody_writes_no_decision(site: GatewaySite) -> None:
    with site.app.database.reading() as session:
        before = len(list(audit.entries(session)))
    form = licence_form(site, "r2", subject="US-NY")
    assert site.post("po", "/credentials", **form).status_code == 303
    with site.app.database.reading() as session:
        added = [row.event_type for row in audit.entries(session, start=before)]
    assert audit.EventType.DECIDE not in added and audit.EventType.ROUTE not in added


def test_a_consent_is_imported_shown_in_sentences_and_exported(site: GatewaySite) -> None:
    step_uid = site.claim("r1")
    provision = {"type": "deny", "actor": [actor("Practitioner/r1")]}
    document = resource(site.study.patient_pseudonym, dateTime=said_at(site), provision=provision)
    files = {"file": ("consent.json", json.dumps(document).encode(), "application/json")}
    form = {"csrf_token": site.csrf("po")}
    answer = site.client("po").post("/consents/import", data=form, files=files, headers=PAGE)
    assert (answer.status_code, answer.headers.get("location")) == (303, "/consents?done=imported"), answer.text
    with site.app.database.reading() as session:
        assert require_step(session, step_uid).state == State.CANCELED
        key = session.exec(select(Consent.consent_pk)).one()
    shown = page(site, "po", f"/consents/{key}")
    assert "Denied: reads by reader r1." in shown and site.study.patient_pseudonym in shown
    exported = site.client("po").get(f"/consents/{key}/fhir")
    assert exported.json()["provision"]["provision"][0]["type"] == "deny" and "no-store" in exported.headers["cache-control"]


@pytest.mark.parametrize(
    ("pasted", "words"),
    [
        ("", "one of the two"),
        ('{"resourceType": "Consent", "status": "draft"}', "Consent.status"),
        ('{"a": 1, "a": 2}', "names something twice"),
        ('{"resourceType": "Consent", "modifierExtension": [{"url": "Erika"}]}', "Consent.modifierExtension: not understood"),
    ],
    ids=["nothing", "draft", "twice", "modifier"],
)
def test_a_consent_that_is_not_understood_is_refused_with_its_place(site: GatewaySite, pasted: str, words: str) -> None:
    form = {"csrf_token": site.csrf("po"), "document": pasted}
    answer = site.client("po").post("/consents/import", data=form, files={"file": ("", b"")}, headers=PAGE)
    assert answer.status_code == 422 and words in answer.text and "Erika" not in answer.text
    with site.app.database.reading() as session:
        assert session.exec(select(Consent)).all() == []


def test_an_older_yes_does_not_undo_a_newer_no(site: GatewaySite) -> None:
    assert site.post("po", "/consents", **consent_form(site, status="REFUSED", given=str(site.clock().date()))).status_code == 303
    answer = site.post("po", "/consents", **consent_form(site))
    assert answer.status_code == 422 and "an older word does not replace it" in answer.text
    assert eligible(site) == []
    site.clock.forward(seconds=1)
    assert site.post("po", "/consents", **consent_form(site, given=str(site.clock().date()))).status_code == 303
    assert eligible(site) == ["r1"]


def test_the_document_of_evidence_is_kept_sealed_and_opened_by_the_officer_alone(site: GatewaySite) -> None:
    content = b"%PDF-1.7 \0 agreement between the hospital and the firm" + b"x" * 1_500_000
    today = site.clock().date()
    form = {
        "csrf_token": site.csrf("po"),
        "type": "DPA",
        "hospital": "h1",
        "employer": "e1",
        "issued": str(today),
        "expires": str(today + timedelta(days=9)),
    }
    files = {"document": ("Vertrag Klinikum.pdf", content, "application/pdf")}
    assert site.client("po").post("/evidence", data=form, files=files, headers=PAGE).status_code == 303
    with site.app.database.reading() as session:
        row = session.exec(select(EvidenceDocument)).one()
        assert b"agreement" not in row.sealed
    path = f"/evidence/{row.evidence_id}/document"
    digest = hashlib.sha256(content).hexdigest()
    assert f'href="{path}"' in page(site, "po", "/evidence") and digest[:12] in page(site, "po", "/evidence")
    opened = site.client("po").get(path)
    assert opened.content == content and "Vertrag" not in str(opened.headers) and "attachment" in opened.headers["content-disposition"]
    for stranger in ("op", "h1", "r1"):
        assert site.client(stranger).get(path).status_code == 403
    with site.app.database.reading() as session:
        entries = session.exec(select(audit.AuditEntry).where(audit.AuditEntry.object_id == f"evidence/{row.evidence_id}")).all()
    assert [(entry.action, entry.actor) for entry in entries] == [("C", "po"), ("R", "po")]


def test_a_document_needs_the_token_and_is_never_replaced(site: GatewaySite) -> None:
    files = {"document": ("a.pdf", b"one", "application/pdf")}
    client = site.client("po")
    assert client.post("/evidence/dpa-1/document", files=files, headers=PAGE).status_code == 403
    form = {"csrf_token": site.csrf("po")}
    assert client.post("/evidence/dpa-1/document", data=form, files=files, headers=PAGE).status_code == 303
    other = {"document": ("a.pdf", b"two", "application/pdf")}
    refused = client.post("/evidence/dpa-1/document", data=form, files=other, headers=PAGE)
    assert refused.status_code == 422 and "the register names another document" in refused.text
    large = {"document": ("a.pdf", b"x" * (18 * 1024 * 1024), "application/pdf")}
    assert client.post("/evidence/dpa-2/document", data=form, files=large, headers=PAGE).status_code == 413


def test_what_was_written_is_opened_with_a_reason_and_the_opening_is_on_record(site: GatewaySite) -> None:
    site.post("po", f"/credentials/{credential(site, 'r1', 'LICENCE')}/suspend", reason="Letter of Dr. Example")
    with site.app.database.reading() as session:
        entry = session.exec(select(audit.AuditEntry).where(col(audit.AuditEntry.sealed_body).is_not(None))).one()
    path = f"/privacy/entries/{entry.entry_index}"
    shown = page(site, "po", path)
    assert "Letter of Dr. Example" not in shown and "Open what was written" in shown and "SUSPENDED" in shown
    assert site.post("po", f"{path}/open").status_code == 400, "no reason given"
    assert site.post("h1", f"{path}/open", reason="Curious").status_code == 403
    opened = site.post("po", f"{path}/open", reason="Complaint of the reader")
    assert opened.status_code == 200 and "Letter of Dr. Example" in opened.text
    assert "Letter of Dr. Example" not in page(site, "po", path), "shown once"
    with site.app.database.reading() as session:
        opening = session.exec(select(audit.AuditEntry).where(audit.AuditEntry.object_id == f"entry/{entry.entry_index}")).one()
    assert (opening.actor, opening.detail["entry"]) == ("po", entry.entry_index)
    assert open_reason(site.app.keys, opening) == "Complaint of the reader"
    plain = next(index for index in range(entry.entry_index) if index != entry.entry_index)
    assert site.post("po", f"/privacy/entries/{plain}/open", reason="Nothing there").status_code == 404


def test_an_empty_list_says_why_by_reason_alone(site: GatewaySite) -> None:
    study = site.study
    shown = page(site, "r3", "/worklist")
    assert "1 open study is not for you" in shown and "1 study: The licence has expired (ES)." in shown
    for told in (study.patient_pseudonym, study.accession_pseudonym, "Klinikum Lindenau</td>", study.description):
        assert told not in shown
    assert "No study matches" in page(site, "r3", "/worklist?modality=MR")


def test_reminders_reach_the_officer_the_reader_and_the_metrics(site: GatewaySite) -> None:
    site.clock.forward(days=295)  # the covers of the demonstration run 300 days
    with site.app.database.transaction() as session:
        remind(session, now=site.clock.at)
    assert 'href="/privacy/reviews">Reviews <span class="count">4</span>' in page(site, "po", "/privacy")
    assert "Your cover ends on" in page(site, "r1", "/worklist")
    assert 'readgate_reminders_unseen{days="7"} 4.0' in site.anonymous().get("/metrics").text
    key = min(re.findall(r"/privacy/reviews/reminders/(\d+)/seen", page(site, "po", "/privacy/reviews")))
    for _ in range(2):
        site.post("po", f"/privacy/reviews/reminders/{key}/seen")
    with site.app.database.reading() as session:
        seen = session.exec(select(audit.AuditEntry).where(audit.AuditEntry.object_id == f"reminder/{key}")).all()
    assert [entry.actor for entry in seen] == ["po"], "acknowledged once, on record once"
