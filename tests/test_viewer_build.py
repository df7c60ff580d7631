"""The build of the viewer refuses an OHIF that it was not made for, and leaves no other host behind."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

VIEWER = Path(__file__).resolve().parents[1] / "viewer"


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("viewer_build", VIEWER / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_lock_file_fixes_every_package_by_sha512_and_names_no_host() -> None:
    text = (VIEWER / "package-lock.json").read_text()
    packages = {name: entry for name, entry in json.loads(text)["packages"].items() if name}
    assert all(entry["integrity"].startswith("sha512-") for entry in packages.values())
    assert all("resolved" not in entry for entry in packages.values())
    assert not re.search(r"\"resolved\"|registry", text)
    wanted = json.loads((VIEWER / "package.json").read_text())
    for name, version in {**wanted["dependencies"], **wanted["devDependencies"]}.items():
        assert packages[f"node_modules/{name}"]["version"] == version


def test_base_path_is_written_to_scripts_and_styles_and_counted(build: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text('x;__webpack_require__.p = "/";y')
    (tmp_path / "b.js").write_text("nothing")
    (tmp_path / "c.css").write_text("src:url(/f.woff2)")
    assert build.move_to_base_path(tmp_path) == 1
    assert (tmp_path / "a.js").read_text() == 'x;__webpack_require__.p = "/ohif/";y'
    assert (tmp_path / "c.css").read_text() == "src:url(/ohif/f.woff2)"


@pytest.mark.parametrize("bundles", [7, 9])
def test_another_number_of_bundles_fails_the_build(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundles: int
) -> None:
    package = tmp_path / "node_modules" / "@ohif" / "app"
    (package / "dist").mkdir(parents=True)
    (package / "LICENSE").write_text("MIT")
    (package / "package.json").write_text('{"version": "1"}')
    (tmp_path / "package.json").write_text('{"dependencies": {"@ohif/app": "1"}}')
    for number in range(bundles):
        (package / "dist" / f"{number}.js").write_text(build.PUBLIC_PATH)
    monkeypatch.setattr(build, "HERE", tmp_path)
    with pytest.raises(build.BuildFailed, match=f"in {bundles} bundles, not 8"):
        build.build(tmp_path / "dist")


def test_index_keeps_no_inline_script_and_no_foreign_tag(build: ModuleType) -> None:
    text = (
        '<meta name="viewport" content="width=device-width,maximum-scale=1.0,user-scalable=no"><script>window.PUBLIC_URL="/"</script>'
        '<link rel="manifest" href="/manifest.json"><link rel="apple-touch-icon" href="/assets/a.png">'
        '<script rel="preload" as="script" src="/app-config.js"></script><script type="module" src="/init-service-worker.js"></script>'
        '<title>OHIF</title><script defer src="/app.js"></script><link href="/app.css" rel="stylesheet">'
    )
    assert build.clean_index(text) == (
        '<meta name="viewport" content="width=device-width">'
        '<script src="/ohif/boot.js"></script><script src="/ohif/app-config.js"></script>'
        '<title>Readgate viewer</title><script defer src="/ohif/app.js"></script><link href="/ohif/app.css" rel="stylesheet">'
    )
    with pytest.raises(build.BuildFailed):
        build.clean_index(text + '<img src="https://elsewhere.example/x.png">')


@pytest.mark.parametrize(
    ("name", "is_left_out"),
    [
        ("app.bundle.0f6159c501addfe9.js.map", True),
        ("ort/ort.wasm", True),
        ("dicom-microscopy-viewer/a.js", True),
        ("sw.js", True),
        ("oidc-client.min.js", True),
        ("assets/android-chrome-36x36.png", True),
        ("app-config.js", True),
        ("index.html", False),
        ("app.bundle.0f6159c501addfe9.js", False),
        ("assets/images/logo.svg", False),
        ("0ddf166f7a343eda.wasm", False),
    ],
)
def test_what_is_left_out(build: ModuleType, name: str, is_left_out: bool) -> None:
    assert bool(build.LEFT_OUT.search(name)) is is_left_out


def test_a_folder_above_the_build_is_never_emptied(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["build.py", "--out", str(VIEWER.parent), "--no-install"])
    assert build.main() == 2
    assert (VIEWER / "build.py").is_file()


NAMED = r"""return new Function("body", "return function " + name + "() {\n" + "return body.apply(this, arguments);\n" + "};\n")(body)"""


def test_functions_made_from_text_become_closures_and_are_counted(build: ModuleType, tmp_path: Path) -> None:
    script = tmp_path / "a.js"
    script.write_text(f"function createNamedFunction(name, body) {{ {NAMED} }} var f = new_(Function, args1).apply(null, args2);")
    assert build.write_out_functions(tmp_path) == [1, 1, 0, 0, 0, 0]
    text = script.read_text()
    assert "new Function(" not in text and "new_(Function" not in text and "Object.defineProperty(function" in text


def test_another_number_of_functions_made_from_text_fails_the_build(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "move_to_base_path", lambda out: build.BUNDLES_WITH_PUBLIC_PATH)
    package = tmp_path / "node_modules" / "@ohif" / "app"
    (package / "dist").mkdir(parents=True)
    (package / "LICENSE").write_text("MIT")
    (package / "package.json").write_text('{"version": "1"}')
    (tmp_path / "package.json").write_text('{"dependencies": {"@ohif/app": "1"}}')
    monkeypatch.setattr(build, "HERE", tmp_path)
    with pytest.raises(build.BuildFailed, match="functions made from text"):
        build.build(tmp_path / "dist")
