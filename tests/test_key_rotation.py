"""Rotating a KEK: everything opens as before, nothing names the old version, and what still needs it keeps it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlmodel import select

from compliance.audit import AuditEntry, EventType
from compliance.crosswalk import open_study_identity
from compliance.study import Study, instances_of_study, open_order_text, open_study_key, require_study
from crypto.errors import Conflict, IntegrityFailure, NotFound
from crypto.keys import wrapped_kek_version
from crypto.vault import SealedObject
from gateway.key_rotation import key_status, retire_old_keks, rewrap_hospital, rotate_hospital_kek
from gateway.received import ReceivedStudy
from tests.builders import make_ct_study
from tests.gateway_site import GatewaySite, gateway_site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "site") as opened:
        yield opened


def retire(site: GatewaySite, hospital_id: str = "h1") -> list[int]:
    return retire_old_keks(site.app, hospital_id, actor="t", wait=lambda _seconds: None)


def opened(site: GatewaySite) -> tuple[bytes, dict[str, str], str]:
    """An instance, the order text and the identity of the site's study: one thing under each kind of key."""
    app, study_instance_uid = site.app, site.study_instance_uid
    with app.database.transaction() as session:
        study = require_study(session, study_instance_uid)
        assert study.study_pk is not None
        key = open_study_key(app.keys, study)
        row = instances_of_study(session, study.study_pk)[0]
        payload = app.vault.open(key, SealedObject(row.object_id, row.pack_name, row.pack_offset, row.sealed_length))
        identity = open_study_identity(session, app.keys, study, actor="t", purpose="test", now=app.now())
        return payload, open_order_text(key, study), identity["patient"]["patient_id"]


def empty_spool(site: GatewaySite) -> None:
    for segment_id in site.app.spool.segments():
        site.app.spool.remove_segment(segment_id)


def test_after_a_rotation_everything_opens_and_nothing_names_the_old_version(site: GatewaySite) -> None:
    before = opened(site)
    result = rotate_hospital_kek(site.app, "h1", actor="t")
    assert (result.version, result.rewrapped) == (2, 2)  # the study's row and the received one's
    assert opened(site) == before
    with site.app.database.reading() as session:
        blobs = [*session.exec(select(Study.wrapped_dek)).all(), *session.exec(select(ReceivedStudy.wrapped_dek)).all()]
        assert {wrapped_kek_version(blob) for blob in blobs if blob is not None} == {2}
        entries = session.exec(select(AuditEntry).where(AuditEntry.event_type == EventType.KEY_ROTATED)).all()
    assert [entry.detail for entry in entries] == [{"kek_version": 2}, {"kek_version": 2, "rewrapped": 2}]
    assert rewrap_hospital(site.app, "h1", actor="t") == 0


def test_the_old_version_stays_while_the_spool_needs_it_and_goes_after(site: GatewaySite) -> None:
    before = opened(site)
    rotate_hospital_kek(site.app, "h1", actor="t")
    assert key_status(site.app, "h1").segments == {1: 1}
    with pytest.raises(Conflict, match="KEK_IN_USE"):
        retire(site)
    assert key_status(site.app, "h1").held == [1, 2]
    empty_spool(site)
    assert retire(site) == [1]
    assert key_status(site.app, "h1").held == [2]
    assert opened(site) == before


def test_retiring_wraps_what_a_rotation_left_behind(site: GatewaySite) -> None:
    before = opened(site)
    empty_spool(site)
    site.app.keys.rotate_kek("h1")  # as if the process had died before wrapping anything anew
    assert retire(site) == [1]
    assert opened(site) == before


def test_another_hospitals_keys_are_not_touched(site: GatewaySite) -> None:
    site.process(site.receive(make_ct_study(instances=1, number=7), "h2"))
    rotate_hospital_kek(site.app, "h1", actor="t")
    assert key_status(site.app, "h2").studies == {1: 2}
    assert key_status(site.app, "h2").held == [1]


def test_a_wrapped_key_that_does_not_open_stops_the_rotation_and_keeps_the_old_version(site: GatewaySite) -> None:
    opened(site)
    empty_spool(site)
    with site.app.database.transaction() as session:
        study = session.exec(select(Study)).one()
        study.wrapped_dek = study.wrapped_dek[:-1] + bytes([study.wrapped_dek[-1] ^ 1])
        session.add(study)
    with pytest.raises(IntegrityFailure):
        rotate_hospital_kek(site.app, "h1", actor="t")
    with pytest.raises(IntegrityFailure):
        retire(site)
    assert key_status(site.app, "h1").held == [1, 2]


def test_an_unknown_hospital_is_refused(site: GatewaySite) -> None:
    with pytest.raises(NotFound):
        rotate_hospital_kek(site.app, "nowhere", actor="t")
    with pytest.raises(NotFound):
        key_status(site.app, "nowhere")
