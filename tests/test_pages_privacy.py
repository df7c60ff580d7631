"""The privacy officer's pages: the log and its proof, each decision explained, replayed and asked again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlmodel import Session, col, select

from compliance import audit
from compliance.audit_checkpoint import keep_checkpoint
from compliance.credential import standing_credentials
from compliance.decision import replay
from compliance.decision_log import DecisionRow
from crypto.errors import IntegrityFailure
from crypto.merkle import inclusion_proof, verify_inclusion
from gateway.decision_explanation import GATE_NAMES
from gateway.log_proof import SubtreeHashes, prove_entry
from gateway.register_entries import change_credential_status
from tests.gateway_site import PAGE, GatewaySite, gateway_site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "data") as made:
        yield made


def page(site: GatewaySite, path: str) -> str:
    answer = site.client("po").get(path, headers=PAGE)
    assert answer.status_code == 200, answer.text
    return answer.text


def entries(session: Session, event_type: audit.EventType) -> list[audit.AuditEntry]:
    return list(
        session.exec(
            select(audit.AuditEntry).where(audit.AuditEntry.event_type == event_type).order_by(col(audit.AuditEntry.entry_index))
        ).all()
    )


def decision(site: GatewaySite, action: str, reader_id: str) -> DecisionRow:
    with site.app.database.reading() as session:
        found = session.exec(select(DecisionRow).where(DecisionRow.action == action, DecisionRow.reader_id == reader_id)).first()
    assert found is not None
    return found


def test_the_log_shows_who_did_what_to_which_patient_by_pseudonym(site: GatewaySite) -> None:
    site.claim()
    shown = page(site, "/privacy")
    assert "Dra. Inés Valverde Ortiz" in shown and site.study.patient_pseudonym in shown
    assert "DE → ES" in shown and "Claimed" in shown


def test_the_log_is_filtered_by_person_patient_reason_event_outcome_and_day(site: GatewaySite) -> None:
    site.claim()
    assert site.post("r4", f"/worklist/{site.step_uid}/claim").status_code == 303
    today, tomorrow = site.clock().date(), site.clock().date() + timedelta(days=1)

    def rows(query: str) -> int:
        return page(site, f"/privacy?{query}").count('<tr class="row">')

    assert rows("event=RG_CLAIM") == 1
    assert rows("event=RG_DECIDE&outcome=refused&q=CRED_PRIVILEGE") >= 1
    assert rows("q=Valverde&event=RG_CLAIM") == 1
    assert rows(f"q={site.study.patient_pseudonym}&event=RG_ROUTE") == 1
    assert rows("q=nobody-of-that-name") == 0
    assert rows("q=%25&event=RG_CLAIM") == 0, "a percent sign is a sign and no wildcard"
    assert rows(f"event=RG_CLAIM&since={today}&until={today}") == 1
    assert rows(f"event=RG_CLAIM&since={tomorrow}") == 0
    assert rows("event=RG_CLAIM&since=no-date") == 1


def test_reading_the_log_is_in_the_log_once_per_filter_and_five_minutes(site: GatewaySite) -> None:
    for _ in range(3):
        page(site, "/privacy")
        page(site, "/privacy?page=2")
    page(site, "/privacy?q=Somebody&outcome=refused")
    site.clock.forward(minutes=6)
    page(site, "/privacy?q=Somebody&outcome=refused")
    with site.app.database.reading() as session:
        found = entries(session, audit.EventType.LOG_READ)
    assert [entry.detail["filters"] for entry in found] == ["", "q=given&outcome=refused", "q=given&outcome=refused"]
    assert {(entry.event_id, entry.actor) for entry in found} == {("110101", "po")}


def test_verification_is_shown_with_its_time_and_outlives_the_process(site: GatewaySite) -> None:
    assert "Not verified yet" in page(site, "/privacy")
    keep_checkpoint(site.app.database, site.app.log_signer, now=site.clock())
    assert site.post("po", "/privacy/verify").status_code == 303
    assert re.search(r"Verified: every one of \d+ entries", page(site, "/privacy"))
    with site.app.database.reading() as session:
        kept = entries(session, audit.EventType.LOG_VERIFIED)
    assert [entry.detail["findings"] for entry in kept] == [[]]


def test_an_entry_that_was_changed_is_found_and_shown(site: GatewaySite) -> None:
    with site.app.database.transaction() as session:
        session.connection().execute(text("UPDATE audit_entry SET actor = 'somebody' WHERE entry_index = 3"))
    site.post("po", "/privacy/verify")
    shown = page(site, "/privacy")
    assert "Broken: entry 3 is not what was logged" in shown and "tone-bad" in shown


def test_decisions_are_listed_by_outcome_and_person(site: GatewaySite) -> None:
    site.claim()

    def rows(query: str) -> int:
        return page(site, f"/privacy/decisions?{query}").count('<tr class="row">')

    # Where the study may be kept, five readers when it was offered, and one who claimed it.
    assert rows("") == 7
    assert rows("outcome=DENY") == 4
    assert rows("outcome=ALLOW") + rows("outcome=ALLOW_WITH_OBLIGATIONS") == 3
    assert rows("q=r3") == 1 and rows("q=CRED_COVER") == 1 and rows("q=Valverde") == 2


def test_a_decision_is_explained_with_gates_facts_others_and_proof(site: GatewaySite) -> None:
    site.claim()
    row = decision(site, "VIEW", "r1")
    shown = page(site, f"/privacy/decisions/{row.digest}")
    assert f"May Dra. Inés Valverde Ortiz, in ES, open study {site.study.patient_pseudonym} of Klinikum Lindenau, DE?" in shown
    assert all(f"{gate} {name}" in shown for gate, name in GATE_NAMES.items())
    assert "Came out byte for byte on" in shown
    assert "Dr. Tomás Echarri Lasa" in shown and "The licence has expired (ES)." in shown
    assert "reader.credentials[1]" in shown and "login.declared_country" in shown
    assert row.digest in shown and "Log entry" in shown and "Inclusion proof" in shown


def test_the_json_of_a_decision_replays_and_its_proof_verifies_against_the_checkpoint(site: GatewaySite) -> None:
    site.claim()
    keep_checkpoint(site.app.database, site.app.log_signer, now=site.clock())
    row = decision(site, "VIEW", "r1")
    found = site.client("po").get(f"/privacy/decisions/{row.digest}?format=json").json()
    assert json.loads(replay(found["decision"], site.app.law)) == found["decision"]
    assert {one["reader"] for one in found["others"]} == {"r2", "r3", "r4", "r5"}
    log = found["log"]
    proof = [bytes.fromhex(node) for node in log["proof"]]
    assert verify_inclusion(bytes.fromhex(log["leaf_hash"]), log["index"], log["size"], proof, bytes.fromhex(log["root"]))
    assert log["checkpoint"].startswith("readgate.audit\n")


def test_what_would_be_said_today_is_another_question(site: GatewaySite) -> None:
    site.claim()
    row = decision(site, "VIEW", "r1")
    assert "would be allowed" in site.client("po").get(f"/privacy/decisions/{row.digest}?format=json").json()["today"]["text"]
    site.clock.forward(days=800)
    fresh = site.log_in("po")
    found = fresh.get(f"/privacy/decisions/{row.digest}?format=json").json()
    assert "would be denied" in found["today"]["text"] and any("EXPIRED" in code for code in found["today"]["reasons"])
    assert found["decision"]["outcome"] == "ALLOW" and found["replay"].startswith("Came out byte for byte")


def test_a_stored_decision_that_was_changed_does_not_replay(site: GatewaySite) -> None:
    row = decision(site, "ROUTE", "r3")
    changed = row.document.replace('"outcome":"DENY"', '"outcome":"ALLOW"', 1)
    with site.app.database.transaction() as session:
        kept = session.get(DecisionRow, row.digest)
        assert kept is not None and changed != row.document
        kept.document = changed
        session.add(kept)
    assert "Differs: what is stored is not what the law gives" in page(site, f"/privacy/decisions/{row.digest}")


def test_an_unknown_decision_is_not_found(site: GatewaySite) -> None:
    assert site.client("po").get("/privacy/decisions/sha256:00", headers=PAGE).status_code == 404


def test_a_changed_right_is_a_decision_of_its_own(site: GatewaySite) -> None:
    step_uid = site.claim()
    with site.app.database.reading() as session:
        licence = next(one.credential_pk for one in standing_credentials(session, "r1") if one.kind == "LICENCE")
    assert licence is not None
    change_credential_status(site.app, "po", licence, "REVOKED")
    assert site.post_json("r1", f"/read/{step_uid}/heartbeat", {}).status_code == 403
    assert "CRED_LICENCE_REVOKED:ES" in page(site, "/privacy/decisions?outcome=DENY&q=REVOKED")


@pytest.mark.parametrize("size", [1, 2, 7, 1024, 1025, 3000])
def test_proofs_from_kept_subtrees_are_those_of_the_whole_tree(tmp_path: Path, size: int) -> None:
    with gateway_site(tmp_path / "data", has_study=False) as site:
        event = audit.AuditEvent(audit.EventId.QUERY, audit.EventType.REFUSED, audit.Action.READ, "test")
        with site.app.database.transaction() as session:
            while audit.tree_head(session).size < size:
                audit.append(session, event, at=site.clock())
        hashes = SubtreeHashes()
        with site.app.database.reading() as session:
            leaves = [bytes.fromhex(row.leaf_hash) for row in audit.entries(session)]
            for index in sorted({0, len(leaves) // 2, len(leaves) - 1}):
                proof = prove_entry(session, hashes, index, site.app.log_signer.public_key)
                assert list(proof.path) == inclusion_proof(leaves, index, len(leaves))


def test_a_gap_in_the_log_gives_no_proof(site: GatewaySite) -> None:
    with site.app.database.transaction() as session:
        session.connection().execute(text("DELETE FROM audit_entry WHERE entry_index = 5"))
    with site.app.database.reading() as session, pytest.raises(IntegrityFailure):
        prove_entry(session, SubtreeHashes(), 4, site.app.log_signer.public_key)
