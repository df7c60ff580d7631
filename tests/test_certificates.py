"""The demonstration's certificates hold in a real handshake, and say what they are."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from crypto.certificates import (
    KeyAndCertificate,
    create_ca,
    fingerprint,
    inspect,
    issue_client,
    issue_document_signer,
    issue_server,
)
from crypto.errors import BadInput

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def ca() -> KeyAndCertificate:
    return create_ca("Readgate demonstration CA")


def store(directory: Path, name: str, pair: KeyAndCertificate) -> str:
    path = directory / f"{name}.pem"
    path.write_bytes(pair.key_pem + pair.certificate_pem)
    return str(path)


def handshake(tmp_path: Path, ca: KeyAndCertificate, server: KeyAndCertificate, client: KeyAndCertificate, name: str) -> ssl.SSLObject:
    """The server's side of a finished mutual TLS handshake, in memory; raises where one side refuses the other."""
    ca_text = ca.certificate_pem.decode()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=ca_text)
    server_context.verify_mode = ssl.CERT_REQUIRED
    server_context.load_cert_chain(store(tmp_path, "server", server))
    client_context = ssl.create_default_context(cadata=ca_text)
    # What Python 3.13 asks by default: a certificate to the letter of RFC 5280.
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    server_context.verify_flags |= ssl.VERIFY_X509_STRICT
    client_context.load_cert_chain(store(tmp_path, "client", client))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client_context.wrap_bio(to_client, to_server, server_hostname=name),
        server_context.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(10):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert all(end.version() for end in ends)
    return ends[1]


@pytest.mark.parametrize("name", ["localhost", "gateway.example", "127.0.0.1", "::1"])
def test_mutual_tls_by_name_and_by_address(tmp_path: Path, ca: KeyAndCertificate, name: str) -> None:
    server = issue_server(ca, ["localhost", "gateway.example"], ["127.0.0.1", "::1"])
    client = issue_client(ca, "H1_PACS")
    seen = handshake(tmp_path, ca, server, client, name).getpeercert(binary_form=True)
    assert seen is not None
    assert fingerprint(seen) == fingerprint(client.certificate_pem)
    assert inspect(seen).subject_common_name == "H1_PACS"


def test_other_name_role_or_authority_is_refused(tmp_path: Path, ca: KeyAndCertificate) -> None:
    server, client = issue_server(ca, ["localhost"]), issue_client(ca, "H1_PACS")
    other = create_ca("Readgate demonstration CA")
    for pair in (
        (server, client, "other.example"),
        (issue_server(other, ["localhost"]), client, "localhost"),
        (server, issue_client(other, "H1_PACS"), "localhost"),
        (client, client, "localhost"),
        (server, issue_document_signer(ca, "Hospital"), "localhost"),
    ):
        with pytest.raises(ssl.SSLError):
            handshake(tmp_path, ca, *pair)


def test_server_may_call_as_a_client(tmp_path: Path, ca: KeyAndCertificate) -> None:
    server = issue_server(ca, ["localhost"])
    handshake(tmp_path, ca, server, server, "localhost")


def test_authority_signs_leaves_only(ca: KeyAndCertificate) -> None:
    certificate = x509.load_pem_x509_certificate(ca.certificate_pem)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.digital_signature) == (True, False)
    with pytest.raises(BadInput):
        issue_client(issue_client(ca, "not an authority"), "x")


def test_document_signer_has_the_usages_of_a_seal(ca: KeyAndCertificate) -> None:
    certificate = x509.load_pem_x509_certificate(issue_document_signer(ca, "Hospital One").certificate_pem)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.content_commitment, usage.key_cert_sign) == (True, True, False)
    extended = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [usage.dotted_string for usage in extended] == ["1.3.6.1.5.5.7.3.36"]
    assert inspect(certificate.public_bytes(Encoding.DER)).subject_common_name == "Hospital One"


def test_certificate_says_what_was_asked(ca: KeyAndCertificate) -> None:
    server = issue_server(ca, ["gateway.example"], ["192.0.2.7", "2001:db8::1"], now=NOW)
    facts = inspect(server.certificate_pem)
    assert facts.subject_common_name == "gateway.example"
    assert facts.issuer_common_name == "Readgate demonstration CA"
    assert facts.dns_names == ("gateway.example",)
    assert facts.ip_addresses == ("192.0.2.7", "2001:db8::1")
    assert (facts.not_before, facts.not_after) == (NOW - timedelta(hours=1), NOW + timedelta(days=397))
    assert facts.is_authority is False
    assert inspect(ca.certificate_pem).is_authority is True
    der = x509.load_pem_x509_certificate(server.certificate_pem).public_bytes(Encoding.DER)
    assert fingerprint(der) == fingerprint(server.certificate_pem) == facts.fingerprint
    assert len(facts.fingerprint) == 64


def test_private_key_shows_nowhere(ca: KeyAndCertificate) -> None:
    assert "PRIVATE" not in repr(ca)


@pytest.mark.parametrize("content", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_is_bad_input(content: bytes) -> None:
    for act in (fingerprint, inspect):
        with pytest.raises(BadInput):
            act(content)


def test_impossible_names_are_bad_input(ca: KeyAndCertificate) -> None:
    for dns, ips in (([], []), ([], ["not an address"]), (["ümlaut.example"], []), (["x" * 70], [])):
        with pytest.raises(BadInput):
            issue_server(ca, dns, ips)
    with pytest.raises(BadInput):
        issue_client(ca, "x" * 65)
