"""One row about which nothing can be decided ends alone: every other claim, study and reader has its turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

import compliance.route_facts
import worklist.claim
import worklist.revocation
from compliance.audit import AuditEntry, EventType
from compliance.bulkhead import bulkhead
from compliance.credential import Consent, Evidence
from compliance.database import Database
from compliance.reminders import remind
from crypto.errors import Conflict, IntegrityFailure, TemporarilyUnable
from gateway import register_effects
from gateway.reason_words import reason_sentence
from gateway.register_effects import route_what_the_calendar_ended, take_effect
from gateway.schema import migrate
from tests.gateway_site import GatewaySite, gateway_site
from tests.reading_rows import HOSPITAL, ReadingRows
from worklist.procedure_step import State
from worklist.revocation import RIGHTS_NOT_DECIDABLE, revoke_ended_rights
from worklist.routed_reader import RoutedReader, eligible_ids
from worklist.view_grant import ViewGrant

DAMAGED = "PSEUDONYM-9"


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[ReadingRows]:
    database = Database(f"sqlite:///{tmp_path / 'rows.sqlite3'}")
    migrate(database)
    made = ReadingRows(database)
    made.add_site("r1", "r2")
    yield made
    database.close()


def damage(monkeypatch: pytest.MonkeyPatch, module: Any, error: Exception) -> None:
    """From now on the facts of the damaged patient's studies cannot be gathered there."""
    real: Callable[..., Any] = module.gather_facts

    def gather(session: Any, **about: Any) -> Any:
        if about["study"].patient_pseudonym == DAMAGED:
            raise error
        return real(session, **about)

    monkeypatch.setattr(module, "gather_facts", gather)


def two_claims(rows: ReadingRows) -> tuple[str, str]:
    """The claim on the damaged study, and another one whose patient withdrew the consent meanwhile."""
    damaged, other = rows.routed(patient=DAMAGED), rows.routed()
    rows.claim(damaged, "r1")
    rows.claim(other, "r2")
    rows.open_view(damaged, "r1")
    rows.forward(seconds=30)
    rows.observe("r1")
    rows.observe("r2")
    with rows.database.transaction() as session:
        session.add(
            Consent(
                hospital_id=HOSPITAL, patient_pseudonym="PSEUDONYM-1", status="WITHDRAWN", kind="SHARING", version=1,
                given_at=rows.at - timedelta(days=9), withdrawn_at=rows.at, recorded_at=rows.at,
            )
        )  # fmt: skip
    return damaged, other


def revoke(rows: ReadingRows) -> dict[str, str]:
    return revoke_ended_rights(rows.database, rows.law, now=rows.at, new_uid=rows.new_uid)


@pytest.mark.parametrize("error", [IntegrityFailure("cannot be opened"), ValueError("a foreign one")])
def test_claim_that_cannot_be_decided_ends_and_the_next_one_is_decided(
    rows: ReadingRows, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    damaged, other = two_claims(rows)
    damage(monkeypatch, worklist.revocation, error)
    ended = revoke(rows)
    assert ended[damaged] == RIGHTS_NOT_DECIDABLE and ended[other].startswith("CONSENT_WITHDRAWN")
    for uid in (damaged, other):
        assert (rows.step(uid).state, rows.step(uid).cancellation_reason) == (State.CANCELED, ended[uid])
        assert [step.state for step in rows.successors(uid)] == [State.SCHEDULED]
    with rows.database.reading() as session:
        grants = session.exec(select(ViewGrant).where(ViewGrant.procedure_step_uid == damaged)).all()
        entries = session.exec(select(AuditEntry).where(AuditEntry.event_type == EventType.REVOKE)).all()
    assert grants and all(grant.revocation_reason == RIGHTS_NOT_DECIDABLE for grant in grants)
    assert {entry.object_id: entry.detail["reason"] for entry in entries}[damaged] == RIGHTS_NOT_DECIDABLE
    assert rows.verified_log().is_sound and "contradicts itself" in reason_sentence(RIGHTS_NOT_DECIDABLE)
    assert revoke(rows) == {}


def test_claim_that_cannot_even_be_ended_shows_nothing_any_more(rows: ReadingRows, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged, other = two_claims(rows)
    damage(monkeypatch, worklist.revocation, IntegrityFailure("cannot be opened"))
    real = worklist.revocation.end_claim

    def end(session: Any, step: Any, **about: Any) -> str:
        if step.procedure_step_uid == damaged:
            raise IntegrityFailure("cannot be opened")
        return real(session, step, **about)

    monkeypatch.setattr(worklist.revocation, "end_claim", end)
    assert list(revoke(rows)) == [other]
    with rows.database.reading() as session:
        grants = session.exec(select(ViewGrant).where(ViewGrant.procedure_step_uid == damaged)).all()
    assert grants and all(grant.revoked_at is not None for grant in grants)
    assert rows.verified_log().is_sound


@pytest.mark.parametrize("error", [TemporarilyUnable("the database is away"), Conflict("CLOCK_BACKWARDS")])
def test_what_concerns_every_claim_ends_none(rows: ReadingRows, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    damaged, _ = two_claims(rows)
    damage(monkeypatch, worklist.revocation, error)
    with pytest.raises(type(error)):
        revoke(rows)
    assert rows.step(damaged).state == State.IN_PROGRESS


def test_prior_that_cannot_be_decided_is_closed_and_the_other_claim_ends(rows: ReadingRows, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = rows.add_study(patient=DAMAGED)
    rows.forward(days=1)
    rows.observe("r1", expires_at=rows.at + timedelta(hours=8))
    step_uid = rows.routed(patient=DAMAGED)
    rows.claim(step_uid, "r1")
    assert [grant.object_kind for grant in rows.open_view(step_uid, "r1")] == ["CURRENT", "PRIOR"]
    real = worklist.revocation.gather_facts

    def gather(session: Any, **about: Any) -> Any:
        if about["study"].study_pk == prior.study_pk:
            raise IntegrityFailure("cannot be opened")
        return real(session, **about)

    monkeypatch.setattr(worklist.revocation, "gather_facts", gather)
    assert revoke(rows) == {} and rows.step(step_uid).state == State.IN_PROGRESS
    with rows.database.reading() as session:
        reasons = {grant.object_kind: grant.revocation_reason for grant in session.exec(select(ViewGrant)).all()}
    assert reasons == {"CURRENT": None, "PRIOR": RIGHTS_NOT_DECIDABLE}


def test_lease_that_cannot_be_ended_keeps_no_other_one_open(rows: ReadingRows, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = sorted([rows.routed(), rows.routed()])
    rows.claim(steps[0], "r1")
    rows.claim(steps[1], "r2")
    rows.forward(hours=7)
    real = worklist.claim.require_transition
    turns = iter([IntegrityFailure("cannot be opened")])

    def transition(*args: Any, **about: Any) -> None:
        for error in turns:
            raise error
        real(*args, **about)

    monkeypatch.setattr(worklist.claim, "require_transition", transition)
    assert worklist.claim.expire_leases(rows.database, now=rows.at, new_uid=rows.new_uid) == [steps[1]]
    assert worklist.claim.expire_leases(rows.database, now=rows.at, new_uid=rows.new_uid) == [steps[0]]


def test_reader_about_whom_nothing_can_be_decided_keeps_no_study_from_the_others(
    rows: ReadingRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = compliance.route_facts.reader_facts

    def facts_of(reader: Any, *args: Any) -> Any:
        if reader.reader_id == "r1":
            raise IntegrityFailure("cannot be opened")
        return real(reader, *args)

    monkeypatch.setattr(compliance.route_facts, "reader_facts", facts_of)
    study_pk = rows.step(rows.routed()).study_pk
    with rows.database.reading() as session:
        assert eligible_ids(session, study_pk) == ["r2"]


def test_study_that_cannot_be_routed_again_keeps_no_delivery_and_no_other_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with gateway_site(tmp_path / "site") as site:
        asked: list[str] = []
        monkeypatch.setattr(register_effects, "ask_waiting_deliveries_again", lambda *_a, **_b: asked.append("deliveries"))
        monkeypatch.setattr(register_effects, "_differs", fail)
        take_effect(site.app)
        assert asked == ["deliveries"]


def test_calendar_goes_on_after_a_study_that_cannot_be_routed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with gateway_site(tmp_path / "site") as site:
        _end_all_rows(site)
        monkeypatch.setattr(register_effects, "_route_again", fail)
        assert route_what_the_calendar_ended(site.app) == 0
        monkeypatch.undo()
        assert route_what_the_calendar_ended(site.app) == 1


def test_evidence_without_readable_parties_keeps_no_reminder_back(rows: ReadingRows) -> None:
    with rows.database.transaction() as session:
        for evidence_id, parties in (("a-damaged", [None]), ("b-sound", [HOSPITAL, "e1"])):
            session.add(
                Evidence(
                    evidence_id=evidence_id, evidence_type="DPA", parties=parties, issued_at=rows.at - timedelta(days=9),
                    expires_at=rows.at + timedelta(days=5), verified_by="po", recorded_at=rows.at,
                )
            )  # fmt: skip
    with rows.database.transaction() as session:
        made = [reminder.subject for reminder in remind(session, now=rows.at)]
    assert made == ["DPA of a-damaged", f"DPA of {HOSPITAL}, e1"]


def test_bulkhead_names_the_kind_of_what_went_wrong_and_never_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    with bulkhead("test", study_pk=1) as turn:
        raise ValueError("Mrs. Somebody")
    assert turn.error == "ValueError"
    out = capsys.readouterr()
    assert "Somebody" not in out.out + out.err


def fail(*_args: Any, **_about: Any) -> bool:
    raise IntegrityFailure("cannot be opened")


def _end_all_rows(site: GatewaySite) -> None:
    with site.app.database.transaction() as session:
        for row in session.exec(select(RoutedReader)).all():
            row.valid_until = site.clock.at
            session.add(row)
