"""A login that nobody uses ends, however long its page stays open; a lease ends with the right it stands on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlmodel import select

from compliance.decision_log import DecisionRow
from compliance.principal import SESSION_IDLE_MINUTES_MAX
from tests.gateway_site import PAGE, GatewaySite, gateway_site
from worklist.claim import heartbeat
from worklist.workitem import require_step


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "data") as made:
        yield made


@pytest.mark.parametrize(("idle_seconds", "is_kept"), [(None, False), (3600, False), (5, True)], ids=["unknown", "idle", "busy"])
def test_an_open_page_keeps_the_login_only_while_somebody_reads(site: GatewaySite, idle_seconds: int | None, is_kept: bool) -> None:
    step_uid = site.claim()
    headers = {"X-CSRF-Token": site.csrf("r1")}
    client = site.client("r1")
    for _ in range(SESSION_IDLE_MINUTES_MAX // 5 + 1):
        site.clock.forward(minutes=5, seconds=1)
        body = {} if idle_seconds is None else {"idle_seconds": idle_seconds}
        answer = client.post(f"/read/{step_uid}/heartbeat", json=body, headers=headers)
        # What a page sends by itself is nobody's doing either.
        client.get("/dicom-web/studies")
        client.get("/worklist", headers={**PAGE, "HX-Request": "true", "HX-Trigger": "rows"})
    assert (answer.status_code == 200) is is_kept
    assert is_kept or answer.json()["reason_code"] == "SESSION_ENDED"


def test_a_heartbeat_that_is_no_number_is_not_understood(site: GatewaySite) -> None:
    step_uid = site.claim()
    assert site.post_json("r1", f"/read/{step_uid}/heartbeat", {"idle_seconds": -1}).status_code == 400


def test_a_lease_runs_no_longer_than_the_decision_it_stands_on(site: GatewaySite) -> None:
    step_uid = site.claim()
    until = site.clock.at + timedelta(minutes=16)
    with site.app.database.transaction() as session:
        for row in session.exec(select(DecisionRow).where(DecisionRow.action == "VIEW", DecisionRow.reader_id == "r1")).all():
            row.valid_until = until
            session.add(row)
    site.clock.forward(minutes=5)
    with site.app.database.reading() as session:
        login_digest = require_step(session, step_uid).login_digest
    assert login_digest is not None
    ends_at = heartbeat(site.app.database, procedure_step_uid=step_uid, reader_id="r1", login_digest=login_digest, now=site.clock.at)
    assert ends_at == until
