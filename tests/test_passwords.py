"""Logins."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyotp
import pytest

from crypto.passwords import (
    hash_password,
    password_needs_rehash,
    totp_new_secret,
    totp_uri,
    totp_verify,
    verify_password,
)

NOW = datetime(2026, 11, 22, 12, 0, 10, tzinfo=UTC)


def test_password_verifies_against_its_own_hash_only() -> None:
    hashed = hash_password("a good password")
    assert hashed.startswith("$argon2id$v=19$m=65536,t=3,p=1$")
    assert verify_password("a good password", hashed)
    assert not verify_password("A good password", hashed)
    assert hash_password("a good password") != hashed
    assert not password_needs_rehash(hashed)


@pytest.mark.parametrize("hashed", [None, "", "plain", "$argon2id$broken"])
def test_missing_or_broken_hash_verifies_nothing(hashed: str | None) -> None:
    assert not verify_password("the password of nobody", hashed)


#: RFC 6238 appendix B, SHA-1, the last six of eight digits.
RFC_6238 = [(59, "287082"), (1111111109, "081804"), (1111111111, "050471"), (1234567890, "005924"), (2000000000, "279037")]


@pytest.mark.parametrize(("seconds", "code"), RFC_6238)
def test_codes_of_rfc_6238(seconds: int, code: str) -> None:
    secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
    assert totp_verify(secret, code, datetime.fromtimestamp(seconds, UTC)) == seconds // 30


def test_code_is_good_for_one_step_each_way_and_only_once() -> None:
    secret = totp_new_secret()
    code = pyotp.TOTP(secret).at(NOW)
    step = totp_verify(secret, code, NOW)
    assert step is not None
    for seconds in (-30, 30):
        assert totp_verify(secret, code, NOW + timedelta(seconds=seconds)) == step
    for seconds in (-90, 90):
        assert totp_verify(secret, code, NOW + timedelta(seconds=seconds)) is None
    assert totp_verify(secret, code, NOW, last_step=step) is None
    assert totp_verify(secret, code, NOW, last_step=step - 1) == step


@pytest.mark.parametrize("code", ["", "12345", "abcdef", "\uff11\uff12\uff13\uff14\uff15\uff16", "0000000"])
def test_malformed_codes_are_wrong(code: str) -> None:
    assert totp_verify(totp_new_secret(), code, NOW) is None


def test_uri_is_for_an_authenticator() -> None:
    secret = totp_new_secret()
    assert totp_uri(secret, "reader1").startswith("otpauth://totp/Readgate:reader1?secret=" + secret)
