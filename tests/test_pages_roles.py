"""Every route against every role: what is not somebody's is refused, and nobody gets anything without a login."""

from __future__ import annotations

from collections.abc import Iterator

import pyotp
import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from gateway.posted_document import posted_document
from gateway.request_context import posted_form
from tests.gateway_site import PAGE, GatewaySite, gateway_site

READER, STAFF, OFFICER, OPERATOR = "r1", "h1", "po", "op"
#: (method, path) -> who may come in; what they find there is the business of other tests. Ids are of things that do not exist.
ROUTES: dict[tuple[str, str], tuple[str, ...]] = {
    ("GET", "/"): (READER, STAFF, OFFICER, OPERATOR),
    ("GET", "/events"): (READER, STAFF, OFFICER, OPERATOR),
    ("POST", "/logout"): (READER, STAFF, OFFICER, OPERATOR),
    ("GET", "/worklist"): (READER,),
    ("POST", "/worklist/{procedure_step_uid}/claim"): (READER,),
    ("GET", "/worklist/{procedure_step_uid}/break-glass"): (READER,),
    ("POST", "/worklist/{procedure_step_uid}/break-glass"): (READER,),
    ("GET", "/privacy/reviews"): (OFFICER,),
    ("POST", "/privacy/reviews/{review_key}/{verdict}"): (OFFICER,),
    ("POST", "/privacy/reviews/notices/{notice_key}/seen"): (OFFICER,),
    ("POST", "/privacy/reviews/reminders/{reminder_key}/seen"): (OFFICER,),
    ("GET", "/read/{procedure_step_uid}"): (READER,),
    ("POST", "/read/{procedure_step_uid}/draft"): (READER,),
    ("POST", "/read/{procedure_step_uid}/heartbeat"): (READER,),
    ("GET", "/read/{procedure_step_uid}/sign"): (READER,),
    ("POST", "/read/{procedure_step_uid}/sign"): (READER,),
    ("POST", "/read/{procedure_step_uid}/release"): (READER,),
    ("POST", "/read/{procedure_step_uid}/addendum"): (READER,),
    ("GET", "/studies"): (STAFF,),
    ("POST", "/studies/search"): (STAFF,),
    ("GET", "/studies/{study_key}/report.pdf"): (STAFF,),
    ("GET", "/studies/{study_key}/deidentification"): (STAFF,),
    ("GET", "/privacy/studies/{study}/deidentification"): (OFFICER,),
    ("POST", "/deliveries/{delivery_id}/release"): (STAFF, OPERATOR),
    ("GET", "/quarantine"): (STAFF,),
    ("GET", "/quarantine/{quarantine_id}"): (STAFF,),
    ("POST", "/quarantine/{quarantine_id}/release"): (STAFF,),
    ("POST", "/quarantine/{quarantine_id}/reject"): (STAFF,),
    ("POST", "/quarantine/{quarantine_id}/repair"): (STAFF,),
    ("GET", "/quarantine/{quarantine_id}/pixels"): (STAFF,),
    ("GET", "/quarantine/{quarantine_id}/pixels/{instance_pk}/{frame}.png"): (STAFF,),
    ("POST", "/quarantine/{quarantine_id}/pixels"): (STAFF,),
    ("GET", "/pixel-reviews"): (STAFF,),
    ("GET", "/pixel-masks"): (STAFF,),
    ("POST", "/pixel-masks/{mask_key}/withdraw"): (STAFF,),
    ("GET", "/privacy"): (OFFICER,),
    ("POST", "/privacy/verify"): (OFFICER,),
    ("GET", "/privacy/decisions"): (OFFICER,),
    ("GET", "/privacy/decisions/{digest}"): (OFFICER,),
    ("GET", "/deliveries"): (OPERATOR,),
    ("GET", "/readers"): (OPERATOR,),
    ("POST", "/readers/{reader_id}/end"): (OPERATOR,),
    ("GET", "/hospitals"): (OPERATOR,),
    ("GET", "/credentials"): (OFFICER,),
    ("POST", "/credentials"): (OFFICER,),
    ("POST", "/credentials/{credential_key}/{act}"): (OFFICER,),
    ("GET", "/evidence"): (OFFICER,),
    ("POST", "/evidence"): (OFFICER,),
    ("POST", "/evidence/{evidence_id}/withdraw"): (OFFICER,),
    ("GET", "/consents"): (OFFICER,),
    ("POST", "/consents"): (OFFICER,),
    ("POST", "/consents/{consent_key}/withdraw"): (OFFICER,),
    ("GET", "/consents/import"): (OFFICER,),
    ("POST", "/consents/import"): (OFFICER,),
    ("GET", "/consents/{consent_key}"): (OFFICER,),
    ("GET", "/consents/{consent_key}/fhir"): (OFFICER,),
    ("GET", "/evidence/{evidence_id}/document"): (OFFICER,),
    ("POST", "/evidence/{evidence_id}/document"): (OFFICER,),
    ("GET", "/privacy/entries/{entry_index}"): (OFFICER,),
    ("POST", "/privacy/entries/{entry_index}/open"): (OFFICER,),
    ("GET", "/studies/{study_key}/unclaimed"): (STAFF,),
    ("POST", "/studies/{study_key}/expected"): (STAFF,),
}
#: Open to everybody: nothing of a patient, a person or a study is behind them.
PUBLIC = {"/login", "/health", "/metrics", "/ohif", "/ohif/{name:path}"}
CASES = [(method, path, who) for method, path in ROUTES for who in (READER, STAFF, OFFICER, OPERATOR)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path_factory.mktemp("roles") / "data") as made:
        yield made


def address(path: str) -> str:
    return path.replace("{act}", "suspend").replace("{digest}", "sha256:00").translate(str.maketrans("{}", "99"))


def routes(site: GatewaySite) -> list[APIRoute]:
    found: list[APIRoute] = []
    pending = list(site.http.routes)
    while pending:
        route = pending.pop()
        if isinstance(route, APIRoute):
            found.append(route)
        else:
            pending += getattr(route, "routes", None) or getattr(getattr(route, "original_router", None), "routes", [])
    return found


def test_every_route_is_in_the_table(site: GatewaySite) -> None:
    listed = {(method, route.path) for route in routes(site) for method in route.methods - {"HEAD"}}
    assert len(listed) > 40, "the routes of the application were not found"
    # Programs show a token and no session opens anything there: tests/test_register_api.py goes through every one of them.
    outside = {(method, path) for method, path in listed if path not in PUBLIC and not path.startswith(("/dicom-web", "/api/"))}
    assert outside == set(ROUTES)


def test_every_route_that_changes_something_asks_for_the_token(site: GatewaySite) -> None:
    def calls(dependant: Dependant) -> set[object]:
        return {dependant.call}.union(*(calls(inner) for inner in dependant.dependencies))

    posting = [route for route in routes(site) if route.methods - {"GET", "HEAD"} and route.path != "/login"]
    posting = [route for route in posting if not route.path.startswith("/api/")]
    assert posting
    assert [route.path for route in posting if not {posted_form, posted_document} & calls(route.dependant)] == []


@pytest.mark.parametrize(("method", "path"), [case for case in ROUTES if case != ("GET", "/events")], ids=" ".join)
def test_nobody_gets_in_without_a_login(site: GatewaySite, method: str, path: str) -> None:
    client = site.anonymous()
    page = client.request(method, address(path), headers=PAGE)
    assert page.status_code == 303 and page.headers["location"].startswith("/login")
    assert client.request(method, address(path), headers={"Accept": "application/json"}).status_code == 401


@pytest.mark.parametrize(("method", "path", "who"), [case for case in CASES if case[1] not in ("/events", "/logout")])
def test_each_role_sees_its_own_pages_only(site: GatewaySite, method: str, path: str, who: str) -> None:
    headers = {**PAGE, "X-CSRF-Token": site.csrf(who)} if method == "POST" else PAGE
    answer = site.client(who).request(method, address(path), headers=headers)
    if who in ROUTES[method, path]:
        # Nothing of that id exists, or the form is empty: but the role is right.
        assert answer.status_code in (200, 303, 400, 404, 422), answer.text
    else:
        assert answer.status_code == 403
        assert "ROLE" in answer.text


@pytest.mark.parametrize("who", [STAFF, OFFICER, OPERATOR])
def test_images_are_for_readers(site: GatewaySite, who: str) -> None:
    for path in ("/dicom-web/studies", f"/dicom-web/studies/{site.study_instance_uid}/metadata"):
        assert site.client(who).get(path).status_code == 403
    assert site.anonymous().get("/dicom-web/studies").status_code == 401


def test_a_form_without_the_token_changes_nothing(site: GatewaySite) -> None:
    for shown in ({}, {"csrf_token": "guessed"}):
        answer = site.client(OFFICER).post("/privacy/verify", data=shown, headers=PAGE)
        assert answer.status_code == 403 and "CSRF" in answer.text


def test_a_token_of_another_session_is_refused(site: GatewaySite) -> None:
    answer = site.client(OFFICER).post("/privacy/verify", data={"csrf_token": site.csrf(OPERATOR)}, headers=PAGE)
    assert answer.status_code == 403


def test_a_field_named_twice_or_a_file_is_not_one_of_our_forms(site: GatewaySite) -> None:
    token = site.csrf(OFFICER)
    twice = site.client(OFFICER).post(
        "/privacy/verify",
        content=f"csrf_token={token}&csrf_token={token}",
        headers={**PAGE, "Content-Type": "application/x-www-form-urlencoded"},
    )
    file = site.client(OFFICER).post("/privacy/verify", data={"csrf_token": token}, files={"a": b"b"}, headers=PAGE)
    assert (twice.status_code, file.status_code) == (400, 400)


def test_a_body_over_the_limit_is_cut_off(site: GatewaySite) -> None:
    token = site.csrf(READER)
    answer = site.client(READER).post(
        "/read/2.25.1/draft", content=b"x" * 1_100_000, headers={"Accept": "application/json", "X-CSRF-Token": token}
    )
    assert answer.status_code == 413


def test_an_ended_login_leads_back_to_where_one_was(site: GatewaySite) -> None:
    answer = site.anonymous().get("/worklist", headers=PAGE)
    assert answer.headers["location"] == "/login?next=/worklist"


def test_no_other_site_logs_somebody_in(site: GatewaySite) -> None:
    form = {"user_name": "r1", "password": "x", "code": "000000", "declared_country": "ES"}
    assert site.anonymous().post("/login", data=form, headers={**PAGE, "Sec-Fetch-Site": "cross-site"}).status_code == 403


@pytest.mark.parametrize("target", ["//elsewhere.example", "/\\elsewhere.example", "https://elsewhere.example", "\t//elsewhere.example"])
def test_a_login_leads_nowhere_else(site: GatewaySite, target: str) -> None:
    client = site.anonymous()
    login = site.logins["h2"]
    site.clock.forward(seconds=60)
    code = pyotp.TOTP(login.totp_secret).at(site.clock.at)
    form = {"user_name": "h2", "password": login.password, "code": code, "declared_country": "DE", "next": target}
    answer = client.post("/login", data=form, headers=PAGE)
    assert answer.headers["location"] == "/studies"
