"""HL7 v2 as bytes: escaping (2.5.1 section 2.7), segments and fields (2.5).

Nothing reaches a message unescaped: `segment` takes fields as nested tuples of plain text and writes every delimiter itself, so a value
can end neither its component, nor its field, nor its segment, nor its frame.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from crypto.errors import RefusedContent

MALFORMED = "hl7-malformed"
TOO_LONG = "hl7-too-long"
CHARACTER_SET = "hl7-character-set"
CONTROL_CHARACTER = "hl7-control-character"

#: A message with a PDF in it may be long; one that is longer is not collected.
MESSAGE_BYTES_MAX = 32 * 1024 * 1024
SEGMENTS_MAX = 2000
UTF_8 = "UNICODE UTF-8"

#: A field is text, or components; a component is text, or subcomponents.
Component = str | Sequence[str]
Field = str | Sequence[Component]

_ESCAPES = {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\"}
#: MSH-18, HL7 table 0211.
_CHARACTER_SETS = {"": "utf-8", UTF_8: "utf-8", "UNICODE": "utf-8", "ASCII": "utf-8", "8859/1": "latin-1"} | {
    f"8859/{part}": f"iso8859-{part}" for part in (2, 3, 4, 5, 6, 7, 8, 9, 15)
}


def escape(text: str, *, is_formatted: bool = False) -> str:
    """`text` for a component. Line feeds become `\\.br\\` where the field is formatted text (FT), and blanks elsewhere.

    Raises:
        RefusedContent: any other control character.
    """
    written = []
    for character in text.replace("\r\n", "\n").replace("\r", "\n"):
        if character == "\n":
            written.append("\\.br\\" if is_formatted else " ")
        elif unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
            raise RefusedContent(CONTROL_CHARACTER, f"U+{ord(character):04X}")
        else:
            written.append(_ESCAPES.get(character, character))
    return "".join(written)


def segment(name: str, *fields: Field, formatted: Sequence[int] = ()) -> str:
    """One segment without its end; `formatted` are the numbers of the fields that are formatted text.

    Raises:
        RefusedContent: see `escape`.
    """
    written = []
    for number, value in enumerate(fields, 1):
        components = (value,) if isinstance(value, str) else value
        parts = []
        for component in components:
            subcomponents = (component,) if isinstance(component, str) else component
            parts.append("&".join(escape(one, is_formatted=number in formatted) for one in subcomponents).rstrip("&"))
        written.append("^".join(parts).rstrip("^"))
    return "|".join((name, *written)).rstrip("|")


def header(*fields: Field) -> str:
    """The MSH segment, whose fields 1 and 2 are the delimiters; `fields` begins with MSH-3."""
    return "MSH|^~\\&|" + segment("", *fields)[1:]


def message(segments: Sequence[str]) -> bytes:
    """The segments as one message in UTF-8, each ended by a carriage return."""
    return "".join(one + "\r" for one in segments).encode("utf-8")


def instant(moment: datetime) -> str:
    """TS with the offset (2.A.22)."""
    return moment.astimezone(UTC).strftime("%Y%m%d%H%M%S") + "+0000"


@dataclass(frozen=True, slots=True)
class Message:
    """A received message: rows of raw fields, read through `value`; nothing is unescaped before it is taken out."""

    rows: tuple[tuple[str, ...], ...]
    component_mark: str
    repetition_mark: str
    escape_mark: str
    subcomponent_mark: str

    def all(self, name: str) -> list[tuple[str, ...]]:
        """Every segment of that name."""
        return [row for row in self.rows if row[0] == name]

    def first(self, name: str) -> tuple[str, ...]:
        """The first segment of that name; an empty one where there is none."""
        return next(iter(self.all(name)), (name,))

    def repetitions(self, row: tuple[str, ...], number: int) -> list[str]:
        """The raw repetitions of field `number` (from 1); none where the field is empty, absent or explicitly null."""
        raw = row[number] if 0 < number < len(row) else ""
        return [] if raw in ("", '""') else raw.split(self.repetition_mark)

    def component(self, repetition: str, number: int, subcomponent: int = 1) -> str:
        """Component `number` (from 1) of one repetition as text.

        Raises:
            RefusedContent: it holds a control character.
        """
        parts = repetition.split(self.component_mark)
        if number > len(parts):
            return ""
        subcomponents = parts[number - 1].split(self.subcomponent_mark)
        raw = subcomponents[subcomponent - 1] if subcomponent <= len(subcomponents) else ""
        return "" if raw == '""' else _unescape(raw, self)

    def value(self, row: tuple[str, ...], number: int, component: int = 1) -> str:
        """Component `component` of the first repetition of field `number`, as text; empty where there is none."""
        repetitions = self.repetitions(row, number)
        return self.component(repetitions[0], component) if repetitions else ""

    def text(self, row: tuple[str, ...], number: int) -> str:
        """All repetitions of a text field as lines, whatever its components are."""
        return "\n".join(self.component(repetition, 1) for repetition in self.repetitions(row, number))


def parse(payload: bytes) -> Message:
    """A message of at most MESSAGE_BYTES_MAX bytes, by its own delimiters and character set.

    Raises:
        RefusedContent: no MSH, unusable delimiters, an unknown character set, bytes that are not of it, or too much of anything.
    """
    if len(payload) > MESSAGE_BYTES_MAX:
        raise RefusedContent(TOO_LONG, f"a message of more than {MESSAGE_BYTES_MAX} bytes")
    if not payload.startswith(b"MSH") or len(payload) < 9:
        raise RefusedContent(MALFORMED, "the message does not begin with MSH")
    marks = payload[3:8].decode("latin-1")
    if len(set(marks)) != 5 or any(mark.isalnum() or mark.isspace() or not mark.isprintable() or not mark.isascii() for mark in marks):
        raise RefusedContent(MALFORMED, "MSH-1 and MSH-2 do not name five delimiters")
    separator = marks[0]
    first_row = re.split(rb"[\r\n]", payload, maxsplit=1)[0].decode("latin-1").split(separator)
    named = first_row[17].split(marks[2])[0].strip() if len(first_row) > 17 else ""
    if named not in _CHARACTER_SETS:
        raise RefusedContent(CHARACTER_SET, "MSH-18 names a character set that is not supported")
    try:
        text = payload.decode(_CHARACTER_SETS[named])
    except UnicodeDecodeError:
        raise RefusedContent(CHARACTER_SET, "the message is not in the character set that MSH-18 names; without one it is UTF-8") from None
    lines = [line for line in re.split(r"[\r\n]+", text) if line]
    if len(lines) > SEGMENTS_MAX:
        raise RefusedContent(TOO_LONG, f"more than {SEGMENTS_MAX} segments")
    rows = []
    for number, line in enumerate(lines):
        name, *fields = line.split(separator)
        if not re.fullmatch(r"[A-Z][A-Z0-9]{2}", name) or (name == "MSH") != (number == 0):
            raise RefusedContent(MALFORMED, f"segment {number + 1} has no name, or is a second MSH")
        # MSH-1 is the separator itself, so that field numbers are list indexes everywhere.
        rows.append((name, separator, *fields) if name == "MSH" else (name, *fields))
    return Message(tuple(rows), marks[1], marks[2], marks[3], marks[4])


def _unescape(raw: str, of: Message) -> str:
    mark = re.escape(of.escape_mark)
    known = {"E": of.escape_mark, "F": of.rows[0][1], "S": of.component_mark, "T": of.subcomponent_mark, "R": of.repetition_mark}

    def replaced(match: re.Match[str]) -> str:
        sequence = match.group(1)
        if sequence in known:
            return known[sequence]
        if sequence.startswith((".br", ".sp")):
            return "\n"
        if re.fullmatch(r"X(?:[0-9A-Fa-f]{2})+", sequence):
            return bytes.fromhex(sequence[1:]).decode("latin-1")
        return ""  # highlighting and the like: how it looks, not what it says

    text = re.sub(f"{mark}([^{mark}]*){mark}", replaced, raw).replace("\r\n", "\n").replace("\r", "\n").replace("\t", " ")
    for character in text:
        if character != "\n" and unicodedata.category(character) in ("Cc", "Cs"):
            raise RefusedContent(CONTROL_CHARACTER, f"a field holds U+{ord(character):04X}")
    return text.strip()
