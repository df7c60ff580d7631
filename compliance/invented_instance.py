"""An invented instance, de-identified before the first real one: what is the same for all of them is then there.

Tables, patterns, word lists, character sets and codecs are loaded when first needed. All together that takes as long as some fifty
instances do, and whoever sends the first should not wait for it. Nothing of the invented patient is kept: what is remembered of a study
lies in the `memo` of its names, which goes with them.
"""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compliance.dataset_bytes import EXPLICIT_VR_LITTLE_ENDIAN, encode_element, encode_items
from compliance.deid_profile import Option
from compliance.deidentify import deidentify
from compliance.device_masks import known_masks, matching_masks, pixel_risk
from compliance.identified import IdentifiedDataset, Pseudonymity
from compliance.identity_terms import IdentityTerms
from compliance.strangers import load_lists

if TYPE_CHECKING:
    from pydicom import Dataset

_CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
_SIDE = 16
_NAME, _OTHER_NAME = "NOBODY^NOVA", "N\u00d6BODY^\u0141"
#: Tag, VR and value of what makes each kind of work necessary, in tag order; sequences stand apart.
_ELEMENTS: tuple[tuple[int, str, bytes], ...] = (
    (0x00080005, "CS", b"ISO_IR 192"),
    (0x00080008, "CS", b"ORIGINAL\\PRIMARY\\AXIAL"),
    (0x00080016, "UI", _CT_IMAGE_STORAGE.encode()),
    (0x00080018, "UI", b"2.25.1"),
    (0x00080020, "DA", b"20010203"),
    (0x0008002A, "DT", b"20010203040506.000000"),
    (0x00080030, "TM", b"040506"),
    (0x00080050, "SH", b"NO1234567"),
    (0x00080060, "CS", b"CT"),
    (0x00080070, "LO", b"Invented"),
    (0x00080080, "LO", b"Nowhere Infirmary"),
    (0x00080090, "PN", _OTHER_NAME.encode()),
    (0x00081030, "LO", b"CT abdomen of Nova Nobody, Dr. Nowhere, since 2001-02-03: no lesion 12 mm"),
    (0x0008103E, "LO", b"Axial 5.0"),
    (0x00100010, "PN", _NAME.encode()),
    (0x00100020, "LO", b"NO7654321"),
    (0x00100030, "DA", b"19500102"),
    (0x00101010, "AS", b"051Y"),
    (0x00180050, "DS", b"5.0"),
    (0x0020000D, "UI", b"2.25.2"),
    (0x0020000E, "UI", b"2.25.3"),
    (0x00200013, "IS", b"1"),
    (0x00204000, "LT", b"Compare 3/4/2001. Tel. 0123 456789. Nobody's N\xc3\xb6body"),
    (0x00280002, "US", struct.pack("<H", 1)),
    (0x00280004, "CS", b"MONOCHROME2"),
    (0x00280010, "US", struct.pack("<H", _SIDE)),
    (0x00280011, "US", struct.pack("<H", _SIDE)),
    (0x00280100, "US", struct.pack("<H", 16)),
    (0x00280101, "US", struct.pack("<H", 12)),
    (0x00280102, "US", struct.pack("<H", 11)),
    (0x00280103, "US", struct.pack("<H", 0)),
    (0x7FE00010, "OW", bytes(range(16)) * (_SIDE * _SIDE // 8)),
)
_CODES = ((0x00080100, "SH", b"N1"), (0x00080102, "SH", b"99NO"), (0x00080104, "LO", b"Nothing"))


def prepare(*, compress: bool = True) -> None:
    """Whatever instances need and none of them changes is there; with `compress` the codec of uncompressed pixels too."""
    # Which of them a text asks for depends on its words.
    load_lists()
    coded = 0x00081032, "SQ", encode_items([b"".join(encode_element(*one) for one in _CODES)])
    payload = b"".join(encode_element(*one) for one in sorted([*_ELEMENTS, coded]))
    source = IdentifiedDataset(payload, EXPLICIT_VR_LITTLE_ENDIAN, _CT_IMAGE_STORAGE, "2.25.1")
    terms = IdentityTerms.from_instance(source).merge(
        IdentityTerms(institutions=frozenset({"Nowhere Infirmary"}), dates=frozenset({dt.date(2001, 2, 3)}))
    )
    under = Pseudonymity("invented", bytes(32), "RG-0", -1, "RG1", terms)
    assert under.profile.has(Option.CLEAN_PIXEL_DATA)
    deidentify(source, under, screen=_unread, compress=compress)


@dataclass(frozen=True)
class _Unread:
    dataset: Dataset
    outcome: str = "CLEAN"
    reason: str = ""
    risk: str = ""


def _unread(dataset: Dataset, _words: Sequence[str]) -> _Unread:
    """There is nothing to read in pixels that we made; the class of risk is asked for, as it is of others."""
    pixel_risk(dataset, matching_masks(dataset, known_masks()))
    return _Unread(dataset)
