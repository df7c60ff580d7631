"""A certificate authority of our own, for demonstrations and tests, and what a certificate says (RFC 5280).

Keys are EC P-256. A hospital in production brings certificates of its own; nothing of Readgate requires this authority.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from crypto.errors import BadInput

AUTHORITY_DAYS = 3650
#: The longest that browsers accept of a server.
LEAF_DAYS = 397
#: A seal is checked years after it was made.
DOCUMENT_SIGNER_DAYS = 1826

#: id-kp-documentSigning, RFC 9336.
_DOCUMENT_SIGNING = ObjectIdentifier("1.3.6.1.5.5.7.3.36")
#: Clocks of peers may be behind ours.
_BACKDATED = timedelta(hours=1)


@dataclass(frozen=True)
class KeyAndCertificate:
    """A private key (PKCS #8 PEM, not encrypted: write it 0600) and its certificate (PEM)."""

    key_pem: bytes = field(repr=False)
    certificate_pem: bytes


@dataclass(frozen=True)
class CertificateFacts:
    """What a certificate says; nothing of it was verified."""

    subject_common_name: str
    issuer_common_name: str
    fingerprint: str
    serial_number: int
    not_before: datetime
    not_after: datetime
    dns_names: tuple[str, ...]
    ip_addresses: tuple[str, ...]
    is_authority: bool


def create_ca(common_name: str, *, now: datetime | None = None) -> KeyAndCertificate:
    """A self-signed authority that may sign leaves and no further authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = _builder(name, name, key, now, AUTHORITY_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    return _pems(key, builder.sign(key, hashes.SHA256()))


def issue_server(ca: KeyAndCertificate, dns: Sequence[str], ips: Sequence[str] = (), *, now: datetime | None = None) -> KeyAndCertificate:
    """A TLS certificate for these names and addresses; also good as a client's, since a DICOM node calls and is called.

    Raises:
        BadInput: neither a name nor an address, or no IP address where one should be.
    """
    try:
        addresses = [x509.IPAddress(ipaddress.ip_address(address)) for address in ips]
        names: list[x509.GeneralName] = [*map(x509.DNSName, dns), *addresses]
    except ValueError:
        raise BadInput("a server certificate takes DNS names in ASCII and IP addresses") from None
    if not names:
        raise BadInput("a server certificate needs at least one DNS name or IP address")
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return _issue(ca, [(NameOID.COMMON_NAME, [*dns, *ips][0])], _key_usage(digital_signature=True), usages, now, LEAF_DAYS, names)


def issue_client(ca: KeyAndCertificate, name: str, *, now: datetime | None = None) -> KeyAndCertificate:
    """A TLS certificate that proves to a server that the caller is `name`."""
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    return _issue(ca, [(NameOID.COMMON_NAME, name)], _key_usage(digital_signature=True), usages, now, LEAF_DAYS)


def issue_document_signer(ca: KeyAndCertificate, organisation: str, *, now: datetime | None = None) -> KeyAndCertificate:
    """A certificate with which `organisation` seals documents (PAdES): digitalSignature and nonRepudiation."""
    subject = [(NameOID.ORGANIZATION_NAME, organisation), (NameOID.COMMON_NAME, organisation)]
    usage = _key_usage(digital_signature=True, content_commitment=True)
    return _issue(ca, subject, usage, [_DOCUMENT_SIGNING], now, DOCUMENT_SIGNER_DAYS)


def fingerprint(certificate: bytes) -> str:
    """Hex SHA-256 of the certificate's DER; `certificate` is PEM or DER.

    Raises:
        BadInput: not a certificate.
    """
    return hashlib.sha256(_load(certificate).public_bytes(serialization.Encoding.DER)).hexdigest()


def inspect(certificate: bytes) -> CertificateFacts:
    """What `certificate` (PEM or DER) says; parsed, not verified.

    Raises:
        BadInput: not a certificate.
    """
    parsed = _load(certificate)
    try:
        names = _alternative_names(parsed)
        return CertificateFacts(
            subject_common_name=_common_name(parsed.subject),
            issuer_common_name=_common_name(parsed.issuer),
            fingerprint=hashlib.sha256(parsed.public_bytes(serialization.Encoding.DER)).hexdigest(),
            serial_number=parsed.serial_number,
            not_before=parsed.not_valid_before_utc,
            not_after=parsed.not_valid_after_utc,
            dns_names=tuple(names.get_values_for_type(x509.DNSName)),
            ip_addresses=tuple(str(address) for address in names.get_values_for_type(x509.IPAddress)),
            is_authority=_is_authority(parsed),
        )
    except (ValueError, x509.DuplicateExtension):
        raise BadInput("the certificate cannot be read (RFC 5280)") from None


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime | None, days: int
) -> x509.CertificateBuilder:
    start = (now or datetime.now(UTC)).replace(microsecond=0)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - _BACKDATED)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _issue(
    ca: KeyAndCertificate,
    subject: Sequence[tuple[ObjectIdentifier, str]],
    usage: x509.KeyUsage,
    extended: Sequence[ObjectIdentifier],
    now: datetime | None,
    days: int,
    names: Sequence[x509.GeneralName] = (),
) -> KeyAndCertificate:
    authority = _load(ca.certificate_pem)
    authority_key = serialization.load_pem_private_key(ca.key_pem, password=None)
    if not isinstance(authority_key, ec.EllipticCurvePrivateKey) or not _is_authority(authority):
        raise BadInput("only a certificate authority issues certificates")
    try:
        subject_name = x509.Name([x509.NameAttribute(oid, value) for oid, value in subject])
    except ValueError:
        raise BadInput("a certificate's subject has 1 to 64 characters (RFC 5280 appendix A.1)") from None
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(subject_name, authority.subject, key, now, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(usage, critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
    issuer_identifier = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_identifier), critical=False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return _pems(key, builder.sign(authority_key, hashes.SHA256()))


def _key_usage(
    *, digital_signature: bool = False, content_commitment: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=content_commitment,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _pems(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> KeyAndCertificate:
    pem = serialization.Encoding.PEM
    key_pem = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return KeyAndCertificate(key_pem, certificate.public_bytes(pem))


def _load(certificate: bytes) -> x509.Certificate:
    try:
        if b"-----BEGIN" in certificate:
            return x509.load_pem_x509_certificate(certificate)
        return x509.load_der_x509_certificate(certificate)
    except ValueError:
        raise BadInput("not an X.509 certificate in PEM or DER") from None


def _common_name(name: x509.Name) -> str:
    attributes = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(attributes[0].value) if attributes else ""


def _alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return x509.SubjectAlternativeName([])


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False
