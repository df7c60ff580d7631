"""The keyed digest that recognises repeated payloads (crypto/payload_digest.py)."""

from __future__ import annotations

import hmac

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.payload_digest import DIGEST_BYTES, PayloadDigestKey

SECRET = bytes(range(32))


def digest(secret: bytes, *parts: bytes) -> str:
    one = PayloadDigestKey(secret).begin()
    for part in parts:
        one.update(part)
    return one.hexdigest()


@given(st.lists(st.binary(max_size=300), max_size=6))
@settings(max_examples=60)
def test_division_into_parts_makes_no_difference(parts: list[bytes]) -> None:
    assert digest(SECRET, *parts) == digest(SECRET, b"".join(parts))
    assert len(bytes.fromhex(digest(SECRET, *parts))) == DIGEST_BYTES


@given(st.binary(max_size=400), st.binary(max_size=400))
@settings(max_examples=60)
def test_different_payloads_have_different_digests(one: bytes, other: bytes) -> None:
    assert (digest(SECRET, one) == digest(SECRET, other)) == (one == other)


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 4096])
def test_zeros_appended_or_taken_away_are_seen(length: int) -> None:
    payload = b"x" + bytes(length)
    assert len({digest(SECRET, payload), digest(SECRET, payload + b"\0"), digest(SECRET, payload + bytes(16))}) == 3


def test_no_owner_recognises_the_payloads_of_another() -> None:
    assert digest(SECRET, b"payload") != digest(bytes(32), b"payload")


def test_what_leaves_is_not_the_tag() -> None:
    key = PayloadDigestKey(SECRET)
    point = HKDFExpand(algorithm=hashes.SHA256(), length=32, info=b"readgate payload digest v1 gmac").derive(SECRET)
    tag = AESGCM(point).encrypt(bytes(12), b"", b"payload")
    assert digest(SECRET, b"payload") == hmac.digest(key._finish, tag, "sha256")[:DIGEST_BYTES].hex()
    assert tag.hex()[:8] not in digest(SECRET, b"payload")


def test_secret_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        PayloadDigestKey(b"short")
