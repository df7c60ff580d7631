"""Tree heads as others can keep and countersign them: C2SP tlog-checkpoint in a C2SP signed note, Ed25519.

    <origin>                            the signature covers these lines, each with its newline
    <size, decimal>
    <root hash, base64>
    [extension lines, never empty]
                                        one empty line
    — <key name> <base64 of key id and signature>       one or more

Key id: the first 4 bytes of SHA-256(key name, newline, signature type, public key); type 1 is the log's Ed25519, type 4 a
witness's cosignature, which adds the seconds since 1970 at which it was given (C2SP tlog-cosignature). A line by a key we do not
know is skipped; a line by a known key that does not verify spoils the whole note.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from crypto.errors import IntegrityFailure
from crypto.merkle import HASH_BYTES

TYPE_ED25519 = 1
TYPE_COSIGNATURE = 4
NOTE_BYTES_MAX = 64 * 1024
SIGNATURES_MAX = 100

_KEY_NAME = re.compile(r"[^\s+]+")
_SIGNATURE_PREFIX = "\N{EM DASH} "


@dataclass(frozen=True)
class NoteSignature:
    """One signature line. `cosigned_at` stands where a cosignature was verified."""

    key_name: str
    key_id: bytes
    signature: bytes
    cosigned_at: datetime | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A tree head: the log `origin` had `size` leaves and this root."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()
    signatures: tuple[NoteSignature, ...] = ()


class LogSigner:
    """The log's own key; `origin` is both the first line of its checkpoints and the key's name."""

    def __init__(self, origin: str, private_key: bytes) -> None:
        """`private_key`: the 32 bytes of an Ed25519 seed (RFC 8032)."""
        self.origin = _checked_name(origin)
        self._key = Ed25519PrivateKey.from_private_bytes(private_key)

    @property
    def public_key(self) -> bytes:
        """The 32 bytes that verify."""
        return self._key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)

    @property
    def verifier_key(self) -> str:
        """The vkey line to give to witnesses: name, key id and public key (C2SP signed-note)."""
        return verifier_key(self.origin, self.public_key)

    def sign_checkpoint(self, size: int, root: bytes, extensions: Sequence[str] = ()) -> str:
        """The signed note that the log has `size` leaves and `root`."""
        body = checkpoint_body(self.origin, size, root, extensions)
        signature = self._key.sign(body.encode())
        return body + "\n" + _signature_line(self.origin, key_id(self.origin, TYPE_ED25519, self.public_key), signature)


def checkpoint_body(origin: str, size: int, root: bytes, extensions: Sequence[str] = ()) -> str:
    """What is signed."""
    if size < 0 or len(root) != HASH_BYTES or not all(line and line.isprintable() for line in (origin, *extensions)):
        raise ValueError("a checkpoint has an origin, a size, a root of 32 bytes and extension lines that are not empty")
    return "".join(f"{line}\n" for line in (origin, str(size), base64.b64encode(root).decode(), *extensions))


def key_id(key_name: str, signature_type: int, public_key: bytes) -> bytes:
    """The four bytes by which a signature line names its key."""
    return hashlib.sha256(key_name.encode() + b"\n" + bytes([signature_type]) + public_key).digest()[:4]


def verifier_key(key_name: str, public_key: bytes, signature_type: int = TYPE_ED25519) -> str:
    """'<name>+<key id, hex>+<base64 of type and public key>'."""
    encoded = base64.b64encode(bytes([signature_type]) + public_key).decode()
    return f"{_checked_name(key_name)}+{key_id(key_name, signature_type, public_key).hex()}+{encoded}"


def parse_verifier_key(text: str) -> tuple[str, int, bytes]:
    """Key name, signature type and public key of a vkey. Raises `IntegrityFailure` where its parts contradict each other."""
    try:
        name, identifier, encoded = text.split("+", 2)
        decoded = base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        raise IntegrityFailure("not a verifier key (C2SP signed-note)") from None
    is_known = len(decoded) == 33 and decoded[0] in (TYPE_ED25519, TYPE_COSIGNATURE)
    if not is_known or not _KEY_NAME.fullmatch(name) or key_id(name, decoded[0], decoded[1:]).hex() != identifier:
        raise IntegrityFailure("not a verifier key (C2SP signed-note)")
    return name, decoded[0], decoded[1:]


def verify_checkpoint(text: str, public_key: bytes, *, origin: str | None = None) -> Checkpoint:
    """The checkpoint that `text` holds, signed by the log's `public_key` (32 bytes) under the name that its first line gives.

    Raises:
        IntegrityFailure: malformed, not signed by this key, or another `origin` than the one expected.
    """
    checkpoint = parse_checkpoint(text)
    if origin is not None and checkpoint.origin != origin:
        raise IntegrityFailure("the checkpoint is another log's")
    if not _verified(text, checkpoint.signatures, checkpoint.origin, TYPE_ED25519, public_key):
        raise IntegrityFailure("the checkpoint is not signed by the log's key")
    return checkpoint


def cosign_checkpoint(text: str, witness_name: str, private_key: bytes, cosigned_at: datetime) -> str:
    """`text` with a witness's cosignature line added. The witness has verified log signature and consistency before."""
    parse_checkpoint(text)
    key = Ed25519PrivateKey.from_private_bytes(private_key)
    public_key = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    seconds = int(cosigned_at.timestamp())
    signature = seconds.to_bytes(8, "big") + key.sign(_cosigned_message(_body(text), seconds))
    return text + _signature_line(_checked_name(witness_name), key_id(witness_name, TYPE_COSIGNATURE, public_key), signature)


def verify_cosignature(text: str, witness_name: str, public_key: bytes) -> datetime:
    """When the witness cosigned `text`.

    Raises:
        IntegrityFailure: it did not, or the cosignature does not verify.
    """
    checkpoint = parse_checkpoint(text)
    verified = _verified(text, checkpoint.signatures, witness_name, TYPE_COSIGNATURE, public_key)
    if verified is None or verified.cosigned_at is None:
        raise IntegrityFailure("the checkpoint is not cosigned by this witness")
    return verified.cosigned_at


def parse_checkpoint(text: str) -> Checkpoint:
    """The checkpoint in `text`, nothing verified.

    Raises:
        IntegrityFailure: not a checkpoint in a signed note.
    """
    lines = _body(text).split("\n")[:-1]
    signatures = tuple(_parse_signature(line) for line in text[len(_body(text)) + 1 :].split("\n")[:-1])
    if len(lines) < 3 or "" in lines or not signatures or len(signatures) > SIGNATURES_MAX:
        raise _malformed()
    root = _decoded(lines[2])
    if not re.fullmatch(r"0|[1-9][0-9]{0,18}", lines[1], re.ASCII) or len(root) != HASH_BYTES:
        raise _malformed()
    return Checkpoint(lines[0], int(lines[1]), root, tuple(lines[3:]), signatures)


def _body(text: str) -> str:
    """The signed lines, with their last newline: what stands before the last empty line."""
    cut = text.rfind("\n\n")
    is_clean = all(character == "\n" or character >= " " for character in text)
    if cut < 0 or len(text.encode(errors="replace")) > NOTE_BYTES_MAX or not text.endswith("\n") or not is_clean:
        raise _malformed()
    return text[: cut + 1]


def _parse_signature(line: str) -> NoteSignature:
    name, separator, encoded = line.removeprefix(_SIGNATURE_PREFIX).partition(" ")
    decoded = _decoded(encoded)
    if not line.startswith(_SIGNATURE_PREFIX) or not separator or not _KEY_NAME.fullmatch(name) or len(decoded) <= 4:
        raise _malformed()
    return NoteSignature(name, decoded[:4], decoded[4:])


def _verified(
    text: str, signatures: Sequence[NoteSignature], key_name: str, signature_type: int, public_key: bytes
) -> NoteSignature | None:
    """The first line by this key; None where there is none. A line of this key that is wrong raises."""
    identifier = key_id(key_name, signature_type, public_key)
    body = _body(text)
    for line in signatures:
        if (line.key_name, line.key_id) != (key_name, identifier):
            continue
        message, signature, cosigned_at = body.encode(), line.signature, None
        if signature_type == TYPE_COSIGNATURE:
            seconds = int.from_bytes(signature[:8], "big")
            message, signature = _cosigned_message(body, seconds), signature[8:]
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
            if signature_type == TYPE_COSIGNATURE:
                cosigned_at = datetime.fromtimestamp(seconds, UTC)
        except (InvalidSignature, ValueError, OverflowError, OSError):
            raise IntegrityFailure("a signature of the checkpoint does not verify") from None
        return NoteSignature(line.key_name, line.key_id, signature, cosigned_at)
    return None


def _cosigned_message(body: str, seconds: int) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{body}".encode()


def _signature_line(key_name: str, identifier: bytes, signature: bytes) -> str:
    return f"{_SIGNATURE_PREFIX}{key_name} {base64.b64encode(identifier + signature).decode()}\n"


def _decoded(text: str) -> bytes:
    try:
        decoded = base64.b64decode(text.encode("ascii"), validate=True)
    except (ValueError, binascii.Error):
        raise _malformed() from None
    # One value, one text: base64 with other padding bits would let a note be changed without breaking it.
    if base64.b64encode(decoded).decode() != text:
        raise _malformed()
    return decoded


def _checked_name(name: str) -> str:
    if not _KEY_NAME.fullmatch(name) or not name.isprintable():
        raise ValueError("a key name has no space and no plus sign")
    return name


def _malformed() -> IntegrityFailure:
    return IntegrityFailure("not a checkpoint in a signed note (C2SP)")
