"""fsck: a sound deployment is clean, and every kind of damage, made on purpose, is found and named."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlmodel import Session, select

from compliance.audit import AuditEntry
from compliance.credential import Reader
from compliance.decision_log import DecisionRow
from compliance.study import Instance, Study
from crypto.signing_key import create_reader_key
from gateway.application import open_application
from gateway.config import Settings
from gateway.fsck import ADVICE, Fsck
from gateway.received import ReceivedInstance
from gateway.shredding import shred_study
from gateway.unsettled_packs import UnsettledPack
from reporting.delivery_queue import Delivery, DeliveryState
from reporting.report import Report
from reporting.report_copy import ReportCopy
from tests.builders import make_ct_study
from tests.gateway_site import Clock, GatewaySite, gateway_site
from worklist.procedure_step import State
from worklist.workitem import ProcedureStep


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A deployment with a study that went all the way, its originals still in the spool; copied for each test."""
    folder = tmp_path_factory.mktemp("fsck") / "site"
    with gateway_site(folder) as site:
        step_uid = site.claim()
        site.write(step_uid)
        assert site.sign(step_uid).status_code in (200, 303)
        assert set(site.deliver()) == {DeliveryState.DELIVERED}
        site.receive(make_ct_study(instances=1, number=7))
    yield folder


@pytest.fixture
def site(reported: Path, tmp_path: Path) -> Iterator[GatewaySite]:
    shutil.copytree(reported, tmp_path / "site")
    app = open_application(tmp_path / "site", settings=Settings.model_validate({"law": {"demo_confirmations": True}}))
    app.now = clock = Clock()
    try:
        yield GatewaySite(app, clock, {})
    finally:
        app.close()


def kinds(site: GatewaySite, *, deep: bool = False) -> list[str]:
    return sorted(finding.kind for finding in Fsck(site.app, is_alone=True).run(deep=deep).findings)


def change(site: GatewaySite, act: Callable[[Session], None]) -> None:
    with site.app.database.transaction() as session:
        act(session)


def packs(site: GatewaySite) -> list[Path]:
    return sorted(path for path in (site.app.data / "vault").rglob("*") if path.is_file())


def pack_of_study(site: GatewaySite) -> Path:
    with site.app.database.reading() as session:
        return site.app.data / "vault" / session.exec(select(Instance)).first().pack_name  # type: ignore[union-attr]


def study_of(session: Session) -> Study:
    return session.exec(select(Study)).one()


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


def test_a_sound_deployment_is_clean_and_says_what_was_looked_at(site: GatewaySite) -> None:
    report = Fsck(site.app, is_alone=True).run(deep=True)
    assert report.findings == []
    assert {"audit_entries", "frames", "opened", "packs", "procedure_steps", "reports", "studies", "study_keys"} <= report.checked.keys()


def test_an_orphan_pack_is_found_and_only_an_old_one_is_deleted(site: GatewaySite) -> None:
    lonely = site.app.data / "vault" / "ab" / ("ab" * 16)
    lonely.parent.mkdir(exist_ok=True)
    shutil.copy(packs(site)[0], lonely)
    # Nobody announced it; deleted is it only when it is old all the same.
    young = Fsck(site.app)
    assert [one.kind for one in young.run().findings] == ["orphan_pack"] and young.repair() == [] and lonely.exists()
    old = time.time() - 7200
    os.utime(lonely, (old, old))
    site.clock.at += timedelta(seconds=1)
    fsck = Fsck(site.app)
    assert [(one.kind, one.what.split()[0]) for one in fsck.run().findings] == [("orphan_pack", f"ab/{'ab' * 16}")]
    assert fsck.repair() == [f"ab/{'ab' * 16}"]
    assert not lonely.exists()
    assert kinds(site) == []


def test_a_pack_that_a_job_announced_is_no_orphan(site: GatewaySite) -> None:
    lonely = site.app.data / "vault" / "ab" / ("ab" * 16)
    lonely.parent.mkdir(exist_ok=True)
    shutil.copy(packs(site)[0], lonely)
    with site.app.database.transaction() as session:
        session.add(UnsettledPack(pack_name=f"ab/{'ab' * 16}", since_at=site.app.now()))
    fsck = Fsck(site.app, is_alone=True)
    assert fsck.run(deep=True).findings == [] and fsck.report.checked["unsettled_packs"] == 1
    assert fsck.repair() == [] and lonely.exists(), "the worker's to reclaim"


def test_a_missing_pack_is_found(site: GatewaySite) -> None:
    pack_of_study(site).unlink()
    assert kinds(site) == ["missing_pack"]


def test_a_pack_that_was_cut_short_is_found(site: GatewaySite) -> None:
    path = pack_of_study(site)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-10])
    assert set(kinds(site)) == {"pack_damaged", "payload_missing"}


def test_a_flipped_bit_in_a_payload_is_found_by_looking_deep(site: GatewaySite) -> None:
    flip(pack_of_study(site), 8 + 80 + 100)
    assert kinds(site) == []
    assert kinds(site, deep=True) == ["payload_damaged"]


def test_a_payload_that_is_another_one_is_found_by_looking_deep(site: GatewaySite) -> None:
    def swap(session: Session) -> None:
        row = session.exec(select(Instance)).first()
        assert row is not None
        row.payload_digest = "sha256:" + "0" * 64
        session.add(row)

    change(site, swap)
    assert kinds(site, deep=True) == ["manifest_mismatch", "payload_damaged"]


def test_an_instance_whose_frame_is_gone_is_found(site: GatewaySite) -> None:
    with site.app.database.reading() as session:
        waiting = session.exec(select(ReceivedInstance).where(ReceivedInstance.pack_name == None)).one()  # noqa: E711
    site.app.spool.remove_segment(waiting.segment_id)
    assert kinds(site) == ["frame_missing"]


def test_a_damaged_frame_and_a_damaged_header_are_found(site: GatewaySite) -> None:
    with site.app.database.reading() as session:
        waiting = session.exec(select(ReceivedInstance).where(ReceivedInstance.pack_name == None)).one()  # noqa: E711
    path = site.app.data / "spool" / f"{waiting.segment_id}.segment"
    flip(path, waiting.frame_offset + waiting.frame_length - 5)
    assert kinds(site) == ["spool_segment_damaged"]
    flip(path, 20)
    assert "spool_segment_damaged" in kinds(site)


def test_a_frame_without_a_row_is_found(site: GatewaySite) -> None:
    change(site, lambda session: session.delete(session.exec(select(ReceivedInstance).where(ReceivedInstance.pack_name == None)).one()))  # noqa: E711
    assert kinds(site) == ["frame_without_row"]


def test_a_study_without_its_shred_key_is_found(site: GatewaySite) -> None:
    with site.app.database.reading() as session:
        site.app.keys.shred_study_key(study_of(session).study_key_id)
    assert kinds(site) == ["study_without_shred_key"]


def test_a_wrapped_key_that_does_not_open_is_found(site: GatewaySite) -> None:
    def spoil(session: Session) -> None:
        study = study_of(session)
        study.wrapped_dek = study.wrapped_dek[:-1] + bytes([study.wrapped_dek[-1] ^ 1])
        session.add(study)

    change(site, spoil)
    assert kinds(site) == ["wrapped_key_damaged"]


def test_a_shred_key_without_a_study_is_found(site: GatewaySite) -> None:
    site.app.keys.create_study_key("h1", "lonely")
    assert kinds(site) == ["shred_key_without_study"]


def test_a_hospital_without_its_kek_is_found(site: GatewaySite) -> None:
    shutil.rmtree(site.app.data / "keys" / "kek" / "h2")
    assert kinds(site) == ["hospital_without_kek"]


def test_what_a_half_shredded_study_left_is_found_and_deleted(site: GatewaySite) -> None:
    backup = site.app.data.parent / "keys"
    shutil.copytree(site.app.data / "keys", backup)
    vault = site.app.data.parent / "vault"
    shutil.copytree(site.app.data / "vault", vault)
    with site.app.database.reading() as session:
        study_instance_uid = study_of(session).study_instance_uid
    shred_study(site.app, study_instance_uid, actor="po", reason="ERASURE")
    assert kinds(site) == []
    shutil.copytree(vault, site.app.data / "vault", dirs_exist_ok=True)
    shutil.copytree(backup, site.app.data / "keys", dirs_exist_ok=True)
    assert set(kinds(site)) == {"pack_of_shredded_study", "shredded_study_has_key"}
    fsck = Fsck(site.app, is_alone=True)
    fsck.run()
    fsck.repair()
    assert {finding.kind for finding in fsck.report.findings} == {"shredded_study_has_key"}


def test_instances_that_are_not_the_manifests_are_found(site: GatewaySite) -> None:
    def spoil(session: Session) -> None:
        study = study_of(session)
        study.instance_count += 1
        session.add(study)

    change(site, spoil)
    assert kinds(site) == ["manifest_mismatch"]


def test_a_rewritten_audit_entry_is_found(site: GatewaySite) -> None:
    def spoil(session: Session) -> None:
        entry = session.get(AuditEntry, 4)
        assert entry is not None
        entry.actor = "somebody-else"
        session.add(entry)

    change(site, spoil)
    assert set(kinds(site)) == {"audit_log_broken"}


def test_a_delivered_report_without_its_copy_is_found(site: GatewaySite) -> None:
    change(site, lambda session: session.delete(session.exec(select(ReportCopy)).one()))
    assert kinds(site) == ["delivered_without_copy"]


def test_a_copy_that_is_another_one_is_found(site: GatewaySite) -> None:
    def spoil(session: Session) -> None:
        copy = session.exec(select(ReportCopy)).one()
        copy.pdf_sha256 = "0" * 64
        session.add(copy)

    change(site, spoil)
    assert kinds(site) == ["report_copy_damaged"]


def test_a_report_signed_with_a_key_that_is_not_its_readers_is_found(site: GatewaySite) -> None:
    def spoil(session: Session) -> None:
        reader = session.get(Reader, "r1")
        assert reader is not None
        pem = create_reader_key("a passphrase of somebody else").public_pem
        reader.public_key_pem = pem.decode() if isinstance(pem, bytes) else pem
        session.add(reader)

    change(site, spoil)
    assert kinds(site) == ["signature_invalid"]


def test_a_report_whose_envelope_does_not_open_is_found(site: GatewaySite) -> None:
    def spoil(session: Session) -> None:
        report = session.exec(select(Report)).one()
        report.sealed_envelope = report.sealed_envelope[:-1] + bytes([report.sealed_envelope[-1] ^ 1])
        session.add(report)

    change(site, spoil)
    assert kinds(site) == ["signature_invalid"]


def test_a_report_without_its_decision_is_found(site: GatewaySite) -> None:
    def spoil(session: Session) -> None:
        session.delete(session.get(DecisionRow, session.exec(select(Report)).one().decision_digest))

    change(site, spoil)
    assert kinds(site) == ["decision_missing"]


def test_two_readers_on_one_study_are_found(site: GatewaySite) -> None:
    def spoil(session: Session) -> None:
        done = session.exec(select(ProcedureStep).where(ProcedureStep.state == State.COMPLETED)).one()
        for number in (1, 2):
            fields = done.model_dump(exclude={"procedure_step_uid", "ended_at"}) | {"state": State.IN_PROGRESS}
            session.add(ProcedureStep(procedure_step_uid=f"2.25.{number}", **fields))

    change(site, spoil)
    assert kinds(site) == ["two_steps_in_progress"]


@pytest.mark.parametrize(
    ("state", "fields"),
    [
        (State.IN_PROGRESS, {"claiming_reader_id": None, "ended_at": None}),
        (State.SCHEDULED, {"ended_at": None}),
        (State.COMPLETED, {"ended_at": None}),
        ("LOST", {}),
    ],
)
def test_a_step_that_contradicts_its_state_is_found(site: GatewaySite, state: str, fields: dict[str, object]) -> None:
    def spoil(session: Session) -> None:
        step = session.exec(select(ProcedureStep).where(ProcedureStep.state == State.COMPLETED)).one()
        step.state = state
        for name, value in fields.items():
            setattr(step, name, value)
        session.add(step)

    change(site, spoil)
    assert kinds(site) == ["step_contradicts_itself"]


def test_a_step_of_no_study_is_found(site: GatewaySite) -> None:
    with sqlite3.connect(site.app.data / "readgate.sqlite3") as connection:
        connection.execute("UPDATE procedure_step SET study_pk = 99")
    connection.close()
    assert kinds(site) == ["row_points_nowhere"]


def test_rows_of_no_study_are_found(site: GatewaySite) -> None:
    with sqlite3.connect(site.app.data / "readgate.sqlite3") as connection:
        for table in ("instance", "series", "report"):
            connection.execute(f"UPDATE {table} SET study_pk = 99")
        connection.execute("UPDATE received_instance SET received_study_pk = 99")
    connection.close()
    assert "row_points_nowhere" in kinds(site)


def test_undelivered_reports_are_no_finding(site: GatewaySite) -> None:
    def spoil(session: Session) -> None:
        for row in session.exec(select(Delivery)).all():
            row.state = DeliveryState.DEAD_LETTER
            session.add(row)
        session.delete(session.exec(select(ReportCopy)).one())

    change(site, spoil)
    assert kinds(site) == []


def test_findings_name_no_identity(site: GatewaySite) -> None:
    pack_of_study(site).unlink()
    change(site, lambda session: session.delete(session.exec(select(ReportCopy)).one()))
    text = str(Fsck(site.app, is_alone=True).run().document())
    sample = make_ct_study(instances=1)[0]
    for value in (sample.PatientID, str(sample.PatientName), sample.StudyInstanceUID, sample.AccessionNumber):
        assert str(value) not in text


def test_the_operations_guide_carries_every_kind_of_finding() -> None:
    guide = (Path(__file__).resolve().parents[1] / "docs" / "OPERATIONS.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z_]+)` \|", guide, re.MULTILINE)) >= set(ADVICE)
