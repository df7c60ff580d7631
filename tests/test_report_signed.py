"""The signed original: one key, one text, one spelling."""

from __future__ import annotations

import base64
import json
import random
import subprocess
from pathlib import Path

import pytest

from crypto.canonical import canonical_json
from crypto.errors import IntegrityFailure, NotAllowed
from crypto.signing_key import create_reader_key
from crypto.signing_key import sign as sign_message
from reporting.signed_report import (
    SignedReport,
    canonical_public_key,
    message_to_sign,
    public_key_fingerprint,
    sign_report,
    verify_signed_report,
)
from tests.peers import require_peer
from tests.report_samples import PASSPHRASE, make_content, reader_key, sign


def test_envelope_gives_the_report_back() -> None:
    signed = sign(make_content())
    assert verify_signed_report(signed.envelope()) == signed.content
    assert (
        verify_signed_report(signed.envelope(), reader_key_fingerprints=[public_key_fingerprint(reader_key().public_pem)]) == signed.content
    )


def test_wrong_passphrase_and_wrong_pair_sign_nothing() -> None:
    key, other = reader_key(), create_reader_key(PASSPHRASE)
    with pytest.raises(NotAllowed):
        sign_report(make_content(), wrapped_key=key.wrapped, passphrase="wrong but long", public_key_pem=key.public_pem)
    with pytest.raises(IntegrityFailure):
        sign_report(make_content(), wrapped_key=key.wrapped, passphrase=PASSPHRASE, public_key_pem=other.public_pem)


def test_key_of_somebody_else_is_noticed_where_the_keys_are_known() -> None:
    with pytest.raises(IntegrityFailure, match="not the reader's"):
        verify_signed_report(sign(make_content()).envelope(), reader_key_fingerprints=["0" * 64])


def test_one_changed_bit_anywhere_in_the_envelope_is_noticed() -> None:
    envelope, chance = sign(make_content()).envelope(), random.Random(20261122)
    for position in range(0, len(envelope), 3):
        damaged = bytearray(envelope)
        damaged[position] ^= 1 << chance.randrange(8)
        with pytest.raises(IntegrityFailure):
            verify_signed_report(bytes(damaged))


def test_every_truncation_and_appendix_is_noticed() -> None:
    envelope = sign(make_content()).envelope()
    for damaged in (b"", envelope[:-1], envelope + b"\n", b" " + envelope, envelope[: len(envelope) // 2], envelope * 2):
        with pytest.raises(IntegrityFailure):
            verify_signed_report(damaged)


def test_signature_over_another_report_or_another_kind_of_message_does_not_fit() -> None:
    one, other = sign(make_content()), make_content(findings="Normal.")
    with pytest.raises(IntegrityFailure):
        verify_signed_report(SignedReport(other, one.reader_public_key_pem, one.signature).envelope())
    # A signature over the bare text, obtained by some other protocol with the same key, is no report's signature.
    bare = sign_message(reader_key().wrapped, PASSPHRASE, other.to_bytes())
    with pytest.raises(IntegrityFailure):
        verify_signed_report(SignedReport(other, one.reader_public_key_pem, bare).envelope())


def test_second_spelling_of_key_or_signature_is_refused() -> None:
    signed = sign(make_content())
    document = json.loads(signed.envelope())
    spellings = [
        document | {"reader_public_key": document["reader_public_key"].replace("\n", "\r\n")},
        document | {"signature": base64.b64encode(signed.signature + b"\x00").decode()},
        document | {"signature": document["signature"] + "="},
        document | {"algorithm": "none"},
        document | {"note": "extra"},
    ]
    for spelling in spellings:
        with pytest.raises(IntegrityFailure):
            verify_signed_report(canonical_json(spelling))


def test_public_key_of_any_line_length_becomes_canonical() -> None:
    pem = reader_key().public_pem.decode()
    assert canonical_public_key(pem.replace("\n", "\r\n")) == canonical_public_key(pem) == pem


@pytest.mark.interop
def test_openssl_verifies_the_signature_without_us(tmp_path: Path) -> None:
    signed = sign(make_content())
    for name, payload in (
        ("key.pem", reader_key().public_pem),
        ("signature", signed.signature),
        ("message", message_to_sign(signed.content)),
    ):
        (tmp_path / name).write_bytes(payload)
    command = [require_peer("openssl"), "dgst", "-sha256", "-verify", "key.pem", "-signature", "signature", "message"]
    outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert outcome.stdout.strip() == "Verified OK"
