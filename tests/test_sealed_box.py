"""Small values sealed for a column."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import IntegrityFailure
from crypto.sealed_box import OVERHEAD_BYTES, open_small, seal_small

KEY = os.urandom(32)


@settings(max_examples=50)
@given(plaintext=st.binary(max_size=300), aad=st.binary(max_size=50))
def test_value_comes_back(plaintext: bytes, aad: bytes) -> None:
    sealed = seal_small(KEY, plaintext, aad)
    assert len(sealed) == len(plaintext) + OVERHEAD_BYTES
    assert open_small(KEY, sealed, aad) == plaintext


def test_every_changed_byte_is_refused_with_the_same_words() -> None:
    sealed = seal_small(KEY, b"value", b"row 1")
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(IntegrityFailure, match=r"^cannot be opened$"):
            open_small(KEY, bytes(changed), b"row 1")
    for cut in range(len(sealed)):
        with pytest.raises(IntegrityFailure, match=r"^cannot be opened$"):
            open_small(KEY, sealed[:cut], b"row 1")


def test_value_moved_to_another_row_or_key_is_refused() -> None:
    sealed = seal_small(KEY, b"value", b"row 1")
    for key, aad in ((KEY, b"row 2"), (os.urandom(32), b"row 1")):
        with pytest.raises(IntegrityFailure, match=r"^cannot be opened$"):
            open_small(key, sealed, aad)


def test_equal_values_seal_differently() -> None:
    assert len({seal_small(KEY, b"same", b"") for _ in range(100)}) == 100


def test_known_answer() -> None:
    """Made once with a bare AES-256-GCM over version || aad: what is in the databases of today opens tomorrow."""
    sealed = bytes.fromhex("01000102030405060708090a0b3163ba6ea0be75e0b6c8a6f2dd405bc3a4e3b5c874")
    assert open_small(bytes(range(32)), sealed, b"row 1") == b"value"
