"""A delivery that cannot be made ends where a person sees it, for whatever reason it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlmodel import select

from compliance.audit import EventType
from compliance.decision_log import DecisionRow
from compliance.hospital import PLAINTEXT_ALLOWED, ReportTarget, TargetKind, may_leave_in_plaintext
from crypto.errors import BadInput
from gateway.delivery_senders import senders_of
from gateway.enrolment import add_target
from reporting import delivery as delivery_module
from reporting.delivery import deliver
from reporting.report import Report
from tests.gateway_site import GatewaySite, gateway_site
from tests.signing_desk import Desk, deliveries_of, entries_of, is_log_sound

PLANTED = "Gruenwald^Kaethe"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "site") as made:
        Desk(made).report()
        yield made


def _change_target(site: GatewaySite, kind: TargetKind, **changes: object) -> None:
    with site.app.database.transaction() as session:
        target = session.exec(select(ReportTarget).where(ReportTarget.kind == kind, ReportTarget.hospital_id == "h1")).one()
        for name, value in changes.items():
            setattr(target, name, value)
        session.add(target)


def _deliver(site: GatewaySite, kind: TargetKind) -> str:
    """One attempt at the delivery of this kind, over the network's own senders."""
    app = site.app
    (row,) = [row for row in deliveries_of(site) if row.kind == kind]
    return deliver(
        app.database,
        app.keys,
        app.law,
        delivery_pk=row.delivery_pk or 0,
        senders=senders_of(app),
        signer_of=app.document_signer,
        trust_roots=app.certificates.trust_roots(),
        now=site.clock.at,
    )


def _failures(site: GatewaySite) -> list[tuple[str, str]]:
    return [(entry.detail["reason"], entry.detail["error"]) for entry in entries_of(site, EventType.DELIVER)]


def test_setting_that_nobody_understands_is_a_dead_letter(site: GatewaySite) -> None:
    _change_target(site, TargetKind.MLLP, settings={"route": {"sending_app": "X"}})
    assert _deliver(site, TargetKind.MLLP) == "DEAD_LETTER"
    assert _failures(site) == [("CANNOT_BE_COMPOSED", "TypeError")]
    assert is_log_sound(site)


def test_error_of_ours_is_a_dead_letter_without_its_text(site: GatewaySite, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_kwargs: object) -> bytes:
        raise ValueError(PLANTED)

    monkeypatch.setattr(delivery_module, "compose_document", fail)
    assert _deliver(site, TargetKind.DICOM) == "DEAD_LETTER"
    assert _failures(site) == [("CANNOT_BE_COMPOSED", "ValueError")]
    assert all(PLANTED not in str(entry.detail) for entry in entries_of(site, EventType.DELIVER))


# pynetdicom drops the socket of a refused connection without closing it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_certificate_that_cannot_be_read_fails_only_targets_that_want_it(site: GatewaySite) -> None:
    _change_target(site, TargetKind.MLLP, is_tls=True)
    path = site.app.certificates.path("server", ".pem")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"no certificate")
    assert _deliver(site, TargetKind.MLLP) != "DELIVERED"
    assert _deliver(site, TargetKind.DICOM) == "QUEUED", "nobody listens there, which is tried again"
    assert [row.attempts for row in deliveries_of(site)] == [1, 1]


@pytest.mark.parametrize("kind", list(TargetKind))
def test_named_report_does_not_leave_in_plaintext_unless_it_is_said_aloud(
    site: GatewaySite, kind: TargetKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr("socket.create_connection", connect)
    monkeypatch.setattr("gateway.delivery_senders.store", connect)
    _change_target(site, kind, host="192.0.2.7")
    assert _deliver(site, kind) == "DEAD_LETTER"
    assert _failures(site) == [("PEER_REFUSES", "")]
    target = ReportTarget(hospital_id="h1", kind=kind, host="archive.example", port=104, ae_title="ARCHIVE")
    with pytest.raises(BadInput, match="TLS"):
        add_target(site.app, "op", target)
    target.settings = {PLAINTEXT_ALLOWED: True}
    assert add_target(site.app, "op", target)


@pytest.mark.parametrize(
    ("host", "may"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("10.0.0.1", False), ("localhost.example", False)]
)
def test_loopback_is_what_it_is_by_its_own_name(host: str, may: bool) -> None:
    assert may_leave_in_plaintext(ReportTarget(hospital_id="h1", kind=TargetKind.MLLP, host=host, port=1, settings={})) is may
    assert (
        may_leave_in_plaintext(ReportTarget(hospital_id="h1", kind=TargetKind.MLLP, host=host, port=1, settings={PLAINTEXT_ALLOWED: "yes"}))
        is may
    )


@pytest.mark.parametrize("change", [("ES", "FR"), ('"ALLOW"', '"DENY"'), None], ids=["another word", "another outcome", "gone"])
def test_report_whose_decision_is_not_on_record_as_it_was_made_is_not_sent(site: GatewaySite, change: tuple[str, str] | None) -> None:
    with site.app.database.transaction() as session:
        report = session.exec(select(Report)).one()
        row = session.get(DecisionRow, report.decision_digest)
        assert row is not None
        if change is None:
            session.delete(row)
        else:
            row.document = row.document.replace(*change, 1)
            session.add(row)
    assert site.deliver() == ["DEAD_LETTER", "DEAD_LETTER"]
    assert {reason for reason, _ in _failures(site)} == {"INTEGRITY_FAILURE"} and site.outbox.documents == []


def test_delivery_says_that_its_decision_was_verified(site: GatewaySite) -> None:
    assert site.deliver() == ["DELIVERED", "DELIVERED"]
    assert [entry.detail["decision_verified"] for entry in entries_of(site, EventType.DELIVER)] == [True, True]
