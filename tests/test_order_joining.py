"""An order that comes after its study is joined to it, and an open step says so; how many images an order announces counts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from sqlmodel import select

from compliance.audit import EventType
from compliance.quarantine import QuarantineItem
from compliance.study import Study, open_order_text, open_study_key, require_study
from crypto.errors import RefusedContent
from gateway.expected_instances import expect_instances
from gateway.order_joining import join_late_orders
from gateway.order_listener import answer_order
from gateway.processing import route_study
from gateway.received import ReceivedState, ReceivedStudy
from reporting.order_message import parse_order
from reporting.oru import parse_ack
from tests.builders import make_ct_study
from tests.gateway_site import GatewaySite, gateway_site
from tests.signing_desk import Desk, entries_of, is_log_sound, step_of, steps_of
from worklist.procedure_step import State


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "site", has_study=False) as made:
        yield made


def message(dataset: Dataset, indication: str, *, priority: str = "R", patient_id: str = "", images: str = "") -> bytes:
    observation = f"OBX|1|NM|00201208^Number of Study Related Instances^DCM||{images}\r" if images else ""
    return (
        "MSH|^~\\&|RIS|H|RG|RG|20260101||ORM^O01|1|P|2.5.1\r"
        f"PID|||{patient_id or dataset.PatientID}^^^A^MR||{dataset.PatientName}||19700101|F\rORC|NW|P1\rTQ1|||||||||{priority}\r"
        f"OBR|1|P1|F1|CT^CT head||||||||||||||{dataset.AccessionNumber}|||||||||||||{indication}\r{observation}"
    ).encode()


def file_message(site: GatewaySite, payload: bytes) -> None:
    site.clock.forward(seconds=1)
    assert parse_ack(answer_order(site.app, "h1", payload)).code == "AA"


def study_of(site: GatewaySite, study_instance_uid: str) -> tuple[Study, dict[str, str]]:
    with site.app.database.reading() as session:
        study = require_study(session, study_instance_uid)
    return study, open_order_text(open_study_key(site.app.keys, study), study)


def join(site: GatewaySite, received_study_pk: int) -> bool:
    """Whether the duty found something; the job it asks for is done."""
    found = join_late_orders(site.app)
    assert not found or site.process(received_study_pk) is not None
    return bool(found)


def test_order_that_comes_after_its_study_is_joined_and_the_open_step_says_so(site: GatewaySite) -> None:
    datasets = make_ct_study(instances=2)
    received_study_pk = site.receive(datasets)
    study_instance_uid = site.process(received_study_pk)
    step = steps_of(site)[0]
    assert study_of(site, study_instance_uid)[1] == {} and step.amendment == 0 and not join(site, received_study_pk)
    file_message(site, message(datasets[0], "Fell from a ladder.", priority="S"))
    assert join(site, received_study_pk)
    study, texts = study_of(site, study_instance_uid)
    assert texts["indication"] == "Fell from a ladder." and (study.priority, study.amendment) == ("HIGH", 1)
    after = steps_of(site)
    assert [one.procedure_step_uid for one in after] == [step.procedure_step_uid] and after[0].amendment == 1
    assert after[0].priority == "HIGH" and after[0].expected_completion_at <= step.expected_completion_at
    entries = entries_of(site, EventType.AMENDED)
    assert [entry.detail.get("priority") for entry in entries] == ["HIGH", None] and is_log_sound(site)
    assert not join(site, received_study_pk), "once"


def test_reader_who_has_the_study_open_is_told_before_signing(site: GatewaySite) -> None:
    datasets = make_ct_study(instances=1)
    received_study_pk = site.receive(datasets)
    site.process(received_study_pk)
    step_uid = steps_of(site)[0].procedure_step_uid
    desk = Desk(site)
    desk.claim(step_uid)
    file_message(site, message(datasets[0], "Fell from a ladder."))
    assert join(site, received_study_pk)
    step = step_of(site, step_uid)
    assert (step.state, step.amendment) == (State.IN_PROGRESS, 1)


def test_order_sent_again_unchanged_amends_nothing(site: GatewaySite) -> None:
    datasets = make_ct_study(instances=1)
    file_message(site, message(datasets[0], "Fell from a ladder."))
    received_study_pk = site.receive(datasets)
    study_instance_uid = site.process(received_study_pk)
    assert not join(site, received_study_pk), "it was there in time"
    file_message(site, message(datasets[0], "Fell from a ladder."))
    assert join(site, received_study_pk)
    assert study_of(site, study_instance_uid)[0].amendment == steps_of(site)[0].amendment == 0
    file_message(site, message(datasets[0], "Fell from a roof."))
    assert join(site, received_study_pk)
    study, texts = study_of(site, study_instance_uid)
    assert texts["indication"] == "Fell from a roof." and study.amendment == steps_of(site)[0].amendment == 1


def test_order_after_the_report_is_kept_and_makes_no_new_work(site: GatewaySite) -> None:
    datasets = make_ct_study(instances=1)
    received_study_pk = site.receive(datasets)
    study_instance_uid = site.process(received_study_pk)
    Desk(site).report()
    before = len(steps_of(site))
    file_message(site, message(datasets[0], "Fell from a ladder."))
    assert join(site, received_study_pk)
    route_study(site.app, study_instance_uid)
    assert study_of(site, study_instance_uid)[1]["indication"] == "Fell from a ladder."
    assert len(steps_of(site)) == before and study_of(site, study_instance_uid)[0].amendment == 0


def test_late_order_of_another_patient_is_held_and_not_joined(site: GatewaySite) -> None:
    datasets = make_ct_study(instances=1)
    received_study_pk = site.receive(datasets)
    study_instance_uid = site.process(received_study_pk)
    file_message(site, message(datasets[0], "Fell from a ladder.", patient_id="OTHER"))
    assert join(site, received_study_pk)
    with site.app.database.reading() as session:
        items = session.exec(select(QuarantineItem).where(QuarantineItem.received_study_pk == received_study_pk)).all()
    assert [item.reason_code for item in items] == ["ORDER_OF_ANOTHER_PATIENT"]
    assert study_of(site, study_instance_uid)[1] == {} and not join(site, received_study_pk)


@pytest.mark.parametrize("when", ["before", "after"])
def test_number_in_the_order_makes_the_study_whole(site: GatewaySite, when: str) -> None:
    datasets = make_ct_study(instances=2)
    if when == "before":
        file_message(site, message(datasets[0], "", images="2"))
    received_study_pk = site.receive(datasets, complete=False)
    if when == "after":
        file_message(site, message(datasets[0], "", images="2"))
    with site.app.database.reading() as session:
        received = session.get(ReceivedStudy, received_study_pk)
    assert received is not None and received.state == ReceivedState.RECEIVING and received.is_commitment_asked


def test_number_stated_for_the_study_counts_before_that_of_its_order(site: GatewaySite) -> None:
    datasets = make_ct_study(instances=2)
    received_study_pk = site.receive(datasets, complete=False)
    assert expect_instances(site.app, "h1", 3, actor="h1", study_instance_uid=datasets[0].StudyInstanceUID) == 2
    file_message(site, message(datasets[0], "", images="2"))
    with site.app.database.reading() as session:
        received = session.get(ReceivedStudy, received_study_pk)
    assert received is not None and not received.is_commitment_asked


@pytest.mark.parametrize("images", ["0", "-1", "two", "1.5", "1000001", "99999999999999999999"])
def test_number_that_is_none_is_refused(images: str) -> None:
    with pytest.raises(RefusedContent, match="OBX-5"):
        parse_order(message(make_ct_study(instances=1)[0], "", images=images))


def test_hospital_says_on_its_page_how_many_images_there_will_be(site: GatewaySite) -> None:
    received_study_pk = site.receive(make_ct_study(instances=2), complete=False)
    page = site.client("h1").get("/studies", headers={"Accept": "text/html"}).text
    assert f'action="/studies/{received_study_pk}/expected"' in page and "2 images" in page
    for wrong in ("", "many", "0", "-3"):
        assert site.post("h1", f"/studies/{received_study_pk}/expected", expected=wrong).status_code in (400, 422)
    assert site.post("h2", f"/studies/{received_study_pk}/expected", expected="2").status_code == 404
    assert site.post("h1", f"/studies/{received_study_pk}/expected", expected="5").status_code == 303
    assert "2 of 5 images" in site.client("h1").get("/studies", headers={"Accept": "text/html"}).text
    assert site.post("h1", f"/studies/{received_study_pk}/expected", expected="2").status_code == 303
    with site.app.database.reading() as session:
        received = session.get(ReceivedStudy, received_study_pk)
    assert received is not None and received.is_commitment_asked
    stated = [entry for entry in entries_of(site, EventType.RECEIVE) if "expected" in entry.detail]
    assert [(entry.detail["expected"], entry.actor) for entry in stated] == [(5, "h1"), (2, "h1")]
    assert timedelta(0) <= stated[1].recorded_at - stated[0].recorded_at
