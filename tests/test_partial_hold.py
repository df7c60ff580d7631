"""One instance that cannot be proved clean does not make the readable ones wait, and is never lost: listed, settled, or left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset
from sqlmodel import select

from compliance.burned_in import PixelScreening, ScreenedBox
from compliance.deid_manifest import id_class_of, manifest_facts
from compliance.device_masks import Box, DeviceMask
from compliance.hospital import require_hospital
from compliance.quarantine import QuarantineItem, QuarantineState
from compliance.study import Instance, Study, manifest_of, require_study
from crypto.errors import Conflict
from gateway import study_registration
from gateway.processing import archive_originals, deidentify_study, route_study
from gateway.quarantine_acts import Said, reject, try_again
from gateway.received import ReceivedInstance, ReceivedState, held_by_item, received_study
from tests.builders import make_ct_study
from tests.gateway_site import PAGE, GatewaySite, gateway_site
from worklist.workitem import ProcedureStep


@dataclass
class HoldingScreener:
    """Holds the instances of these numbers as if a name stood on their anatomy."""

    held: set[int] = field(default_factory=set)
    asked: list[int] = field(default_factory=list)

    def screen(
        self,
        dataset: pydicom.Dataset,
        identity: Sequence[str],
        *,
        masks: Iterable[DeviceMask] | None = None,
        reviewed: Sequence[Box] | None = None,
    ) -> PixelScreening:
        number = int(dataset.InstanceNumber)
        self.asked.append(number)
        if number in self.held and reviewed is None:
            return PixelScreening("HOLD", "TEXT_ON_ANATOMY", (ScreenedBox((1, 2, 30, 9), "text on anatomy"),), dataset, "secondary capture")
        return PixelScreening("CLEAN", "", (), dataset, "secondary capture")


def study_of(count: int, number: int) -> list[Dataset]:
    datasets = make_ct_study(instances=count, number=number)
    for index, dataset in enumerate(datasets):
        dataset.InstanceNumber = index + 1
    return datasets


def processed(site: GatewaySite, received_pk: int, screener: HoldingScreener) -> str:
    archive_originals(site.app, received_pk)
    return deidentify_study(site.app, received_pk, screener)


def items(site: GatewaySite) -> list[QuarantineItem]:
    with site.app.database.reading() as session:
        return list(session.exec(select(QuarantineItem).order_by("item_pk")).all())  # type: ignore[arg-type]


def study(site: GatewaySite, uid: str) -> Study:
    with site.app.database.reading() as session:
        row = require_study(session, uid)
        manifest_of(session, row)
        assert id_class_of(require_hospital(session, row.hospital_id), row) == "PSEUDONYMISED"
        return row


def settle(act: Any, site: GatewaySite, item: QuarantineItem) -> None:
    act(site.app.database, site.app.keys, Said("h1", str(item.item_pk), "h1", "seen", site.app.now()))


@pytest.fixture
def site(tmp_path: Path) -> Any:
    with gateway_site(tmp_path / "data", has_study=False) as one:
        yield one


def test_the_rest_goes_on_and_says_that_one_is_held_back(site: GatewaySite) -> None:
    received_pk = site.receive(study_of(4, 81))
    uid = processed(site, received_pk, HoldingScreener({3}))
    row = study(site, uid)
    assert (row.instance_count, row.held_instances, row.deidentification["held"]) == (3, 1, {"BURNED_IN_TEXT": 1})
    assert manifest_facts(_hospital(site), row).held == (("BURNED_IN_TEXT", 1),)
    (item,) = items(site)
    assert (item.is_partial, item.instance_count, item.state, item.reason_code) == (True, 1, QuarantineState.HELD, "BURNED_IN_TEXT")
    with site.app.database.reading() as session:
        (held,) = held_by_item(session, item.item_pk or 0)
        assert (held.held_detail, held.held_boxes) == ("TEXT_ON_ANATOMY", [[1, 2, 30, 9, "text on anatomy"]])
        assert held.sop_instance_uid is None
        assert received_study(session, received_pk).state == ReceivedState.AVAILABLE


def test_each_step_twice_holds_once(site: GatewaySite) -> None:
    received_pk, screener = site.receive(study_of(4, 82)), HoldingScreener({3})
    uid = processed(site, received_pk, screener)
    assert processed(site, received_pk, screener) == uid
    assert len(items(site)) == 1 and study(site, uid).instance_count == 3
    assert len(screener.asked) == 4


def test_a_crash_before_the_commit_leaves_nothing_and_the_step_runs_again(site: GatewaySite, monkeypatch: pytest.MonkeyPatch) -> None:
    received_pk = site.receive(study_of(4, 83))

    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("power")

    with monkeypatch.context() as patched:
        patched.setattr(study_registration.audit, "append", crash)
        with pytest.raises(RuntimeError, match="power"):
            processed(site, received_pk, HoldingScreener({2}))
    assert items(site) == []
    with site.app.database.reading() as session:
        assert session.exec(select(Study)).all() == []
    assert study(site, processed(site, received_pk, HoldingScreener({2}))).held_instances == 1


def test_what_is_released_later_amends_the_study(site: GatewaySite) -> None:
    received_pk = site.receive(study_of(4, 84))
    uid = processed(site, received_pk, HoldingScreener({3}))
    route_study(site.app, uid)
    settle(try_again, site, items(site)[0])
    with pytest.raises(Conflict):
        settle(try_again, site, items(site)[0])
    assert processed(site, received_pk, HoldingScreener()) == uid
    row = study(site, uid)
    assert (row.instance_count, row.held_instances, row.amendment) == (4, 0, 1)
    assert not route_study(site.app, uid).is_new
    with site.app.database.reading() as session:
        (step,) = session.exec(select(ProcedureStep).where(ProcedureStep.study_pk == row.study_pk)).all()
    assert step.amendment == 1


def test_what_is_released_and_does_not_pass_is_held_again(site: GatewaySite) -> None:
    received_pk = site.receive(study_of(4, 85))
    uid = processed(site, received_pk, HoldingScreener({3}))
    settle(try_again, site, items(site)[0])
    assert processed(site, received_pk, HoldingScreener({3})) == uid
    assert [item.state for item in items(site)] == [QuarantineState.RELEASED, QuarantineState.HELD]
    assert (study(site, uid).instance_count, study(site, uid).amendment) == (3, 0)


def test_what_is_rejected_is_left_out_for_good(site: GatewaySite) -> None:
    received_pk = site.receive(study_of(4, 86))
    uid = processed(site, received_pk, HoldingScreener({3}))
    settle(reject, site, items(site)[0])
    screener = HoldingScreener()
    assert processed(site, received_pk, screener) == uid
    row = study(site, uid)
    assert (row.instance_count, row.held_instances, row.left_out_instances, screener.asked) == (3, 0, 1, [])
    with site.app.database.reading() as session:
        assert len(session.exec(select(Instance).where(Instance.study_pk == row.study_pk)).all()) == 3


def test_more_instances_do_not_ask_again_for_what_waits_for_a_person(site: GatewaySite) -> None:
    datasets = study_of(6, 87)
    received_pk = site.receive(datasets[:4])
    uid = processed(site, received_pk, HoldingScreener({3}))
    assert site.receive(datasets[4:]) == received_pk
    screener = HoldingScreener({3, 6})
    assert processed(site, received_pk, screener) == uid
    row = study(site, uid)
    assert (row.instance_count, row.held_instances, sorted(screener.asked)) == (4, 2, [5, 6])
    (item,) = items(site)
    assert item.instance_count == 2


def test_a_study_of_which_more_is_held_than_left_waits_whole(site: GatewaySite) -> None:
    received_pk = site.receive(study_of(3, 88))
    assert processed(site, received_pk, HoldingScreener({1, 2})) == ""
    (item,) = items(site)
    assert (item.is_partial, item.instance_count) == (False, 3)
    with site.app.database.reading() as session:
        assert received_study(session, received_pk).state == ReceivedState.QUARANTINED
        assert len(held_by_item(session, item.item_pk or 0)) == 2
    settle(try_again, site, item)
    assert study(site, processed(site, received_pk, HoldingScreener())).instance_count == 3


def test_doubt_about_the_patient_holds_all_of_it(site: GatewaySite) -> None:
    datasets = study_of(4, 89)
    datasets[2].PatientID = "SOMEBODY-ELSE"
    received_pk = site.receive(datasets)
    assert processed(site, received_pk, HoldingScreener()) == ""
    (item,) = items(site)
    assert (item.reason_code, item.is_partial) == ("SEVERAL_PATIENT_IDS", False)


def test_instances_that_come_while_a_generation_is_processed_are_not_taken_for_done(site: GatewaySite) -> None:
    datasets = study_of(5, 90)
    received_pk = site.receive(datasets[:4])

    class Meanwhile(HoldingScreener):
        def screen(self, dataset: pydicom.Dataset, identity: Sequence[str], **given: Any) -> PixelScreening:
            if not self.asked:
                site.receive(datasets[4:], complete=False)
            return super().screen(dataset, identity, **given)

    processed(site, received_pk, Meanwhile())
    with site.app.database.transaction() as session:
        row = received_study(session, received_pk)
        assert row.state == ReceivedState.RECEIVING
        waiting = session.exec(select(ReceivedInstance).where(ReceivedInstance.sop_instance_uid == None)).all()  # noqa: E711
        assert waiting
        row.state = ReceivedState.COMPLETE
        session.add(row)
    assert study(site, processed(site, received_pk, HoldingScreener())).instance_count == 5


def _hospital(site: GatewaySite) -> Any:
    with site.app.database.reading() as session:
        return require_hospital(session, "h1")


def test_the_reader_is_told_beside_the_images_and_before_signing(site: GatewaySite) -> None:
    received_pk = site.receive(study_of(3, 97))
    study_instance_uid = processed(site, received_pk, HoldingScreener({2}))
    route_study(site.app, study_instance_uid)
    with site.app.database.reading() as session:
        study_pk = require_study(session, study_instance_uid).study_pk
        step_uid = session.exec(select(ProcedureStep.procedure_step_uid).where(ProcedureStep.study_pk == study_pk)).one()
    site.post("r1", f"/worklist/{step_uid}/claim")
    site.write(step_uid)
    for path in (f"/read/{step_uid}", f"/read/{step_uid}/sign"):
        assert "1 image held back by the hospital" in site.client("r1").get(path, headers=PAGE).text, path
