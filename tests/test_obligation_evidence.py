"""What shows that an obligation was met: nothing before something was shown, then the rows that did it, and their absence as a failure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import col, select

from compliance.counters import CountedPerson, person_digest
from compliance.decision_log import DecisionRow
from compliance.privacy_review import PrivacyReview, Verdict, notify_privacy_officer, open_review, settle_review
from gateway.obligation_evidence import obligation_rows
from tests.gateway_site import PAGE, GatewaySite, gateway_site
from worklist.view_grant import ViewGrant


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "data") as made:
        yield made


def decided(site: GatewaySite, *obligations: str) -> DecisionRow:
    """The newest decision on r1's looking, as if the law had asked this in return."""
    with site.app.database.reading() as session:
        digests = select(ViewGrant.decision_digest).where(ViewGrant.reader_id == "r1")
        row = session.exec(
            select(DecisionRow)
            .where(DecisionRow.action == "VIEW", DecisionRow.reader_id == "r1")
            .order_by(col(DecisionRow.digest).in_(digests).desc(), col(DecisionRow.decided_at).desc())
        ).first()
    assert row is not None
    return DecisionRow(**{**row.model_dump(), "obligations": list(obligations)})


def states(site: GatewaySite, row: DecisionRow) -> dict[str, str]:
    with site.app.database.reading() as session:
        return {one.code: one.state for one in obligation_rows(session, site.app.law, site.app.keys, row, now=site.clock.at)}


def open_images(site: GatewaySite) -> str:
    step_uid = site.claim("r1")
    assert site.client("r1").get(f"/read/{step_uid}", headers=PAGE).status_code == 200
    return step_uid


def test_nothing_is_due_before_anything_is_shown(site: GatewaySite) -> None:
    site.claim("r1")
    row = decided(site, "VIEW_ONLY", "NOTIFY_PO", "COUNT(us_persons)", "KEYS_IN(DE)", "KEYS_IN(US)")
    assert states(site, row) == {
        "VIEW_ONLY": "Not due",
        "NOTIFY_PO": "Not due",
        "COUNT(us_persons)": "Not due",
        "KEYS_IN(DE)": "Met",
        "KEYS_IN(US)": "Not met",
    }


def test_each_obligation_is_shown_by_the_row_that_met_it(site: GatewaySite) -> None:
    step_uid = open_images(site)
    row = decided(site, "VIEW_ONLY", "NOTIFY_PO", "REVIEW_72H", "COUNT(us_persons)", "PRELIMINARY_ONLY", "PAINT_IT_BLACK")
    missing = {name: "Not met" for name in ("VIEW_ONLY", "NOTIFY_PO", "REVIEW_72H", "COUNT(us_persons)", "PAINT_IT_BLACK")}
    assert states(site, row) == {**missing, "PRELIMINARY_ONLY": "Met"}
    study, now = site.study, site.clock.at
    about: dict[str, Any] = {
        "hospital_id": "h1", "reader_id": "r1", "study_instance_uid": study.study_instance_uid, "procedure_step_uid": step_uid,
        "decision_digest": row.digest, "now": now,
    }  # fmt: skip
    with site.app.database.transaction() as session:
        for grant in session.exec(select(ViewGrant)).all():
            grant.obligations = ["VIEW_ONLY"]
            session.add(grant)
        open_review(session, **about)
        notify_privacy_officer(session, **about, subject="NOTIFY_PO")
        person = person_digest(site.app.keys, "h1", study.patient_pseudonym)
        session.add(CountedPerson(hospital_id="h1", employer_id="e1", kind="us_persons", person_digest=person, first_at=now, last_at=now))
    met = {"VIEW_ONLY": "Met", "NOTIFY_PO": "Met", "COUNT(us_persons)": "Met", "PRELIMINARY_ONLY": "Met", "PAINT_IT_BLACK": "Not met"}
    assert states(site, row) == {**met, "REVIEW_72H": "Waiting"}
    site.clock.forward(hours=73)
    assert states(site, row)["REVIEW_72H"] == "Not met"
    with site.app.database.transaction() as session:
        review = session.exec(select(PrivacyReview)).one()
        settle_review(session, review.review_pk or 0, Verdict.JUSTIFIED, note="Looked at", actor="po", now=now + timedelta(hours=74))
    assert states(site, row)["REVIEW_72H"] == "Met late"


def test_a_final_report_breaks_preliminary_only(site: GatewaySite) -> None:
    step_uid = open_images(site)
    site.write(step_uid)
    assert site.sign(step_uid).status_code in (200, 204, 303)
    with site.app.database.reading() as session:
        row = session.exec(select(DecisionRow).where(DecisionRow.action == "SIGN_FINAL")).first()
    assert row is not None
    assert states(site, DecisionRow(**{**row.model_dump(), "obligations": ["PRELIMINARY_ONLY"]})) == {"PRELIMINARY_ONLY": "Not met"}


def test_another_claim_of_the_reader_on_the_study_shows_nothing_for_this_one(site: GatewaySite) -> None:
    open_images(site)
    row = decided(site, "NOTIFY_PO", "REVIEW_72H")
    about: dict[str, Any] = {
        "hospital_id": "h1", "reader_id": "r1", "study_instance_uid": site.study.study_instance_uid,
        "procedure_step_uid": "2.25.4711", "decision_digest": "sha256:later", "now": site.clock.at,
    }  # fmt: skip
    with site.app.database.transaction() as session:
        open_review(session, **about)
        notify_privacy_officer(session, **about, subject="NOTIFY_PO")
    assert states(site, row) == {"NOTIFY_PO": "Not met", "REVIEW_72H": "Not met"}


def test_notice_made_under_the_first_decision_of_a_claim_stands_for_its_later_ones(site: GatewaySite) -> None:
    step_uid = open_images(site)
    row = decided(site, "NOTIFY_PO", "REVIEW_72H")
    about: dict[str, Any] = {
        "hospital_id": "h1", "reader_id": "r1", "study_instance_uid": site.study.study_instance_uid,
        "procedure_step_uid": step_uid, "decision_digest": "sha256:earlier", "now": site.clock.at,
    }  # fmt: skip
    with site.app.database.transaction() as session:
        open_review(session, **about)
        notify_privacy_officer(session, **about, subject="NOTIFY_PO")
    assert states(site, row) == {"NOTIFY_PO": "Met", "REVIEW_72H": "Waiting"}
