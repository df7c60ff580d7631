"""The shape of the code: who may import whom, where dangerous libraries live, how long a file is, and that the nine steps exist."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("crypto", "compliance", "worklist", "reporting", "gateway")
#: The one package that may import a library; every other one must ask it.
OWNERS = {"cryptography": "crypto", "pynetdicom": "gateway", "fastapi": "gateway", "starlette": "gateway", "typer": "gateway"}
FORBIDDEN_IN_WORKLIST = {"pydicom", "socket", "ssl", "requests", "http", "urllib"}
LINES_MAX = 400
#: Sentences about one machine, and hosts of package registries, have no place in a tracked file. Split, so that this file passes.
FORBIDDEN_TEXT = re.compile(
    r"/wor" r"k/|/hom" r"e/[a-z]|/opt/py" r"pi|/roo" r"t/|pypi\.o" r"rg|pythonho" r"sted|registry\.np" r"mjs|deb\.debi" r"an"
)
SOURCES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@cache
def tree(source: Path) -> ast.Module:
    return ast.parse((ROOT / source).read_text(encoding="utf-8"), str(source))


def imports(source: Path) -> Iterator[str]:
    for node in ast.walk(tree(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield source.parts[0] if node.level else (node.module or "").partition(".")[0]


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_package_imports_only_what_stands_to_its_left(source: Path) -> None:
    package = source.parts[0]
    to_the_right = set(PACKAGES[PACKAGES.index(package) + 1 :])
    assert not to_the_right & set(imports(source))
    assert not {"tests", "bench", "viewer"} & set(imports(source))
    assert {library for library in imports(source) if OWNERS.get(library, package) != package} == set()
    if package == "worklist":
        assert not FORBIDDEN_IN_WORKLIST & set(imports(source))


def test_only_jobs_imports_the_job_engine() -> None:
    assert {str(source) for source in SOURCES if "dbos" in imports(source)} <= {"gateway/jobs.py"}


@pytest.mark.parametrize("source", [source for source in SOURCES if "migrations/versions" not in str(source)], ids=str)
def test_file_is_short_enough_to_read(source: Path) -> None:
    assert len((ROOT / source).read_text(encoding="utf-8").splitlines()) <= LINES_MAX


def nine_steps() -> list[tuple[str, str, str]]:
    rows = re.findall(r"^\| (\S+) \| `(\S+\.py) (\S+)` \|", (ROOT / "docs/ARCHITECTURE.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [step for step, _, _ in rows] == ["receive", "de-identify", "seal", "route", "claim", "view", "report", "sign", "deliver"]
    return rows


@pytest.mark.parametrize(("step", "source", "function"), nine_steps())
def test_step_of_a_studys_life_is_one_function(step: str, source: str, function: str) -> None:
    owner, _, name = function.rpartition(".")
    scope: ast.AST = tree(Path(source))
    if owner:
        scope = next(node for node in ast.walk(scope) if isinstance(node, ast.ClassDef) and node.name == owner)
    functions = {node.name for node in ast.walk(scope) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert any(fnmatch(candidate, name) for candidate in functions), f"{step}: {source} has no function {function}"


def test_no_tracked_file_names_a_machine_or_a_registry() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    found = []
    for path in (ROOT / name for name in filter(None, listed.stdout.split("\0"))):
        content = path.read_bytes() if path.is_file() else b""
        if b"\0" not in content[:4096]:
            lines = content.decode("utf-8", "replace").splitlines()
            found += [f"{path.relative_to(ROOT)}:{number}" for number, line in enumerate(lines, 1) if FORBIDDEN_TEXT.search(line)]
    assert found == []
