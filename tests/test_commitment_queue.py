"""Storage Commitment results that were not confirmed: kept, brought later, once per interval, and given up at last."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlmodel import select

from crypto.errors import NotFound, PermanentPeerFailure, TemporarilyUnable
from gateway.commitment_queue import CommitmentAnswer, ReportState, deliver_commitments, set_peer_address
from gateway.intake_port import CommitmentResult, FailedReference, InstanceReference
from gateway.intake_rows import CommitmentReport, PeerAddress
from tests.intake_site import IntakeSite, intake_site

RESULT = CommitmentResult([InstanceReference("1.2.3", "2.25.1")], [FailedReference("1.2.3", "2.25.2", 0x0112)])


class Peer:
    """Takes answers, or fails as it is told."""

    def __init__(self) -> None:
        self.answers: list[tuple[str, str, CommitmentAnswer]] = []
        self.error: Exception | None = None

    def __call__(self, calling_ae_title: str, address: PeerAddress, answer: CommitmentAnswer) -> None:
        if self.error is not None:
            raise self.error
        self.answers.append((calling_ae_title, address.host, answer))


def rows(site: IntakeSite) -> list[CommitmentReport]:
    with site.database.reading() as session:
        return list(session.exec(select(CommitmentReport)).all())


def give_address(site: IntakeSite) -> None:
    set_peer_address(site.database, "H1_PACS", "127.0.0.1", 104, is_tls=False, actor="op", now=site.now())


def deliver(site: IntakeSite, peer: Peer) -> int:
    return deliver_commitments(site.database, site.keys, peer, now=site.now())


def test_unconfirmed_result_is_kept_sealed_and_brought_once(tmp_path: Path) -> None:
    with intake_site(tmp_path) as site:
        site.intake.commitment_undelivered(site.session(), "2.25.777", RESULT)
        (row,) = rows(site)
        assert b"2.25." not in row.sealed
        peer = Peer()
        # Nobody said where the peer listens: it waits.
        assert deliver(site, peer) == 0
        assert [row.state for row in rows(site)] == [ReportState.WAITING]
        give_address(site)
        assert deliver(site, peer) == 1
        assert peer.answers == [("H1_PACS", "127.0.0.1", CommitmentAnswer("2.25.777", RESULT))]
        site.forward(86400)
        assert deliver(site, peer) == 0


@pytest.mark.parametrize("error", [TemporarilyUnable("away"), PermanentPeerFailure("no context")])
def test_peer_that_fails_is_called_again_later_and_later(tmp_path: Path, error: Exception) -> None:
    with intake_site(tmp_path) as site:
        give_address(site)
        site.intake.commitment_undelivered(site.session(), "2.25.777", RESULT)
        peer = Peer()
        peer.error = error
        waits = []
        for _ in range(10):
            assert deliver(site, peer) == 0
            assert deliver(site, peer) == 0
            wait = (rows(site)[0].next_attempt_at - site.now()).total_seconds()
            waits.append(wait)
            site.forward(wait)
        assert waits == sorted(waits)
        assert (waits[0], waits[-1]) == (30, 3600)
        peer.error = None
        assert deliver(site, peer) == 1
        site.intake.commitment_undelivered(site.session(), "2.25.778", RESULT)
        site.forward(8 * 86400)
        assert deliver(site, peer) == 0
        assert [row.state for row in rows(site)] == [ReportState.DELIVERED, ReportState.GIVEN_UP]


def test_worker_that_dies_after_calling_calls_again(tmp_path: Path) -> None:
    with intake_site(tmp_path) as site:
        give_address(site)
        site.intake.commitment_undelivered(site.session(), "2.25.777", RESULT)
        peer = Peer()
        peer.error = KeyboardInterrupt()  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt):
            deliver(site, peer)
        peer.error = None
        assert deliver(site, peer) == 0
        site.forward(30)
        assert deliver(site, peer) == 1


def test_address_of_nobody_is_refused(tmp_path: Path) -> None:
    with intake_site(tmp_path) as site, pytest.raises(NotFound):
        set_peer_address(site.database, "NOBODY", "127.0.0.1", 104, is_tls=False, actor="op", now=site.now())
