"""The command: every change does what it says and is audited, every error is one line that says what to do, and nothing is traced."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from sqlmodel import select
from typer.testing import CliRunner, Result

from compliance.audit import AuditEntry
from compliance.audit_checkpoint import verify_log
from crypto.errors import ReadgateError
from gateway.application import open_application
from gateway.cli import app
from gateway.console import Commands
from gateway.received import ReceivedInstance
from tests.builders import make_ct_study, part10_of
from tests.gateway_site import gateway_site

RUN = CliRunner()


@pytest.fixture(scope="module")
def populated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The demonstration's people and a delivered report."""
    folder = tmp_path_factory.mktemp("cli") / "site"
    with gateway_site(folder) as site:
        step_uid = site.claim()
        site.write(step_uid)
        site.sign(step_uid)
        site.deliver()
    (folder / "readgate.toml").write_text("[law]\ndemo_confirmations = true\n[dicom]\nfree_bytes_floor = 0\n")
    yield folder


@pytest.fixture
def data(populated: Path, tmp_path: Path) -> Path:
    shutil.copytree(populated, tmp_path / "data")
    return tmp_path / "data"


def run(data: Path, *words: str, code: int = 0) -> Result:
    result = RUN.invoke(app, [*words, "--data", str(data)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def parsed(data: Path, *words: str, code: int = 0) -> Any:
    return json.loads(run(data, *words, "--json", code=code).stdout)


def last_entry(data: Path) -> AuditEntry:
    opened = open_application(data)
    with opened.database.reading() as session:
        entry = session.exec(select(AuditEntry).order_by(AuditEntry.entry_index.desc())).first()  # type: ignore[attr-defined]
        assert verify_log(session, opened.log_signer.public_key).is_sound
    opened.close()
    assert entry is not None
    return entry


def test_init_makes_a_deployment_that_can_be_filled_and_does_not_serve_yet(tmp_path: Path) -> None:
    data = tmp_path / "new"
    made = parsed(data, "init", "--dns", "gateway.example")
    assert made["log_verifier_key"].startswith("readgate.audit+")
    assert (data.stat().st_mode & 0o777, (data / "readgate.toml").stat().st_mode & 0o777) == (0o700, 0o600)
    assert parsed(data, "init")["made"] == []
    run(data, "site", "add", "h1", "--name", "Klinik", "--jurisdiction", "DE")
    assert "readgate law confirm" in run(data, "serve", code=2).stderr
    assert parsed(data, "fsck")["clean"] is True


def test_a_missing_data_folder_is_told_in_one_line(tmp_path: Path) -> None:
    for words in (("fsck",), ("serve",), ("site", "list"), ("audit", "verify"), ("otp", "r1")):
        result = run(tmp_path / "nowhere", *words, code=2)
        assert len(result.stderr.strip().splitlines()) == 1
        assert "readgate init" in result.stderr


@pytest.mark.parametrize("words", [("nonsense",), ("site", "add"), ("serve", "--role", "cook"), ("keys", "shred", "--json")])
def test_wrong_words_are_one_line_and_exit_2(words: tuple[str, ...]) -> None:
    result = RUN.invoke(app, list(words))
    assert (result.exit_code, len(result.stderr.strip().splitlines())) == (2, 1)
    assert "--help" in result.stderr


def test_a_broken_configuration_names_file_and_setting(data: Path) -> None:
    (data / "readgate.toml").write_text("[dicom]\ntls_prot = 2762\n")
    assert "dicom.tls_prot" in run(data, "site", "list", code=2).stderr


def test_no_error_of_ours_and_no_foreign_one_is_traced(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise ValueError("Mustermann^Erika")

    monkeypatch.setattr("gateway.application.open_application", fail)
    result = run(data, "site", "list", code=1)
    assert "Mustermann" not in result.output
    assert "ValueError" in result.stderr

    class Odd(ReadgateError):
        pass

    monkeypatch.setattr("gateway.application.open_application", lambda *_a, **_o: (_ for _ in ()).throw(Odd("odd")))
    assert run(data, "site", "list", code=1).stderr == "odd\n"


def test_a_hospital_with_sender_and_target(data: Path) -> None:
    run(data, "site", "add", "h9", "--name", "Klinik Neun", "--jurisdiction", "DE-BY", "--address", "Weg 1")
    issued = parsed(data, "site", "sender", "h9", "H9_PACS", "--issue")["issued"]
    assert all(Path(path).exists() for path in issued)
    target = ("site", "target", "h9", "--kind", "MLLP", "--host", "his.example", "--port", "2575")
    assert "TLS" in run(data, *target, code=2).stderr, "a report names the patient"
    parsed(data, *target, "--tls")
    row = next(row for row in parsed(data, "site", "list") if row["hospital_id"] == "h9")
    assert (row["senders"], row["storage_country"]) == (["H9_PACS"], "DE")
    assert last_entry(data).actor.startswith("cli/")
    assert "site list" in run(data, "site", "add", "h9", "--name", "x", "--jurisdiction", "DE", code=2).stderr
    run(data, "site", "add", "h8", "--name", "x", "--jurisdiction", "Bavaria", code=2)
    run(data, "site", "add", "../h8", "--name", "x", "--jurisdiction", "DE", code=2)
    run(data, "site", "sender", "h7", "H7", "--plaintext", code=2)
    run(data, "site", "target", "h9", "--kind", "FAX", "--host", "x", "--port", "1", code=2)


def test_a_reader_from_principal_to_credential(data: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("correct horse battery staple\n")
    made = parsed(data, "principal", "add", "anna", "--role", "READER", "--display-name", "Dr. A", "--password-file", str(secret))
    assert made["totp_uri"].startswith("otpauth://")
    firm = ("--employer", "e9", "--employer-name", "Firma", "--employer-country", "ES", "--establishment", "ES")
    run(data, "reader", "add", "anna", *firm, "--passphrase-file", str(secret), "--network", "192.0.2.0/24")
    dates = ("--issued", "2020-01-01", "--expires", "2031-01-01")
    number = parsed(data, "reader", "credential", "anna", "--kind", "LICENCE", "--claim", "jurisdiction=ES", *dates)["credential_pk"]
    run(data, "reader", "credential", "anna", "--number", str(number), "--status", "SUSPENDED")
    row = next(row for row in parsed(data, "reader", "list") if row["reader_id"] == "anna")
    assert [(one["kind"], one["status"]) for one in row["credentials"]] == [("LICENCE", "SUSPENDED")]
    run(data, "reader", "credential", "anna", "--kind", "LICENCE", "--claim", "country=ES", *dates, code=2)
    run(data, "reader", "credential", "anna", "--kind", "COOK", "--claim", "jurisdiction=ES", *dates, code=2)
    run(data, "principal", "disable", "anna")
    row = next(row for row in parsed(data, "principal", "list") if row["principal_id"] == "anna")
    assert row["is_active"] is False
    assert "correct horse" not in run(data, "principal", "list").output


def test_evidence_and_consent(data: Path) -> None:
    dates = ("--issued", "2026-01-01", "--expires", "2031-01-01")
    run(data, "evidence", "add", "dpa-9", "--type", "DPA", "--party", "h1", "--party", "e1", *dates, "--verified-by", "po")
    run(data, "evidence", "add", "dpa-9", "--type", "DPA", "--party", "h1", *dates, "--verified-by", "po", code=2)
    run(data, "evidence", "withdraw", "dpa-9")
    row = next(row for row in parsed(data, "evidence", "list") if row["evidence_id"] == "dpa-9")
    assert row["withdrawn_at"] is not None
    run(data, "evidence", "withdraw", "dpa-9", code=2)
    run(data, "consent", "withdraw", "h1", "RG-NOBODY", code=2)


def test_keys_rotate_status_and_shred(data: Path) -> None:
    assert parsed(data, "keys", "rotate", "h1")["version"] == 2
    assert next(row for row in parsed(data, "keys", "status") if row["hospital_id"] == "h1")["studies"] == {"2": 2}
    opened = open_application(data)
    with opened.database.reading() as session:
        uid = next(one.study_instance_uid for one in session.exec(select(AuditEntry)).all() if one.study_instance_uid)
    opened.close()
    assert "--yes" in run(data, "keys", "shred", uid, "--reason", "ERASURE", code=2).stderr
    assert parsed(data, "keys", "shred", uid, "--reason", "ERASURE", "--yes")["packs_deleted"] > 0
    assert parsed(data, "fsck", "--deep")["clean"] is True
    run(data, "keys", "shred", "2.25.1", "--reason", "ERASURE", "--yes", code=2)


def test_fsck_names_damage_and_exits_1(data: Path) -> None:
    next(path for path in (data / "vault").rglob("*") if path.is_file()).unlink()
    result = run(data, "fsck", code=1)
    assert "missing_pack" in result.output
    assert "restore the pack" in result.output


def test_a_delivered_report_verifies_and_a_changed_one_does_not(data: Path, tmp_path: Path) -> None:
    from compliance.study import open_study_key, study_by_pk
    from reporting.report import Report
    from reporting.report_copy import ReportCopy, open_copy

    opened = open_application(data)
    with opened.database.reading() as session:
        copy, report = session.exec(select(ReportCopy)).one(), session.exec(select(Report)).one()
        pdf = open_copy(open_study_key(opened.keys, study_by_pk(session, report.study_pk)), copy)
    opened.close()
    file = tmp_path / "report.pdf"
    file.write_bytes(pdf)
    assert parsed(data, "report", "verify", str(file))["valid"] is True
    root = data / "certificates" / "authority.pem"
    assert RUN.invoke(app, ["report", "verify", str(file), "--root", str(root)]).exit_code == 0
    file.write_bytes(pdf[:2000] + bytes([pdf[2000] ^ 1]) + pdf[2001:])
    assert "does not verify" in run(data, "report", "verify", str(file), code=1).stderr
    run(data, "report", "verify", str(tmp_path / "none.pdf"), code=2)


def test_import_takes_dicom_files_whatever_their_names_and_counts_the_rest(data: Path, tmp_path: Path) -> None:
    medium = tmp_path / "Mustermann Erika" / "IMAGES"
    medium.mkdir(parents=True)
    datasets = make_ct_study(instances=3, number=9)
    for number, dataset in enumerate(datasets):
        (medium / f"I{number}").write_bytes(part10_of(dataset))
    (medium / "readme.txt").write_text("hello")
    result = run(data, "import", str(medium.parent), "--hospital", "h1")
    assert "3 instances received" in result.output
    assert "1 files are no DICOM" in result.output
    assert "Mustermann" not in result.output
    opened = open_application(data)
    with opened.database.reading() as session:
        before = len(session.exec(select(ReceivedInstance)).all())
    opened.close()
    assert parsed(data, "import", str(medium), "--hospital", "h1")["received"] == 3
    opened = open_application(data)
    with opened.database.reading() as session:
        rows = session.exec(select(ReceivedInstance)).all()
    opened.close()
    assert [row.is_duplicate for row in rows[before:]] == [True] * 3
    assert last_entry(data).event_id == "110107"
    run(data, "import", str(tmp_path / "none"), "--hospital", "h1", code=2)
    run(data, "import", str(medium), "--hospital", "h7", code=2)


def test_quarantine_and_deliveries_for_people(data: Path) -> None:
    assert parsed(data, "quarantine", "list") == []
    run(data, "quarantine", "show", "1", code=2)
    run(data, "quarantine", "release", "1", "--note", "x", code=2)
    assert parsed(data, "deliveries", "list") == []
    rows = parsed(data, "deliveries", "list", "--all")
    assert {row["state"] for row in rows} == {"DELIVERED"}
    assert "dead letter" in run(data, "deliveries", "release", str(rows[0]["number"]), code=2).stderr


def test_the_audit_log_verifies_exports_and_reports(data: Path, tmp_path: Path) -> None:
    note, bundle = tmp_path / "note", tmp_path / "bundle"
    run(data, "audit", "checkpoint", "--into", str(note))
    assert parsed(data, "audit", "verify", "--checkpoint", str(note))["sound"] is True
    run(data, "audit", "export", "--into", str(bundle))
    assert bundle.stat().st_mode & 0o777 == 0o600
    assert run(data, "audit", "export", "--format", "fhir", "--hospital", "h1").stdout.startswith('{"action"')
    assert run(data, "audit", "export", "--format", "dicom").stdout.startswith("<AuditMessage>")
    assert parsed(data, "audit", "report", "disclosures", "--hospital", "h1")["report"] == "accounting-of-disclosures"
    text = run(data, "audit", "report", "processing", "--hospital", "h1", "--contact", "controller=privacy@example").stdout
    assert "privacy@example" in text
    assert last_entry(data).event_id == "110101"
    run(data, "audit", "report", "gossip", "--hospital", "h1", code=2)
    note.write_text(note.read_text().replace("readgate", "readgat3", 1))
    run(data, "audit", "verify", "--checkpoint", str(note), code=1)


def test_the_code_of_a_person_of_the_demonstration(data: Path) -> None:
    assert run(data, "otp", "r1").stdout.strip().isdigit()
    assert "r1" in run(data, "otp", "nobody", code=2).stderr


@pytest.mark.slow
def test_serve_runs_until_it_is_asked_to_stop_and_drains(data: Path) -> None:
    run(data, "init")
    (data / "readgate.toml").write_text("log_json = true\n[law]\ndemo_confirmations = true\n[dicom]\ntls_port = 0\n[http]\nport = 0\n")
    command = [sys.executable, "-m", "gateway.cli", "serve", "--data", str(data)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stderr is not None
    lines = []
    deadline = time.monotonic() + 60
    for line in process.stderr:
        lines.append(json.loads(line))
        if lines[-1]["event"] == "server_started" or time.monotonic() > deadline:
            break
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=60)
    events = [line["event"] for line in lines] + [json.loads(line)["event"] for line in rest.splitlines()]
    assert process.returncode == 0
    assert events[-1] == "server_stopped"


@pytest.mark.parametrize("error", [TimeoutError(), ConnectionResetError(104, "reset")])
def test_peer_that_does_not_answer_is_not_called_a_file(error: OSError) -> None:
    commands = typer.Typer(cls=Commands)

    @commands.callback()
    def root() -> None:
        """A command needs a group."""

    @commands.command()
    def send() -> None:
        raise error

    result = RUN.invoke(commands, ["send"])
    assert result.exit_code == 1 and "did not answer in time" in result.output and "file" not in result.output
