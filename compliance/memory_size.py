"""How much memory values take, so that what is kept of strangers' datasets can be bounded by that and not by number alone."""

from __future__ import annotations

from sys import getsizeof

#: A key made for the dict it stands in.
_KEY_BYTES = 60


def memory_of(value: object) -> int:
    """About how many bytes dicts, lists and tuples take with all that is in them; what is shared counts as often as it is met.

    `value` is no deeper than the parser of `dataset_bytes` lets a dataset be.
    """
    if isinstance(value, dict):
        return getsizeof(value) + sum(_KEY_BYTES + memory_of(one) for one in value.values())
    if isinstance(value, list | tuple):
        return getsizeof(value) + sum(map(memory_of, value))
    return getsizeof(value)
