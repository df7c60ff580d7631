"""What was stated about a study's de-identification is shown to its hospital, the privacy officer and its reader, or said not to hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlmodel import select

from compliance.deid_manifest import verify_manifest
from compliance.hospital import require_hospital
from compliance.study import Study
from crypto.canonical import digest
from crypto.ed25519 import ed25519_verify
from gateway.received import ReceivedStudy
from gateway.samples.people import KAETHE_GRUENWALD
from tests.gateway_site import PAGE, GatewaySite, gateway_site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "data") as one:
        yield one


def hospital_address(site: GatewaySite) -> str:
    with site.app.database.reading() as session:
        return f"/studies/{session.exec(select(ReceivedStudy.received_study_pk)).one()}/deidentification"


def officer_address(site: GatewaySite) -> str:
    return f"/privacy/studies/{site.study_instance_uid}/deidentification"


def test_hospital_and_officer_see_profile_table_counts_and_digests(site: GatewaySite) -> None:
    study = site.study
    statement = study.deid_manifest["statement"]
    assert hospital_address(site) in site.client("h1").get("/studies", headers=PAGE).text
    for who, address in (("h1", hospital_address(site)), ("po", officer_address(site))):
        page = site.client(who).get(address, headers=PAGE).text
        assert "Signature verified" in page and "teleread" in page and "PS3.15 Table E.1-1, 2026c" in page and "pseudonymised" in page
        assert study.deid_manifest["digest"] in page and study.manifest_digest in page
        assert statement["actions"] and all(f'<td class="number">{count}</td>' in page for count in statement["actions"].values())
        assert KAETHE_GRUENWALD.family_name not in page
    assert site.client("h2").get(hospital_address(site), headers=PAGE).status_code == 404


def test_a_face_that_was_not_removed_is_said_on_both_pages(site: GatewaySite) -> None:
    assert site.study.deid_manifest["statement"]["flags"] == ["RECOGNIZABLE_VISUAL_FEATURES"]
    assert "A face could be reconstructed" in site.client("h1").get("/studies", headers=PAGE).text
    assert "RECOGNIZABLE_VISUAL_FEATURES" in site.client("h1").get(hospital_address(site), headers=PAGE).text


def test_the_reader_sees_it_beside_the_images_and_gets_it_with_them(site: GatewaySite) -> None:
    address = f"/dicom-web/studies/{site.study_instance_uid}/deidentification"
    assert site.client("r1").get(address).status_code in (403, 404)
    step_uid = site.claim("r1")
    study = site.study
    page = site.client("r1").get(f"/read/{step_uid}", headers=PAGE).text
    start = study.deid_manifest["digest"].removeprefix("sha256:")[:12]
    assert f"Pseudonymised under teleread, PS3.15 Table E.1-1, 2026c; statement {start}, signature verified" in page and address in page
    document = site.client("r1").get(address).json()
    with site.app.database.reading() as session:
        public = require_hospital(session, "h1").edge_public_key
    statement = verify_manifest(document, lambda message, value: ed25519_verify(public, message, value))
    assert statement["study_manifest"] == digest(document["study_manifest"])
    assert len(document["study_manifest"]["instances"]) == study.instance_count
    assert site.client("r2").get(address).status_code in (403, 404)


def test_a_statement_that_does_not_hold_is_repeated_nowhere(site: GatewaySite) -> None:
    with site.app.database.transaction() as session:
        row = session.exec(select(Study)).one()
        manifest = dict(row.deid_manifest)
        manifest["statement"] = {**manifest["statement"], "held": {}, "actions": {"X": 123456}}
        row.deid_manifest = manifest
        session.add(row)
    for who, address in (("h1", hospital_address(site)), ("po", officer_address(site))):
        page = site.client(who).get(address, headers=PAGE).text
        assert "Not verified" in page and "Signature verified" not in page and "123456" not in page and "teleread" not in page


def test_the_decision_page_leads_to_it(site: GatewaySite) -> None:
    site.claim("r1")
    listed = site.client("po").get("/privacy/decisions", headers=PAGE).text
    found = listed.partition("/privacy/decisions/sha256:")[2].partition('"')[0]
    page = site.client("po").get(f"/privacy/decisions/sha256:{found}", headers=PAGE).text
    assert officer_address(site) in page
