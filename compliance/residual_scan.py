"""The output read back by code that shares nothing with what wrote it but the tables: is an identity left, and does the table hold?

Checks on one output payload (Explicit VR Little Endian, defined lengths)
  0. it parses to its last byte, tags ascend, no forbidden group, no private element off the safe list;
  1. every element obeys Table E.1-1: removed ones are absent, emptied ones empty, UIDs registered or pseudonymous, no original day;
  2. no word of an identity stands in any text, accents and case aside;
  3. no identifying value stands anywhere in the bytes, pixel data included: every character set, UTF-16, Base64; compressed frames hold
     neither comments nor application segments nor bytes behind their end.
A failure names the element and the check, never the value.

What was found good stays good for exactly the same bytes of an element under the same identity, and nothing is remembered of an output that
failed. Stretches of elements that repeat from output to output are recognised whole. Of the writer's caches none is used.
"""

from __future__ import annotations

import datetime as dt
import itertools
import re
import struct
import unicodedata
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

from compliance.byte_needles import NeedleSet, needles_of
from compliance.codestream_scan import holds_more_than_pictures
from compliance.dataset_bytes import dictionary_entry
from compliance.deid_profile import Option
from compliance.identified import Pseudonymity
from compliance.name_forms import GENERIC_PLACE, TITLES
from compliance.private_elements import safe_creators, safe_elements
from compliance.profile_table import load_table, tag_text
from compliance.text_patterns import clinical_words, common_words
from crypto.errors import RefusedContent

_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_NAMES = {vr: vr.decode("ascii") for vr in _LONG} | {
    vr.encode(): vr for vr in "AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()
}
_TEXT = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_WRITTEN_BY_US = frozenset({0x00100010, 0x00100020, 0x00080050, 0x00120062, 0x00120063, 0x00120064, 0x00280303, 0x00080005})
_REGISTERED = ("1.2.840.10008.", "2.16.840.1.113883.6.")
_PIXEL_TAG = "(7FE0,0010)"
_REMEMBERED_BYTES_MAX = 4096
_REMEMBERED_MAX = 50_000
_STRETCH_BYTES_MAX = 1 << 16
_STRETCHES_MAX = 1_000
_HEADER: Callable[..., tuple[Any, ...]] = struct.Struct("<HH2sH").unpack_from
_LENGTH: Callable[..., tuple[Any, ...]] = struct.Struct("<I").unpack_from
_UID = re.compile(rb"[0-2](?:\.(?:0|[1-9]\d*)){4,}")


class _Read(NamedTuple):
    tag: int
    vr: str
    start: int
    value: int
    end: int


class _Stretch(NamedTuple):
    raw: bytes
    first: int
    last: int


class ResidualScan:
    """Scans the outputs of one patient; what was found good for an element's bytes holds for the same bytes again."""

    def __init__(self, under: Pseudonymity) -> None:
        self._under = under
        self._profile = under.profile
        identity = under.identity
        words: set[str] = set()
        for name in identity.patient_names | identity.staff_names:
            words |= _name_words(name)
        places = identity.places | (frozenset() if self._profile.has(Option.RETAIN_INSTITUTION) else identity.institutions)
        for place in places:
            words |= {word for word in _plain_words(place) if len(word) >= 4} - GENERIC_PLACE
        self._words = frozenset(words - common_words())
        self._long_words = tuple(word for word in self._words if len(word) >= 6)
        self._codes = self._number_codes()
        self._days = self._original_days()
        self._needles: NeedleSet = needles_of(self._literals())
        #: Bytes of elements that obey the table; of those at top level that passed every check; and of neighbours among these.
        self._checked: set[bytes] = set()
        self._good: set[bytes] = set()
        self._stretches: dict[bytes, _Stretch] = {}
        self._ours: set[str] = set()

    def _number_codes(self) -> frozenset[str]:
        identity = self._under.identity
        public = {_squeezed(text) for text in identity.public}
        numbers = identity.identifiers | identity.patient_ids
        if not self._profile.has(Option.RETAIN_DEVICE):
            numbers |= {text for text in identity.devices if not any(_squeezed(text) in one for one in public)}
        codes = {_squeezed(text) for text in numbers}
        return frozenset(code for code in codes if len(code) >= 5 and len(set(code)) > 1 and any(map(str.isdigit, code)))

    def _original_days(self) -> frozenset[str]:
        """Original days as YYYYMMDD, less those that another original day legitimately moves to."""
        if self._profile.has(Option.RETAIN_FULL_DATES):
            days, moved = self._under.identity.birth_dates, self._under.identity.dates
        else:
            days = self._under.identity.dates | self._under.identity.birth_dates
            shift = dt.timedelta(days=self._under.date_offset_days)
            moved = frozenset(day + shift for day in self._under.identity.dates if dt.date(2, 1, 1) < day < dt.date(9990, 1, 1))
        return frozenset(f"{day:%Y%m%d}" for day in days - moved)

    def _literals(self) -> Iterable[str]:
        identity = self._under.identity
        common = common_words()
        yield from self._words
        # Five or six digits alone are also counts and sizes: those are looked for in text only.
        yield from (code for code in self._codes if len(code) >= 7 or not code.isdigit())
        yield from (
            number for number in identity.identifiers | identity.patient_ids if len(number) >= 7 and _squeezed(number) in self._codes
        )
        yield from (name for name in identity.patient_names | identity.staff_names if not _plain_words(name) <= common)
        for name in identity.patient_names | identity.staff_names:
            yield from (part for part in re.split(r"[\^=\s]+", name) if not part.isascii() and not _plain_words(part) <= common | TITLES)
        yield from (contact for contact in identity.contacts if len(contact) >= 6)
        # Retain Device Identity keeps the days of calibrations, which may be any day of the study's.
        births = {f"{day:%Y%m%d}" for day in identity.birth_dates}
        yield from (self._days & births if self._profile.has(Option.RETAIN_DEVICE) else self._days)

    def check(self, payload: bytes, pixels: bytes | memoryview = b"") -> None:
        """Nothing identifying is left in `payload`, nor in `pixels` behind it: the value of the pixel data whose header ends `payload`.

        Raises:
            RefusedContent: "RESIDUAL_IDENTITY" or "TABLE_NOT_HELD", with the tag.
        """
        if len(pixels) < _REMEMBERED_BYTES_MAX:
            # So short a value is remembered by its bytes, which then must stand with its header.
            payload, pixels = payload + pixels, b""
        fresh, repeated = self._read(payload, len(pixels))
        self._elements(payload, fresh)
        unsettled = self._look_through(payload, pixels, fresh)
        # Only now that all checks are passed is anything remembered.
        if len(self._good) > _REMEMBERED_MAX:
            self._good.clear()
            self._stretches.clear()
        for element in fresh:
            if element.end - element.start < _REMEMBERED_BYTES_MAX and element.tag not in unsettled:
                self._good.add(payload[element.start : element.end])
        self._learn(payload, repeated)

    # -- reading

    def _read(self, buf: bytes, behind: int) -> tuple[list[_Read], list[_Read]]:
        """(elements to look at, elements known to be good) of the whole output; those of known stretches are in neither.

        What stands in the `behind` bytes after `buf` must be the value of one pixel data element, which is never known.
        """
        fresh: list[_Read] = []
        repeated: list[_Read] = []
        stretches, good, last, pos, here = self._stretches, self._good, -1, 0, len(buf)
        end = here + behind
        while pos < end:
            stretch = stretches.get(buf[pos : pos + 4])
            if stretch is not None:
                if buf.startswith(stretch.raw, pos):
                    if stretch.first <= last:
                        raise _not_held(stretch.first, "elements are not in ascending order")
                    last, pos = stretch.last, pos + len(stretch.raw)
                    continue
                del stretches[stretch.raw[:4]]
            element = _read_one(buf, pos, here, end)
            tag, pos = element.tag, element.end
            if tag <= last:
                raise _not_held(tag, "elements are not in ascending order")
            last = tag
            # A private element is only as good as its creator, which stands elsewhere.
            is_known = not tag & 0x00010000 and pos - element.start < _REMEMBERED_BYTES_MAX and buf[element.start : pos] in good
            (repeated if is_known else fresh).append(element)
        return fresh, repeated

    def _learn(self, buf: bytes, repeated: list[_Read]) -> None:
        """Neighbours that were known one by one are from now on known together."""
        run: list[_Read] = []
        for element in repeated:
            if run and (element.start != run[-1].end or element.end - run[0].start > _STRETCH_BYTES_MAX):
                self._keep(buf, run)
                run = []
            run.append(element)
        if run:
            self._keep(buf, run)

    def _keep(self, buf: bytes, run: list[_Read]) -> None:
        if len(self._stretches) > _STRETCHES_MAX:
            self._stretches.clear()
        raw = buf[run[0].start : run[-1].end]
        self._stretches[raw[:4]] = _Stretch(raw, run[0].tag, run[-1].tag)

    # -- bytes

    def _look_through(self, payload: bytes, pixels: bytes | memoryview, fresh: list[_Read]) -> set[int]:
        """No original UID and no needle stands in these elements, each on its own, nor in the pixel data; tags whose verdict may change."""
        head = [element for element in fresh if element.tag >> 16 != 0x7FE0]
        joined = b"\0".join([payload[element.start : element.end] for element in head])
        for position in self._needles.header_hits(joined):
            raise RefusedContent("RESIDUAL_IDENTITY", "an identifying value is left in the bytes", tag=tag_text(_tag_at(head, position)))
        if len(head) < len(fresh):
            # Pixel data are never known: they are looked through from the first to the last byte of the output.
            start = fresh[len(head)].value
            for _ in itertools.chain(self._needles.pixel_hits(payload, start), self._needles.pixel_hits(pixels, 0)):
                raise RefusedContent("RESIDUAL_IDENTITY", "an identifying value is left in the bytes", tag=_PIXEL_TAG)
            if holds_more_than_pictures(payload, start) or holds_more_than_pictures(pixels, 0):
                raise RefusedContent("RESIDUAL_IDENTITY", "more than pictures is left in compressed frames", tag=_PIXEL_TAG)
        return set() if self._profile.has(Option.RETAIN_UIDS) else self._uids_left(head, joined)

    def _uids_left(self, head: list[_Read], joined: bytes) -> set[int]:
        """Tags of elements with a UID that is neither registered nor one of ours: a later instance may turn out to be named so."""
        mapped: dict[str, str] = self._under.memo["uids"]
        # The last ones only, of a study that may have a hundred thousand. Another thread may be adding to it: then they come next time, and
        # until then an element that names them is looked at again.
        with suppress(RuntimeError):
            self._ours.update(list(itertools.islice(reversed(mapped.values()), len(mapped) - len(self._ours))))
        unsettled: set[int] = set()
        for match in _UID.finditer(joined):
            uid = match.group().decode()
            if uid in mapped:
                raise RefusedContent("RESIDUAL_IDENTITY", "an original UID is left", tag=tag_text(_tag_at(head, match.start())))
            if uid not in self._ours and not uid.startswith(_REGISTERED):
                unsettled.add(_tag_at(head, match.start()))
        return unsettled

    # -- elements

    def _elements(self, buf: bytes, found: list[_Read]) -> None:
        """Each obeys the table and holds no term; `checked` knows those that did, nested ones included."""
        checked = self._checked
        creators: dict[int, str] = {}
        for element in found:
            if element.tag & 0x00010000:
                self._private(buf, element, creators)
            if element.tag >> 16 == 0x7FE0:
                continue
            raw = buf[element.start : element.end]
            if raw in checked:
                continue
            self._element(buf, element)
            if len(raw) < _REMEMBERED_BYTES_MAX:
                if len(checked) > _REMEMBERED_MAX:
                    checked.clear()
                checked.add(raw)

    def _element(self, buf: bytes, element: _Read) -> None:
        tag = element.tag
        value = buf[element.value : element.end]
        if not tag & 0x00010000:
            self._table_holds(tag, element.vr, value)
        if element.vr == "SQ":
            for start, end in _items(buf, element.value, element.end):
                self._elements(buf, _parse(buf, start, end))
        elif element.vr == "UI":
            self._uids(tag, value)
        elif element.vr in ("DA", "DT"):
            kept = load_table().action(tag, self._profile) == "K"
            if not kept and any(part[:8] in self._days for part in value.decode("latin-1").split("\\")):
                raise RefusedContent("RESIDUAL_IDENTITY", "an original day is left", tag=tag_text(tag))
        elif element.vr in _TEXT and tag not in _WRITTEN_BY_US:
            self._text(tag, value)

    def _table_holds(self, tag: int, vr: str, value: bytes) -> None:
        group = tag >> 16
        if group < 0x0008 or group >= 0xFFFA or tag & 0xFFFF == 0 or group >> 8 == 0x50 or tag in (0x00880200, 0x04000520):
            raise _not_held(tag, "an element that never leaves is there")
        if dictionary_entry(tag) is None:
            raise _not_held(tag, "an element the standard does not know is there")
        if tag in _WRITTEN_BY_US:
            return
        action = load_table().action(tag, self._profile)
        if action == "X" and not _in_content(tag):
            raise _not_held(tag, "Table E.1-1 removes it")
        if action == "Z" and value and vr != "SQ":
            raise _not_held(tag, "Table E.1-1 empties it")
        if action == "Z" and vr == "SQ" and value and tag != 0x00400610:
            raise _not_held(tag, "Table E.1-1 empties it")

    def _uids(self, tag: int, value: bytes) -> None:
        if self._profile.has(Option.RETAIN_UIDS) or load_table().action(tag, self._profile) == "K":
            return
        for part in value.decode("latin-1").strip("\0 ").split("\\"):
            if part and not part.startswith(("2.25.", *_REGISTERED)):
                raise RefusedContent("RESIDUAL_IDENTITY", "an original UID is left", tag=tag_text(tag))

    def _text(self, tag: int, value: bytes) -> None:
        text = _plain(value.decode("utf-8", "replace"))
        for word in re.findall(r"[^\W\d_]+", text):
            if word in self._words or (len(word) > 6 and word not in clinical_words() and any(name in word for name in self._long_words)):
                raise RefusedContent("RESIDUAL_IDENTITY", "a name or place of the study is left in text", tag=tag_text(tag))
        if not any(map(str.isdigit, text)):
            return
        for code in re.findall(r"[0-9a-z]+", text):
            if code in self._codes or code[:8] in self._days:
                raise RefusedContent("RESIDUAL_IDENTITY", "a number or day of the study is left in text", tag=tag_text(tag))

    def _private(self, buf: bytes, element: _Read, creators: dict[int, str]) -> None:
        group, number = element.tag >> 16, element.tag & 0xFFFF
        if not self._profile.has(Option.RETAIN_SAFE_PRIVATE):
            raise _not_held(element.tag, "a private element is there")
        if 0x10 <= number <= 0xFF:
            name = buf[element.value : element.end].decode("latin-1").strip("\0 ")
            if name not in safe_creators():
                raise _not_held(element.tag, "a private creator off the safe list")
            creators[group << 8 | number] = name
        elif (group, number & 0xFF, creators.get(group << 8 | number >> 8, "")) not in safe_elements():
            raise _not_held(element.tag, "a private element off the safe list")


def _in_content(tag: int) -> bool:
    """Values of content items obey Table E.3.4-1 and not the row that E.1-1 has for them elsewhere."""
    return tag in (0x0040A160, 0x0040A120, 0x0040A121, 0x0040A122, 0x0040A123, 0x0040A124)


def _not_held(tag: int, why: str) -> RefusedContent:
    return RefusedContent("TABLE_NOT_HELD", why, tag=tag_text(tag))


def _parse(buf: bytes, pos: int, end: int) -> list[_Read]:
    found: list[_Read] = []
    last = -1
    while pos < end:
        element = _read_one(buf, pos, end, end)
        if element.tag <= last:
            raise _not_held(element.tag, "elements are not in ascending order")
        found.append(element)
        last, pos = element.tag, element.end
    return found


def _read_one(buf: bytes, pos: int, here: int, end: int) -> _Read:
    """The element at `pos`; what is there ends at `end`, of which `buf` holds all up to `here`: beyond lies only a value of pixel data."""
    if here - pos < 8:
        raise RefusedContent("TABLE_NOT_HELD", "the output does not parse")
    group, number, vr, length = _HEADER(buf, pos)
    value = pos + 8
    name = _NAMES.get(vr)
    if vr in _LONG:
        if here - pos < 12:
            raise RefusedContent("TABLE_NOT_HELD", "the output does not parse")
        length = _LENGTH(buf, pos + 8)[0]
        value = pos + 12
    stop = end if length == 0xFFFFFFFF and group == 0x7FE0 else value + length
    is_torn = stop > here and (stop != end or value != here or group != 0x7FE0)
    if is_torn or name is None:
        raise RefusedContent("TABLE_NOT_HELD", "the output does not parse", tag=tag_text(group << 16 | number))
    return _Read(group << 16 | number, name, pos, value, stop)


def _items(buf: bytes, pos: int, end: int) -> Iterable[tuple[int, int]]:
    while pos < end:
        group, number, length = struct.unpack_from("<HHI", buf, pos)
        if (group, number) != (0xFFFE, 0xE000) or pos + 8 + length > end:
            raise RefusedContent("TABLE_NOT_HELD", "the output does not parse")
        yield pos + 8, pos + 8 + length
        pos += 8 + length


def _tag_at(joined: list[_Read], position: int) -> int:
    """The tag of the element at `position` of these elements' bytes, joined by one byte each."""
    end = 0
    for element in joined:
        end += element.end - element.start + 1
        if position < end:
            return element.tag
    return 0


def _plain(text: str) -> str:
    if text.isascii():
        return text.lower()
    return "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char)).casefold()


def _plain_words(text: str) -> set[str]:
    return set(re.findall(r"[^\W\d_]+", _plain(text)))


def _name_words(name: str) -> set[str]:
    return {word for word in _plain_words(name) if (len(word) >= 3 or (not word.isascii() and len(word) >= 2))} - TITLES


def _squeezed(text: str) -> str:
    return re.sub(r"[^0-9a-z]", "", _plain(text))
