"""Small values sealed for a database column: AES-256-GCM with a random nonce.

Format: version 0x01, 12 bytes nonce, ciphertext, 16 bytes tag. The version is part of the associated data.
One key may seal 2^32 values before random nonces come near a collision (SP 800-38D, 8.3); give each column and hospital its own.
The `aad` must name the row and column, or a ciphertext can be moved to another row unnoticed.
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crypto.errors import IntegrityFailure

VERSION = b"\x01"
NONCE_BYTES = 12
TAG_BYTES = 16
OVERHEAD_BYTES = len(VERSION) + NONCE_BYTES + TAG_BYTES
PLAINTEXT_BYTES_MAX = 16 * 1024 * 1024


def seal_small(key: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """`plaintext` (at most 16 MiB) sealed under the 32-byte `key`, 29 bytes longer."""
    if len(key) != 32 or len(plaintext) > PLAINTEXT_BYTES_MAX:
        raise ValueError("a box takes a key of 32 bytes and at most 16 MiB")
    nonce = os.urandom(NONCE_BYTES)
    return VERSION + nonce + AESGCM(key).encrypt(nonce, plaintext, VERSION + aad)


def open_small(key: bytes, sealed: bytes, aad: bytes) -> bytes:
    """The plaintext of `sealed`.

    Raises:
        IntegrityFailure: wrong key, other `aad`, or changed bytes; which of them is not told.
    """
    if len(key) != 32:
        raise ValueError("a box takes a key of 32 bytes")
    if len(sealed) < OVERHEAD_BYTES or sealed[:1] != VERSION:
        raise IntegrityFailure("cannot be opened")
    try:
        return AESGCM(key).decrypt(sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :], VERSION + aad)
    except InvalidTag:
        raise IntegrityFailure("cannot be opened") from None
