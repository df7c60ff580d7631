"""The hospital's seal: other people's validators accept it, and nothing else is accepted by ours."""

from __future__ import annotations

import asyncio
import io
import random
import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from asn1crypto import cms, pem, x509
from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter
from pyhanko.sign.fields import SigFieldSpec, append_signature_field

from crypto.certificates import create_ca, issue_client, issue_document_signer
from crypto.errors import BadInput, IntegrityFailure
from reporting.document import compose_document
from reporting.seal import seal_document, verify_seal
from tests.peers import require_peer
from tests.report_samples import NOW, authority, make_source, seal, sealed_sample, sealer

#: The hexadecimal digits of /Contents are the only bytes under no digest; every kind of change to them is tried.
FLIPS = 300


def _roots() -> list[bytes]:
    return [authority().certificate_pem]


def _contents(document: bytes) -> tuple[int, int]:
    match = re.search(rb"/Contents <([0-9A-F]{1000,})>", document)
    assert match
    return match.span(1)


def _with_cms(document: bytes, der: bytes) -> bytes:
    start, end = _contents(document)
    digits = der.hex().upper().encode().ljust(end - start, b"0")
    assert len(digits) == end - start
    return document[:start] + digits + document[end:]


def _cms_of(document: bytes) -> cms.ContentInfo:
    start, end = _contents(document)
    return cms.ContentInfo.load(bytes.fromhex(document[start:end].decode()))


def _refused(document: bytes, match: str | None = None) -> None:
    with pytest.raises(IntegrityFailure, match=match):
        verify_seal(document, _roots())


def test_seal_holds_and_says_who_and_when() -> None:
    moment = datetime.now(UTC).replace(microsecond=0)
    document = compose_document(make_source(), now=NOW)
    sealed = seal(document, at=moment)
    assert sealed.startswith(document)
    held = verify_seal(sealed, _roots())
    assert (held.sealed_by, held.sealed_at) == ("Saint Brigid University Hospital", moment)


@pytest.mark.interop
def test_pdfsig_says_valid_and_total(tmp_path: Path) -> None:
    path = tmp_path / "sealed.pdf"
    path.write_bytes(sealed_sample())
    said = subprocess.run([require_peer("pdfsig"), str(path)], capture_output=True, text=True, timeout=60, check=False).stdout
    assert "Signature is Valid" in said
    assert "Total document signed" in said
    assert "ETSI.CAdES.detached" in said


def test_one_changed_bit_anywhere_is_noticed() -> None:
    sealed, chance = sealed_sample(), random.Random(20261122)
    start, end = _contents(sealed)
    length = 2 * len(_cms_of(sealed).dump())
    positions = [chance.randrange(len(sealed)) for _ in range(FLIPS // 3)]
    positions += [start + chance.randrange(length) for _ in range(FLIPS // 3)]
    positions += [chance.randrange(start + length, end) for _ in range(FLIPS // 10)]
    positions += [start - 1, start - 2, end, end + 1, 0, len(sealed) - 1, *range(len(sealed) - 40, len(sealed))]
    for position in positions:
        damaged = bytearray(sealed)
        damaged[position] ^= 1 << chance.randrange(8)
        _refused(bytes(damaged))


def test_every_bit_of_the_unsigned_header_of_the_cms_counts() -> None:
    """The first bytes of the CMS, lengths, versions and algorithm names, are under no signature; they are compared instead."""
    sealed = sealed_sample()
    der = _cms_of(sealed).dump()
    for position in range(0, 70):
        for bit in (0, 5):
            damaged = bytearray(der)
            damaged[position] ^= 1 << bit
            _refused(_with_cms(sealed, bytes(damaged)))


def test_case_and_blanks_in_the_hexadecimal_are_noticed() -> None:
    sealed = sealed_sample()
    start, end = _contents(sealed)
    _refused(sealed[:start] + sealed[start:end].lower() + sealed[end:], "hexadecimal")
    _refused(sealed[: end - 1] + b" " + sealed[end:], "hexadecimal")
    _refused(sealed[: end - 1] + b"1" + sealed[end:], "padding")


@pytest.mark.parametrize("appendix", [b"\n", b"\x00", b"%%EOF\n", b"startxref\n0\n%%EOF\n"])
def test_bytes_after_the_end_are_noticed(appendix: bytes) -> None:
    _refused(sealed_sample() + appendix)
    _refused(appendix + sealed_sample())


def test_truncation_and_nonsense_are_noticed() -> None:
    sealed = sealed_sample()
    for damaged in (sealed[:-1], sealed[: len(sealed) // 2], b"", b"%PDF-1.7", compose_document(make_source(), now=NOW)):
        _refused(damaged)


def test_unsigned_attribute_is_noticed() -> None:
    sealed = sealed_sample()
    content_info = _cms_of(sealed)
    extra = cms.CMSAttribute({"type": "content_type", "values": ["data"]})
    content_info["content"]["signer_infos"][0]["unsigned_attrs"] = cms.CMSAttributes([extra])
    _refused(_with_cms(sealed, content_info.dump(force=True)), "more, or other")


def test_certificate_that_is_not_needed_is_noticed() -> None:
    sealed = sealed_sample()
    content_info = _cms_of(sealed)
    stranger = create_ca("Stranger").certificate_pem
    certificate = x509.Certificate.load(pem.unarmor(stranger)[2])
    bag = content_info["content"]["certificates"]
    bag.append(cms.CertificateChoices(name="certificate", value=certificate))
    content_info["content"]["certificates"] = bag
    _refused(_with_cms(sealed, content_info.dump(force=True)))


def test_second_signature_is_noticed() -> None:

    writer = IncrementalPdfFileWriter(io.BytesIO(sealed_sample()))
    append_signature_field(writer, SigFieldSpec("Other"))
    output = io.BytesIO()
    writer.write(output)
    _refused(output.getvalue())


def test_seal_of_another_authority_or_purpose_is_not_trusted() -> None:
    document = compose_document(make_source(), now=NOW)
    other = create_ca("Another Authority")
    with pytest.raises(IntegrityFailure, match="no trusted root"):
        verify_seal(sealed_sample(), [other.certificate_pem])
    with pytest.raises(IntegrityFailure, match="no trusted root"):
        verify_seal(sealed_sample(), [])
    # The same name and a root of the same name do not help.
    twin = issue_document_signer(create_ca("Test Authority"), "Saint Brigid University Hospital")
    sealed = seal_document(document, key_pem=twin.key_pem, certificate_pem=twin.certificate_pem, now=datetime.now(UTC))
    _refused(sealed, "no trusted root")


def test_certificate_must_be_valid_when_the_seal_was_made_not_when_it_is_checked() -> None:
    made = datetime.now(UTC) - timedelta(days=3000)
    ca = create_ca("Old Authority", now=made)
    signer = issue_document_signer(ca, "Old Hospital", now=made)
    document = compose_document(make_source(), now=NOW)
    sealed = seal_document(document, key_pem=signer.key_pem, certificate_pem=signer.certificate_pem, now=made + timedelta(days=10))
    assert verify_seal(sealed, [ca.certificate_pem]).sealed_by == "Old Hospital"
    with pytest.raises(IntegrityFailure, match="no trusted root"):
        verify_seal(sealed, [ca.certificate_pem], at=datetime.now(UTC))
    late = seal_document(document, key_pem=signer.key_pem, certificate_pem=signer.certificate_pem, now=datetime.now(UTC))
    with pytest.raises(IntegrityFailure, match="no trusted root"):
        verify_seal(late, [ca.certificate_pem])


def test_unusable_keys_are_refused_before_anything_is_sealed() -> None:
    document, signer = compose_document(make_source(), now=NOW), sealer()
    other = issue_client(authority(), "other")
    for key_pem, certificate_pem in (
        (other.key_pem, signer.certificate_pem),
        (b"nonsense", signer.certificate_pem),
        (signer.key_pem, b"nonsense"),
    ):
        with pytest.raises(BadInput):
            seal_document(document, key_pem=key_pem, certificate_pem=certificate_pem, now=NOW)
    with pytest.raises(IntegrityFailure):
        seal_document(b"not a PDF", key_pem=signer.key_pem, certificate_pem=signer.certificate_pem, now=NOW)
    with pytest.raises(BadInput):
        verify_seal(sealed_sample(), [b"nonsense"])


def test_seal_works_on_a_thread_that_runs_an_event_loop() -> None:
    async def inside() -> str:
        return verify_seal(seal(compose_document(make_source(), now=NOW)), _roots()).sealed_by

    assert asyncio.run(inside()) == "Saint Brigid University Hospital"
