"""The documents are checked like code: every command, file, link, setting and rule they name exists."""

from __future__ import annotations

import importlib
import re
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
#: Files that exist only after something was built or run.
MADE_LATER = ("viewer/dist", "readgate.toml")

pytestmark = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def code_of(page: Path) -> list[str]:
    """Inline code and the lines of fenced blocks, comments off."""
    text = page.read_text(encoding="utf-8")
    fenced = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in fenced for line in block.splitlines()]
    return lines + re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_make_targets_exist(page: Path) -> None:
    named = {word for code in code_of(page) for word in re.findall(r"^make ([a-z-]+)", code)}
    assert named <= TARGETS


def test_readgate_commands_exist(page: Path) -> None:
    named = [re.findall(r"[^ |\]\[]+", code)[1:] for code in code_of(page) if code.startswith("readgate ")]
    if not named:
        return
    pytest.importorskip("gateway.cli", reason="the command is not in this checkout yet")
    typer = importlib.import_module("typer")
    cli = importlib.import_module("gateway.cli")
    app = next(value for value in vars(cli).values() if isinstance(value, typer.Typer))
    for words in named:
        command: Any = typer.main.get_command(app)
        for word in takewhile(re.compile(r"^[a-z][a-z-]*$").match, words):
            if not hasattr(command, "commands"):
                break
            assert word in command.commands, f"readgate {' '.join(words)}"
            command = command.commands[word]


def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors_of(linked), target


def test_named_files_exist(page: Path) -> None:
    pattern = re.compile(r"^(?:crypto|compliance|worklist|reporting|gateway|tests|bench|docs|viewer|requirements|\.ci)/[\w./*-]+")
    named = {match[0].rstrip(".") for code in code_of(page) if (match := pattern.match(code))}
    assert [name for name in sorted(named) if not name.startswith(MADE_LATER) and not list(ROOT.glob(name))] == []


def test_named_settings_exist(page: Path) -> None:
    named = {name for code in code_of(page) for name in re.findall(r"\bREADGATE_([A-Z_]+)\b", code)}
    if not named:
        return
    config = pytest.importorskip("gateway.config", reason="the settings are not in this checkout yet")
    # Beside the deployment's settings: what a test, a measurement, the Makefile or the viewer's loader reads.
    readers = [*ROOT.glob("gateway/*.py"), *ROOT.glob("tests/*.py"), *ROOT.glob("bench/*.py"), ROOT / "Makefile", ROOT / "compose.yaml"]
    known = {name for reader in readers for name in re.findall(r"\bREADGATE_([A-Z_]+)\b", reader.read_text(encoding="utf-8"))}
    for name, field in config.Settings.model_fields.items():
        known.add(name.upper())
        known |= {f"{name}__{inner}".upper() for inner in getattr(field.annotation, "model_fields", {})}
    assert named - known == set()


def test_decision_records_have_a_status_and_a_number(page: Path) -> None:
    if page.parent.name != "adr" or page.name == "README.md":
        return
    text = page.read_text(encoding="utf-8")
    assert re.match(rf"# {int(page.name[:4])}\. ", text)
    assert re.search(r"^Status: (proposed|accepted|superseded by \d{4})", text, re.MULTILINE)
    assert f"({page.name})" in (page.parent / "README.md").read_text(encoding="utf-8")
