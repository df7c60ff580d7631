"""Studies that are coming in, what is made of them ahead, and their jobs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from pydicom.dataset import Dataset
from sqlmodel import select

from compliance.study import Instance, instances_of_study, require_study
from gateway.archiving import archive_originals
from gateway.deidentify_ahead import DeidentifyAhead
from gateway.processing import Maker, deidentify_study
from gateway.received import ReceivedInstance, ReceivedState, ReceivedStudy
from gateway.study_attempts import SUSPECT_DEATHS, StudyAttempt, StudyAttempts
from gateway.unsettled_packs import UnsettledPack
from tests.gateway_site import GatewaySite, PlainScreener


def begin(site: GatewaySite, attempts: StudyAttempts | None = None) -> DeidentifyAhead:
    return DeidentifyAhead(site.app, PlainScreener(), attempts or StudyAttempts(site.app.database))


def study_of(site: GatewaySite, pk: int, **changes: Any) -> ReceivedStudy:
    """The study's row after `changes`."""
    with site.app.database.transaction() as session:
        study = session.get(ReceivedStudy, pk)
        assert study is not None
        for name, value in changes.items():
            setattr(study, name, value)
        session.add(study)
    return study


def suspect_of(site: GatewaySite, pk: int) -> None:
    with site.app.database.transaction() as session:
        session.add(StudyAttempt(received_study_pk=pk, generation=1, deaths=SUSPECT_DEATHS))


def receiving(site: GatewaySite, datasets: list[Dataset]) -> int:
    """A study that is coming in, its last instance some time ago."""
    pk = site.receive(datasets, complete=False)
    site.clock.forward(seconds=1)
    return pk


def process(site: GatewaySite, pk: int, ahead: DeidentifyAhead) -> str:
    with site.app.database.transaction() as session:
        study = session.get(ReceivedStudy, pk)
        assert study is not None
        study.state, study.complete_at = ReceivedState.COMPLETE, site.app.now()
        session.add(study)
    archive_originals(site.app, pk)
    with ahead.job(pk) as begun:
        return deidentify_study(site.app, pk, PlainScreener(), begun)


def rows_of(site: GatewaySite, uid: str) -> list[Instance]:
    with site.app.database.reading() as session:
        study = require_study(session, uid)
        assert study.study_pk is not None
        return instances_of_study(session, study.study_pk)


def packs_of(site: GatewaySite) -> dict[str, bool]:
    """The packs that no row names, and whether they are condemned."""
    with site.app.database.reading() as session:
        return {row.pack_name: row.is_condemned for row in session.exec(select(UnsettledPack)).all()}


@contextmanager
def counting() -> Iterator[list[int | None]]:
    """The instances that are made within."""
    made: list[int | None] = []
    real = Maker.make

    def counted(maker: Maker, row: ReceivedInstance) -> object:
        made.append(row.instance_pk)
        return real(maker, row)

    with patch.object(Maker, "make", counted):
        yield made
