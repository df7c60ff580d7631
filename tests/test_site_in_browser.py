"""The pages of a whole deployment in Chromium: a reader claims, writes, signs and loses a right; the others see what happened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyotp
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from sqlmodel import select

from compliance.credential import standing_credentials
from gateway.pages_reader import HEARTBEAT_SECONDS
from gateway.register_effects import take_effect
from gateway.register_entries import change_credential_status
from gateway.worker import REVOCATION_SECONDS
from reporting.report import Report
from tests.gateway_site import GatewaySite, gateway_site
from tests.page_server import CHROMIUM_ARGUMENTS, serve
from tests.peers import require_peer

pytestmark = pytest.mark.browser
#: From the change in the register to the curtain over the images.
REVOKED_SECONDS_MAX = 5.0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=require_peer("chromium"), args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "data") as made:
        yield made


@pytest.fixture
def page(browser: Browser, site: GatewaySite) -> Iterator[Page]:
    with serve(site.http) as address:
        context = browser.new_context(base_url=address)
        page = context.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        yield page
        context.close()
        assert faults == []


def log_in(page: Page, site: GatewaySite, principal_id: str) -> None:
    login = site.logins[principal_id]
    page.goto("/login")
    page.fill("#user_name", principal_id)
    page.fill("#password", login.password)
    page.fill("#code", pyotp.TOTP(login.totp_secret).at(site.clock.at))
    page.select_option("#declared_country", login.country)
    page.click("button[type=submit]")


def claim(page: Page, site: GatewaySite) -> None:
    log_in(page, site, "r1")
    page.wait_for_url("**/worklist")
    page.get_by_role("button", name="Claim").click()
    page.wait_for_url("**/read/*")


def test_a_reader_claims_writes_and_signs(page: Page, site: GatewaySite) -> None:
    claim(page, site)
    page.fill("#findings", "No bleeding.\n")
    page.fill("#impression", "Normal. ")
    expect(page.locator("#save-state")).to_contain_text("Saved")
    page.get_by_role("button", name="Check and sign").click()
    page.fill("#passphrase", "not the passphrase")
    page.get_by_role("button", name="Sign final report").click()
    expect(page.locator("#sign-refusal")).to_contain_text("not the one of your signing key")
    page.fill("#passphrase", site.logins["r1"].passphrase)
    page.get_by_role("button", name="Sign final report").click()
    expect(page.get_by_role("heading", name="Final report")).to_be_visible()
    expect(page.locator("iframe")).to_have_count(0)
    with site.app.database.reading() as session:
        assert len(session.exec(select(Report)).all()) == 1


def test_a_right_that_ends_takes_the_images_off_the_screen_within_five_seconds(page: Page, site: GatewaySite) -> None:
    claim(page, site)
    page.fill("#findings", "Typed before.")
    expect(page.locator("#save-state")).to_contain_text("Saved")
    with site.app.database.reading() as session:
        licence = next(row.credential_pk for row in standing_credentials(session, "r1") if row.kind == "LICENCE")
    assert licence is not None
    change_credential_status(site.app, "po", licence, "SUSPENDED", reason="Letter of the chamber")
    take_effect(site.app, reader_ids=["r1"])
    # Five seconds are what the two clocks add up to; how long it takes on a busy machine is no matter of this test.
    assert REVOCATION_SECONDS + HEARTBEAT_SECONDS <= REVOKED_SECONDS_MAX
    expect(page.locator("#curtain")).to_contain_text("The licence is suspended")
    expect(page.locator("iframe")).to_have_count(0)
    expect(page.locator("#findings")).to_have_value("Typed before.")


def test_hospital_and_officer_see_what_happened(page: Page, site: GatewaySite) -> None:
    site.claim()
    log_in(page, site, "h1")
    page.wait_for_url("**/studies")
    expect(page.locator("article.study")).to_have_count(1)
    expect(page.locator(".life-done")).to_have_count(5)
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url("**/login")
    log_in(page, site, "po")
    page.wait_for_url("**/privacy")
    page.get_by_role("button", name="Verify now").click()
    expect(page.get_by_text("Verified: every one of")).to_be_visible()
    page.goto("/privacy/decisions?q=r3")
    page.locator("a[data-act]").first.click()
    expect(page.get_by_text("Came out byte for byte")).to_be_visible()
    expect(page.get_by_role("heading", name="Other readers")).to_be_visible()
