# ruff: noqa: E501 - lists of words
"""People in free text whom no header, title or label announces: told by frequent names and by how a name is written, never by guess.

What is found here is not removed but makes the text doubtful: a person at the hospital decides. Clinical eponyms, makers, devices,
sequences and contrast agents are no strangers. A name that is on no list, stands alone and is written like any word stays unseen.
PS3.15 E.3.5 leaves the method open.
"""

from __future__ import annotations

import itertools
import re
from functools import cache
from typing import NamedTuple

from compliance import text_patterns as patterns
from compliance.eponyms import is_beside_its_disease
from compliance.name_forms import fold_term
from compliance.person_cues import follows_a_sure_cue, may_name_a_person, names_a_person
from compliance.profile_table import standard_data

_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")
#: In capitals, what abroad is a title: structured report, signal to noise, molecular weight.
_NO_CUE_IN_CAPITALS = re.compile(r"(?<![^\W_])(?:SR|SNR|SIG|MW|M|MGR|TOV|LEK)\s*$")
_INITIAL_BEFORE = re.compile(r"(?<![^\W_])[A-Z]\.[ \t]?$")
_INITIAL_AFTER = re.compile(r"(?:[ \t]+[A-Z]\.|,[ \t]*[A-Z](?:\.|(?![^\W_])))")
#: Endings that make a surname of a word, in Latin, Greek and Cyrillic letters; of words of at least six letters.
_FAMILY_ENDING = re.compile(
    r"(?:[oe]wsk[iay]|[iy]nsk[iay]|ewicz|owicz|[oe]vic|ovich|[oe]va|[oe]vskiy?|[oe]vskaya|enko|chuk|czuk|czyk|ishvili|adze|idze|opoulos|opoulou|akis|idis|iadis|idou|oglu|"
    r"s[sz]on|sdottir|strom|qvist|lund|gren|escu|eanu|asinghe|aratne|swamy|subramanian|walla|nathan|οπουλος|οπουλου|ακης|ιδης|ιδου|"
    r"ова|ева|ский|ская|енко|чук|швили|дзе|евич|ович)$"
)  # fmt: skip
_FROM_SOMEWHERE = re.compile(r"(?:^|\s)(?:from|to|in)\s+$")
#: Countries that are surnames too, but seldom.
_COUNTRIES = frozenset(("austria", "brazil", "czech", "germany"))
_HONORED = re.compile(r"-(?:san|sama|sensei)(?![^\W_])", re.IGNORECASE)


class _Word(NamedTuple):
    folded: str
    start: int
    end: int
    is_capital: bool
    is_titled: bool
    is_possessive: bool


def looks_like_a_person(text: str, removed: list[tuple[int, int]]) -> bool:
    """Whether somebody is named outside the spans `removed`."""
    for first, last in removed:
        # What is gone is neither a name beside a word nor an initial before it.
        text = text[:first] + "|" * (last - first) + text[last:]
    words = [_word(match, text) for match in _WORD.finditer(text)]
    has_capitals = any(map(str.isupper, text))
    for index, word in enumerate(words):
        if len(word.folded) < 3 or not (word.is_capital or not has_capitals):
            continue
        following = words[index + 1] if index + 1 < len(words) and _beside(word, words[index + 1], text) else None
        is_name = _is_frequent_name(word, following, text)
        is_name = is_name or (word.is_titled and _is_written_as_a_name(word, following, text))
        if is_name and not _is_eponym(word, text) and not _is_place(word, words, text):
            return True
    return any(_is_pair(one, two, text) for one, two in itertools.pairwise(words))


def _word(match: re.Match[str], text: str) -> _Word:
    written = match.group()
    is_possessive = len(written) > 2 and written[-2] in "'\u2019" and written[-1] in "sS"
    bare = written[:-2] if is_possessive else written
    folded = re.sub(r"[^\w]", "", fold_term(bare))
    is_titled = bare[0].isupper() and not bare.isupper()
    return _Word(folded, match.start(), match.start() + len(bare), bare[0].isupper(), is_titled, is_possessive)


def _beside(one: _Word, two: _Word, text: str) -> bool:
    return re.fullmatch(r"(?:['\u2019][sS])?[ \t\-]{1,2}", text[one.end : two.start]) is not None


def _is_eponym(word: _Word, text: str) -> bool:
    """Whether a disease, sign or score has this name here: never behind what only a person follows."""
    before, after = fold_term(text[max(0, word.start - 40) : word.start]), fold_term(text[word.end : word.end + 60])
    if not is_beside_its_disease(word.folded, before, after, _list("disease_eponyms")):
        return False
    if re.search(r"(?<!\w)[a-ln-z]\.\s?$", before):
        # An initial, but for Morbus.
        return False
    return not follows_a_sure_cue(before) and not any(title.end() == len(before) for title in patterns.TITLE.finditer(before))


def _is_place(word: _Word, words: list[_Word], text: str) -> bool:
    """Whether a country or town is meant: alone, or from where somebody or something comes."""
    if word.folded not in _list("places") or word.is_possessive or word.folded in _list("given_names"):
        return False
    if word.folded in _list("surnames"):
        return len(words) == 1 and word.folded in _COUNTRIES
    before = fold_term(text[max(0, word.start - 40) : word.start])
    return _FROM_SOMEWHERE.search(before) is not None and not follows_a_sure_cue(before)


def _is_frequent_name(word: _Word, following: _Word | None, text: str) -> bool:
    """A surname or given name that is no other word, standing as a word of its own."""
    is_frequent = word.folded in _list("surnames") or (len(word.folded) > 3 and word.folded in _list("given_names"))
    if _means_something(word.folded) or not (is_frequent or (len(word.folded) > 5 and _FAMILY_ENDING.search(word.folded))):
        return False
    if text[word.start - 1 : word.start].isdigit() or text[word.end : word.end + 1].isdigit():
        return False
    if word.folded in _list("more_eponyms") and word.folded in _list("surnames"):
        is_joined = "-" in (text[word.start - 1 : word.start], text[word.end : word.end + 1])
        has_meaning = following is not None and _means_something(following.folded)
        return not (has_meaning or word.is_possessive or is_joined)
    return True


def _is_written_as_a_name(word: _Word, following: _Word | None, text: str) -> bool:
    """A capitalised word that means nothing we know, beside a cue or an initial, as an owner, or honoured; behind a sure cue any surname."""
    before, after = text[max(0, word.start - 40) : word.start], text[word.end : word.end + 30]
    is_common_name = word.folded in _list("common_surnames") and word.folded not in patterns.ANATOMY
    is_unknown = not _means_something(word.folded) and word.folded not in _list("more_eponyms")
    is_near_initial = _INITIAL_BEFORE.search(before) or _INITIAL_AFTER.match(after) or _HONORED.match(after)
    if (is_common_name or is_unknown) and is_near_initial:
        return True
    is_abbreviation = _NO_CUE_IN_CAPITALS.search(before) is not None
    before, after = fold_term(before), fold_term(after)
    if not is_unknown or len(word.folded) < 4:
        is_used_as_word = following is not None and _means_something(following.folded)
        return is_surname(word.folded) and not is_used_as_word and names_a_person(before, word.folded)
    is_thing = word.folded in _list("things")
    return (word.is_possessive and not is_thing) or may_name_a_person(
        "" if is_abbreviation else before, after, word.folded, is_thing=is_thing
    )


def _is_pair(one: _Word, two: _Word, text: str) -> bool:
    """A given name beside what can be a surname, in either order."""
    if (
        not re.fullmatch(r",?[ \t]+", text[one.end : two.start])
        or not (one.is_capital and two.is_capital)
        or min(len(one.folded), len(two.folded)) < 3
    ):
        return False
    for given, other in ((one, two), (two, one)):
        if not is_given_name(given.folded):
            continue
        is_surname = other.folded in _list("common_surnames") or other.folded in _list("surnames")
        if (is_surname and other.folded not in patterns.ANATOMY and given.folded not in patterns.clinical_words()) or not _means_something(
            other.folded
        ):
            return True
    return False


def _means_something(folded: str) -> bool:
    is_clinical = folded in patterns.clinical_words() and folded not in _list("more_eponyms")
    return is_clinical or folded in patterns.eponyms() or folded in _list("trade_words")


_LISTS = ("surnames", "common_surnames", "given_names", "more_eponyms", "disease_eponyms", "trade_words", "things", "places")


@cache
def _list(name: str) -> frozenset[str]:
    return frozenset(standard_data("people-names.json")[name].split())


def load_lists() -> None:
    """All lists are in memory."""
    for name in _LISTS:
        _list(name)


def is_given_name(folded: str) -> bool:
    """Whether `folded` is a frequent given name."""
    return folded in _list("given_names") or folded in patterns.given_names()


def is_surname(folded: str) -> bool:
    """Whether `folded` is a frequent surname, be it an everyday word too; never a part of the body."""
    return (
        folded in _list("surnames") or folded in _list("common_surnames") or folded in patterns.eponyms()
    ) and folded not in patterns.ANATOMY
