"""The pydicom view of an instance for the pixel step, and the way back of what that step changed.

The view holds the top-level elements without sequences and private elements: it costs little to make and is all that pixels need.
"""

from __future__ import annotations

from functools import lru_cache

from pydicom import Dataset
from pydicom.charset import convert_encodings
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.uid import UID

from compliance.dataset_bytes import (
    EXPLICIT_LITTLE,
    IMPLICIT_VR_LITTLE_ENDIAN,
    Element,
    Encoding,
    dictionary_entry,
    elements,
    explicit_copy,
)
from compliance.element_values import TEXT_VRS
from compliance.pydicom_bytes import explicit_bytes

#: Besides groups 0028, 60xx and 7FE0, what blanking changes: Image Type, Derivation Description, Lossy Image Compression (group 0028).
_CHANGED_TAGS = frozenset({0x00080008, 0x00082111})
_CHARSET = 0x00080005


def screening_dataset(payload: bytes, found: list[Element], encoding: Encoding, syntax: str, charset: tuple[str, ...]) -> Dataset:
    """The top-level public elements as a pydicom Dataset with `file_meta`; values are parsed only when asked for."""
    raw: dict[BaseTag, RawDataElement] = {}
    for element in found:
        tag, vr = element.tag, element.vr
        if tag & 0x00010000 or vr == "SQ" or tag & 0xFFFF == 0 or tag < 0x00080000:
            continue
        if not vr or vr == "UN":
            entry = dictionary_entry(tag)
            if entry is None or entry.vr == "SQ":
                continue
        base = _base_tag(tag)
        length = 0xFFFFFFFF if element.undefined else element.end - element.value
        value = payload[element.value : element.end]
        implicit, little = not encoding.explicit, encoding.little
        raw[base] = RawDataElement(base, vr or None, length, value, element.value, implicit, little, True, element.undefined)
    dataset = Dataset()
    # The constructor would look at every element again; these are what it would make of them.
    dataset._dict = raw  # type: ignore[assignment]
    dataset.set_original_encoding(not encoding.explicit, encoding.little, _pydicom_encodings(charset))
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    return dataset


@lru_cache(maxsize=4096)
def _base_tag(tag: int) -> BaseTag:
    return BaseTag(tag)


@lru_cache(maxsize=64)
def _pydicom_encodings(charset: tuple[str, ...]) -> list[str]:
    try:
        return convert_encodings(list(charset))
    except (LookupError, ValueError):
        return ["iso8859"]


def with_screened_pixels(
    payload: bytes, found: list[Element], encoding: Encoding, syntax: str, screened: Dataset
) -> tuple[bytes, list[Element], Encoding, str]:
    """The instance with the pixels, overlays and their description as the screen left them: (payload, elements, encoding, transfer syntax).

    Raises RefusedContent where what the screen gave cannot be written.
    """
    kept = [element for element in found if not _may_change(element.tag)]
    changed = Dataset()
    for tag in screened.keys():  # noqa: SIM118 - keys() does not parse values
        if _may_change(int(tag)):
            changed[tag] = screened[tag]
    if _CHARSET in screened:
        # The Derivation Description is text of the source: in another set its names would be written as other letters, and stay.
        changed[_CHARSET] = screened[_CHARSET]
    new = explicit_bytes(changed)
    parts = [(element.tag, explicit_copy(payload, element, encoding)) for element in kept]
    written = elements(new, 0, len(new), EXPLICIT_LITTLE)
    parts += [(element.tag, new[element.start : element.stop]) for element in written if element.tag != _CHARSET]
    parts.sort(key=lambda pair: pair[0])
    joined = b"".join(part for _, part in parts)
    new_syntax = str(screened.file_meta.TransferSyntaxUID)
    if new_syntax == IMPLICIT_VR_LITTLE_ENDIAN:
        new_syntax = "1.2.840.10008.1.2.1"
    return joined, elements(joined, 0, len(joined), EXPLICIT_LITTLE), EXPLICIT_LITTLE, new_syntax


def _may_change(tag: int) -> bool:
    entry = dictionary_entry(tag)
    if tag >> 16 == 0x0028 and entry is not None and entry.vr in TEXT_VRS:
        # Explanations of windows and tables: blanking has nothing to say there.
        return False
    return tag >> 16 == 0x0028 or tag >> 24 == 0x60 or tag >> 16 == 0x7FE0 or tag in _CHANGED_TAGS
