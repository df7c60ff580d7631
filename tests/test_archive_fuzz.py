"""Archives and heads of files with bytes changed anywhere: read to an end or refused in words of ours, and nothing else."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compliance.archive_members import Archive
from compliance.part10 import instance_of_file, instance_of_head
from compliance.refusal_words import REASONS, known_detail
from crypto.errors import RefusedContent
from tests import fuzzing
from tests.builders import make_ct_study, part10_of
from tests.fuzzing import mutated

HEAD = part10_of(make_ct_study(1)[0])


def _archive(format_: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format_) as archive:
        for number, kind in enumerate((tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.REGTYPE)):
            info = tarfile.TarInfo(f"{'long/' * 40}{number}")
            info.type, info.size = kind, 700 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(HEAD[:700]))
    return buffer.getvalue()


SEEDS = [_archive(kind) for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]
SEEDS += [gzip.compress(SEEDS[1]), bz2.compress(SEEDS[1]), lzma.compress(SEEDS[2])]
PIECES = [
    b"\0" * 8,
    b"\xff" * 8,
    b"7777777",
    b"\x80" + b"\xff" * 10,
    b"ustar  ",
    b"x",
    b"g",
    b"L",
    b"S",
    b"K",
    b"30 size=-9\n",
    b"19 GNU.sparse.major=1\n",
]
_MEMBERS_MAX = 1000


def mended(data: bytes) -> bytes:
    """With the sums of its headers right again, so that what was changed in them is read."""
    blocks = bytearray(data)
    for at in range(0, len(blocks) - 511, 512):
        if blocks[at + 257 : at + 262] == b"ustar":
            blocks[at + 148 : at + 156] = b" " * 8
            blocks[at + 148 : at + 156] = b"%06o\0 " % sum(blocks[at : at + 512])
    return bytes(blocks)


def read_to_its_end(data: bytes) -> None:
    descriptor = os.memfd_create("archive")
    os.write(descriptor, data)
    archive = None
    try:
        archive = Archive(descriptor)
        for _ in range(_MEMBERS_MAX):
            member = archive.next()
            if member is None:
                return
            if member.read is not None:
                start = member.read(16)
                assert len(member.read(None)) >= len(start[:16]) and len(member.name) <= 1024
        raise AssertionError("an archive without end")
    except RefusedContent as refused:
        assert refused.reason_code in REASONS and known_detail(refused.detail) == refused.detail
    finally:
        if archive is not None:
            archive.close()


@pytest.mark.parametrize("seed", range(len(SEEDS)))
@given(number=st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_changed_archives_end(seed: int, number: int) -> None:
    source = random.Random(number)
    for _ in range(fuzzing.inputs_per_example):
        data = mutated(SEEDS[seed], PIECES, source)
        read_to_its_end(mended(data) if source.random() < 0.7 else data)


@given(number=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_changed_heads_of_files_end(number: int) -> None:
    source = random.Random(number)
    for _ in range(fuzzing.inputs_per_example):
        data = mutated(HEAD[: source.randint(0, len(HEAD))], PIECES, source)
        for read in (instance_of_head, instance_of_file):
            try:
                instance = read(data)
                assert instance.sop_class_uid and instance.sop_instance_uid
            except RefusedContent as refused:
                assert refused.reason_code in REASONS and known_detail(refused.detail) == refused.detail
