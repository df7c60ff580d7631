"""What the headers of a study say of persons, places, numbers and days: the words its free text is cleaned of and its output scanned for.

Invariants
- Terms are decoded text, whole as they stood; `free_text` derives the forms to clean, `residual_scan` (separately) the bytes to look for.
- Collecting never refuses: a value that does not decode is kept as bytes, one that does not parse is met again by `deidentify`.
- Terms live in memory on the hospital's side only.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import TYPE_CHECKING

from pydicom._dicom_dict import DicomDictionary

from compliance import character_sets
from compliance.dataset_bytes import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_LITTLE,
    Element,
    Encoding,
    dictionary_entry,
    element_at,
    elements,
    encoding_of,
    items,
)
from compliance.date_shift import dates_in_value
from compliance.element_runs import Part, Run, RunParser
from compliance.profile_table import load_table, tag_of
from compliance.pydicom_bytes import explicit_bytes
from crypto.errors import RefusedContent

if TYPE_CHECKING:
    from pydicom import Dataset

    from compliance.identified import IdentifiedDataset

_NO_TEXT: frozenset[str] = frozenset()


@dataclass(frozen=True)
class IdentityTerms:
    """Decoded values by kind. `public` are makers' and models' names, which are nobody's identity even where a station is called so."""

    patient_names: frozenset[str] = _NO_TEXT
    staff_names: frozenset[str] = _NO_TEXT
    institutions: frozenset[str] = _NO_TEXT
    places: frozenset[str] = _NO_TEXT
    contacts: frozenset[str] = _NO_TEXT
    identifiers: frozenset[str] = _NO_TEXT
    devices: frozenset[str] = _NO_TEXT
    patient_ids: frozenset[str] = _NO_TEXT
    public: frozenset[str] = _NO_TEXT
    dates: frozenset[dt.date] = frozenset()
    birth_dates: frozenset[dt.date] = frozenset()
    undecoded: frozenset[bytes] = field(default=frozenset())

    def merge(self, other: IdentityTerms) -> IdentityTerms:
        """The terms of both."""
        return IdentityTerms(**{one.name: getattr(self, one.name) | getattr(other, one.name) for one in fields(self)})

    @classmethod
    def from_instance(cls, source: IdentifiedDataset) -> IdentityTerms:
        """The terms of one instance as received."""
        collector = IdentityCollector()
        collector.add(source)
        return collector.terms()

    @classmethod
    def from_dataset(cls, dataset: Dataset) -> IdentityTerms:
        """The terms of a pydicom dataset."""
        collector = IdentityCollector()
        collector.add_payload(explicit_bytes(dataset), EXPLICIT_VR_LITTLE_ENDIAN)
        return collector.terms()

    def search_words(self) -> list[str]:
        """Names and numbers as a text detector should look for them in pixels, longest first."""
        words: set[str] = set()
        for name in self.patient_names | self.staff_names:
            words.update(part for part in re.split(r"[\^=\s,]+", name) if len(part) > 1)
        for text in self.identifiers | self.patient_ids | self.institutions | self.contacts:
            words.update({text, *(part for part in text.split() if len(part) > 3)})
        for day in self.dates | self.birth_dates:
            words.update({day.strftime("%Y%m%d"), day.strftime("%Y-%m-%d"), day.strftime("%d.%m.%Y"), day.strftime("%m/%d/%Y")})
        return sorted((word for word in words if len(word) > 1), key=lambda word: (-len(word), word))


def order_terms(
    *, names: Iterable[str] = (), staff: Iterable[str] = (), institutions: Iterable[str] = (), identifiers: Iterable[str] = (),
    contacts: Iterable[str] = (), places: Iterable[str] = (), birth_dates: Iterable[dt.date] = (),
) -> IdentityTerms:  # fmt: skip
    """The terms of an order (HL7 fields and the like), to merge with the headers'."""
    return IdentityTerms(
        patient_names=_texts(names), staff_names=_texts(staff), institutions=_texts(institutions), identifiers=_texts(identifiers),
        contacts=_texts(contacts), places=_texts(places), birth_dates=frozenset(birth_dates),
    )  # fmt: skip


def collect_identity(instances: Iterable[IdentifiedDataset], order: IdentityTerms | None = None) -> IdentityTerms:
    """The terms of a whole study: all of its instances and its order."""
    collector = IdentityCollector()
    for source in instances:
        collector.add(source)
    return collector.terms() if order is None else collector.terms().merge(order)


def _texts(values: Iterable[str]) -> frozenset[str]:
    return frozenset(text for value in values if (text := value.strip()))


#: Kind of a table row by words of its keyword; the first that matches.
_KINDS = tuple(
    (kind, re.compile(words))
    for kind, words in (
        ("institutions", r"^Institution|SiteID|SourceOfPrevious|Committee|CoordinatingCenter"),
        ("places", r"Address|CountryOf|RegionOf|PostalCode|City"),
        ("contacts", r"Telephone|Telecom|Phone|Email|URL|URI"),
        ("institutions", r"Institution|Organization|Department|Location|SiteName|CenterName|Facility|Residence|Issuer|Sponsor"),
        ("staff_names", r"Physician|Operator|Performer|Observer|Recorder|Reviewer|Author|Interpretation.*By|HumanPerformer"),
        ("devices", r"Station|Device|Detector|Gantry|Generator|Cassette|Plate|Lens|Serial|AETitle|NetworkID|Machine|XRaySource|AE$|Camera"),
        ("devices", r"ModifyingSystem|SourceManufacturer|Originator|ManufacturerDevice"),
    )
)
#: Words of belief, rank or state single nobody out and are everyday words: removed where they stand, not searched for elsewhere.
_NOT_SEARCHED = re.compile(
    r"Ethnic|Religious|Occupation|MilitaryRank|Smoking|Pregnan|Allerg|State$|Needs|Sex|Breed|Species|Comments?|Description|"
    r"Instructions|Reason|History|Text|Label|Purpose|TransportArr|Timezone|Coverage|Confidentiality|Role|Status|Flag|Contrast|"
    r"ProtocolName|Version|Approval|Specification|Make|Model|MAC|Signature|Certificate|Timestamp|PixelPadding|Selector|PreMedication|ROIName|PlanName|SetName|Template|Arbitrary|Topic|GPS|EntityName|RTAccessory|ContentLabel"
)
_SEARCHED_VRS = frozenset({"SH", "LO", "AE", "UC", "UR", "UT", "ST", "LT", "PN"})
_PUBLIC_TAGS = frozenset({0x00080070, 0x00081090, 0x00181020, 0x00080060, 0x00180015})


@cache
def _kinds_by_tag() -> Mapping[int, str]:
    found: dict[int, str] = {}
    for row in load_table().rows:
        if not re.fullmatch(r"\([0-9A-F]{4},[0-9A-F]{4}\)", row.pattern):
            continue
        tag = tag_of(row.pattern)
        entry = DicomDictionary.get(tag)
        if entry is None or entry[0] not in _SEARCHED_VRS or row.basic in ("U", "K"):
            continue
        keyword = entry[4]
        if entry[0] == "PN":
            continue
        if "cleanDescOpt" in row.options and not re.search(r"Address|Telephone|Name$|ID$|Identifier", keyword):
            continue
        if _NOT_SEARCHED.search(keyword):
            continue
        by_option = "devices" if "rtnDevIdOpt" in row.options else "institutions" if "rtnInstIdOpt" in row.options else None
        found[tag] = by_option or next((kind for kind, words in _KINDS if words.search(keyword)), "identifiers")
    found.update({0x00100020: "patient_ids", 0x00101000: "identifiers", 0x00080050: "identifiers", 0x00200010: "identifiers"})
    found.update(dict.fromkeys(_PUBLIC_TAGS, "public"))
    return found


#: Longer ones than these are not remembered as seen: a study's memory is bounded by its distinct short values.
_SEEN_BYTES_MAX = 4096
_RUNS_MAX = 20_000
#: Of the bytes of those runs.
_RUNS_BYTES_MAX = 4 * 1024 * 1024


class IdentityCollector:
    """Gathers the terms of many instances; a value met before costs one look-up, a run of elements met before (`element_runs`) another."""

    def __init__(self) -> None:
        self._found: dict[str, set[str]] = {}
        self._dates: set[dt.date] = set()
        self._births: set[dt.date] = set()
        self._undecoded: set[bytes] = set()
        self._seen: set[tuple[Encoding, bytes, bytes, bool, bool]] = set()
        self._parsers: dict[Encoding, RunParser] = {}
        #: The character set that holds behind a run, by the run and the character set before it: what was gathered from it is here already.
        self._runs: dict[tuple[Run, bytes], bytes] = {}
        self._runs_bytes = 0
        self._kinds = _kinds_by_tag()

    def add(self, source: IdentifiedDataset) -> None:
        """Take the terms of one instance in; what does not parse adds what stood before the fault. Pixel data need not be there whole."""
        self.add_payload(source.payload, source.transfer_syntax_uid)

    def add_payload(self, payload: bytes, transfer_syntax_uid: str) -> None:
        """As `add`, for the bytes of a dataset."""
        try:
            encoding = encoding_of(transfer_syntax_uid)
            self._instance(payload, encoding)
        except RefusedContent:
            return

    def terms(self) -> IdentityTerms:
        """What was gathered so far."""
        return IdentityTerms(
            **{kind: frozenset(values) for kind, values in self._found.items()},
            dates=frozenset(self._dates), birth_dates=frozenset(self._births), undecoded=frozenset(self._undecoded),
        )  # fmt: skip

    def take(self) -> IdentityTerms:
        """What was gathered since the last time; bytes met before stay known as met."""
        taken = self.terms()
        self._found.clear()
        self._dates.clear()
        self._births.clear()
        self._undecoded.clear()
        return taken

    def let_speed_go(self) -> None:
        """Forget which bytes were met before; the terms stay. A run over many studies keeps this for the last few only."""
        self._seen.clear()
        self._parsers.clear()
        self._runs.clear()

    def _instance(self, buf: bytes, encoding: Encoding) -> None:
        parser = self._parsers.get(encoding)
        if parser is None:
            parser = self._parsers[encoding] = RunParser(encoding)
        charset = b""
        try:
            parts = parser.parts(buf, before_pixels=True)
        except RefusedContent:
            # What stands before the fault counts.
            pos = 0
            while True:
                element = element_at(buf, pos, len(buf), encoding)
                charset = self._walk(buf, (element,), encoding, 0, charset, False)
                pos = element.stop
        self.add_parts(buf, parts, encoding)

    def add_parts(self, buf: bytes, parts: Iterable[Part], encoding: Encoding) -> None:
        """As `add`, for what `element_runs` made of the bytes of a dataset."""
        charset = b""
        for part in parts:
            if isinstance(part, Element):
                charset = self._walk(buf, (part,), encoding, 0, charset, False)
                continue
            key = part[0], charset
            after = self._runs.get(key)
            if after is None:
                if len(self._runs) > _RUNS_MAX or self._runs_bytes > _RUNS_BYTES_MAX:
                    self._runs.clear()
                    self._runs_bytes = 0
                self._runs_bytes += len(part[0].raw)
                after = self._runs[key] = self._walk(part[0].raw, part[0].elements, encoding, 0, charset, False)
            charset = after

    def _walk(self, buf: bytes, found: Iterable[Element], encoding: Encoding, depth: int, charset: bytes, in_patient: bool) -> bytes:
        """Take the terms of these elements in; `charset` is the value of the character set before them, the answer the one behind them."""
        kinds, seen = self._kinds, self._seen
        for element in found:
            tag, vr = element.tag, element.vr
            if tag == 0x00080005:
                charset = buf[element.value : element.end]
                continue
            if tag >= 0x7FE00000 or tag & 0x00010000:
                continue
            if not vr or vr == "UN":
                entry = dictionary_entry(tag)
                vr = entry.vr if entry else ""
            if not (tag in kinds or vr in ("PN", "SQ", "DA", "DT")):
                continue
            key = (encoding, charset, buf[element.start : element.stop], in_patient, depth > 0)
            if key in seen:
                continue
            if vr == "SQ":
                inner = IMPLICIT_LITTLE if element.vr == "UN" else encoding
                for start, stop, _ in items(buf, element.value, element.end, inner, depth, undefined=False):
                    inside = elements(buf, start, stop, inner, depth + 1)
                    self._walk(buf, inside, inner, depth + 1, charset, in_patient or tag >> 16 == 0x0010)
            else:
                codes = tuple(part.strip() for part in charset.decode("latin-1").strip("\0 ").split("\\"))
                self._value(element, vr, buf[element.value : element.end], codes, in_patient, depth > 0)
            if len(key[2]) <= _SEEN_BYTES_MAX:
                seen.add(key)
        return charset

    def _value(self, element: Element, vr: str, value: bytes, charset: tuple[str, ...], in_patient: bool, nested: bool) -> None:
        value = value.strip(b"\0 ")
        if not value:
            return
        if vr in ("DA", "DT"):
            days = dates_in_value(vr, value.decode("latin-1"))
            (self._births if element.tag == 0x00100030 else self._dates).update(days)
            return
        try:
            text = character_sets.decode(value, character_sets.codecs_of(charset))
        except RefusedContent:
            text = character_sets.decode(value, ("ascii",))
        if text is None:
            self._undecoded.add(value)
            return
        kind = self._kinds.get(element.tag, "identifiers")
        if kind == "patient_ids" and nested:
            kind = "identifiers"
        if vr == "PN":
            kind = "patient_names" if in_patient or element.tag >> 16 == 0x0010 else "staff_names"
        multiple = vr not in ("ST", "LT", "UT", "UR")
        for part in text.split("\\") if multiple else [text]:
            if stripped := part.strip("\0 "):
                self._found.setdefault(kind, set()).add(stripped)
