"""What happens while the signing key opens, and a crash at any part of a signature: nothing is signed by halves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from compliance.audit import EventType
from compliance.credential import Credential
from compliance.decision_log import DecisionRow
from crypto.errors import Conflict, NotAllowed, TemporarilyUnable
from reporting import signing
from reporting.content import ReportKind
from reporting.signed_report import sign_report
from tests.builders import make_ct_study
from tests.gateway_site import GatewaySite, gateway_site
from tests.signing_desk import (
    Desk,
    deliveries_of,
    entries_of,
    nothing_signed,
    step_of,
)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "site") as made:
        yield made


@pytest.fixture
def desk(site: GatewaySite) -> Desk:
    return Desk(site)


def test_draft_that_moved_on_is_not_signed(site: GatewaySite, desk: Desk) -> None:
    step_uid = desk.claim(site.step_uid)
    desk.save(step_uid)
    desk.save(step_uid, 1, findings="Written in another window.")
    with pytest.raises(Conflict) as refused:
        desk.sign(step_uid, 1)
    assert refused.value.reason_code == "DRAFT_MOVED_ON"
    nothing_signed(site, step_uid)
    assert desk.sign(step_uid, 2).kind == ReportKind.FINAL


def test_draft_saved_while_the_key_opens_is_not_passed_over(site: GatewaySite, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    step_uid = desk.claim(site.step_uid)
    desk.save(step_uid)
    _meanwhile(monkeypatch, lambda: desk.save(step_uid, 1, findings="Meanwhile."))
    with pytest.raises(Conflict) as refused:
        desk.sign(step_uid, 1)
    assert refused.value.reason_code == "MOVED_ON"
    nothing_signed(site, step_uid)


def test_instances_that_come_while_the_key_opens_are_not_signed_unseen(
    site: GatewaySite, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    step_uid = desk.claim(site.step_uid)
    desk.save(step_uid)
    _meanwhile(monkeypatch, lambda: site.process(site.receive(make_ct_study(instances=3)[2:])))
    with pytest.raises(Conflict) as refused:
        desk.sign(step_uid)
    assert refused.value.reason_code == "MOVED_ON"
    nothing_signed(site, step_uid)
    assert step_of(site, step_uid).amendment == 1, "the reader is told that images were added"
    assert desk.sign(step_uid).manifest_digest == site.study.manifest_digest


def test_only_the_images_that_were_shown_are_signed(desk: Desk, site: GatewaySite) -> None:
    step_uid = desk.claim(site.step_uid)
    desk.save(step_uid)
    with pytest.raises(Conflict, match="MOVED_ON"):
        desk.sign(step_uid, manifest_digest="sha256:of-fewer-images")
    assert desk.sign(step_uid).kind == ReportKind.FINAL


def test_licence_that_lapses_while_the_key_opens_signs_nothing_and_is_on_record(
    site: GatewaySite, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    step_uid = desk.claim(site.step_uid)
    desk.save(step_uid)
    _meanwhile(monkeypatch, lambda: _lapse_licence(site))
    with pytest.raises(NotAllowed):
        desk.sign(step_uid)
    nothing_signed(site, step_uid)
    with site.app.database.reading() as session:
        denied = session.exec(select(DecisionRow).where(DecisionRow.action == "SIGN_FINAL")).all()
    assert [row.outcome for row in denied] == ["DENY"] and denied[0].digest in {
        entry.decision_digest for entry in entries_of(site, EventType.DECIDE)
    }


@pytest.mark.parametrize(
    "where",
    ["require_claim", "decide_and_record", "seal_envelope", "manifest_of", "queue_deliveries", "require_transition", "revoke_grants"],
)
def test_crash_between_the_parts_of_a_signature_leaves_nothing(
    site: GatewaySite, desk: Desk, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    step_uid = desk.claim(site.step_uid)
    desk.save(step_uid)
    with monkeypatch.context() as patched, pytest.raises(_CrashError):
        _crash_at(patched, where, after=1 if where == "require_claim" else 0)
        desk.sign(step_uid)
    nothing_signed(site, step_uid)
    with site.app.database.reading() as session:
        assert not session.exec(select(DecisionRow).where(DecisionRow.action == "SIGN_FINAL")).all()
    assert desk.sign(step_uid).kind == ReportKind.FINAL
    assert len(deliveries_of(site)) == 2


def test_crash_at_the_commit_leaves_nothing(site: GatewaySite, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    step_uid = desk.claim(site.step_uid)
    desk.save(step_uid)
    before = site.app.database.transaction

    @contextmanager
    def broken() -> Iterator[Any]:
        with before() as session:
            yield session
            raise TemporarilyUnable("the database cannot be written now")

    login_digest = desk.login_digest
    monkeypatch.setattr(Desk, "login_digest", login_digest)
    with monkeypatch.context() as patched, pytest.raises(TemporarilyUnable):
        patched.setattr(site.app.database, "transaction", broken)
        desk.sign(step_uid)
    nothing_signed(site, step_uid)


class _CrashError(BaseException):
    """The process ends here."""


def _crash_at(patched: pytest.MonkeyPatch, name: str, *, after: int) -> None:
    """`reporting.signing`'s use of `name` ends the process, the first `after` times excepted; what it did before the crash was done."""
    real, calls = getattr(signing, name), 0

    def crash(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        result = real(*args, **kwargs)
        if calls > after:
            raise _CrashError
        return result

    patched.setattr(signing, name, crash)


def _meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """`act` happens between looking and signing, while the reader's key is being opened, once."""
    real, waiting = sign_report, [act]

    def slow(*args: Any, **kwargs: Any) -> Any:
        signed = real(*args, **kwargs)
        if waiting:
            waiting.pop()()
        return signed

    monkeypatch.setattr(signing, "sign_report", slow)


def _lapse_licence(site: GatewaySite) -> None:
    with site.app.database.transaction() as session:
        licence = session.exec(select(Credential).where(Credential.reader_id == "r1", Credential.kind == "LICENCE")).one()
        licence.expires_at = site.clock.at - timedelta(seconds=1)
        session.add(licence)
