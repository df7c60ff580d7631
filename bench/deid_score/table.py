"""Table E.1-1 as the judge reads it: which actions a cell allows, by the options a tool was run with. Shares no code with the product."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydicom.datadict import dictionary_VR
from pydicom.tag import Tag

_FILE = Path(__file__).resolve().parents[2] / "compliance" / "standard" / "e1-1.json"
#: The option columns of the product's default profile.
TELEREAD = frozenset({"rtnSafePrivOpt", "rtnPatCharsOpt", "rtnLongModifDatesOpt", "cleanDescOpt", "cleanStructContOpt", "cleanGraphOpt"})
BASIC: frozenset[str] = frozenset()
_REPEATING = {"(50XX,XXXX)": 0x50003000, "(60XX,4000)": 0x60004000, "(60XX,3000)": 0x60003000}


@dataclass(frozen=True)
class Row:
    """One row: `tag` is one element of it where it stands for many."""

    pattern: str
    tag: int
    cells: Mapping[str, str]

    def allowed(self, columns: frozenset[str]) -> frozenset[str]:
        """The letters that satisfy the row under these option columns."""
        chosen = {self.cells[column] for column in columns if column in self.cells}
        if "C" in chosen:
            return frozenset("C")
        if chosen:
            return frozenset("K")
        return frozenset(self.cells["basicProfile"].replace("U*", "U").split("/"))

    @property
    def vr(self) -> str:
        """The dictionary's VR; LO where the dictionary in use is older than the row."""
        try:
            vr = dictionary_VR(Tag(self.tag))
        except KeyError:
            return "LO"
        return "OB" if " or " in vr else vr


@cache
def rows() -> tuple[Row, ...]:
    """All rows but the one on private elements, which `carriers` plants in its own way."""
    data: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    found = []
    for entry in data["rows"]:
        pattern = entry["tag"]
        if pattern.startswith("(GGGG"):
            continue
        tag = _REPEATING.get(pattern) or int(pattern[1:5] + pattern[6:10], 16)
        found.append(Row(pattern, tag, {column: entry[column] for column in data["columns"] if column in entry}))
    return tuple(found)


@cache
def listed() -> Mapping[int, Row]:
    """Rows by tag."""
    return {row.tag: row for row in rows() if re.fullmatch(r"\([0-9A-F]{4},[0-9A-F]{4}\)", row.pattern)}
