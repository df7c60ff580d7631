"""Quota, free-space floor and rates: refused with a status the sender retries after, told and audited, and nothing half kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlmodel import col, select

from compliance.audit import AuditEntry, EventType
from compliance.hospital import Hospital
from crypto.errors import TemporarilyUnable
from gateway.dimse_responses import OUT_OF_RESOURCES, status_of_error
from gateway.intake_limits import HospitalRates
from gateway.intake_port import TEMPORARY_CONGESTION, Admission
from gateway.received_usage import recount, stored_bytes
from tests.builders import make_ct_study, payload_of
from tests.intake_site import IntakeSite, intake_site


def refusals(site: IntakeSite) -> list[str]:
    with site.database.reading() as session:
        rows = session.exec(
            select(AuditEntry).where(AuditEntry.event_type == EventType.REFUSED).order_by(col(AuditEntry.entry_index))
        ).all()
        return [str(row.detail["reason"]) for row in rows]


def set_quota(site: IntakeSite, quota_bytes: int) -> None:
    with site.database.transaction() as session:
        hospital = session.get(Hospital, "h1")
        assert hospital is not None
        hospital.quota_bytes = quota_bytes
        session.add(hospital)


def test_quota_refuses_what_goes_beyond_it_and_nothing_of_another_hospital(tmp_path: Path) -> None:
    study = make_ct_study(instances=5)
    each = len(payload_of(study[0]))
    with intake_site(tmp_path) as site:
        set_quota(site, 3 * each + 10)
        session = site.session()
        for dataset in study[:3]:
            site.receive(session, dataset)
        for dataset in study[3:]:
            with pytest.raises(TemporarilyUnable) as refused:
                site.receive(session, dataset)
            assert status_of_error(refused.value) == OUT_OF_RESOURCES
        # One entry a minute, however often.
        assert refusals(site) == ["quota_reached"]
        site.receive(site.session("h2"), study[3])
        assert site.index.flush()
        assert len(site.instances()) == 4
        with site.database.reading() as reading:
            assert stored_bytes(reading, "h1") == 3 * each
        # Room is made, and found a few seconds later.
        set_quota(site, 10 * each)
        site.forward(61)
        site.receive(session, study[4])


def test_usage_is_what_the_rows_say(tmp_path: Path) -> None:
    study = make_ct_study(instances=2)
    with intake_site(tmp_path) as site:
        session = site.session()
        for dataset in (*study, study[0]):
            site.receive(session, dataset)
        assert site.index.flush()
        expected = sum(len(payload_of(dataset)) for dataset in study)
        for _ in range(2):
            with site.database.reading() as reading:
                assert (stored_bytes(reading, "h1"), stored_bytes(reading, "h2")) == (expected, 0)
            recount(site.database)


def test_full_disk_is_told_before_it_is_full(tmp_path: Path) -> None:
    (dataset,) = make_ct_study(instances=1)
    with intake_site(tmp_path, free_bytes_floor=1 << 62) as site:
        session = site.session()
        with pytest.raises(TemporarilyUnable):
            site.receive(session, dataset)
        assert refusals(site) == ["free_space_below_floor"]
        assert not site.spool.segments()


def test_large_instance_stops_at_the_floor_and_leaves_no_instance(tmp_path: Path) -> None:
    (dataset,) = make_ct_study(instances=1)
    with intake_site(tmp_path) as site:
        session = site.session()
        payload = payload_of(dataset)
        large = site.intake.begin_large_instance(session, site.head(dataset))
        large.append([memoryview(payload)[:5000]])
        set_quota(site, 1)
        site.forward(10)
        with pytest.raises(TemporarilyUnable):
            large.append([memoryview(payload)[5000:]])
        large.discard()
        assert site.index.flush()
        site.crash_and_recover()
        assert not site.instances()


def test_rates_are_counted_by_hospital(tmp_path: Path) -> None:
    study = make_ct_study(instances=4)
    with intake_site(tmp_path, rates=HospitalRates(instances_per_minute_max=2, associations_per_minute_max=3)) as site:
        assert [isinstance(site.intake.admit(site.peer()), Admission) for _ in range(4)] == [True, True, True, False]
        assert site.intake.admit(site.peer()) == TEMPORARY_CONGESTION
        assert isinstance(site.intake.admit(site.peer("H2_PACS")), Admission)
        session = site.session()
        for dataset in study[:2]:
            site.receive(session, dataset)
        with pytest.raises(TemporarilyUnable):
            site.receive(session, study[2])
        site.forward(30)
        site.receive(session, study[2])
        assert refusals(site) == ["association_rate_reached", "instance_rate_reached"]
