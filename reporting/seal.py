"""The hospital's seal over its copy: one PAdES signature (ETSI EN 319 142-1, B-B profile) over the whole file.

PDF signatures leave holes: bytes outside /ByteRange, the zero padding and letter case of the hexadecimal /Contents, parts of the CMS
that nothing signs, revisions appended later. `verify_seal` therefore accepts one shape only, the one that `seal_document` writes:
- one signature, its /ByteRange from the first byte to the last, leaving out exactly the hexadecimal string with its brackets;
- that string is upper-case hexadecimal of one DER value, and zeros;
- the DER, decoded, encodes to itself, and holds nothing but a fixed SignedData: no content, no CRLs, no unsigned attributes,
  one signer, only certificates of the signer's own path;
- the digest, the signature and the path to a given root hold.
What is left is either under the SHA-256, or compared with the only value it may have; so one changed byte anywhere is noticed.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from asn1crypto import cms, parser, x509
from pyhanko.keys import load_certs_from_pemder_data, load_private_key_from_pemder_data
from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter
from pyhanko.pdf_utils.misc import PdfError
from pyhanko.pdf_utils.reader import PdfFileReader
from pyhanko.sign import SimpleSigner
from pyhanko.sign.fields import SigFieldSpec, SigSeedSubFilter
from pyhanko.sign.general import SigningError
from pyhanko.sign.signers.cms_embedder import PdfCMSEmbedder, SigIOSetup, SigObjSetup
from pyhanko.sign.signers.pdf_byterange import SignatureObject
from pyhanko.sign.validation import EmbeddedPdfSignature
from pyhanko.sign.validation.generic_cms import validate_sig_integrity
from pyhanko.sign.validation.status import SignatureCoverageLevel
from pyhanko_certvalidator import CertificateValidator, ValidationContext
from pyhanko_certvalidator.registry import SimpleCertificateStore

from crypto.errors import BadInput, IntegrityFailure

T = TypeVar("T")

FIELD_NAME = "HospitalSeal"
DIGEST = "sha256"
#: Hexadecimal digits kept for the CMS: room for a path of three certificates.
CONTENTS_DIGITS = 16_384
#: What is larger was not made by `compose_document` and is not parsed.
DOCUMENT_BYTES_MAX = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Seal:
    """A seal that held: by whom, when (the sealer's own clock, inside the seal), and under which root."""

    sealed_by: str
    sealed_at: datetime
    certificate_sha256: str
    root_sha256: str


def seal_document(
    document: bytes, *, key_pem: bytes, certificate_pem: bytes, chain_pem: bytes | None = None, now: datetime, reason: str = ""
) -> bytes:
    """`document` with the hospital's seal over all of it, appended as one revision: the bytes of `document` stay in front, unchanged.

    `chain_pem` holds the certificates between the hospital's and the root, if any.

    Raises:
        BadInput: key or certificate cannot be used, or they are no pair.
        IntegrityFailure: `document` is not a PDF that can be sealed.
    """
    try:
        key = load_private_key_from_pemder_data(key_pem, passphrase=None)
        (certificate,) = load_certs_from_pemder_data(certificate_pem)
        chain = list(load_certs_from_pemder_data(chain_pem)) if chain_pem else []
    except (ValueError, TypeError):
        raise BadInput("the sealing key or certificate is not PEM of one EC or RSA key and one certificate") from None
    signer = SimpleSigner(certificate, key, SimpleCertificateStore.from_certs(chain), embed_roots=False)  # type: ignore[no-untyped-call]
    placeholder = SignatureObject(
        timestamp=now.astimezone(UTC), subfilter=SigSeedSubFilter.PADES, reason=reason or None, bytes_reserved=CONTENTS_DIGITS
    )
    try:
        writer = IncrementalPdfFileWriter(io.BytesIO(document))
        # The writer would stamp its own clock and a producer into the XMP packet; the document's metadata are part of the page we compare.
        writer._update_meta = lambda: None  # type: ignore[method-assign]
        embedding = PdfCMSEmbedder(new_field_spec=SigFieldSpec(FIELD_NAME)).write_cms(FIELD_NAME, writer)
        next(embedding)
        embedding.send(SigObjSetup(sig_placeholder=placeholder))
        prepared, output = embedding.send(SigIOSetup(md_algorithm=DIGEST))
        content_info = _awaited(signer.async_sign(prepared.document_digest, DIGEST, use_pades=True))
        embedding.send(content_info)
    except (SigningError, PdfError, ValueError, KeyError) as failure:
        raise IntegrityFailure(f"the document cannot be sealed ({type(failure).__name__})") from None
    (signer_info,) = content_info["content"]["signer_infos"]
    if not all(validate_sig_integrity(signer_info, certificate, "data", prepared.document_digest)):
        raise BadInput("the sealing certificate does not belong to the sealing key")
    return bytes(output.getvalue())


def verify_seal(document: bytes, trust_roots_pem: Sequence[bytes], *, at: datetime | None = None) -> Seal:
    """The seal of `document`, which held under one of `trust_roots_pem`.

    The certificates are checked as of `at`; without it as of the time inside the seal, which is the sealer's word.

    Raises:
        IntegrityFailure: one of the steps below failed; the message says which.
        BadInput: `trust_roots_pem` are no certificates.
    """
    try:
        roots = [root for pem in trust_roots_pem for root in load_certs_from_pemder_data(pem)]
    except (ValueError, TypeError):
        raise BadInput("a trust root is not a certificate in PEM") from None
    if len(document) > DOCUMENT_BYTES_MAX:
        raise IntegrityFailure(f"the file has {len(document)} bytes, at most {DOCUMENT_BYTES_MAX} are read")
    try:
        return _verified(document, roots, at)
    except IntegrityFailure:
        raise
    except Exception as failure:  # Whatever three parsers raise on damaged input means one thing here: this is not what was sealed.
        raise IntegrityFailure(f"the file is damaged: its seal cannot be read ({type(failure).__name__})") from None


def _verified(document: bytes, roots: list[x509.Certificate], at: datetime | None) -> Seal:
    # 0. The file parses strictly and holds one signature, ours by name and kind.
    reader = PdfFileReader(io.BytesIO(document), strict=True)
    signatures = reader.embedded_signatures
    _require(len(signatures) == 1, f"the file holds {len(signatures)} signatures, not one")
    signature = signatures[0]
    entry = signature.sig_object
    _require(entry["/SubFilter"] == "/ETSI.CAdES.detached" and entry["/Filter"] == "/Adobe.PPKLite", "the signature is not PAdES")
    # 1. /ByteRange leaves out the hexadecimal string, brackets included, and nothing else; nothing follows its end.
    cms_bytes = _contents(document, [int(number) for number in entry["/ByteRange"]])
    _require(bytes(entry.raw_get("/Contents")) == cms_bytes, "/Contents is elsewhere")
    _require(signature.evaluate_signature_coverage() is SignatureCoverageLevel.ENTIRE_FILE, "the seal does not cover the whole file")
    # 2. The CMS is the one encoding of the one structure that a seal may have.
    signer, certificates = _strict_cms(cms_bytes)
    certificate = certificates[0]
    # 3. Digest, signed attributes and signature hold.
    start, end = int(entry["/ByteRange"][1]), int(entry["/ByteRange"][2])
    actual = hashlib.sha256(document[:start] + document[end:]).digest()
    intact, valid = validate_sig_integrity(signer, certificate, "data", actual)
    _require(intact and valid, "the seal does not match the file: it was changed after sealing")
    # 4. Every certificate in it is part of one path to a root we were given, and may sign documents.
    sealed_at = _sealed_at(signature)
    root = _awaited(_trusted_root(certificates, roots, at or sealed_at))
    return Seal(
        sealed_by=str(certificate.subject.native.get("organization_name") or certificate.subject.human_friendly),
        sealed_at=sealed_at,
        certificate_sha256=certificate.sha256.hex(),
        root_sha256=root.sha256.hex(),
    )


def _contents(document: bytes, byte_range: list[int]) -> bytes:
    """The bytes that /ByteRange leaves out, decoded: one DER value and its zero padding.

    What `bytes.fromhex` alone would forgive (case, blanks) is no part of the seal's digest, so it may have one spelling only.
    """
    _require(len(byte_range) == 4, "/ByteRange has not four numbers")
    first, start, end, length = byte_range
    _require(first == 0 and 0 < start < end and end + length == len(document), "/ByteRange does not end where the file ends")
    gap = document[start:end]
    _require(gap[:1] == b"<" and gap[-1:] == b">", "/ByteRange leaves out more than /Contents")
    digits = gap[1:-1]
    _require(len(digits) % 2 == 0 and all(digit in b"0123456789ABCDEF" for digit in digits), "/Contents is not plain hexadecimal")
    return bytes.fromhex(digits.decode("ascii"))


def _strict_cms(padded: bytes) -> tuple[cms.SignerInfo, list[x509.Certificate]]:
    """The signer and its certificates (the signer's first), if `padded` is exactly their encoding and zeros."""
    content_info = cms.ContentInfo.load(padded)
    length = len(content_info.dump())
    _require(not any(padded[length:]), "the padding of /Contents is not zero")
    _require(content_info["content_type"].native == "signed_data", "/Contents is not CMS SignedData")
    signed_data = content_info["content"]
    (signer,) = signed_data["signer_infos"]
    certificates = [choice.chosen for choice in signed_data["certificates"]]
    serial = signer["sid"].chosen["serial_number"].native
    certificates.sort(key=lambda certificate: certificate.serial_number != serial)
    _require(bool(certificates) and all(isinstance(one, x509.Certificate) for one in certificates), "the seal holds no certificate")
    certificate = certificates[0]
    named = cms.IssuerAndSerialNumber({"issuer": certificate.issuer, "serial_number": certificate.serial_number})
    rebuilt_signer = cms.SignerInfo(
        {
            "version": "v1",
            "sid": cms.SignerIdentifier({"issuer_and_serial_number": named}),
            "digest_algorithm": {"algorithm": DIGEST},
            "signed_attrs": signer["signed_attrs"],
            "signature_algorithm": {"algorithm": _signature_algorithm(certificate)},
            "signature": signer["signature"].native,
        }
    )
    rebuilt = cms.ContentInfo(
        {
            "content_type": "signed_data",
            "content": cms.SignedData(
                {
                    "version": "v1",
                    "digest_algorithms": [{"algorithm": DIGEST}],
                    "encap_content_info": {"content_type": "data"},
                    "certificates": signed_data["certificates"],
                    "signer_infos": [rebuilt_signer],
                }
            ),
        }
    )
    _require(rebuilt.dump() == padded[:length], "the seal's CMS holds more, or other, than a seal may hold")
    # Parts taken over as they are: their outermost lengths and tags are under no signature.
    attributes = signer["signed_attrs"]
    _require(parser.emit(2, 1, 0, attributes.contents) == attributes.dump(), "the signed attributes are not in DER")
    bag = b"".join(one.chosen.dump() for one in signed_data["certificates"])
    _require(parser.emit(2, 1, 0, bag) == signed_data["certificates"].dump(), "the certificates are not in DER")
    for one in certificates:
        _require_plain_certificate(one)
    return signer, certificates


def _require_plain_certificate(certificate: x509.Certificate) -> None:
    """What a certificate holds beside its signed part is the signed algorithm again and the signature, each in DER."""
    signed, algorithm, signature = (certificate[name] for name in ("tbs_certificate", "signature_algorithm", "signature_value"))
    _require(algorithm.dump() == signed["signature"].dump(), "a certificate names two signature algorithms")
    contents = signed.dump() + algorithm.dump() + parser.emit(0, 0, 3, b"\0" + signature.native)
    _require(parser.emit(0, 1, 16, contents) == certificate.dump(), "a certificate is not in DER")


def _signature_algorithm(certificate: x509.Certificate) -> str:
    algorithm = certificate.public_key.algorithm
    _require(algorithm in ("ec", "rsa"), "the seal's key is neither EC nor RSA")
    return "sha256_ecdsa" if algorithm == "ec" else "sha256_rsa"


def _sealed_at(signature: EmbeddedPdfSignature) -> datetime:
    moment = signature.self_reported_timestamp
    if moment is None or moment.utcoffset() is None:
        raise IntegrityFailure("the seal does not say when it was made")
    return moment.astimezone(UTC)


async def _trusted_root(certificates: list[x509.Certificate], roots: list[x509.Certificate], at: datetime) -> x509.Certificate:
    context = ValidationContext(trust_roots=roots, moment=at, best_signature_time=at, allow_fetching=False, revocation_mode="soft-fail")
    validator = CertificateValidator(certificates[0], intermediate_certs=certificates[1:], validation_context=context)
    try:
        path = await validator.async_validate_usage({"digital_signature"})  # type: ignore[no-untyped-call]
    except Exception as failure:  # The library's ways of saying no do not share a base class.
        raise IntegrityFailure(f"the seal's certificate leads to no trusted root ({type(failure).__name__})") from None
    path_digests = {certificate.sha256 for certificate in path}
    _require(all(certificate.sha256 in path_digests for certificate in certificates), "the seal holds a certificate that it does not need")
    return next(root for root in roots if root.sha256 in path_digests)


def _awaited(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of one of the library's coroutines, none of which waits for anything; on a thread that runs a loop it gets another."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(asyncio.run, coroutine).result()


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise IntegrityFailure(otherwise)
