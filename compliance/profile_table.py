"""PS3.15 Table E.1-1 as data: what becomes of an attribute under the Basic Profile and each option.

Invariants
- Every row of the table is loaded, in the edition the file names; no row is overridden in code.
- Of several selected options the more protective answer holds: C (clean) before K (keep), except that Retain Full Dates keeps.
- A conditional action (X/Z, X/D, ...) is resolved by the attribute's type in the IOD (PS3.3): type 1 takes D, type 2 takes Z, else the
  leftmost. X/Z/U* is U: references are mapped, never broken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from compliance.deid_profile import DeidProfile

#: Actions after resolution: remove, zero length, dummy, map UID, keep, clean.
ACTIONS = frozenset("XZDUKC")
_ACTIONS_MAX = 20_000
_PROFILES_MAX = 64


def standard_data(name: str) -> dict[str, Any]:
    """A table of `compliance/standard/` as parsed JSON."""
    data: dict[str, Any] = json.loads(files("compliance").joinpath("standard", name).read_text(encoding="utf-8"))
    return data


@dataclass(frozen=True)
class ProfileRow:
    """One row of Table E.1-1; `pattern` is "(gggg,eeee)" in capitals, with X or GGGG where it stands for many."""

    pattern: str
    name: str | None
    basic: str
    options: Mapping[str, str]
    edition: str


@dataclass(frozen=True)
class ProfileTable:
    """The rows, by tag; repeating groups and odd groups are found by `row`."""

    edition: str
    provenance: str
    rows: tuple[ProfileRow, ...]
    by_tag: Mapping[int, ProfileRow] = field(repr=False)
    curve: ProfileRow = field(repr=False)
    overlay: Mapping[int, ProfileRow] = field(repr=False)
    private: ProfileRow = field(repr=False)
    _actions: dict[DeidProfile, dict[int, str | None]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def row(self, tag: int) -> ProfileRow | None:
        """The row that governs `tag` (0xggggeeee), or None where the table is silent."""
        exact = self.by_tag.get(tag)
        if exact is not None:
            return exact
        group = tag >> 16
        if group & 1:
            return self.private
        if group & 0xFF00 == 0x5000:
            return self.curve
        if group & 0xFF00 == 0x6000:
            return self.overlay.get(tag & 0xFFFF)
        return None

    def action(self, tag: int, profile: DeidProfile) -> str | None:
        """The action code for `tag` under `profile`, still conditional where the table's is; None where the table is silent."""
        known = self._actions.get(profile)
        if known is None or len(known) > _ACTIONS_MAX:
            if len(self._actions) > _PROFILES_MAX:
                self._actions.clear()
            known = self._actions[profile] = {}
        if tag not in known:
            row = self.row(tag)
            known[tag] = None if row is None else effective_action(row, profile)
        return known[tag]


def effective_action(row: ProfileRow, profile: DeidProfile) -> str:
    """The cell that holds for `row`: the Basic Profile's, or what the selected options put in its place."""
    columns = profile.columns()
    chosen = {column: code for column, code in row.options.items() if column in columns}
    if not chosen:
        return row.basic
    if chosen.get("rtnLongFullDatesOpt") == "K":
        return "K"
    return "C" if "C" in chosen.values() else "K"


@cache
def load_table() -> ProfileTable:
    """Table E.1-1 as shipped; raises ValueError where the file is not the table (a build error, not an input error)."""
    data = standard_data("e1-1.json")
    rows: list[ProfileRow] = []
    by_tag: dict[int, ProfileRow] = {}
    overlay: dict[int, ProfileRow] = {}
    curve = private = None
    for entry in data["rows"]:
        options = {column: entry[column] for column in data["columns"] if column != "basicProfile" and column in entry}
        row = ProfileRow(entry["tag"], entry["name"], entry["basicProfile"], options, entry["edition"])
        rows.append(row)
        if re.fullmatch(r"\([0-9A-F]{4},[0-9A-F]{4}\)", row.pattern):
            by_tag[tag_of(row.pattern)] = row
        elif row.pattern.startswith("(50XX"):
            curve = row
        elif row.pattern.startswith("(60XX"):
            overlay[int(row.pattern[6:10], 16)] = row
        elif row.pattern.startswith("(GGGG"):
            private = row
        else:
            raise ValueError(f"row {row.pattern} of Table E.1-1 is not understood")
    if curve is None or private is None or len(overlay) != 2 or len(by_tag) + 4 != len(rows):
        raise ValueError("compliance/standard/e1-1.json is not Table E.1-1")
    return ProfileTable(data["edition"], data["provenance"], tuple(rows), by_tag, curve, overlay, private)


def tag_of(text: str) -> int:
    """0xggggeeee of "(gggg,eeee)"."""
    return int(text[1:5] + text[6:10], 16)


def tag_text(tag: int) -> str:
    """ "(gggg,eeee)" of 0xggggeeee, as errors name it."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


@cache
def _attribute_types() -> dict[str, dict[str, str]]:
    return {uid: row["types"] for row in standard_data("attribute-types.json")["rows"] for uid in row["sopClassUIDs"]}


def resolve(action: str, tag: int, sop_class_uid: str, parent: int | None = None) -> str:
    """One of ACTIONS for a possibly conditional `action`, by the type of `tag` in the IOD of `sop_class_uid`.

    `parent` is the tag of the sequence it stands in, None at top level. PS3.15 E.3, the note on X/Z, X/D, X/Z/D, Z/D and X/Z/U*.
    """
    if "/" not in action:
        return action
    choices = action.split("/")
    if "U*" in choices:
        return "U"
    key = f"{tag:08X}" if parent is None else f"{parent:08X}>{tag:08X}"
    kind = _attribute_types().get(sop_class_uid, {}).get(key, "3")
    if kind == "1" and "D" in choices:
        return "D"
    if kind in "12" and "Z" in choices:
        return "Z"
    if kind in "12" and "D" in choices:
        return "D"
    return choices[0]
