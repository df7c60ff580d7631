"""Break-glass: what it relaxes and what it never does, its alerts, limits, review queue and end."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyotp
import pytest
from sqlmodel import select

from compliance.audit import AuditEntry
from compliance.credential import Consent, Credential
from compliance.decision_log import DecisionRow
from compliance.emergency_access import EmergencyAccess
from compliance.hospital import Hospital
from compliance.privacy_review import PrivacyReview, open_reviews, overdue_review, settle_review, unseen_notices
from crypto.errors import BadInput, Conflict, NotAllowed
from tests.gateway_site import PAGE, GatewaySite, gateway_site
from worklist.break_glass import GLASSES_PER_DAY_MAX, glasses_left

STATED = {
    "reason_code": "UNCONSCIOUS",
    "text": "Unconscious after a fall, bleeding suspected, nobody can be asked.",
    "requested_by": "er-17",
    "can_consent": "no",
}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    """h1 asks for consent, and nobody said anything: r1 may not read."""
    with gateway_site(tmp_path / "data") as made:
        with made.app.database.transaction() as session:
            hospital = session.get(Hospital, "h1")
            assert hospital is not None
            hospital.flags = ["CONSENT_REQUIRED"]
            session.add(hospital)
        yield made


def code(site: GatewaySite, reader_id: str = "r1") -> str:
    """The next unused code: the login used the present one."""
    site.client(reader_id)
    site.clock.forward(seconds=31)
    return pyotp.TOTP(site.logins[reader_id].totp_secret).at(site.clock.at)


def break_it(site: GatewaySite, step_uid: str | None = None, reader_id: str = "r1", **changes: str) -> Any:
    fields = {**STATED, "code": code(site, reader_id), **changes}
    return site.post(reader_id, f"/worklist/{step_uid or site.step_uid}/break-glass", **fields)


def alerts(site: GatewaySite, event_type: str) -> list[AuditEntry]:
    with site.app.database.reading() as session:
        return list(session.exec(select(AuditEntry).where(AuditEntry.event_id == "110113", AuditEntry.event_type == event_type)).all())


def test_unknown_consent_is_relaxed_with_alert_review_and_notice(site: GatewaySite) -> None:
    step_uid = site.step_uid
    refused = site.post("r1", f"/worklist/{step_uid}/claim")
    assert refused.headers["location"] == "/worklist"
    answer = break_it(site)
    assert (answer.status_code, answer.headers.get("location")) == (303, f"/read/{step_uid}"), answer.text
    (started,) = alerts(site, "110127")
    assert started.outcome == "0" and started.detail["reason_code"] == "UNCONSCIOUS"
    with site.app.database.reading() as session:
        (review,) = open_reviews(session)
        (notice,) = unseen_notices(session)
        decision = session.get(DecisionRow, review.decision_digest)
    assert review.due_at - review.opened_at == timedelta(hours=72) and review.reader_id == "r1"
    assert notice.subject in ("BREAK_GLASS", "NOTIFY_PO")
    assert decision is not None and "BREAK_GLASS:GDPR_9_2_C" in decision.reasons and "REVIEW_72H" in decision.obligations
    assert site.client("r1").get(f"/read/{step_uid}", headers=PAGE).status_code == 200


def test_study_opened_in_an_emergency_can_be_signed_and_the_override_stops(site: GatewaySite) -> None:
    break_it(site)
    step_uid = site.step_uid
    assert site.write(step_uid).status_code == 200
    assert site.sign(step_uid).status_code == 303
    (stopped,) = alerts(site, "110138")
    assert stopped.detail["reason"] == "STEP_COMPLETED"
    with site.app.database.reading() as session:
        (access,) = session.exec(select(EmergencyAccess)).all()
    assert access.ended_at is not None


def test_released_study_is_not_the_readers_any_more(site: GatewaySite) -> None:
    break_it(site)
    site.post("r1", f"/read/{site.step_uid}/release")
    assert [entry.detail["reason"] for entry in alerts(site, "110138")] == ["RELEASED_BY_READER"]
    assert site.post("r1", f"/worklist/{site.step_uid}/claim").headers["location"] == "/worklist"


def test_worker_does_not_take_the_emergency_for_a_lost_right(site: GatewaySite) -> None:
    from worklist.revocation import revoke_ended_rights

    break_it(site)
    app = site.app
    assert revoke_ended_rights(app.database, app.law, now=app.now(), new_uid=app.new_uid, keys=app.keys) == {}
    with app.database.transaction() as session:
        study = site.study
        session.add(
            Consent(
                hospital_id="h1",
                patient_pseudonym=study.patient_pseudonym,
                status="REFUSED",
                kind="SHARING",
                version=1,
                given_at=app.now(),
                recorded_at=app.now(),
            )
        )
    ended = revoke_ended_rights(app.database, app.law, now=app.now(), new_uid=app.new_uid, keys=app.keys)
    assert list(ended.values()) == ["CONSENT_REFUSED"]
    assert len(alerts(site, "110138")) == 1


@pytest.mark.parametrize(
    ("reader_id", "reason"),
    [("r3", "CRED_LICENCE_EXPIRED:ES"), ("r4", "CRED_PRIVILEGE_MISSING:h1"), ("r2", "NO_TRANSFER_MECHANISM:EU:US-CA")],
)
def test_licence_privilege_and_mechanism_are_asked_as_always(site: GatewaySite, reader_id: str, reason: str) -> None:
    answer = break_it(site, reader_id=reader_id)
    assert answer.status_code == 403
    with site.app.database.reading() as session:
        reasons = [row.reasons for row in session.exec(select(DecisionRow).where(DecisionRow.reader_id == reader_id)).all()]
        (access,) = session.exec(select(EmergencyAccess)).all()
    assert any(reason in given for given in reasons)
    assert access.ended_at is not None and access.end_reason is not None and access.end_reason.startswith("REFUSED")
    (alert,) = alerts(site, "110127")
    assert alert.detail["refused"]
    with site.app.database.reading() as session:
        assert open_reviews(session) == []


def test_patient_who_can_be_asked_is_asked(site: GatewaySite) -> None:
    assert break_it(site, can_consent="yes").status_code == 403


def test_refusal_by_the_patient_stands(site: GatewaySite) -> None:
    with site.app.database.transaction() as session:
        session.add(
            Consent(
                hospital_id="h1",
                patient_pseudonym=site.study.patient_pseudonym,
                status="REFUSED",
                kind="SHARING",
                version=1,
                given_at=site.app.now(),
                recorded_at=site.app.now(),
            )
        )
    assert break_it(site).status_code == 403


@pytest.mark.parametrize(
    "change",
    [{"reason_code": "CURIOSITY"}, {"text": "urgent"}, {"text": "x" * 501}, {"requested_by": ""}, {"requested_by": "Dr. Who?"}],
)
def test_incomplete_statement_opens_nothing(site: GatewaySite, change: dict[str, str]) -> None:
    assert break_it(site, **change).status_code == 422
    assert alerts(site, "110127") == []


def test_wrong_or_used_code_opens_nothing(site: GatewaySite) -> None:
    assert break_it(site, code="000000").status_code == 403
    used = code(site)
    assert site.post("r1", f"/worklist/{site.step_uid}/break-glass", **{**STATED, "text": "short", "code": used}).status_code == 422
    assert site.post("r1", f"/worklist/{site.step_uid}/break-glass", **STATED, code=used).status_code == 303
    site.post("r1", f"/read/{site.step_uid}/release")
    assert site.post("r1", f"/worklist/{site.step_uid}/break-glass", **STATED, code=used).status_code == 403


def test_at_most_three_in_a_day(site: GatewaySite) -> None:
    for _ in range(GLASSES_PER_DAY_MAX):
        assert break_it(site).status_code == 303
        site.post("r1", f"/read/{site.step_uid}/release")
    assert break_it(site).status_code == 403
    with site.app.database.reading() as session:
        assert glasses_left(session, "r1", now=site.app.now()) == 0
        assert glasses_left(session, "r1", now=site.app.now() + timedelta(hours=25)) == GLASSES_PER_DAY_MAX


def test_overdue_review_blocks_claims_and_emergencies_until_it_is_settled(site: GatewaySite) -> None:
    break_it(site)
    site.post("r1", f"/read/{site.step_uid}/release")
    site.clock.forward(hours=72, seconds=1)
    site._clients.clear()
    assert break_it(site).status_code == 403
    with site.app.database.transaction() as session:
        hospital = session.get(Hospital, "h1")
        assert hospital is not None and overdue_review(session, "r1", now=site.app.now()) is not None
        hospital.flags = []
        session.add(hospital)
    assert site.post("r1", f"/worklist/{site.step_uid}/claim").headers["location"] == "/worklist"
    page = site.client("po").get("/privacy/reviews", headers=PAGE).text
    assert "Overdue" in page and "er-17" in page
    with site.app.database.reading() as session:
        (review,) = open_reviews(session)
    assert site.post("po", f"/privacy/reviews/{review.review_pk}/justified", reason="Seen with the clinician.").status_code == 303
    assert site.post("po", f"/privacy/reviews/{review.review_pk}/justified", reason="Once more.").status_code == 409
    assert site.post("r1", f"/worklist/{site.step_uid}/claim").headers["location"] == f"/read/{site.step_uid}"


def test_notice_is_seen_once(site: GatewaySite) -> None:
    break_it(site)
    with site.app.database.reading() as session:
        (notice,) = unseen_notices(session)
    assert site.post("po", f"/privacy/reviews/notices/{notice.notice_pk}/seen").status_code == 303
    with site.app.database.reading() as session:
        assert unseen_notices(session) == []


def test_nobody_settles_their_own_review(site: GatewaySite) -> None:
    break_it(site)
    with site.app.database.transaction() as session:
        (review,) = session.exec(select(PrivacyReview)).all()
        assert review.review_pk is not None
        with pytest.raises(NotAllowed):
            settle_review(session, review.review_pk, "JUSTIFIED", note="by myself", actor="r1", now=site.app.now())
        with pytest.raises(BadInput):
            settle_review(session, review.review_pk, "FINE", note="a note", actor="po", now=site.app.now())
        settle_review(session, review.review_pk, "NOT_JUSTIFIED", note="no clinician asked", actor="po", now=site.app.now())
        with pytest.raises(Conflict):
            settle_review(session, review.review_pk, "JUSTIFIED", note="on second thought", actor="po", now=site.app.now())


def test_lapsed_licence_takes_the_study_back_under_emergency_too(site: GatewaySite) -> None:
    from worklist.revocation import revoke_ended_rights

    break_it(site)
    app = site.app
    with app.database.transaction() as session:
        for row in session.exec(select(Credential).where(Credential.reader_id == "r1", Credential.kind == "LICENCE")).all():
            row.status = "SUSPENDED"
            session.add(row)
    assert list(revoke_ended_rights(app.database, app.law, now=app.now(), new_uid=app.new_uid, keys=app.keys).values()) == [
        "CRED_LICENCE_SUSPENDED:ES"
    ]
