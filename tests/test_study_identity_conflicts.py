"""One study is one patient's, one order's and one set of instances; whatever says otherwise holds it, and nothing of it is mixed."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from sqlmodel import select

from compliance.quarantine import QuarantineItem
from compliance.study import Instance, Series, open_study_key, require_study
from gateway import processing
from gateway.processing import archive_originals, deidentify_study, route_study
from gateway.received import ReceivedInstance, ReceivedState, ReceivedStudy, locked_received_study
from gateway.study_registration import open_series_metadata
from tests.builders import make_ct_study
from tests.gateway_site import GatewaySite, PlainScreener, gateway_site


def _held_reasons(site: GatewaySite) -> set[str]:
    with site.app.database.reading() as session:
        return {item.reason_code for item in session.exec(select(QuarantineItem)).all()}


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("PatientBirthDate", "19010101"), ("PatientSex", "O"), ("PatientName", "Somebody^Else"), ("IssuerOfPatientID", "ELSEWHERE")],
)
def test_one_patient_id_with_two_persons_is_held(tmp_path: Path, keyword: str, value: str) -> None:
    with gateway_site(tmp_path / "data") as site:
        datasets = make_ct_study(instances=2, number=81)
        setattr(datasets[1], keyword, value)
        assert site.process(site.receive(datasets)) == ""
        assert _held_reasons(site) == {"SEVERAL_PATIENTS"}


def test_spelling_of_one_name_is_no_conflict(tmp_path: Path) -> None:
    with gateway_site(tmp_path / "data") as site:
        datasets = make_ct_study(instances=2, number=82)
        datasets[1].PatientName = str(datasets[0].PatientName).upper()
        assert site.process(site.receive(datasets)) != ""


def test_an_order_for_another_patient_is_not_attached(tmp_path: Path) -> None:
    with gateway_site(tmp_path / "data") as site:
        order = {"indication": "Known lymphoma.", "question": "", "procedure": "", "patient_id": "SOMEBODY-ELSE"}
        assert site.process(site.receive(make_ct_study(instances=1, number=83), order=order)) == ""
        assert _held_reasons(site) == {"ORDER_OF_ANOTHER_PATIENT"}


def test_instances_that_come_while_a_generation_is_processed_are_the_next_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generation 1 is slow: an instance arrives and the study is COMPLETE again before it registers. It must register nothing."""
    with gateway_site(tmp_path / "data") as site:
        datasets = make_ct_study(instances=3, number=84)
        received_study_pk = site.receive(datasets[:2])
        archive_originals(site.app, received_study_pk)
        registered = processing.register_study

        def late(*args: object, **kwargs: object) -> str:
            site.receive(datasets[2:])
            monkeypatch.setattr(processing, "register_study", registered)
            return registered(*args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(processing, "register_study", late)
        assert deidentify_study(site.app, received_study_pk, PlainScreener()) == ""
        with site.app.database.reading() as session:
            assert session.get(ReceivedStudy, received_study_pk).state == ReceivedState.COMPLETE  # type: ignore[union-attr]
        study_instance_uid = site.process(received_study_pk)
        _require_agreement(site, study_instance_uid, 3)


def test_two_processes_on_one_generation_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with gateway_site(tmp_path / "data") as site:
        received_study_pk = site.receive(make_ct_study(instances=2, number=85))
        archive_originals(site.app, received_study_pk)
        registered = processing.register_study

        def other_first(*args: object, **kwargs: object) -> str:
            monkeypatch.setattr(processing, "register_study", registered)
            assert deidentify_study(site.app, received_study_pk, PlainScreener())
            return registered(*args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(processing, "register_study", other_first)
        study_instance_uid = deidentify_study(site.app, received_study_pk, PlainScreener())
        route_study(site.app, study_instance_uid)
        _require_agreement(site, study_instance_uid, 2)


def test_an_instance_of_another_study_holds_the_study_instead_of_vanishing(tmp_path: Path) -> None:
    with gateway_site(tmp_path / "data") as site:
        first, second = make_ct_study(instances=2, number=86), make_ct_study(instances=2, number=87)
        site.process(site.receive(first))
        _take_identity(second[0], first[0])
        received_study_pk = site.receive(second)
        assert site.process(received_study_pk) == ""
        with site.app.database.transaction() as session:
            # A person who takes it for a plain conflict inside the study chooses to keep it.
            locked_received_study(session, received_study_pk).state = ReceivedState.COMPLETE
            for row in session.exec(select(ReceivedInstance).where(ReceivedInstance.received_study_pk == received_study_pk)).all():
                row.is_conflicting = False
                session.add(row)
        assert site.process(received_study_pk) == ""
        assert "INSTANCE_IN_TWO_STUDIES" in _held_reasons(site)


def _take_identity(dataset: Dataset, of: Dataset) -> None:
    dataset.SOPInstanceUID = of.SOPInstanceUID
    if hasattr(dataset, "file_meta"):
        dataset.file_meta.MediaStorageSOPInstanceUID = of.SOPInstanceUID


def _require_agreement(site: GatewaySite, study_instance_uid: str, count: int) -> None:
    """Rows, series count, metadata and manifest say the same."""
    with site.app.database.reading() as session:
        study = require_study(session, study_instance_uid)
        series = session.exec(select(Series).where(Series.study_pk == study.study_pk)).all()
        instances = session.exec(select(Instance).where(Instance.study_pk == study.study_pk)).all()
    key = open_study_key(site.app.keys, study)
    described = [one["00080018"]["Value"][0] for row in series for one in open_series_metadata(site.app, key, row)]
    assert sorted(described) == sorted(instance.sop_instance_uid for instance in instances)
    assert (study.instance_count, len(instances), sum(row.instance_count for row in series)) == (count, count, count)
