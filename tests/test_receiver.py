"""The listener and its associations, spoken to by dcmtk, by pynetdicom and by hand."""

from __future__ import annotations

import ssl
import struct
import subprocess
from pathlib import Path

import pytest
from pynetdicom._globals import ALL_TRANSFER_SYNTAXES
from pynetdicom.sop_class import _STORAGE_CLASSES  # type: ignore[attr-defined]
from structlog.testing import capture_logs

from crypto.certificates import KeyAndCertificate, create_ca, fingerprint, issue_client, issue_server
from crypto.errors import BadInput, RefusedContent, TemporarilyUnable
from gateway.association_limits import AssociationLimits
from gateway.dicom_tls import client_context, server_context
from gateway.intake_port import SessionEnd
from gateway.negotiation import DEFLATED_TRANSFER_SYNTAXES, StorageOffer
from gateway.receiver import Endpoint, Receiver, ReceiverLimits
from gateway.store_scu import RemoteAe, echo, store_all
from tests.builders import make_ct_study, part10_of, payload_of
from tests.dicom_peers import (
    ABORT,
    BOTH_CONTEXTS,
    C_ECHO_RQ,
    CT,
    EXPLICIT_LE,
    IMPLICIT_LE,
    RELEASE_RQ,
    RawPeer,
    RecordingPort,
    associate_rq,
    c_store_rq,
    command,
    elements_of,
    item,
    pdu,
    pdv,
    running_receiver,
    tls_material,
    wait_until,
)
from tests.peers import require_peer


@pytest.fixture(scope="module")
def ca() -> KeyAndCertificate:
    return create_ca("Readgate test authority")


@pytest.fixture(scope="module")
def server_tls(ca: KeyAndCertificate) -> ssl.SSLContext:
    return server_context(tls_material(issue_server(ca, ["localhost"], ["127.0.0.1"]), ca))


@pytest.fixture(scope="module")
def hospital(ca: KeyAndCertificate) -> KeyAndCertificate:
    return issue_client(ca, "H1 PACS")


def remote(receiver: Receiver, tls: ssl.SSLContext | None = None, called: str = "READGATE", calling: str = "PACS") -> RemoteAe:
    host, port = receiver.addresses[0]
    return RemoteAe(host, port, called, calling, tls, timeout_seconds=10)


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(each) for each in arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.interop
def test_dcmtk_echoes_and_stores_in_plaintext(tmp_path: Path) -> None:
    echoscu, storescu = require_peer("echoscu"), require_peer("storescu")
    datasets = make_ct_study(3)
    for index, dataset in enumerate(datasets):
        (tmp_path / f"{index}.dcm").write_bytes(part10_of(dataset))
    port = RecordingPort()
    with running_receiver(port) as receiver:
        number = str(receiver.addresses[0][1])
        assert run(echoscu, "-aec", "READGATE", "127.0.0.1", number).returncode == 0
        refused = run(echoscu, "-aec", "NOBODY", "127.0.0.1", number)
        assert refused.returncode != 0 and "Called AE Title Not Recognized" in refused.stderr
        refused = run(echoscu, "-aec", "READGATE", "-aet", "STRANGER", "127.0.0.1", number)
        assert refused.returncode != 0 and "Calling AE Title Not Recognized" in refused.stderr
        sent = run(storescu, "-aec", "READGATE", "+sd", "127.0.0.1", number, tmp_path)
        assert sent.returncode == 0, sent.stderr
        assert wait_until(lambda: port.ends == [SessionEnd.RELEASED] * 2)
    assert sorted(data for _, data in port.instances) == sorted(payload_of(dataset) for dataset in datasets)
    assert {head.sop_instance_uid for head, _ in port.instances} == {dataset.SOPInstanceUID for dataset in datasets}


@pytest.mark.interop
def test_dcmtk_echoes_and_stores_with_tls(
    tmp_path: Path, ca: KeyAndCertificate, server_tls: ssl.SSLContext, hospital: KeyAndCertificate
) -> None:
    echoscu, storescu = require_peer("echoscu"), require_peer("storescu")
    (tmp_path / "ct.dcm").write_bytes(part10_of(make_ct_study(1)[0]))
    for name, content in (("key", hospital.key_pem), ("cert", hospital.certificate_pem), ("ca", ca.certificate_pem)):
        (tmp_path / name).write_bytes(content)
    tls = ["+tls", tmp_path / "key", tmp_path / "cert", "+cf", tmp_path / "ca"]
    port = RecordingPort()
    with running_receiver(port, tls=server_tls) as receiver:
        number = str(receiver.addresses[0][1])
        echoed = run(echoscu, *tls, "-aec", "READGATE", "localhost", number)
        assert echoed.returncode == 0, echoed.stderr
        assert run(storescu, *tls, "-aec", "READGATE", "localhost", number, tmp_path / "ct.dcm").returncode == 0
        blind = ["+tls", tmp_path / "key", tmp_path / "cert", "-ic"]
        assert run(echoscu, *blind, "-aec", "READGATE", "127.0.0.1", number).returncode == 0
        assert run(echoscu, "-aec", "READGATE", "127.0.0.1", number).returncode != 0
    assert len(port.instances) == 1
    assert {(peer.certificate_sha256, peer.certificate_subject, peer.is_tls) for peer in port.peers} == {
        (fingerprint(hospital.certificate_pem), "CN=H1 PACS", True)
    }


@pytest.mark.parametrize("syntax", [IMPLICIT_LE, EXPLICIT_LE, "1.2.840.10008.1.2.2"])
def test_pynetdicom_stores_with_tls(syntax: str, ca: KeyAndCertificate, server_tls: ssl.SSLContext, hospital: KeyAndCertificate) -> None:
    datasets = make_ct_study(2)
    port = RecordingPort()
    with running_receiver(port, tls=server_tls) as receiver:
        peer = remote(receiver, client_context(tls_material(hospital, ca)))
        assert echo(peer) == 0
        assert store_all([part10_of(dataset, syntax) for dataset in datasets], peer) == [0, 0]
    assert [head.transfer_syntax_uid for head, _ in port.instances] == [syntax] * 2
    assert [data for _, data in port.instances] == [payload_of(dataset, syntax) for dataset in datasets]


@pytest.mark.parametrize("first", [0, 64, 128])
def test_every_storage_class_and_syntax_is_accepted_but_for_the_deflated(first: int) -> None:
    classes = sorted(_STORAGE_CLASSES.values())[first : first + 64]
    port = RecordingPort()
    with running_receiver(port) as receiver:
        for syntax in ALL_TRANSFER_SYNTAXES:
            contexts = {2 * index + 1: (sop_class, [str(syntax)]) for index, sop_class in enumerate(classes)}
            with RawPeer(receiver.addresses[0]) as peer:
                peer.associate(contexts)
                peer.send(RELEASE_RQ)
                assert peer.read_pdu() == (6, bytes(4))
            expected = [] if syntax in DEFLATED_TRANSFER_SYNTAXES else classes
            assert [each.sop_class_uid for each in port.contexts[-1]] == expected
            assert {each.transfer_syntax_uid for each in port.contexts[-1]} <= {str(syntax)}


def test_private_classes_and_deflated_are_accepted_where_configured() -> None:
    port = RecordingPort()
    offer = StorageOffer(private_sop_classes=["1.3.46.670589.5.0.1"], with_deflated=True)
    receiver = Receiver(port, [Endpoint("127.0.0.1", 0)], offer=offer)
    receiver.start()
    with RawPeer(receiver.addresses[0]) as peer:
        peer.associate({1: ("1.3.46.670589.5.0.1", [EXPLICIT_LE]), 3: (CT, ["1.2.840.10008.1.2.1.99"]), 5: ("1.2.3.4", [EXPLICIT_LE])})
    receiver.stop(1)
    assert [each.context_id for each in port.contexts[0]] == [1, 3]


def test_role_of_provider_is_not_given_away() -> None:
    role = item(0x54, struct.pack(">H", len(CT)) + CT.encode() + b"\1\1")
    port = RecordingPort()
    with running_receiver(port) as receiver, RawPeer(receiver.addresses[0]) as peer:
        peer.send(associate_rq(BOTH_CONTEXTS, user_items=role))
        answer = peer.read_pdu()
        assert answer is not None and answer[0] == 2
        assert item(0x54, struct.pack(">H", len(CT)) + CT.encode() + b"\1\0") in answer[1]


# --- refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_pdu", "answer", "event"),
    [
        (associate_rq(BOTH_CONTEXTS, called="OTHER"), (1, 1, 7), "called_ae_title_refused"),
        (associate_rq(BOTH_CONTEXTS, calling="STRANGER"), (1, 1, 3), "calling_ae_title_refused"),
        (associate_rq(BOTH_CONTEXTS, called="    "), (1, 1, 7), "called_ae_title_refused"),
        (associate_rq(BOTH_CONTEXTS, calling="A\\B"), (1, 1, 3), "calling_ae_title_refused"),
        (associate_rq(BOTH_CONTEXTS, calling="A\x1b[2J"), (1, 1, 3), "calling_ae_title_refused"),
        (associate_rq(BOTH_CONTEXTS, application_context="1.2.3"), (1, 1, 2), "application_context_refused"),
        (associate_rq(BOTH_CONTEXTS, version=2), (1, 2, 2), "protocol_version_refused"),
    ],
)
def test_refused_association_gets_result_source_and_reason(request_pdu: bytes, answer: tuple[int, int, int], event: str) -> None:
    port = RecordingPort()
    with capture_logs() as logs, running_receiver(port) as receiver, RawPeer(receiver.addresses[0]) as peer:
        peer.send(request_pdu)
        assert peer.read_pdu() == (3, bytes((0, *answer)))
        assert peer.is_closed()
    assert [each["reason"] for each in logs if each["event"] == "association_refused"] == [event]
    assert port.ends == []


@pytest.mark.parametrize(
    "request_pdu",
    [
        pdu(1, bytes(200)),
        associate_rq({}),
        associate_rq({2: (CT, [EXPLICIT_LE])}),
        associate_rq({1: (CT, [])}),
        pdu(1, associate_rq(BOTH_CONTEXTS)[6:-1]),
        pdu(1, associate_rq(BOTH_CONTEXTS)[6:] + item(0x99, b"")),
        pdu(
            1,
            associate_rq(BOTH_CONTEXTS)[6:] + item(0x20, bytes((3, 0, 0, 0)) + item(0x30, CT.encode()) + item(0x40, IMPLICIT_LE.encode())),
        ),
        pdu(1, associate_rq(BOTH_CONTEXTS)[6:] + item(0x20, bytes((9, 0, 0, 0)) + item(0x40, b"") * 10_000)),
    ],
)
def test_malformed_request_is_aborted(request_pdu: bytes) -> None:
    with capture_logs() as logs, running_receiver(RecordingPort()) as receiver, RawPeer(receiver.addresses[0]) as peer:
        peer.send(request_pdu)
        answer = peer.read_pdu()
        # Titles of 200 zero bytes, or version 0, are refused before anything else is looked at.
        assert answer is not None and answer[0] in (3, 7)
        assert peer.is_closed()
    assert any(each["event"] in ("protocol_violated", "association_refused") for each in logs)


@pytest.mark.parametrize(
    ("sent", "abort"),
    [
        (pdu(4, pdv(9, 3, C_ECHO_RQ)), (2, 5)),  # a context that was not accepted
        (pdu(4, pdv(1, 2, b"data")), (2, 5)),  # a data set without a command
        (pdu(4, pdv(1, 3, b"nonsense")), (2, 6)),
        (pdu(4, pdv(1, 3, command({0x0002: b"1.2", 0x0100: 0x8001, 0x0120: 1, 0x0800: 0x0101, 0x0900: 0}))), (2, 5)),
        (pdu(4, pdv(3, 3, c_store_rq("1.2.3"))) + pdu(4, pdv(1, 2, b"data")), (2, 5)),
        (pdu(4, pdv(3, 3, c_store_rq("1.2.3"))) + RELEASE_RQ, (2, 2)),
        (associate_rq(BOTH_CONTEXTS), (2, 2)),
        (struct.pack(">BBI", 4, 0, 0xFFFFFFFF) + bytes(10), (2, 6)),
        (struct.pack(">BBI", 0x77, 0, 4) + bytes(4), (2, 1)),
        (pdu(6, bytes(4)), (2, 2)),
    ],
)
def test_violation_is_aborted_with_its_reason(sent: bytes, abort: tuple[int, int]) -> None:
    port = RecordingPort()
    with running_receiver(port) as receiver, RawPeer(receiver.addresses[0]) as peer:
        peer.associate()
        peer.send(sent)
        assert peer.read_pdu() == (7, bytes((0, 0, *abort)))
        assert peer.is_closed()
    assert port.ends == [SessionEnd.ABORTED]
    assert port.instances == []


def test_abort_and_hanging_up_are_told_apart() -> None:
    port = RecordingPort()
    with running_receiver(port) as receiver:
        with RawPeer(receiver.addresses[0]) as peer:
            peer.associate()
            peer.send_command(3, c_store_rq("1.2.3"))
            peer.send(ABORT)
            assert wait_until(lambda: port.ends == [SessionEnd.ABORTED])
        with RawPeer(receiver.addresses[0]) as peer:
            peer.associate()
            peer.send_command(3, c_store_rq("1.2.3"))
        assert wait_until(lambda: port.ends == [SessionEnd.ABORTED, SessionEnd.LOST])
    assert port.instances == []


def test_plaintext_beyond_loopback_must_be_allowed_aloud() -> None:
    with pytest.raises(BadInput, match="allow_plaintext_beyond_loopback"):
        Receiver(RecordingPort(), [Endpoint("0.0.0.0", 0)])
    with pytest.raises(BadInput):
        Receiver(RecordingPort(), [Endpoint("pacs.example", 0)])
    receiver = Receiver(RecordingPort(), [Endpoint("0.0.0.0", 0, allow_plaintext_beyond_loopback=True)])
    receiver.start()
    receiver.stop(0)


def test_taken_port_is_a_clear_error() -> None:
    with running_receiver(RecordingPort()) as receiver, pytest.raises(BadInput, match="cannot be bound"):
        Receiver(RecordingPort(), [Endpoint("127.0.0.1", 0), Endpoint(*receiver.addresses[0])]).start()


# --- instances -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (0xB000, 0xB000),
        (0xA900, 0xA900),
        (TemporarilyUnable("full"), 0xA700),
        (RefusedContent("malformed"), 0xC000),
        (KeyError("DOE^JANE"), 0x0110),
    ],
)
def test_answer_of_the_port_reaches_the_sender_without_its_text(answer: int | Exception, status: int) -> None:
    port = RecordingPort(status=answer)
    with capture_logs() as logs, running_receiver(port) as receiver, RawPeer(receiver.addresses[0]) as peer:
        peer.associate()
        for _ in range(2):
            peer.send_command(3, c_store_rq("1.2.3"))
            peer.send_dataset(3, b"payload!")
            response = peer.read_pdu()
            assert response is not None
            elements = elements_of(response[1][6:])
            assert int.from_bytes(elements[0x0900], "little") == status
            assert b"DOE" not in response[1]
    assert any(each["event"] == "instance_refused" and each["status"] == f"0x{status:04X}" for each in logs)
    assert "DOE" not in repr(logs)


@pytest.mark.parametrize(
    ("sop_instance", "sop_class", "status"),
    [("1.02", CT, 0x0117), ("../../x", CT, 0x0117), ("", CT, 0x0117), ("1.2.3", "1.2.840.10008.5.1.4.1.1.4", 0x0122)],
)
def test_command_alone_can_refuse_an_instance(sop_instance: str, sop_class: str, status: int) -> None:
    port = RecordingPort()
    with running_receiver(port) as receiver, RawPeer(receiver.addresses[0]) as peer:
        peer.associate()
        peer.send_command(3, c_store_rq(sop_instance, sop_class))
        peer.send_dataset(3, bytes(100_000))
        assert peer.read_status() == status
        assert peer.echo() < 5
    assert port.instances == []


def test_store_without_data_set_is_refused() -> None:
    with running_receiver(RecordingPort()) as receiver, RawPeer(receiver.addresses[0]) as peer:
        peer.associate()
        peer.send_command(3, c_store_rq("1.2.3", has_dataset=False))
        assert peer.read_status() == 0xC000


def test_unknown_operation_is_answered_and_its_data_set_passed_over() -> None:
    with running_receiver(RecordingPort()) as receiver, RawPeer(receiver.addresses[0]) as peer:
        peer.associate()
        peer.send_command(3, command({0x0002: CT.encode(), 0x0100: 0x0020, 0x0110: 5, 0x0700: 0, 0x0800: 1}))
        peer.send_dataset(3, bytes(50_000))
        answer = peer.read_pdu()
        assert answer is not None
        assert elements_of(answer[1][6:])[0x0100] == (0x8020).to_bytes(2, "little")
        assert elements_of(answer[1][6:])[0x0900] == (0x0211).to_bytes(2, "little")
        assert peer.echo() < 5


def test_large_instance_comes_in_pieces_and_whole() -> None:
    payload = bytes(range(256)) * 4096  # 1 MiB
    port = RecordingPort()
    limits = ReceiverLimits(association=AssociationLimits(window_bytes=256 * 1024))
    with running_receiver(port, limits=limits) as receiver, RawPeer(receiver.addresses[0]) as peer:
        peer.associate()
        for fragment in (16_000, 131_066, 100_001):
            peer.send_command(3, c_store_rq("1.2.3"))
            peer.send_dataset(3, payload, fragment)
            assert peer.read_status() == 0
        peer.send_command(3, c_store_rq("1.2.4"))
        peer.send(pdu(4, pdv(3, 0, payload[:100_000])) * 5)
        peer.send(ABORT)
        assert wait_until(lambda: port.ends != [])
    assert [data == payload for _, data in port.instances] == [True] * 3
    assert len(port.pieces) > 9 and port.discarded == 1


def test_instance_over_the_limit_is_refused_or_cut_short() -> None:
    port = RecordingPort()
    limits = ReceiverLimits(association=AssociationLimits(window_bytes=64 * 1024, instance_bytes_max=300_000))
    with running_receiver(port, limits=limits) as receiver, RawPeer(receiver.addresses[0]) as peer:
        peer.associate()
        peer.send_command(3, c_store_rq("1.2.3"))
        peer.send_dataset(3, bytes(400_000))
        assert peer.read_status() == 0xA700
        peer.send_command(3, c_store_rq("1.2.4"))
        peer.send_dataset(3, bytes(300_000))
        assert peer.read_status() == 0
        peer.send_command(3, c_store_rq("1.2.5"))
        peer.send_dataset(3, bytes(640_000))
        assert peer.read_pdu() == (7, bytes((0, 0, 2, 0)))
    assert [len(data) for _, data in port.instances] == [300_000]
    assert port.discarded == 2
