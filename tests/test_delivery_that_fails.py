"""A delivery that cannot be made ends where a person sees it, for whatever reason it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlmodel import select

from compliance.audit import EventType
from compliance.hospital import ReportTarget, TargetKind
from gateway.delivery_senders import senders_of
from reporting import delivery as delivery_module
from reporting.delivery import deliver
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
