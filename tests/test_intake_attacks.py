"""What hostile senders put into instances: no string becomes a path, no preamble is kept, no bomb is unfolded, no depth recurses."""

from __future__ import annotations

import gzip
import io
import math
import os
import random
import resource
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from compliance.part10 import instance_of_file
from crypto.errors import ReadgateError, RefusedContent
from gateway.dicom_transport import ConnectionLost, Wait
from gateway.header_scan import scan_header
from gateway.intake import receive_instance
from gateway.intake_port import InstanceHead
from gateway.part10_stream import read_part10_head
from gateway.pdu import MessageInterrupted, PduReader, ProtocolViolation
from gateway.storage_commitment import parse_commitment_request
from tests import fuzzing
from tests.builders import make_ct_study, payload_of
from tests.dicom_peers import pdu, pdv
from tests.intake_site import EXPLICIT, intake_site

REPOSITORY = Path(__file__).resolve().parents[1]
SYNTAXES = ["1.2.840.10008.1.2", EXPLICIT, "1.2.840.10008.1.2.2"]
_STEMS = [
    "../../../etc/x",
    "..\\..\\x",
    "/etc/passwd",
    "C:\\x",
    "\\\\host\\share",
    "a\0b",
    "%2e%2e%2f",
    "x" * 65,
    "x" * 4000,
    "\u202e\u0639",
    "x.",
    "x ",
    "CON",
    "$(id)",
    "`id`",
    "'; DROP TABLE received_study;--",
    '" OR 1=1',
    "{{7*7}}",
    "${jndi:ldap://x}",
    "<script>alert(1)</script>",
    "=cmd|'!A1",
    "\x1b]0;x\x07",
    "\x1b$B",
    "\r\nMSH|^~\\&|",
    "\x0b\x1c\r",
    "^^^^^",
    "\\\\\\",
    "-rf",
    "*",
    "\ufeff",
]
_ROTATIONS = ["{}", " {}", "{}\\{}", "A^{}"]
HOSTILE = [rotation.format(stem, stem) for rotation in _ROTATIONS for stem in _STEMS]
#: Text VRs by one element of each that a header may hold before and behind the identifying ones.
TEXTS = {
    "AE": 0x00080054,
    "CS": 0x00080060,
    "DA": 0x00080020,
    "DS": 0x00101030,
    "DT": 0x0008002A,
    "IS": 0x00200013,
    "LO": 0x00100020,
    "LT": 0x001021B0,
    "PN": 0x00100010,
    "SH": 0x00080050,
    "ST": 0x00080081,
    "TM": 0x00080030,
    "UC": 0x00080119,
    "UR": 0x00080120,
    "UT": 0x00080117,
    "AS": 0x00101010,
}


def explicit(tag: int, vr: str, value: bytes) -> bytes:
    value += b" " * (len(value) % 2)
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    return head + (struct.pack("<HI", 0, len(value)) if vr in ("UC", "UR", "UT") else struct.pack("<H", len(value))) + value


def instance_with(tag: int, vr: str, value: bytes, number: int) -> tuple[InstanceHead, bytes]:
    """A small CT whose element `tag` holds `value`."""
    uid = f"2.25.9{number}"
    elements = {
        0x00080016: ("UI", b"1.2.840.10008.5.1.4.1.1.2\0"),
        0x00080018: ("UI", uid.encode() + b"\0" * (len(uid) % 2)),
        0x00100020: ("LO", b"P"),
        0x0020000D: ("UI", b"2.25.11\0"),
        0x0020000E: ("UI", b"2.25.12\0"),
        tag: (vr, value),
    }
    return InstanceHead("1.2.840.10008.5.1.4.1.1.2", uid, EXPLICIT, 1), b"".join(explicit(key, *elements[key]) for key in sorted(elements))


def test_hostile_strings_in_every_text_vr_become_no_path_and_lose_nothing(tmp_path: Path) -> None:
    """Kept as they are, or refused with a status: 120 strings in 16 VRs, on one association."""
    kept = refused = 0
    with intake_site(tmp_path / "site") as site:
        names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
        session, sent = site.session(), set[bytes]()
        # The disk is not what is tested here.
        site.disk.fdatasync = lambda descriptor: None  # type: ignore[method-assign]
        for vr, tag in TEXTS.items():
            for text in HOSTILE:
                head, payload = instance_with(tag, vr, text.encode("utf-8", "replace"), kept + refused)
                try:
                    assert receive_instance(site.intake, session, head, [memoryview(payload)]) == 0
                    kept += 1
                    sent.add(payload)
                except RefusedContent:
                    refused += 1
        assert site.index.flush()
        assert (kept + refused, len(site.instances())) == (len(TEXTS) * len(HOSTILE), kept)
        assert kept > 1800
        assert session.segment is not None
        segment_id = session.segment.segment_id
        assert {payload for _, _, payload in site.spool.read_segment(segment_id)} == sent
        new = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} - names
        assert {name for name in new if not name.startswith(("site/readgate.sqlite3", "site/keys/"))} == {
            f"site/spool/{segment_id}.segment"
        }


@pytest.mark.parametrize("uid", ["../../etc/x", "1.2/../3", "/1.2", "1..2", "1.2\n", "1.2;x", "1" * 65, "01.2", "1.02", "", "١.٢"])
@pytest.mark.parametrize("tag", [0x00080018, 0x0020000D, 0x0020000E, 0x00080016])
def test_uid_that_is_none_is_refused(tmp_path: Path, tag: int, uid: str) -> None:
    _, payload = instance_with(tag, "UI", uid.encode(), 1)
    with pytest.raises(RefusedContent):
        scan_header(payload, EXPLICIT)


_HEADS = [
    b"MZ",
    b"\x7fELF",
    b"#!/bin/sh\n",
    b"\xca\xfe\xba\xbe",
    b"\xcf\xfa\xed\xfe",
    b"PK\3\4",
    b"%PDF-1.7",
    b"GIF89a",
    b"\xff\xd8\xff\xe0",
    b"II*\0",
]
_HEADS += [
    b"\xff\xd8\xff\xe0",
    b"MM\0*",
    b"<html>",
    b"<?php ",
    b"\x1f\x8b\x08",
    b"BZh9",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!",
    b"!<arch>\n",
    b"\0asm",
    b"\xd0\xcf\x11\xe0",
]


@pytest.mark.parametrize("head", _HEADS, ids=[str(head) for head in _HEADS])
def test_program_in_a_preamble_ends_with_the_preamble(head: bytes) -> None:
    (dataset,) = make_ct_study(instances=1, rows=8, columns=8)
    payload = payload_of(dataset)
    polyglot = head.ljust(128, b"\x90") + _part10(dataset, payload)[128:]
    assert instance_of_file(polyglot).payload == payload
    found = read_part10_head(polyglot)
    assert found is not None and polyglot[found.dataset_start :] == payload


def _part10(dataset: Dataset, payload: bytes, syntax: str = EXPLICIT) -> bytes:
    meta = explicit(0x00020002, "UI", dataset.SOPClassUID.encode()) + explicit(0x00020003, "UI", dataset.SOPInstanceUID.encode())
    meta += explicit(0x00020010, "UI", syntax.encode())
    return bytes(128) + b"DICM" + explicit(0x00020000, "UL", struct.pack("<I", len(meta))) + meta + payload


def _nested(depth: int, syntax: str, *, undefined: bool) -> bytes:
    """Request Attributes Sequence in itself, `depth` times, before the identifying elements."""
    little = syntax != "1.2.840.10008.1.2.2"
    order = "<" if little else ">"

    def element(group: int, number: int, length: int) -> bytes:
        tag = struct.pack(order + "HH", group, number)
        return tag + (struct.pack(order + "I", length) if syntax == "1.2.840.10008.1.2" else b"SQ\0\0" + struct.pack(order + "I", length))

    def item(number: int, length: int) -> bytes:
        return struct.pack(order + "HHI", 0xFFFE, number, length)

    if undefined:
        opening = (element(0x0008, 0x1140, 0xFFFFFFFF) + item(0xE000, 0xFFFFFFFF)) * depth
        return opening + (item(0xE00D, 0) + item(0xE0DD, 0)) * depth
    inner = b""
    for _ in range(min(depth, 2000)):
        inner = element(0x0008, 0x1140, len(inner) + 8) + item(0xE000, len(inner)) + inner
    return inner


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("depth", [17, 100, 300, 5000, 10_000])
def test_nesting_ends_in_an_answer_at_any_depth(depth: int, undefined: bool, syntax: str) -> None:
    data = _nested(depth, syntax, undefined=undefined)
    for reader in (scan_header, parse_commitment_request):
        with pytest.raises(RefusedContent):
            reader(data, syntax)
    with pytest.raises(ReadgateError):
        instance_of_file(bytes(128) + b"DICM" + data)


def _zip_of(content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", content)
    return out.getvalue()


def _bombs(folder: Path) -> None:
    """Fifty files that unfold to half a gigabyte, or say so, in a folder."""
    (dataset,) = make_ct_study(instances=1, rows=8, columns=8)
    zeros = bytes(16 * 1024 * 1024)
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    deflated = b"".join(deflater.compress(zeros) for _ in range(32)) + deflater.flush()
    zipped = _zip_of(zeros)
    kinds = {
        "deflate": _part10(dataset, deflated, "1.2.840.10008.1.2.1.99"),
        "frame": _part10(dataset, deflated, "1.2.840.10008.1.2.8.1"),
        "gzip": gzip.compress(zeros),
        "zip": zipped,
        "zipzip": _zip_of(zipped * 20),
    }
    for number in range(10):
        for name, content in kinds.items():
            (folder / f"{name}{number}.dcm").write_bytes(content)


def test_bombs_are_refused_within_the_memory_of_a_small_process(tmp_path: Path) -> None:
    _bombs(tmp_path)
    code = (
        "import sys, pathlib\n"
        "from compliance.part10 import instance_of_file\n"
        "from crypto.errors import ReadgateError\n"
        "from gateway.header_scan import scan_header\n"
        "taken = 0\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
        "    try:\n"
        "        instance = instance_of_file(path.read_bytes())\n"
        "        scan_header(instance.payload, instance.transfer_syntax_uid)\n"
        "        taken += 1\n"
        "    except ReadgateError:\n"
        "        pass\n"
        "print(taken)\n"
    )

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (512 * 1024 * 1024, 512 * 1024 * 1024))

    command = [sys.executable, "-c", code, str(tmp_path)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, preexec_fn=limit, capture_output=True, text=True, timeout=120, env=environment)
    assert (done.returncode, done.stdout.strip()) == (0, "0"), done.stderr[-500:]


# -- fuzzing: 2 x 10^4 inputs a run, 10^6 by `make fuzz` (tests/fuzzing.py)


_SEED = payload_of(make_ct_study(instances=1, rows=4, columns=4)[0])
_INTERESTING = [
    *(b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0", b"SQ\0\0", b"UN\0\0"),
    *(b"\x08\0\x40\x11", b"\x08\0\x18\0UI", b"\x20\0\x0d\0", b"\x7f", b"\x80\0\0\0", b"1.2.3\\4"),
]


@given(st.integers(0, 2**64), st.sampled_from(SYNTAXES))
@settings(max_examples=400, deadline=None)
def test_mutated_data_sets_are_refused_or_name_valid_uids(seed: int, syntax: str) -> None:
    source = random.Random(seed)
    for _ in range(fuzzing.inputs_per_example):
        data = fuzzing.mutated(_SEED, _INTERESTING, source)
        try:
            facts = scan_header(data, syntax)
        except RefusedContent:
            continue
        for uid in (facts.sop_class_uid, facts.sop_instance_uid, facts.study_instance_uid, facts.series_instance_uid):
            assert 0 < len(uid) <= 64 and set(uid) <= set("0123456789.")


_WIRE = b"".join(pdu(4, pdv(1, control, b"x" * length)) for control, length in ((3, 60), (0, 40), (2, 90), (3, 4))) + pdu(5, bytes(4))
_WIRE_PIECES = [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\4\0\0\0\0\6", b"\7\0\0\0\0\4", b"\1\0", b"\0\0\0\2", b"\0\0\0\1", b"\x80\0\0\0"]


@given(st.integers(0, 2**64))
@settings(max_examples=400, deadline=None)
def test_mutated_pdus_end_in_a_typed_error(seed: int) -> None:
    source = random.Random(seed)
    for _ in range(fuzzing.inputs_per_example):
        reader = PduReader(_Wire(fuzzing.mutated(_WIRE, _WIRE_PIECES, source)), pdu_seconds_max=5, pdu_bytes_max=512)
        with pytest.raises((ProtocolViolation, MessageInterrupted, ConnectionLost)):
            for _ in range(100):
                reader.read_fragment(math.inf)
                reader.forget()


class _Wire:
    """A connection of which these bytes come, and then its end; nobody may ask for more than a PDU may have."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def read_into(self, view: memoryview, deadline: float) -> None:
        self.read_some(view, len(view), deadline)

    def read_some(self, view: memoryview, wanted: int, deadline: float) -> int:
        assert wanted <= 512
        if self._at + wanted > len(self._data):
            raise ConnectionLost("the end")
        # Sometimes more comes than what was asked for.
        coming = self._data[self._at : self._at + min(wanted + self._at % 3 * 20, len(view))]
        view[: len(coming)] = coming
        self._at += len(coming)
        return len(coming)

    def wait_readable(self, deadline: float, wake_fd: int | None) -> Wait:
        return Wait.READABLE

    def send(self, data: bytes, deadline: float) -> None:
        raise AssertionError("nothing is sent")

    def close(self, linger_seconds: float = 0.0) -> None:
        pass
