"""A pytest plugin (`-p tests.fuzzing`): every property test tries READGATE_FUZZ_EXAMPLES examples, whatever its own settings say."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import HealthCheck, Phase, settings

#: Inputs that a fuzzing test makes of one example: with 400 examples 2 x 10^4 of two tests, with the plugin's 2,000 it is 10^6.
inputs_per_example = 25
_INPUTS_WITH_PLUGIN = 250


def mutated(seed: bytes, pieces: list[bytes], source: random.Random) -> bytes:
    """`seed` with some of its bytes replaced, taken out or pushed apart."""
    data = bytearray(seed)
    for _ in range(source.randint(1, 8)):
        at = source.randint(0, len(data))
        piece = source.choice(pieces) if source.random() < 0.6 else source.randbytes(source.randint(1, 6))
        kind = source.random()
        if kind < 0.5:
            data[at : at + len(piece)] = piece
        elif kind < 0.8:
            data[at:at] = piece
        else:
            del data[at : at + source.randint(1, 40)]
    return bytes(data)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    global inputs_per_example
    inputs_per_example = _INPUTS_WITH_PLUGIN
    examples = int(os.environ.get("READGATE_FUZZ_EXAMPLES", "2000"))
    for item in items:
        test = getattr(item, "obj", None)
        test = getattr(test, "__func__", test)
        if item.get_closest_marker("hypothesis") is not None and test is not None:
            test._hypothesis_internal_use_settings = settings(
                getattr(test, "_hypothesis_internal_use_settings", None),
                max_examples=examples,
                deadline=None,
                derandomize=False,
                phases=list(Phase),
                suppress_health_check=list(HealthCheck),
            )
