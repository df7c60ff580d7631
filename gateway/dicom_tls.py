"""TLS for DICOM: both sides show a certificate, and only the suites of PS3.15 B.12 and B.13 are spoken.

- TLS 1.2 with ephemeral ECDH and AEAD suites (RFC 9325 4.2), or TLS 1.3; no compression, no renegotiation, no session tickets: every
  connection shows its certificate anew.
- A peer without a certificate, or with one that no configured authority issued for this use and for today, gets a TLS alert and nothing
  else.
- Keys come as PEM bytes. The TLS library wants a file, so it gets one that exists in memory only.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from crypto.errors import BadInput

#: TLS 1.2 suites by their OpenSSL names: TLS_ECDHE_{ECDSA,RSA}_WITH_AES_{256,128}_GCM and, by B.13, CHACHA20_POLY1305.
#: Security level 2 refuses keys under 112 bits of strength (RSA under 2048, EC under 224) and SHA-1 signatures.
TLS_1_2_SUITES = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
)
_CIPHERS = "@SECLEVEL=2:" + ":".join(TLS_1_2_SUITES)


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """PEM bytes: own certificate (with its intermediates), its unencrypted key, the authorities of the peers, optional revocation lists."""

    certificate_pem: bytes
    key_pem: bytes
    trusted_authorities_pem: bytes
    revocations_pem: bytes | None = None


def server_context(material: TlsMaterial) -> ssl.SSLContext:
    """A context that accepts peers with a client certificate of one of the trusted authorities. Raises: BadInput for unusable PEM."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, material)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET | ssl.OP_CIPHER_SERVER_PREFERENCE
    return context


def client_context(material: TlsMaterial, *, check_hostname: bool = True) -> ssl.SSLContext:
    """A context that shows our certificate and accepts servers of the trusted authorities. Raises: BadInput for unusable PEM.

    Hospital devices often carry certificates without their address in them: `check_hostname` may then be off, because the authority is the
    hospital's own.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, material)
    context.check_hostname = check_hostname
    return context


def refusal_reason(error: ssl.SSLError) -> str:
    """A constant that says why a handshake failed; never a name out of a certificate."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERIFY_REASONS.get(error.verify_code, f"certificate_refused_{error.verify_code}")
    return (error.reason or "tls_protocol_error").lower()


def subject_of(certificate: Mapping[str, Any] | None) -> str | None:
    """The subject of a verified certificate as "C=…, O=…, CN=…", None without one."""
    if not certificate:
        return None
    parts = []
    for names in certificate.get("subject", ()):
        for key, value in names:
            parts.append(f"{_SHORT_NAMES.get(key, key)}={value}")
    return ", ".join(parts)


#: OpenSSL's verification codes (x509_vfy.h).
_VERIFY_REASONS = {
    2: "certificate_authority_unknown",
    3: "certificate_revocation_list_missing",
    7: "certificate_signature_invalid",
    9: "certificate_not_yet_valid",
    10: "certificate_expired",
    12: "certificate_revocation_list_expired",
    18: "certificate_self_signed",
    19: "certificate_authority_untrusted",
    20: "certificate_authority_unknown",
    21: "certificate_chain_incomplete",
    22: "certificate_chain_too_long",
    23: "certificate_revoked",
    26: "certificate_not_for_this_use",
    66: "certificate_key_too_weak",
    67: "certificate_authority_key_too_weak",
    68: "certificate_signature_too_weak",
    79: "certificate_authority_invalid",
}
_SHORT_NAMES = {"commonName": "CN", "organizationName": "O", "organizationalUnitName": "OU", "countryName": "C", "localityName": "L"}


def _context(protocol: int, material: TlsMaterial) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    try:
        context.set_ciphers(_CIPHERS)
        with _as_path(material.certificate_pem) as certificate, _as_path(material.key_pem) as key:
            # An empty password keeps the library from asking for one at the terminal.
            context.load_cert_chain(certificate, key, password="")
        context.load_verify_locations(cadata=material.trusted_authorities_pem.decode("ascii"))
        if material.revocations_pem is not None:
            with _as_path(material.revocations_pem) as revocations:
                context.load_verify_locations(cafile=revocations)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    except (ssl.SSLError, OSError, ValueError):
        raise BadInput(
            "the TLS certificate, its key, the authorities and the revocation lists are no usable PEM that fits together"
        ) from None
    return context


@contextlib.contextmanager
def _as_path(content: bytes) -> Iterator[str]:
    """A path under which `content` can be opened for the time of the block."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
        try:
            with os.fdopen(os.dup(descriptor), "wb") as file:
                file.write(content)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            yield file.name
