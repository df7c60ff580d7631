"""What /ohif/ serves, what it never serves, and what it says without the viewer."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from crypto.errors import BadInput
from gateway.viewer_files import VIEWER_CONTENT_SECURITY_POLICY, find_viewer, list_viewer_files, viewer_href
from tests.page_server import Script, page_application

HASHED = "app.bundle.0f6159c501addfe9.js"


@pytest.fixture
def viewer(tmp_path: Path) -> Path:
    folder = tmp_path / "dist"
    (folder / "assets").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("never served")
    (folder / "index.html").write_text("<!doctype html><title>viewer</title>")
    (folder / "app-config.js").write_text("window.config = {};")
    (folder / HASHED).write_text("let a = 1;" * 200)
    (folder / f"{HASHED}.gz").write_bytes(gzip.compress(b"let a = 1;" * 200))
    (folder / "0ddf166f7a343eda.wasm").write_bytes(b"\0asm")
    (folder / "assets" / "favicon.ico").write_bytes(b"icon")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    return folder


@pytest.fixture
def client(viewer: Path) -> TestClient:
    return TestClient(page_application(Script(), viewer), follow_redirects=False)


@pytest.mark.parametrize(
    "path", ["/ohif/", "/ohif/viewer", "/ohif/viewer?StudyInstanceUIDs=1.2.3", "/ohif/viewer/dicomweb", "/ohif/index.html"]
)
def test_the_viewers_own_paths_are_one_page(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.text) == (200, "<!doctype html><title>viewer</title>")
    assert answer.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "path",
    [
        "/ohif/../secret.txt",
        "/ohif/%2e%2e/secret.txt",
        "/ohif/..%2fsecret.txt",
        "/ohif/assets/../../secret.txt",
        "/ohif/assets/..%5c..%5csecret.txt",
        "/ohif//etc/passwd",
        "/ohif/%2fetc%2fpasswd",
        "/ohif/link.txt",
        "/ohif/assets",
        f"/ohif/{HASHED}.gz",
        "/ohif/none.js",
        "/ohif/viewerx",
    ],
)
def test_nothing_else_is_reached(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "never served" not in answer.text


@pytest.mark.parametrize(
    ("name", "media_type"),
    [(HASHED, "text/javascript"), ("0ddf166f7a343eda.wasm", "application/wasm"), ("assets/favicon.ico", "image/x-icon")],
)
def test_media_type_is_named_and_not_guessed(client: TestClient, name: str, media_type: str) -> None:
    answer = client.get(f"/ohif/{name}")
    assert answer.headers["content-type"].split(";")[0] == media_type
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == VIEWER_CONTENT_SECURITY_POLICY


@pytest.mark.parametrize(
    ("accepted", "is_packed"),
    [("gzip", True), ("br, gzip;q=0.5", True), ("*", True), ("gzip;q=0", False), ("gzip;q=0.0, br", False), ("identity", False)],
)
def test_packed_neighbour_goes_to_who_can_read_it(client: TestClient, accepted: str, is_packed: bool) -> None:
    answer = client.get(f"/ohif/{HASHED}", headers={"accept-encoding": accepted})
    assert ("content-encoding" in answer.headers) is is_packed
    assert answer.headers["vary"] == "Accept-Encoding"
    assert answer.text == "let a = 1;" * 200


def test_only_names_with_a_content_hash_are_kept_for_good(client: TestClient) -> None:
    assert "immutable" in client.get(f"/ohif/{HASHED}").headers["cache-control"]
    assert "immutable" in client.get("/ohif/0ddf166f7a343eda.wasm").headers["cache-control"]
    first = client.get("/ohif/app-config.js")
    assert first.headers["cache-control"] == "no-cache"
    again = client.get("/ohif/app-config.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_an_edited_configuration_is_seen_at_once(client: TestClient, viewer: Path) -> None:
    (viewer / "app-config.js").write_text("window.config = {changed: 1};")
    assert "changed" in client.get("/ohif/app-config.js").text


def test_head_answers_like_get_without_a_body(client: TestClient) -> None:
    assert client.head("/ohif/").status_code == 200
    assert client.post("/ohif/").status_code == 405


def test_without_the_viewer_a_page_says_how_to_get_it() -> None:
    client = TestClient(page_application(Script(), None))
    answer = client.get("/ohif/viewer?StudyInstanceUIDs=1.2.3")
    assert answer.status_code == 503
    assert "make viewer" in answer.text and "READGATE_VIEWER_DIR" in answer.text
    assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]
    assert client.get("/ohif/app.js").status_code == 404


def test_a_folder_that_is_no_viewer_is_refused_and_not_replaced(tmp_path: Path, viewer: Path) -> None:
    with pytest.raises(BadInput):
        find_viewer({"READGATE_VIEWER_DIR": str(tmp_path / "none")})
    assert find_viewer({"READGATE_VIEWER_DIR": str(viewer)}) == viewer


def test_address_of_a_study_names_its_series_and_escapes_what_it_is_given() -> None:
    assert viewer_href(["1.2", "1.3"], "1.2.9") == "/ohif/viewer?StudyInstanceUIDs=1.2,1.3&initialSeriesInstanceUID=1.2.9"
    assert viewer_href(["1&token=x"]) == "/ohif/viewer?StudyInstanceUIDs=1%26token%3Dx"


def test_links_that_leave_the_folder_are_not_listed(viewer: Path) -> None:
    assert "link.txt" not in list_viewer_files(viewer)
