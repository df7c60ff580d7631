"""What decisions keep of their facts, where each fact comes from, and that each comes out the same again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from compliance.decision import replay
from compliance.decision_log import DecisionRow
from compliance.order import payer_of
from compliance.patient_status import state_patient
from tests.gateway_site import PAGE, GatewaySite, gateway_site, received
from tests.reading_rows import ReadingRows


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "data") as made:
        yield made


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "data", has_study=False) as made:
        yield made


def stored_decisions(site: GatewaySite) -> list[dict[str, Any]]:
    with site.app.database.reading() as session:
        return [json.loads(row.document) for row in session.exec(select(DecisionRow)).all()]


def test_payer_of_the_order_reaches_the_facts(empty: GatewaySite) -> None:
    assert received(empty, "h2", payer_kind="MEDICARE")
    payers = {document["facts"]["payer"]["kind"] for document in stored_decisions(empty)}
    assert payers == {"MEDICARE"}
    assert payer_of({"payer_kind": "the king"}) is None and payer_of({}) is None


def test_statement_about_the_patient_reaches_the_facts_with_its_source(site: GatewaySite) -> None:
    with site.app.database.transaction() as session:
        row = state_patient(
            session,
            hospital_id="h1",
            patient_pseudonym=site.study.patient_pseudonym,
            is_us_person=True,
            actor="h1",
            now=site.clock.at,
        )
    site.claim("r1")
    newest = [document for document in stored_decisions(site) if document["facts"]["action"] == "VIEW"][-1]
    assert newest["facts"]["patient"]["us_person"] is True
    assert newest["facts"]["sources"]["patient.us_person"].startswith(f"patient_status/{row.status_pk}@")
    assert newest["facts"]["counters"] == {"us_persons_12_months": 0, "sensitive_persons_this_year": 0}


def test_every_fact_has_a_source(site: GatewaySite) -> None:
    site.claim("r1")
    for document in stored_decisions(site):
        facts, sources = document["facts"], document["facts"]["sources"]
        for name in set(facts) - {"at", "action", "purpose", "sources", "break_glass"}:
            assert name in sources or not facts[name], (name, facts["action"])
        for credential in facts.get("reader", {}).get("credentials", []):
            assert credential["id"].startswith("credential/")


def test_every_stored_decision_comes_out_byte_for_byte(site: GatewaySite) -> None:
    """A whole read, an emergency's worth of refusals and a study's storage: 0 differences."""
    step_uid = site.claim("r1")
    site.client("r1").get(f"/read/{step_uid}", headers=PAGE)
    site.write(step_uid)
    site.sign(step_uid)
    received(site, "h2")
    with site.app.database.reading() as session:
        rows = session.exec(select(DecisionRow)).all()
    assert {row.action for row in rows} == {"STORE", "ROUTE", "VIEW", "SIGN_FINAL"} and len(rows) >= 12
    differences = [row.digest for row in rows if replay(json.loads(row.document), site.app.law) != row.document.encode()]
    assert differences == []


def test_replay_command_takes_an_exported_decision(site: GatewaySite, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from gateway.cli import app as command

    with site.app.database.reading() as session:
        documents = [row.document for row in session.exec(select(DecisionRow)).all()]
    path = tmp_path / "decisions.jsonl"
    path.write_text("\n".join(documents) + "\n")
    done = CliRunner().invoke(command, ["replay", str(path)])
    assert done.exit_code == 0, done.output


def test_decisions_of_rows_without_keys_replay_too(tmp_path: Path) -> None:
    from compliance.database import Database
    from gateway.schema import migrate

    database = Database(f"sqlite:///{tmp_path / 'rows.sqlite3'}")
    migrate(database)
    rows = ReadingRows(database)
    rows.add_site("r1")
    rows.claim(rows.routed())
    with database.reading() as session:
        documents = [row.document for row in session.exec(select(DecisionRow)).all()]
    assert documents and all(replay(json.loads(document), rows.law) == document.encode() for document in documents)
    database.close()
