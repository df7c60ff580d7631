"""The whole of reading in Chromium, on a site that runs: from the hospital's archive back to it, and a right that ends in between."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, StorageState, expect, sync_playwright
from pydicom import dcmread
from sqlmodel import col, select

from compliance.credential import Credential
from crypto.passwords import totp_now
from gateway.pages_reader import HEARTBEAT_SECONDS
from gateway.register_entries import change_credential_status
from gateway.samples import make_head_ct
from gateway.samples.head_phantom import FRESH_BLEED, OLD_BLEED
from gateway.samples.people import JOZEF_WISNIOWSKI, KAETHE_GRUENWALD, Person
from gateway.worker import REVOCATION_SECONDS
from reporting.authoring import load_draft
from reporting.verification import verify_report_pdf
from tests.canary_search import bytes_of
from tests.page_server import AXE, CHROMIUM_ARGUMENTS, VIEWER
from tests.peers import require_peer
from tests.running_site import RunningSite, eventually, running_site
from worklist.procedure_step import State
from worklist.workitem import ProcedureStep

pytestmark = [pytest.mark.browser, pytest.mark.interop, pytest.mark.slow]

TODAY, EARLIER = date(2026, 11, 20), date(2026, 7, 31)
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
#: (grey levels, share of pixels that are not black) of the largest canvas of the shown image.
_DRAWN = """() => {
  const canvas = document.querySelector('[data-cy=viewport-pane] canvas.cornerstone-canvas');
  if (!canvas || !canvas.width || !canvas.height) return [0, 0];
  const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  const levels = new Set(); let lit = 0;
  for (let at = 0; at < data.length; at += 4) { levels.add(data[at]); lit += data[at] > 8; }
  return [levels.size, lit / (data.length / 4)];
}"""


@dataclass
class Watch:
    """What a browser context must not do."""

    address: str
    #: Refusals that the test provokes; the browser writes each to the console.
    expected: frozenset[int] = frozenset()
    faults: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    #: Answers of DICOMweb, (status, path).
    answers: list[tuple[int, str]] = field(default_factory=list)

    def over(self, context: BrowserContext) -> BrowserContext:
        context.on("console", lambda message: self._said(message.type, message.text, message.location.get("url", "")))
        context.on("weberror", lambda error: self.faults.append(str(error.error)))
        context.on(
            "request",
            lambda request: None if request.url.startswith((self.address, "blob:", "data:")) else self.foreign.append(request.url),
        )
        context.on("response", lambda answer: self.answers.append((answer.status, answer.url)) if "/dicom-web/" in answer.url else None)
        return context

    def _said(self, kind: str, text: str, url: str) -> None:
        # OHIF speaks to the console for its own reasons; ours and the browser's about policies must be silent.
        refused = re.match(r"Failed to load resource: .* status of (\d+)", text)
        if refused is not None and int(refused[1]) in self.expected:
            return
        if "Content Security Policy" in text or (kind == "error" and "/ohif/" not in url):
            self.faults.append(f"{text} {url}")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSite]:
    require_built(VIEWER / "index.html", "the viewer", "make viewer")
    with running_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=require_peer("chromium"), args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def axe() -> str:
    require_built(AXE, "axe-core", "npm ci in viewer/")
    return AXE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def reader(site: RunningSite, browser: Browser) -> StorageState:
    """The cookies of r1, who logs in once: a code works once."""
    with watched(site, browser) as (page, _):
        log_in(page, site, "r1")
        expect(page).to_have_url(f"{site.url}/worklist")
        return page.context.storage_state()


def require_built(path: Path, what: str, how: str) -> None:
    """Skips the test where it is missing, fails it where READGATE_REQUIRE_PEERS=1."""
    if not path.is_file():
        if os.environ.get("READGATE_REQUIRE_PEERS") == "1":
            pytest.fail(f"{what} is required here and is missing: {how}")
        pytest.skip(f"{what} is missing: {how}")


@contextmanager
def watched(
    site: RunningSite, browser: Browser, state: StorageState | None = None, *, expected: frozenset[int] = frozenset()
) -> Iterator[tuple[Page, Watch]]:
    """A window whose console, policy and requests are watched until its end."""
    context = browser.new_context(
        base_url=site.url, viewport={"width": 1600, "height": 1000}, timezone_id="Europe/Madrid", color_scheme="dark", storage_state=state
    )
    watch = Watch(site.url, expected)
    watch.over(context)
    context.set_default_timeout(60_000)
    yield context.new_page(), watch
    context.close()
    assert watch.faults == []
    assert watch.foreign == []


def log_in(page: Page, site: RunningSite, principal_id: str) -> None:
    login = site.logins[principal_id]
    page.goto("/login")
    page.get_by_label("User name").fill(login.principal_id)
    page.get_by_label("Password").fill(login.password)
    page.get_by_label("Country you are in now").select_option(login.country)
    page.get_by_label("Six-digit code").fill(totp_now(login.totp_secret, datetime.now(UTC)))
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(lambda url: "/login" not in url)


def send_head_ct(site: RunningSite, person: Person, number: int, *, study_on: date = TODAY, is_followup: bool = False) -> str:
    """A small head CT with its order, on the worklist; its original Study Instance UID."""
    lesion = OLD_BLEED if is_followup else FRESH_BLEED
    datasets = make_head_ct(person, slices=6, seed=number, study_on=study_on, number=number, lesions=(lesion,))
    site.send_with_order(person, datasets)
    uid = str(datasets[0].StudyInstanceUID)
    site.routed(uid)
    return uid


def wait_for_drawn(page: Page, seconds: float = 150) -> tuple[int, float]:
    """The shown image has grey levels, and is neither black nor white."""
    frame = page.frame(name="viewer")
    assert frame is not None

    def drawn() -> tuple[int, float] | None:
        levels, lit = frame.evaluate(_DRAWN)
        return (levels, lit) if levels > 40 and 0.05 < lit < 0.95 else None

    return eventually(drawn, seconds, "no image was drawn", pause=lambda: page.wait_for_timeout(250))


def delivered(site: RunningSite, original_uid: str) -> list[tuple[Any, bytes]]:
    """(instance, PDF) of the study's reports in the hospital's archive."""
    found = []
    for path in sorted((site.received / "h1").glob("*.dcm")):
        instance = dcmread(path)
        if instance.StudyInstanceUID == original_uid:
            found.append((instance, path.with_suffix(".pdf").read_bytes()))
    return found


def violations(page: Page, axe: str) -> list[Any]:
    page.evaluate(axe)
    found: list[Any] = page.evaluate(f"() => axe.run(document, {{runOnly: {RULES}, iframes: false}}).then(result => result.violations)")
    return [(rule["id"], rule["nodes"][0]["html"]) for rule in found]


def row_of(page: Page, step: ProcedureStep) -> Any:
    return page.locator(f"#row-{step.procedure_step_uid.replace('.', '-')}")


def claim_by_keyboard(page: Page, step: ProcedureStep) -> None:
    page.goto("/worklist")
    button = row_of(page, step).locator("[data-act]")
    expect(button).to_have_text(re.compile("^Claim"))
    for _ in range(page.locator("tr[data-row]").count()):
        page.keyboard.press("j")
        if button.evaluate("element => element === document.activeElement"):
            break
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/read/{step.procedure_step_uid}")


def test_study_is_claimed_read_signed_and_delivered(site: RunningSite, browser: Browser, reader: StorageState, axe: str) -> None:
    prior_uid = send_head_ct(site, KAETHE_GRUENWALD, 101, study_on=EARLIER)
    original_uid = send_head_ct(site, KAETHE_GRUENWALD, 102, is_followup=True)
    (study, step), (prior, _) = site.routed(original_uid), site.routed(prior_uid)
    with watched(site, browser, reader, expected=frozenset({422})) as (page, watch):
        page.goto("/worklist")
        assert violations(page, axe) == []
        assert "GRUENWALD" not in page.content().upper() and "GRÜNWALD" not in page.content().upper()
        claim_by_keyboard(page, step)
        # 1. The image is on the screen, decoded and windowed by the browser.
        levels, _ = wait_for_drawn(page)
        assert levels > 40
        assert violations(page, axe) == []
        # 2. The prior stands beside it, in the page and in the viewer's own search by patient.
        listed = page.locator(".priors li").first
        expect(listed).to_contain_text("CT")
        expect(listed).to_contain_text("6 images")
        assert any(study.patient_pseudonym in url and status == 200 for status, url in watch.answers)
        found = page.evaluate("path => fetch(path).then(answer => answer.json())", f"/dicom-web/studies?00100020={study.patient_pseudonym}")
        assert {one["0020000D"]["Value"][0] for one in found} == {study.study_instance_uid, prior.study_instance_uid}
        # 3. What is typed is saved, without a button.
        page.keyboard.press("Alt+3")
        page.keyboard.type("The parietal haemorrhage has resolved.\nNo new haemorrhage.")
        page.keyboard.press("Alt+4")
        page.keyboard.type("No acute intracranial finding.")
        expect(page.locator("#save-state")).to_have_text(re.compile("^Saved "))
        # 4. Signing reads back what is stored and asks for the passphrase.
        page.keyboard.press("Control+Enter")
        dialog = page.get_by_role("dialog", name="Check and sign")
        expect(dialog.get_by_text("No acute intracranial finding.")).to_be_visible()
        assert violations(page, axe) == []
        passphrase = dialog.get_by_label("Passphrase of your signing key")
        passphrase.fill("not the passphrase")
        page.keyboard.press("Enter")
        expect(dialog.get_by_role("alert")).to_be_visible()
        passphrase.fill(site.logins["r1"].passphrase)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Final report")).to_be_visible()
        expect(page.locator("iframe")).to_have_count(0)
        # 5. It arrives, and the page says so.
        eventually(
            lambda: delivered(site, original_uid) or None, 60, "the report was not delivered", pause=lambda: page.wait_for_timeout(300)
        )
        page.reload()
        expect(page.get_by_text("Delivered", exact=True)).to_be_visible()
        assert violations(page, axe) == []
    received, document = delivered(site, original_uid)[0]
    assert str(received.PatientName).split("=")[0] == KAETHE_GRUENWALD.name.split("=")[0]
    verification = verify_report_pdf(document, site.app.certificates.trust_roots())
    assert verification.is_valid, verification.checks
    assert verification.source is not None and "No new haemorrhage" in verification.source.signed.content.findings


def test_right_that_ends_takes_the_images_off_the_screen_and_keeps_the_draft(
    site: RunningSite, browser: Browser, reader: StorageState
) -> None:
    study, step = site.routed(send_head_ct(site, JOZEF_WISNIOWSKI, 103))
    with site.app.database.reading() as session:
        licence = session.exec(
            select(Credential).where(Credential.reader_id == "r1", Credential.kind == "LICENCE", col(Credential.superseded_at).is_(None))
        ).one()
    assert licence.credential_pk is not None
    with watched(site, browser, reader, expected=frozenset({403, 404})) as (page, _):
        claim_by_keyboard(page, step)
        wait_for_drawn(page)
        page.locator("#findings").fill("Small hypodense lesion, not finished.")
        expect(page.locator("#save-state")).to_have_text(re.compile("^Saved "))
        series = f"/dicom-web/studies/{study.study_instance_uid}/series"
        assert page.evaluate(_STATUS, series) == 200
        # 1. The privacy officer suspends the licence: nobody touches the reader's page.
        change_credential_status(site.app, "po", licence.credential_pk, "SUSPENDED", reason="Register of the chamber")
        try:
            # Five seconds are what the two clocks add up to; how long it takes on a busy machine is no matter of this test.
            assert REVOCATION_SECONDS + HEARTBEAT_SECONDS <= 5
            expect(page.locator("#curtain")).to_be_visible()
            expect(page.locator("#curtain")).to_contain_text("licence")
            expect(page.locator("iframe")).to_have_count(0)
            # 2. The right is gone at the source, whatever the page shows.
            assert page.evaluate(_STATUS, series) == 404
            assert page.evaluate(_STATUS, f"/dicom-web/studies?StudyInstanceUID={study.study_instance_uid}") == 200
            assert page.evaluate("path => fetch(path).then(answer => answer.json())", "/dicom-web/studies") == []
            expect(page.locator("#findings")).to_have_value("Small hypodense lesion, not finished.")
            page.locator("#findings").press_sequentially(" More.")
            expect(page.locator("#save-state")).to_contain_text("Not saved")
            # 3. The list says why it came back, and offers it no more.
            page.goto(f"/read/{step.procedure_step_uid}")
            expect(page).to_have_url(f"{site.url}/worklist?ended={step.procedure_step_uid}")
            expect(page.get_by_text(re.compile("licence", re.IGNORECASE)).first).to_be_visible()
        finally:
            with site.app.database.reading() as session:
                now = session.exec(
                    select(Credential)
                    .where(Credential.reader_id == "r1", Credential.kind == "LICENCE")
                    .order_by(col(Credential.credential_pk).desc())
                ).first()
            assert now is not None and now.credential_pk is not None
            change_credential_status(site.app, "po", now.credential_pk, "ACTIVE", reason="Register corrected")
    with site.app.database.reading() as session:
        ended = session.get(ProcedureStep, step.procedure_step_uid)
        following = session.exec(select(ProcedureStep).where(ProcedureStep.predecessor_uid == step.procedure_step_uid)).one()
        draft = load_draft(session, site.app.keys, following, "r1")
    assert ended is not None and ended.state == State.CANCELED and "LICENCE" in (ended.cancellation_reason or "")
    assert following.state == State.SCHEDULED and following.claiming_reader_id is None
    # 4. What was written is kept, and readable only under the study's key.
    assert draft.sections["findings"] == "Small hypodense lesion, not finished."
    for path in site.app.data.glob("readgate.sqlite3*"):
        assert b"not finished" not in bytes_of(path)


_STATUS = "path => fetch(path).then(answer => answer.status)"
_PLACES = {
    "po": ("/privacy", "/privacy/decisions", "/credentials", "/evidence", "/consents", "/"),
    "op": ("/deliveries", "/readers", "/hospitals", "/"),
    "h1": ("/studies", "/quarantine", "/"),
}


@pytest.mark.parametrize("principal_id", _PLACES)
def test_pages_of_each_role_load_cleanly(principal_id: str, site: RunningSite, browser: Browser, axe: str) -> None:
    with watched(site, browser) as (page, _):
        log_in(page, site, principal_id)
        for path in _PLACES[principal_id]:
            answer = page.goto(path)
            assert answer is not None and answer.status == 200, path
            assert violations(page, axe) == [], path
            page.set_viewport_size({"width": 400, "height": 800})
            assert page.evaluate("() => document.documentElement.scrollWidth") <= 400, path
            page.set_viewport_size({"width": 1600, "height": 1000})
        if principal_id == "po":
            page.goto("/privacy/decisions")
            page.locator("main a[href^='/privacy/decisions/']").first.click()
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            assert violations(page, axe) == []
