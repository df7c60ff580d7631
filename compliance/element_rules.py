"""Every element of a dataset rewritten by Table E.1-1 and the rules for what the table does not name.

Invariants
- Each element meets exactly one rule; `Rewriter.counts` says how often each acted. Nothing is copied because nobody thought of it:
  tags the dictionary does not know, groups 0000 to 0007 and FFFC, group lengths and private elements go unless a rule keeps them.
- What is kept as text is decoded, cleaned and written as UTF-8; what is kept as number or code has the form of its VR.
- Several threads may rewrite instances of one patient, each with a Rewriter of its own: of a memo they share, an entry is whole or missing.
- The same bytes in the same context give the same result, so each distinct element of a patient's study is worked out once (`memo`). The
  context is all that other elements can change, and a private element's creator is part of what it is remembered by.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from operator import itemgetter
from typing import Any, NamedTuple

from compliance import structured_content
from compliance.dataset_bytes import (
    IMPLICIT_LITTLE,
    Element,
    Encoding,
    allowed_vrs,
    dictionary_entry,
    elements,
    encode_element,
    encode_items,
    items,
    settle_vr,
    text_at,
    to_little_endian,
)
from compliance.deid_profile import Option
from compliance.element_values import BULK_VRS, TEXT_VRS, json_values
from compliance.identified import Pseudonymity
from compliance.private_elements import safe_creators, safe_groups, safe_vr
from compliance.profile_table import load_table, resolve, tag_text
from compliance.value_rules import ValueRules
from crypto.errors import RefusedContent

MEMO_ENTRIES_MAX = 30_000
MEMO_BYTES_MAX = 4096

_PATIENT_NAME, _PATIENT_ID, _ACCESSION = 0x00100010, 0x00100020, 0x00080050
_CHARSET = 0x00080005
_TEXT_OBJECTS, _GRAPHIC_TEXT = 0x00700008, 0x00700006
#: Elements the rewriter never writes: icons (PS3.3 C.7.6.1.1.6), signatures and encrypted originals that no longer hold, padding,
#: private characteristics, and the stamps that `deidentify` writes anew.
_NEVER = frozenset(
    {0x00880200, 0x04000500, 0x04000510, 0x04000520, 0x00080300, 0x00080301, 0x4FFE0001, 0xFFFAFFFA, 0xFFFCFFFC, 0x00041130}
    | {0x00120062, 0x00120063, 0x00120064, 0x00280303}
)
#: VRs that an item of dummies keeps: codes have their form and are cleaned like any other.
_SAY_NOTHING = frozenset({"CS", "DS", "FD", "FL", "IS", "SL", "SS", "UL", "US"})
#: Elements `deidentify` writes itself at the top level.
_WRITTEN_ELSEWHERE = frozenset(
    {_CHARSET, _PATIENT_NAME, _PATIENT_ID, _ACCESSION, 0x7FE00001, 0x7FE00002, 0x7FE00008, 0x7FE00009, 0x7FE00010}
)


class Written(NamedTuple):
    """What became of one element; `out` is empty where it went."""

    tag: int
    out: bytes
    json: dict[str, Any] | None
    action: str
    nested: Counter[str] | None


class Context(NamedTuple):
    """All that an element's treatment depends on besides its bytes."""

    encoding: Encoding
    charset: tuple[str, ...]
    sop_class_uid: str
    is_signed: bool
    is_wide: bool
    graphics_screened: bool
    parent: int | None = None
    mode: str = ""


class _Plan(NamedTuple):
    vr: str
    encoding: Encoding
    action: str


_NO_PLAN = _Plan("", IMPLICIT_LITTLE, "")


class Rewriter:
    """Rewrites datasets of one patient; its caches live in `under.memo`, so a study's second instance costs little."""

    def __init__(self, under: Pseudonymity) -> None:
        self._under = under
        self._profile = under.profile
        self._values = ValueRules(under)
        self._table = load_table()
        self.counts: Counter[str] = Counter()

    # -- datasets

    def dataset(self, buf: bytes, found: list[Element], context: Context, depth: int = 0) -> tuple[list[tuple[int, bytes]], dict[str, Any]]:
        """(tag, encoded element) in tag order and the JSON object of the elements `found` in `buf`. Raises RefusedContent."""
        memo: dict[bytes, Written] = self._memo_for(context)
        counts = self.counts
        written: list[tuple[int, bytes]] = []
        model: dict[str, Any] = {}
        private: list[Element] = []
        last = -1
        is_sorted = True
        for element in found:
            tag = element.tag
            if tag <= last:
                if tag == last or any(tag == one for one, _ in written):
                    raise RefusedContent("DUPLICATE_ELEMENT", "the same element twice in one dataset", tag=tag_text(tag))
                is_sorted = False
            last = tag
            if tag & 0x00010000:
                private.append(element)
                continue
            if depth == 0 and tag in _WRITTEN_ELSEWHERE:
                continue
            raw = buf[element.start : element.stop]
            result = memo.get(raw)
            if result is None:
                result = self._element(buf, element, context, depth)
                if len(raw) <= MEMO_BYTES_MAX:
                    if len(memo) > MEMO_ENTRIES_MAX:
                        memo.clear()
                    memo[raw] = result
            counts[result.action] += 1
            if result.nested:
                counts.update(result.nested)
            if result.out:
                written.append((tag, result.out))
                model[f"{tag:08X}"] = result.json
        if private:
            is_sorted = self._private(buf, private, context, depth, written, model) and is_sorted
        if not is_sorted:
            written.sort(key=itemgetter(0))
            model = dict(sorted(model.items()))
        return written, model

    def _memo_for(self, context: Context) -> dict[bytes, Written]:
        memo: dict[bytes, Written] = self._under.memo.setdefault(context, {})
        return memo

    # -- one element

    def _element(self, buf: bytes, element: Element, context: Context, depth: int) -> Written:
        tag = element.tag
        plans: dict[tuple[int, str], _Plan | None] = self._under.memo.setdefault(("plans", context), {})
        key = tag, element.vr
        plan = plans.get(key, _NO_PLAN)
        if plan is _NO_PLAN:
            if len(plans) > MEMO_ENTRIES_MAX:
                plans.clear()
            plan = plans[key] = self._plan(element, context, depth)
        if plan is None:
            return Written(tag, b"", None, "X", None)
        vr, encoding, action = plan
        value = buf[element.value : element.end]
        if vr == "SQ":
            return self._sequence(buf, element, action, context._replace(encoding=encoding), depth)
        if not context.encoding.little:
            value = to_little_endian(vr, value)
        result = self._values.value(tag, vr, value, action, context.charset)
        if result is None:
            return Written(tag, b"", None, "X", None)
        vr, value, action = result
        return Written(tag, encode_element(tag, vr, value), json_values(vr, value, tag), action, None)

    def _plan(self, element: Element, context: Context, depth: int) -> _Plan | None:
        """How a value of this tag and VR is treated here, whatever the value; None where it goes."""
        tag = element.tag
        group, number = tag >> 16, tag & 0xFFFF
        if number == 0 or group < 0x0008 or group >= 0xFFFA or tag in _NEVER or (depth and tag == _CHARSET):
            return None
        entry = dictionary_entry(tag)
        if entry is None:
            return None
        vr, encoding = self._vr_of(element, entry.vr, context)
        if vr is None:
            return None
        action = self._action(tag, vr, entry.is_retired, context)
        return None if action == "X" else _Plan(vr, encoding, action)

    def _vr_of(self, element: Element, dictionary_vr: str, context: Context) -> tuple[str | None, Encoding]:
        """The VR to treat an element by, and the encoding of items inside it; None where its declared VR is not the dictionary's."""
        settled = settle_vr(dictionary_vr, is_signed=context.is_signed, is_wide=context.is_wide)
        if element.vr == "":
            return settled, context.encoding
        if element.vr == "UN":
            return settled, IMPLICIT_LITTLE
        if element.vr in allowed_vrs_of(element.tag):
            return element.vr, context.encoding
        both_text = element.vr in TEXT_VRS and settled in TEXT_VRS | {"CS"}
        both_numeric = {element.vr, settled} <= {"IS", "DS"} or {element.vr, settled} <= {"US", "SS", "UL", "SL"}
        if both_text or both_numeric:
            return element.vr, context.encoding
        # Another VR than the standard's: the value may be anything. Only what the table empties or replaces anyway survives, as itself.
        row = self._table.action(element.tag, self._profile)
        if row in ("Z", "D") and settled != "SQ" and element.vr != "SQ":
            return settled, context.encoding
        return None, context.encoding

    def _action(self, tag: int, vr: str, is_retired: bool, context: Context) -> str:
        if context.mode == "dummy":
            listed = self._table.action(tag, self._profile)
            if listed in ("X", "Z"):
                return listed
            # Units, ranges and channels of the standard's own forms say nothing of anybody, and a dummy of them is no legal value.
            return "U" if vr == "UI" else "K" if vr in _SAY_NOTHING else "D"
        if context.mode.startswith("item:") and tag in structured_content.VALUE_TAGS.values():
            return context.mode[5:]
        if tag >> 24 == 0x60 and (not context.graphics_screened or context.parent is not None):
            return "X"
        if tag >> 24 == 0x60 and tag & 0xFFFF == 0x3000:
            # The screen has read the plane and dropped it where it was not clinical: its description without it would be no overlay.
            return "K"
        if tag >> 24 == 0x50:
            return "X"
        if tag == _GRAPHIC_TEXT and context.parent == _TEXT_OBJECTS and self._profile.has(Option.CLEAN_GRAPHICS):
            # It stands in Graphic Annotation Sequence (0070,0001), which this option cleans; its own row (2026c) has no option column here.
            return "C"
        if tag in (0x0040A730, 0x00400555, 0x00400610) and self._profile.has(Option.CLEAN_STRUCTURED_CONTENT):
            return "C"
        action = self._table.action(tag, self._profile)
        if action is not None:
            return resolve(action, tag, context.sop_class_uid, context.parent)
        return self._unlisted(tag, vr, is_retired)

    def _unlisted(self, tag: int, vr: str, is_retired: bool) -> str:
        """The action for an element of the standard that Table E.1-1 does not name, by its VR."""
        if vr in ("UR", "AE") or (is_retired and vr not in ("CS", "DS", "IS", "US", "SS", "UL", "SL", "FL", "FD", "SQ", "UI")):
            return "X"
        if vr == "PN":
            return "Z"
        if vr in ("DA", "DT", "TM"):
            if self._profile.has(Option.RETAIN_FULL_DATES):
                return "K"
            return "C" if self._profile.has(Option.RETAIN_MODIFIED_DATES) else "Z"
        if vr == "UI":
            return "K" if self._profile.has(Option.RETAIN_UIDS) else "U"
        return "K"

    @contextmanager
    def counting(self) -> Iterator[Counter[str]]:
        """What is done meanwhile is counted apart."""
        outer, self.counts = self.counts, Counter()
        try:
            yield self.counts
        finally:
            self.counts = outer

    # -- sequences

    def _sequence(self, buf: bytes, element: Element, action: str, context: Context, depth: int) -> Written:
        tag = element.tag
        with self.counting() as nested:
            if action == "Z":
                value, models = b"", []
            else:
                mode = "dummy" if action == "D" or context.mode == "dummy" else ""
                if tag == 0x0040A730 and mode == "dummy":
                    datasets, models = [structured_content.removed_content()[0]], [structured_content.removed_content()[1]]
                else:
                    datasets, models = self._items(buf, element, context, mode, depth)
                value = encode_items(datasets)
        model: dict[str, Any] = {"vr": "SQ"}
        if models:
            model["Value"] = models
        return Written(tag, encode_element(tag, "SQ", value), model, action, nested)

    def _items(self, buf: bytes, element: Element, context: Context, mode: str, depth: int) -> tuple[list[bytes], list[dict[str, Any]]]:
        datasets: list[bytes] = []
        models: list[dict[str, Any]] = []
        inner = context._replace(parent=element.tag, mode=mode)
        cleans_content = self._profile.has(Option.CLEAN_STRUCTURED_CONTENT)
        is_content = mode != "dummy" and cleans_content and element.tag in structured_content.CONTENT_SEQUENCES
        for start, end, _ in items(buf, element.value, element.end, context.encoding, depth, undefined=False):
            found = elements(buf, start, end, context.encoding, depth + 1)
            own = _charset_of(buf, found) or context.charset
            one = inner._replace(charset=own)
            if is_content:
                verdict = structured_content.item_mode(buf, found, one.encoding, depth + 1, self._profile)
                if verdict is None:
                    self.counts["X"] += 1
                    continue
                one = one._replace(mode=verdict)
            written, model = self.dataset(buf, found, one, depth + 1)
            datasets.append(b"".join(part for _, part in written))
            models.append(model)
        return datasets, models

    # -- private elements

    def _private(
        self, buf: bytes, found: list[Element], context: Context, depth: int, written: list[tuple[int, bytes]], model: dict[str, Any]
    ) -> bool:
        """Append the safe ones; True where nothing was appended, so that order still holds."""
        stays = context.mode != "dummy" and self._profile.has(Option.RETAIN_SAFE_PRIVATE)
        if not stays or not any(element.tag >> 16 in safe_groups() for element in found):
            self.counts["X"] += len(found)
            return True
        creators = {
            element.tag >> 16 << 8 | element.tag & 0xFF: buf[element.value : element.end].decode("latin-1").strip("\0 ")
            for element in found
            if is_safe_creator(buf, element)
        }
        if not creators:
            self.counts["X"] += len(found)
            return True
        used: set[int] = set()
        before = len(written)
        for element in found:
            result = self._safe_private_once(buf, element, creators, context, depth)
            self.counts["X" if result is None else "C"] += 1
            if result is not None:
                self.counts.update(result.nested or {})
                used.add(element.tag >> 16 << 8 | element.tag >> 8 & 0xFF)
                written.append((element.tag, result.out))
                model[f"{element.tag:08X}"] = result.json
        for block in used:
            tag = block >> 8 << 16 | block & 0xFF
            value = creators[block].encode("ascii")
            written.append((tag, encode_element(tag, "LO", value)))
            model[f"{tag:08X}"] = json_values("LO", value, tag)
        return len(written) == before

    def _safe_private_once(self, buf: bytes, element: Element, creators: dict[int, str], context: Context, depth: int) -> Written | None:
        """As `_safe_private`; what it depends on is the element's bytes, its creator and the context."""
        if safe_vr(element.tag, creators, element.vr) is None:
            return None
        raw = buf[element.start : element.stop]
        if len(raw) > MEMO_BYTES_MAX:
            return self._safe_private(buf, element, creators, context, depth)
        memo: dict[tuple[bytes, str, int], Written | None] = self._under.memo.setdefault(("private", context), {})
        key = raw, creators[element.tag >> 16 << 8 | element.tag >> 8 & 0xFF], depth
        result = memo.get(key)
        if result is None:
            result = self._safe_private(buf, element, creators, context, depth)
            if len(memo) > MEMO_ENTRIES_MAX:
                memo.clear()
            memo[key] = result
        return result

    def _safe_private(self, buf: bytes, element: Element, creators: dict[int, str], context: Context, depth: int) -> Written | None:
        vr = safe_vr(element.tag, creators, element.vr)
        if vr is None:
            return None
        if vr == "SQ":
            encoding = IMPLICIT_LITTLE if element.vr == "UN" else context.encoding
            return self._sequence(buf, element, "C", context._replace(encoding=encoding), depth)
        value = buf[element.value : element.end]
        if not context.encoding.little:
            value = to_little_endian(vr, value)
        action = ("U" if not self._profile.has(Option.RETAIN_UIDS) else "K") if vr == "UI" else "K"
        changed = self._values.value(element.tag, vr, value, action, context.charset) if vr not in BULK_VRS else (vr, value, "K")
        if changed is None or changed[2] == "Z":
            return None
        return Written(element.tag, encode_element(element.tag, vr, changed[1]), json_values(vr, changed[1], element.tag), "C", None)


def allowed_vrs_of(tag: int) -> frozenset[str]:
    """The VRs the dictionary allows for `tag`."""
    entry = dictionary_entry(tag)
    return frozenset() if entry is None else allowed_vrs(entry)


def is_safe_creator(buf: bytes, element: Element) -> bool:
    """Whether it names a creator of Table E.3.10-1."""
    if not 0x10 <= element.tag & 0xFFFF <= 0xFF:
        return False
    return buf[element.value : element.end].decode("latin-1").strip("\0 ") in safe_creators()


def _charset_of(buf: bytes, found: list[Element]) -> tuple[str, ...] | None:
    declared = text_at(buf, found[:40], _CHARSET)
    return None if declared is None else tuple(part.strip() for part in declared.split("\\"))
