"""Known forms are found as one regular expression of them all would find them, though only those that a text can hold are looked for."""

from __future__ import annotations

import datetime as dt
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compliance.free_text import TextCleaner
from compliance.identity_terms import order_terms
from compliance.known_forms import Form, KnownForms, core_of, form_of
from compliance.name_forms import NameForms, date_forms, identifier_form, phrase_form

_NAMES = ["Muster^Erika Anna", "M\u00fcller-L\u00fcdenscheidt^J\u00f6rg", "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce", "O'Neill^Se\u00e1n"]
_NUMBERS = ["000123456", "LIN2603140001", "A-17/4432", "12345", "\u6771\u4eac123", "+49 341 5550100"]
_PLACES = ["Am M\u00fchlgraben 4", "Klinikum Lindenau", "\u6771\u4eac \u75c5\u9662", "Ward_7 North-Eastern"]


def _forms() -> list[Form]:
    found = {form for name in _NAMES for form in NameForms.of(name).split_forms}
    found |= {form for name in _NAMES if (form := NameForms.of(name).joined_form)}
    found |= {form for text in _NUMBERS if (form := identifier_form(text))}
    found |= {form for text in _PLACES if (form := phrase_form(text))}
    found |= date_forms(dt.date(2026, 3, 14))
    return sorted(found)


_FORMS = _forms()
_WHOLE = re.compile("|".join(form.pattern for form in _FORMS))
_PIECES = [
    "erika", "mus", "ter", "muster", "mueller", "luden", "scheidt", "yamada", "\u5c71\u7530", "\u592a\u90ce", "123456", "0001",
    "23456", "lin", "lin2603140001", "2603", "140001", "a-17", "4432", "12345", "\u6771\u4eac", "\u75c5\u9662", "am",
    "muhlgraben", "4", "klinikum", "lindenau", "ward", "_7", "north", "eastern", "140326", "20260314", "49", "341", "5550100",
    "mm", "sean", "oneill", "o'neill",
]  # fmt: skip
_GAPS = ["", " ", "-", ".", "_", "/", "\n", "-\n ", "^", "  ", "=", "\u3000", ":", ", "]


@settings(max_examples=400)
@given(st.lists(st.tuples(st.sampled_from(_PIECES), st.sampled_from(_GAPS)), max_size=12))
def test_what_is_left_out_of_the_search_could_not_have_matched(parts: list[tuple[str, str]]) -> None:
    text = "".join(piece + gap for piece, gap in parts)
    found = [match.span() for match in KnownForms(_FORMS).finditer(text)]
    assert found == [match.span() for match in _WHOLE.finditer(text)]


@pytest.mark.parametrize("form", _FORMS, ids=lambda form: core_of(form.pattern)[:24])
def test_every_form_is_found_in_a_text_of_its_own_core(form: Form) -> None:
    forms = KnownForms([form])
    assert any(next(forms.finditer(core), None) for core in form.cores) == any(re.search(form.pattern, core) for core in form.cores)


def test_a_form_no_text_holds_is_never_compiled() -> None:
    forms = KnownForms([Form("(", ("neverthere",)), form_of("here", "here")])
    assert [match.group() for match in forms.finditer("it is here")] == ["here"]


def test_many_selections_end_in_one_search_for_all() -> None:
    words = [f"word{index}x" for index in range(80)]
    forms = KnownForms(form_of(word, word) for word in words)
    for index in range(80):
        text = " ".join(words[: index + 1])
        assert [match.group() for match in forms.finditer(text)] == words[: index + 1]
    assert len(forms._compiled) <= 65


def test_texts_are_cleaned_of_what_stands_split_and_of_nothing_else() -> None:
    cleaner = TextCleaner(order_terms(names=["Muster^Erika"], identifiers=["LIN2603140001"]))
    assert cleaner.clean("CT of Mus-\nter, see lin 2603 140001; no lesion").text == "CT of [-], see [-]; no lesion"
