"""Plain Ed25519 (RFC 8032): keys as PEM, signatures as 64 bytes.

Used where a named person confirms data, such as a law bundle. Nothing here decides whose key is trusted; the caller does.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from crypto.errors import BadInput


def create_ed25519_key() -> bytes:
    """A new private key, PEM (PKCS #8, not encrypted: the caller keeps it in a file of mode 0600)."""
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def ed25519_key_of_seed(seed: bytes) -> bytes:
    """The private key of a 32-byte seed (RFC 8032 5.1.5), PEM as `create_ed25519_key` gives it: a named secret serves as a signing key.

    Raises:
        BadInput: not 32 bytes.
    """
    if len(seed) != 32:
        raise BadInput("an Ed25519 seed has 32 bytes")
    return Ed25519PrivateKey.from_private_bytes(seed).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def ed25519_public_pem(private_pem: bytes) -> str:
    """The public half of `private_pem`, PEM (SubjectPublicKeyInfo).

    Raises:
        BadInput: not an Ed25519 private key.
    """
    public = _private(private_pem).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")


def ed25519_sign(private_pem: bytes, message: bytes) -> bytes:
    """The 64-byte signature of `message`; the same bytes every time (RFC 8032 5.1.6).

    Raises:
        BadInput: not an Ed25519 private key.
    """
    return _private(private_pem).sign(message)


def ed25519_verify(public_pem: str, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is that of `message` under `public_pem`; an unreadable key verifies nothing."""
    try:
        key = load_pem_public_key(public_pem.encode("ascii"))
    except (ValueError, TypeError):
        return False
    if not isinstance(key, Ed25519PublicKey):
        return False
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _private(private_pem: bytes) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(private_pem, password=None)
    except (ValueError, TypeError):
        raise BadInput("the file holds no unencrypted Ed25519 private key in PEM form") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise BadInput("the private key is not an Ed25519 key")
    return key
