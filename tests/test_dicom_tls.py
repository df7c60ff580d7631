"""TLS of the DICOM port: who gets in, by which certificate and which suite."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from crypto.certificates import KeyAndCertificate, create_ca, issue_client, issue_server
from crypto.errors import BadInput
from gateway.association_limits import AssociationLimits
from gateway.dicom_tls import TLS_1_2_SUITES, client_context, server_context
from gateway.receiver import Receiver, ReceiverLimits
from gateway.store_scu import RemoteAe, store
from tests.builders import make_ct_study, part10_of, payload_of
from tests.dicom_peers import (
    IMPLICIT_LE,
    VERIFICATION,
    RawPeer,
    RecordingPort,
    associate_rq,
    running_receiver,
    tls_material,
    wait_until,
)


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


def _sent_and_answered(receiver: Receiver, context: ssl.SSLContext) -> bytes:
    """What comes back to an A-ASSOCIATE-RQ, b"" if nothing; SSLError where TLS says no."""
    with socket.create_connection(receiver.addresses[0], 5) as raw, context.wrap_socket(raw, server_hostname="127.0.0.1") as secured:
        secured.sendall(associate_rq({1: (VERIFICATION, [IMPLICIT_LE])}))
        return secured.recv(6)


@pytest.mark.parametrize("case", ["self-signed", "other authority", "expired", "not yet valid", "server only", "none"])
def test_peer_without_a_good_certificate_gets_an_alert(case: str, ca: KeyAndCertificate, server_tls: ssl.SSLContext) -> None:
    now = datetime.now(UTC)
    authority = KeyAndCertificate(ca.key_pem, ca.certificate_pem)
    own = {
        "self-signed": lambda: create_ca("H1 PACS"),
        "other authority": lambda: issue_client(create_ca("Readgate test authority"), "H1 PACS"),
        "expired": lambda: issue_client(authority, "H1 PACS", now=now - timedelta(days=5000)),
        "not yet valid": lambda: issue_client(authority, "H1 PACS", now=now + timedelta(days=30)),
        "server only": lambda: _server_only(authority),
        "none": lambda: None,
    }[case]()
    if own is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context = client_context(tls_material(own, ca))
    port = RecordingPort()
    with capture_logs() as logs, running_receiver(port, tls=server_tls) as receiver:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            assert _sent_and_answered(receiver, context) == b""
            raise ConnectionError
        assert wait_until(lambda: any(each["event"] == "tls_handshake_refused" for each in logs))
    assert port.peers == []
    reason = next(each["reason"] for each in logs if each["event"] == "tls_handshake_refused")
    assert port.handshakes_refused == [("127.0.0.1", reason)]
    assert "certificate" in reason


def _server_only(ca: KeyAndCertificate) -> KeyAndCertificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.load_pem_x509_certificate(ca.certificate_pem)
    signer = serialization.load_pem_private_key(ca.key_pem, None)
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "H1 PACS")]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(signer, hashes.SHA256())  # type: ignore[arg-type]
    )
    encoded = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return KeyAndCertificate(encoded, certificate.public_bytes(serialization.Encoding.PEM))


@pytest.mark.parametrize("suite", ["AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES256-CCM", "DHE-RSA-AES256-GCM-SHA384"])
def test_other_suites_are_not_spoken(suite: str, ca: KeyAndCertificate, server_tls: ssl.SSLContext, hospital: KeyAndCertificate) -> None:
    context = client_context(tls_material(hospital, ca))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(suite)
    with running_receiver(RecordingPort(), tls=server_tls) as receiver, pytest.raises((ssl.SSLError, ConnectionError)):
        _sent_and_answered(receiver, context)


@pytest.mark.parametrize("suite", [each for each in TLS_1_2_SUITES if "ECDSA" in each])
def test_suites_of_the_profile_are_spoken(
    suite: str, ca: KeyAndCertificate, server_tls: ssl.SSLContext, hospital: KeyAndCertificate
) -> None:
    context = client_context(tls_material(hospital, ca))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(suite)
    with running_receiver(RecordingPort(), tls=server_tls) as receiver:
        assert _sent_and_answered(receiver, context)[:1] == b"\2"


def test_old_protocols_are_not_in_the_context(server_tls: ssl.SSLContext) -> None:
    assert server_tls.minimum_version is ssl.TLSVersion.TLSv1_2
    names = {each["name"] for each in server_tls.get_ciphers() if each["protocol"] != "TLSv1.3"}
    assert names == set(TLS_1_2_SUITES)


def test_half_a_handshake_is_cut_at_its_deadline(server_tls: ssl.SSLContext) -> None:
    limits = ReceiverLimits(association=AssociationLimits(acse_seconds_max=0.6))
    with running_receiver(RecordingPort(), tls=server_tls, limits=limits) as receiver, RawPeer(receiver.addresses[0]) as peer:
        began = time.monotonic()
        peer.send(b"\x16\x03\x01\x02\x00\x01")
        assert peer.is_closed()
        assert time.monotonic() - began < 3


def test_tls_association_idles_drains_and_carries_large_instances(
    ca: KeyAndCertificate, server_tls: ssl.SSLContext, hospital: KeyAndCertificate
) -> None:
    port = RecordingPort()
    dataset = make_ct_study(1, rows=512, columns=512)[0]
    limits = ReceiverLimits(association=AssociationLimits(window_bytes=100_000))
    with running_receiver(port, tls=server_tls, limits=limits) as receiver:
        assert store(part10_of(dataset), remote(receiver, client_context(tls_material(hospital, ca)))) == 0
        with RawPeer(receiver.addresses[0]) as raw:
            raw.socket = client_context(tls_material(hospital, ca)).wrap_socket(raw.socket, server_hostname="127.0.0.1")
            raw.associate()
            time.sleep(0.6)
            assert raw.echo() < 5
            stopping = threading.Thread(target=receiver.stop, args=(5,))
            stopping.start()
            assert raw.read_pdu() == (7, bytes(4))
            stopping.join(10)
    assert port.instances[0][1] == payload_of(dataset)


def test_unusable_pem_is_a_clear_error(ca: KeyAndCertificate, hospital: KeyAndCertificate) -> None:
    other = issue_client(ca, "OTHER")
    with pytest.raises(BadInput, match="PEM"):
        server_context(tls_material(KeyAndCertificate(other.key_pem, hospital.certificate_pem), ca))
