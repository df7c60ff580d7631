"""Other people's DICOM against the whole site: dcmtk and pynetdicom through both ports, and who is turned away and how."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, EncapsulatedPDFStorage, ExplicitVRLittleEndian
from pynetdicom import AE, build_context, evt
from sqlmodel import col, select
from structlog.testing import capture_logs

from compliance.audit import AuditEntry, EventType
from compliance.hospital import Hospital, ReportTarget, TargetKind
from crypto.certificates import create_ca, issue_client
from crypto.errors import BadInput
from gateway.application import open_application
from gateway.config import Settings
from gateway.dicom_uids import STORAGE_COMMITMENT_PUSH_MODEL, STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE
from gateway.enrolment import add_target
from gateway.server import Server
from gateway.store_scu import echo
from tests.builders import make_ct_study, make_mr_study, part10_of
from tests.dicom_peers import wait_until
from tests.orthanc_server import running_orthanc
from tests.peers import require_peer
from tests.running_site import RunningSite, eventually, running_site

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSite]:
    with running_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture(scope="module")
def pems(site: RunningSite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys and certificates as files for dcmtk: of both hospitals, of the authority, and of an authority nobody here knows."""
    folder = tmp_path_factory.mktemp("pems")
    (folder / "ca").write_bytes(b"".join(site.app.certificates.trust_roots()))
    foreign = issue_client(create_ca("Another authority"), "H1_PACS")
    for name, pair in (
        ("h1", site.app.certificates.client("H1_PACS")),
        ("h2", site.app.certificates.client("H2_PACS")),
        ("foreign", foreign),
    ):
        (folder / f"{name}.key").write_bytes(pair.key_pem)
        (folder / f"{name}.pem").write_bytes(pair.certificate_pem)
    return folder


def dcmtk(
    program: str, address: tuple[str, int], *arguments: object, calling: str = "H1_PACS", called: str = "READGATE"
) -> tuple[int, str]:
    """(exit code, what it said)"""
    command = [require_peer(program), *arguments[:-1], "-aet", calling, "-aec", called, *address, *arguments[-1:]]
    done = subprocess.run([str(part) for part in command if part != ""], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def tls(pems: Path, name: str) -> list[object]:
    return ["+tls", pems / f"{name}.key", pems / f"{name}.pem", "+cf", pems / "ca"]


def written(folder: Path, datasets: list[Dataset]) -> Path:
    folder.mkdir()
    for number, dataset in enumerate(datasets):
        (folder / f"{number}.dcm").write_bytes(part10_of(dataset))
    return folder


def refusals(site: RunningSite) -> list[dict[str, object]]:
    with site.app.database.reading() as session:
        query = select(AuditEntry).where(AuditEntry.event_type == EventType.NODE_AUTHENTICATION).order_by(col(AuditEntry.entry_index))
        return [{**entry.detail, "address": entry.network_address} for entry in session.exec(query).all()]


def test_dcmtk_echoes_through_both_ports(site: RunningSite, pems: Path) -> None:
    assert dcmtk("echoscu", site.plaintext, "")[0] == 0
    code, said = dcmtk("echoscu", ("localhost", site.tls[1]), *tls(pems, "h1"), "")
    assert code == 0, said


def test_study_sent_by_dcmtk_in_plaintext_is_on_the_worklist(site: RunningSite, tmp_path: Path) -> None:
    datasets = make_ct_study(4, number=501)
    code, said = dcmtk("storescu", site.plaintext, "+sd", written(tmp_path / "ct", datasets))
    assert code == 0, said
    study, step = site.routed(str(datasets[0].StudyInstanceUID))
    assert (study.instance_count, study.hospital_id, step.state) == (4, "h1", "SCHEDULED")
    assert str(datasets[0].PatientID) not in (study.patient_pseudonym, study.accession_pseudonym)


def test_study_sent_by_dcmtk_with_tls_is_on_the_worklist(site: RunningSite, pems: Path, tmp_path: Path) -> None:
    datasets = make_mr_study(3, number=502, hospital_id="h2")
    folder = written(tmp_path / "mr", datasets)
    code, said = dcmtk("storescu", ("localhost", site.tls[1]), *tls(pems, "h2"), "+sd", folder, calling="H2_PACS")
    assert code == 0, said
    study, _ = site.routed(str(datasets[0].StudyInstanceUID), "h2")
    assert (study.instance_count, study.hospital_id) == (3, "h2")


@pytest.mark.parametrize(
    "titles, phrase, event, reject",
    [
        ({"calling": "STRANGER"}, "Calling AE Title Not Recognized", "calling_ae_title_refused", "1/1/3"),
        ({"called": "SOMEBODY"}, "Called AE Title Not Recognized", "called_ae_title_refused", "1/1/7"),
    ],
)
def test_unknown_title_is_rejected_logged_and_audited(
    titles: dict[str, str], phrase: str, event: str, reject: str, site: RunningSite
) -> None:
    with capture_logs() as logs:
        code, said = dcmtk("echoscu", site.plaintext, "", **titles)
    assert code != 0 and "Rejected" in said and phrase in said
    line = next(line for line in logs if line["event"] == "association_refused")
    assert (line["reason"], line["reject"], line["peer_address"], line["log_level"]) == (event, reject, "127.0.0.1", "warning")
    entry = next(entry for entry in refusals(site) if entry["event"] == event)
    assert {"calling": "H1_PACS", "called": "READGATE"} | titles == {"calling": entry["calling"], "called": entry["called"]}
    assert entry["address"] == "127.0.0.1"


def test_certificate_of_another_hospital_is_rejected_logged_and_audited(site: RunningSite, pems: Path, tmp_path: Path) -> None:
    datasets = make_ct_study(1, number=503)
    with capture_logs() as logs:
        code, said = dcmtk("storescu", ("localhost", site.tls[1]), *tls(pems, "h2"), "+sd", written(tmp_path / "ct", datasets))
    assert code != 0 and "Rejected Permanent" in said and "No Reason" in said
    line = next(line for line in logs if line["event"] == "association_refused")
    assert (line["reason"], line["reject"]) == ("certificate_refused_for_ae_title", "1/1/1")
    entry = next(entry for entry in refusals(site) if entry["event"] == "certificate_refused_for_ae_title")
    assert entry["calling"] == "H1_PACS" and entry["certificate"]
    with site.app.database.reading() as session:
        assert site.received_study(session, str(datasets[0].StudyInstanceUID)) is None


def test_certificate_of_an_unknown_authority_gets_an_alert_and_is_audited(site: RunningSite, pems: Path) -> None:
    with capture_logs() as logs:
        code, _said = dcmtk("echoscu", ("localhost", site.tls[1]), *tls(pems, "foreign"), "")
        assert wait_until(lambda: any(line["event"] == "tls_handshake_refused" for line in logs))
    assert code != 0
    line = next(line for line in logs if line["event"] == "tls_handshake_refused")
    assert line["peer_address"] == "127.0.0.1" and line["reason"]
    assert wait_until(lambda: any(entry["event"] == "tls_handshake_refused" for entry in refusals(site)))
    entry = next(entry for entry in refusals(site) if entry["event"] == "tls_handshake_refused")
    assert (entry["reason"], entry["address"]) == (line["reason"], "127.0.0.1")


def test_plaintext_to_the_tls_port_gets_no_association(site: RunningSite) -> None:
    assert dcmtk("echoscu", site.tls, "")[0] != 0
    assert echo(site.remote()) == 0


def test_plaintext_beyond_loopback_keeps_the_server_from_starting(tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {
            "dicom": {"host": "0.0.0.0", "plaintext_port": 0, "tls_port": None},
            "http": {"port": 0},
            "law": {"demo_confirmations": True},
        }
    )
    app = open_application(tmp_path, settings=settings)
    server = Server(app)
    try:
        with pytest.raises(BadInput, match="allow_plaintext_beyond_loopback"):
            server.start()
        assert server.dicom_addresses == [] and server.http_address is None
    finally:
        app.close()


def test_storage_commitment_completes_the_study_without_waiting_for_quiet(site: RunningSite) -> None:
    with site.app.database.transaction() as session:
        hospital = session.get(Hospital, "h2")
        assert hospital is not None
        hospital.quiet_seconds = 3600.0
        session.add(hospital)
    datasets = make_ct_study(3, number=504, hospital_id="h2")
    site.send(datasets, "h2")
    uid = str(datasets[0].StudyInstanceUID)
    time.sleep(1.5)
    with site.app.database.reading() as session:
        row = site.received_study(session, uid, "h2")
        assert row is not None and row.state == "RECEIVING"
    missing = "1.2.3.4.5.6"
    reports = commit(site, [*(str(dataset.SOPInstanceUID) for dataset in datasets), missing])
    assert [str(item.ReferencedSOPInstanceUID) for item in reports[0].FailedSOPSequence] == [missing]
    assert reports[0].FailedSOPSequence[0].FailureReason == 0x0112
    assert {str(item.ReferencedSOPInstanceUID) for item in reports[0].ReferencedSOPSequence} == {
        str(dataset.SOPInstanceUID) for dataset in datasets
    }
    study, _ = site.routed(uid, "h2", seconds=30)
    assert study.instance_count == 3


def commit(site: RunningSite, sop_instance_uids: list[str]) -> list[Dataset]:
    """What N-EVENT-REPORT answered to a request for these instances, asked over TLS on one association."""
    request = Dataset()
    request.TransactionUID = "1.2.826.0.1.3680043.8.498.77"
    request.ReferencedSOPSequence = []
    for uid in sop_instance_uids:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, uid
        request.ReferencedSOPSequence.append(item)
    reports: list[Dataset] = []

    def on_report(event: evt.Event) -> tuple[int, None]:
        reports.append(event.event_information)
        return 0, None

    remote = site.remote("h2")
    assert remote.tls is not None
    entity = AE(ae_title="H2_PACS")
    association = entity.associate(
        "localhost",
        remote.port,
        contexts=[build_context(STORAGE_COMMITMENT_PUSH_MODEL, ExplicitVRLittleEndian)],
        ae_title="READGATE",
        tls_args=(remote.tls, "localhost"),
        evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_report)],
    )
    assert association.is_established
    status, _ = association.send_n_action(request, 1, STORAGE_COMMITMENT_PUSH_MODEL, STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE)
    assert status.Status == 0
    assert wait_until(lambda: bool(reports), 10)
    association.release()
    return reports


def test_study_forwarded_by_orthanc_is_read_and_its_report_comes_back_to_orthanc(site: RunningSite, tmp_path: Path) -> None:
    datasets = make_ct_study(3, number=505)
    uid = str(datasets[0].StudyInstanceUID)
    with running_orthanc(tmp_path / "orthanc", ae_title="H1_PACS", modalities={"readgate": ("READGATE", site.plaintext[1])}) as orthanc:
        add_target(
            site.app,
            "op",
            ReportTarget(hospital_id="h1", kind=TargetKind.DICOM, host="127.0.0.1", port=orthanc.dicom, ae_title=orthanc.ae_title),
        )
        sent = [orthanc.post("/instances", part10_of(dataset))["ID"] for dataset in datasets]
        assert orthanc.post("/modalities/readgate/echo", b"{}") == {}
        assert orthanc.post("/modalities/readgate/store", json.dumps(sent).encode())["FailedInstancesCount"] == 0
        study, step = site.routed(uid)
        assert study.instance_count == 3
        site.sign(site.claim(step.procedure_step_uid), step.procedure_step_uid)

        def report() -> dict[str, Any] | None:
            found = orthanc.post("/tools/find", json.dumps({"Level": "Series", "Expand": True, "Query": {"Modality": "DOC"}}).encode())
            return found[0] if found else None

        series = eventually(report, 60, "the report did not come to Orthanc")
        tags = orthanc.get(f"/instances/{series['Instances'][0]}/simplified-tags")
    assert (tags["StudyInstanceUID"], tags["PatientID"]) == (uid, str(datasets[0].PatientID))
    assert tags["SOPClassUID"] == EncapsulatedPDFStorage and tags["MIMETypeOfEncapsulatedDocument"] == "application/pdf"
