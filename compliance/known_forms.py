"""Many known forms looked for in one text after another: a form costs its regular expression only once a text could hold it.

Invariants
- A form's `cores` are letters and digits of which one set stands in every match, in this order and with nothing between them but what is
  neither letter nor digit. A text without any of them cannot match, so leaving the form out of the search changes nothing.
- The order among forms is fixed, and what is left out does not change it: where two could match at one place, the same one does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_BETWEEN = re.compile(r"[\W_]+")
#: Texts that between them could hold so many different selections of the forms are searched for all of them from then on.
_SELECTIONS_MAX = 64


class Form(NamedTuple):
    """`pattern` over folded text; every match holds one of `cores`."""

    pattern: str
    cores: tuple[str, ...]


def form_of(pattern: str, *spelled: str) -> Form:
    """The form whose matches hold one of these, whatever but letters and digits stands between their characters."""
    return Form(pattern, tuple(sorted({core_of(text) for text in spelled})))


def core_of(text: str) -> str:
    """The letters and digits of `text`."""
    return _BETWEEN.sub("", text)


class KnownForms:
    """The forms of one study, in the order in which they are tried."""

    def __init__(self, forms: Iterable[Form]) -> None:
        self._forms = tuple(dict.fromkeys(forms))
        self._compiled: dict[tuple[Form, ...], re.Pattern[str]] = {}

    def finditer(self, folded: str) -> Iterator[re.Match[str]]:
        """As of a regular expression that has all of the forms as alternatives."""
        core = core_of(folded)
        possible = tuple([form for form in self._forms if any(one in core for one in form.cores)])
        if not possible:
            return iter(())
        pattern = self._compiled.get(possible) or self._compiled.get(self._forms)
        if pattern is None:
            if len(self._compiled) >= _SELECTIONS_MAX:
                possible = self._forms
            pattern = self._compiled[possible] = re.compile("|".join([form.pattern for form in possible]))
        return pattern.finditer(folded)
