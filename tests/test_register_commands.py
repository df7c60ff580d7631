"""Commands beside a running site: what another process changes in the registers is followed within five seconds, on the screen too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyotp
import pytest
from playwright.sync_api import Browser, expect, sync_playwright
from sqlmodel import select

from compliance import audit
from compliance.credential import Consent, standing_credentials
from gateway.register_changes import changes_of, follow_registers
from gateway.register_entries import change_credential_status, record_consent
from gateway.worker import REVOCATION_SECONDS
from tests.builders import make_ct_study
from tests.gateway_site import GatewaySite, gateway_site
from tests.page_server import CHROMIUM_ARGUMENTS
from tests.peers import require_peer
from tests.running_site import RunningSite, eventually, running_site
from worklist.procedure_step import State
from worklist.routed_reader import eligible_ids
from worklist.workitem import require_step

ROOT = Path(__file__).resolve().parents[1]
#: Five seconds are what the clocks add up to, from the command's change to its effect in another process; a busy machine may take longer.
assert REVOCATION_SECONDS <= 4
_WAIT_SECONDS = 60.0


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "data") as made:
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=require_peer("chromium"), args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSite]:
    with running_site(tmp_path_factory.mktemp("running")) as made:
        yield made


def command(data: Path, *words: str, has_law: bool = False) -> str:
    """What `readgate` says in a process of its own; without `has_law` it knows nothing of the law that the site runs under."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("READGATE_")}
    if has_law:
        environment["READGATE_LAW__DEMO_CONFIRMATIONS"] = "true"
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli", *words, "--data", str(data)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def licence_of(data: Path, reader_id: str) -> str:
    rows = json.loads(command(data, "credential", "list", "--reader", reader_id, "--json"))
    return str(next(row["number"] for row in rows if row["kind"] == "LICENCE"))


@pytest.mark.browser
def test_consent_withdrawn_by_command_closes_the_viewer_within_five_seconds(running: RunningSite, browser: Browser) -> None:
    datasets = make_ct_study(instances=2)
    running.send(datasets)
    study, step = running.routed(datasets[0].StudyInstanceUID)
    data, pseudonym = running.app.data, study.patient_pseudonym
    command(data, "consent", "add", "h1", pseudonym, "--kind", "SHARING")
    login = running.logins["r1"]
    context = browser.new_context(base_url=running.url)
    page = context.new_page()
    page.goto("/login")
    page.fill("#user_name", "r1")
    page.fill("#password", login.password)
    page.fill("#code", pyotp.TOTP(login.totp_secret).now())
    page.select_option("#declared_country", login.country)
    page.click("button[type=submit]")
    page.wait_for_url("**/worklist")
    page.locator(f'tr[data-row="{step.procedure_step_uid}"]').get_by_role("button", name="Claim").click()
    page.wait_for_url("**/read/*")
    page.fill("#findings", "Typed before.")
    expect(page.locator("#save-state")).to_contain_text("Saved")

    command(data, "consent", "withdraw", "h1", pseudonym, "--reason", "Letter of the patient")
    expect(page.locator("#curtain")).to_contain_text("The patient withdrew the consent", timeout=_WAIT_SECONDS * 1000)
    expect(page.locator("iframe")).to_have_count(0)
    expect(page.locator("#findings")).to_have_value("Typed before.")
    context.close()

    def is_unlisted() -> bool | None:
        with running.app.database.reading() as session:
            return True if eligible_ids(session, study.study_pk or 0) == [] else None

    assert eventually(is_unlisted, _WAIT_SECONDS, "the study is still offered")
    why = json.loads(command(data, "study", "why", study.study_instance_uid, "--json"))
    assert why["waiting"] and why["eligible"] == 0 and why["refused"][0]["code"] == "CONSENT_WITHDRAWN"


def test_credential_suspended_and_reinstated_by_command_is_followed(running: RunningSite) -> None:
    datasets = make_ct_study(instances=1)
    running.send(datasets)
    study, _ = running.routed(datasets[0].StudyInstanceUID)
    data = running.app.data

    def is_offered(wanted: bool) -> bool | None:
        with running.app.database.reading() as session:
            return True if ("r1" in eligible_ids(session, study.study_pk or 0)) is wanted else None

    command(data, "consent", "add", "h1", study.patient_pseudonym, "--kind", "SHARING")
    eventually(lambda: is_offered(True), _WAIT_SECONDS, "not offered")
    command(data, "credential", "suspend", licence_of(data, "r1"), "--reason", "Letter of the chamber")
    eventually(lambda: is_offered(False), _WAIT_SECONDS, "still offered")
    command(data, "credential", "reinstate", licence_of(data, "r1"), "--reason", "Letter withdrawn")
    eventually(lambda: is_offered(True), _WAIT_SECONDS, "not offered again")


def test_a_decision_is_listed_and_explained_by_command(running: RunningSite) -> None:
    data = running.app.data
    rows = json.loads(command(data, "decision", "list", "--reader", "r4", "--json"))
    found = json.loads(command(data, "decision", "show", rows[0]["digest"], "--json", has_law=True))
    assert found["decision"]["outcome"] == "DENY" and "would be denied" in found["today"]["text"]
    assert {"Who", "What", "Where", "When"} <= set(found["about"]) and found["replay"].startswith("Came out byte for byte")
    assert "CRED_PRIVILEGE_MISSING:h1" in command(data, "decision", "show", rows[0]["digest"], has_law=True)


def test_registers_leave_and_come_back_by_command(running: RunningSite, tmp_path: Path) -> None:
    data = running.app.data
    for noun in ("credential", "evidence", "consent"):
        path = tmp_path / f"{noun}.json"
        path.write_text(command(data, noun, "export"), encoding="utf-8")
    assert "on file" in command(data, "credential", "import", str(tmp_path / "credential.json"))
    assert "dpa-1" in command(data, "evidence", "import", str(tmp_path / "evidence.json"))
    contract = tmp_path / "contract.pdf"
    contract.write_bytes(b"%PDF-1.7 agreement")
    kept = json.loads(command(data, "evidence", "document", "dpa-2", str(contract), "--json"))
    assert len(kept["document_digest"]) == 64
    with running.app.database.reading() as session:
        exports = session.exec(select(audit.AuditEntry).where(audit.AuditEntry.event_id == audit.EventId.EXPORT)).all()
    assert {"export of credentials", "export of evidence", "export of consents"} <= {str(row.detail.get("act")) for row in exports}


# --- without another process ------------------------------------------------------------------------------------------------------


def test_change_without_its_effect_is_followed_and_only_once(site: GatewaySite) -> None:
    step_uid = site.claim("r1")
    assert follow_registers(site.app) is False, "the first look only takes its place"
    with site.app.database.reading() as session:
        number = next(row.credential_pk for row in standing_credentials(session, "r1") if row.kind == "COVER")
    assert number is not None
    change_credential_status(site.app, "po", number, "SUSPENDED", reason="Letter of the insurer")
    assert follow_registers(site.app) is True
    with site.app.database.reading() as session:
        assert require_step(session, step_uid).state == State.CANCELED
    assert follow_registers(site.app) is False


def test_crash_between_effect_and_cursor_repeats_the_effect(site: GatewaySite, monkeypatch: pytest.MonkeyPatch) -> None:
    follow_registers(site.app)
    step_uid = site.claim("r1")
    record_consent(
        site.app, "po", hospital_id="h1", patient_pseudonym=site.study.patient_pseudonym, status="REFUSED", kind="SHARING",
        given_at=site.clock.at,
    )  # fmt: skip

    # No error of ours: what is caught is put aside, a process that dies is not.
    class Died(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Died

    with monkeypatch.context() as patched:
        patched.setattr("gateway.register_changes.take_effect", die)
        with pytest.raises(Died):
            follow_registers(site.app)
    with site.app.database.reading() as session:
        assert require_step(session, step_uid).state == State.IN_PROGRESS
        assert len(session.exec(select(Consent)).all()) == 1
    assert follow_registers(site.app) is True
    with site.app.database.reading() as session:
        assert require_step(session, step_uid).state == State.CANCELED


def test_entries_about_other_things_change_nothing(site: GatewaySite) -> None:
    with site.app.database.reading() as session:
        changes = (audit.EventType.SECURITY_CONFIGURATION, audit.EventType.USER_SECURITY_CHANGED)
        others = [row for row in audit.entries(session) if row.event_type not in changes]
    assert others and not changes_of(others)
