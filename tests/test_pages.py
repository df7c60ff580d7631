"""Every page renders from its context alone, carries the headers, and lets no text become markup."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import pytest
from fastapi.testclient import TestClient

from gateway.web.rendering import STATIC_FOLDER, due_tone, render, short_digest, static_href, time_left
from tests.page_catalogue import pages, parts
from tests.page_samples import MARKUP, NOW, error
from tests.page_server import Script, page_application

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ALL = {**pages(), **parts()}
TEMPLATES = STATIC_FOLDER.parent / "templates"


def rendered(name: str) -> str:
    template, context = ALL[name]
    return bytes(render(template, context).body).decode()


@pytest.mark.parametrize("name", ALL)
def test_page_renders_from_its_context_alone(name: str) -> None:
    assert "None" not in re.sub(r"<[^>]*>", "", rendered(name))


@pytest.mark.parametrize("name", ALL)
def test_page_holds_nothing_inline_and_no_other_host(name: str) -> None:
    text = rendered(name)
    assert not re.search(r"<script(?![^>]*\ssrc=)", text)
    assert not re.search(r"<style|<[^>]+\sstyle=|<[^>]+\son[a-z]+=(?![^<]*&gt;)", text)
    assert not re.search(r"(?:src|href|action)=\"(?:https?:)?//", text)
    assert MARKUP not in text


def test_every_template_has_a_sample() -> None:
    whole = {path.name for path in TEMPLATES.glob("*.j2") if not path.name.startswith("_")}
    assert whole == {template for template, _ in ALL.values()}


def test_every_form_that_posts_carries_the_token() -> None:
    for name in ALL:
        for form in re.findall(r"<form method=\"post\".*?</form>", rendered(name), re.DOTALL):
            assert 'name="csrf_token" value="token' in form, name


def test_markup_in_clinical_text_stays_text() -> None:
    assert "&lt;img src=x" in rendered("worklist")
    assert "&lt;img src=x" in rendered("studies")


def test_a_name_that_the_context_lacks_is_a_fault_and_not_an_empty_place() -> None:
    wrong: DataclassInstance = error()
    with pytest.raises(jinja2.UndefinedError):
        render("worklist.html.j2", wrong)


def test_pages_are_kept_by_no_cache_and_framed_by_nobody() -> None:
    template, context = ALL["worklist"]
    headers = render(template, context).headers
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


def test_static_address_changes_with_the_content() -> None:
    assert re.fullmatch(r"/static/readgate\.css\?v=[0-9a-f]{12}", static_href("readgate.css"))


def test_only_an_address_with_the_right_digest_is_kept_for_good() -> None:
    client = TestClient(page_application(Script()))
    assert "immutable" in client.get(static_href("readgate.js")).headers["cache-control"]
    assert client.get("/static/readgate.js").headers["cache-control"] == "no-cache"
    assert client.get("/static/readgate.js?v=000000000000").headers["cache-control"] == "no-cache"
    assert client.get("/static/../rendering.py").status_code == 404
    assert client.get("/static/%2e%2e/rendering.py").status_code == 404


def test_notices_name_every_third_party_file() -> None:
    notices = (STATIC_FOLDER / "THIRD-PARTY-NOTICES.txt").read_text()
    foreign = [path.name for path in STATIC_FOLDER.glob("*.min.js")]
    assert foreign and all(name in notices for name in foreign)


@pytest.mark.parametrize(
    ("file", "source"),
    [("htmx-2.0.11.min.js", "htmx.org/dist/htmx.min.js"), ("htmx-ext-sse-2.2.4.min.js", "htmx-ext-sse/dist/sse.min.js")],
)
def test_third_party_files_are_those_of_the_lock_file(file: str, source: str) -> None:
    original = Path(__file__).resolve().parents[1] / "viewer" / "node_modules" / source
    if not original.is_file():
        pytest.skip("viewer/node_modules is not installed")
    assert (STATIC_FOLDER / file).read_bytes() == original.read_bytes()


@pytest.mark.parametrize(
    ("seconds", "words", "tone"),
    [
        (30 * 60, "30 min", "neutral"),
        (30 * 60 - 1, "29 min", "warning"),
        (0, "0 min", "warning"),
        (-1, "−1 min", "bad"),
        (-3 * 3600, "−3 h 00", "bad"),
        (3900, "1 h 05", "neutral"),
        (3 * 86400 + 3600, "3 d 1 h", "neutral"),
    ],
)
def test_time_left_counts_to_the_deadline(seconds: int, words: str, tone: str) -> None:
    due_at = NOW + timedelta(seconds=seconds)
    assert (time_left(due_at, NOW), due_tone(due_at, NOW)) == (words, tone)


def test_instants_are_shown_in_utc_whatever_their_zone() -> None:
    assert short_digest("sha256:" + "a" * 64) == "a" * 12
    assert datetime(2026, 11, 22, 10, 4, tzinfo=UTC) == NOW
    assert '<time datetime="2026-11-22T10:13:00Z" data-local>2026-11-22 10:13 UTC</time>' in rendered("worklist")
