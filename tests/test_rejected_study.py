"""What the hospital rejected stays rejected, whatever its modality sends again; a person hears of it and decides anew."""

from __future__ import annotations

from pathlib import Path

from sqlmodel import select

from compliance.quarantine import QuarantineItem, QuarantineState
from gateway.quarantine_acts import Said, reject
from gateway.received import ReceivedState, received_study
from gateway.spool_index import REJECTED_STUDY_CAME_AGAIN
from tests.builders import make_ct_study
from tests.gateway_site import GatewaySite, gateway_site
from worklist.workitem import ProcedureStep


def test_one_more_instance_does_not_undo_a_rejection(tmp_path: Path) -> None:
    with gateway_site(tmp_path / "data", has_study=False) as site:
        datasets = make_ct_study(instances=3, number=91)
        datasets[0].PatientSex, datasets[1].PatientSex = "F", "M"
        pk = site.receive(datasets[:2])
        assert site.process(pk) == ""
        _reject_all(site)
        assert site.receive(datasets[2:], complete=False) == pk
        with site.app.database.reading() as session:
            assert received_study(session, pk).state == ReceivedState.REJECTED
            held = session.exec(select(QuarantineItem).where(QuarantineItem.state == QuarantineState.HELD)).all()
            assert [item.reason_code for item in held] == [REJECTED_STUDY_CAME_AGAIN]
            assert session.exec(select(ProcedureStep)).all() == []
        # The person who looks may reject it once more.
        _reject_all(site)
        with site.app.database.reading() as session:
            assert session.exec(select(QuarantineItem).where(QuarantineItem.state == QuarantineState.HELD)).all() == []


def _reject_all(site: GatewaySite) -> None:
    with site.app.database.reading() as session:
        held = session.exec(select(QuarantineItem.item_pk).where(QuarantineItem.state == QuarantineState.HELD)).all()
    for item_pk in held:
        reject(site.app.database, site.app.keys, Said("h1", str(item_pk), "h1", "objected", site.app.now()))
