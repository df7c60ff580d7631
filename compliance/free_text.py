"""Free text without this study's people: names in every form, numbers, days, places; clinical words stay.

Order of work on one text
  0. fold it (accents, case, widths) keeping for each folded character where it came from;
  1. spans of this study's identity: whole values, name words with their relatives (reversed, glued, split, misspelt, initials);
  2. spans of generic patterns (days, phones, addresses, titles), where the caller asks for them;
  3. what looks like a person without proof makes the text doubtful: the caller holds it, nothing is guessed.
A name that is also a clinical word ("May", "White", "Parkinson") goes only where it stands as a name.
PS3.15 E.3.5 (Clean Descriptors) leaves the method open; docs/DEIDENTIFICATION.md says what is promised.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from compliance import text_patterns as patterns
from compliance.identity_terms import IdentityTerms
from compliance.known_forms import KnownForms
from compliance.name_forms import (
    NameForms,
    date_forms,
    fold,
    fold_term,
    identifier_form,
    is_near,
    phrase_form,
    phrase_words,
)
from compliance.strangers import is_given_name, is_surname, looks_like_a_person

#: What stands where identity stood.
MARK = "[-]"
_WORD = re.compile(r"[^\W\d_]+")
_ABBREVIATIONS = frozenset("ct mr us cr dr mg nm pt xa rf iv po im ap pa sc st ll rl cc".split())
#: A word that may follow a title, on the same line.
_NAME_WORD = re.compile(r"[ \t\u00a0,]*([^\W\d_]+(?:['\u2019\-][^\W\d_]+)*)\.?")
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class CleanedText:
    """`text` after cleaning; `removed` spans; `is_doubtful` where a person must look."""

    text: str
    removed: int
    is_doubtful: bool


class TextCleaner:
    """Cleans texts of one study; building it costs, each new text costs some 0.2 ms, a text met before nothing."""

    def __init__(
        self, identity: IdentityTerms, *, keep_institutions: bool = False, keep_devices: bool = False, keep_dates: bool = False
    ) -> None:
        self._names = [NameForms.of(name) for name in sorted(identity.patient_names | identity.staff_names)]
        self._words: set[str] = set()
        self._inside: set[str] = set()
        self._unsure: set[str] = set()
        self._glued: set[str] = set()
        self._initials: set[str] = set()
        for name in self._names:
            self._add_name(name)
        phrases = set(identity.places | identity.contacts | (frozenset() if keep_institutions else identity.institutions))
        numbers = set(identity.identifiers | identity.patient_ids)
        if not keep_devices:
            public = " ".join(fold_term(text) for text in identity.public)
            numbers |= {text for text in identity.devices if fold_term(text) not in public}
        places = identity.places | (frozenset() if keep_institutions else identity.institutions)
        self._place_words = {word for text in places for word in phrase_words(text)}
        forms = {form for text in phrases if (form := phrase_form(text))}
        forms |= {form for text in numbers | identity.contacts if (form := identifier_form(text))}
        forms |= {name.joined_form for name in self._names if name.joined_form}
        days = identity.birth_dates if keep_dates else identity.dates | identity.birth_dates
        forms |= {form for day in days for form in date_forms(day)}
        # The longest first; among equally long ones any order would do, but it must be the same every time.
        self._literal = KnownForms(sorted(forms, key=lambda form: (-len(form.pattern), form)))
        self._split = KnownForms(sorted({form for name in self._names for form in name.split_forms}))
        self._near = frozenset(word for word in self._inside if len(word) >= 6)
        self._keep_dates = keep_dates
        self._memo: dict[tuple[str, bool], CleanedText] = {}

    def _add_name(self, name: NameForms) -> None:
        common = patterns.common_words()
        for word in name.words:
            (self._unsure if word in common or len(word) < 3 else self._words).add(word)
            if len(word) >= 5 and word not in common:
                self._inside.add(word)
        self._glued |= name.glued - common
        self._initials |= name.initials

    def clean(self, text: str, *, generic: bool = True) -> CleanedText:
        """`text` without identity. `generic` also removes what looks like identity without being known (descriptors, reports)."""
        key = (text, generic)
        found = self._memo.get(key)
        if found is None:
            if len(self._memo) > 20_000:
                self._memo.clear()
            found = self._memo[key] = self._clean(text, generic)
        return found

    def _clean(self, text: str, generic: bool) -> CleanedText:
        if not text or text.isspace() or not any(map(str.isalnum, text)):
            return CleanedText(text, 0, False)
        folded, origin = fold(text)
        spans: list[Span] = []
        spans += [match.span() for match in self._literal.finditer(folded)]
        spans += self._name_spans(text, folded, origin)
        if generic:
            spans += self._generic_spans(folded, text, origin)
        original = [(origin[start], origin[end - 1] + 1) for start, end in spans if end > start]
        if generic:
            original += _cased_spans(text)
        merged = _merged(original, text)
        doubtful = generic and looks_like_a_person(text, merged)
        if not merged:
            return CleanedText(text, 0, doubtful)
        pieces, last = [], 0
        for start, end in merged:
            pieces += [text[last:start], MARK]
            last = end
        pieces.append(text[last:])
        return CleanedText("".join(pieces), len(merged), doubtful)

    def _name_spans(self, text: str, folded: str, origin: list[int]) -> list[Span]:
        spans: list[Span] = []
        words = [(match.group(), match.start(), match.end()) for match in _WORD.finditer(folded)]
        sure = [self._is_name(word) for word, _, _ in words]
        for index, (word, start, end) in enumerate(words):
            if sure[index] or (word in self._unsure and self._stands_as_name(index, words, sure, text, folded, origin)):
                spans.append(self._with_initials(start, end, text, folded, origin))
            elif word in self._place_words and (text[origin[start]].isupper() or word not in patterns.clinical_words()):
                spans.append((start, end))
        for match in self._split.finditer(folded):
            pieces = _WORD.findall(match.group())
            if len(pieces) > 1 and not all(piece in patterns.clinical_words() and len(piece) > 2 for piece in pieces):
                spans.append(match.span())
        for name in self._names:
            if name.dotted_initials:
                for match in name.dotted_initials.finditer(folded):
                    letters = re.sub(r"[^a-z]", "", match.group())
                    if letters not in _ABBREVIATIONS and text[origin[match.start()]].isupper():
                        spans.append(match.span())
        return spans

    def _is_name(self, word: str) -> bool:
        if word in self._words or word in self._glued:
            return True
        if len(word) < 5 or word in patterns.clinical_words() or word in patterns.eponyms():
            return False
        if any(part in word for part in self._inside):
            return True
        return len(word) >= 6 and any(is_near(word, name) for name in self._near)

    def _stands_as_name(
        self, index: int, words: list[tuple[str, int, int]], sure: list[bool], text: str, folded: str, origin: list[int]
    ) -> bool:
        """Whether a word that is also an everyday or clinical one is this person here: by its neighbours, then by how it is written."""
        word, start, end = words[index]
        written = text[origin[start] : origin[end - 1] + 1]
        if written.islower() and len(written) > 1 and not written[0].isupper():
            return False
        before, after = folded[:start], folded[end:]
        gap = r"[\s,^.'_\-]*"
        left = words[index - 1] if index and re.fullmatch(gap, folded[words[index - 1][2] : start]) else None
        right = words[index + 1] if index + 1 < len(words) and re.fullmatch(gap, folded[end : words[index + 1][1]]) else None
        previous_word, next_word = left and left[0], right and right[0]
        beside = bool(left and (sure[index - 1] or (previous_word in self._unsure and previous_word != word)))
        beside = beside or bool(right and (sure[index + 1] or (next_word in self._unsure and next_word != word)))
        if beside or re.search(patterns.TITLE.pattern + r"$|" + patterns.LABEL.pattern + r"$", before[-40:]):
            return True
        if len(word) < 3:
            return False
        if word in patterns.eponyms() and (re.match(r"('s|s)?\s*(disease|syndrome|sign|lymphoma|criteria|score|classification)", after)
                                           or re.search(r"(morbus|m\.|non-|mb\.?)\s*$", before)):  # fmt: skip
            return False
        known = patterns.clinical_words()
        if next_word in known or (word in patterns.ANATOMY and (previous_word in known or text.strip() == written)):
            return False
        return not (next_word is None and previous_word is None and word in patterns.ANATOMY)

    def _with_initials(self, start: int, end: int, text: str, folded: str, origin: list[int]) -> Span:
        before = re.search(r"(?:(?<![^\W_])(?<!\+)[a-z]\.?\s*){1,3}$", folded[max(0, start - 8) : start])
        if before and all(letter in self._initials for letter in re.findall("[a-z]", before.group())):
            first = start - len(before.group())
            if text[origin[first]].isupper():
                start = first
        after = re.match(r",?\s*[a-z](?:\.|(?![^\W_]))(?:\s*[a-z]\.)?", folded[end:])
        if after and all(letter in self._initials for letter in re.findall("[a-z]", after.group())):
            first_letter = end + next(i for i, c in enumerate(after.group()) if c.isalpha())
            if text[origin[first_letter]].isupper():
                end += len(after.group())
        return start, end

    def _generic_spans(self, folded: str, text: str, origin: list[int]) -> list[Span]:
        spans = [] if self._keep_dates else [match.span() for pattern in patterns.DATES for match in pattern.finditer(folded)]
        spans += [match.span() for pattern in patterns.NUMBERS for match in pattern.finditer(folded)]
        for match in patterns.CARET_NAME.finditer(folded):
            words = _WORD.findall(match.group())
            if not any(word in patterns.clinical_words() or word.endswith(("routine", "adult", "child")) for word in words):
                spans.append(match.span())
        spans += [match.span() for match in patterns.HONORED_CJK.finditer(folded)]
        for match in patterns.TITLE.finditer(folded):
            written = text[origin[match.start()] : origin[match.end() - 1] + 1].strip()
            if written in ("MR", "MS", "ms", "mr"):
                continue
            takes_common = not written.isupper()
            needs_capital = written.rstrip(". ") not in ("dr", "Dr", "DR")
            spans += _announced(folded, text, origin, match.end(), needs_capital=needs_capital, takes_common=takes_common)
        for match in patterns.LABEL.finditer(folded):
            is_sure = match.group("mark") is not None or match.group().rstrip().endswith(("by", "von"))
            spans += _announced(folded, text, origin, match.end(), needs_capital=match.group("mark") is None, takes_common=is_sure)
        for match in patterns.CREDENTIALS.finditer(folded):
            name = next((one for one in reversed(list(_WORD.finditer(match.group(1)))) if len(one.group()) > 2), None)
            if name and name.group() not in patterns.clinical_words() and text[origin[match.start(1) + name.start()]].isupper():
                spans.append((match.start(1) + name.start(), match.end()))
        return spans


def _announced(folded: str, text: str, origin: list[int], pos: int, *, needs_capital: bool, takes_common: bool) -> list[Span]:
    """Up to three words behind a title or label that can be a name; with `takes_common` also a name that is an everyday word ("Brown")."""
    spans: list[Span] = []
    known = patterns.clinical_words()
    previous = ""
    for _ in range(3):
        match = _NAME_WORD.match(folded, pos)
        if match is None:
            break
        word, start = match.group(1), match.start(1)
        is_capital = text[origin[start]].isupper() or not text[origin[start]].isascii()
        is_initial = len(word) == 1 and is_capital and not folded[match.end(1) : match.end(1) + 1].isdigit()
        is_titled = is_capital and len(word) > 1 and text[origin[start + 1]].islower()
        # Behind a surname an everyday word is that again ("Dr. Kern White matter"), behind a given name or an initial it is the surname.
        can_be_common = takes_common and is_titled and (previous == "" or len(previous) == 1 or is_given_name(previous))
        means_more = (word in known or word in patterns.eponyms()) and not (can_be_common and is_surname(word))
        if not is_initial and (means_more or len(word) < 2 or (needs_capital and not is_capital)):
            break
        spans.append((start, match.end(1)))
        pos, previous = match.end(), word
        if len(word) > 2 and match.group().endswith("."):
            break
    return spans if any(end - start > 1 for start, end in spans) else []


def _cased_spans(text: str) -> list[Span]:
    spans: list[Span] = []
    known = patterns.common_words()
    for pattern in (*patterns.CASED_PLACES, *patterns.CASED_INSTITUTIONS):
        for match in pattern.finditer(text):
            words = _WORD.findall(fold(match.group(1))[0])
            if (not words and not match.group(1)) or any(word not in known and len(word) > 2 for word in words):
                spans.append(match.span())
    return spans


def _merged(spans: list[Span], text: str) -> list[Span]:
    """Spans in order, those that touch or have only blanks and name punctuation between them made one."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and (start <= merged[-1][1] or not text[merged[-1][1] : start].strip(" ,.^-'\t")):
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
