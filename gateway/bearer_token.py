"""Bearer tokens of programs (RFC 6750): made once, shown once, kept as a digest.

A token, and not the certificate of DICOM TLS: HTTP is often terminated in front of us, where a certificate no longer reaches. It holds 256
random bits, so its plain SHA-256 is as good as a password hash, and comparing digests in an index tells nothing about a token.
"""

from __future__ import annotations

import hashlib
import secrets

from crypto.errors import BadInput

NAME_MAX = 64


def new_token(prefix: str) -> tuple[str, str]:
    """(public id, token that begins with `prefix`)"""
    return secrets.token_hex(8), prefix + secrets.token_urlsafe(32)


def token_digest(token: str) -> str:
    """What is kept of a token: SHA-256 in hexadecimal."""
    return hashlib.sha256(token.encode("ascii")).hexdigest()


def digest_of_header(authorization: str, prefix: str) -> str | None:
    """The digest of the token that an Authorization header carries (RFC 6750 2.1), None where it carries none of this kind."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.startswith(prefix) or not token.isascii():
        return None
    return token_digest(token)


def name_of_program(name: str) -> str:
    """The name a person gave the program. Raises: BadInput."""
    if not 1 <= len(name.strip()) <= NAME_MAX:
        raise BadInput(f"a program has a name of 1 to {NAME_MAX} characters")
    return name.strip()
