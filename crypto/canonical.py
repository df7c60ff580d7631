"""One byte string for one value: canonical JSON (RFC 8785), its digest, and keyed one-way names.

Signatures, decisions and audit leaves are taken over these bytes, so that a verifier in any language reproduces them.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import rfc8785

from crypto.errors import BadInput


def canonical_json(value: Any) -> bytes:
    """The RFC 8785 form of `value`: UTF-8, keys sorted by UTF-16 code unit, no spaces.

    Raises:
        BadInput: not JSON, or a number that an IEEE 754 double does not hold exactly (RFC 8785 section 3.2.2.3).
    """
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeError, RecursionError, TypeError, ValueError):
        raise BadInput("the value has no canonical JSON form (RFC 8785)") from None


def digest(value: Any) -> str:
    """'sha256:' and the hex SHA-256 of the canonical JSON of `value`."""
    return "sha256:" + hashlib.sha256(canonical_json(value)).hexdigest()


def keyed_uid(secret: bytes, original_uid: str) -> str:
    """The pseudonymous UID of `original_uid`: '2.25.' and 128 bits of HMAC-SHA256 as a decimal number (PS3.5 B.2).

    The same under one secret for ever, unlinkable under another. Padding (a trailing NUL or space, PS3.5 9.1) is no part of a UID.
    """
    stripped = original_uid.strip("\0 ")
    truncated = hmac.digest(_key(secret), b"readgate uid v1\0" + stripped.encode(), "sha256")[:16]
    return "2.25." + str(int.from_bytes(truncated, "big"))


def keyed_digest(secret: bytes, *parts: str | bytes) -> str:
    """Hex HMAC-SHA256 over `parts`, each preceded by its length, so that ('ab', 'c') and ('a', 'bc') differ."""
    return hmac.digest(_key(secret), b"readgate digest v1\0" + length_prefixed(*parts), "sha256").hex()


def length_prefixed(*parts: str | bytes) -> bytes:
    """`parts`, text as UTF-8, each after its length in bytes as a big-endian u32: no two lists share an encoding."""
    pieces: list[bytes] = []
    for part in parts:
        encoded = part.encode() if isinstance(part, str) else part
        pieces += (len(encoded).to_bytes(4, "big"), encoded)
    return b"".join(pieces)


def _key(secret: bytes) -> bytes:
    if len(secret) < 16:
        raise ValueError("a keyed name needs a secret of at least 16 bytes")
    return secret
