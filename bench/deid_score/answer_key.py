# ruff: noqa: E501 - tables
"""The answer key: what was planted where, what must become of it, and what must stay.

A `Carrier` is one instance with its share of the key. Rows name elements by path: the tags of the sequences above them (their first
item), then the tag. What is expected is not written here but follows from Table E.1-1 and the profile a tool is judged by (`verdict`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pydicom import Dataset

from bench.deid_score.persona import Persona

Path = tuple[int, ...]
Box = tuple[int, int, int, int]

#: 45 CFR 164.514(b)(2)(i), the letters a leak is counted under.
LETTERS = {
    "A": "names", "B": "places", "C": "dates", "D": "phone", "E": "fax", "F": "e-mail", "G": "social security", "H": "record number", "I": "health plan",
    "J": "account", "K": "licence", "L": "vehicle", "M": "device", "N": "URL", "O": "IP address", "R": "other unique",
}  # fmt: skip


@dataclass(frozen=True)
class Canary:
    """A text that must be found nowhere in the output, and the slot it was planted in; "" where it is all over the instance."""

    letter: str
    text: str
    slot: str = ""


@dataclass(frozen=True)
class PlantedRow:
    """A row of Table E.1-1 with a value at `path`; `original` as text."""

    path: Path
    vr: str
    original: str


@dataclass(frozen=True)
class PlantedText:
    """A text at `path` of which `kept` must stay word for word; its identity stands among the carrier's canaries."""

    slot: str
    path: Path
    kept: tuple[str, ...]
    #: Index of the item of the last sequence in `path`.
    item: int = 0


@dataclass(frozen=True)
class KeptValue:
    """An element that must come out as it went in."""

    slot: str
    path: Path
    original: str


@dataclass
class Carrier:
    """One instance as a tool gets it. `slot` is what it is in the set for; `kind` its class by short name."""

    slot: str
    kind: str
    persona: Persona
    dataset: Dataset
    rows: list[PlantedRow] = field(default_factory=list)
    texts: list[PlantedText] = field(default_factory=list)
    canaries: list[Canary] = field(default_factory=list)
    kept: list[KeptValue] = field(default_factory=list)
    #: Boxes of burned-in text, the same in each frame: x0, y0, x1, y1.
    boxes: list[Box] = field(default_factory=list)
    #: A person ought to look at it: holding it is right, letting it out whole with its canary is a leak.
    may_be_held: bool = False
    #: Its content cannot be proved clean by design (PDF and the like, damaged bytes).
    preamble: bytes = b""
    trailing: bytes = b""
    #: Bytes as written, where the dataset is not what goes to disk.
    file_name: str = ""
    references: list[tuple[Path, str]] = field(default_factory=list)

    @property
    def sop_instance_uid(self) -> str:
        return str(self.dataset.SOPInstanceUID)

    def all_canaries(self) -> list[Canary]:
        """The persona's own and those of this instance."""
        return [Canary(letter, text) for letter, text in self.persona.canaries()] + self.canaries
