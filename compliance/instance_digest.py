"""What an instance's bytes are, in two digests of which pixels are read but once.

Invariants
- The pixel digest is over each frame's length (8 bytes, big-endian) and bytes: the same for a frame wherever in a file it lies.
- The payload digest is over the stretches outside the frames, each after its length (8 bytes, big-endian), and the pixel digest's 32 bytes:
  with the places of the frames it determines every byte. Without frames it is over the payload alone.
Both are SHA-256, written as 'sha256:' and hex.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from crypto.errors import IntegrityFailure

_Frames = Sequence[Sequence[int]]


def instance_digests(payload: bytes, frame_table: _Frames) -> tuple[str | None, str]:
    """(pixel digest, payload digest) of `payload` whose frames lie at (offset, length); the pixel digest is None without frames.

    Raises IntegrityFailure where the frames are not in order or not within the payload.
    """
    if not frame_table:
        return None, "sha256:" + hashlib.sha256(payload).hexdigest()
    view = memoryview(payload)
    pixels, around = hashlib.sha256(), hashlib.sha256()
    pos = 0
    for offset, length in frame_table:
        if not pos <= offset <= offset + length <= len(view):
            raise IntegrityFailure("the frame table does not fit its payload")
        pixels.update(length.to_bytes(8, "big"))
        pixels.update(view[offset : offset + length])
        around.update((offset - pos).to_bytes(8, "big"))
        around.update(view[pos:offset])
        pos = offset + length
    around.update((len(view) - pos).to_bytes(8, "big"))
    around.update(view[pos:])
    around.update(pixels.digest())
    return "sha256:" + pixels.hexdigest(), "sha256:" + around.hexdigest()


def payload_digest(payload: bytes, frame_table: _Frames) -> str:
    """The payload digest alone."""
    return instance_digests(payload, frame_table)[1]
