"""The reader's own signing key: ECDSA P-256, kept only wrapped under a passphrase the reader alone knows.

Wrapped form (big-endian): "RGRK", version u8 = 1, argon2id passes u32, memory KiB u32, lanes u8, 16 bytes salt, 12 bytes nonce,
AES-256-GCM of the PKCS #8 DER with everything before the ciphertext as associated data. Signatures are DER (X9.62) over SHA-256,
so that `openssl dgst -sha256 -verify` checks them without us. The operator who holds wrapped keys and database cannot sign.
"""

from __future__ import annotations

import os
import struct
import unicodedata
from dataclasses import dataclass, field

from argon2.low_level import Type, hash_secret_raw
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crypto.errors import BadInput, IntegrityFailure, NotAllowed

PASSPHRASE_CHARACTERS_MIN = 8
#: RFC 9106 section 4, second recommended option, with one lane: about 0.1 s on one core.
ARGON2_PASSES = 3
ARGON2_MEMORY_KIB = 64 * 1024
ARGON2_LANES = 1

_MAGIC = b"RGRK"
_HEADER = struct.Struct(">4sBIIB16s12s")
#: A wrapped key comes out of a database; it must not be able to ask for all memory.
_PASSES_MAX, _MEMORY_KIB_MAX, _LANES_MAX = 10, 1024 * 1024, 8


@dataclass(frozen=True)
class ReaderKey:
    """What is stored of a reader's key: the public half to publish, the private half wrapped."""

    public_pem: bytes
    wrapped: bytes = field(repr=False)


def create_reader_key(passphrase: str) -> ReaderKey:
    """A new key pair whose private half only `passphrase` opens.

    Raises:
        BadInput: fewer than 8 characters.
    """
    private_key = ec.generate_private_key(ec.SECP256R1())
    return ReaderKey(_public_pem(private_key), _wrap(private_key, passphrase))


def sign(wrapped: bytes, passphrase: str, message: bytes) -> bytes:
    """The reader's DER signature over `message`.

    Raises:
        NotAllowed: wrong passphrase (or a changed wrapping: the two cannot be told apart).
        IntegrityFailure: `wrapped` is no wrapped key.
    """
    return _unwrap(wrapped, passphrase).sign(message, ec.ECDSA(hashes.SHA256()))


def verify(public_pem: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is over `message` by the P-256 key of `public_pem`; False for anything malformed."""
    try:
        public_key = serialization.load_pem_public_key(public_pem)
        if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(public_key.curve, ec.SECP256R1):
            return False
        public_key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def public_pem_of(wrapped: bytes, passphrase: str) -> bytes:
    """The public half of a wrapped key, to check it against the one on record. Raises as `sign`."""
    return _public_pem(_unwrap(wrapped, passphrase))


def change_passphrase(wrapped: bytes, passphrase: str, new_passphrase: str) -> bytes:
    """The same key under `new_passphrase`; destroy every copy of the old wrapping. Raises as `sign` and `create_reader_key`."""
    return _wrap(_unwrap(wrapped, passphrase), new_passphrase)


def _wrap(private_key: ec.EllipticCurvePrivateKey, passphrase: str) -> bytes:
    if len(passphrase) < PASSPHRASE_CHARACTERS_MIN:
        raise BadInput(f"a passphrase has at least {PASSPHRASE_CHARACTERS_MIN} characters")
    salt, nonce = os.urandom(16), os.urandom(12)
    header = _HEADER.pack(_MAGIC, 1, ARGON2_PASSES, ARGON2_MEMORY_KIB, ARGON2_LANES, salt, nonce)
    der = private_key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key = _stretch(passphrase, salt, ARGON2_PASSES, ARGON2_MEMORY_KIB, ARGON2_LANES)
    return header + AESGCM(key).encrypt(nonce, der, header)


def _unwrap(wrapped: bytes, passphrase: str) -> ec.EllipticCurvePrivateKey:
    if len(wrapped) <= _HEADER.size:
        raise IntegrityFailure("not a wrapped reader key")
    magic, version, passes, memory_kib, lanes, salt, nonce = _HEADER.unpack_from(wrapped)
    if (magic, version) != (_MAGIC, 1) or not (
        1 <= passes <= _PASSES_MAX and 1 <= lanes <= _LANES_MAX and 8 * lanes <= memory_kib <= _MEMORY_KIB_MAX
    ):
        raise IntegrityFailure("not a wrapped reader key")
    try:
        der = AESGCM(_stretch(passphrase, salt, passes, memory_kib, lanes)).decrypt(nonce, wrapped[_HEADER.size :], wrapped[: _HEADER.size])
    except InvalidTag:
        raise NotAllowed("wrong-passphrase") from None
    private_key = serialization.load_der_private_key(der, password=None)
    if not isinstance(private_key, ec.EllipticCurvePrivateKey):
        raise IntegrityFailure("not a wrapped reader key")
    return private_key


def _stretch(passphrase: str, salt: bytes, passes: int, memory_kib: int, lanes: int) -> bytes:
    # One passphrase typed on two keyboards may arrive in two Unicode forms (NIST SP 800-63B section 5.1.1.2).
    secret = unicodedata.normalize("NFKC", passphrase).encode()
    return hash_secret_raw(secret, salt, passes, memory_kib, lanes, hash_len=32, type=Type.ID)


def _public_pem(private_key: ec.EllipticCurvePrivateKey) -> bytes:
    return private_key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
