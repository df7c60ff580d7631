"""The hospital's pages: its own studies under its patients' own names, each opening in the log, and nothing of another hospital."""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from sqlmodel import Session, col, select

from compliance import audit
from compliance.quarantine import QuarantineItem, QuarantineState, hold
from compliance.study import Study
from crypto.errors import PermanentPeerFailure
from crypto.merkle import CompactRange
from gateway import hospital_studies, pages_hospital
from gateway.received import ReceivedState, ReceivedStudy, received_study
from gateway.samples.people import JOZEF_WISNIOWSKI, KAETHE_GRUENWALD
from reporting.delivery_queue import Delivery, DeliveryState
from tests.builders import make_ct_study
from tests.gateway_site import PAGE, GatewaySite, gateway_site

FAMILY, PATIENT_ID = KAETHE_GRUENWALD.family_name, KAETHE_GRUENWALD.patient_id


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "data") as made:
        yield made


def studies(site: GatewaySite, query: str = "", who: str = "h1") -> str:
    answer = site.client(who).get(f"/studies{query}", headers=PAGE)
    assert answer.status_code == 200, answer.text
    return answer.text


def search(site: GatewaySite, q: str, who: str = "h1", **fields: str) -> str:
    answer = site.post(who, "/studies/search", q=q, **fields)
    assert answer.status_code == 200, answer.text
    return str(answer.text)


def openings(session: Session) -> list[audit.AuditEntry]:
    return list(
        session.exec(
            select(audit.AuditEntry)
            .where(audit.AuditEntry.event_type == audit.EventType.REIDENTIFY, col(audit.AuditEntry.actor).in_(["h1", "h2"]))
            .order_by(col(audit.AuditEntry.entry_index))
        ).all()
    )


def conflicting_study() -> list[Dataset]:
    """Two instances under one SOP Instance UID whose pixels differ."""
    first = make_ct_study(instances=1, number=7)[0]
    other = deepcopy(first)
    other.PixelData = bytes(len(first.PixelData))
    return [first, other]


def signed(site: GatewaySite) -> None:
    step_uid = site.claim()
    site.write(step_uid)
    assert site.sign(step_uid).status_code == 303


def test_a_study_is_shown_under_its_own_name_to_its_own_hospital_alone(site: GatewaySite) -> None:
    page = studies(site)
    assert FAMILY in page and PATIENT_ID in page and "Waiting for a reader" in page
    other = studies(site, who="h2")
    assert FAMILY not in other and "No study matches." in other


def test_every_page_view_is_one_entry_that_names_the_studies(site: GatewaySite) -> None:
    uid = site.study_instance_uid
    studies(site)
    studies(site)
    studies(site, who="h2")
    with site.app.database.reading() as session:
        entries = openings(session)
    assert [(entry.actor, entry.detail["opened"], entry.detail["studies"]) for entry in entries] == [("h1", 1, [uid])] * 2


def test_nobody_else_meets_the_name(site: GatewaySite) -> None:
    signed(site)
    site.deliver()
    search(site, FAMILY)
    pages = {
        "r1": ["/worklist", "/worklist?state=done", f"/read/{site.step_uid}"],
        "po": ["/privacy", "/privacy/decisions", "/credentials", "/evidence", "/consents"],
        "op": ["/deliveries", "/readers", "/hospitals"],
    }
    for who, paths in pages.items():
        for path in paths:
            text = site.client(who).get(path, headers=PAGE).text
            assert not {FAMILY, KAETHE_GRUENWALD.given_name, PATIENT_ID} & set(re.findall(r"[\w-]+", text)), path
    with site.app.database.reading() as session:
        rows = [str(audit.body_of(row)) for row in audit.entries(session)]
    assert not [row for row in rows if FAMILY in row or PATIENT_ID in row]


@pytest.mark.parametrize("q", [FAMILY, FAMILY.upper(), PATIENT_ID, KAETHE_GRUENWALD.given_name, "#1"])
def test_a_study_is_found_by_what_the_hospital_knows(site: GatewaySite, q: str) -> None:
    site.process(site.receive(make_ct_study(instances=1, number=2, person=JOZEF_WISNIOWSKI)))
    page = search(site, q)
    assert FAMILY in page and JOZEF_WISNIOWSKI.family_name not in page


def test_what_was_searched_for_is_in_no_address(site: GatewaySite, monkeypatch: pytest.MonkeyPatch) -> None:
    site.process(site.receive(make_ct_study(instances=1, number=9)))
    for module in (pages_hospital, hospital_studies):
        monkeypatch.setattr(module, "STUDIES_PER_PAGE", 1)
    first = search(site, FAMILY, state="waiting")
    assert "1 to 1 of 2" in first and 'name="page" value="2"' in first and f'name="q" value="{FAMILY}"' in first
    second = search(site, FAMILY, state="waiting", page="2")
    assert "2 to 2 of 2" in second and 'name="page" value="1"' in second
    assert not re.findall(rf'(?:href|action)="[^"]*{FAMILY}', first + second)
    # An address of old that names somebody searches for nobody.
    assert "2 of 2" in studies(site, "?page=2&q=Nobody")
    assert site.post("h1", "/studies/search", q="", state="waiting").headers["location"] == "/studies?state=waiting"


def test_a_search_by_number_opens_only_what_it_shows_and_one_by_name_says_how_many_it_opened(site: GatewaySite) -> None:
    first = make_ct_study(instances=1, number=2, person=JOZEF_WISNIOWSKI)
    site.process(site.receive(first))
    assert JOZEF_WISNIOWSKI.family_name in search(site, first[0].AccessionNumber)
    search(site, FAMILY)
    with site.app.database.reading() as session:
        found = [(entry.detail["purpose"], entry.detail["opened"]) for entry in openings(session)]
    assert found == [("hospital page", 1), ("hospital search by name", 2)]


def test_filters_show_what_stands_so(site: GatewaySite) -> None:
    assert FAMILY in studies(site, "?state=waiting")
    assert FAMILY not in studies(site, "?state=reading")
    site.claim()
    assert FAMILY in studies(site, "?state=reading")
    assert FAMILY not in studies(site, "?state=waiting")


def test_a_waiting_study_says_why_nobody_has_claimed_it(site: GatewaySite) -> None:
    page = studies(site)
    assert "1 eligible reader, who is busy, blocked or away." in page and "1 eligible reader is not logged in" in page
    assert "1 reader could read it but for this: The licence has expired (ES)." in page
    assert "1 reader: The licence has expired (ES)." in page and "CRED_LICENCE_EXPIRED:ES" in page


def test_the_nine_steps_follow_the_study(site: GatewaySite) -> None:
    def done(page: str) -> int:
        return page.count('class="life-done"')

    assert done(studies(site)) == 4
    step_uid = site.claim()
    site.client("r1").get(f"/read/{step_uid}", headers=PAGE)
    assert done(studies(site)) == 6
    site.write(step_uid)
    site.sign(step_uid)
    assert done(studies(site)) == 8
    assert set(site.deliver()) == {DeliveryState.DELIVERED}
    page = studies(site)
    assert done(page) == 9 and "Report delivered" in page


def test_the_hospital_sees_that_a_claim_ended_and_why(site: GatewaySite) -> None:
    step_uid = site.claim()
    site.post("r1", f"/read/{step_uid}/release", reason="Not my subspecialty")
    assert "given back by Dra. Inés Valverde Ortiz: Not my subspecialty" in studies(site)


def test_the_report_is_downloaded_under_a_name_that_says_nothing_and_the_download_is_logged(site: GatewaySite) -> None:
    assert site.client("h1").get("/studies/1/report.pdf", headers=PAGE).status_code == 404
    signed(site)
    site.deliver()
    answer = site.client("h1").get("/studies/1/report.pdf", headers=PAGE)
    assert answer.status_code == 200 and answer.content.startswith(b"%PDF-")
    assert answer.headers["cache-control"] == "no-store"
    assert re.fullmatch(r'attachment; filename="report-\d+\.pdf"', answer.headers["content-disposition"])
    with site.app.database.reading() as session:
        last = session.exec(select(audit.AuditEntry).order_by(col(audit.AuditEntry.entry_index).desc())).first()
    assert last is not None and (last.event_id, last.actor) == (audit.EventId.EXPORT, "h1")


def test_another_hospitals_report_is_not_found_and_not_logged(site: GatewaySite) -> None:
    signed(site)
    site.deliver()
    with site.app.database.reading() as session:
        before = audit.tree_head(session)
    answer = site.client("h2").get("/studies/1/report.pdf", headers=PAGE)
    missing = site.client("h2").get("/studies/999/report.pdf", headers=PAGE)
    assert (answer.status_code, missing.status_code) == (404, 404)
    assert answer.text == missing.text
    with site.app.database.reading() as session:
        after: CompactRange = audit.tree_head(session)
        kinds = [row.event_type for row in audit.entries(session, start=before.size)]
    assert after.size - before.size == kinds.count(audit.EventType.LOGIN) + kinds.count(audit.EventType.USER_SECURITY_CHANGED)


def dead_letter(site: GatewaySite) -> int:
    signed(site)
    site.outbox.refusal = PermanentPeerFailure("the archive refuses")
    site.deliver()
    site.outbox.refusal = None
    with site.app.database.reading() as session:
        dead = session.exec(select(Delivery.delivery_pk).where(Delivery.state == DeliveryState.DEAD_LETTER)).all()
    assert len(dead) == 2 and dead[0] is not None
    return dead[0]


@pytest.mark.parametrize("who", ["h1", "op"])
def test_a_dead_letter_is_sent_again_when_a_person_says_so(site: GatewaySite, who: str) -> None:
    delivery_pk = dead_letter(site)
    assert "Report not delivered" in studies(site)
    assert "Dead letter" in site.client("op").get("/deliveries?state=dead", headers=PAGE).text
    assert site.post(who, f"/deliveries/{delivery_pk}/release").status_code == 400  # no reason given
    answer = site.post(who, f"/deliveries/{delivery_pk}/release", reason="The archive is back")
    assert answer.headers["location"] == ("/studies" if who == "h1" else "/deliveries")
    assert site.deliver() == [DeliveryState.DELIVERED] and len(site.outbox.documents) == 1
    assert site.post(who, f"/deliveries/{delivery_pk}/release", reason="Once more").status_code == 409


def test_another_hospitals_delivery_is_not_found(site: GatewaySite) -> None:
    delivery_pk = dead_letter(site)
    assert site.post("h2", f"/deliveries/{delivery_pk}/release", reason="Not mine").status_code == 404
    assert site.post("h2", "/deliveries/abc/release", reason="Not mine").status_code == 404


def test_a_held_study_is_listed_with_its_reason_and_under_its_name_at_its_hospital(site: GatewaySite) -> None:
    assert site.process(site.receive(conflicting_study())) == ""
    page = site.client("h1").get("/quarantine", headers=PAGE).text
    assert "DUPLICATE_UID_DIFFERENT_CONTENT" in page and "SOPInstanceUID" in page and "CT" in page
    assert FAMILY not in page
    assert "In quarantine" in studies(site, "?state=quarantine") and FAMILY in studies(site, "?state=quarantine")
    assert "Nothing is in quarantine." in site.client("h2").get("/quarantine", headers=PAGE).text


def held(site: GatewaySite) -> tuple[QuarantineItem, ReceivedStudy]:
    with site.app.database.reading() as session:
        item = session.exec(select(QuarantineItem).order_by(col(QuarantineItem.item_pk).desc())).first()
        assert item is not None
        return item, received_study(session, item.received_study_pk)


def test_a_conflict_is_settled_by_saying_which_content_is_right(site: GatewaySite) -> None:
    received_pk = site.receive(conflicting_study())
    site.process(received_pk)
    item, _ = held(site)
    assert "KEEP_FIRST" in site.client("h1").get(f"/quarantine/{item.item_pk}", headers=PAGE).text
    assert site.post("h1", f"/quarantine/{item.item_pk}/repair", repair="NONE", reason="Let me see").status_code == 400
    answer = site.post("h1", f"/quarantine/{item.item_pk}/repair", repair="KEEP_FIRST", reason="The second was a test")
    assert answer.status_code == 303
    settled, study = held(site)
    assert (settled.state, study.state, study.generation) == (QuarantineState.RELEASED, ReceivedState.COMPLETE, 2)
    uid = site.process(received_pk)
    with site.app.database.reading() as session:
        assert session.exec(select(Study.instance_count).where(Study.study_instance_uid == uid)).one() == 1


def test_trying_again_holds_it_again_for_the_same_reason(site: GatewaySite) -> None:
    received_pk = site.receive(conflicting_study())
    site.process(received_pk)
    first, _ = held(site)
    assert site.post("h1", f"/quarantine/{first.item_pk}/release", reason="Once more").status_code == 303
    assert site.process(received_pk) == ""
    second, study = held(site)
    assert (second.item_pk != first.item_pk, second.state, study.state) == (True, QuarantineState.HELD, ReceivedState.QUARANTINED)
    assert "Tried again" in site.client("h1").get("/quarantine?state=RELEASED", headers=PAGE).text


def test_a_rejected_study_is_never_processed_again(site: GatewaySite) -> None:
    received_pk = site.receive(conflicting_study())
    site.process(received_pk)
    item, _ = held(site)
    assert site.post("h1", f"/quarantine/{item.item_pk}/reject").status_code == 400
    assert site.post("h1", f"/quarantine/{item.item_pk}/reject", reason="Wrong patient").status_code == 303
    assert held(site)[1].state == ReceivedState.REJECTED
    assert site.process(received_pk) == ""
    for act in ("release", "reject", "repair"):
        again = site.post("h1", f"/quarantine/{item.item_pk}/{act}", reason="Changed my mind", repair="KEEP_FIRST")
        assert again.status_code == 409
    page = site.client("h1").get(f"/quarantine/{item.item_pk}", headers=PAGE).text
    assert "Swantje Harms: Wrong patient" in page and "Nothing is left to decide here." in page


def test_another_hospitals_item_is_not_found(site: GatewaySite) -> None:
    site.process(site.receive(conflicting_study()))
    item, _ = held(site)
    assert site.client("h2").get(f"/quarantine/{item.item_pk}", headers=PAGE).status_code == 404
    for act in ("release", "reject", "repair"):
        assert site.post("h2", f"/quarantine/{item.item_pk}/{act}", reason="Mine?", repair="KEEP_FIRST").status_code == 404
    assert held(site)[0].state == QuarantineState.HELD


@pytest.mark.parametrize("q", ["#\u00b2", "#" + "9" * 5000, "\u0662"])
def test_a_number_in_other_digits_finds_nothing_and_breaks_nothing(site: GatewaySite, q: str) -> None:
    assert "No study" in search(site, q)


def test_a_nul_is_refused_at_the_edge(site: GatewaySite) -> None:
    client = site.client("h1")
    assert client.get("/studies?q=a%00b", headers=PAGE).status_code == 400
    assert client.get("/studies/1%00/report.pdf", headers=PAGE).status_code == 400
    form = {"user_name": "r1\0", "password": "x", "code": "000000", "declared_country": "ES"}
    assert site.anonymous().post("/login", data=form, headers=PAGE).status_code == 400


def test_what_staff_write_about_a_held_study_is_kept_sealed(site: GatewaySite) -> None:
    received_study_pk = site.receive(make_ct_study(instances=1, number=33))
    with site.app.database.transaction() as session:
        study = session.get(ReceivedStudy, received_study_pk)
        assert study is not None
        study.state = ReceivedState.QUARANTINED
        item = hold(
            session, hospital_id="h1", received_study_pk=received_study_pk, reason_code="TEST", element_tag=None, detail="",
            instance_count=1, actor="test", now=site.app.now(),
        )  # fmt: skip
        number = item.item_pk
    assert site.post("h1", f"/quarantine/{number}/reject", reason="Mrs Gruenwald objected").status_code == 303
    assert "Mrs Gruenwald objected" in site.client("h1").get(f"/quarantine/{number}", headers=PAGE).text
    with site.app.database.reading() as session:
        entry = list(audit.entries(session))[-1]
        kept = session.get(QuarantineItem, number)
        assert kept is not None and entry.sealed_body == kept.decision_note_sealed
        assert "Gruenwald" not in str(kept.model_dump()) + str(audit.body_of(entry))
        assert entry.detail == {"state": "REJECTED", "how": ""}
