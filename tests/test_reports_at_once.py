"""A study's reports are one chain, however many signatures come at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from compliance.decision_log import DecisionRow
from crypto.errors import Conflict
from gateway.processing import archive_originals, deidentify_study, route_study
from reporting import signing
from reporting.content import ReportKind
from reporting.signed_report import sign_report
from tests.builders import make_ct_study
from tests.gateway_site import GatewaySite, PlainScreener, gateway_site
from tests.signing_desk import Desk, chain_of, is_log_sound


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "site") as made:
        yield made


def test_two_signatures_of_one_draft_make_one_report(site: GatewaySite, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(site)
    step_uid = desk.claim(site.step_uid)
    desk.save(step_uid)
    assert desk.login_digest
    real, both, outcomes = sign_report, threading.Barrier(2), list[str]()

    def together(*args: Any, **kwargs: Any) -> Any:
        signed = real(*args, **kwargs)
        both.wait(30)
        return signed

    def sign() -> None:
        try:
            outcomes.append(desk.sign(step_uid, 1, ReportKind.PRELIMINARY).kind)
        except Conflict as refused:
            outcomes.append(refused.reason_code)

    monkeypatch.setattr(signing, "sign_report", together)
    threads = [threading.Thread(target=sign) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(outcomes) == ["MOVED_ON", "PRELIMINARY"]
    assert [report.predecessor_digest for report in chain_of(site)] == [None]
    assert is_log_sound(site)


def test_record_of_a_decision_names_its_study(site: GatewaySite) -> None:
    """Two studies that are alike, routed in the same second, are two decisions."""
    uids = []
    for number in (61, 62):
        received_pk = site.receive(make_ct_study(instances=1, number=number))
        archive_originals(site.app, received_pk)
        uids.append(deidentify_study(site.app, received_pk, PlainScreener()))
    for uid in uids:
        route_study(site.app, uid)
    with site.app.database.reading() as session:
        for uid in uids:
            decisions = session.exec(
                select(DecisionRow).where(
                    DecisionRow.study_instance_uid == uid, DecisionRow.action == "ROUTE", DecisionRow.reader_id == "r1"
                )
            ).all()
            assert len(decisions) == 1 and uid in decisions[0].document
