"""Segments that are written, crashed and read back."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from crypto.errors import IntegrityFailure
from crypto.spool import FramePosition, SegmentReader, SegmentWriter

FACTS: dict[str, str | int] = {"calling_ae_title": "H1_PACS", "association": 7}


Frames = list[tuple[FramePosition, dict[str, Any], bytes]]


def payload(number: int, length: int = 1000) -> bytes:
    return random.Random(number).randbytes(length)


def append_some(writer: SegmentWriter, count: int, length: int = 1000) -> list[FramePosition]:
    return [writer.append({"n": number}, payload(number, length)) for number in range(count)]


def crash(writer: SegmentWriter) -> None:
    """The writer's process is gone: no end mark, the lock released."""
    writer._spool._finish(writer.segment_id, writer._file)
    writer._is_closed = True


def path_of(tmp_path: Path, segment_id: str) -> Path:
    return tmp_path / "spool" / f"{segment_id}.segment"


def read_all(reader: SegmentReader) -> tuple[Frames, int]:
    """Every frame that opens, and how many raised."""
    frames: Frames = []
    failures = 0
    while True:
        try:
            frames.append(next(reader))
        except IntegrityFailure:
            failures += 1
        except StopIteration:
            return frames, failures
