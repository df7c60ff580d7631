"""Sealed payloads: what comes back, and that nothing changed ever does."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.aead_stream import (
    CHUNK_BYTES,
    HEADER_BYTES,
    PAYLOAD_BYTES_MAX,
    TAG_BYTES,
    ObjectContext,
    StreamSealer,
    declared_sealed_length,
    open_,
    open_range,
    seal,
    seal_parts,
    sealed_length,
)
from crypto.errors import IntegrityFailure, RefusedContent

KEY = bytes(range(32))
CONTEXT = ObjectContext("h1", "study", "object")
SEALED_CHUNK = CHUNK_BYTES + TAG_BYTES
SIZES = (0, 1, 15, 16, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 2 * CHUNK_BYTES + 7, 3 * CHUNK_BYTES)
VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "vectors" / "aead_stream.json").read_text())
THREE_CHUNKS = os.urandom(2 * CHUNK_BYTES + 1000)
THREE_SEALED = seal(KEY, THREE_CHUNKS, CONTEXT)


def pattern(length: int) -> bytes:
    """Bytes that a vector can name by their length."""
    return (bytes(range(251)) * (length // 251 + 1))[:length]


def reader(sealed: bytes) -> Any:
    return lambda offset, length: sealed[offset : offset + length]


def assert_refused(sealed: bytes, context: ObjectContext = CONTEXT, key: bytes = KEY) -> None:
    """Every way in refuses, with the same words."""
    ways: list[Callable[[], bytes]] = [partial(open_, key, sealed, context)]
    for start in range(0, len(THREE_CHUNKS), CHUNK_BYTES):
        ways.append(partial(open_range, key, reader(sealed), len(sealed), context, start, CHUNK_BYTES))
    opened = 0
    for way in ways:
        try:
            content = way()
        except IntegrityFailure as failure:
            assert str(failure) == "cannot be opened"
        else:
            # A range that does not touch the damage may open, but only to what was sealed there.
            opened += 1
            assert way is not ways[0]
            assert content in [THREE_CHUNKS[start : start + CHUNK_BYTES] for start in range(0, len(THREE_CHUNKS), CHUNK_BYTES)]
    assert opened < len(ways) - 1


@pytest.mark.parametrize("size", SIZES)
def test_payload_comes_back_whole_and_by_range(size: int) -> None:
    payload = os.urandom(size)
    sealed = seal(KEY, payload, CONTEXT)
    assert len(sealed) == sealed_length(size) == declared_sealed_length(sealed[:HEADER_BYTES])
    assert open_(KEY, sealed, CONTEXT) == payload
    assert open_(KEY, memoryview(bytearray(sealed)), CONTEXT) == payload
    assert open_range(KEY, reader(sealed), len(sealed), CONTEXT, 0, size) == payload


@settings(max_examples=40, deadline=None)
@given(start=st.integers(0, len(THREE_CHUNKS) + 10), length=st.integers(0, len(THREE_CHUNKS) + 10))
def test_range_equals_slice(start: int, length: int) -> None:
    got = open_range(KEY, reader(THREE_SEALED), len(THREE_SEALED), CONTEXT, start, length)
    assert got == THREE_CHUNKS[start : start + length]


def test_range_reads_the_header_and_the_chunks_that_hold_it_only() -> None:
    reads: list[tuple[int, int]] = []

    def read(offset: int, length: int) -> bytes:
        reads.append((offset, length))
        return THREE_SEALED[offset : offset + length]

    open_range(KEY, read, len(THREE_SEALED), CONTEXT, CHUNK_BYTES + 5, 10)
    assert reads == [(0, HEADER_BYTES), (HEADER_BYTES + SEALED_CHUNK, SEALED_CHUNK)]


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, CHUNK_BYTES + 5000), max_size=6))
def test_parts_seal_as_their_concatenation(cuts: list[int]) -> None:
    payload = THREE_CHUNKS[: CHUNK_BYTES + 5000]
    edges = [0, *sorted(cuts), len(payload)]
    parts = [memoryview(payload)[start:end] for start, end in pairwise(edges)]
    assert open_(KEY, seal_parts(KEY, parts, CONTEXT), CONTEXT) == payload


def test_the_same_payload_never_seals_to_the_same_bytes() -> None:
    assert seal(KEY, b"same", CONTEXT)[16:] != seal(KEY, b"same", CONTEXT)[16:]


chunks = st.integers(0, 2)


@settings(max_examples=20, deadline=None)
@given(first=chunks, second=chunks)
def test_reordered_dropped_duplicated_chunks_are_refused(first: int, second: int) -> None:
    header = THREE_SEALED[:HEADER_BYTES]
    pieces = [THREE_SEALED[start : start + SEALED_CHUNK] for start in range(HEADER_BYTES, len(THREE_SEALED), SEALED_CHUNK)]
    if first != second:
        swapped = list(pieces)
        swapped[first], swapped[second] = swapped[second], swapped[first]
        assert_refused(header + b"".join(swapped))
    assert_refused(header + b"".join(pieces[:first] + pieces[first + 1 :]))
    assert_refused(header + b"".join([*pieces[:first], pieces[second], *pieces[first:]]))
    over = list(pieces)
    over[first] = pieces[(first + 1) % 3]
    assert_refused(header + b"".join(over))


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_truncation_at_a_chunk_boundary_is_refused_even_with_a_header_to_match(kept: int) -> None:
    cut = THREE_SEALED[: HEADER_BYTES + kept * SEALED_CHUNK]
    assert_refused(cut)
    forged_length = (kept * CHUNK_BYTES).to_bytes(8, "big")
    assert_refused(cut[:8] + forged_length + cut[16:])
    # A range read that is told the shorter length learns the true one from the header.
    with pytest.raises(IntegrityFailure):
        open_range(KEY, reader(THREE_SEALED), len(cut), CONTEXT, 0, 10)


@pytest.mark.parametrize("cut", [0, 1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + TAG_BYTES - 1, len(THREE_SEALED) - 1])
def test_truncation_elsewhere_is_refused(cut: int) -> None:
    assert_refused(THREE_SEALED[:cut])


def test_added_bytes_are_refused() -> None:
    assert_refused(THREE_SEALED + b"\0")
    assert_refused(b"\0" + THREE_SEALED)


@settings(max_examples=60, deadline=None)
@given(position=st.integers(0, len(THREE_SEALED) - 1), bit=st.integers(0, 7))
def test_one_flipped_bit_is_refused(position: int, bit: int) -> None:
    changed = bytearray(THREE_SEALED)
    changed[position] ^= 1 << bit
    assert_refused(bytes(changed))


@pytest.mark.parametrize("position", range(HEADER_BYTES))
def test_every_flipped_header_byte_is_refused(position: int) -> None:
    sealed = bytearray(seal(KEY, b"payload", CONTEXT))
    sealed[position] ^= 0x10
    with pytest.raises(IntegrityFailure, match=r"^cannot be opened$"):
        open_(KEY, sealed, CONTEXT)


@settings(max_examples=10, deadline=None)
@given(number=chunks)
def test_chunk_spliced_in_from_another_object_is_refused(number: int) -> None:
    start = HEADER_BYTES + number * SEALED_CHUNK
    others = [
        seal(KEY, THREE_CHUNKS, CONTEXT),
        seal(KEY, THREE_CHUNKS, replace(CONTEXT, object_id="other")),
        # Even under the same salt, which never happens: the context alone separates them.
        sealed_with(KEY, THREE_SEALED[16:48], THREE_CHUNKS, replace(CONTEXT, tenant="h2")),
    ]
    for other in others:
        assert_refused(THREE_SEALED[:start] + other[start : start + SEALED_CHUNK] + THREE_SEALED[start + SEALED_CHUNK :])
        assert_refused(other[:HEADER_BYTES] + THREE_SEALED[HEADER_BYTES:])


def sealed_with(key: bytes, salt: bytes, payload: bytes, context: ObjectContext) -> bytes:
    sealer = StreamSealer(key, [payload], context, salt=salt)
    out = memoryview(bytearray(SEALED_CHUNK))
    sealed = bytearray(sealer.header)
    while written := sealer.next_chunk_into(out):
        sealed += out[:written]
    return bytes(sealed)


@pytest.mark.parametrize(
    "context",
    [
        replace(CONTEXT, tenant="h2"),
        replace(CONTEXT, study="studz"),
        replace(CONTEXT, object_id="objecu"),
        replace(CONTEXT, version=2),
        ObjectContext("h1s", "tudy", "object"),
        ObjectContext("h1", "studyo", "bject"),
        ObjectContext("", "h1study", "object"),
    ],
    ids=str,
)
def test_another_context_or_key_opens_nothing(context: ObjectContext) -> None:
    assert_refused(THREE_SEALED, context)
    assert_refused(THREE_SEALED, key=os.urandom(32))


def test_header_commits_to_the_key() -> None:
    """Two keys never share a header, so no ciphertext opens under both, whatever its chunks say."""
    sealed = seal(KEY, b"payload", CONTEXT)
    other = StreamSealer(os.urandom(32), [b"payload"], CONTEXT, salt=sealed[16:48])
    assert other.header[:48] == sealed[:48]
    assert other.header[48:] != sealed[48:HEADER_BYTES]


def test_limits_are_asserted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PAYLOAD_BYTES_MAX == 64 * 2**30
    monkeypatch.setattr("crypto.aead_stream.PAYLOAD_BYTES_MAX", 10)
    with pytest.raises(RefusedContent) as refused:
        seal(KEY, bytes(11), CONTEXT)
    assert refused.value.reason_code == "payload-too-long"
    with pytest.raises(ValueError, match="32 bytes"):
        seal(KEY[:16], b"", CONTEXT)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_known_answers(vector: dict[str, Any]) -> None:
    key, salt = bytes.fromhex(vector["key"]), bytes.fromhex(vector["salt"])
    context = ObjectContext(*vector["context"])
    payload = pattern(vector["payload_pattern_bytes"])
    sealed = by_hand(key, salt, context, payload)
    assert hashlib.sha256(sealed).hexdigest() == vector["sealed_sha256"]
    if "sealed" in vector:
        assert sealed.hex() == vector["sealed"]
    assert sealed_with(key, salt, payload, context) == sealed
    assert open_(key, sealed, context) == payload
    assert open_range(key, reader(sealed), len(sealed), context, 0, len(payload)) == payload


def by_hand(key: bytes, salt: bytes, context: ObjectContext, payload: bytes) -> bytes:
    """The format from its description alone: RFC 5869 with hmac, and one AES-GCM call a chunk."""
    fixed = b"RGS1" + bytes([1, 20, 0, 0]) + len(payload).to_bytes(8, "big")
    fields = [context.tenant.encode(), context.study.encode(), context.object_id.encode(), context.version.to_bytes(4, "big")]
    associated = b"readgate object v1\0" + b"".join(len(field).to_bytes(4, "big") + field for field in fields)
    info = b"readgate stream v1\0" + fixed + associated
    extracted = hmac.digest(salt, key, "sha256")
    first = hmac.digest(extracted, info + b"\x01", "sha256")
    second = hmac.digest(extracted, first + info + b"\x02", "sha256")
    sealed = fixed + salt + second
    pieces = [payload[start : start + CHUNK_BYTES] for start in range(0, len(payload), CHUNK_BYTES)] or [b""]
    for number, piece in enumerate(pieces):
        nonce = number.to_bytes(11, "big") + bytes([number == len(pieces) - 1])
        sealed += AESGCM(first).encrypt(nonce, piece, associated)
    return sealed
