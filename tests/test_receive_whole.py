"""Completeness through the running server: Storage Commitment ends the waiting, what comes late amends the workitem for all to see."""

from __future__ import annotations

from pathlib import Path

import pytest
from pynetdicom import AE, build_context, evt
from pynetdicom.sop_class import StorageCommitmentPushModel

from compliance.study import require_study
from gateway.commitment_queue import set_peer_address
from gateway.dicom_uids import STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE
from gateway.intake_port import CommitmentResult, InstanceReference
from gateway.storage_commitment import commitment_dataset
from tests.builders import make_ct_study
from tests.running_site import RunningSite, eventually, running_site

pytestmark = pytest.mark.slow


def ask_commitment(site: RunningSite, uids: list[tuple[str, str]]) -> None:
    """N-ACTION, and hanging up before the N-EVENT-REPORT was answered, as an archive does that expects it on a new association."""
    remote = site.remote()
    entity = AE(ae_title=remote.calling_ae_title)
    context = build_context(StorageCommitmentPushModel)
    association = entity.associate(
        remote.host, remote.port, contexts=[context], ae_title="READGATE", tls_args=(remote.tls, remote.host) if remote.tls else None
    )
    assert association.is_established
    request = commitment_dataset("2.25.4711", CommitmentResult([InstanceReference(*one) for one in uids], []))
    status, _ = association.send_n_action(request, 1, StorageCommitmentPushModel, STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE)
    assert status.Status == 0
    association.abort()


def test_commitment_ends_the_waiting_late_instances_amend_and_the_result_is_brought(tmp_path: Path) -> None:
    study = make_ct_study(instances=3)
    uid, reported = study[0].StudyInstanceUID, list[str]()

    def on_report(event: evt.Event) -> tuple[int, None]:
        reported.append(str(event.event_information.TransactionUID))
        return 0x0000, None

    archive = AE(ae_title="H1_PACS")
    archive.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
    listening = archive.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_report)])
    try:
        # An hour of quiet would be waited for without the request.
        with running_site(tmp_path, quiet_seconds=3600) as site:
            app = site.app
            set_peer_address(app.database, "H1_PACS", *listening.server_address, is_tls=False, actor="op", now=app.now())
            site.send(study[:2])
            ask_commitment(site, [(one.SOPClassUID, one.SOPInstanceUID) for one in study[:2]])
            known, _step = site.routed(uid)
            assert (known.instance_count, known.amendment) == (2, 0)
            site.send(study[2:])
            ask_commitment(site, [(study[2].SOPClassUID, study[2].SOPInstanceUID)])

            def amended() -> int | None:
                with app.database.reading() as session:
                    row = require_study(session, known.study_instance_uid)
                    return row.instance_count if row.amendment == 1 else None

            assert eventually(amended, 60, "the late instance did not amend the study") == 3
            assert eventually(lambda: reported[:1] or None, 60, "the result was not brought") == ["2.25.4711"]
    finally:
        listening.shutdown()
