"""Content items of structured documents: PS3.15 Table E.3.4-1 by concept name, and what holds for concepts it does not list.

An unlisted concept is kept with its value cleaned by type: text cleaned, persons replaced, days moved, references mapped.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from compliance.dataset_bytes import Element, Encoding, elements, encode_element, encode_items, items, text_at
from compliance.deid_profile import DeidProfile, Option
from compliance.element_values import json_values
from compliance.profile_table import standard_data

#: Attributes that hold a content item's value (PS3.3 C.17.3), by value type.
VALUE_TAGS = {
    "TEXT": 0x0040A160, "PNAME": 0x0040A123, "DATETIME": 0x0040A120, "DATE": 0x0040A121, "TIME": 0x0040A122, "UIDREF": 0x0040A124,
}  # fmt: skip
CONTENT_SEQUENCES = frozenset({0x0040A730, 0x00400555, 0x00400610, 0x00400612, 0x00400440})
SUBJECT_AGE = ("121033", "DCM")


@cache
def _rows() -> Mapping[tuple[str, str, str], Mapping[str, str]]:
    return {(row["value"], row["scheme"], row["valueType"]): row for row in standard_data("e3.4-1.json")["rows"]}


def item_action(code: str, scheme: str, value_type: str, profile: DeidProfile) -> str | None:
    """X, D, K or C for a content item with this concept name and value type; None where the table does not list it.

    X/D is X: no template makes the item mandatory for the documents that a reader is sent.
    """
    row = _rows().get((code, scheme, value_type))
    if row is None:
        return None
    chosen = {column: row[column] for column in profile.columns() if column in row}
    if chosen:
        if chosen.get("rtnLongFullDatesOpt") == "K":
            return "K"
        return "C" if "C" in chosen.values() else "K"
    return row["basicProfile"].split("/")[0]


def item_mode(buf: bytes, found: list[Element], encoding: Encoding, depth: int, profile: DeidProfile) -> str | None:
    """The mode for a content item of these elements: "item:<action on its value>"; None where the item goes."""
    value_type = text_at(buf, found, 0x0040A040) or ""
    code, scheme = _concept(buf, found, encoding, depth)
    action = item_action(code, scheme, value_type, profile)
    if action == "X":
        return None
    if (code, scheme) == SUBJECT_AGE and not _age_is_common(buf, found, encoding, depth):
        return None
    return "item:" + value_action(action, value_type, profile)


def _concept(buf: bytes, found: list[Element], encoding: Encoding, depth: int) -> tuple[str, str]:
    for element in found:
        if element.tag == 0x0040A043:
            for start, end, _ in items(buf, element.value, element.end, encoding, depth, undefined=False):
                inside = elements(buf, start, end, encoding, depth + 1)
                code = text_at(buf, inside, 0x00080100) or text_at(buf, inside, 0x00080119) or ""
                return code, text_at(buf, inside, 0x00080102) or ""
    return "", ""


def _age_is_common(buf: bytes, found: list[Element], encoding: Encoding, depth: int) -> bool:
    """Whether a Subject Age is below 90 whatever its unit: an age of 90 and more is left out (HIPAA)."""
    for element in found:
        if element.tag == 0x0040A300:
            for start, end, _ in items(buf, element.value, element.end, encoding, depth, undefined=False):
                number = text_at(buf, elements(buf, start, end, encoding, depth + 1), 0x0040A30A) or ""
                try:
                    return float(number) < 90
                except ValueError:
                    return False
    return True


def value_action(item: str | None, value_type: str, profile: DeidProfile) -> str:
    """The action on the value attribute of a kept item whose table answer is `item`."""
    if value_type == "PNAME":
        return "D"
    if value_type in ("DATE", "DATETIME", "TIME"):
        if profile.has(Option.RETAIN_FULL_DATES):
            return "K"
        return "C" if profile.has(Option.RETAIN_MODIFIED_DATES) else "D"
    if value_type == "UIDREF":
        return "K" if profile.has(Option.RETAIN_UIDS) else "U"
    if item == "D":
        return "D"
    return "C"


@cache
def removed_content() -> tuple[bytes, dict[str, Any]]:
    """One text item that says REMOVED and its JSON object, for a Content Sequence that is replaced whole (action D)."""
    code = [(0x00080100, "SH", b"121106"), (0x00080102, "SH", b"DCM"), (0x00080104, "LO", b"Comment")]
    parts = [(0x0040A010, "CS", b"CONTAINS"), (0x0040A040, "CS", b"TEXT"), (0x0040A160, "UT", b"REMOVED")]
    concept = b"".join(encode_element(tag, vr, value) for tag, vr, value in code)
    encoded = {tag: encode_element(tag, vr, value) for tag, vr, value in parts}
    encoded[0x0040A043] = encode_element(0x0040A043, "SQ", encode_items([concept]))
    model = {f"{tag:08X}": json_values(vr, value, tag) for tag, vr, value in parts}
    model["0040A043"] = {"vr": "SQ", "Value": [{f"{tag:08X}": json_values(vr, value, tag) for tag, vr, value in code}]}
    return b"".join(encoded[tag] for tag in sorted(encoded)), dict(sorted(model.items()))
