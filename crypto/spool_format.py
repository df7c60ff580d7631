"""The bytes of a spool segment (integers big-endian).

Segment header
    "RGSP", version u8 = 2, 3 zero bytes, length u32 of what follows, then each after a u32 length:
    hospital id (UTF-8, clear: it says which KEK to ask for), wrapped segment key, sealed facts (sealed_box, canonical JSON).
Record: 64 bytes prefix, then for a frame its sealed header (sealed_box) and its sealed payload (aead_stream)
    "RGFR", kind u8 (1 frame, 2 end), 3 zero bytes, sequence u32 from 0, sealed header length u32, sealed payload length u64,
    durable offset u64, 16 zero bytes, 16 bytes of HMAC-SHA256 over this record's offset (u64) and the 48 bytes before.
Header and records begin at multiples of 4096, with zeros between; what follows the last record is zeros or was never acknowledged.
Every key is HKDF of the segment key and the segment id.

The prefix has its own MAC so that framing is known good before a length in it is believed: a flipped bit in a body spoils one
frame, and a flipped bit in a prefix is skipped by searching for the next prefix that verifies. "Durable offset" is how much of
the segment was known to be synced when the record was written: whatever is broken below the highest of them was acknowledged, and
its loss must be told; what is broken above was never acknowledged, and is a torn tail.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from crypto.canonical import length_prefixed
from crypto.disk import BLOCK_BYTES
from crypto.errors import IntegrityFailure

SEGMENT_MAGIC = b"RGSP"
SEGMENT_VERSION = 2
SEGMENT_PREFIX = struct.Struct(">4sB3xI")
SEGMENT_HEADER_BYTES_MAX = 1024 * 1024

RECORD_MAGIC = b"RGFR"
KIND_FRAME = 1
KIND_END = 2
MAC_BYTES = 16
_RECORD = struct.Struct(">4sB3xIIQQ16x")
RECORD_PREFIX_BYTES = _RECORD.size + MAC_BYTES
#: A frame's header is a few identifiers.
FRAME_HEADER_BYTES_MAX = 64 * 1024


@dataclass(frozen=True)
class RecordPrefix:
    """The authenticated framing of one record."""

    kind: int
    sequence: int
    header_length: int
    payload_length: int
    durable_offset: int

    @property
    def record_length(self) -> int:
        return RECORD_PREFIX_BYTES + self.header_length + self.payload_length

    @property
    def record_span(self) -> int:
        """From this record to the next."""
        return whole_blocks(self.record_length)


def whole_blocks(length: int) -> int:
    """`length` rounded up to where a record may begin."""
    return -(-length // BLOCK_BYTES) * BLOCK_BYTES


class SegmentKeys:
    """The keys of one segment, and the framing they authenticate."""

    def __init__(self, segment_key: bytes, segment_id: str) -> None:
        self.segment_id = segment_id
        self.payload_key = _expand(segment_key, "payload", segment_id)
        self.header_key = _expand(segment_key, "header", segment_id)
        self.facts_key = _expand(segment_key, "facts", segment_id)
        # Keyed once: a copy of it costs half of what keying costs, and every record has one.
        self._prefix_mac = hmac.new(_expand(segment_key, "prefix", segment_id), digestmod="sha256")

    def pack_prefix(self, prefix: RecordPrefix, offset: int) -> bytes:
        fields = _RECORD.pack(
            RECORD_MAGIC, prefix.kind, prefix.sequence, prefix.header_length, prefix.payload_length, prefix.durable_offset
        )
        return fields + self._mac(fields, offset)

    def unpack_prefix(self, content: bytes, offset: int) -> RecordPrefix | None:
        """The prefix at `offset` of the segment, or None where these bytes are not one."""
        fields = content[: _RECORD.size]
        if len(content) != RECORD_PREFIX_BYTES or not fields.startswith(RECORD_MAGIC):
            return None
        if not hmac.compare_digest(content[_RECORD.size :], self._mac(fields, offset)):
            return None
        _, kind, sequence, header_length, payload_length, durable_offset = _RECORD.unpack(fields)
        return RecordPrefix(kind, sequence, header_length, payload_length, durable_offset)

    def _mac(self, fields: bytes, offset: int) -> bytes:
        mac = self._prefix_mac.copy()
        mac.update(offset.to_bytes(8, "big") + fields)
        return mac.digest()[:MAC_BYTES]


def pack_segment_header(hospital_id: str, wrapped: bytes, sealed_facts: bytes) -> bytes:
    body = length_prefixed(hospital_id, wrapped, sealed_facts)
    return SEGMENT_PREFIX.pack(SEGMENT_MAGIC, SEGMENT_VERSION, len(body)) + body


def unpack_segment_header(content: bytes) -> tuple[str, bytes, bytes, int]:
    """Hospital id, wrapped key, sealed facts and the header's length, from the first bytes of a segment.

    Raises:
        IntegrityFailure: no segment header. A segment gets its name only once its header is durable, so this is never a torn write.
    """
    try:
        magic, version, length = SEGMENT_PREFIX.unpack_from(content)
        if (magic, version) != (SEGMENT_MAGIC, SEGMENT_VERSION) or length > SEGMENT_HEADER_BYTES_MAX:
            raise IntegrityFailure("cannot be opened")
        end = SEGMENT_PREFIX.size + length
        fields, position = [], SEGMENT_PREFIX.size
        for _ in range(3):
            start = position + 4
            position = start + int.from_bytes(content[position:start], "big")
            fields.append(content[start:position])
        if position != end or len(content) < end:
            raise IntegrityFailure("cannot be opened")
        return fields[0].decode(), fields[1], fields[2], end
    except (struct.error, UnicodeDecodeError):
        raise IntegrityFailure("cannot be opened") from None


def _expand(segment_key: bytes, purpose: str, segment_id: str) -> bytes:
    info = b"readgate spool v1\0" + length_prefixed(purpose, segment_id)
    return HKDFExpand(algorithm=hashes.SHA256(), length=32, info=info).derive(segment_key)
