"""Images that come after the report: somebody reads them, and what is written of them can be signed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlmodel import col, select

from compliance.study import Study
from crypto.errors import Conflict
from gateway.reading_desk import kinds_for
from gateway.received import ReceivedStudy
from reporting.content import ReportKind
from tests.builders import make_ct_study
from tests.gateway_site import GatewaySite, gateway_site
from tests.signing_desk import Desk, chain_of, step_of, steps_of
from worklist.claim import expire_leases
from worklist.procedure_step import State
from worklist.routed_reader import eligible_ids
from worklist.routing import route
from worklist.workitem import ProcedureStep


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "site") as made:
        yield made


def _more_images(site: GatewaySite, count: int = 3) -> None:
    """Further instances of the site's study are received, processed and routed."""
    received_pk = site.receive(make_ct_study(instances=count)[2:])
    with site.app.database.reading() as session:
        assert session.get(ReceivedStudy, received_pk) is not None
    assert site.process(received_pk) == site.study_instance_uid


def _waiting(site: GatewaySite) -> list[ProcedureStep]:
    return [step for step in steps_of(site) if step.state == State.SCHEDULED]


def _kinds(site: GatewaySite, step_uid: str) -> list[str]:
    with site.app.database.reading() as session:
        return [choice.value for choice in kinds_for(session, site.study, step_of(site, step_uid))]


@pytest.mark.parametrize("kind", [ReportKind.ADDENDUM, ReportKind.CORRECTION])
def test_images_after_the_final_report_are_read_and_signed(site: GatewaySite, kind: ReportKind) -> None:
    Desk(site).report()
    site.clock.forward(hours=5)
    _more_images(site)
    (step,) = _waiting(site)
    assert step.expected_completion_at > site.clock.at, "the clock of the first reading is not the clock of the second"
    other = Desk(site)
    other.claim(step.procedure_step_uid)
    assert _kinds(site, step.procedure_step_uid) == ["ADDENDUM", "CORRECTION"]
    other.save(step.procedure_step_uid)
    with pytest.raises(Conflict):
        other.sign(step.procedure_step_uid, 1, ReportKind.FINAL)
    other.sign(step.procedure_step_uid, 1, kind)
    chain = chain_of(site)
    assert [report.kind for report in chain] == [ReportKind.FINAL, kind]
    assert len(chain[1].manifest["instances"]) == 3 and step_of(site, step.procedure_step_uid).state == State.COMPLETED


def test_reader_of_the_report_who_begins_an_addendum_takes_over_the_step_of_the_new_images(site: GatewaySite) -> None:
    desk = Desk(site)
    completed_uid = desk.report().procedure_step_uid
    _more_images(site)
    (waiting,) = _waiting(site)
    assert desk.begin_addendum(completed_uid) == waiting.procedure_step_uid
    with pytest.raises(Conflict):
        desk.begin_addendum(completed_uid)
    desk.save(waiting.procedure_step_uid)
    desk.sign(waiting.procedure_step_uid, 1, ReportKind.ADDENDUM)
    assert _waiting(site) == []


@pytest.mark.parametrize("end", ["released", "expired", "signed"])
def test_images_that_come_while_an_addendum_is_open_are_read_after_all(site: GatewaySite, end: str) -> None:
    desk = Desk(site)
    addendum_uid = desk.begin_addendum(desk.report().procedure_step_uid)
    _more_images(site)
    assert step_of(site, addendum_uid).amendment == 1 and _waiting(site) == [], "one reader at a time, who is told"
    if end == "signed":
        desk.save(addendum_uid)
        desk.sign(addendum_uid, 1, ReportKind.ADDENDUM)
        assert _waiting(site) == [] and len(chain_of(site)[-1].manifest["instances"]) == 3
        return
    if end == "released":
        desk.release(addendum_uid)
    else:
        site.clock.forward(minutes=20)
        assert expire_leases(site.app.database, now=site.clock.at, new_uid=site.app.new_uid) == [addendum_uid]
    (step,) = _waiting(site)
    assert not step.is_addendum and step.amendment == 1
    desk.claim(step.procedure_step_uid)
    desk.save(step.procedure_step_uid)
    desk.sign(step.procedure_step_uid, 1, ReportKind.ADDENDUM)


def test_second_addendum_that_is_abandoned_leaves_no_successor(site: GatewaySite) -> None:
    desk = Desk(site)
    completed_uid = desk.report().procedure_step_uid
    addendum_uid = desk.begin_addendum(completed_uid)
    _more_images(site)
    desk.save(addendum_uid)
    desk.sign(addendum_uid, 1, ReportKind.ADDENDUM)
    assert desk.release(desk.begin_addendum(completed_uid)) == ""
    with site.app.database.transaction() as session:
        study = session.exec(select(Study).order_by(col(Study.study_pk))).one()
        assert not route(session, site.app.law, study, now=site.clock.at, new_uid=site.app.new_uid).is_new


def test_addendum_that_nobody_began_to_write_becomes_a_step_for_every_reader(site: GatewaySite) -> None:
    desk = Desk(site)
    addendum_uid = desk.begin_addendum(desk.report().procedure_step_uid)
    with site.app.database.transaction() as session:
        # As a process leaves it that ended between the step and its claim.
        begun = session.get(ProcedureStep, addendum_uid)
        assert begun is not None
        begun.state, begun.claiming_reader_id, begun.transaction_uid_digest = State.SCHEDULED, None, None
        session.add(begun)
    _more_images(site)
    step = step_of(site, addendum_uid)
    with site.app.database.reading() as session:
        assert (step.is_addendum, step.amendment, eligible_ids(session, step.study_pk)) == (False, 1, ["r1"])
