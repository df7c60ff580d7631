"""The pages as a person meets them: in Chromium, by keyboard, measured by axe-core, with what fails shown and not lost."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.responses import JSONResponse
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests import page_catalogue, page_samples
from tests.page_server import AXE, CHROMIUM_ARGUMENTS, Script, page_application, serve
from tests.peers import require_peer

pytestmark = pytest.mark.browser

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=require_peer("chromium"), args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def axe() -> str:
    if not AXE.is_file():
        if os.environ.get("READGATE_REQUIRE_PEERS") == "1":
            pytest.fail("axe-core is required here and is not installed: npm ci in viewer/")
        pytest.skip("axe-core is not installed: npm ci in viewer/")
    return AXE.read_text(encoding="utf-8")


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def address(script: Script) -> Iterator[str]:
    with serve(page_application(script)) as address:
        yield address


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    context = browser.new_context(base_url=address, timezone_id="Asia/Kolkata", viewport={"width": 1440, "height": 900})
    page = context.new_page()
    faults: list[str] = []
    foreign: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if "Content Security Policy" in message.text else None)
    page.on("request", lambda request: foreign.append(request.url) if not request.url.startswith((address, "data:")) else None)
    yield page
    context.close()
    assert faults == []
    assert foreign == []


def violations(page: Page, axe: str) -> list[Any]:
    page.evaluate(axe)
    found: list[Any] = page.evaluate(f"() => axe.run(document, {{runOnly: {RULES}, iframes: false}}).then(result => result.violations)")
    return [(rule["id"], rule["nodes"][0]["html"]) for rule in found]


@pytest.mark.parametrize("name", page_catalogue.pages())
def test_page_meets_wcag_in_the_dark_and_in_the_light(name: str, page: Page, axe: str) -> None:
    page.emulate_media(color_scheme="dark")
    page.goto(f"/page/{name}")
    assert violations(page, axe) == []
    if page.locator("html").get_attribute("data-role") == "hospital_staff":
        page.emulate_media(color_scheme="light")
        assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(244, 246, 248)"
        assert violations(page, axe) == []


def test_dialogs_meet_wcag(page: Page, axe: str) -> None:
    page.goto("/page/register")
    page.get_by_role("button", name="Register a credential").click()
    assert violations(page, axe) == []
    page.goto("/page/worklist")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    assert violations(page, axe) == []


def test_no_page_scrolls_sideways_on_a_narrow_screen(page: Page) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    for name in page_catalogue.pages():
        page.goto(f"/page/{name}")
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 400, name


def test_no_table_hides_a_column_on_a_wide_screen(page: Page) -> None:
    """What explains a decision is read at one glance and printed: a column that must be scrolled to is not on the paper."""
    page.set_viewport_size({"width": 1440, "height": 900})
    for name in page_catalogue.pages():
        page.goto(f"/page/{name}")
        hidden = page.evaluate(
            "() => [...document.querySelectorAll('.scroll')].filter(one => one.scrollWidth > one.clientWidth).map(one => one.ariaLabel)"
        )
        assert hidden == [], name


def test_a_study_is_claimed_by_keyboard_and_the_focus_stays_on_its_row(page: Page, script: Script) -> None:
    page.goto("/page/worklist")
    page.keyboard.press("j")
    expect(page.locator("#row-2-25-301 [data-act]")).to_be_focused()
    page.keyboard.press("Enter")
    opened = page.get_by_role("link", name="Open CT head without contrast RG-7KQ2-0001")
    expect(opened).to_be_focused()
    assert script.forms == [("claim", {"csrf_token": "token-for-the-sample"})]
    page.keyboard.press("j")
    expect(page.locator("#row-2-25-302 [data-act]")).to_be_focused()


def test_the_list_follows_the_gateway_and_the_focus_stays_on_its_row(page: Page, script: Script) -> None:
    script.events = b"retry: 300\n\n"
    page.goto("/page/worklist")
    page.keyboard.press("j")
    page.keyboard.press("j")
    script.events = b"retry: 60000\n\nevent: announcement\ndata: One study was taken\n\nevent: worklist\ndata: changed\n\n"
    expect(page.locator("tr[data-row]")).to_have_count(2)
    expect(page.locator("#live")).to_have_text("One study was taken")
    expect(page.locator("#row-2-25-302 [data-act]")).to_be_focused()


def test_slash_goes_to_the_search_and_single_keys_can_be_switched_off(page: Page) -> None:
    page.goto("/page/worklist")
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    page.get_by_label("Single-key shortcuts").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).not_to_be_focused()


def test_why_not_names_the_reason_and_its_gate(page: Page) -> None:
    page.goto("/page/worklist")
    page.get_by_role("button", name="Why not? CT polytrauma").click()
    expect(page.get_by_text("You hold no licence for Texas")).to_be_visible()
    expect(page.get_by_text("G4 LICENCE_MISSING")).to_be_visible()


def test_what_is_typed_is_saved_with_the_token_and_the_version(page: Page, script: Script) -> None:
    page.goto("/page/read")
    page.keyboard.press("Alt+4")
    page.keyboard.type("3. Neurosurgery was called.")
    expect(page.locator("#save-state")).to_have_text(re.compile("^Saved "))
    first = script.drafts[-1]
    assert first["sections"]["impression"].endswith("3. Neurosurgery was called.")
    told = {"communicated_to": "Emergency physician on duty", "communicated_at": "2026-11-22T10:04:00.000Z"}
    assert first["critical"] == {"is_critical": True, "statement": "Acute subdural haematoma.", **told}
    assert (first["csrf"], script.drafts[0]["version"], first["kind"]) == ("token-for-the-sample", 7, "FINAL")
    page.keyboard.type(" At once.")
    page.keyboard.press("Control+s")
    expect(page.locator("#save-state")).to_have_text(re.compile("^Saved "))
    assert script.drafts[-1]["version"] == 6 + len(script.drafts)


def test_a_failed_save_is_shown_and_the_text_stays(page: Page, script: Script) -> None:
    page.goto("/page/read")
    script.draft_status = 409
    page.locator("#findings").fill("Written after the claim ended.")
    expect(page.locator("#save-state")).to_contain_text("Not saved: the claim has ended")
    expect(page.locator("#findings")).to_have_value("Written after the claim ended.")
    page.get_by_role("button", name="Check and sign").click()
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_save_is_tried_again_when_the_gateway_comes_back(page: Page, script: Script) -> None:
    page.goto("/page/read")
    script.draft_status = 503
    page.locator("#findings").fill("Typed while the gateway was away.")
    expect(page.locator("#save-state")).to_contain_text("trying again")
    script.draft_status = 200
    expect(page.locator("#save-state")).to_have_text(re.compile("^Saved "))
    assert script.drafts[-1]["sections"]["findings"] == "Typed while the gateway was away."


def test_sign_dialog_shows_the_stored_text_and_says_why_it_refuses(page: Page, script: Script, axe: str) -> None:
    page.goto("/page/read")
    script.sign_refusal = "The passphrase is not right."
    page.keyboard.press("Control+Enter")
    dialog = page.get_by_role("dialog", name="Check and sign")
    expect(dialog.get_by_text("Acute left subdural haematoma, 9 mm")).to_be_visible()
    expect(dialog.get_by_label("Passphrase of your signing key")).to_be_focused()
    assert violations(page, axe) == []
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("alert")).to_contain_text("The passphrase is not right.")
    script.sign_refusal = ""
    dialog.get_by_label("Passphrase of your signing key").fill("right")
    page.keyboard.press("Enter")
    page.wait_for_url("**/page/read-signed")
    assert script.forms[-1][1]["draft_version"] == "7"
    assert script.forms[-1][1]["report_digest"] == page_samples.DIGEST


def test_images_are_covered_as_soon_as_the_decision_is_withdrawn(page: Page, script: Script) -> None:
    script.heartbeat = lambda: JSONResponse({"reason_code": "CONSENT_WITHDRAWN", "detail": "Consent was withdrawn."}, 403)
    page.goto("/page/read")
    page.evaluate("() => window.postMessage({kind: 'readgate-viewer-error', status: 403}, location.origin)")
    expect(page.locator("#curtain")).to_contain_text("Consent was withdrawn.")
    expect(page.locator("iframe")).to_have_count(0)
    expect(page.locator("#findings")).to_be_editable()


def test_reader_time_and_decision_stand_over_the_images(page: Page) -> None:
    page.goto("/page/read")
    mark = page.locator(".watermark")
    expect(mark).to_contain_text("M. Weber · 2026-11-22 10:04 UTC · 3f9ac18e2d77")
    assert mark.evaluate("element => getComputedStyle(element).pointerEvents") == "none"
    expect(page.get_by_text("not a cleared medical device")).to_be_visible()
