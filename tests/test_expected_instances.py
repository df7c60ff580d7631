"""Completeness by what the hospital said: a number for the study or its order, a storage commitment request; and what comes later."""

from __future__ import annotations

from pathlib import Path

import pytest

from compliance.order import file_order
from crypto.errors import BadInput
from gateway.application import Application
from gateway.expected_instances import expect_instances
from gateway.intake_port import InstanceReference
from gateway.received import ReceivedState
from tests.builders import make_ct_study
from tests.intake_site import IntakeSite, intake_site


class Stated:
    """As much of an application as stating a number needs."""

    def __init__(self, site: IntakeSite) -> None:
        self.database, self.keys, self.now = site.database, site.keys, site.now

    def __call__(self, expected: int, *, study: str = "", order: str = "") -> None:
        app: Application = self  # type: ignore[assignment]
        expect_instances(app, "h1", expected, actor="upload/x", study_instance_uid=study, accession_number=order)


@pytest.mark.parametrize("by", ["study", "order"])
@pytest.mark.parametrize("when", ["before", "between", "after"])
def test_study_is_whole_when_the_stated_number_is_there(tmp_path: Path, by: str, when: str) -> None:
    study = make_ct_study(instances=3)
    names = {"study": study[0].StudyInstanceUID} if by == "study" else {"order": study[0].AccessionNumber}
    with intake_site(tmp_path) as site:
        state, session = Stated(site), site.session()
        for number, dataset in enumerate(study):
            if (when, number) in (("before", 0), ("between", 1)):
                state(3, **names)
            assert not any(row.is_commitment_asked for row in site.studies())
            site.receive(session, dataset)
            assert site.index.flush()
        if when == "after":
            assert not any(row.is_commitment_asked for row in site.studies())
            state(3, **names)
        assert [row.is_commitment_asked for row in site.studies()] == [True]


def test_number_of_the_order_message_counts_until_another_is_stated(tmp_path: Path) -> None:
    study = make_ct_study(instances=3)
    with intake_site(tmp_path) as site:
        with site.database.transaction() as session:
            file_order(session, site.keys, "h1", study[0].AccessionNumber, {}, priority="MEDIUM", expected_instances=2, now=site.now())
        Stated(site)(3, order=study[0].AccessionNumber)
        association = site.session()
        for count, dataset in enumerate(study, 1):
            site.receive(association, dataset)
            assert site.index.flush()
            assert [row.is_commitment_asked for row in site.studies()] == [count == 3]


def test_repeated_instances_do_not_make_a_study_whole(tmp_path: Path) -> None:
    study = make_ct_study(instances=2)
    with intake_site(tmp_path) as site:
        Stated(site)(2, study=study[0].StudyInstanceUID)
        session = site.session()
        for _ in range(3):
            site.receive(session, study[0])
        assert site.index.flush()
        assert [row.is_commitment_asked for row in site.studies()] == [False]
        assert sorted(row.is_duplicate for row in site.instances()) == [False, True, True]


def test_late_instance_opens_the_study_again_and_waits_for_quiet(tmp_path: Path) -> None:
    study = make_ct_study(instances=3)
    with intake_site(tmp_path) as site:
        Stated(site)(2, study=study[0].StudyInstanceUID)
        session = site.session()
        for dataset in study[:2]:
            site.receive(session, dataset)
        assert site.index.flush()
        with site.database.transaction() as rows:
            (row,) = site.studies()
            row.state, row.complete_at = ReceivedState.AVAILABLE, site.now()
            rows.merge(row)
        site.receive(session, study[2])
        assert site.index.flush()
        (row,) = site.studies()
        assert (row.state, row.generation, row.is_commitment_asked, row.instance_count) == (ReceivedState.RECEIVING, 2, False, 3)


def test_storage_commitment_ends_the_waiting(tmp_path: Path) -> None:
    study = make_ct_study(instances=1)
    with intake_site(tmp_path) as site:
        session = site.session()
        site.receive(session, study[0])
        asked = [InstanceReference(study[0].SOPClassUID, study[0].SOPInstanceUID), InstanceReference(study[0].SOPClassUID, "2.25.404")]
        result = site.intake.commit_storage(session, "2.25.1", asked)
        assert ([one.sop_instance_uid for one in result.committed], [one.failure_reason for one in result.failed]) == (
            [study[0].SOPInstanceUID],
            [0x0112],
        )
        assert [row.is_commitment_asked for row in site.studies()] == [True]


def test_one_uid_with_other_bytes_or_in_another_study_is_kept_apart_and_flagged(tmp_path: Path) -> None:
    (dataset,) = make_ct_study(instances=1)
    (other,) = make_ct_study(instances=1)
    other.StudyInstanceUID, other.PatientID = "2.25.77", "ANOTHER"
    (changed,) = make_ct_study(instances=1, seed=2)
    assert dataset.SOPInstanceUID == other.SOPInstanceUID == changed.SOPInstanceUID
    with intake_site(tmp_path) as site:
        session = site.session()
        for one in (dataset, changed, other):
            site.receive(session, one)
        # The same UID of another hospital is another instance.
        site.receive(site.session("h2"), dataset)
        assert site.index.flush()
        flags = [(row.hospital_id, row.is_duplicate, row.is_conflicting) for row in site.instances()]
        assert flags == [("h1", False, False), ("h1", False, True), ("h1", False, True), ("h2", False, False)]
        assert len({*site.payloads()}) == 3


@pytest.mark.parametrize(
    ("expected", "names"), [(0, {"study": "2.25.1"}), (3, {}), (3, {"study": "2.25.1", "order": "A"}), (10**9, {"order": "A"})]
)
def test_impossible_statement_is_refused(tmp_path: Path, expected: int, names: dict[str, str]) -> None:
    with intake_site(tmp_path) as site, pytest.raises(BadInput):
        Stated(site)(expected, **names)
