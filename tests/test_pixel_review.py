"""Held pixels are shown to the hospital's own staff alone, each look is in the log, and what they decide is done and proved again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select
from typer.testing import CliRunner

from compliance.audit import AuditEntry, EventType
from compliance.pixel_child import PixelChild
from compliance.pixel_review import HospitalMask, PixelReview, decisions_for, withdraw_mask
from compliance.principal import LoginSession, require_principal
from compliance.sealed_note import open_note
from compliance.study import require_study
from crypto.errors import BadInput, Conflict, NotFound
from gateway.commands_intake import quarantine_app
from gateway.login import Visitor
from gateway.pixel_review import accept, frame_png, held_pictures, refuse, waiting_reviews
from tests.gateway_site import PAGE, GatewaySite, gateway_site
from tests.test_partial_hold import HoldingScreener, items, processed, study_of

BOX = (1, 2, 30, 9)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "data", has_study=False) as one:
        yield one


def visitor(site: GatewaySite, principal_id: str = "h1") -> Visitor:
    site.client(principal_id)
    with site.app.database.reading() as session:
        login = session.exec(select(LoginSession).where(LoginSession.principal_id == principal_id)).one()
        return Visitor(require_principal(session, principal_id), login)


def held(site: GatewaySite, number: int) -> tuple[int, str, int]:
    """(received study, quarantine id, held instance)."""
    received_pk = site.receive(study_of(4, number))
    processed(site, received_pk, HoldingScreener({3}))
    (item,) = items(site)
    (picture,) = held_pictures(site.app, visitor(site), str(item.item_pk))
    assert picture.proposed == ((*BOX, "text on anatomy"),) and picture.reason == "TEXT_ON_ANATOMY"
    return received_pk, str(item.item_pk), picture.instance_pk


def test_the_queue_shows_what_waits_and_since_when(site: GatewaySite) -> None:
    _, quarantine_id, _ = held(site, 91)
    with site.app.database.reading() as session:
        (waiting,) = waiting_reviews(session, "h1")
        assert (waiting.quarantine_id, waiting.instances, waiting.is_partial) == (quarantine_id, 1, True)
        assert waiting_reviews(session, "h2") == []


def test_a_frame_is_shown_to_its_own_hospital_and_the_look_is_in_the_log(site: GatewaySite) -> None:
    _, quarantine_id, instance_pk = held(site, 92)
    with PixelChild() as child:
        png = frame_png(site.app, child, visitor(site), quarantine_id, instance_pk, 0)
        assert png[:8] == b"\x89PNG\r\n\x1a\n"
        with site.app.database.reading() as session:
            looks = session.exec(select(AuditEntry).where(AuditEntry.event_type == EventType.REIDENTIFY)).all()
        assert len(looks) == 1
        with pytest.raises(NotFound):
            frame_png(site.app, child, visitor(site, "h2"), quarantine_id, instance_pk, 0)
        with pytest.raises(NotFound):
            frame_png(site.app, child, visitor(site), quarantine_id, instance_pk + 1, 0)


def test_accepted_boxes_are_blanked_when_it_is_processed_again(site: GatewaySite) -> None:
    received_pk, quarantine_id, instance_pk = held(site, 93)
    accept(site.app, visitor(site), quarantine_id, {instance_pk: [BOX]}, note="a name", always=True)
    with site.app.database.reading() as session:
        decisions = decisions_for(session, "h1", received_pk)
        assert decisions.boxes == {instance_pk: (BOX,)} and decisions.masks[-1].boxes == (BOX,)
        assert {criterion["attribute"] for criterion in decisions.masks[-1].where} >= {"Rows", "Columns", "SOPClassUID"}
        assert all(mask.source != "hospital" for mask in decisions_for(session, "h2", received_pk).masks)
    uid = processed(site, received_pk, HoldingScreener({3}))
    with site.app.database.reading() as session:
        assert require_study(session, uid).held_instances == 0
    with pytest.raises(Conflict):
        accept(site.app, visitor(site), quarantine_id, {instance_pk: [BOX]}, note="again")


def test_a_mask_is_withdrawn_by_its_own_hospital_alone(site: GatewaySite) -> None:
    _, quarantine_id, instance_pk = held(site, 94)
    accept(site.app, visitor(site), quarantine_id, {instance_pk: [BOX]}, note="a name", always=True)
    with site.app.database.transaction() as session:
        (mask,) = session.exec(select(HospitalMask)).all()
        now = site.app.now()
        said: dict[str, Any] = {"mask_pk": mask.mask_pk, "actor": "x", "note": "gone", "now": now}
        assert not withdraw_mask(session, site.app.keys, hospital_id="h2", **said)
        assert withdraw_mask(session, site.app.keys, hospital_id="h1", **said)
        assert not withdraw_mask(session, site.app.keys, hospital_id="h1", **said)


@pytest.mark.parametrize("boxes", [[(5, 5, 5, 9)], [(-1, 0, 4, 4)], [(0, 0, 65, 64)], [BOX] * 201])
def test_boxes_that_are_none_are_refused(site: GatewaySite, boxes: list[tuple[int, int, int, int]]) -> None:
    _, quarantine_id, instance_pk = held(site, 95)
    with pytest.raises(BadInput):
        accept(site.app, visitor(site), quarantine_id, {instance_pk: boxes}, note="")
    with pytest.raises(BadInput):
        accept(site.app, visitor(site), quarantine_id, {}, note="")
    with site.app.database.reading() as session:
        assert session.exec(select(PixelReview)).all() == []


def test_what_is_refused_is_never_read(site: GatewaySite) -> None:
    received_pk, quarantine_id, _ = held(site, 96)
    refuse(site.app, visitor(site), quarantine_id, note="a face")
    uid = processed(site, received_pk, HoldingScreener())
    with site.app.database.reading() as session:
        row = require_study(session, uid)
        assert (row.held_instances, row.left_out_instances, row.instance_count) == (0, 1, 3)


def test_the_page_shows_the_frame_and_takes_the_decision(site: GatewaySite) -> None:
    received_pk, quarantine_id, instance_pk = held(site, 97)
    address = f"/quarantine/{quarantine_id}/pixels"
    assert address in site.client("h1").get(f"/quarantine/{quarantine_id}", headers=PAGE).text
    page = site.client("h1").get(address, headers=PAGE).text
    assert f"{address}/{instance_pk}/0.png" in page and f"box-{instance_pk}-0" in page
    picture = site.client("h1").get(f"{address}/{instance_pk}/0.png")
    assert (picture.status_code, picture.headers["content-type"], picture.headers["cache-control"]) == (200, "image/png", "no-store")
    assert site.client("h2").get(address, headers=PAGE).status_code == 404
    assert site.client("h2").get(f"{address}/{instance_pk}/0.png").status_code == 404
    assert site.client("r1").get(address, headers=PAGE).status_code == 403
    more = {f"more-{instance_pk}": "5 6 60 64"}
    for wrong in ("5 6", "5 6 65 64", "5 6 60 x", "60 6 5 64"):
        assert site.post("h1", address, decision="blank", reason="a name", **{f"more-{instance_pk}": wrong}).status_code == 400
    assert site.post("h1", address, decision="blank", reason="a name", **more).status_code == 303
    with site.app.database.reading() as session:
        assert decisions_for(session, "h1", received_pk).boxes == {instance_pk: ((5, 6, 60, 64),)}


def test_the_queue_stands_on_its_page_and_in_the_menu(site: GatewaySite) -> None:
    received_pk, quarantine_id, _ = held(site, 98)
    site.clock.forward(minutes=7)
    page = site.client("h1").get("/pixel-reviews", headers=PAGE).text
    assert f"/quarantine/{quarantine_id}/pixels" in page and "7 min" in page and f"#{received_pk}" in page
    assert re.search(r'href="/pixel-reviews"[^>]*>Images to look at <span class="count">1</span>', page)
    other = site.client("h2").get("/pixel-reviews", headers=PAGE).text
    assert "No image waits" in other and 'class="count"' not in other


def test_masks_are_listed_and_withdrawn_on_their_page_with_who_and_why(site: GatewaySite) -> None:
    received_pk, quarantine_id, instance_pk = held(site, 99)
    accept(site.app, visitor(site), quarantine_id, {instance_pk: [BOX]}, note="The console prints a name", always=True)
    with site.app.database.reading() as session:
        (mask,) = session.exec(select(HospitalMask)).all()
        made = session.exec(select(AuditEntry).where(AuditEntry.object_id == f"hospital-mask/{mask.mask_pk}")).one()
        assert (made.actor, open_note(site.app.keys, "h1", f"hospital-mask/{mask.mask_pk}", made.sealed_body)) == (
            "h1",
            "The console prints a name",
        )
        looked = session.exec(select(AuditEntry).where(AuditEntry.object_id == f"received-instance/{instance_pk}")).all()
        assert looked[-1].sealed_body is not None and looked[-1].detail == {"boxes": 1}
    page = site.client("h1").get("/pixel-masks", headers=PAGE).text
    assert "The console prints a name" in page and "1 2 30 9" in page
    assert "The console prints a name" not in site.client("h2").get("/pixel-masks", headers=PAGE).text
    address = f"/pixel-masks/{mask.mask_pk}/withdraw"
    assert site.post("h2", address, reason="not mine").status_code == 404
    assert site.post("h1", address, reason="").status_code == 400
    assert site.post("h1", address, reason="New software").status_code == 303
    assert "Withdrawn" in site.client("h1").get("/pixel-masks", headers=PAGE).text
    with site.app.database.reading() as session:
        assert all(one.source != "hospital" for one in decisions_for(session, "h1", received_pk).masks)


def test_a_device_without_a_name_makes_no_mask(site: GatewaySite) -> None:
    datasets = study_of(4, 90)
    for dataset in datasets:
        del dataset.Manufacturer
    received_pk = site.receive(datasets)
    processed(site, received_pk, HoldingScreener({3}))
    (item,) = items(site)
    (picture,) = held_pictures(site.app, visitor(site), str(item.item_pk))
    assert picture.device == ""
    with pytest.raises(BadInput):
        accept(site.app, visitor(site), str(item.item_pk), {picture.instance_pk: [BOX]}, note="a name", always=True)
    with site.app.database.reading() as session:
        assert session.exec(select(HospitalMask)).all() == [] and session.exec(select(PixelReview)).all() == []


def test_masks_by_command(site: GatewaySite) -> None:
    _, quarantine_id, instance_pk = held(site, 89)
    accept(site.app, visitor(site), quarantine_id, {instance_pk: [BOX]}, note="a name", always=True)
    data = str(site.app.data)
    runner = CliRunner()
    listed = json.loads(runner.invoke(quarantine_app, ["masks", "h1", "--data", data, "--json"]).stdout)
    assert [(one["boxes"], one["state"], one["note"]) for one in listed] == [("1 2 30 9", "IN FORCE", "a name")]
    number = str(listed[0]["number"])
    assert runner.invoke(quarantine_app, ["withdraw-mask", "h2", number, "--note", "x", "--data", data]).exit_code != 0
    assert runner.invoke(quarantine_app, ["withdraw-mask", "h1", number, "--note", "x", "--data", data]).exit_code == 0
    assert json.loads(runner.invoke(quarantine_app, ["masks", "h1", "--data", data, "--json"]).stdout) == []
