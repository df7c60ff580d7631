"""Dates of a patient move together: one offset of days, times of day and zones kept (PS3.15 E.3.6).

A value that is not a date is never passed on: `shift_*` return None, and the caller empties the element.
"""

from __future__ import annotations

import datetime as dt
import re

#: PS3.5 6.2: YYYYMMDD, and the YYYY.MM.DD of ACR-NEMA 2.0.
_DA = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")
_DT = re.compile(r"(\d{4})(?:(\d{2})(?:(\d{2})((?:\d{2}){0,3}(?:\.\d{1,6})?))?)?([+-]\d{4})?")
_TM = re.compile(r"(?:[01]\d|2[0-3])(?::?[0-5]\d(?::?(?:[0-5]\d|60)(?:\.\d{1,6})?)?)?")


def _day(year: str, month: str, day: str) -> dt.date | None:
    try:
        return dt.date(int(year), int(month), int(day))
    except ValueError:
        return None


def _moved(day: dt.date, days: int) -> str | None:
    try:
        return f"{day + dt.timedelta(days=days):%Y%m%d}" if day.year >= 1000 else None
    except (OverflowError, ValueError):
        return None


def shift_da(text: str, days: int) -> str | None:
    """A DA value moved by `days`; None where it is not a date."""
    match = _DA.fullmatch(text.strip("\0 "))
    day = match and _day(*match.groups())
    return _moved(day, days) if day else None


def shift_dt(text: str, days: int) -> str | None:
    """A DT value moved by `days`, its time of day and zone kept; without a day, a year or month moves with its middle."""
    match = _DT.fullmatch(text.strip("\0 "))
    if match is None:
        return None
    year, month, day, clock, zone = match.groups()
    start = _day(year, month or "07", day or "01")
    moved = _moved(start, days) if start else None
    if moved is None:
        return None
    if day is None:
        return (moved[:4] if month is None else moved[:6]) + (zone or "")
    return moved + (clock or "") + (zone or "")


def valid_tm(text: str) -> bool:
    """Whether `text` is a time of day (PS3.5 6.2), the colons of ACR-NEMA 2.0 allowed."""
    return _TM.fullmatch(text.strip("\0 ")) is not None


def dates_in_value(vr: str, text: str) -> set[dt.date]:
    """The days a DA or DT value names, all of its values."""
    found = set()
    for part in text.split("\\"):
        match = _DA.match(part.strip("\0 ")) if vr == "DA" else re.match(r"(\d{4})(\d{2})(\d{2})", part.strip("\0 "))
        day = match and _day(*match.groups())
        if day:
            found.add(day)
    return found
