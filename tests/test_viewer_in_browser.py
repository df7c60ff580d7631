"""The built OHIF beside the report: under its policy, without another host, with the two globals that the reading page relies on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest
from fastapi.responses import JSONResponse
from playwright.sync_api import expect, sync_playwright

from tests.page_server import CHROMIUM_ARGUMENTS, VIEWER, Script, page_application, serve
from tests.peers import require_peer

pytestmark = pytest.mark.browser


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    """A string condition would need eval, which the viewer's policy refuses; so it is asked again and again."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "the viewer did not get there in time"
        time.sleep(0.2)


def test_viewer_starts_under_its_policy_and_tells_the_page_what_was_refused() -> None:
    if not (VIEWER / "index.html").is_file():
        if os.environ.get("READGATE_REQUIRE_PEERS") == "1":
            pytest.fail("the viewer is required here and is not built: make viewer")
        pytest.skip("the viewer is not built: make viewer")
    script = Script()
    violations: list[str] = []
    foreign: list[str] = []
    with serve(page_application(script, VIEWER)) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=require_peer("chromium"), args=CHROMIUM_ARGUMENTS)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.on("console", lambda message: violations.append(message.text) if "Content Security Policy" in message.text else None)
        page.on("request", lambda request: None if request.url.startswith((address, "blob:", "data:")) else foreign.append(request.url))
        page.goto(f"{address}/page/read")
        frame = page.frame(name="viewer")
        assert frame is not None
        # What "Insert measurements" reads is no documented interface of OHIF: this holds it for the pinned version.
        wait_for(lambda: bool(frame.evaluate("() => Boolean(window.services && window.services.measurementService)")))
        assert frame.evaluate("() => window.services.measurementService.getMeasurements()") == []
        expect(page.locator("#curtain")).to_be_hidden()
        # There is no DICOMweb here: OHIF meets 404, says so to the page, and the page asks why.
        script.heartbeat = lambda: JSONResponse({"reason_code": "CLAIM_EXPIRED", "detail": "Your claim has ended."}, 409)
        page.reload()
        expect(page.locator("#curtain")).to_contain_text("Your claim has ended.", timeout=60_000)
        browser.close()
    assert violations == []
    assert foreign == []
