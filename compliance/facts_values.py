"""One value of a fact: its type, its bounds, and how the record writes it. Nothing is guessed: what does not fit is refused (BadInput)."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from compliance.jurisdiction import CODE
from crypto.errors import BadInput

TEXT_MAX = 512
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/ @+-]{0,127}\Z")


def instant_text(value: datetime) -> str:
    """`value` as ISO 8601 in UTC with Z, with microseconds only where there are any."""
    value = value.astimezone(UTC)
    return value.isoformat(timespec="auto").replace("+00:00", "Z")


def quoted(name: str) -> str:
    return json.dumps(name[:80])


def read_value(name: str, kind: Any, raw: Any, attribute: str = "") -> tuple[Any, Any]:
    """(value as the engine uses it, value as the record writes it). Refusals name `name`, or `attribute` of it.

    Raises:
        BadInput: not of its type, or not of its closed list.
    """
    if kind == "instant":
        found = _parsed_instant(raw) if isinstance(raw, str) else _instant_of(raw)
        if found is not None:
            return found
    elif isinstance(kind, tuple):
        if isinstance(raw, str) and raw in kind:
            return raw, raw
    elif kind == "name" or kind == "text":
        if isinstance(raw, str) and 0 < len(raw) <= TEXT_MAX and (kind == "text" or NAME.match(raw)):
            return raw, raw
    elif kind == "code":
        if isinstance(raw, str) and CODE.match(raw):
            return raw, raw
    elif kind == "bool":
        if isinstance(raw, bool):
            return raw, raw
    elif kind == "count":
        if isinstance(raw, int) and not isinstance(raw, bool) and 0 <= raw <= 2**53 - 1:
            return raw, raw
    elif kind == "percent":
        if isinstance(raw, (int, float)) and not isinstance(raw, bool) and 0 <= raw <= 100:
            number = int(raw) if raw == int(raw) else raw
            return number, number
    elif isinstance(raw, (list, tuple)) and all([isinstance(item, str) and NAME.match(item) for item in raw]):
        ordered = sorted(set(raw))
        return frozenset(ordered), ordered
    raise BadInput(f"{name}.{attribute} {_expected(kind)}" if attribute else f"{name} {_expected(kind)}")


def _expected(kind: Any) -> str:
    if isinstance(kind, tuple):
        return f"must be one of {', '.join(kind)}"
    return _WORDS[kind]


_WORDS = {
    "instant": "must be an instant with a time zone, such as 2026-11-22T10:00:00Z",
    "code": "must be an ISO 3166 code such as IE or US-TX",
    "bool": "must be true or false",
    "count": "must be a whole number from 0",
    "percent": "must be a number from 0 to 100",
    "names": "must be a list of names",
    "name": "must be a short name",
    "text": f"must be a text of at most {TEXT_MAX} characters",
}


def _instant_of(raw: Any) -> tuple[datetime, str] | None:
    if not isinstance(raw, datetime) or raw.tzinfo is None:
        return None
    return raw.astimezone(UTC), instant_text(raw)


@lru_cache(maxsize=8192)
def _parsed_instant(raw: str) -> tuple[datetime, str] | None:
    """The instant and its normal text; None where `raw` is none. The same dates come again and again, in every reader's credentials."""
    try:
        moment = datetime.fromisoformat(raw)
        if moment.tzinfo is None:
            return None
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment, instant_text(moment)
