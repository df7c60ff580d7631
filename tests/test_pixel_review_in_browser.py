"""A held ultrasound, looked at and blanked by mouse or by keys in Chromium, goes on its way, and only what was drawn is gone."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import Browser, Page, expect, sync_playwright
from pydicom import Dataset
from sqlmodel import select

from compliance.audit import AuditEntry, EventType
from compliance.pixel_child import PixelChild
from compliance.pixel_review import HospitalMask, PixelReview
from compliance.quarantine import QuarantineItem
from gateway.processing import archive_originals, deidentify_study, route_study
from tests.builders import make_ultrasound
from tests.gateway_site import GatewaySite, gateway_site
from tests.page_server import CHROMIUM_ARGUMENTS, serve
from tests.peers import require_peer
from tests.test_dicomweb_routes import get, instances, parts
from tests.test_site_in_browser import log_in

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ROWS, COLUMNS, FRAMES = 480, 640, 3
#: Over the middle of the fan: no machine may tell whose name it is.
NAME_AT = (230, 200)
STRANGER = "WOLFHARD SIEBENTHAL"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if find_spec("rapidocr") is None:
        pytest.skip("the extra ocr is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=require_peer("chromium"), args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def child() -> Iterator[PixelChild]:
    with PixelChild() as running:
        yield running


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "data", has_study=False) as made:
        yield made


@pytest.fixture
def page(browser: Browser, site: GatewaySite) -> Iterator[Page]:
    with serve(site.http) as address:
        context = browser.new_context(base_url=address, viewport={"width": 1440, "height": 900})
        page = context.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if "Content Security Policy" in message.text else None)
        yield page
        context.close()
        assert faults == []


def ultrasound() -> Dataset:
    """A clip of a bright, rough fan with a stranger's name on it in every frame."""
    dataset = make_ultrasound(frames=FRAMES, rows=ROWS, columns=COLUMNS)
    speckle = np.random.default_rng(8).rayleigh(14, (FRAMES, ROWS, COLUMNS))
    image = Image.new("L", (COLUMNS, ROWS))
    ImageDraw.Draw(image).text(NAME_AT, STRANGER, fill=255, font=ImageFont.load_default(20))
    grey = np.maximum(speckle.clip(0, 90).astype(np.uint8), np.asarray(image))
    dataset.PixelData = np.repeat(grey[..., None], 3, axis=-1).tobytes()
    return dataset


def processed(site: GatewaySite, received_pk: int, child: PixelChild) -> str:
    archive_originals(site.app, received_pk)
    return deidentify_study(site.app, received_pk, child)


def held(site: GatewaySite, child: PixelChild, dataset: Dataset) -> tuple[int, str]:
    received_pk = site.receive([dataset])
    assert processed(site, received_pk, child) == ""
    with site.app.database.reading() as session:
        (item,) = session.exec(select(QuarantineItem)).all()
    assert (item.reason_code, item.detail) == ("BURNED_IN_TEXT", "TEXT_ON_ANATOMY")
    return received_pk, str(item.item_pk)


def opened(page: Page, site: GatewaySite) -> None:
    log_in(page, site, "h1")
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Images to look at").click()
    page.get_by_role("link", name="Look at the images").click()
    page.wait_for_function("() => { const one = document.querySelector('.frame img'); return one.complete && one.naturalWidth > 0; }")


def dragged(page: Page, x0: int, y0: int, x1: int, y1: int) -> None:
    """From one pixel of the picture to another, by mouse."""
    stage = page.locator("svg[data-boxes]")
    stage.scroll_into_view_if_needed()
    place = stage.bounding_box()
    assert place is not None
    scale = place["width"] / COLUMNS
    page.mouse.move(place["x"] + x0 * scale, place["y"] + y0 * scale)
    page.mouse.down()
    page.mouse.move(place["x"] + (x0 + x1) / 2 * scale, place["y"] + (y0 + y1) / 2 * scale)
    page.mouse.move(place["x"] + x1 * scale, place["y"] + y1 * scale)
    page.mouse.up()


def drawn(page: Page) -> list[tuple[int, int, int, int]]:
    lines = page.locator("[data-typed]").input_value().splitlines()
    return [(int(x0), int(y0), int(x1), int(y1)) for x0, y0, x1, y1 in (line.split() for line in lines)]


def frames_of_the_reader(site: GatewaySite) -> NDArray[np.uint8]:
    """The clip as the reader's viewer gets it."""
    site.claim("r1")
    (path,) = instances(site)
    answers = [parts(get(site, f"{path}/frames/{number}")) for number in range(1, FRAMES + 1)]
    return np.stack([imagecodecs.htj2k_decode(body) for ((_, body),) in answers])


def test_what_is_drawn_by_mouse_is_gone_for_the_reader_and_nothing_else(page: Page, site: GatewaySite, child: PixelChild) -> None:
    dataset = ultrasound()
    received_pk, quarantine_id = held(site, child, dataset)
    opened(page, site)
    for box in page.locator("[data-box]").all():
        box.uncheck()
    dragged(page, 40, 300, 140, 340)  # somewhere, and then to the place where it belongs
    dragged(page, 90, 320, 290, 212)
    moved = drawn(page)
    assert len(moved) == 1 and moved[0][2] - moved[0][0] in range(98, 103) and abs(moved[0][0] - 240) <= 2
    page.keyboard.press("Delete")
    assert drawn(page) == []
    x, y = NAME_AT
    dragged(page, x - 12, y - 8, x + 250, y + 34)
    dragged(page, 20, 400, 60, 440)
    assert len(drawn(page)) == 2
    (first, second) = drawn(page)
    page.fill("#reason", "A name that is not the patient's")
    page.get_by_role("button", name="Blank the boxes and send on").click()
    page.wait_for_url(f"**/quarantine/{quarantine_id}")
    with site.app.database.reading() as session:
        (review,) = session.exec(select(PixelReview)).all()
        assert ([tuple(box) for box in review.boxes], review.decided_by) == ([first, second], "h1")
        looks = session.exec(select(AuditEntry).where(AuditEntry.event_type == EventType.REIDENTIFY)).all()
        assert [entry.actor for entry in looks if entry.object_id == f"received-instance/{review.instance_pk}"] == ["h1"]
        assert session.exec(select(HospitalMask)).all() == []
    study_instance_uid = processed(site, received_pk, child)
    assert study_instance_uid
    route_study(site.app, study_instance_uid)
    covered = np.zeros((ROWS, COLUMNS), bool)
    for x0, y0, x1, y1 in (first, second):
        covered[y0:y1, x0:x1] = True
    seen = frames_of_the_reader(site)
    assert not seen[:, covered].any()
    assert np.array_equal(seen[:, ~covered], dataset.pixel_array[:, ~covered])


def test_by_keys_alone_a_box_is_made_moved_and_kept_for_the_device(page: Page, site: GatewaySite, child: PixelChild) -> None:
    received_pk, _ = held(site, child, ultrasound())
    opened(page, site)
    page.get_by_role("button", name="Add a box").press("Enter")
    expect(page.locator("g.chosen")).to_be_focused()
    ((x0, y0, x1, y1),) = drawn(page)
    for key in ("ArrowLeft", "Control+ArrowUp", "Shift+ArrowRight", "Control+Shift+ArrowDown"):
        page.keyboard.press(key)
    assert drawn(page) == [(x0 - 1, y0 - 10, x1, y1)]
    page.locator("[data-typed]").fill("5 6 50 60\n1 2 900 4")
    assert page.locator("[data-typed]").evaluate("element => element.validity.customError")
    page.locator("[data-typed]").fill("5 6 50 60")
    expect(page.locator("g.drawn")).to_have_count(1)
    page.locator("[data-frame]").fill("3")
    page.keyboard.press("Enter")
    expect(page.locator(".frame img")).to_have_attribute("alt", "Frame 3 of 3")
    page.get_by_label("Always blank these boxes for this device and size").check()
    page.fill("#reason", "The console prints a name")
    page.get_by_role("button", name="Blank the boxes and send on").press("Enter")
    page.wait_for_url("**/quarantine/1")
    with site.app.database.reading() as session:
        (mask,) = session.exec(select(HospitalMask)).all()
        assert [5, 6, 50, 60] in mask.mask["boxes"]
    study_instance_uid = processed(site, received_pk, child)
    route_study(site.app, study_instance_uid)
    assert not frames_of_the_reader(site)[:, 6:60, 5:50].any()
    page.get_by_role("link", name="Device masks").click()
    page.get_by_role("button", name="Withdraw").click()
    page.get_by_label("Reason, kept in the log").fill("New software")
    page.get_by_role("dialog").get_by_role("button", name="Withdraw").click()
    expect(page.get_by_text("Withdrawn", exact=True)).to_be_visible()


def test_a_study_is_rejected_and_waits_no_longer(page: Page, site: GatewaySite, child: PixelChild) -> None:
    received_pk, _ = held(site, child, ultrasound())
    opened(page, site)
    page.fill("#reason", "Of another patient")
    page.get_by_role("button", name="Reject the study").click()
    page.wait_for_url("**/quarantine/1")
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Images to look at").click()
    expect(page.get_by_text("No image waits for a person.")).to_be_visible()
    assert processed(site, received_pk, child) == ""
