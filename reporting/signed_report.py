"""The signed original: a report's canonical bytes, the reader's public key and the signature, as one JSON envelope.

- The envelope has exactly one spelling (RFC 8785, canonical PEM, canonical base64): one changed byte makes it invalid, even where
  the byte is not under the signature.
- What is signed is `MESSAGE_PREFIX` and the canonical bytes: the reader's key, asked to sign anything else, cannot yield a report.
- An envelope proves who held the key, not whose key it is: whoever verifies compares `key_fingerprint` with the reader's registered keys.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Collection
from dataclasses import dataclass

from crypto.canonical import canonical_json
from crypto.errors import BadInput, IntegrityFailure, RefusedContent
from crypto.signing_key import sign as sign_message
from crypto.signing_key import verify as verify_message
from reporting.content import ReportContent, content_from_document, parse_json
from reporting.text_rules import MALFORMED

FORMAT = "readgate-signed-report/1"
ALGORITHM = "ECDSA_P256_SHA256"
MESSAGE_PREFIX = b"readgate-signed-report/1\x00"
#: SubjectPublicKeyInfo of an uncompressed point on P-256 (RFC 5480), up to the coordinates: no other key signs reports.
_P256_UNCOMPRESSED = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
_PEM_FIRST, _PEM_LAST = "-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----"


@dataclass(frozen=True, slots=True)
class SignedReport:
    """A report with its reader's signature; existing says nothing about validity, `verify_signed_report` does."""

    content: ReportContent
    reader_public_key_pem: str
    signature: bytes

    def envelope(self) -> bytes:
        """The one byte form: what is stored, attached to the PDF, and given to `verify_signed_report`."""
        return canonical_json(
            {
                "format": FORMAT,
                "algorithm": ALGORITHM,
                "content": self.content.document(),
                "reader_public_key": self.reader_public_key_pem,
                "signature": base64.b64encode(self.signature).decode("ascii"),
            }
        )

    def key_fingerprint(self) -> str:
        """SHA-256 of the reader's public key, see `public_key_fingerprint`."""
        return public_key_fingerprint(self.reader_public_key_pem)


def message_to_sign(content: ReportContent) -> bytes:
    """The bytes that the reader's key signs."""
    return MESSAGE_PREFIX + content.to_bytes()


def sign_report(content: ReportContent, *, wrapped_key: bytes, passphrase: str, public_key_pem: bytes | str) -> SignedReport:
    """The report under the reader's signature, already verified against `public_key_pem`.

    Raises:
        NotAllowed: the passphrase does not open the key.
        IntegrityFailure: key and public key are not a pair.
    """
    message = message_to_sign(content)
    signature = sign_message(wrapped_key, passphrase, message)
    signed = SignedReport(content, canonical_public_key(public_key_pem), signature)
    if not verify_message(signed.reader_public_key_pem.encode(), message, signature):
        raise IntegrityFailure("the reader's key does not belong to the registered public key")
    return signed


def open_signed_report(envelope: bytes, *, reader_key_fingerprints: Collection[str] | None = None) -> SignedReport:
    """The signed report of an envelope, after every check of `verify_signed_report`.

    Raises:
        IntegrityFailure: the envelope is not exactly what was signed, or (where fingerprints are given) not by one of those keys.
    """
    # 0. It is JSON of our format, and its report is acceptable by itself.
    try:
        document = parse_json(envelope)
        if not isinstance(document, dict) or set(document) != {"format", "algorithm", "content", "reader_public_key", "signature"}:
            raise RefusedContent(MALFORMED, "envelope")
        if document["format"] != FORMAT or document["algorithm"] != ALGORITHM:
            raise RefusedContent(MALFORMED, "format or algorithm")
        signature = base64.b64decode(document["signature"], validate=True)
        signed = SignedReport(content_from_document(document["content"]), canonical_public_key(document["reader_public_key"]), signature)
    except (RefusedContent, BadInput, TypeError, ValueError):
        raise IntegrityFailure("the signed report is not of the format " + FORMAT) from None
    # 1. These bytes are the only spelling of it.
    if signed.envelope() != envelope:
        raise IntegrityFailure("the signed report is not in its canonical form")
    # 2. The key it carries signed exactly this.
    if not verify_message(signed.reader_public_key_pem.encode(), message_to_sign(signed.content), signature):
        raise IntegrityFailure("the reader's signature does not match the report")
    # 3. The key is one that the verifier knows. Without a list, this step is the caller's.
    if reader_key_fingerprints is not None and signed.key_fingerprint() not in reader_key_fingerprints:
        raise IntegrityFailure("the report is signed with a key that is not the reader's")
    return signed


def verify_signed_report(envelope: bytes, *, reader_key_fingerprints: Collection[str] | None = None) -> ReportContent:
    """The report that was signed.

    Raises:
        IntegrityFailure: see `open_signed_report`.
    """
    return open_signed_report(envelope, reader_key_fingerprints=reader_key_fingerprints).content


def canonical_public_key(pem: object) -> str:
    """The PEM text (RFC 7468, strict form) of a public key given in any line length.

    Raises:
        RefusedContent: no PEM of one public key on P-256.
    """
    encoded = base64.b64encode(_public_key_der(pem)).decode("ascii")
    lines = [encoded[start : start + 64] for start in range(0, len(encoded), 64)]
    return "\n".join((_PEM_FIRST, *lines, _PEM_LAST, ""))


def public_key_fingerprint(pem: bytes | str) -> str:
    """SHA-256 over the DER of the SubjectPublicKeyInfo, 64 lower-case hexadecimal digits.

    Raises:
        RefusedContent: no PEM of one public key on P-256.
    """
    return hashlib.sha256(_public_key_der(pem)).hexdigest()


def _public_key_der(pem: object) -> bytes:
    if isinstance(pem, bytes):
        pem = pem.decode("ascii", errors="replace")
    text = " ".join(pem.split()) if isinstance(pem, str) else ""
    if not (text.startswith(_PEM_FIRST) and text.endswith(_PEM_LAST)):
        raise RefusedContent(MALFORMED, "not a public key in PEM")
    try:
        der = base64.b64decode("".join(text.removeprefix(_PEM_FIRST).removesuffix(_PEM_LAST).split()), validate=True)
    except binascii.Error:
        raise RefusedContent(MALFORMED, "not a public key in PEM") from None
    if len(der) != 91 or not der.startswith(_P256_UNCOMPRESSED):
        raise RefusedContent(MALFORMED, "not a public key on P-256")
    return der
