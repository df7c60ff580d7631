"""Outputs are made again when a late instance or order names more than they were cleaned of; a repeated instance mends a damaged one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from pydicom.dataset import Dataset
from sqlmodel import select

from compliance.audit import EventType
from compliance.identity_terms import IdentityTerms
from compliance.quarantine import QuarantineItem
from compliance.study import Instance, Study, instances_of_study, manifest_of, open_study_key, require_study
from crypto.errors import IntegrityFailure
from crypto.vault import SealedObject
from gateway import processing
from gateway.archiving import archive_originals
from gateway.grown_identity import terms_digest
from gateway.healthy_copy import mend_from
from gateway.order_joining import join_late_orders
from gateway.received import ReceivedInstance, ReceivedState, ReceivedStudy, distinct_instances, unarchived_segments
from gateway.study_holds import Refusal
from gateway.worker import hold_failed
from tests.builders import make_ct_study
from tests.gateway_site import GatewaySite, gateway_site
from tests.signing_desk import Desk, entries_of, steps_of
from tests.test_order_joining import file_message, message

NAME = "Pfaffenlehner"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "site", has_study=False) as made:
        yield made


def study_of(site: GatewaySite, uid: str) -> tuple[Study, list[Instance]]:
    with site.app.database.reading() as session:
        study = require_study(session, uid)
        assert study.study_pk is not None and manifest_of(session, study)
        return study, instances_of_study(session, study.study_pk)


def is_named(site: GatewaySite, uid: str) -> bool:
    study, rows = study_of(site, uid)
    key = open_study_key(site.app.keys, study)
    places = [SealedObject(row.object_id, row.pack_name, row.pack_offset, row.sealed_length) for row in rows]
    return any(NAME.encode() in site.app.vault.open(key, place) for place in places)


def received_of(site: GatewaySite, pk: int) -> ReceivedStudy:
    with site.app.database.reading() as session:
        row = session.get(ReceivedStudy, pk)
    assert row is not None
    return row


def named_late(number: int) -> list[Dataset]:
    datasets = make_ct_study(instances=2, number=number)
    datasets[0].ImageComments = f"second look {NAME} ok"
    datasets[1].PerformingPhysicianName = f"{NAME}^Udo"
    return datasets


def test_late_instance_that_names_somebody_cleans_what_went_before(site: GatewaySite) -> None:
    datasets = named_late(711)
    uid = site.process(site.receive(datasets[:1]))
    assert is_named(site, uid), "nobody knew the word for a name yet"
    step = steps_of(site)[0]
    signed = Desk(site).report()
    old_manifest = study_of(site, uid)[0].manifest_digest
    assert site.process(site.receive(datasets[1:])) == uid
    study, rows = study_of(site, uid)
    assert len(rows) == 2 and not is_named(site, uid)
    assert study.manifest_digest != old_manifest and study.amendment == 1, signed
    assert [one.amendment for one in steps_of(site)] == [step.amendment, 1], "a new step after the report"
    assert entries_of(site, EventType.DEIDENTIFY)[-1].detail["remade"] == 1


def test_late_order_that_names_somebody_cleans_what_went_before_and_tells_the_reader(site: GatewaySite) -> None:
    datasets = make_ct_study(instances=1, number=771)
    datasets[0].ImageComments = f"second look {NAME} ok"
    pk = site.receive(datasets)
    uid = site.process(pk)
    assert is_named(site, uid)
    step = steps_of(site)[0]
    order = message(datasets[0], "").replace(
        b"OBR|1|P1|F1|CT^CT head||||||||||||||", f"OBR|1|P1|F1|CT^CT head||||||||||||77^{NAME}^Udo||".encode()
    )
    file_message(site, order)
    assert join_late_orders(site.app) == 1 and site.process(pk) == uid
    assert not is_named(site, uid)
    assert [(one.procedure_step_uid, one.amendment) for one in steps_of(site)] == [(step.procedure_step_uid, 1)]


def test_equal_terms_make_nothing_again(site: GatewaySite) -> None:
    datasets = make_ct_study(instances=2, number=712)
    pk = site.receive(datasets[:1])
    uid = site.process(pk)
    digest, (before,) = received_of(site, pk).terms_digest, study_of(site, uid)[1]
    made: list[int | None] = []
    real = processing.Maker.make

    def counted(maker: processing.Maker, row: ReceivedInstance) -> object:
        made.append(row.instance_pk)
        return real(maker, row)

    site.receive(datasets[1:])
    with patch.object(processing.Maker, "make", counted):
        site.process(pk)
    assert len(made) == 1 and received_of(site, pk).terms_digest == digest != ""
    assert before.object_id in {row.object_id for row in study_of(site, uid)[1]}


def test_digest_of_terms_is_canonical_keyed_and_tells_every_kind_apart(site: GatewaySite) -> None:
    keys = site.app.keys
    one = IdentityTerms(staff_names=frozenset({"A", "B"}), undecoded=frozenset({b"\xff"}))
    assert terms_digest(keys, "h1", one) == terms_digest(keys, "h1", IdentityTerms(staff_names=frozenset({"B"})).merge(one))
    others = [
        terms_digest(keys, "h2", one),
        terms_digest(keys, "h1", IdentityTerms(patient_names=one.staff_names, undecoded=one.undecoded)),
    ]
    assert len({terms_digest(keys, "h1", one), *others}) == 3


def test_instance_that_cannot_be_made_again_is_withdrawn_and_held(site: GatewaySite) -> None:
    datasets = named_late(713)
    pk = site.receive(datasets[:1])
    uid = site.process(pk)
    site.receive(datasets[1:])
    with site.app.database.reading() as session:
        first = distinct_instances(session, pk)[0].instance_pk
    real = processing.Maker.make

    def refusing(maker: processing.Maker, row: ReceivedInstance) -> object:
        return Refusal("DOUBTFUL_TEXT") if row.instance_pk == first else real(maker, row)

    with patch.object(processing.Maker, "make", refusing):
        assert site.process(pk) == uid
    study, rows = study_of(site, uid)
    assert len(rows) == 1 and not is_named(site, uid) and (study.held_instances, study.amendment) == (1, 1)
    with site.app.database.reading() as session:
        assert [item.reason_code for item in session.exec(select(QuarantineItem)).all()] == ["DOUBTFUL_TEXT"]
        assert distinct_instances(session, pk)[0].sop_instance_uid is None


def test_study_with_two_accession_numbers_is_opened_by_no_poll_after_its_order(site: GatewaySite) -> None:
    datasets = make_ct_study(instances=2, number=731)
    datasets[0].AccessionNumber, datasets[1].AccessionNumber = "ACC1", "ACC2"
    pk = site.receive(datasets)
    site.process(pk)
    file_message(site, message(datasets[1], "Of another number."))
    assert [join_late_orders(site.app) for _ in range(3)] == [0, 0, 0]
    file_message(site, message(datasets[0], "Fell."))
    assert join_late_orders(site.app) == 1 and site.process(pk)
    assert [join_late_orders(site.app) for _ in range(3)] == [0, 0, 0]


def test_job_that_fails_holds_its_own_generation_only(site: GatewaySite) -> None:
    datasets = make_ct_study(instances=2, number=751)
    pk = site.receive(datasets[:1])
    site.receive(datasets[1:], complete=False)
    hold_failed(site.app, pk, "PROCESSING_FAILED", 1)
    assert (received_of(site, pk).state, received_of(site, pk).generation) == (ReceivedState.RECEIVING, 2)
    with site.app.database.transaction() as session:
        row = session.get(ReceivedStudy, pk)
        assert row is not None
        row.state = ReceivedState.COMPLETE
    hold_failed(site.app, pk, "PROCESSING_FAILED", 1)
    assert received_of(site, pk).state == ReceivedState.COMPLETE
    hold_failed(site.app, pk, "PROCESSING_FAILED", 2)
    assert received_of(site, pk).state == ReceivedState.QUARANTINED


def test_instance_sent_again_stands_in_for_one_damaged_in_the_spool(site: GatewaySite) -> None:
    datasets = make_ct_study(instances=1, number=801)
    pk = site.receive(datasets)
    with site.app.database.reading() as session:
        row = distinct_instances(session, pk)[0]
    path = site.app.data / "spool" / f"{row.segment_id}.segment"
    damaged = bytearray(path.read_bytes())
    damaged[row.frame_offset + 5000] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(IntegrityFailure):
        archive_originals(site.app, pk)
    site.receive(datasets)
    with site.app.database.reading() as session:
        copy = session.exec(select(ReceivedInstance).where(ReceivedInstance.is_duplicate)).one()
        assert copy.segment_id in unarchived_segments(session)
    assert site.process(pk)
    with site.app.database.reading() as session:
        assert copy.segment_id not in unarchived_segments(session)


def test_study_sent_again_mends_packs_that_are_missing(site: GatewaySite) -> None:
    datasets = make_ct_study(instances=2, number=802)
    pk = site.receive(datasets)
    uid = site.process(pk)
    before = study_of(site, uid)[0]
    for name, _ in list(site.app.vault.pack_names()):
        site.app.vault.delete_pack(name)
    site.receive(datasets, complete=False)
    with site.app.database.reading() as session:
        segment = session.exec(select(ReceivedInstance.segment_id).where(ReceivedInstance.is_duplicate)).first()
    assert segment is not None and mend_from(site.app, segment) == 2
    assert received_of(site, pk).state == ReceivedState.COMPLETE and site.process(pk) == uid
    assert not is_named(site, uid), "every output opens"
    after = study_of(site, uid)[0]
    assert (after.manifest_digest, after.amendment) == (before.manifest_digest, 0) and len(steps_of(site)) == 1
    assert mend_from(site.app, segment) == 0
