# ruff: noqa: E501 - tables
"""The forms in which a known name, number, place or day may stand in free text, as words and patterns over folded text."""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
from dataclasses import dataclass

from compliance import text_patterns as patterns
from compliance.known_forms import Form, form_of

_PLAIN = {
    ord(one): other
    for one, other in zip("øØłŁđĐðþæÆœı\u2019", ("o", "o", "l", "l", "d", "d", "d", "th", "ae", "ae", "oe", "i", "'"), strict=True)
}
_TRANSLITERATED = {ord(one): two for one, two in (("ä", "ae"), ("ö", "oe"), ("ü", "ue"), ("å", "aa"), ("ø", "oe"))}
TITLES = frozenset(
    "dr prof med mr mrs ms miss md phd jr sr ii iii iv herr frau mme von van der den del della dos das de da di du la le las los al el bin ibn "
    "abu ben bat st san santa ter ten zu zum zur and y e rn rt do".split()
)
#: Words of institutions and addresses that name no place.
GENERIC_PLACE = frozenset(
    "hospital hospitals clinic clinics klinik klinikum krankenhaus universitatsklinikum university universitat universite center centre zentrum "
    "medical health healthcare system group general regional community national memorial childrens children department dept radiology imaging "
    "diagnostic institute institut street avenue road lane drive box suite floor building north south east west city county state united "
    "states kingdom germany france deutschland schweiz austria inc ltd gmbh corp llc company saint sankt hopital ospedale spital practice praxis "
    "associates services service care surgery emergency unit ward room main station scanner fur und the of for".split()
)
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af\u1100-\u11ff\uff66-\uff9f]")


def fold(text: str) -> tuple[str, list[int]]:
    """(lower case text without accents and width variants, index in `text` of each of its characters)."""
    if text.isascii():
        return text.lower(), list(range(len(text)))
    out: list[str] = []
    origin: list[int] = []
    for index, char in enumerate(text):
        plain = "".join(c for c in unicodedata.normalize("NFKD", char.translate(_PLAIN)) if not unicodedata.combining(c)).casefold()
        if "\uac00" <= char <= "\ud7af":
            plain = char
        out.append(plain)
        origin.extend([index] * len(plain))
    return "".join(out), origin


def fold_term(text: str) -> str:
    """The folded text alone."""
    return fold(text)[0]


def _spellings(word: str) -> set[str]:
    """Folded spellings of one name word, the transliterations of umlauts included."""
    folded = fold_term(word)
    found = {folded}
    transliterated = word.lower().translate(_TRANSLITERATED)
    found.add(fold_term(transliterated))
    for pair, one in (("ae", "a"), ("oe", "o"), ("ue", "u")):
        if pair in folded and len(folded) > 4:
            found.add(folded.replace(pair, one))
    return found


@dataclass(frozen=True)
class NameForms:
    """One person's name: `words` to match whole, `glued` compounds, `initials`, and patterns for what words cannot say."""

    words: frozenset[str]
    glued: frozenset[str]
    initials: frozenset[str]
    dotted_initials: re.Pattern[str] | None
    split_forms: frozenset[Form]
    joined_form: Form | None

    @classmethod
    def of(cls, name: str) -> NameForms:
        """The forms of a PN value (PS3.5 6.2.1), all three representations, or of a name as people write it."""
        words: set[str] = set()
        glued: set[str] = set()
        initials: set[str] = set()
        ideographic: set[str] = set()
        heads: list[str] = []
        for group in name.split("="):
            if _CJK.search(group):
                ideographic |= _ideographic_forms(group)
                continue
            parts = [part for part in re.split(r"[^\w]+|_|\d+", group) if len(part) > 1 or (part and part.isalpha())]
            latin = [part for part in parts if fold_term(part) not in TITLES]
            spelled = [_spellings(part) for part in latin if len(part) > 1]
            words.update(form for forms in spelled for form in forms if len(form) > 1)
            letters = [fold_term(part)[:1] for part in latin]
            pieces = [[p for p in re.split(r"[^\w]+", piece) if p and fold_term(p) not in TITLES] for piece in group.split("^")[:3]]
            heads = heads or [fold_term(piece[0])[:1] for piece in pieces if piece]
            initials.update(letter for letter in letters if letter)
            firsts = [sorted(forms)[0] for forms in spelled]
            for one in firsts:
                glued.update(one + two for two in firsts if two != one)
                glued.update(letter + one for letter in letters if len(one) > 3)
                glued.update(one + letter for letter in letters if len(one) > 3)
            glued.update(
                "".join(c) for c in ([part.lower() for part in re.split(r"[-' ]", piece)] for piece in group.split("^")) if len(c) > 1
            )
        glued = {form for form in glued if len(form) > 4}
        split = {_split_form(word) for word in words if len(word) >= 4 and word not in patterns.clinical_words()}
        joined = "|".join(sorted(map(re.escape, ideographic), key=len, reverse=True)).replace(r"\ ", r"[\s\u3000^=]*")
        return cls(
            frozenset(words),
            frozenset(glued),
            frozenset(initials),
            _dotted(heads),
            frozenset(split),
            form_of(joined, *ideographic) if joined else None,
        )


def _ideographic_forms(group: str) -> set[str]:
    parts = [part for part in re.split(r"[\s^\u3000]+", fold_term(group)) if part]
    forms = {part for part in parts if len(part) > 1}
    if len(parts) > 1:
        forms |= {f"{one} {two}" for one in parts for two in parts if one != two}
        forms.add(" ".join(parts))
    elif len(group) > 1:
        forms.add(fold_term(group))
    return forms


def _dotted(letters: list[str]) -> re.Pattern[str] | None:
    letters = [letter for letter in letters if letter.isalpha()][:4]
    if len(letters) < 2:
        return None
    given_first = [*letters[1:], letters[0]]
    forms = set()
    for order in (letters, given_first, [given_first[0], letters[0]], [letters[0], given_first[0]]):
        forms.add(r"\.\s?".join(order) + r"\.")
    return re.compile(r"(?<![a-z.])(?:" + "|".join(sorted(forms, key=len, reverse=True)) + r")(?![a-z])")


def _split_form(word: str) -> Form:
    separator = r"(?:[ ._\-/]|-?\s*[\r\n]+\s*)?"
    return form_of(r"(?<![^\W\d_])" + separator.join(map(re.escape, word)) + r"(?![^\W\d_])", word)


def phrase_form(text: str) -> Form | None:
    """A place or institution whole, blanks and punctuation free; None where it is too short or too common to mean one."""
    words = re.findall(r"\w+", fold_term(text))
    joined = "".join(words)
    if len(joined) > 1 and _CJK.search(joined):
        return form_of(r"[\W_]*".join(map(re.escape, words)), joined)
    if len(joined) < 4 or (all(word in patterns.clinical_words() or word in GENERIC_PLACE for word in words) and len(words) < 3):
        return None
    return form_of(r"(?<!\w)" + r"[\W_]*".join(map(re.escape, words)) + r"(?!\w)", joined)


def phrase_words(text: str) -> set[str]:
    """The words of a place or institution that single it out."""
    words = re.findall(r"[^\W\d_]+", fold_term(text))
    common = patterns.common_words()
    return {word for word in words if len(word) >= 4 and word not in common and word not in GENERIC_PLACE}


def identifier_form(text: str) -> Form | None:
    """A number of a person or thing with any separators; None where it is too short to mean one ("1", "CT")."""
    plain = re.sub(r"[^0-9a-z]", "", fold_term(text))
    digits = sum(char.isdigit() for char in plain)
    if _CJK.search(text):
        return form_of(re.escape(fold_term(text)), fold_term(text)) if len(text) > 1 else None
    if len(plain) < 4 or len(set(plain)) == 1 or (digits == 0 and (len(plain) < 6 or plain in patterns.clinical_words())):
        return None
    words = re.findall(r"[a-z]+", fold_term(text))
    if digits == 0 and all(word in patterns.clinical_words() for word in words):
        return None
    stripped = plain.lstrip("0") or plain
    separator = r"[\s\-./_:^]?" if len(plain) >= 5 else ""
    body = (
        "0*" + separator.join(map(re.escape, stripped))
        if stripped != plain or stripped.isdigit()
        else separator.join(map(re.escape, plain))
    )
    # The noughts before a number may be missing, so they are no part of what every match holds.
    cores = [stripped]
    if len(plain) >= 6:
        tail = re.search(r"\d{5,}$", plain)
        if tail and tail.group() != plain and (bare := tail.group().lstrip("0")) and len(bare) >= 5:
            body = rf"(?:{body}|0*{separator.join(bare)})"
            cores.append(bare)
        left, right = (r"(?<!\d)" if plain[0].isdigit() else r"(?<![a-z])"), (r"(?!\d)" if plain[-1].isdigit() else r"(?![a-z])")
        if plain.isdigit():
            left, right = r"(?<![\d.])", r"(?!\d)"
        return form_of(left + body + right, *cores)
    pattern = r"(?<![\w.,])" + body + r"(?!\w)(?![.,]\d)(?!\s?(?:mm|cm|ml|mg|kg|hu|ms|hz|ma|mas|kv|kvp|gy|deg)(?![a-z]))"
    return form_of(pattern, *cores)


def date_forms(day: dt.date) -> set[Form]:
    """Compact forms of a known day that no generic pattern could take for a day."""
    short = {day.strftime(form) for form in ("%y%m%d", "%d%m%y", "%m%d%y", "%Y%m%d", "%d%m%Y", "%m%d%Y")}
    return {form_of(r"(?<![\d.])" + form + r"(?!\d)", form) for form in short}


def is_near(word: str, name: str) -> bool:
    """Whether one letter inserted, left out, changed or two neighbours swapped make `name` of `word` (at least six letters each)."""
    if abs(len(word) - len(name)) > 1 or word == name:
        return word == name
    first = next((i for i, (a, b) in enumerate(zip(word, name, strict=False)) if a != b), min(len(word), len(name)))
    if len(word) == len(name):
        swapped = word[:first] + word[first + 1 : first + 2] + word[first : first + 1] + word[first + 2 :]
        return word[first + 1 :] == name[first + 1 :] or swapped == name
    longer, shorter = (word, name) if len(word) > len(name) else (name, word)
    return longer[:first] + longer[first + 1 :] == shorter
