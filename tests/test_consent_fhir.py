"""FHIR Consent: what is read, what is refused with its path, what terms say of one read, and that what goes out comes back in."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.R4B.consent import Consent as FhirConsent
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlmodel import select

from compliance.consent_fhir import read_consent, write_consent
from compliance.consent_terms import DENY, PERMIT, ConsentQuestion, standing_of
from compliance.credential import Consent, require_reader
from compliance.facts import gather_facts
from crypto.errors import BadInput, Conflict, NotFound
from gateway.register_exchange import (
    export_consents,
    export_credentials,
    export_evidence,
    import_consent,
    import_credentials,
    import_evidence,
)
from tests.gateway_site import GatewaySite, gateway_site

AT = datetime(2026, 11, 22, 10, tzinfo=UTC)
ASKED = ConsentQuestion("r1", "e1", "TREAT", "CT", frozenset({"1.2.840.10008.5.1.4.1.1.2"}), frozenset({"ES"}))


def resource(patient: str = "RG-0000000001", **changes: Any) -> dict[str, Any]:
    """An opt-in to sharing; `changes` replace elements, None removes one."""
    made: dict[str, Any] = {
        "resourceType": "Consent",
        "status": "active",
        "scope": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}]},
        "category": [
            {"coding": [{"system": "http://loinc.org", "code": "59284-0"}]},
            {"coding": [{"system": "urn:readgate:consent:kind", "code": "SHARING"}]},
        ],
        "patient": {"reference": f"Patient/{patient}"},
        "dateTime": "2026-11-20T08:00:00Z",
        "organization": [{"reference": "Organization/h1"}],
        "policyRule": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "OPTIN"}]},
        **changes,
    }
    return {name: value for name, value in made.items() if value is not None}


def actor(reference: str) -> dict[str, Any]:
    role = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "code": "IRCP"}]}
    return {"role": role, "reference": {"reference": reference}}


def test_plain_opt_in_is_active_without_terms() -> None:
    said = read_consent(resource())
    assert (said.status, said.kind, said.terms, said.expires_at) == ("ACTIVE", "SHARING", None, None)
    assert said.given_at == datetime(2026, 11, 20, 8, tzinfo=UTC)


def test_withdrawal_comes_with_inactive_and_the_time() -> None:
    extension = [{"url": "urn:readgate:consent:withdrawal", "extension": [{"url": "at", "valueDateTime": "2026-11-21T08:00:00Z"}]}]
    said = read_consent(resource(status="inactive", extension=extension))
    assert (said.status, said.withdrawn_at) == ("WITHDRAWN", datetime(2026, 11, 21, 8, tzinfo=UTC))
    with pytest.raises(BadInput, match=r"Consent\.status"):
        read_consent(resource(status="inactive"))
    with pytest.raises(BadInput, match=r"Consent\.status"):
        read_consent(resource(extension=extension))


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"status": "draft"}, "Consent.status"),
        ({"modifierExtension": [{}]}, "Consent.modifierExtension"),
        ({"verification": [{"verified": True}]}, "Consent.verification"),
        ({"contained": [{}]}, "Consent.contained"),
        ({"meta": {"security": [{"code": "R"}]}}, "Consent.meta.security"),
        ({"policyRule": None}, "Consent.policyRule"),
        ({"dateTime": "2026"}, "Consent.dateTime"),
        ({"dateTime": "2026-11-20T08:00:00"}, "Consent.dateTime"),
        ({"category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}]}, "Consent.category"),
        ({"patient": {"reference": "Person/1"}}, "Consent.patient.reference"),
        ({"organization": []}, "Consent.organization"),
        ({"provision": {"securityLabel": [{"system": "x", "code": "R"}]}}, "Consent.provision.securityLabel"),
        ({"provision": {"dataPeriod": {"start": "2020-01-01"}}}, "Consent.provision.dataPeriod"),
        ({"provision": {"purpose": [{"system": "urn:x", "code": "TREAT"}]}}, "Consent.provision.purpose[0]"),
        ({"provision": {"class": [{"system": "http://loinc.org", "code": "18748-4"}]}}, "Consent.provision.class[0]"),
        ({"provision": {"actor": [{"reference": {"reference": "Organization/e1"}}]}}, "Consent.provision.actor[0].role"),
        ({"provision": {"actor": [actor("Device/1")]}}, "Consent.provision.actor[0].reference"),
        ({"provision": {"provision": [{"period": {"end": "2027-01-01"}}]}}, "Consent.provision.provision[0].type"),
        ({"provision": {"extension": [{"url": "urn:x", "valueCode": "ES"}]}}, "Consent.provision.extension[0]"),
        ({"provision": {"extension": [{"url": "urn:readgate:consent:country", "valueCode": "ZZ"}]}}, "Consent.provision.extension[0]"),
        ({"provision": {"action": []}}, "Consent.provision.action"),
    ],
)
def test_what_is_not_understood_refuses_with_its_path(change: dict[str, Any], path: str) -> None:
    with pytest.raises(BadInput) as refused:
        read_consent(resource(**change))
    assert str(refused.value).startswith(path + ":") or str(refused.value).startswith(path), refused.value


def test_nesting_has_an_end() -> None:
    provision: dict[str, Any] = {"type": "deny"}
    for _ in range(20):
        provision = {"type": "permit", "provision": [provision]}
    with pytest.raises(BadInput, match="nested"):
        read_consent(resource(provision=provision))


def verdict(**provision: Any) -> str | None:
    terms = read_consent(resource(policyRule=None, provision=provision)).terms
    assert terms is not None
    return standing_of(terms, ASKED, AT).verdict


def test_exception_wins_over_its_rule_and_a_denial_over_a_permission() -> None:
    permit, deny = {"type": "permit", "actor": [actor("Organization/e1")]}, {"type": "deny", "actor": [actor("Practitioner/r1")]}
    assert verdict(type="deny", provision=[permit]) == PERMIT
    assert verdict(type="deny", provision=[permit, deny]) == DENY
    assert verdict(type="deny", provision=[{**permit, "provision": [deny]}]) == DENY
    assert verdict(type="permit", provision=[deny]) == DENY
    assert verdict(type="permit", provision=[{"type": "deny", "actor": [actor("Organization/e9")]}]) == PERMIT
    assert verdict(type="permit", actor=[actor("Organization/e9")]) is None


def test_permission_covers_all_of_it_and_a_denial_any_of_it() -> None:
    mr = [{"system": "http://dicom.nema.org/resources/ontology/DCM", "code": "MR"}]
    ct = [{"system": "urn:ietf:rfc:3986", "code": "urn:oid:1.2.840.10008.5.1.4.1.1.2"}]
    assert verdict(type="permit", **{"class": mr}) is None
    assert verdict(type="permit", **{"class": ct}) == PERMIT
    two = ConsentQuestion("r1", "e1", "TREAT", "SR", ASKED.sop_classes | {"1.2.840.10008.5.1.4.1.1.88.11"}, frozenset({"ES", "SG"}))
    for kind, expected in ((PERMIT, None), (DENY, DENY)):
        terms = {"type": kind, "classes": [{"kind": "sop_class", "code": "1.2.840.10008.5.1.4.1.1.2"}]}
        assert standing_of(terms, two, AT).verdict == expected
        assert standing_of({"type": kind, "countries": ["ES"]}, two, AT).verdict == expected


def test_period_ends_after_its_last_day_and_says_so() -> None:
    said = read_consent(resource(policyRule=None, provision={"type": "permit", "period": {"start": "2026-11-01", "end": "2026-11-30"}}))
    assert said.terms is not None and said.expires_at == datetime(2026, 12, 1, tzinfo=UTC)
    standing = standing_of(said.terms, ASKED, AT)
    assert (standing.verdict, standing.until) == (PERMIT, datetime(2026, 12, 1, tzinfo=UTC))
    assert standing_of(said.terms, ASKED, datetime(2026, 12, 1, tzinfo=UTC)).verdict is None


def test_permission_lasts_until_a_later_denial_begins() -> None:
    later = {"type": "deny", "period": {"start": "2026-12-24T00:00:00Z"}}
    said = read_consent(resource(policyRule=None, provision={"type": "permit", "provision": [later]}))
    assert said.terms is not None
    assert standing_of(said.terms, ASKED, AT).until == datetime(2026, 12, 24, tzinfo=UTC)


_ACTORS = st.lists(st.sampled_from([("reader", "r1"), ("reader", "r2"), ("employer", "e1")]), min_size=1, max_size=2, unique=True)
_INSTANTS = st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31)).map(lambda at: at.replace(microsecond=0, tzinfo=UTC).isoformat())


def _terms(children: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {"type": st.sampled_from([PERMIT, DENY])},
        optional={
            "start": _INSTANTS,
            "end": _INSTANTS,
            "actors": _ACTORS.map(lambda pairs: [{"kind": kind, "id": name} for kind, name in pairs]),
            "purposes": st.just(["TREAT"]),
            "actions": st.sampled_from([["access"], ["correct"]]),
            "classes": st.just([{"kind": "modality", "code": "CT"}]),
            "countries": st.sampled_from([["ES"], ["DE", "ES"]]),
            "exceptions": st.lists(children, min_size=1, max_size=2),
        },
    )


TERMS = st.recursive(st.fixed_dictionaries({"type": st.sampled_from([PERMIT, DENY])}), _terms, max_leaves=4)


def _row(terms: dict[str, Any] | None) -> Consent:
    return Consent(
        hospital_id="h1", patient_pseudonym="RG-1", status="ACTIVE", kind="SHARING", version=1, given_at=AT, terms=terms, recorded_at=AT
    )


@settings(max_examples=100, deadline=None)
@given(TERMS)
def test_written_consent_is_valid_r4_and_says_the_same(terms: dict[str, Any]) -> None:
    written = write_consent(_row(terms))
    FhirConsent.model_validate(copy.deepcopy(written))
    back = read_consent(written).terms or {"type": PERMIT}
    assert standing_of(back, ASKED, AT) == standing_of(terms, ASKED, AT)


@settings(max_examples=100, deadline=None)
@given(TERMS)
def test_denial_added_never_widens(terms: dict[str, Any]) -> None:
    narrowed = {**terms, "exceptions": [*terms.get("exceptions", []), {"type": DENY}]}
    assert standing_of(narrowed, ASKED, AT).verdict in (DENY, None)


# --- in the gateway -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "data") as made:
        yield made


def said_at(site: GatewaySite) -> str:
    return site.clock.at.isoformat()


def consent_fact(site: GatewaySite, reader_id: str) -> dict[str, Any]:
    with site.app.database.reading() as session:
        facts = gather_facts(
            session, action="ROUTE", study=site.study, reader=require_reader(session, reader_id), login=None, at=site.clock.at
        )
    consent: dict[str, Any] = facts["consent"]
    return consent


def test_import_takes_effect_for_the_reader_it_denies(site: GatewaySite) -> None:
    step_uid = site.claim("r1")
    provision = {"type": "deny", "actor": [actor("Practitioner/r1")]}
    document = resource(site.study.patient_pseudonym, dateTime=said_at(site), provision=provision)
    assert import_consent(site.app, "po", document) == [1]
    assert consent_fact(site, "r1")["status"] == "REFUSED" and consent_fact(site, "r5")["status"] == "ACTIVE"
    assert site.client("r1").get(f"/read/{step_uid}").status_code == 303
    with site.app.database.reading() as session:
        (row,) = session.exec(select(Consent)).all()
        bundle = export_consents(session, hospital_id="h1")
    assert row.document_digest is not None and row.document_digest.startswith("sha256:")
    again = read_consent(bundle["entry"][0]["resource"])
    assert again.patient_pseudonym == site.study.patient_pseudonym and again.terms == row.terms


def test_import_refuses_strangers_and_older_words(site: GatewaySite) -> None:
    patient = site.study.patient_pseudonym
    with pytest.raises(NotFound, match="patient"):
        import_consent(site.app, "po", resource("RG-NOBODY", dateTime=said_at(site)))
    with pytest.raises(NotFound, match="actor"):
        document = resource(patient, dateTime=said_at(site), provision={"type": "deny", "actor": [actor("Practitioner/r99")]})
        import_consent(site.app, "po", document)
    with pytest.raises(BadInput, match="future"):
        import_consent(site.app, "po", resource(patient, dateTime="2099-01-01"))
    import_consent(site.app, "po", resource(patient, status="rejected", dateTime=said_at(site)))
    with pytest.raises(Conflict):
        import_consent(site.app, "po", resource(patient, dateTime="2020-01-01"))
    assert consent_fact(site, "r1")["status"] == "REFUSED"


def test_bundle_is_taken_whole_or_not_at_all(site: GatewaySite) -> None:
    good, bad = resource(site.study.patient_pseudonym, dateTime=said_at(site)), resource("RG-NOBODY", dateTime=said_at(site))
    with pytest.raises(NotFound):
        import_consent(site.app, "po", {"resourceType": "Bundle", "entry": [{"resource": good}, {"resource": bad}]})
    with site.app.database.reading() as session:
        assert session.exec(select(Consent)).all() == []


def test_credentials_and_evidence_come_back_as_they_went(site: GatewaySite) -> None:
    with site.app.database.reading() as session:
        credentials, evidence = export_credentials(session), export_evidence(session)
    assert len(import_credentials(site.app, "po", credentials)) == len(credentials["credentials"]) > 10
    assert import_evidence(site.app, "po", evidence) == [row["id"] for row in evidence["evidence"]]
    with site.app.database.reading() as session:
        assert export_credentials(session) == credentials and export_evidence(session) == evidence


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "DRIVING"}, "kind"),
        ({"issued": "soon"}, "issued"),
        ({"hat_size": 7}, "hat_size"),
        ({"psv_at": "2099-01-01T00:00:00Z"}, "psv_at"),
    ],
)
def test_malformed_credential_is_refused_by_place(site: GatewaySite, change: dict[str, Any], message: str) -> None:
    with site.app.database.reading() as session:
        document = export_credentials(session, reader_id="r1")
    document["credentials"] = [{**document["credentials"][0], **change}]
    with pytest.raises(BadInput, match=rf"credentials\[0\]\.{message}"):
        import_credentials(site.app, "po", document)
