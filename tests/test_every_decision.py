"""The replay of a run's decisions notices what it is there to notice."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from compliance.decision import decide
from compliance.lawbook import load_law
from tests.decision_cases import base_facts, decision_cases
from tests.every_decision import EveryDecision


def _run(folder: Path) -> EveryDecision:
    folder.mkdir()
    law = load_law()
    return EveryDecision(folder, {law.digest: law})


def test_decisions_that_come_out_again_are_counted(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    for case in decision_cases():
        decision = decide(case.facts, load_law())
        run.add(decision.digest, decision.document_bytes().decode())
        run.add(decision.digest, decision.document_bytes().decode())
    run.replay()
    assert (run.replayed, run.differences) == (len(run.seen), []) and run.replayed >= 40


def test_decision_that_does_not_come_out_again_is_a_difference(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    decision = decide(base_facts(), load_law())
    document = {**decision.document(), "outcome": "DENY"}
    run.add(decision.digest, json.dumps(document, sort_keys=True, separators=(",", ":")))
    run.replay()
    assert decision.digest in run.differences and any("readgate replay" in one for one in run.differences)


def test_decision_under_a_law_that_is_gone_is_a_difference(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    document = {**decide(base_facts(), load_law()).document(), "law": "sha256:" + "0" * 64}
    run.add("sha256:1", json.dumps(document))
    run.replay()
    assert run.differences == [document["digest"]]


def test_rows_of_other_processes_are_found_and_tampered_ones_are_none(tmp_path: Path) -> None:
    decision = decide(base_facts(), load_law())
    data = tmp_path / "run-of-a-site"
    data.mkdir()
    with sqlite3.connect(data / "readgate.sqlite3") as connection:
        connection.execute("create table decision (digest text, document text)")
        document = decision.document_bytes().decode()
        connection.execute("insert into decision values (?, ?)", (decision.digest, document))
        connection.execute("insert into decision values (?, ?)", ("sha256:2", document.replace("ALLOW", "DENY")))
    connection.close()
    run = _run(tmp_path / "run")
    run.read_databases(tmp_path)
    run.replay()
    assert (run.replayed, run.differences) == (1, [])
