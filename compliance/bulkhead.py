"""A bulkhead between rows that one loop works on: what goes wrong with one of them ends there, and those after it have their turn.

A single claim, study or reader whose rows contradict each other must not keep every other one from being revoked, routed or delivered.
What concerns all rows alike goes through: a database that is away, and a clock that ran backwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from crypto.errors import Conflict, TemporarilyUnable

log = structlog.get_logger()


@dataclass
class Compartment:
    """The turn of one row."""

    #: The kind of what went wrong, never its text; empty where nothing did.
    error: str = ""


@contextmanager
def bulkhead(duty: str, **row: str | int) -> Iterator[Compartment]:
    """What the block raises is logged with `row` (keys and pseudonymous identifiers), and `error` of what is given names its kind.

    Raises: TemporarilyUnable; Conflict(CLOCK_BACKWARDS).
    """
    compartment = Compartment()
    try:
        yield compartment
    except TemporarilyUnable:
        raise
    except Exception as error:
        if isinstance(error, Conflict) and error.reason_code == "CLOCK_BACKWARDS":
            raise
        compartment.error = type(error).__name__
        log.error("row_left_out", duty=duty, error=compartment.error, **row)
