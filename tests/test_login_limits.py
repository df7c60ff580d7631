"""Logins that fail: counted by where they come from, bounded in what they cost, and addresses believed only from trusted proxies."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlmodel import col, select
from starlette.testclient import TestClient

from compliance.audit import AuditEntry, EventType
from compliance.principal import LoginSession
from crypto.errors import TemporarilyUnable
from gateway.login_gate import DERIVATIONS_MAX, LoginGate
from tests.gateway_site import PAGE, GatewaySite, gateway_site

AT = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "data", has_study=False) as made:
        yield made


def fail(site: GatewaySite, address: str, name: str = "r1", times: int = 5) -> None:
    client = TestClient(site.http, client=(address, 1), follow_redirects=False)
    for _ in range(times):
        form = {"user_name": name, "password": "x", "code": "000000", "declared_country": "ES"}
        assert client.post("/login", data=form, headers=PAGE).status_code == 403


def test_failures_elsewhere_lock_nobody_out_and_failures_here_do(site: GatewaySite) -> None:
    fail(site, "192.0.2.7")
    site.log_in("r1")
    fail(site, "127.0.0.1", "r2")
    with pytest.raises(AssertionError):
        site.log_in("r2")
    site.clock.forward(minutes=16)
    site.log_in("r2")


def test_an_enrolled_device_is_not_locked_by_its_address(site: GatewaySite) -> None:
    enrolled = site.log_in("r1")
    fail(site, "127.0.0.1")
    site.clock.forward(minutes=1)
    anonymous = site.anonymous
    site.anonymous = lambda: enrolled  # type: ignore[method-assign]
    try:
        site.log_in("r1")
    finally:
        site.anonymous = anonymous  # type: ignore[method-assign]


def test_unknown_names_are_one_entry_a_minute(site: GatewaySite) -> None:
    fail(site, "192.0.2.7", "nobody-here", times=4)
    site.clock.forward(minutes=2)
    fail(site, "192.0.2.7", "nobody-there", times=1)
    with site.app.database.reading() as session:
        query = select(AuditEntry).where(AuditEntry.event_type == EventType.LOGIN, AuditEntry.actor == "unknown")
        entries = session.exec(query.order_by(col(AuditEntry.entry_index))).all()
    assert [entry.detail["attempts"] for entry in entries] == [1, 4]


def test_so_many_passwords_are_derived_at_a_time() -> None:
    gate = LoginGate()
    held = [gate.derivation() for _ in range(DERIVATIONS_MAX)]
    for one in held:
        one.__enter__()
    with pytest.raises(TemporarilyUnable), gate.derivation(wait_seconds=0.01):
        pass
    held[0].__exit__(None, None, None)
    with gate.derivation(wait_seconds=0.01):
        pass
    assert gate.count_unknown(AT) == 1 and gate.count_unknown(AT + timedelta(seconds=59)) is None


@pytest.mark.parametrize(
    ("proxies", "forwarded", "address"),
    [
        ([], "203.0.113.9", "127.0.0.1"),
        (["127.0.0.1/32"], "10.9.9.9, 203.0.113.9", "203.0.113.9"),
        (["127.0.0.1/32"], "203.0.113.9, nonsense", ""),
        (["127.0.0.1/32"], "", ""),
        (["192.0.2.0/24"], "203.0.113.9", "127.0.0.1"),
    ],
)
def test_only_a_trusted_proxy_says_where_somebody_is(site: GatewaySite, proxies: list[str], forwarded: str, address: str) -> None:
    site.app.settings.http.trusted_proxies = proxies
    client = site.client("op")
    client.get("/", headers={**PAGE, "X-Forwarded-For": forwarded})
    with site.app.database.reading() as session:
        assert session.exec(select(LoginSession.address)).one() == address
    # Nor do numbers for the host itself go to who comes through its proxy.
    status = client.get("/metrics", headers={"X-Forwarded-For": forwarded}).status_code
    assert status == (200 if address == "127.0.0.1" else 404)
