"""The registers for programs: what a token opens and what it does not, that each change is on record and in effect, and what errors say."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import col, select

from compliance import audit
from compliance.credential import Consent, Credential, Evidence, standing_credentials
from compliance.evidence_document import open_document
from crypto.errors import BadInput
from gateway.register_exchange import evidence_types
from gateway.register_token import SCOPES, create_register_token, revoke_register_token
from tests.gateway_site import GatewaySite, gateway_site
from tests.test_consent_fhir import actor, resource, said_at
from worklist.procedure_step import State
from worklist.routed_reader import eligible_ids
from worklist.workitem import require_step

HOSPITAL = ("consents:read", "consents:write", "studies:read")
DEPLOYMENT = ("credentials:read", "credentials:write", "evidence:read", "evidence:write")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "data") as made:
        yield made


def token(site: GatewaySite, *scopes: str, hospital_id: str | None = None, days: int = 30) -> tuple[str, dict[str, str]]:
    """(the token's id, the header that carries it)"""
    token_id, secret = create_register_token(
        site.app.database, "archive", scopes, hospital_id=hospital_id, days=days, actor="op", now=site.clock.at
    )
    return token_id, {"Authorization": f"Bearer {secret}"}


def last_entry(site: GatewaySite, actor_: str) -> audit.AuditEntry:
    with site.app.database.reading() as session:
        found = session.exec(
            select(audit.AuditEntry).where(audit.AuditEntry.actor == actor_).order_by(col(audit.AuditEntry.entry_index).desc())
        ).first()
    assert found is not None
    return found


def state_of(site: GatewaySite, step_uid: str) -> str:
    with site.app.database.reading() as session:
        return require_step(session, step_uid).state


def test_consent_that_denies_ends_the_claim_before_the_answer(site: GatewaySite) -> None:
    step_uid = site.claim("r1")
    token_id, headers = token(site, "consents:write", hospital_id="h1")
    provision = {"type": "deny", "actor": [actor("Practitioner/r1")]}
    document = resource(site.study.patient_pseudonym, dateTime=said_at(site), provision=provision)
    answer = site.anonymous().post("/api/v1/consents", json=document, headers=headers)
    assert (answer.status_code, answer.json()) == (201, {"versions": [1]})
    assert state_of(site, step_uid) == State.CANCELED
    entry = last_entry(site, f"token/{token_id}")
    assert entry.detail["consent"] == "ACTIVE" and entry.detail["patient"] == site.study.patient_pseudonym


def test_consent_is_withdrawn_and_exported(site: GatewaySite) -> None:
    step_uid = site.claim("r1")
    _, headers = token(site, *HOSPITAL, hospital_id="h1")
    http, patient = site.anonymous(), site.study.patient_pseudonym
    body = {"patient": patient, "kind": "SHARING", "reason": "Letter of the patient"}
    assert http.post("/api/v1/consents/withdrawals", json=body, headers=headers).status_code == 404, "nothing to take back"
    http.post("/api/v1/consents", json=resource(patient, dateTime=said_at(site)), headers=headers)
    assert state_of(site, step_uid) == State.IN_PROGRESS
    site.clock.forward(seconds=1)
    assert http.post("/api/v1/consents/withdrawals", json=body, headers=headers).json() == {"version": 2}
    assert state_of(site, step_uid) == State.CANCELED
    exported = http.get("/api/v1/consents", headers=headers)
    assert exported.headers["content-type"].startswith("application/fhir+json")
    assert [entry["resource"]["status"] for entry in exported.json()["entry"]] == ["inactive"]
    assert http.get("/api/v1/consents?patient=RG-NOBODY", headers=headers).json()["entry"] == []


def test_token_of_one_hospital_reaches_no_other(site: GatewaySite) -> None:
    _, headers = token(site, *HOSPITAL, hospital_id="h2")
    http, patient = site.anonymous(), site.study.patient_pseudonym
    answer = http.post("/api/v1/consents", json=resource(patient, dateTime=said_at(site)), headers=headers)
    assert answer.status_code == 404 and patient not in answer.text
    assert http.get(f"/api/v1/studies/{site.study_instance_uid}/unclaimed", headers=headers).status_code == 404
    _, own = token(site, "studies:read", hospital_id="h1")
    found = http.get(f"/api/v1/studies/{site.study_instance_uid}/unclaimed", headers=own).json()
    assert (found["eligible"], found["waiting"]) == (1, True) and "r1" not in str(found), "readers are counted, not named"
    with site.app.database.reading() as session:
        assert session.exec(select(Consent)).all() == []


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/consents", "consents:read"),
        ("POST", "/consents", "consents:write"),
        ("POST", "/consents/withdrawals", "consents:write"),
        ("GET", "/studies/2.25.1/unclaimed", "studies:read"),
        ("GET", "/credentials", "credentials:read"),
        ("POST", "/credentials", "credentials:write"),
        ("POST", "/credentials/1/status", "credentials:write"),
        ("GET", "/evidence", "evidence:read"),
        ("POST", "/evidence", "evidence:write"),
        ("PUT", "/evidence/dpa-1/document", "evidence:write"),
        ("POST", "/evidence/dpa-1/withdrawal", "evidence:write"),
    ],
)
def test_every_way_asks_for_its_own_scope(site: GatewaySite, method: str, path: str, scope: str) -> None:
    http = site.anonymous()
    assert http.request(method, f"/api/v1{path}", json={}).status_code == 401
    # A person's session opens nothing here.
    assert site.client("po").request(method, f"/api/v1{path}", json={}).status_code == 401
    hospital = "h1" if scope in HOSPITAL else None
    others = [one for one in (HOSPITAL if hospital else DEPLOYMENT) if one != scope]
    _, headers = token(site, *others, hospital_id=hospital)
    refused = http.request(method, f"/api/v1{path}", json={}, headers=headers)
    assert (refused.status_code, refused.json()["reason_code"]) == (403, "SCOPE")
    assert refused.headers["content-type"] == "application/problem+json"
    with site.app.database.reading() as session:
        entries = session.exec(select(audit.AuditEntry).where(audit.AuditEntry.event_type == audit.EventType.REFUSED)).all()
    assert [(entry.actor[:6], entry.detail["refused"]) for entry in entries] == [("token/", "SCOPE")], "strangers write nothing in the log"


def test_revoked_and_expired_tokens_open_nothing(site: GatewaySite) -> None:
    token_id, headers = token(site, "evidence:read", days=1)
    http = site.anonymous()
    assert http.get("/api/v1/evidence", headers=headers).status_code == 200
    revoke_register_token(site.app.database, token_id, actor="op", now=site.clock.at)
    assert http.get("/api/v1/evidence", headers=headers).status_code == 401
    _, headers = token(site, "evidence:read", days=1)
    site.clock.forward(days=1)
    assert http.get("/api/v1/evidence", headers=headers).status_code == 401


@pytest.mark.parametrize(
    ("scopes", "hospital_id", "days"),
    [(["consents:write"], None, 1), (["evidence:read"], "h1", 1), (["everything"], None, 1), ([], None, 1), (list(SCOPES), "h1", 1),
     (["evidence:read"], None, 0), (["evidence:read"], None, 367)],
)  # fmt: skip
def test_token_that_would_open_too_much_is_not_made(site: GatewaySite, scopes: list[str], hospital_id: str | None, days: int) -> None:
    with pytest.raises(BadInput):
        token(site, *scopes, hospital_id=hospital_id, days=days)


def test_credential_comes_in_is_suspended_and_counts_at_once(site: GatewaySite) -> None:
    token_id, headers = token(site, *DEPLOYMENT)
    http = site.anonymous()
    exported = http.get("/api/v1/credentials?reader=r3", headers=headers).json()
    licence = next(row for row in exported["credentials"] if row["kind"] == "LICENCE")
    fresh = {**licence, "expires": (site.clock.at + timedelta(days=300)).isoformat(), "number": "28/12345"}
    answer = http.post("/api/v1/credentials", json={**exported, "credentials": [fresh]}, headers=headers)
    assert answer.status_code == 201, answer.text
    with site.app.database.reading() as session:
        assert eligible_ids(session, site.study.study_pk or 0) == ["r1", "r3"]
    (number,) = answer.json()["numbers"]
    body = {"status": "SUSPENDED", "reason": "Letter of the chamber"}
    assert http.post(f"/api/v1/credentials/{number}/status", json=body, headers=headers).status_code == 200
    with site.app.database.reading() as session:
        assert eligible_ids(session, site.study.study_pk or 0) == ["r1"]
    assert "Letter" not in str(last_entry(site, f"token/{token_id}").detail)
    assert http.post(f"/api/v1/credentials/{number}/status", json=body, headers=headers).status_code == 404, "superseded"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"issued": "2026-01-01T00:00:00Z", "expires": "2025-01-01T00:00:00Z"}, "expires"),
        ({"psv_at": "2999-01-01T00:00:00Z"}, "psv_at"),
        ({"jurisdiction": "QQ"}, "jurisdiction"),
        ({"jurisdiction": "US-ZZ"}, "jurisdiction"),
        ({"number": "99/99999"}, "number"),
        ({"reader": "nobody"}, "no reader"),
        ({"status": "ACTIVE", "kind": "COVER", "jurisdiction": None, "territory": ["Spain"]}, "territory"),
    ],
)
def test_credential_that_cannot_be_is_refused_by_field(site: GatewaySite, change: dict[str, Any], field: str) -> None:
    _, headers = token(site, *DEPLOYMENT)
    http = site.anonymous()
    good = {
        "reader": "r1",
        "kind": "LICENCE",
        "jurisdiction": "AT",
        "number": "28/12345",
        "status": "ACTIVE",
        "issued": "2025-01-01T00:00:00Z",
        "expires": "2030-01-01T00:00:00Z",
        "psv_at": "2025-06-01T00:00:00Z",
        "psv_method": "register",
        "verified_by": "po",
    }
    document = {"format": "readgate-credentials-1", "credentials": [good]}
    assert http.post("/api/v1/credentials", json=document, headers=headers).status_code == 201
    with site.app.database.reading() as session:
        before = len(session.exec(select(Credential)).all())
    bad = {name: value for name, value in {**good, **change}.items() if value is not None and (name != "number" or "kind" not in change)}
    refused = http.post("/api/v1/credentials", json={**document, "credentials": [{**good, "jurisdiction": "IT"}, bad]}, headers=headers)
    assert refused.status_code == 400, refused.text
    assert refused.json()["detail"].startswith("credentials[1]") and field in refused.json()["detail"]
    assert "Spain" not in refused.text and "99/99999" not in refused.text
    with site.app.database.reading() as session:
        assert len(session.exec(select(Credential)).all()) == before, "all or none"


def test_document_of_evidence_comes_in_and_never_out(site: GatewaySite) -> None:
    token_id, headers = token(site, *DEPLOYMENT)
    http, content = site.anonymous(), b"%PDF-1.7\0agreement" * 90_000
    answer = http.put("/api/v1/evidence/dpa-1/document", content=content, headers=headers)
    assert answer.status_code == 201 and len(content) > 1_000_000, answer.text
    assert http.get("/api/v1/evidence/dpa-1/document", headers=headers).status_code == 405
    again = http.put("/api/v1/evidence/dpa-1/document", content=b"another", headers=headers)
    assert (again.status_code, again.json()["reason_code"]) == (409, "OTHER_DOCUMENT")
    too_large = http.put("/api/v1/evidence/dpa-2/document", content=b"x" * 17_500_000, headers=headers)
    assert too_large.status_code == 413
    assert last_entry(site, f"token/{token_id}").detail["refused"] == "OTHER_DOCUMENT"
    with site.app.database.reading() as session:
        kept = session.exec(select(audit.AuditEntry).where(audit.AuditEntry.object_id == "evidence/dpa-1")).one()
    assert (kept.actor, kept.action) == (f"token/{token_id}", "C")
    with site.app.database.transaction() as session:
        assert open_document(session, site.app.keys, "dpa-1", actor="po", now=site.clock.at) == content


def test_withdrawn_evidence_ends_the_claim(site: GatewaySite) -> None:
    step_uid = site.claim("r1")
    _, headers = token(site, *DEPLOYMENT)
    answer = site.anonymous().post("/api/v1/evidence/dpa-1/withdrawal", json={"reason": "Contract ended"}, headers=headers)
    assert answer.status_code == 200 and state_of(site, step_uid) == State.CANCELED


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"resourceType": "Consent", "provision": {"type": "deny"}, "provision": {"type": "permit"}}', "names something twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": NaN}', "number"),
        (b'{"name": "Erika Mustermann",', "not JSON: line 1"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[]", "Consent: is missing or no object"),
        (b'{"resourceType": "\\ud800"}', "half a character"),
        (b'{"resourceType": "a\\u0000"}', "NUL"),
        (b'{"resourceType": "Consent", "Mustermann Jan 1950": 1}', "[a member]: not understood"),
    ],
    ids=["twice", "deep", "nan", "cut", "encoding", "list", "surrogate", "nul", "name"],
)
def test_document_that_two_readers_could_understand_differently_is_refused(site: GatewaySite, body: bytes, words: str) -> None:
    _, headers = token(site, "consents:write", hospital_id="h1")
    refused = site.anonymous().post("/api/v1/consents", content=body, headers={**headers, "Content-Type": "application/json"})
    assert refused.status_code == 400 and words in refused.json()["detail"] and "Mustermann" not in refused.text
    with site.app.database.reading() as session:
        entry = session.exec(select(audit.AuditEntry).where(audit.AuditEntry.event_type == audit.EventType.REFUSED)).one()
    assert entry.detail == {"act": "POST /api/v1/consents", "refused": "BadInput"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": "e/../4"}, "id: letters"),
        ({"id": "x" * 200}, "id: letters"),
        ({"parties": ["h1"] * 6000}, "parties: each once"),
        ({"sha256": "zz" * 50_000}, "sha256: 64"),
        ({"issued": "0001-01-01T00:00:00+10:00"}, "issued: is no instant"),
        ({"Mustermann Jan 1950": 1}, "[a member]: not understood"),
    ],
    ids=["path", "long", "parties", "digest", "instant", "name"],
)
def test_evidence_that_no_row_should_hold_is_refused(site: GatewaySite, change: dict[str, Any], words: str) -> None:
    _, headers = token(site, *DEPLOYMENT)
    paper = {
        "id": "e1",
        "type": evidence_types(site.app.law)[0],
        "parties": ["h1"],
        "issued": "2026-01-01T00:00:00+00:00",
        "expires": "2027-01-01T00:00:00+00:00",
        "verified_by": "po",
        "sha256": None,
    }
    document = {"format": "readgate-evidence-1", "evidence": [{**paper, **change}]}
    refused = site.anonymous().post("/api/v1/evidence", json=document, headers=headers)
    assert refused.status_code == 400 and words in refused.json()["detail"] and "Mustermann" not in refused.text
    with site.app.database.reading() as session:
        assert session.get(Evidence, "e1") is None


def test_suspension_takes_the_renewal_with_it(site: GatewaySite) -> None:
    """Two papers of the same right that overlap: the engine refuses facts in which they differ, so neither could be suspended alone."""
    _, headers = token(site, *DEPLOYMENT)
    http = site.anonymous()
    exported = http.get("/api/v1/credentials?reader=r1", headers=headers).json()
    licence = next(row for row in exported["credentials"] if row["kind"] == "LICENCE")
    renewed = {**licence, "expires": (site.clock.at + timedelta(days=3000)).isoformat()}
    numbers = http.post("/api/v1/credentials", json={**exported, "credentials": [renewed]}, headers=headers).json()["numbers"]
    body = {"status": "SUSPENDED", "reason": "Letter of the chamber"}
    assert http.post(f"/api/v1/credentials/{numbers[0]}/status", json=body, headers=headers).status_code == 200
    with site.app.database.reading() as session:
        licences = [row.status for row in standing_credentials(session, "r1") if row.kind == "LICENCE"]
    assert licences == ["SUSPENDED", "SUSPENDED"]
