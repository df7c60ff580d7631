"""Sixty certificates that must open no association on the TLS port: fifteen faults with four kinds of keys (PS3.15 B.12)."""

from __future__ import annotations

import functools
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from crypto.certificates import KeyAndCertificate, create_ca, issue_client, issue_server
from gateway.dicom_tls import client_context, server_context
from gateway.receiver import Receiver
from tests.dicom_peers import IMPLICIT_LE, VERIFICATION, RecordingPort, associate_rq, running_receiver, tls_material

NOW = datetime.now(UTC)
KINDS = ["P-256", "P-384", "RSA-2048", "Ed25519"]
FAULTS = [
    "self-signed",
    "another authority",
    "another authority of the same name",
    "issued by a client",
    "issued by an expired authority",
    "expired a second ago",
    "expired years ago",
    "valid from tomorrow",
    "for servers only",
    "for code only",
    "for mail only",
    "for time stamps only",
    "key may only sign certificates",
    "unknown critical extension",
    "signature flipped",
]
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@functools.cache
def key_of(kind: str, number: int = 0) -> Key:
    if kind == "RSA-2048":
        return rsa.generate_private_key(65537, 2048)
    if kind == "Ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(ec.SECP256R1() if kind == "P-256" else ec.SECP384R1())


@pytest.fixture(scope="module")
def ca() -> KeyAndCertificate:
    return create_ca("Readgate test authority")


@pytest.fixture(scope="module")
def port() -> RecordingPort:
    return RecordingPort()


@pytest.fixture(scope="module")
def receiver(ca: KeyAndCertificate, port: RecordingPort) -> Iterator[Receiver]:
    with running_receiver(port, tls=server_context(tls_material(issue_server(ca, ["localhost"], ["127.0.0.1"]), ca))) as running:
        yield running


def name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def made(fault: str, kind: str, ca: KeyAndCertificate) -> KeyAndCertificate:
    """A client's certificate that has this fault and no other."""
    key = key_of(kind)
    issuer = {
        "another authority": lambda: create_ca("Somebody"),
        "another authority of the same name": lambda: create_ca("Readgate test authority"),
        "issued by a client": lambda: issue_client(ca, "H2 PACS"),
        "issued by an expired authority": lambda: create_ca("Readgate test authority", now=NOW - timedelta(days=9000)),
    }.get(fault, lambda: ca)()
    begins = NOW + timedelta(days=1) if fault == "valid from tomorrow" else NOW - timedelta(days=3000)
    ends = {"expired a second ago": NOW - timedelta(seconds=1), "expired years ago": NOW - timedelta(days=1000)}
    purpose = {
        "for servers only": ExtendedKeyUsageOID.SERVER_AUTH,
        "for code only": ExtendedKeyUsageOID.CODE_SIGNING,
        "for mail only": ExtendedKeyUsageOID.EMAIL_PROTECTION,
        "for time stamps only": ExtendedKeyUsageOID.TIME_STAMPING,
    }.get(fault, ExtendedKeyUsageOID.CLIENT_AUTH)
    signs_only_certificates = fault == "key may only sign certificates"
    subject, signer = name("H1 PACS"), serialization.load_pem_private_key(issuer.key_pem, None)
    issuer_name = x509.load_pem_x509_certificate(issuer.certificate_pem).subject
    if fault == "self-signed":
        signer, issuer_name = key, subject
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends.get(fault, NOW + timedelta(days=2)))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(_usage(signs_only_certificates), critical=True)
    )
    if fault == "unknown critical extension":
        builder = builder.add_extension(x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00"), critical=True)
    assert isinstance(signer, CertificateIssuerPrivateKeyTypes)
    algorithm = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    encoded = builder.sign(signer, algorithm).public_bytes(serialization.Encoding.DER)
    if fault == "signature flipped":
        encoded = encoded[:-3] + bytes([encoded[-3] ^ 1]) + encoded[-2:]
    pem = ssl.DER_cert_to_PEM_cert(encoded).encode()
    if fault == "issued by a client":
        pem += issuer.certificate_pem
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return KeyAndCertificate(private, pem)


def _usage(signs_only_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_only_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_only_certificates,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def answer(receiver: Receiver, own: KeyAndCertificate, ca: KeyAndCertificate, version: ssl.TLSVersion) -> bytes:
    """What comes back to an association request; SSLError or ConnectionError where TLS says no."""
    context = client_context(tls_material(own, ca))
    context.minimum_version = context.maximum_version = version
    with socket.create_connection(receiver.addresses[0], 5) as raw, context.wrap_socket(raw, server_hostname="127.0.0.1") as secured:
        secured.sendall(associate_rq({1: (VERIFICATION, [IMPLICIT_LE])}))
        return secured.recv(6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_certificate_with_a_fault_opens_nothing(
    fault: str, kind: str, ca: KeyAndCertificate, receiver: Receiver, port: RecordingPort
) -> None:
    own = made(fault, kind, ca)
    port.peers.clear()
    for version in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            answer(receiver, own, ca, version)
    assert not port.peers


@pytest.mark.parametrize("kind", ["P-256", "P-384", "RSA-2048"])
def test_same_certificate_without_a_fault_is_taken(kind: str, ca: KeyAndCertificate, receiver: Receiver) -> None:
    assert answer(receiver, made("none", kind, ca), ca, ssl.TLSVersion.TLSv1_3)[:1] == b"\2"
