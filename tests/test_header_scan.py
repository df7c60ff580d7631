"""The header scan against pydicom's encoder, and against anybody's bytes."""

from __future__ import annotations

import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence

from crypto.errors import RefusedContent
from gateway import header_scan
from gateway.header_scan import ELEMENTS_MAX, SEQUENCE_DEPTH_MAX, scan_header
from tests.dicom_peers import CT, EXPLICIT_LE, IMPLICIT_LE

EXPLICIT_BE = "1.2.840.10008.1.2.2"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
SYNTAXES = [IMPLICIT_LE, EXPLICIT_LE, EXPLICIT_BE]


def identified(**changes: object) -> Dataset:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SOPClassUID = CT
    dataset.SOPInstanceUID = "1.2.3.4"
    dataset.PatientID = "M-4711"
    dataset.IssuerOfPatientID = "HOSP"
    dataset.StudyInstanceUID = "1.2.3"
    dataset.SeriesInstanceUID = "1.2.3.1"
    for keyword, value in changes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dataset


def encoded(dataset: Dataset, syntax: str = EXPLICIT_LE, *, undefined: bool = False) -> bytes:
    if undefined:
        _undefine(dataset)
    out = DicomBytesIO()
    out.is_implicit_VR = syntax == IMPLICIT_LE
    out.is_little_endian = syntax != EXPLICIT_BE
    write_dataset(out, dataset)
    return bytes(out.getvalue())


def _undefine(dataset: Dataset) -> None:
    for element in dataset:
        if element.VR == "SQ":
            element.is_undefined_length = True
            for item in element.value:
                item.is_undefined_length_sequence_item = True
                _undefine(item)


def nested(depth: int) -> Dataset:
    inner = Dataset()
    inner.PatientID = "WRONG"
    inner.StudyInstanceUID = "9.9.9"
    for _ in range(depth):
        outer = Dataset()
        outer.ReferencedStudySequence = Sequence([inner, Dataset()])
        inner = outer
    return inner


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("as_parts", [False, True])
def test_identity_of_the_outermost_data_set_is_found(syntax: str, undefined: bool, as_parts: bool) -> None:
    dataset = identified()
    dataset.update(nested(3))
    dataset.add_new(0x00090010, "LO", "ACME")
    dataset.add_new(0x00091001, "UN", b"\0" * 100_000)
    dataset.PixelData = b"\0" * 1000
    dataset["PixelData"].VR = "OW"
    payload = encoded(dataset, syntax, undefined=undefined)
    facts = scan_header([memoryview(payload)] if as_parts else payload, syntax)
    assert facts.study_instance_uid == "1.2.3"
    assert facts.series_instance_uid == "1.2.3.1"
    assert facts.sop_instance_uid == "1.2.3.4"
    assert facts.sop_class_uid == CT
    assert (facts.patient_id, facts.issuer_of_patient_id, facts.specific_character_set) == (b"M-4711", b"HOSP", b"ISO_IR 100")


def test_encapsulated_syntax_is_explicit_little_endian() -> None:
    assert scan_header(encoded(identified()), JPEG_BASELINE).study_instance_uid == "1.2.3"


def test_patient_id_stays_bytes_in_whatever_repertoire() -> None:
    raw = "受付".encode("shift_jis")
    payload = encoded(identified(PatientID=None))
    at = payload.index(struct.pack("<HH", 0x0010, 0x0021))
    element = struct.pack("<HH2sH", 0x0010, 0x0020, b"LO", len(raw)) + raw
    assert scan_header(payload[:at] + element + payload[at:], EXPLICIT_LE).patient_id == raw


def test_absent_patient_id_is_empty() -> None:
    assert scan_header(encoded(identified(PatientID=None, IssuerOfPatientID=None)), EXPLICIT_LE).patient_id == b""


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("value", [None, "", "1..2", "1.02", "../../etc/x", "1." + "2" * 63, "1.2\\1.3", "1.2 3", "a.b"])
def test_identity_without_a_valid_uid_is_refused(keyword: str, value: str | None) -> None:
    dataset = identified(**{keyword: None})
    if value is not None:
        dataset.add_new(keyword, "UI", "")
        raw = value.encode() + b"\0" * (len(value) % 2)
        plain = encoded(dataset)
        head = struct.pack("<HH2s", dataset[keyword].tag.group, dataset[keyword].tag.element, b"UI")
        at = plain.index(head)
        payload = plain[:at] + head + struct.pack("<H", len(raw)) + raw + plain[at + 8 :]
    else:
        payload = encoded(dataset)
    with pytest.raises(RefusedContent) as refused:
        scan_header(payload, EXPLICIT_LE)
    assert refused.value.tag is not None
    assert not value or value not in str(refused.value)


def test_deflated_data_set_is_refused_unread() -> None:
    with pytest.raises(RefusedContent, match=header_scan.DEFLATED):
        scan_header(b"\0" * 100, "1.2.840.10008.1.2.1.99")


def test_second_identity_cannot_hide_behind_the_first() -> None:
    payload = encoded(identified())
    study = encoded(identified(SOPClassUID=None, SOPInstanceUID=None, PatientID=None, IssuerOfPatientID=None, SpecificCharacterSet=None))
    at = payload.index(struct.pack("<HH", 0x0020, 0x000E))
    with pytest.raises(RefusedContent, match=header_scan.NOT_ASCENDING):
        scan_header(payload[:at] + study + payload[at:], EXPLICIT_LE)


@pytest.mark.parametrize("group", [0x0000, 0x0002, 0x0006])
def test_groups_of_command_and_file_meta_are_refused(group: int) -> None:
    with pytest.raises(RefusedContent, match=header_scan.GROUP_NOT_ALLOWED):
        scan_header(struct.pack("<HH2sH", group, 0x0010, b"UI", 0) + encoded(identified()), EXPLICIT_LE)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_depth_is_bounded(syntax: str) -> None:
    dataset = identified()
    dataset.update(nested(SEQUENCE_DEPTH_MAX - 1))
    assert scan_header(encoded(dataset, syntax, undefined=True), syntax).study_instance_uid == "1.2.3"
    order = ">" if syntax == EXPLICIT_BE else "<"
    sequence = struct.pack(order + "HH", 0x0008, 0x1110)
    sequence += b"" if syntax == IMPLICIT_LE else b"SQ\0\0"
    sequence += struct.pack(order + "I", 0xFFFFFFFF) + struct.pack(order + "HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    with pytest.raises(RefusedContent, match=header_scan.TOO_DEEP):
        scan_header(sequence * 10_000, syntax)


def test_number_of_elements_is_bounded_and_so_is_the_time() -> None:
    sequence = struct.pack("<HH2s2xI", 0x0008, 0x1110, b"SQ", 0xFFFFFFFF)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
    began = time.perf_counter()
    with pytest.raises(RefusedContent, match=header_scan.TOO_LONG):
        scan_header(sequence + item * (ELEMENTS_MAX + 10), EXPLICIT_LE)
    assert time.perf_counter() - began < 10


def test_unknown_vr_of_undefined_length_holds_implicit_little_endian() -> None:
    inner = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + struct.pack("<HHI", 0x0010, 0x0020, 4) + b"ABCD"
    inner += struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    unknown = struct.pack("<HH2s2xI", 0x0009, 0x1001, b"UN", 0xFFFFFFFF) + inner
    payload = encoded(identified())
    at = payload.index(struct.pack("<HH", 0x0010, 0x0020))
    assert scan_header(payload[:at] + unknown + payload[at:], EXPLICIT_LE).patient_id == b"M-4711"


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_truncation_is_refused_or_read_right(syntax: str) -> None:
    dataset = identified()
    dataset.update(nested(2))
    payload = encoded(dataset, syntax, undefined=True)
    whole = scan_header(payload, syntax)
    for length in range(len(payload)):
        try:
            assert scan_header(payload[:length], syntax) == whole
        except RefusedContent:
            continue


@given(st.binary(max_size=400), st.sampled_from(SYNTAXES))
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes_are_refused(data: bytes, syntax: str) -> None:
    with pytest.raises(RefusedContent):
        scan_header(data, syntax)


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=12), st.sampled_from(SYNTAXES), st.booleans())
@settings(max_examples=300, deadline=None)
def test_damaged_headers_are_refused_or_give_valid_identities(flips: list[tuple[int, int]], syntax: str, undefined: bool) -> None:
    dataset = identified()
    dataset.update(nested(4))
    payload = bytearray(encoded(dataset, syntax, undefined=undefined))
    for place, value in flips:
        payload[place % len(payload)] = value
    try:
        facts = scan_header(memoryview(payload), syntax)
    except RefusedContent:
        return
    for uid in (facts.sop_class_uid, facts.sop_instance_uid, facts.study_instance_uid, facts.series_instance_uid):
        assert 0 < len(uid) <= 64 and set(uid) <= set("0123456789.")
