"""DICOM files (PS3.10) and bare datasets as instances, and instances as files. Preamble and file meta never travel: they are made anew."""

from __future__ import annotations

import struct
from functools import lru_cache

from compliance.dataset_bytes import (
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    element_at,
    elements,
    encode_element,
    encoding_of,
)
from compliance.identified import DeidentifiedDataset, IdentifiedDataset
from crypto.errors import RefusedContent

_IMPLEMENTATION_CLASS_UID = b"2.25.178261539218462037511938462817364528190"
_HEADER = struct.Struct("<HH2sH")
_SOP_CLASS, _SOP_INSTANCE = 0x00080016, 0x00080018
_DICOMDIR = "1.2.840.10008.1.3.10"


def instance_of_file(data: bytes) -> IdentifiedDataset:
    """The instance in a Part 10 file or a bare dataset (its encoding told from its first element).

    Raises RefusedContent where neither parses, the instance does not name itself, or the file meta information names another one: who
    relied on it would file the instance as what it is not.
    """
    payload, syntax = dataset_of_file(data)
    encoding = encoding_of(syntax)
    named: dict[int, str] = {}
    for element in elements(payload, 0, len(payload), encoding):
        if element.tag in (_SOP_CLASS, _SOP_INSTANCE):
            named[element.tag] = payload[element.value : element.end].decode("latin-1").strip("\0 ")
    return _named_instance(data, payload, syntax, named)


def _named_instance(data: bytes, payload: bytes, syntax: str, named: dict[int, str]) -> IdentifiedDataset:
    if not named.get(_SOP_CLASS) or not named.get(_SOP_INSTANCE):
        raise RefusedContent("MISSING_UID", "SOP class and instance must be named")
    for number, tag in ((0x0002, _SOP_CLASS), (0x0003, _SOP_INSTANCE)):
        stated = _meta_of(data).get(number)
        if stated and stated != named[tag]:
            raise RefusedContent("UID_MISMATCH", "the file meta information names another instance or class", tag=f"(0002,{number:04X})")
    return IdentifiedDataset(payload, syntax, named[_SOP_CLASS], named[_SOP_INSTANCE])


def instance_of_head(data: bytes) -> IdentifiedDataset:
    """As `instance_of_file` of the beginning of a file: the payload is what of the dataset is in it, and is read to its names alone."""
    payload, syntax = dataset_of_file(data)
    encoding, named, pos = encoding_of(syntax), dict[int, str](), 0
    while pos < len(payload) and len(named) < 2:
        element = element_at(payload, pos, len(payload), encoding)
        if element.tag in (_SOP_CLASS, _SOP_INSTANCE):
            named[element.tag] = payload[element.value : element.end].decode("latin-1").strip("\0 ")
        pos = element.stop
    return _named_instance(data, payload, syntax, named)


def dataset_of_file(data: bytes) -> tuple[bytes, str]:
    """(dataset, its transfer syntax) of a Part 10 file or bare dataset, or of the beginning of one. Raises RefusedContent for neither."""
    if data[128:132] != b"DICM":
        return data, _guessed_syntax(data)
    start, meta = _after_meta(data)
    if meta.get(0x0002) == _DICOMDIR:
        raise RefusedContent("DICOMDIR", "a directory of files is no instance of a study")
    payload, syntax = data[start:], meta.get(0x0010)
    return payload, _guessed_syntax(payload) if syntax is None else syntax


def _meta_of(data: bytes) -> dict[int, str]:
    return _after_meta(data)[1] if data[128:132] == b"DICM" else {}


def _after_meta(data: bytes) -> tuple[int, dict[int, str]]:
    """(where the dataset starts, class, instance and transfer syntax by element number) of a Part 10 file; the group length is not trusted
    (PS3.10 7.1)."""
    pos, meta = 132, dict[int, str]()
    while pos + 8 <= len(data):
        group, number, vr, length = _HEADER.unpack_from(data, pos)
        if group != 0x0002:
            break
        value = pos + 8
        if vr in (b"OB", b"UN", b"OW", b"UT", b"SQ"):
            if pos + 12 > len(data):
                break
            length, value = struct.unpack_from("<I", data, pos + 8)[0], pos + 12
        elif not (vr.isalpha() and vr.isupper()):
            # Some old files write group 0002 in implicit VR.
            length = struct.unpack_from("<I", data, pos + 4)[0]
        if value + length > len(data):
            raise RefusedContent("MALFORMED_DATASET", "the file meta information is cut", tag="(0002,0000)")
        if number in (0x0002, 0x0003, 0x0010):
            meta[number] = data[value : value + length].decode("latin-1").strip("\0 ")
        pos = value + length
    return pos, meta


def _guessed_syntax(data: bytes) -> str:
    """The encoding of a dataset that comes without a name for it, by its first element."""
    if len(data) < 8:
        raise RefusedContent("MALFORMED_DATASET", "neither a DICOM file nor a dataset")
    group_little, group_big = struct.unpack_from("<H", data)[0], struct.unpack_from(">H", data)[0]
    if data[4:6].isalpha() and data[4:6].isupper():
        return EXPLICIT_VR_LITTLE_ENDIAN if group_little <= 0x0010 or group_little < group_big else EXPLICIT_VR_BIG_ENDIAN
    if group_little <= 0x0028:
        return IMPLICIT_VR_LITTLE_ENDIAN
    raise RefusedContent("MALFORMED_DATASET", "neither a DICOM file nor a dataset")


def file_of(instance: DeidentifiedDataset) -> bytes:
    """A Part 10 file: empty preamble, file meta that names only class, pseudonymous instance and transfer syntax."""
    return file_head(instance) + instance.payload


def file_head(instance: DeidentifiedDataset) -> bytes:
    """What stands before the payload in `file_of`."""
    before, after = _meta_around(instance.sop_class_uid, instance.transfer_syntax_uid)
    name = encode_element(0x00020003, "UI", instance.sop_instance_uid.encode())
    length = encode_element(0x00020000, "UL", struct.pack("<I", len(before) + len(name) + len(after)))
    return b"".join((b"\0" * 128, b"DICM", length, before, name, after))


@lru_cache(maxsize=64)
def _meta_around(sop_class_uid: str, transfer_syntax_uid: str) -> tuple[bytes, bytes]:
    """The file meta information before and after the instance's name, the same for a series."""
    before = encode_element(0x00020001, "OB", b"\0\1") + encode_element(0x00020002, "UI", sop_class_uid.encode())
    syntax = encode_element(0x00020010, "UI", transfer_syntax_uid.encode())
    return before, syntax + encode_element(0x00020012, "UI", _IMPLEMENTATION_CLASS_UID)
