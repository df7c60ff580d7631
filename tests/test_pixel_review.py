"""Held pixels are shown to the hospital's own staff alone, each look is in the log, and what they decide is done and proved again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlmodel import select

from compliance.audit import AuditEntry, EventType
from compliance.pixel_child import PixelChild
from compliance.pixel_review import HospitalMask, PixelReview, decisions_for, withdraw_mask
from compliance.principal import LoginSession, require_principal
from compliance.study import require_study
from crypto.errors import BadInput, Conflict, NotFound
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
        assert not withdraw_mask(session, hospital_id="h2", mask_pk=mask.mask_pk or 0, actor="h2", now=now)
        assert withdraw_mask(session, hospital_id="h1", mask_pk=mask.mask_pk or 0, actor="h1", now=now)


@pytest.mark.parametrize("boxes", [[(5, 5, 5, 9)], [(-1, 0, 4, 4)], [BOX] * 201])
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
    more = {f"more-{instance_pk}": "5 6 70 80"}
    assert site.post("h1", address, decision="blank", reason="a name", **{f"more-{instance_pk}": "5 6"}).status_code == 400
    assert site.post("h1", address, decision="blank", reason="a name", **more).status_code == 303
    with site.app.database.reading() as session:
        assert decisions_for(session, "h1", received_pk).boxes == {instance_pk: ((5, 6, 70, 80),)}
