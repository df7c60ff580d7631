"""What a piece of burned-in text is: identifying, clinical, or unknown.

Invariants
- Identity goes before everything: a text that could be one of this study's own names, numbers or dates is identifying,
  whatever else it says.
- Recognised text is never trusted letter by letter: 0 and O, 1 and I, 5 and S are one, and longer words may differ by an edit or two.
- Clinical text is an allow-list (`standard/clinical-marks.json`); what stands on neither list is unknown,
  and the caller decides by its place.

DICOM PS3.15 E.3.1, Clean Pixel Data Option.
"""

from __future__ import annotations

import enum
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

# One sign per group of shapes that a recogniser confuses at 8 to 20 pixels.
_ALIKE = str.maketrans(
    {"0": "o", "q": "o", "1": "i", "l": "i", "|": "i", "!": "i", "j": "i", "5": "s", "8": "b", "2": "z", "6": "g", "9": "g"}
)
_DIGIT_ALIKE = str.maketrans({"o": "0", "i": "1", "l": "1", "|": "1", "s": "5", "b": "8", "z": "2"})

_MONTHS = "jan|feb|mar|mär|mrz|apr|may|mai|jun|jul|aug|sep|sept|oct|okt|nov|dec|dez"
_DATES = (
    re.compile(r"(?<!\d)(?:19|20)\d{2}\s?[-./:\s]\s?(?:0?[1-9]|1[0-2])\s?[-./:\s]\s?(?:0?[1-9]|[12]\d|3[01])(?!\d)"),
    re.compile(r"(?<!\d)(?:0?[1-9]|[12]\d|3[01])\s?[-./]\s?(?:0?[1-9]|[12]\d|3[01])\s?[-./]\s?(?:(?:19|20)\d{2}|\d{2})(?![\d.])"),
    # A recogniser glues the time of day to the year.
    re.compile(r"(?<!\d)(?:0?[1-9]|[12]\d|3[01])[-./](?:0?[1-9]|[12]\d|3[01])[-./](?:19|20)\d{2}\d{1,2}[:.]\d{2}"),
    re.compile(r"(?<!\d)(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?!\d)"),
    re.compile(rf"(?<!\d)\d{{1,2}}[-.\s/]?(?:{_MONTHS})[a-z]*[-.,\s/]{{0,2}}(?:(?:19|20)\d{{2}}|\d{{2}})(?!\d)", re.IGNORECASE),
    re.compile(rf"(?:{_MONTHS})[a-z]*[-.\s/]{{0,2}}\d{{1,2}}\s?,?\s?(?:19|20)\d{{2}}", re.IGNORECASE),
)
_VOWELS = frozenset("aeiouy")
_NUMBER = re.compile(r"^[+-]?\d{1,4}(?:[.,]\d{1,4})?$")
_YEAR = re.compile(r"^(?:19|20)\d{2}$")
_NAME_PAIR = re.compile(r"[^\W\d_]{2,}\s?(?:\^|,\s?)\s?[^\W\d_]{2,}")
_PIECES = re.compile(r"\d+(?:[.,]\d+)?|[^\W\d_]+")


class TextKind(enum.IntEnum):
    """Ordered by what it takes to let the text stand: the highest of several readings of one place decides."""

    NOISE = 0
    CLINICAL = 1
    UNKNOWN = 2
    IDENTIFYING = 3


@dataclass(frozen=True)
class IdentityForms:
    """The study's own identity in the shapes in which recognised text is compared."""

    words: frozenset[str]
    glued: frozenset[str]
    numbers: frozenset[str]


def identity_forms(terms: Sequence[str]) -> IdentityForms:
    """Names, identifiers, dates and places of the study, folded for comparison. Words of one letter identify nobody and are left out."""
    words: set[str] = set()
    glued: set[str] = set()
    numbers: set[str] = set()
    for term in terms:
        letters = [piece for piece in re.split(r"[\W_]+", _folded(term)) if piece]
        words.update(shape for piece in letters if len(piece) > 1 and not piece.isdigit() for shape in _shapes(piece))
        whole = "".join(letters)
        digits = re.sub(r"\D", "", whole)
        if len(whole) >= 4 and not whole.isdigit():
            glued.update(_shapes(whole))
        if len(digits) >= 4:
            numbers.update(_date_orders(digits) if len(digits) == 8 else {digits})
    return IdentityForms(frozenset(words), frozenset(glued), frozenset(numbers))


def text_kind(text: str, identity: IdentityForms) -> TextKind:
    """The kind of one recognised line."""
    folded = _folded(text)
    pieces = _PIECES.findall(folded)
    if _names_the_study(folded, pieces, identity) or _looks_like_identity(text, folded, pieces):
        return TextKind.IDENTIFYING
    if sum(character.isalnum() for character in folded) < 2:
        return TextKind.NOISE
    if all(_is_clinical(piece) for piece in pieces):
        return TextKind.CLINICAL
    return TextKind.UNKNOWN


def names_the_study(text: str, identity: IdentityForms) -> bool:
    """Whether the line holds one of the study's own names, numbers or dates; not only something of their shape."""
    folded = _folded(text)
    return _names_the_study(folded, _PIECES.findall(folded), identity)


def _names_the_study(folded: str, pieces: list[str], identity: IdentityForms) -> bool:
    tokens = {shape for token in (*re.split(r"[\W_]+", folded), *pieces) if token for shape in _shapes(token)}
    marks = _clinical_skeletons()
    for word in identity.words:
        for token in tokens:
            if token == word and not (len(word) < 3 and word in marks):
                return True
            if (
                len(word) >= 4
                and token not in marks
                and abs(len(token) - len(word)) <= 2
                and _distance(token, word) <= _tolerance(len(word))
            ):
                return True
    for line in _shapes("".join(re.split(r"[\W_]+", folded))):
        if any(_occurs(needle, line) for needle in identity.glued) or any(len(word) >= 5 and word in line for word in identity.words):
            return True
    digits = re.sub(r"\D", "", folded.translate(_DIGIT_ALIKE))
    return any(_number_occurs(number, digits) for number in identity.numbers)


def _looks_like_identity(text: str, folded: str, pieces: list[str]) -> bool:
    if any(pattern.search(folded) for pattern in _DATES):
        return True
    labels = _marks()["identity_labels"]
    if any(piece in labels for piece in pieces):
        return True
    for token in re.split(r"[\s:;,=()\[\]]+", folded):
        digits = sum(character.isdigit() for character in token)
        if digits >= 5 and "." not in token.strip("."):
            return True
    pair = _NAME_PAIR.search(text)
    return pair is not None and not all(_is_clinical(piece) for piece in _PIECES.findall(_folded(pair.group())))


def _is_clinical(piece: str) -> bool:
    if len(piece) == 1:
        return True
    if piece[0].isdigit():
        return _NUMBER.match(piece) is not None and _YEAR.match(piece) is None
    marks = _marks()["clinical"]
    # A recogniser glues a side to its view: R LAT comes back as RLAT.
    if piece in marks or _skeleton(piece) in _clinical_skeletons() or (piece[0] in "lr" and len(piece) > 2 and piece[1:] in marks):
        return True
    # RMLO comes back as RMLC. No name is nearly a mark without a vowel, and this patient's own was looked for before.
    return (
        len(piece) >= 4
        and not _VOWELS & set(piece)
        and any(len(mark) == len(piece) and sum(one != other for one, other in zip(mark, piece, strict=True)) == 1 for mark in marks)
    )


@cache
def _marks() -> dict[str, frozenset[str]]:
    source = resources.files("compliance").joinpath("standard/clinical-marks.json").read_text(encoding="utf-8")
    lists: dict[str, list[str]] = json.loads(source)["lists"]
    clinical = {_folded(word) for name, words in lists.items() if name != "identity_labels" for word in words}
    return {"clinical": frozenset(clinical), "identity_labels": frozenset(_folded(word) for word in lists["identity_labels"])}


@cache
def _clinical_skeletons() -> frozenset[str]:
    return frozenset(_skeleton(word) for word in _marks()["clinical"])


def _folded(text: str) -> str:
    """Case and accents folded; German and Nordic letters as they are spelled out."""
    spelled = text.casefold().replace("ß", "ss").replace("ø", "o").replace("ł", "l").replace("æ", "ae")
    return "".join(character for character in unicodedata.normalize("NFKD", spelled) if not unicodedata.combining(character))


def _skeleton(folded: str) -> str:
    return folded.translate(_ALIKE).replace("rn", "m").replace("vv", "w")


def _shapes(folded: str) -> set[str]:
    """The word with and without pairs of letters taken for one: where a letter of such a pair is misread, the pair is none any more."""
    return {folded.translate(_ALIKE), _skeleton(folded)}


def _tolerance(length: int) -> int:
    return 0 if length < 4 else 1 if length < 7 else 2


def _occurs(needle: str, line: str) -> bool:
    """Whether needle stands somewhere in line, give or take one edit per five signs."""
    if needle in line:
        return True
    allowed = len(needle) // 5
    if allowed == 0 or len(line) < len(needle) - allowed:
        return False
    row = [0] * (len(line) + 1)  # a match may begin anywhere
    for i, sign in enumerate(needle, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(line, 1):
            previous, row[j] = row[j], min(previous + (sign != other), row[j] + 1, row[j - 1] + 1)
    return min(row) <= allowed


def _number_occurs(number: str, digits: str) -> bool:
    if number in digits:
        return True
    # One misread digit in a long number still leads to the patient.
    return len(number) >= 6 and any(
        sum(a != b for a, b in zip(number, digits[start : start + len(number)], strict=True)) <= 1
        for start in range(len(digits) - len(number) + 1)
    )


def _date_orders(digits: str) -> set[str]:
    year, month, day = digits[:4], digits[4:6], digits[6:]
    return {digits, day + month + year, month + day + year}


def _distance(one: str, other: str) -> int:
    row = list(range(len(other) + 1))
    for i, sign in enumerate(one, 1):
        previous, row[0] = row[0], i
        for j, against in enumerate(other, 1):
            previous, row[j] = row[j], min(previous + (sign != against), row[j] + 1, row[j - 1] + 1)
    return row[-1]
