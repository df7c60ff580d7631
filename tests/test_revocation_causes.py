"""Whatever ends a right: what is open closes within seconds, the draft stays sealed, the study waits again with the reason.

Five causes, each over HTTP on a site that runs; every change is made by another process, or by nobody: time passes. What the browser
shows of it is in test_reading_in_browser.py.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlmodel import col, select

from compliance.audit import AuditEntry, EventType
from compliance.credential import Credential, Evidence
from compliance.law_confirmation import confirmation_document, sign_manifest
from compliance.lawbook import SHIPPED_LAW, load_packs
from compliance.study import Study
from crypto.ed25519 import create_ed25519_key, ed25519_public_pem
from crypto.errors import NotAllowed
from gateway.config import LawSettings
from gateway.demo_reader import DemoReader
from gateway.law_watch import WATCH_SECONDS
from gateway.worker import REVOCATION_SECONDS
from reporting.authoring import load_draft
from tests.builders import make_ct_study
from tests.canary_search import bytes_of
from tests.running_site import RunningSite, eventually, running_site
from worklist.procedure_step import State
from worklist.revocation import leading_reason
from worklist.workitem import ProcedureStep

pytestmark = pytest.mark.slow
_ROOT = Path(__file__).parents[1]
SECTIONS = {"technique": "", "comparison": "", "findings": "Seen so far: nothing.", "impression": ""}
CRITICAL = {"is_critical": False, "statement": "", "communicated_to": "", "communicated_at": ""}
SIGNED_AT = datetime(2026, 11, 22, tzinfo=UTC)
SIGNERS = {role: create_ed25519_key() for role in ("PRIVACY_OFFICER", "COUNSEL")}


@dataclass
class Opened:
    """A study that r1 holds, looks at and writes about."""

    site: RunningSite
    reader: DemoReader
    study: Study
    step: ProcedureStep

    def status(self) -> int:
        """What the images answer."""
        path = f"/dicom-web/studies/{self.study.study_instance_uid}/metadata"
        return self.reader._send("GET", path, None, {"Accept": "application/dicom+json"})[0]

    def command(self, *arguments: str) -> None:
        """Another process changes something, as an operator would."""
        command = [sys.executable, "-m", "gateway.cli", *arguments, "--data", str(self.site.app.data)]
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packs of this deployment's own, confirmed by two people of its own."""
    folder = tmp_path_factory.mktemp("packs") / "law"
    shutil.copytree(SHIPPED_LAW, folder, ignore=shutil.ignore_patterns("*.json"))
    _raise_version(folder)
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, packs: Path) -> Iterator[RunningSite]:
    with running_site(tmp_path_factory.mktemp("site")) as site:
        trusted = {role: ed25519_public_pem(key) for role, key in SIGNERS.items()}
        site.app.settings.law = LawSettings(directory=packs, confirmations=packs / "confirmations.json", trusted_keys=trusted)
        yield site


@pytest.fixture(scope="module")
def reader(site: RunningSite) -> DemoReader:
    assert site.server.http_address is not None
    reader = DemoReader(site.logins["r1"], site.server.http_address)
    reader.log_in()
    return reader


@pytest.fixture(scope="module")
def hospital(site: RunningSite) -> DemoReader:
    assert site.server.http_address is not None
    staff = DemoReader(site.logins["h1"], site.server.http_address)
    staff.log_in()
    return staff


def _raise_version(packs: Path) -> None:
    """The packs as they are now, under the next version and confirmed."""
    bundle = packs / "bundle.yaml"
    version = next(int(line.partition(":")[2]) for line in bundle.read_text().splitlines() if line.startswith("version:"))
    bundle.write_text(bundle.read_text().replace(f"version: {version}", f"version: {version + 1}"))
    manifest = load_packs(packs).manifest
    left = frozenset({"SA_PDPL_29"})
    signatures = [sign_manifest(manifest, "test", left, role, f"One of {role}", SIGNED_AT, key) for role, key in SIGNERS.items()]
    document = confirmation_document(manifest, "test", left, signatures)
    # The confirmations last and at once: packs that nobody signed are refused, and the law in force stays.
    (packs / "confirmations.new").write_text(json.dumps(document))
    (packs / "confirmations.new").rename(packs / "confirmations.json")


# --- the causes: (what ends the right, the reason that is given, what mends it for the next) -------------------------------------


def _consent(opened: Opened) -> None:
    opened.command("consent", "withdraw", "h1", opened.study.patient_pseudonym, "--reason", "By letter")


def _licence(status: str) -> Callable[[Opened], None]:
    def change(opened: Opened) -> None:
        with opened.site.app.database.reading() as session:
            row = session.exec(
                select(Credential).where(
                    Credential.reader_id == "r1", Credential.kind == "LICENCE", col(Credential.superseded_at).is_(None)
                )
            ).one()
        opened.command("reader", "credential", "r1", "--number", str(row.credential_pk), "--status", status)

    return change


def _let_evidence_expire(opened: Opened) -> None:
    """Nobody does anything more: the agreement has three seconds left."""
    app = opened.site.app
    with app.database.transaction() as session:
        row = session.get_one(Evidence, "dpa-1")
        row.expires_at = app.now() + timedelta(seconds=3)
        session.add(row)


def _renew_evidence(opened: Opened) -> None:
    app = opened.site.app
    with app.database.transaction() as session:
        row = session.get_one(Evidence, "dpa-1")
        row.expires_at = app.now() + timedelta(days=300)
        session.add(row)


def _spain(until: str) -> Callable[[Opened], None]:
    def change(opened: Opened) -> None:
        packs = opened.site.app.settings.law.directory
        assert packs is not None
        lines = (packs / "bundle.yaml").read_text().splitlines()
        lines = [f"    - {{code: ES, since: 2018-05-25{until}}}" if "code: ES," in line else line for line in lines]
        (packs / "bundle.yaml").write_text("\n".join(lines) + "\n")
        _raise_version(packs)

    return change


CAUSES = [
    pytest.param(_licence("LAPSED"), "CRED_LICENCE_LAPSED:ES", _licence("ACTIVE"), id="licence-lapsed"),
    pytest.param(_licence("SUSPENDED"), "CRED_LICENCE_SUSPENDED:ES", _licence("ACTIVE"), id="licence-suspended"),
    pytest.param(_let_evidence_expire, "EVIDENCE_EXPIRED:DPA", _renew_evidence, id="evidence-expired"),
    pytest.param(_spain(", until: 2018-05-26"), "NO_TRANSFER_MECHANISM:EU:ES", _spain(""), id="rule-changed"),
    # The last: it is one patient throughout, and nothing more of them may be kept after it.
    pytest.param(_consent, "CONSENT_WITHDRAWN", None, id="consent-withdrawn"),
]


@pytest.mark.parametrize(("end", "reason", "mend"), CAUSES)
def test_right_that_ends_closes_what_is_open(
    site: RunningSite,
    reader: DemoReader,
    hospital: DemoReader,
    end: Callable[[Opened], None],
    reason: str,
    mend: Callable[[Opened], None] | None,
    request: pytest.FixtureRequest,
) -> None:
    number = 700 + [str(param.id) for param in CAUSES].index(request.node.callspec.id)
    datasets = make_ct_study(instances=1, number=number)
    site.send(datasets)
    study, step = site.routed(str(datasets[0].StudyInstanceUID))
    opened = Opened(site, reader, study, step)
    if reason == "CONSENT_WITHDRAWN":
        opened.command("consent", "add", "h1", study.patient_pseudonym, "--kind", "SHARING", "--status", "ACTIVE")
    eventually(lambda: _is_offered(opened) or None, 60, "the study was not offered to r1")
    reader.page("/worklist")
    assert reader.post_form(f"/worklist/{step.procedure_step_uid}/claim", {}) == 303
    reader.page(f"/read/{step.procedure_step_uid}")
    draft = {"version": 0, "kind": "FINAL", "sections": SECTIONS, "critical": CRITICAL}
    reader.post_json(f"/read/{step.procedure_step_uid}/draft", draft)
    assert opened.status() == 200
    try:
        end(opened)
        # Five seconds are what the clocks add up to; how long a busy machine takes is no matter of this test.
        assert max(REVOCATION_SECONDS, WATCH_SECONDS) <= 5
        eventually(lambda: opened.status() == 404 or None, 60, "the images are still shown")
        # The claim ended for the reason, and nothing more is written under it.
        with pytest.raises(NotAllowed):
            reader.post_json(f"/read/{step.procedure_step_uid}/draft", {**draft, "version": 1})
        with site.app.database.reading() as session:
            ended = session.get_one(ProcedureStep, step.procedure_step_uid)
            following = session.exec(select(ProcedureStep).where(ProcedureStep.predecessor_uid == step.procedure_step_uid)).one()
            assert (ended.state, ended.cancellation_reason) == (State.CANCELED, reason)
            assert (following.state, following.claiming_reader_id) == (State.SCHEDULED, None)
            assert following.expected_completion_at == ended.expected_completion_at
            # The draft is kept for whoever may read on, and only under the study's key.
            assert load_draft(session, site.app.keys, following, "r1").sections["findings"] == SECTIONS["findings"]
            revoked = session.exec(
                select(AuditEntry).where(AuditEntry.object_id == step.procedure_step_uid, AuditEntry.event_type == EventType.REVOKE)
            ).all()
            # A study of the same patient that was shown as a prior has an entry of its own.
            assert [row.detail["reason"] for row in revoked if not row.detail.get("prior")] == [reason]
        for path in site.app.data.glob("readgate.sqlite3*"):
            assert SECTIONS["findings"].encode() not in bytes_of(path)
        # The reader is told, and so is the hospital.
        assert reader._send("GET", f"/read/{step.procedure_step_uid}", None, {"Accept": "text/html"})[0] == 303
        assert "right of" in hospital.page("/studies")
    finally:
        if mend is not None:
            mend(opened)


def _is_offered(opened: Opened) -> bool:
    return opened.step.procedure_step_uid in opened.reader.page("/worklist")


def test_reason_that_is_told_is_the_one_that_ended() -> None:
    """A transfer that lost its paper lacks every other mechanism too: none of those ended."""
    missing = ["CONSENT_MISSING", "EVIDENCE_EXPIRED:DPF_STATUS", "EVIDENCE_MISSING:SCC_M3", "NO_TRANSFER_MECHANISM:EU:US-CA"]
    assert leading_reason(missing) == "EVIDENCE_EXPIRED:DPF_STATUS"
    assert leading_reason([missing[0], missing[2], missing[3]]) == "NO_TRANSFER_MECHANISM:EU:US-CA"
    assert leading_reason(["CRED_LICENCE_SUSPENDED:ES", "CONSENT_WITHDRAWN"]) == "CONSENT_WITHDRAWN"
    assert leading_reason(["EVIDENCE_MISSING:TIA", "TEST_PROHIBITION"]) == "TEST_PROHIBITION"
    assert leading_reason([]) == "DENIED"
