"""Two archivers of one row on PostgreSQL, where no write lock of the whole database keeps them apart."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import pytest
from sqlmodel import Session, select

from compliance.hospital import Hospital
from crypto.vault import SealedObject
from gateway import archiving
from gateway.application import open_application
from gateway.config import Settings
from gateway.demo_site import HospitalPorts, populate
from gateway.fsck import Fsck
from gateway.received import ReceivedInstance
from gateway.unsettled_packs import UnsettledPack
from tests.builders import make_ct_study
from tests.gateway_site import Clock, GatewaySite
from tests.postgres_server import postgres_server, postgres_url  # noqa: F401 (fixtures)

pytestmark = [pytest.mark.interop, pytest.mark.slow]


def test_pack_of_the_archiver_that_came_second_is_known(tmp_path: Path, postgres_url: str) -> None:  # noqa: F811
    settings = Settings.model_validate(
        {"database_url": postgres_url, "law": {"demo_confirmations": True}, "dicom": {"tls_port": 0, "blank_segments": 0}}
    )
    app = open_application(tmp_path, settings=settings)
    try:
        app.certificates.enrol_authority("x")
        populate(app, HospitalPorts({"h1": 104, "h2": 104}, {"h1": 2575, "h2": 2575}))
        site = GatewaySite(app, Clock(), {})
        app.now = site.clock
        with app.database.reading() as session:
            assert session.get(Hospital, "h1") is not None
        pk = site.receive(make_ct_study(instances=1), complete=False)
        study_key = archiving.study_key_of(app, pk)
        with app.database.reading() as session:
            batch = list(session.exec(select(ReceivedInstance)).all())
        # Both have asked the row and neither has committed, where nothing keeps the second from asking.
        both, real, moved = threading.Barrier(2), archiving.settle_packs, []

        def settle(session: Session, used: Sequence[SealedObject]) -> None:
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(3)
            real(session, used)

        with patch.object(archiving, "settle_packs", settle):
            threads = [threading.Thread(target=lambda: moved.append(archiving._archive(app, study_key, pk, batch))) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
        assert sorted(moved) == [0, 1]
        with app.database.reading() as session:
            named = {row.pack_name for row in session.exec(select(ReceivedInstance)).all()}
            unsettled = {row.pack_name: row.is_condemned for row in session.exec(select(UnsettledPack)).all()}
        packs = {name for name, _ in app.vault.pack_names()}
        assert len(packs) == 2 and packs == named | unsettled.keys() and list(unsettled.values()) == [True]
        assert not [one for one in Fsck(app, is_alone=True).run().findings if one.kind == "orphan_pack"]
    finally:
        app.close()
