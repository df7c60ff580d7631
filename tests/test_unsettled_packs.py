"""Packs that no row names: what a crash between put and commit leaves is reclaimed; what a row names or a job is about to name never is."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import obstore
import pytest
from sqlmodel import Session, select

from compliance.audit import AuditEntry
from compliance.study import Instance, Series
from crypto.errors import TemporarilyUnable
from crypto.vault import Vault, s3_vault
from gateway import archiving, processing
from gateway.fsck import Fsck
from gateway.processing import archive_originals
from gateway.received import ReceivedInstance
from gateway.unsettled_packs import GRACE, OwnPacks, UnsettledPack, give_up_packs, is_named, reclaim_packs
from tests.builders import make_ct_study
from tests.gateway_site import GatewaySite, PlainScreener, gateway_site
from tests.test_vault import s3_endpoint  # noqa: F401 (fixture)


class ProcessDies(BaseException):
    """kill -9, as far as one process can do it to itself."""


@pytest.fixture(params=["local", "s3"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "site") as made:
        if request.param == "s3":
            local = made.app.vault
            made.app.vault = s3_vault(
                "packs",
                endpoint=request.getfixturevalue("s3_endpoint"),
                region="us-east-1",
                access_key_id="test",
                secret_access_key="test",
                prefix=tmp_path.name,
            )
            for name, _ in local.pack_names():
                obstore.put(made.app.vault._store, name, (made.app.data / "vault" / name).read_bytes())
        yield made


def _names(site: GatewaySite) -> set[str]:
    return {name for name, _ in site.app.vault.pack_names()}


def _unsettled(site: GatewaySite) -> dict[str, bool]:
    with site.app.database.reading() as session:
        return {row.pack_name: row.is_condemned for row in session.exec(select(UnsettledPack)).all()}


def _reclaim(site: GatewaySite) -> int:
    return reclaim_packs(site.app.database, site.app.vault, now=site.app.now())


def _is_clean(site: GatewaySite) -> bool:
    return not Fsck(site.app, is_alone=True).run(deep=True).findings


def test_crash_between_put_and_commit_leaves_nothing_for_ever(site: GatewaySite) -> None:
    received_study_pk = site.receive(make_ct_study(instances=2, number=501))
    before = _names(site)
    with patch.object(archiving, "settle_packs", side_effect=ProcessDies), pytest.raises(ProcessDies):
        archive_originals(site.app, received_study_pk)
    left = _names(site) - before
    assert len(left) == 1 and set(_unsettled(site)) == left and _is_clean(site)
    site.clock.forward(minutes=59)
    assert _reclaim(site) == 0 and _names(site) - before == left, "it might be a job's"
    study_instance_uid = site.process(received_study_pk)
    site.clock.forward(minutes=2)
    assert _reclaim(site) == 1 and not _names(site) & left
    assert study_instance_uid and not _unsettled(site) and _is_clean(site)
    with site.app.database.reading() as session:
        entries = session.exec(select(AuditEntry).where(AuditEntry.actor == "readgate/worker")).all()
    assert [entry.detail["first"] for entry in entries if entry.detail.get("repaired")] == [sorted(left)]


def test_pack_that_was_announced_and_never_put_is_struck(site: GatewaySite) -> None:
    received_study_pk = site.receive(make_ct_study(instances=1, number=502))
    with patch("crypto.vault.obstore.put", side_effect=ProcessDies), pytest.raises(ProcessDies):
        archive_originals(site.app, received_study_pk)
    assert len(_unsettled(site)) == 1
    site.clock.forward(hours=2)
    assert _reclaim(site) == 1 and not _unsettled(site)


def test_job_that_is_slower_than_the_grace_does_its_work_again(site: GatewaySite) -> None:
    """Its pack is gone when it comes to name it: no row may point there."""
    received_study_pk, real = site.receive(make_ct_study(instances=2, number=503)), Vault.seal

    def slow(*args: object, **kwargs: object) -> object:
        sealed = real(*args, **kwargs)  # type: ignore[arg-type]
        site.clock.forward(seconds=GRACE.total_seconds() + 1)
        _reclaim(site)
        return sealed

    with patch.object(Vault, "seal", slow), pytest.raises(TemporarilyUnable):
        archive_originals(site.app, received_study_pk)
    with site.app.database.reading() as session:
        rows = session.exec(select(ReceivedInstance).where(ReceivedInstance.received_study_pk == received_study_pk)).all()
    assert [row.pack_name for row in rows] == [None, None]
    assert archive_originals(site.app, received_study_pk) == 2 and _is_clean(site)


def test_condemned_pack_is_deleted_after_a_crash_amid_it(site: GatewaySite) -> None:
    received_study_pk = site.receive(make_ct_study(instances=1, number=504))
    with patch.object(archiving, "settle_packs", side_effect=ProcessDies), pytest.raises(ProcessDies):
        archive_originals(site.app, received_study_pk)
    site.clock.forward(hours=2)
    with patch.object(Vault, "delete_pack", side_effect=ProcessDies), pytest.raises(ProcessDies):
        _reclaim(site)
    (pack_name,) = _unsettled(site)
    assert _unsettled(site)[pack_name] and pack_name in _names(site)
    assert _reclaim(site) == 1 and not _unsettled(site) and pack_name not in _names(site)


def test_replaced_metadata_is_reclaimed_and_what_a_row_names_stays(site: GatewaySite) -> None:
    datasets = make_ct_study(instances=3, number=505)
    study_instance_uid = site.process(site.receive(datasets[:2]))
    before = _names(site)
    assert site.process(site.receive(datasets[2:])) == study_instance_uid
    given_up = set(_unsettled(site))
    assert len(given_up) == 1 and given_up < before and _is_clean(site)
    site.clock.forward(hours=2)
    assert _reclaim(site) == 1
    assert _names(site) >= before - given_up and not _names(site) & given_up and _is_clean(site)


def test_pack_that_still_holds_something_is_kept(site: GatewaySite) -> None:
    site.process(site.receive(make_ct_study(instances=2, number=506)))
    with site.app.database.transaction() as session:
        packs = _named(session)
        for pack_name in packs:
            session.add(UnsettledPack(pack_name=pack_name, since_at=site.app.now() - timedelta(days=1)))
    assert _reclaim(site) == 0 and not _unsettled(site)
    assert packs <= _names(site) and _is_clean(site)
    with site.app.database.reading() as session:
        assert all(is_named(session, pack_name) for pack_name in packs) and not is_named(session, "00/" + "00" * 16)


def _named(session: Session) -> set[str]:
    originals = {row.pack_name for row in session.exec(select(ReceivedInstance)).all() if row.pack_name}
    metadata = {row.metadata_object["pack_name"] for row in session.exec(select(Series)).all()}
    return originals | metadata | {row.pack_name for row in session.exec(select(Instance)).all()}


def test_step_that_runs_twice_leaves_no_pack_behind_for_ever(site: GatewaySite) -> None:
    """De-identification dies before its registration commits, and runs again."""
    received_study_pk = site.receive(make_ct_study(instances=2, number=507))
    archive_originals(site.app, received_study_pk)
    before = _names(site)
    with patch("gateway.study_registration.settle_packs", side_effect=ProcessDies), pytest.raises(ProcessDies):
        processing.deidentify_study(site.app, received_study_pk, PlainScreener())
    left = _names(site) - before
    assert len(left) == 2
    assert processing.deidentify_study(site.app, received_study_pk, PlainScreener())
    site.clock.forward(hours=2)
    assert _reclaim(site) == 2 and not _names(site) & left and _is_clean(site)


def test_job_that_takes_days_keeps_its_packs_as_long_as_it_goes_on(tmp_path: Path) -> None:
    """Each instance takes forty minutes, each batch is one instance, and the duty looks after each of them."""
    with gateway_site(tmp_path / "site") as site:
        received_study_pk = site.receive(make_ct_study(instances=4, number=508))
        archive_originals(site.app, received_study_pk)

        reclaimed, real = [], processing.deidentify

        def slow(*args: Any, **kwargs: Any) -> Any:
            made = real(*args, **kwargs)
            site.clock.forward(minutes=40)
            reclaimed.append(_reclaim(site))
            return made

        with (
            patch.object(archiving, "BATCH_BYTES", 1),
            patch.object(processing, "DEIDENTIFIED_AT_ONCE", 1),
            patch.object(processing, "deidentify", slow),
        ):
            study_instance_uid = processing.deidentify_study(site.app, received_study_pk, PlainScreener())
        assert study_instance_uid and reclaimed == [0] * 4
        assert _is_clean(site)


def test_job_whose_pack_was_reclaimed_learns_it_before_it_goes_on(tmp_path: Path) -> None:
    with gateway_site(tmp_path / "site") as site:
        received_study_pk = site.receive(make_ct_study(instances=1, number=509), complete=False)
        own_packs = OwnPacks(site.app)
        own_packs.seal(processing.study_key_of(site.app, received_study_pk), [("ab" * 16, b"sealed")])
        site.clock.forward(minutes=59)
        own_packs.renew()
        site.clock.forward(minutes=59)
        assert _reclaim(site) == 0
        site.clock.forward(minutes=2)
        assert _reclaim(site) == 1
        with pytest.raises(TemporarilyUnable):
            own_packs.renew()


def test_pack_given_up_twice_is_as_young_as_the_second_time(tmp_path: Path) -> None:
    with gateway_site(tmp_path / "site") as site:
        for _ in range(2):
            with site.app.database.transaction() as session:
                give_up_packs(session, ["ab/" + "ab" * 16], now=site.app.now())
            site.clock.forward(minutes=59)
        assert _reclaim(site) == 0
        site.clock.forward(minutes=2)
        assert _reclaim(site) == 1
