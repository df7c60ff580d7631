"""Delivery: the hospital's own archive and information system get the report once, under the patient's own name, or a person is told.

Peers are real: an archive and an MLLP listener by other people's code, Orthanc, and one that misbehaves.
"""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hl7
import pytest
from pydicom.dataset import Dataset
from sqlmodel import select

from compliance.audit import EventType
from compliance.credential import Reader
from compliance.hospital import ReportTarget, TargetKind
from compliance.study import require_study
from crypto.errors import Conflict
from crypto.signing_key import create_reader_key
from gateway.application import open_application
from gateway.config import Settings
from gateway.demo_site import HospitalPorts, populate
from reporting import delivery
from reporting.delivery_queue import BACKOFF_SECONDS, Delivery, DeliveryState, dead_letters, release_dead_letter
from reporting.report import Report
from reporting.report_copy import ReportCopy
from reporting.verification import verify_report_pdf
from tests.builders import PERSON, make_ct_study
from tests.delivery_bench import Archive, Bench, Ris, point_targets
from tests.gateway_site import Clock, GatewaySite, gateway_site
from tests.peers import require_peer
from tests.postgres_server import postgres_server, postgres_url  # noqa: F401 (fixtures)
from tests.signing_desk import Desk, deliveries_of, entries_of, is_log_sound


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with gateway_site(tmp_path / "site") as site, Archive().listening() as archive, Ris().listening() as ris:
        point_targets(site, {TargetKind.DICOM: archive.port, TargetKind.MLLP: ris.port})
        Desk(site).report()
        yield Bench(site, archive, ris)


def _document(dataset: Dataset) -> bytes:
    return bytes(dataset.EncapsulatedDocument)[: dataset.get("EncapsulatedDocumentLength") or None]


# --- what arrives -------------------------------------------------------------------------------------------------------------


def test_report_arrives_under_the_patients_own_name_and_uids(bench: Bench) -> None:
    assert bench.attempt() == ["DELIVERED", "DELIVERED"]
    original = make_ct_study(instances=2)[0]
    (dataset,), (message,) = bench.archive.instances, bench.ris.messages
    assert (dataset.PatientID, dataset.StudyInstanceUID) == (original.PatientID, original.StudyInstanceUID)
    assert dataset.PatientName == original.PatientName and dataset.PatientBirthDate == original.PatientBirthDate
    assert dataset.AccessionNumber == original.AccessionNumber
    referred = {item.ReferencedSOPInstanceUID for item in dataset.get("SourceInstanceSequence", [])}
    assert referred <= {one.SOPInstanceUID for one in make_ct_study(instances=2)}
    parsed = hl7.parse(message.decode())
    assert str(parsed.segment("PID")[3]).startswith(original.PatientID)
    assert PERSON.name.split("^")[0] in str(parsed.segment("PID")[5])
    document = _document(dataset)
    verified = verify_report_pdf(document, bench.site.app.certificates.trust_roots())
    assert verified.is_valid
    broken = bytearray(document)
    broken[len(broken) // 2] ^= 1
    assert not verify_report_pdf(bytes(broken), bench.site.app.certificates.trust_roots()).is_valid
    receipts = [row.receipt for row in deliveries_of(bench.site)]
    assert receipts[0] == {"dimse_status": "0x0000"} and receipts[1] is not None and receipts[1]["acknowledgement"] == "AA"


def test_both_targets_and_every_retry_get_the_same_bytes(bench: Bench) -> None:
    assert bench.attempt() == ["DELIVERED", "DELIVERED"]
    with bench.site.app.database.reading() as session:
        copy = session.exec(select(ReportCopy)).one()
    assert hashlib.sha256(_document(bench.archive.instances[0])).hexdigest() == copy.pdf_sha256
    assert copy.pdf_sealed[:5] != b"%PDF-"


def test_opening_the_identity_and_delivering_are_audited(bench: Bench) -> None:
    bench.attempt()
    opened = [entry for entry in entries_of(bench.site, EventType.REIDENTIFY) if entry.detail["purpose"] == "deliver"]
    delivered = entries_of(bench.site, EventType.DELIVER)
    assert len(opened) == 2 and [entry.outcome for entry in delivered] == ["0", "0"]
    assert is_log_sound(bench.site)


# --- once ---------------------------------------------------------------------------------------------------------------------


def test_what_was_delivered_is_not_sent_again(bench: Bench) -> None:
    bench.attempt()
    for row in deliveries_of(bench.site):
        assert bench.deliver(row.delivery_pk or 0) == DeliveryState.DELIVERED
    assert (len(bench.archive.instances), len(bench.ris.messages)) == (1, 1)


def test_crash_after_the_peer_took_it_sends_it_again_under_the_same_names(bench: Bench) -> None:
    bench.attempt()
    with bench.site.app.database.transaction() as session:
        for row in session.exec(select(Delivery)).all():
            row.state, row.receipt, row.delivered_at = DeliveryState.QUEUED, None, None
            session.add(row)
    bench.site.clock.forward(minutes=1)
    assert bench.attempt() == ["DELIVERED", "DELIVERED"]
    first, again = bench.archive.instances
    assert first.SOPInstanceUID == again.SOPInstanceUID and _document(first) == _document(again)
    heads = [hl7.parse(message.decode()).segment("MSH") for message in bench.ris.messages]
    assert str(heads[0][10]) == str(heads[1][10]), "the receiver knows the message by its control id"


# --- peers that do not take it ------------------------------------------------------------------------------------------------


# pynetdicom drops the socket of a refused connection without closing it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_peer_that_is_away_is_tried_again_with_growing_pauses(tmp_path: Path) -> None:
    with gateway_site(tmp_path / "site") as site:
        archive, ris = Archive(), Ris()
        with archive.listening(), ris.listening():
            point_targets(site, {TargetKind.DICOM: archive.port, TargetKind.MLLP: ris.port})
        Desk(site).report()
        bench = Bench(site, archive, ris)
        assert bench.attempt() == ["QUEUED", "QUEUED"]
        assert [row.last_reason for row in deliveries_of(site)] == ["TEMPORARILY_UNABLE"] * 2
        assert bench.attempt() == ["QUEUED", "QUEUED"], "nothing is due yet"
        assert [row.attempts for row in deliveries_of(site)] == [1, 1]
        pauses = []
        for expected in BACKOFF_SECONDS[:3]:
            row = deliveries_of(site)[0]
            pauses.append((row.next_attempt_at - site.clock.at).total_seconds())
            site.clock.forward(seconds=expected)
            bench.attempt()
        assert pauses == list(BACKOFF_SECONDS[:3])
        with archive.listening():
            site.clock.forward(seconds=BACKOFF_SECONDS[3])
            assert bench.attempt() == ["DELIVERED", "QUEUED"]
        assert is_log_sound(site)


def test_last_attempt_that_fails_is_a_dead_letter(bench: Bench) -> None:
    bench.ris.code = "AR"
    states = []
    for pause in (0, *BACKOFF_SECONDS):
        bench.site.clock.forward(seconds=pause)
        states.append(bench.attempt()[1])
    assert states == [*(["QUEUED"] * len(BACKOFF_SECONDS)), "DEAD_LETTER"]


@pytest.mark.parametrize(("status", "state"), [(0xA900, "DEAD_LETTER"), (0x0122, "DEAD_LETTER"), (0xA700, "QUEUED"), (0xB000, "DELIVERED")])
def test_answer_of_the_archive_decides_what_happens_next(bench: Bench, status: int, state: str) -> None:
    bench.archive.status = status
    assert bench.attempt()[0] == state


@pytest.mark.parametrize(("code", "state"), [("AE", "DEAD_LETTER"), ("AR", "QUEUED"), ("hang up", "QUEUED")])
def test_answer_of_the_information_system_decides_what_happens_next(bench: Bench, code: str, state: str) -> None:
    bench.ris.code = code
    assert bench.attempt()[1] == state


def test_dead_letter_is_seen_released_and_delivered(bench: Bench) -> None:
    bench.archive.status = 0xA900
    assert bench.attempt() == ["DEAD_LETTER", "DELIVERED"]
    app = bench.site.app
    with app.database.reading() as session:
        (letter,) = dead_letters(session, "h1")
        assert dead_letters(session, "h2") == []
    assert letter.last_reason == "PEER_REFUSES"
    bench.site.clock.forward(days=1)
    assert bench.attempt()[0] == "DEAD_LETTER", "nobody released it"
    bench.archive.status = 0x0000
    with app.database.transaction() as session:
        release_dead_letter(session, letter.delivery_pk or 0, actor="h1", now=bench.site.clock.at)
    assert bench.attempt() == ["DELIVERED", "DELIVERED"] and len(bench.archive.instances) == 1
    with pytest.raises(Conflict), app.database.transaction() as session:
        release_dead_letter(session, letter.delivery_pk or 0, actor="h1", now=bench.site.clock.at)
    assert [(entry.actor, entry.outcome) for entry in entries_of(bench.site, EventType.DELIVER)] == [
        ("readgate/deliver", "8"),
        ("readgate/deliver", "0"),
        ("h1", "0"),
        ("readgate/deliver", "0"),
    ]


# --- a report reaches only its own hospital and study (I8, threat T12) -------------------------------------------------------


def _refused(bench: Bench) -> None:
    assert bench.attempt() == ["DEAD_LETTER", "DEAD_LETTER"]
    assert {row.last_reason for row in deliveries_of(bench.site)} == {"INTEGRITY_FAILURE"}
    assert (bench.archive.instances, bench.ris.messages) == ([], [])


def test_target_of_another_hospital_gets_nothing(bench: Bench) -> None:
    with bench.site.app.database.transaction() as session:
        foreign = {row.kind: row.target_pk for row in session.exec(select(ReportTarget).where(ReportTarget.hospital_id == "h2")).all()}
        for row in session.exec(select(Delivery)).all():
            row.target_pk = foreign[row.kind] or 0
            session.add(row)
    point_targets(bench.site, {TargetKind.DICOM: bench.archive.port, TargetKind.MLLP: bench.ris.port}, "h2")
    _refused(bench)


def test_report_under_a_key_its_reader_did_not_register_is_not_sent(bench: Bench) -> None:
    foreign = create_reader_key("a passphrase of somebody else's")
    with bench.site.app.database.transaction() as session:
        reader = session.get(Reader, "r1")
        assert reader is not None
        reader.public_key_pem = foreign.public_pem.decode() if isinstance(foreign.public_pem, bytes) else foreign.public_pem
        session.add(reader)
    _refused(bench)


def test_report_of_another_study_put_in_its_place_is_not_sent(bench: Bench) -> None:
    site = bench.site
    other = site.process(site.receive(make_ct_study(instances=1, number=55)))
    with site.app.database.transaction() as session:
        report = session.exec(select(Report)).one()
        report.study_pk = require_study(session, other).study_pk or 0
        session.add(report)
    _refused(bench)


def test_changed_bytes_of_the_signed_report_are_not_sent(bench: Bench) -> None:
    with bench.site.app.database.transaction() as session:
        report = session.exec(select(Report)).one()
        report.sealed_envelope = report.sealed_envelope[:-1] + bytes([report.sealed_envelope[-1] ^ 1])
        session.add(report)
    _refused(bench)


# --- Orthanc ------------------------------------------------------------------------------------------------------------------


@pytest.mark.interop
def test_orthanc_takes_the_report_and_gives_the_same_bytes_back(bench: Bench, tmp_path: Path) -> None:
    with _orthanc(tmp_path / "orthanc") as (dicom_port, http_port):
        point_targets(bench.site, {TargetKind.DICOM: dicom_port, TargetKind.MLLP: bench.ris.port})
        assert bench.attempt() == ["DELIVERED", "DELIVERED"]
        (instance,) = json.loads(_get(http_port, "/instances"))
        document = _get(http_port, f"/instances/{instance}/pdf")
        tags = json.loads(_get(http_port, f"/instances/{instance}/simplified-tags"))
    with bench.site.app.database.reading() as session:
        assert hashlib.sha256(document).hexdigest() == session.exec(select(ReportCopy.pdf_sha256)).one()
    assert verify_report_pdf(document, bench.site.app.certificates.trust_roots()).is_valid
    original = make_ct_study(instances=2)[0]
    assert (tags["PatientID"], tags["StudyInstanceUID"]) == (original.PatientID, original.StudyInstanceUID)


@contextmanager
def _orthanc(folder: Path) -> Iterator[tuple[int, int]]:
    """Orthanc on free ports of loopback: (DICOM, HTTP)."""
    program = require_peer("Orthanc")
    folder.mkdir()
    ports = _free_ports(2)
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "DicomAet": "H1_ARCHIVE",
        "DicomPort": ports[0],
        "HttpPort": ports[1],
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowStore": True,
        "Plugins": [],
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log)
    try:
        _until(lambda: b"Orthanc" in _get(ports[1], "/system") or True)
        yield ports[0], ports[1]
    finally:
        process.terminate()
        process.wait(20)


def _free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def _get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        body: bytes = answer.read()
    return body


def _until(look: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            if look():
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError("the peer did not come up")


# --- two workers --------------------------------------------------------------------------------------------------------------


@pytest.mark.interop
def test_two_workers_that_compose_at_once_send_the_same_bytes(
    tmp_path: Path,
    postgres_url: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "site").mkdir()
    settings = Settings.model_validate({"law": {"demo_confirmations": True}, "database_url": postgres_url})
    app = open_application(tmp_path / "site", settings=settings)
    app.certificates.enrol_authority("Readgate test authority")
    with Archive().listening() as archive, Ris().listening() as ris:
        ports = HospitalPorts({"h1": archive.port, "h2": 104}, {"h1": ris.port, "h2": 2575})
        clock = Clock()
        app.now = clock
        logins = {login.principal_id: login for login in populate(app, ports)}
        site = GatewaySite(app, clock, logins)
        Desk(site).report()
        bench, both, composed = Bench(site, archive, ris), threading.Barrier(2), delivery._composed

        def compose_together(*args: Any) -> bytes:
            document = composed(*args)
            both.wait(60)
            return document

        monkeypatch.setattr(delivery, "_composed", compose_together)
        states: list[str] = []
        workers = [
            threading.Thread(target=lambda pk=row.delivery_pk: states.append(bench.deliver(pk or 0)))  # type: ignore[misc]
            for row in deliveries_of(site)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(90)
        assert states == ["DELIVERED", "DELIVERED"]
        with app.database.reading() as session:
            copy = session.exec(select(ReportCopy)).one()
        assert hashlib.sha256(_document(archive.instances[0])).hexdigest() == copy.pdf_sha256
        assert len(ris.messages) == 1
    app.close()
