"""The reader's key: useless without the passphrase."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from crypto import signing_key
from crypto.errors import BadInput, IntegrityFailure, NotAllowed
from crypto.signing_key import ReaderKey, change_passphrase, create_reader_key, public_pem_of, sign, verify

PASSPHRASE = "correct horse battery"


@pytest.fixture(scope="module", autouse=True)
def _cheap_stretching() -> object:
    """The cost is in the wrapping, so tests need not pay it; one test below does."""
    patch = pytest.MonkeyPatch()
    patch.setattr(signing_key, "ARGON2_MEMORY_KIB", 64)
    patch.setattr(signing_key, "ARGON2_PASSES", 1)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def reader_key(_cheap_stretching: None) -> ReaderKey:
    return create_reader_key(PASSPHRASE)


def test_signature_verifies_for_its_message_and_key_only(reader_key: ReaderKey) -> None:
    signature = sign(reader_key.wrapped, PASSPHRASE, b"report")
    assert verify(reader_key.public_pem, b"report", signature)
    assert not verify(reader_key.public_pem, b"report!", signature)
    assert not verify(create_reader_key(PASSPHRASE).public_pem, b"report", signature)
    for place in range(len(signature)):
        changed = bytearray(signature)
        changed[place] ^= 1
        assert not verify(reader_key.public_pem, b"report", bytes(changed))


@pytest.mark.parametrize("signature", [b"", b"x", bytes(64), bytes(72)])
@pytest.mark.parametrize("public_pem", [b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_malformed_input_verifies_as_false(reader_key: ReaderKey, public_pem: bytes, signature: bytes) -> None:
    assert not verify(public_pem, b"report", signature)
    assert not verify(reader_key.public_pem, b"report", signature)


def test_wrong_passphrase_is_not_allowed(reader_key: ReaderKey) -> None:
    for wrong in ("", "Correct horse battery", PASSPHRASE + " "):
        with pytest.raises(NotAllowed) as refused:
            sign(reader_key.wrapped, wrong, b"report")
        assert refused.value.reason_code == "wrong-passphrase"


def test_unicode_forms_of_one_passphrase_are_one(reader_key: ReaderKey) -> None:
    composed = create_reader_key("Schl\u00fcssel-Wort")
    assert sign(composed.wrapped, "Schlu\u0308ssel-Wort", b"report")


def test_changed_wrapping_signs_nothing(reader_key: ReaderKey) -> None:
    for place in range(len(reader_key.wrapped)):
        changed = bytearray(reader_key.wrapped)
        changed[place] ^= 1
        # Bit 0 of the higher bytes of cost fields asks for absurd costs, which are refused before they are paid.
        with pytest.raises((NotAllowed, IntegrityFailure)):
            sign(bytes(changed), PASSPHRASE, b"report")
    for cut in (b"", reader_key.wrapped[:10], reader_key.wrapped[:42]):
        with pytest.raises(IntegrityFailure):
            sign(cut, PASSPHRASE, b"report")


def test_passphrase_can_be_changed(reader_key: ReaderKey) -> None:
    changed = change_passphrase(reader_key.wrapped, PASSPHRASE, "another passphrase")
    assert public_pem_of(changed, "another passphrase") == reader_key.public_pem
    assert verify(reader_key.public_pem, b"report", sign(changed, "another passphrase", b"report"))
    with pytest.raises(NotAllowed):
        sign(changed, PASSPHRASE, b"report")


def test_short_passphrase_is_bad_input() -> None:
    with pytest.raises(BadInput):
        create_reader_key("seven77")


def test_private_half_shows_nowhere(reader_key: ReaderKey) -> None:
    assert b"PRIVATE" not in reader_key.wrapped
    assert "wrapped" not in repr(reader_key)


def test_real_cost_is_what_the_document_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing_key, "ARGON2_MEMORY_KIB", 64 * 1024)
    monkeypatch.setattr(signing_key, "ARGON2_PASSES", 3)
    wrapped = create_reader_key(PASSPHRASE).wrapped
    assert wrapped[:14] == b"RGRK\x01" + (3).to_bytes(4, "big") + (65536).to_bytes(4, "big") + b"\x01"
    sign(wrapped, PASSPHRASE, b"report")


def test_openssl_verifies_what_we_sign(reader_key: ReaderKey, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    (tmp_path / "key.pem").write_bytes(reader_key.public_pem)
    (tmp_path / "report").write_bytes(b"report")
    (tmp_path / "sig").write_bytes(sign(reader_key.wrapped, PASSPHRASE, b"report"))
    command = [openssl, "dgst", "-sha256", "-verify", "key.pem", "-signature", "sig", "report"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=30).returncode == 0
