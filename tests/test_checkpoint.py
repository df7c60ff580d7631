"""Signed tree heads, against notes that other programs signed."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.checkpoint import (
    TYPE_COSIGNATURE,
    Checkpoint,
    LogSigner,
    NoteSignature,
    _signature_line,
    _verified,
    cosign_checkpoint,
    key_id,
    parse_checkpoint,
    parse_verifier_key,
    verifier_key,
    verify_checkpoint,
    verify_cosignature,
)
from crypto.errors import IntegrityFailure

SEED = bytes(range(32))
ROOT = bytes(range(100, 132))
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
SIGNER = LogSigner("readgate.example/log", SEED)
NOTE = SIGNER.sign_checkpoint(42, ROOT)
#: The example key and signature of the note package of Go's checksum database, whose format C2SP signed-note describes.
GO_SEED = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
GO_VERIFIER_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_SIGNATURE = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"


def test_checkpoint_has_the_specified_text() -> None:
    identifier = key_id(SIGNER.origin, 1, SIGNER.public_key)
    head, _, signature_line = NOTE.partition("\n\n")
    assert head == "readgate.example/log\n42\n" + base64.b64encode(ROOT).decode()
    dash, name, encoded = signature_line.rstrip("\n").split(" ")
    assert (dash, name) == ("—", "readgate.example/log")
    assert base64.b64decode(encoded)[:4] == identifier
    assert len(base64.b64decode(encoded)) == 4 + 64
    assert NOTE.endswith("\n")


def test_checkpoint_verifies() -> None:
    checkpoint = verify_checkpoint(NOTE, SIGNER.public_key, origin="readgate.example/log")
    assert (checkpoint.origin, checkpoint.size, checkpoint.root, checkpoint.extensions) == (SIGNER.origin, 42, ROOT, ())


def test_extension_lines_are_signed() -> None:
    note = SIGNER.sign_checkpoint(1, ROOT, ["entries-of-day 2026-11-21 17"])
    assert verify_checkpoint(note, SIGNER.public_key).extensions == ("entries-of-day 2026-11-21 17",)
    with pytest.raises(IntegrityFailure):
        verify_checkpoint(note.replace(" 17", " 16"), SIGNER.public_key)


def test_key_ids_and_signatures_are_those_of_another_implementation() -> None:
    name, kind, public_key = parse_verifier_key(GO_VERIFIER_KEY)
    assert (name, kind) == ("PeterNeumann", 1)
    signer = LogSigner("PeterNeumann", GO_SEED)
    assert signer.public_key == public_key
    assert signer.verifier_key == GO_VERIFIER_KEY
    # Ed25519 is deterministic: the same text under the same key has the other program's very bytes.
    line = base64.b64decode(GO_SIGNATURE.split()[-1])
    assert _signature_line("PeterNeumann", key_id(name, 1, public_key), signer._key.sign(GO_TEXT.encode())) == GO_SIGNATURE
    signature = NoteSignature("PeterNeumann", line[:4], line[4:])
    assert _verified(GO_TEXT + "\n" + GO_SIGNATURE, [signature], "PeterNeumann", 1, public_key) is not None


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, len(NOTE.encode()) - 1), bit=st.integers(0, 7))
def test_any_flipped_bit_is_rejected(place: int, bit: int) -> None:
    changed = bytearray(NOTE.encode())
    changed[place] ^= 1 << bit
    with pytest.raises(IntegrityFailure):
        verify_checkpoint(changed.decode(errors="replace"), SIGNER.public_key)


def test_other_key_or_origin_is_rejected() -> None:
    with pytest.raises(IntegrityFailure):
        verify_checkpoint(NOTE, LogSigner(SIGNER.origin, bytes(32)).public_key)
    with pytest.raises(IntegrityFailure):
        verify_checkpoint(NOTE, SIGNER.public_key, origin="another.example/log")
    # Signed by the right key, for a log of another name.
    with pytest.raises(IntegrityFailure):
        verify_checkpoint(LogSigner("another.example/log", SEED).sign_checkpoint(42, ROOT), SIGNER.public_key, origin=SIGNER.origin)


def test_unknown_signatures_are_skipped_and_a_wrong_known_one_spoils_the_note() -> None:
    stranger = LogSigner("stranger.example", bytes(32)).sign_checkpoint(42, ROOT).partition("\n\n")[2]
    both = NOTE + stranger
    assert len(verify_checkpoint(both, SIGNER.public_key).signatures) == 2
    line = NOTE.partition("\n\n")[2]
    wrong = SIGNER.sign_checkpoint(43, ROOT).partition("\n\n")[2]
    with pytest.raises(IntegrityFailure):
        verify_checkpoint(NOTE.replace(line, wrong + line), SIGNER.public_key)


def test_witness_cosigns_and_says_when() -> None:
    witness = LogSigner("witness.example/one", bytes(31) + b"\x01")
    cosigned = cosign_checkpoint(NOTE, "witness.example/one", bytes(31) + b"\x01", NOW)
    assert cosigned.startswith(NOTE)
    assert verify_checkpoint(cosigned, SIGNER.public_key).size == 42
    assert verify_cosignature(cosigned, "witness.example/one", witness.public_key) == NOW
    assert parse_verifier_key(verifier_key("witness.example/one", witness.public_key, TYPE_COSIGNATURE))[1] == TYPE_COSIGNATURE
    for text, name in ((NOTE, "witness.example/one"), (cosigned, "witness.example/two")):
        with pytest.raises(IntegrityFailure):
            verify_cosignature(text, name, witness.public_key)
    backdated = base64.b64decode(cosigned.split(" ")[-1])
    forged = backdated[:4] + (0).to_bytes(8, "big") + backdated[12:]
    with pytest.raises(IntegrityFailure):
        verify_cosignature(NOTE + f"— witness.example/one {base64.b64encode(forged).decode()}\n", "witness.example/one", witness.public_key)


MALFORMED = {
    "empty": "",
    "no signature": NOTE.partition("\n\n")[0] + "\n\n",
    "no empty line": NOTE.replace("\n\n", "\n"),
    "no last newline": NOTE[:-1],
    "leading zero": NOTE.replace("\n42\n", "\n042\n"),
    "negative": NOTE.replace("\n42\n", "\n-42\n"),
    "other digits": NOTE.replace("\n42\n", "\n٤٢\n"),
    "short root": NOTE.replace(base64.b64encode(ROOT).decode(), base64.b64encode(ROOT[:31]).decode()),
    "loose base64": NOTE.replace(base64.b64encode(ROOT).decode(), base64.b64encode(ROOT).decode()[:-2] + "1="),
    "hyphen": NOTE.replace("—", "-"),
    "carriage return": NOTE.replace("\n42\n", "\r\n42\r\n"),
    "too many signatures": NOTE + NOTE.partition("\n\n")[2] * 101,
    "too long": "x" * 70_000 + NOTE,
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_notes_are_rejected(text: str) -> None:
    with pytest.raises(IntegrityFailure):
        parse_checkpoint(text)
    with pytest.raises(IntegrityFailure):
        verify_checkpoint(text, SIGNER.public_key)


@pytest.mark.parametrize("text", ["", "a+b", GO_VERIFIER_KEY[:-4] + "AAAA", GO_VERIFIER_KEY.replace("c74f", "c74e"), "x" + GO_VERIFIER_KEY])
def test_malformed_verifier_keys_are_rejected(text: str) -> None:
    with pytest.raises(IntegrityFailure):
        parse_verifier_key(text)


@settings(max_examples=50)
@given(size=st.integers(0, 2**62), root=st.binary(min_size=32, max_size=32))
def test_what_is_signed_reads_back(size: int, root: bytes) -> None:
    checkpoint = parse_checkpoint(SIGNER.sign_checkpoint(size, root))
    assert Checkpoint(checkpoint.origin, checkpoint.size, checkpoint.root) == Checkpoint(SIGNER.origin, size, root)


@pytest.mark.parametrize("origin", ["", "two words", "plus+plus", "new\nline", "bell\x07"])
def test_impossible_origins_are_programming_errors(origin: str) -> None:
    with pytest.raises(ValueError, match="key name"):
        LogSigner(origin, SEED)
