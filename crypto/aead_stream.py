"""Payloads of any size sealed in chunks: AES-256-GCM in the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizar 2015).

Invariants
- One key, one payload: the encryption key is HKDF of the given key, a random 32-byte salt, the header and the context.
  Nonces can therefore be counters, and a header or context that differs in one bit is another key.
- The nonce is the chunk's number (11 bytes) and 1 for the last chunk, 0 for the others: no chunk is moved, dropped, repeated or cut off.
- The header carries the payload's length under the key commitment, so that even a range read knows the true length before it reads a chunk.
- The commitment makes the key unique: AES-GCM alone lets two keys open one ciphertext to two plaintexts.
- No plaintext of a chunk leaves before its tag was checked, none of `open_` before all were.
- Every failure is the same `IntegrityFailure("cannot be opened")`.

Bytes (integers big-endian)
    0  4 magic "RGS1"           8  8 payload length            48 32 key commitment
    4  1 suite id 1            16 32 salt                      80    chunks: ciphertext and 16 bytes tag each
    5  1 log2(chunk bytes) 20
    6  2 zero
"""

from __future__ import annotations

import hmac
import io
import os
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from crypto.canonical import length_prefixed
from crypto.errors import IntegrityFailure, RefusedContent

MAGIC = b"RGS1"
#: AES-256-GCM, HKDF-SHA-256; both are in every browser's WebCrypto.
SUITE_AES_256_GCM_HKDF_SHA_256 = 1
CHUNK_BYTES_LOG2 = 20
CHUNK_BYTES = 1 << CHUNK_BYTES_LOG2
TAG_BYTES = 16
SALT_BYTES = 32
HEADER_BYTES = 80
#: 2^16 chunks under one key, far below the 2^32 of SP 800-38D; no instance comes near (PS3.5: 4 GiB a value).
PAYLOAD_BYTES_MAX = CHUNK_BYTES << 16

_FIXED = struct.Struct(">4sBBHQ")

_PER_THREAD = threading.local()

Part = bytes | bytearray | memoryview


@dataclass(frozen=True)
class ObjectContext:
    """What a sealed payload is: bound into its key and every chunk's associated data, stored nowhere in the ciphertext."""

    tenant: str
    study: str
    object_id: str
    version: int = 1

    def encode(self) -> bytes:
        """Each field after its length: no two contexts share an encoding."""
        return b"readgate object v1\0" + length_prefixed(self.tenant, self.study, self.object_id, self.version.to_bytes(4, "big"))


def sealed_length(payload_length: int) -> int:
    """Bytes of a sealed payload of `payload_length` bytes; an empty payload has one empty chunk."""
    return HEADER_BYTES + payload_length + TAG_BYTES * _chunk_count(payload_length)


def seal(key: bytes, payload: Part, context: ObjectContext) -> bytes:
    """`payload` sealed under the 32-byte `key` for `context`.

    Raises:
        RefusedContent: longer than 64 GiB.
    """
    return seal_parts(key, [payload], context)


def seal_parts(key: bytes, parts: Sequence[Part], context: ObjectContext) -> bytes:
    """The concatenation of `parts` sealed, without ever being concatenated in the clear. Raises as `seal`."""
    sealer = StreamSealer(key, parts, context)
    scratch = _scratch()
    if sealer.payload_length <= CHUNK_BYTES:
        return b"".join((sealer.header, scratch[: sealer.next_chunk_into(scratch)]))
    # BytesIO gives its buffer away as bytes without a copy; a bytearray of 64 MiB costs twice the time in page faults.
    sealed = io.BytesIO()
    sealed.write(sealer.header)
    while written := sealer.next_chunk_into(scratch):
        sealed.write(scratch[:written])
    return sealed.getvalue()


class StreamSealer:
    """Seals chunk by chunk into buffers of the caller, for those who write without holding the whole.

    First `header` goes out, then `next_chunk_into` until it returns 0; together `sealed_length` bytes.
    """

    def __init__(self, key: bytes, parts: Sequence[Part], context: ObjectContext, *, salt: bytes | None = None) -> None:
        """`salt` is given by tests with known answers alone: the same salt twice with one key and context breaks the cipher."""
        self._parts = [memoryview(part).cast("B") for part in parts]
        self.payload_length = sum(part.nbytes for part in self._parts)
        if self.payload_length > PAYLOAD_BYTES_MAX:
            raise RefusedContent("payload-too-long", "a sealed payload has at most 64 GiB")
        self.sealed_length = sealed_length(self.payload_length)
        self.chunk_bytes_max = min(self.payload_length, CHUNK_BYTES) + TAG_BYTES
        self._context = context.encode()
        salt = os.urandom(SALT_BYTES) if salt is None else salt
        fixed = _FIXED.pack(MAGIC, SUITE_AES_256_GCM_HKDF_SHA_256, CHUNK_BYTES_LOG2, 0, self.payload_length)
        self._key, commitment = _derive(key, fixed, salt, self._context)
        self.header = fixed + salt + commitment
        self._chunk = 0
        self._chunks = _chunk_count(self.payload_length)

    @property
    def is_done(self) -> bool:
        """Whether the last chunk has come out."""
        return self._chunk == self._chunks

    def next_chunk_into(self, out: memoryview) -> int:
        """Seals the next chunk to the start of `out` and returns its bytes, tag included; 0 when there is none.

        `out` holds at least `chunk_bytes_max` bytes.
        """
        if self._chunk == self._chunks:
            return 0
        is_last = self._chunk == self._chunks - 1
        if len(self._parts) == 1:
            # Half as much work as below beside the cipher itself.
            piece = self._parts[0]
            if is_last:
                self._parts.clear()
            else:
                piece, self._parts[0] = piece[:CHUNK_BYTES], piece[CHUNK_BYTES:]
            written: int = AESGCM(self._key).encrypt_into(
                _nonce(self._chunk, is_last), piece, self._context, out[: piece.nbytes + TAG_BYTES]
            )
            self._chunk += 1
            return written
        # The Cipher interface and not AESGCM: it takes the parts as they came, with no copy to join them.
        encryptor = Cipher(algorithms.AES(self._key), modes.GCM(_nonce(self._chunk, is_last))).encryptor()
        encryptor.authenticate_additional_data(self._context)
        room = CHUNK_BYTES
        position = 0
        while room and self._parts:
            part = self._parts[0]
            piece = part[:room]
            position += encryptor.update_into(piece, out[position:])
            room -= piece.nbytes
            if piece.nbytes == part.nbytes:
                self._parts.pop(0)
            else:
                self._parts[0] = part[piece.nbytes :]
        encryptor.finalize()
        out[position : position + TAG_BYTES] = encryptor.tag
        self._chunk += 1
        return position + TAG_BYTES


def open_(key: bytes, sealed: Part, context: ObjectContext) -> bytes:
    """The payload of `sealed`.

    Raises:
        IntegrityFailure: wrong key or context, or bytes changed, moved, missing or added.
    """
    view = memoryview(sealed).cast("B")
    opener = _Opener(key, bytes(view[:HEADER_BYTES]), view.nbytes, context)
    if opener.chunks == 1:
        return opener.open_chunk(0, view[HEADER_BYTES:])
    payload = io.BytesIO()
    scratch = memoryview(bytearray(CHUNK_BYTES))
    for number in range(opener.chunks):
        start, end = opener.chunk_span(number)
        chunk = scratch[: end - start - TAG_BYTES]
        opener.open_chunk_into(number, view[start:end], chunk)
        payload.write(chunk)
    return payload.getvalue()


def open_range(key: bytes, read: Callable[[int, int], bytes], sealed_length: int, context: ObjectContext, start: int, length: int) -> bytes:
    """`length` bytes of the payload from `start`, by reading the header and only the chunks that hold them.

    `read(offset, length)` returns bytes of the sealed form. A range beyond the end is shortened, like a slice.

    Raises:
        IntegrityFailure: as for `open_`, over what was read; `sealed_length` is checked against the committed length.
    """
    if start < 0 or length < 0:
        raise ValueError("a range starts and extends at or above 0")
    opener = _Opener(key, read(0, HEADER_BYTES), sealed_length, context)
    end = min(start + length, opener.payload_length)
    if start >= end:
        return b""
    first, last = start // CHUNK_BYTES, (end - 1) // CHUNK_BYTES
    span_start, span_end = opener.chunk_span(first)[0], opener.chunk_span(last)[1]
    view = memoryview(read(span_start, span_end - span_start))
    if view.nbytes != span_end - span_start:
        raise IntegrityFailure("cannot be opened")
    pieces = []
    for number in range(first, last + 1):
        chunk_start, chunk_end = opener.chunk_span(number)
        chunk = opener.open_chunk(number, view[chunk_start - span_start : chunk_end - span_start])
        base = number * CHUNK_BYTES
        pieces.append(chunk[max(start - base, 0) : end - base])
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def declared_sealed_length(header: bytes) -> int | None:
    """The length a sealed payload with this header claims to have; None where it is no header.

    Not authenticated: for walking a pack without keys.
    """
    if len(header) < HEADER_BYTES:
        return None
    magic, suite, chunk_log2, zero, payload_length = _FIXED.unpack_from(header)
    expected = (MAGIC, SUITE_AES_256_GCM_HKDF_SHA_256, CHUNK_BYTES_LOG2, 0)
    if (magic, suite, chunk_log2, zero) != expected or payload_length > PAYLOAD_BYTES_MAX:
        return None
    return sealed_length(payload_length)


class _Opener:
    """The header checked and the key derived; what is left is one tag a chunk."""

    def __init__(self, key: bytes, header: bytes, length: int, context: ObjectContext) -> None:
        if len(header) != HEADER_BYTES or declared_sealed_length(header) != length:
            raise IntegrityFailure("cannot be opened")
        self.payload_length: int = _FIXED.unpack_from(header)[4]
        self.chunks = _chunk_count(self.payload_length)
        self._length = length
        self._context = context.encode()
        fixed, salt, commitment = header[: _FIXED.size], header[_FIXED.size : -32], header[-32:]
        derived, expected = _derive(key, fixed, salt, self._context)
        if not hmac.compare_digest(commitment, expected):
            raise IntegrityFailure("cannot be opened")
        self._gcm = AESGCM(derived)

    def chunk_span(self, number: int) -> tuple[int, int]:
        start = HEADER_BYTES + number * (CHUNK_BYTES + TAG_BYTES)
        return start, min(start + CHUNK_BYTES + TAG_BYTES, self._length)

    def open_chunk(self, number: int, sealed: memoryview) -> bytes:
        try:
            return self._gcm.decrypt(_nonce(number, number == self.chunks - 1), sealed, self._context)
        except InvalidTag:
            raise IntegrityFailure("cannot be opened") from None

    def open_chunk_into(self, number: int, sealed: memoryview, out: memoryview) -> None:
        try:
            self._gcm.decrypt_into(_nonce(number, number == self.chunks - 1), sealed, self._context, out)
        except InvalidTag:
            raise IntegrityFailure("cannot be opened") from None


def _scratch() -> memoryview:
    """This thread's buffer for one sealed chunk: fresh memory costs more than the cipher. Only ciphertext ever stands in it."""
    if not hasattr(_PER_THREAD, "scratch"):
        _PER_THREAD.scratch = memoryview(bytearray(CHUNK_BYTES + TAG_BYTES))
    scratch: memoryview = _PER_THREAD.scratch
    return scratch


def _chunk_count(payload_length: int) -> int:
    return max(1, -(-payload_length // CHUNK_BYTES))


def _nonce(number: int, is_last: bool) -> bytes:
    return number.to_bytes(11, "big") + (b"\x01" if is_last else b"\x00")


def _derive(key: bytes, fixed: bytes, salt: bytes, context: bytes) -> tuple[bytes, bytes]:
    if len(key) != 32 or len(salt) != SALT_BYTES:
        raise ValueError("sealing takes a key and a salt of 32 bytes")
    info = b"readgate stream v1\0" + fixed + context
    derived = HKDF(algorithm=hashes.SHA256(), length=64, salt=salt, info=info).derive(key)
    return derived[:32], derived[32:]
