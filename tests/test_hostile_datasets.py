"""Bytes that lie about what they are: refused by name, and never a crash."""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset

from compliance.deid_profile import DeidProfile, Option
from compliance.deidentify import deidentify
from compliance.identified import IdentifiedDataset
from compliance.identity_terms import IdentityTerms, collect_identity
from crypto.errors import RefusedContent
from tests.builders import make_ct_study
from tests.deid_samples import (
    EXPLICIT,
    Screened,
    bare_instance,
    clean_screen,
    instance_of,
    names_for,
    released,
)


def with_bytes(change: Callable[[bytes], bytes], dataset: Dataset | None = None) -> IdentifiedDataset:
    base = instance_of(dataset or make_ct_study(1)[0])
    return IdentifiedDataset(change(base.payload), EXPLICIT, base.sop_class_uid, base.sop_instance_uid)


def nested(depth: int) -> bytes:
    value = b""
    for _ in range(depth):
        value = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, len(value) + 8) + struct.pack("<HHI", 0xFFFE, 0xE000, len(value)) + value
    return value


def put_number(payload: bytes, tag: int, value: int) -> bytes:
    header = struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, b"US", 2)
    at = payload.index(header) + 8
    return payload[:at] + struct.pack("<H", value) + payload[at + 2 :]


HOSTILE: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "truncated pixels": ("MALFORMED_DATASET", lambda data: data[:-3]),
    "truncated header": ("MALFORMED_DATASET", lambda data: data[:101]),
    "trailing bytes": ("MALFORMED_DATASET", lambda data: data + b"Zorv"),
    "unknown VR": ("MALFORMED_DATASET", lambda data: data.replace(b"\x08\x00\x60\x00CS", b"\x08\x00\x60\x00ZZ")),
    "length beyond the end": ("MALFORMED_DATASET", lambda data: data + struct.pack("<HH2sHI", 0x7FE1, 0x1010, b"OB", 0, 1 << 31)),
    "no end of sequence": ("MALFORMED_DATASET", lambda data: data + struct.pack("<HH2sHI", 0xFFFA, 0xFFFA, b"SQ", 0, 0xFFFFFFFF)),
    "duplicate": (
        "DUPLICATE_ELEMENT",
        lambda data: data + struct.pack("<HH2sH", 0x0008, 0x0060, b"CS", 2) + b"CT",
    ),
    "nested 17 deep": ("NESTED_TOO_DEEP", lambda data: data[: data.index(b"\xe0\x7f\x10\x00OW")] + nested(18)),
    "65535 x 65535": ("TRUNCATED_PIXELS|PIXELS_TOO_LARGE", lambda data: put_number(put_number(data, 0x00280010, 65535), 0x00280011, 65535)),
    "no rows": ("IMPOSSIBLE_PIXELS", lambda data: put_number(data, 0x00280010, 0)),
    "more rows than bytes": ("TRUNCATED_PIXELS", lambda data: put_number(data, 0x00280010, 65)),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_bytes_are_refused_by_name(case: str) -> None:
    reason, change = HOSTILE[case]
    source = with_bytes(change)
    with pytest.raises(RefusedContent) as refused:
        deidentify(source, names_for(IdentityTerms.from_dataset(make_ct_study(1)[0])), screen=clean_screen)
    assert re.fullmatch(reason, refused.value.reason_code)
    assert "Gr" not in str(refused.value)


@pytest.mark.parametrize(
    ("syntax", "reason"), [("1.2.840.10008.1.2.1.99", "DEFLATED_TRANSFER_SYNTAX"), ("1.2.3.4", "UNKNOWN_TRANSFER_SYNTAX")]
)
def test_unreadable_transfer_syntaxes_are_refused(syntax: str, reason: str) -> None:
    base = instance_of(bare_instance())
    with pytest.raises(RefusedContent, match=reason):
        deidentify(IdentifiedDataset(base.payload, syntax, base.sop_class_uid, base.sop_instance_uid), names_for(IdentityTerms()))


def test_what_cannot_be_proved_is_refused() -> None:
    source = instance_of(make_ct_study(1)[0])
    under = names_for(collect_identity([source]))
    with pytest.raises(RefusedContent, match="PIXELS_NOT_SCREENED"):
        deidentify(source, under)
    with pytest.raises(RefusedContent, match="BURNED_IN_TEXT"):
        deidentify(source, under, screen=lambda dataset, words: Screened("HOLD", "TEXT_ON_ANATOMY", dataset))
    with pytest.raises(RefusedContent, match="SEVERAL_PATIENT_IDS"):
        deidentify(source, names_for(IdentityTerms(patient_ids=frozenset({"OTHER"}))), screen=clean_screen)
    doubtful = bare_instance()
    doubtful.ImageComments = "John Smithson agrees"
    with pytest.raises(RefusedContent, match="DOUBTFUL_TEXT") as refused:
        released(doubtful)
    assert refused.value.tag == "(0020,4000)"
    document = bare_instance()
    document.SOPClassUID, document.EncapsulatedDocument = "1.2.840.10008.5.1.4.1.1.104.1", b"%PDF-1.4"
    with pytest.raises(RefusedContent, match="ENCAPSULATED_DOCUMENT"):
        released(document)
    unnamed = bare_instance()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unnamed.StudyInstanceUID = "no UID at all"
    with pytest.raises(RefusedContent, match="MISSING_UID"):
        released(unnamed)
    face = DeidProfile("faces", frozenset({Option.CLEAN_VISUAL_FEATURES}))
    with pytest.raises(RefusedContent, match="RECOGNIZABLE_VISUAL_FEATURES"):
        deidentify(source, names_for(IdentityTerms(), face))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_broken_bytes_never_crash(data: st.DataObject) -> None:
    source = instance_of(make_ct_study(1, 4, 4)[0])
    payload = bytearray(source.payload)
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(payload)))
    for broken in (bytes(payload), bytes(payload[:cut])):
        try:
            deidentify(
                IdentifiedDataset(broken, EXPLICIT, source.sop_class_uid, source.sop_instance_uid),
                names_for(IdentityTerms()),
                screen=clean_screen,
            )
        except RefusedContent as refused:
            assert refused.reason_code.isupper()
