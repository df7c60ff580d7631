"""DICOMweb over HTTP: what a claim grants and nothing else, pixels as they were sent, no cache, and the log before the first byte."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from sqlmodel import select

from compliance import audit
from gateway import dicomweb
from gateway.samples.people import JOZEF_WISNIOWSKI, KAETHE_GRUENWALD
from tests.builders import make_ct_study
from tests.gateway_site import PAGE, GatewaySite, gateway_site
from worklist.view_grant import ViewGrant

HTJ2K_LOSSLESS = "1.2.840.10008.1.2.4.201"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "data") as made:
        yield made


def get(site: GatewaySite, path: str, who: str = "r1") -> Any:
    return site.client(who).get(f"/dicom-web{path}")


def instances(site: GatewaySite) -> list[str]:
    """The paths of the instances of the site's study, below /dicom-web."""
    study = site.study_instance_uid
    (series,) = get(site, f"/studies/{study}/series").json()
    series_uid = series["0020000E"]["Value"][0]
    found = get(site, f"/studies/{study}/series/{series_uid}/instances").json()
    return [f"/studies/{study}/series/{series_uid}/instances/{one['00080018']['Value'][0]}" for one in found]


def parts(answer: Any) -> list[tuple[str, bytes]]:
    """(content type, body) of each part of a multipart/related answer (RFC 2387)."""
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    message = BytesParser().parsebytes(head + answer.content)
    return [(part["content-type"], part.get_payload(decode=True)) for part in message.get_payload()]  # type: ignore[union-attr,misc]


def test_without_a_claim_there_is_nothing(site: GatewaySite) -> None:
    assert get(site, "/studies").json() == []
    for path in (f"/studies/{site.study_instance_uid}/metadata", f"/studies/{site.study_instance_uid}/series", "/studies/1.2.3/metadata"):
        answer = get(site, path)
        assert answer.status_code == 404 and answer.headers["content-type"] == "application/problem+json"


def test_a_claim_grants_its_study_to_its_reader_alone(site: GatewaySite) -> None:
    site.claim()
    (study,) = get(site, "/studies").json()
    assert study["0020000D"]["Value"] == [site.study_instance_uid]
    assert study["00100010"]["Value"] == [{"Alphabetic": site.study.patient_pseudonym}]
    assert study["00201208"]["Value"] == [2]
    assert get(site, f"/studies/{site.study_instance_uid}/metadata", "r5").status_code == 404


def test_a_search_by_patient_answers_from_the_grants(site: GatewaySite) -> None:
    site.process(site.receive(make_ct_study(instances=1, number=2, person=JOZEF_WISNIOWSKI)))
    site.claim()
    assert len(get(site, f"/studies?00100020={site.study.patient_pseudonym}").json()) == 1
    assert len(get(site, "/studies?PatientID=*").json()) == 1
    assert get(site, "/studies?PatientID=RG-OTHER").json() == []
    assert get(site, f"/studies?StudyInstanceUID={site.study_instance_uid}&limit=0").json() == []
    assert get(site, f"/studies?0020000D=1.2.3\\{site.study_instance_uid}").json() != []


def test_a_prior_of_the_same_patient_comes_with_the_claim(site: GatewaySite) -> None:
    prior = site.process(site.receive(make_ct_study(instances=1, number=9)))
    step_uid = site.claim()
    assert {study["0020000D"]["Value"][0] for study in get(site, "/studies").json()} == {site.study_instance_uid, prior}
    page = site.client("r1").get(f"/read/{step_uid}", headers=PAGE).text
    assert "Priors (1)" in page and prior in page
    with site.app.database.reading() as session:
        assert {grant.object_kind for grant in session.exec(select(ViewGrant)).all()} == {"CURRENT", "PRIOR"}


def test_metadata_names_nobody_and_is_kept_by_no_cache(site: GatewaySite) -> None:
    site.claim()
    answer = get(site, f"/studies/{site.study_instance_uid}/metadata")
    assert answer.headers["content-type"] == "application/dicom+json"
    assert answer.headers["cache-control"] == "no-store"
    first = answer.json()[0]
    assert first["00120062"]["Value"] == ["YES"] and "7FE00010" in first
    assert not {KAETHE_GRUENWALD.family_name, KAETHE_GRUENWALD.patient_id} & set(re.findall(r"[\w-]+", answer.text))


def test_frames_are_the_pixels_that_were_sent(site: GatewaySite) -> None:
    site.claim()
    sent = {dataset.pixel_array.tobytes() for dataset in make_ct_study(instances=2)}
    got = set()
    for path in instances(site):
        ((kind, body),) = parts(get(site, f"{path}/frames/1"))
        assert HTJ2K_LOSSLESS in kind
        got.add(np.ascontiguousarray(imagecodecs.htj2k_decode(body)).astype(np.int16).tobytes())
    assert got == sent


@pytest.mark.parametrize(("frames", "status"), [("0", 404), ("2", 404), ("1,1", 400), ("x", 400), ("1,,1", 400), ("-1", 404)])
def test_frame_numbers_outside_the_instance_are_refused(site: GatewaySite, frames: str, status: int) -> None:
    site.claim()
    assert get(site, f"{instances(site)[0]}/frames/{frames}").status_code == status


def test_one_answer_holds_so_many_bytes(site: GatewaySite, monkeypatch: pytest.MonkeyPatch) -> None:
    site.claim()
    path = instances(site)[0]
    assert get(site, f"{path}/frames/1").status_code == 200
    monkeypatch.setattr(dicomweb, "ANSWER_BYTES_MAX", 10)
    assert get(site, f"{path}/frames/1").status_code == 400


@pytest.mark.parametrize("query", ["limit=%C2%B2", "offset=%C2%B2", "limit=-1", "limit=" + "9" * 5000])
def test_a_page_that_is_no_number_is_the_whole_list(site: GatewaySite, query: str) -> None:
    site.claim()
    assert len(get(site, f"/studies?{query}").json()) == 1


def test_an_instance_of_another_series_is_not_found(site: GatewaySite) -> None:
    site.claim()
    path = instances(site)[0]
    assert get(site, path.replace(path.split("/")[4], "1.2.3") + "/frames/1").status_code == 404
    assert get(site, path.rpartition("/")[0] + "/1.2.3/frames/1").status_code == 404


def test_whole_files_are_not_handed_out_under_view_only(site: GatewaySite) -> None:
    site.claim()
    path = instances(site)[0]
    with site.app.database.transaction() as session:
        grants = session.exec(select(ViewGrant)).all()
        for grant in grants:
            grant.obligations = ["VIEW_ONLY"]
            session.add(grant)
    assert grants
    answer = get(site, path)
    assert (answer.status_code, answer.json()["reason_code"]) == (403, "VIEW_ONLY")
    # Nor is a whole file to be had element by element.
    for tag in ("00080018", "7FE00010"):
        assert get(site, f"{path}/bulkdata/{tag}").status_code == 403
    assert get(site, f"{path}/frames/1").status_code == 200


def test_the_log_has_the_opening_before_anything_is_shown(site: GatewaySite) -> None:
    site.claim()
    assert get(site, "/studies").json()
    with site.app.database.reading() as session:
        opened = session.exec(select(audit.AuditEntry).where(audit.AuditEntry.event_type == audit.EventType.OPEN)).all()
    assert [(entry.actor, entry.study_instance_uid, entry.outcome) for entry in opened] == [("r1", site.study_instance_uid, "0")]
    assert opened[0].decision_digest is not None


def test_after_a_quarter_of_an_hour_the_law_is_asked_again(site: GatewaySite) -> None:
    step_uid = site.claim()
    get(site, "/studies")
    for _ in range(2):
        site.clock.forward(minutes=10)
        site.post_json("r1", f"/read/{step_uid}/heartbeat", {})
        assert get(site, "/studies").json()
    with site.app.database.reading() as session:
        opened = session.exec(select(audit.AuditEntry).where(audit.AuditEntry.event_type == audit.EventType.OPEN)).all()
    assert len(opened) == 2


def test_a_claim_that_was_given_back_shows_nothing_more(site: GatewaySite) -> None:
    step_uid = site.claim()
    path = instances(site)[0]
    site.post("r1", f"/read/{step_uid}/release", reason="Not mine")
    assert get(site, f"{path}/frames/1").status_code == 404
    assert get(site, "/studies").json() == []
