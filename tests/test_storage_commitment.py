"""Storage Commitment, Push Model: asked by pynetdicom and by hand, answered on the same association and on one of our own."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from pydicom.uid import UID
from pynetdicom import AE, evt

from gateway.intake_port import CommitmentResult, FailedReference, InstanceReference, SessionEnd
from gateway.store_scu import RemoteAe, send_commitment_result
from tests.builders import payload_of
from tests.dicom_peers import (
    ABORT,
    CT,
    EXPLICIT_LE,
    IMPLICIT_LE,
    RawPeer,
    RecordingPort,
    command,
    running_receiver,
    wait_until,
)

PUSH_MODEL, PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
KEPT, LOST = InstanceReference(CT, "1.2.3.1"), InstanceReference(CT, "1.2.3.2")


def half(instances: Sequence[InstanceReference]) -> CommitmentResult:
    failed = [FailedReference(each.sop_class_uid, each.sop_instance_uid, 0x0112) for each in instances if each == LOST]
    return CommitmentResult([each for each in instances if each != LOST], failed)


def commitment_dataset(transaction_uid: str = "1.2.9") -> object:
    from pydicom.dataset import Dataset

    dataset = Dataset()
    dataset.TransactionUID = transaction_uid
    dataset.ReferencedSOPSequence = []
    for each in (KEPT, LOST):
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = each.sop_class_uid, each.sop_instance_uid
        dataset.ReferencedSOPSequence.append(reference)
    return dataset


@pytest.mark.parametrize("syntax", [IMPLICIT_LE, EXPLICIT_LE])
def test_commitment_is_reported_on_the_same_association(syntax: str) -> None:
    port = RecordingPort(commitment=half)
    reports = []

    def on_report(event: evt.Event) -> tuple[int, None]:
        reports.append((event.event_type, event.event_information))
        return 0, None

    with running_receiver(port) as receiver:
        entity = AE("PACS")
        entity.add_requested_context(PUSH_MODEL, syntax)
        association = entity.associate(*receiver.addresses[0], ae_title="READGATE", evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_report)])
        assert association.is_established
        status, _ = association.send_n_action(commitment_dataset(), 1, UID(PUSH_MODEL), UID(PUSH_MODEL_INSTANCE))
        assert status.Status == 0
        assert wait_until(lambda: len(reports) == 1)
        time.sleep(0.2)
        association.release()
        assert wait_until(lambda: port.ends == [SessionEnd.RELEASED])
    event_type, information = reports[0]
    assert event_type == 2
    assert information.TransactionUID == "1.2.9"
    assert [each.ReferencedSOPInstanceUID for each in information.ReferencedSOPSequence] == ["1.2.3.1"]
    assert [(each.ReferencedSOPInstanceUID, each.FailureReason) for each in information.FailedSOPSequence] == [("1.2.3.2", 0x0112)]
    assert port.commitments == [("1.2.9", [KEPT, LOST])]
    assert port.undelivered == []


def _n_action(instance: str = PUSH_MODEL_INSTANCE, action: int = 1, sop_class: str = PUSH_MODEL) -> bytes:
    return command({0x0003: sop_class.encode(), 0x0100: 0x0130, 0x0110: 1, 0x0800: 1, 0x1001: instance.encode(), 0x1008: action})


def test_unconfirmed_result_goes_back_to_the_port() -> None:
    port = RecordingPort(commitment=half)
    with running_receiver(port) as receiver, RawPeer(receiver.addresses[0]) as peer:
        peer.associate({1: (PUSH_MODEL, [EXPLICIT_LE])})
        peer.send_command(1, _n_action())
        peer.send_dataset(1, payload_of(commitment_dataset()))  # type: ignore[arg-type]
        assert peer.read_status() == 0
        peer.send(ABORT)
        assert wait_until(lambda: len(port.undelivered) == 1)
    assert port.undelivered == [("1.2.9", half([KEPT, LOST]))]


@pytest.mark.parametrize(
    ("encoded", "payload", "status"),
    [
        (_n_action(), b"", 0x0115),
        (_n_action(), b"garbage", 0x0115),
        (_n_action(action=2), b"", 0x0123),
        (_n_action(instance="1.2.3"), b"", 0x0112),
        (_n_action(sop_class=CT), b"", 0x0118),
    ],
)
def test_impossible_commitment_request_is_refused(encoded: bytes, payload: bytes, status: int) -> None:
    port = RecordingPort()
    with running_receiver(port) as receiver, RawPeer(receiver.addresses[0]) as peer:
        peer.associate({1: (PUSH_MODEL, [EXPLICIT_LE])})
        peer.send_command(1, encoded)
        peer.send_dataset(1, payload)
        assert peer.read_status() == status
    assert port.commitments == [] and port.undelivered == []


def test_result_is_delivered_on_an_association_of_our_own() -> None:
    reports = []

    def on_report(event: evt.Event) -> tuple[int, None]:
        reports.append((event.event_type, event.event_information.TransactionUID, event.assoc.requestor.ae_title))
        return 0, None

    entity = AE("PACS")
    entity.add_supported_context(PUSH_MODEL, scu_role=True, scp_role=True)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_report)])
    try:
        peer = RemoteAe("127.0.0.1", server.server_address[1], "PACS", "READGATE", timeout_seconds=5)
        send_commitment_result("1.2.9", CommitmentResult([KEPT], []), peer)
        send_commitment_result("1.2.10", half([KEPT, LOST]), peer)
    finally:
        server.shutdown()
    assert reports == [(1, "1.2.9", "READGATE"), (2, "1.2.10", "READGATE")]
