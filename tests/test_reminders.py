"""Reminders 90, 30 and 7 days before an end: once each, the nearest alone where one is late, new ones after a renewal."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlmodel import select

from compliance.audit import AuditEntry
from compliance.credential import Credential, Evidence
from compliance.reminders import Reminder, remind, see_reminder, unseen_reminders
from crypto.errors import NotFound
from gateway.register_entries import change_credential_status, withdraw_evidence
from tests.gateway_site import PAGE, GatewaySite, gateway_site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "data", has_study=False) as made:
        yield made


def due(site: GatewaySite) -> list[tuple[str, int]]:
    with site.app.database.transaction() as session:
        return [(reminder.subject, reminder.threshold_days) for reminder in remind(session, now=site.clock.at)]


def test_nothing_is_due_long_before_and_after_the_end(site: GatewaySite) -> None:
    assert due(site) == []
    site.clock.forward(days=2000)
    assert due(site) == []


def test_each_threshold_reminds_once(site: GatewaySite) -> None:
    # The covers of the demonstration run 300 days; only four readers have one.
    site.clock.forward(days=300 - 90, hours=1)
    assert {subject for subject, days in due(site) if days == 90} == {f"COVER of {reader}" for reader in ("r1", "r2", "r3", "r4")}
    assert due(site) == []
    site.clock.forward(days=60)
    assert [days for _, days in due(site)] == [30] * 4
    site.clock.forward(days=23)
    assert [days for _, days in due(site)] == [7] * 4
    assert due(site) == []
    with site.app.database.reading() as session:
        assert len(session.exec(select(Reminder)).all()) == 12
        entries = session.exec(select(AuditEntry).where(AuditEntry.event_type == "RG_REMIND")).all()
    assert [entry.detail["reminders"] for entry in entries] == [4, 4, 4]


def test_late_registration_gets_the_nearest_reminder_alone(site: GatewaySite) -> None:
    with site.app.database.transaction() as session:
        evidence = session.get(Evidence, "dpa-1")
        assert evidence is not None
        evidence.expires_at = site.clock.at + timedelta(days=3)
        session.add(evidence)
    assert due(site) == [("DPA of h1, e1", 7)]


def test_renewal_brings_new_reminders_and_withdrawal_none(site: GatewaySite) -> None:
    site.clock.forward(days=300 - 5)
    assert len(due(site)) == 4
    with site.app.database.reading() as session:
        old = session.exec(select(Credential).where(Credential.reader_id == "r1", Credential.kind == "COVER")).one()
    assert old.credential_pk is not None
    change_credential_status(site.app, "po", old.credential_pk, "SUSPENDED")
    assert due(site) == []
    with site.app.database.transaction() as session:
        claim = dict(old.claim)
        renewed = {name: getattr(old, name) for name in ("reader_id", "kind", "issued_at", "verified_at", "recorded_at")}
        session.add(Credential(**renewed, claim=claim, expires_at=site.clock.at + timedelta(days=20)))
    assert due(site) == [("COVER of r1", 30)]
    withdraw_evidence(site.app, "po", "dpa-1")
    site.clock.forward(days=500 - 295 - 5)
    assert "DPA of h1, e1" not in {subject for subject, _ in due(site)}


def test_officer_sees_and_acknowledges(site: GatewaySite) -> None:
    site.clock.forward(days=300 - 5)
    due(site)
    assert "COVER of r1" in site.client("po").get("/privacy/reviews", headers=PAGE).text
    with site.app.database.reading() as session:
        (first, *others) = unseen_reminders(session, now=site.clock.at)
    assert site.post("po", f"/privacy/reviews/reminders/{first.reminder_pk}/seen").status_code == 303
    with site.app.database.reading() as session:
        assert len(unseen_reminders(session, now=site.clock.at)) == len(others)
    with site.app.database.transaction() as session, pytest.raises(NotFound):
        see_reminder(session, 999_999, actor="po", now=site.clock.at)
