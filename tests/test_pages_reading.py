"""The reader's pages on a whole deployment: claim, write, sign, add, and what a page is told when its right ends."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlmodel import col, select

from compliance.audit import AuditEntry, EventType, Outcome, tree_head
from compliance.credential import Evidence, standing_credentials
from compliance.hospital import Hospital
from compliance.study import open_study_key, require_study, seal_order_text, series_of
from gateway.register_effects import take_effect
from gateway.register_entries import change_credential_status
from reporting.report import Report
from tests.gateway_site import PAGE, GatewaySite, gateway_site
from worklist.claim import expire_leases
from worklist.workitem import ProcedureStep, require_step


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "data") as made:
        yield made


def read(site: GatewaySite, step_uid: str, who: str = "r1") -> str:
    answer = site.client(who).get(f"/read/{step_uid}", headers=PAGE)
    assert answer.status_code == 200, answer.text
    return answer.text


def signed_fields(preview: str) -> dict[str, str]:
    return dict(re.findall(r'name="(draft_version|report_digest|manifest_digest|order_digest)" value="([^"]*)"', preview))


def audit_count(site: GatewaySite) -> int:
    with site.app.database.reading() as session:
        return tree_head(session).size


def test_worklist_offers_a_study_to_the_reader_who_may_and_says_why_to_the_one_who_may_not(site: GatewaySite) -> None:
    mine = site.client("r1").get("/worklist", headers=PAGE).text
    assert f'hx-post="/worklist/{site.step_uid}/claim"' in mine
    lapsed = site.client("r3").get("/worklist?state=refused", headers=PAGE).text
    assert "The licence has expired (ES)." in lapsed and "CRED_LICENCE_EXPIRED:ES" in lapsed
    assert f"/worklist/{site.step_uid}/claim" not in lapsed
    assert site.step_uid not in site.client("r3").get("/worklist", headers=PAGE).text


def test_claim_opens_the_reading_page_with_images_and_indication(site: GatewaySite) -> None:
    page = read(site, site.claim())
    with site.app.database.reading() as session:
        series = series_of(session, site.study.study_pk or 0)[0]
    assert f"initialSeriesInstanceUID={series.series_instance_uid}" in page
    assert "Headache for three days." in page
    assert 'data-heartbeat-seconds="3"' in page
    assert '<option value="FINAL" selected>Final</option>' in page


def test_claim_from_the_list_leads_to_the_reading_page(site: GatewaySite) -> None:
    headers = {"HX-Request": "true", "X-CSRF-Token": site.csrf("r1")}
    answer = site.client("r1").post(f"/worklist/{site.step_uid}/claim", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["HX-Redirect"] == f"/read/{site.step_uid}"


def test_a_refused_claim_says_why_in_the_row(site: GatewaySite) -> None:
    headers = {"HX-Request": "true", "X-CSRF-Token": site.csrf("r4")}
    answer = site.client("r4").post(f"/worklist/{site.step_uid}/claim", headers=headers)
    assert answer.status_code == 200 and "HX-Redirect" not in answer.headers
    assert "The privilege at the hospital is not on file" in answer.text


def test_another_readers_step_is_not_found(site: GatewaySite) -> None:
    step_uid = site.claim("r1")
    for path in (f"/read/{step_uid}", f"/read/{step_uid}/sign"):
        assert site.client("r2").get(path, headers=PAGE).status_code == 404
    assert site.post_json("r2", f"/read/{step_uid}/heartbeat", {}).status_code == 404
    assert site.write(step_uid, "r2").status_code in (404, 409, 403)


def test_a_draft_is_kept_as_it_was_typed_and_comes_back(site: GatewaySite) -> None:
    step_uid = site.claim()
    answer = site.write(step_uid, findings="Line one \nline two\n", impression="Normal\u200b.")
    assert answer.json()["version"] == 1, answer.text
    page = read(site, step_uid)
    assert "Line one\nline two</textarea>" in page and 'data-version="1"' in page


def test_a_second_window_does_not_overwrite_the_first(site: GatewaySite) -> None:
    step_uid = site.claim()
    assert site.write(step_uid, findings="The first window.").status_code == 200
    answer = site.write(step_uid, findings="The second window.")
    assert answer.status_code == 409
    assert answer.json()["reason_code"] == "DRAFT_MOVED_ON"
    assert "another window" in answer.json()["detail"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": -1},
        {"kind": "final"},
        {"sections": {"findings": "x", "indication": "y"}},
        {"critical": {"is_critical": True, "communicated_at": "yesterday"}},
        {"critical": {"is_critical": True, "communicated_at": "2026-01-01T00:00:00"}},
        {"more": 1},
    ],
    ids=str,
)
def test_a_draft_of_another_shape_is_not_understood(site: GatewaySite, wrong: dict[str, object]) -> None:
    body: dict[str, object] = {"version": 0, "kind": "FINAL", "sections": {"findings": "SECRET"}, **wrong}
    answer = site.post_json("r1", f"/read/{site.step_uid}/draft", body)
    assert answer.status_code == 400
    assert "SECRET" not in answer.text


def test_critical_result_is_kept_with_its_instant(site: GatewaySite) -> None:
    step_uid = site.claim()
    critical = {
        "is_critical": True,
        "statement": "Subdural haematoma",
        "communicated_to": "Emergency physician",
        "communicated_at": "2026-01-02T03:04:00.000Z",
    }
    body = {"version": 0, "kind": "FINAL", "sections": {"findings": "A.", "impression": "B."}, "critical": critical}
    assert site.post_json("r1", f"/read/{step_uid}/draft", body).status_code == 200
    page = read(site, step_uid)
    assert 'data-instant="2026-01-02T03:04:00Z"' in page and 'value="Subdural haematoma"' in page


def test_preview_names_what_keeps_a_draft_from_being_signed(site: GatewaySite) -> None:
    step_uid = site.claim()
    body = {
        "version": 0,
        "kind": "FINAL",
        "sections": {"findings": "Zero\u200bwidth."},
        "critical": {"is_critical": True, "communicated_to": "Somebody"},
    }
    assert site.post_json("r1", f"/read/{step_uid}/draft", body).status_code == 200
    page = site.client("r1").get(f"/read/{step_uid}/sign", headers=PAGE).text
    for expected in (
        "Impression is empty; a final report needs it.",
        "Findings holds a character that cannot be signed",
        "The critical result says no finding.",
        "who was told or when, but not both",
    ):
        assert expected in page
    assert 'name="passphrase"' not in page


def test_signing_needs_the_passphrase_and_the_draft_that_was_shown(site: GatewaySite) -> None:
    step_uid = site.claim()
    site.write(step_uid)
    wrong = site.post("r1", f"/read/{step_uid}/sign", draft_version="1", report_digest="sha256:0", passphrase="x")
    assert wrong.status_code == 422 and "DRAFT_MOVED_ON" in wrong.text
    preview = site.client("r1").get(f"/read/{step_uid}/sign", headers=PAGE).text
    shown = signed_fields(preview)
    refused = site.post("r1", f"/read/{step_uid}/sign", **shown, passphrase="not it")
    assert refused.status_code == 422
    assert "not the one of your signing key" in refused.text
    assert site.sign(step_uid).status_code == 303
    page = read(site, step_uid)
    assert "Final report" in page and "No bleeding." in page and 'id="draft"' not in page and "<iframe" not in page
    # The images went with the claim.
    assert site.client("r1").get(f"/dicom-web/studies/{site.study_instance_uid}/metadata").status_code == 404


def test_wrong_passphrases_are_on_record_and_lock_signing(site: GatewaySite) -> None:
    step_uid = site.claim()
    site.write(step_uid)
    shown = signed_fields(site.client("r1").get(f"/read/{step_uid}/sign", headers=PAGE).text)
    for number in range(5):
        assert "not the one of your" in site.post("r1", f"/read/{step_uid}/sign", **shown, passphrase=f"guess {number}").text
    with site.app.database.reading() as session:
        entries = session.exec(select(AuditEntry).where(AuditEntry.event_type == EventType.SIGN)).all()
    assert [(entry.outcome, entry.detail["reason"]) for entry in entries] == [(Outcome.SERIOUS_FAILURE, "WRONG_PASSPHRASE")] * 5
    locked = site.sign(step_uid)
    assert locked.status_code == 422 and "SIGNING_LOCKED" in locked.text
    for _ in range(2):
        site.clock.forward(minutes=8)
        site.post_json("r1", f"/read/{step_uid}/heartbeat", {"idle_seconds": 0})
    assert site.sign(step_uid).status_code == 303


def test_nothing_is_signed_but_the_images_and_the_order_that_were_shown(site: GatewaySite) -> None:
    step_uid, passphrase = site.claim(), site.logins["r1"].passphrase
    site.write(step_uid)
    shown = signed_fields(site.client("r1").get(f"/read/{step_uid}/sign", headers=PAGE).text)
    fewer = {**shown, "manifest_digest": f"sha256:{1:064}"}
    refused = site.post("r1", f"/read/{step_uid}/sign", **fewer, passphrase=passphrase)
    assert refused.status_code == 422 and "MOVED_ON" in refused.text
    with site.app.database.transaction() as session:
        study = require_study(session, site.study_instance_uid)
        study.order_text_sealed = seal_order_text(open_study_key(site.app.keys, study), study, {"indication": "Another one."})
        session.add(study)
    refused = site.post("r1", f"/read/{step_uid}/sign", **shown, passphrase=passphrase)
    assert refused.status_code == 422 and "MOVED_ON" in refused.text
    with site.app.database.reading() as session:
        assert session.exec(select(Report)).all() == []
    assert site.sign(step_uid).status_code == 303


def test_a_signed_report_is_shown_again_only_while_the_law_lets_it(site: GatewaySite) -> None:
    step_uid = site.claim()
    site.write(step_uid, findings="Words of the report.")
    site.sign(step_uid)
    seen = audit_count(site)
    page = read(site, step_uid)
    assert "Words of the report." in page and "Headache" in page
    # A decision and an opening, before the key was used.
    assert audit_count(site) == seen + 2
    with site.app.database.reading() as session:
        licence = next(row.credential_pk for row in standing_credentials(session, "r1") if row.kind == "LICENCE")
        digest = session.exec(select(Report.report_digest)).one()
    assert licence is not None
    change_credential_status(site.app, "po", licence, "REVOKED")
    seen, page = audit_count(site), read(site, step_uid)
    for hidden in ("Words of the report.", "Headache", site.study.patient_pseudonym, "Add an addendum"):
        assert hidden not in page
    assert "Final report" in page and digest.removeprefix("sha256:")[:8] in page and "The licence was revoked" in page
    assert audit_count(site) == seen + 2
    with site.app.database.reading() as session:
        last = session.exec(select(AuditEntry).order_by(col(AuditEntry.entry_index).desc())).first()
    assert last is not None and (last.event_type, last.outcome, last.object_id) == (EventType.OPEN, Outcome.SERIOUS_FAILURE, step_uid)


def test_whom_the_law_refuses_learns_of_a_study_its_urgency_modality_and_the_reasons(site: GatewaySite) -> None:
    study = site.study
    page = site.client("r3").get("/worklist?state=refused", headers=PAGE).text
    assert "Routine" in page and f"<td>{study.modality}</td>" in page and "CRED_LICENCE_EXPIRED:ES" in page
    row = page[page.index("<tbody>") : page.index("</tbody>")]
    with site.app.database.reading() as session:
        hospital = session.get(Hospital, study.hospital_id)
    assert hospital is not None
    for hidden in (study.patient_pseudonym, study.accession_pseudonym, study.description, hospital.name, "<td>DE</td>"):
        assert hidden and hidden not in row
    # Nor does a search or a filter tell what the row does not.
    for query in (f"q={study.patient_pseudonym}", f"q={study.description.split()[0]}", f"hospital={study.hospital_id}"):
        assert site.step_uid not in site.client("r3").get(f"/worklist?state=refused&{query}", headers=PAGE).text
    assert site.step_uid in site.client("r1").get(f"/worklist?q={study.patient_pseudonym}", headers=PAGE).text


def test_whom_the_law_refuses_learns_the_kind_of_what_concerns_patient_and_hospital_and_no_detail(site: GatewaySite) -> None:
    with site.app.database.transaction() as session:
        for row in session.exec(select(Evidence)).all():
            row.withdrawn_at = site.clock.at
            session.add(row)
    page = site.client("r3").get("/worklist?state=refused", headers=PAGE).text
    row_of_page = page[page.index("<tbody>") : page.index("</tbody>")]
    assert "EVIDENCE_" in row_of_page and "CRED_LICENCE_EXPIRED:ES" in row_of_page
    assert not re.search(r"EVIDENCE_[A-Z]+:", row_of_page)


def test_addendum_starts_empty_and_correction_with_the_text(site: GatewaySite) -> None:
    step_uid = site.claim()
    site.write(step_uid, findings="The words of the final report.")
    site.sign(step_uid)
    corrected = site.post("r1", f"/read/{step_uid}/addendum", kind="CORRECTION").headers["location"]
    page = site.client("r1").get(corrected, headers=PAGE).text
    assert "The words of the final report.</textarea>" in page
    assert '<option value="CORRECTION" selected>' in page
    own_uid = corrected.partition("?")[0].rpartition("/")[2]
    assert site.post("r1", f"/read/{own_uid}/release", reason="no need").status_code == 303
    added = site.post("r1", f"/read/{step_uid}/addendum", kind="ADDENDUM").headers["location"]
    page = site.client("r1").get(added, headers=PAGE).text
    assert "The words of the final report.</textarea>" not in page
    added_uid = added.partition("?")[0].rpartition("/")[2]
    site.write(added_uid, kind="ADDENDUM", findings="The shift is 5 mm.", impression="")
    assert site.sign(added_uid).status_code == 303
    with site.app.database.reading() as session:
        assert [report.kind for report in session.exec(select(Report).order_by(Report.signed_at, Report.report_uid)).all()] == [
            "FINAL",
            "ADDENDUM",
        ]


def test_preliminary_report_leaves_the_claim_open(site: GatewaySite) -> None:
    step_uid = site.claim()
    site.write(step_uid, kind="PRELIMINARY", impression="")
    assert site.sign(step_uid).status_code == 303
    page = read(site, step_uid)
    assert "Preliminary report" in page and 'id="draft"' in page


def test_heartbeat_renews_the_lease_and_names_the_decision(site: GatewaySite) -> None:
    step_uid = site.claim()
    first = site.post_json("r1", f"/read/{step_uid}/heartbeat", {}).json()
    site.clock.forward(minutes=10)
    second = site.post_json("r1", f"/read/{step_uid}/heartbeat", {}).json()
    assert second["lease_expires_at"] > first["lease_expires_at"]
    assert second["decision_digest"].startswith("sha256:")


def test_a_heartbeat_between_renewals_writes_nothing(site: GatewaySite) -> None:
    step_uid = site.claim()
    site.post_json("r1", f"/read/{step_uid}/heartbeat", {})
    with site.app.database.reading() as session:
        before = require_step(session, step_uid).lease_expires_at
    site.clock.forward(seconds=3)
    site.post_json("r1", f"/read/{step_uid}/heartbeat", {})
    with site.app.database.reading() as session:
        assert require_step(session, step_uid).lease_expires_at == before


def test_a_revoked_right_ends_the_page_with_its_reason(site: GatewaySite) -> None:
    step_uid = site.claim()
    site.write(step_uid)
    with site.app.database.reading() as session:
        licence = next(row.credential_pk for row in standing_credentials(session, "r1") if row.kind == "LICENCE")
    assert licence is not None
    change_credential_status(site.app, "po", licence, "SUSPENDED")
    take_effect(site.app, reader_ids=["r1"])
    beat = site.post_json("r1", f"/read/{step_uid}/heartbeat", {})
    assert beat.status_code == 403
    assert beat.json()["reason_code"].startswith("CRED_LICENCE_SUSPENDED")
    assert "The licence is suspended" in beat.json()["detail"]
    assert site.write(step_uid, version=1).status_code == 403
    page = site.client("r1").get(f"/read/{step_uid}", headers=PAGE)
    assert page.headers["location"] == f"/worklist?ended={step_uid}"
    assert "The licence is suspended" in site.client("r1").get(page.headers["location"], headers=PAGE).text


def test_a_lease_that_ran_out_is_a_conflict_and_keeps_the_text(site: GatewaySite) -> None:
    step_uid = site.claim()
    site.write(step_uid, findings="Typed before the break.")
    site.clock.forward(minutes=20)
    # The reader was idle; the page asks again before the worker has looked.
    assert site.post_json("r1", f"/read/{step_uid}/heartbeat", {}).status_code == 409
    expire_leases(site.app.database, now=site.clock(), new_uid=site.app.new_uid)
    answer = site.post_json("r1", f"/read/{step_uid}/heartbeat", {})
    assert (answer.status_code, answer.json()["reason_code"]) == (409, "LEASE_EXPIRED")
    assert "Typed before the break.</textarea>" in read(site, site.claim())


def test_release_says_why_and_the_study_is_free_again(site: GatewaySite) -> None:
    step_uid = site.claim()
    assert site.post("r1", f"/read/{step_uid}/release", reason="Not my subspecialty").status_code == 303
    with site.app.database.reading() as session:
        ended = session.get(ProcedureStep, step_uid)
    assert ended is not None and ended.cancellation_reason == "RELEASED_BY_READER: Not my subspecialty"
    assert site.step_uid != step_uid


def test_after_logout_nothing_opens(site: GatewaySite) -> None:
    step_uid = site.claim()
    client = site.client("r1")
    token = site.csrf("r1")
    cookies = dict(client.cookies)
    assert client.post("/logout", data={"csrf_token": token}, headers=PAGE).status_code == 303
    client.cookies.update(cookies)
    answer = client.post(f"/read/{step_uid}/heartbeat", json={}, headers={"X-CSRF-Token": token})
    assert (answer.status_code, answer.json()["reason_code"]) == (401, "SESSION_ENDED")
