"""For every run of the tests: each decision that was recorded in it replays byte for byte (tests/every_decision.py)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.every_decision import EveryDecision

# No site of a test fills half a gigabyte before its first instance; what such files do is tests/test_blank_segments.py.
os.environ["READGATE_DICOM__BLANK_SEGMENTS"] = "0"

_RUN: list[EveryDecision] = []


@pytest.fixture(scope="session", autouse=True)
def _every_decision_of_the_run_replays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    run = EveryDecision(tmp_path_factory.mktemp("decisions"))
    run.start()
    _RUN.append(run)
    yield
    run.read_databases(tmp_path_factory.getbasetemp())
    run.replay()
    assert not run.differences, f"{len(run.differences)} of {run.replayed} decisions do not replay: {run.differences[:5]}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for run in _RUN:
        terminalreporter.write_line(f"{run.replayed} decisions recorded in this run were replayed, {len(run.differences)} differences")
