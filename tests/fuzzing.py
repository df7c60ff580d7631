"""A pytest plugin (`-p tests.fuzzing`): every property test tries READGATE_FUZZ_EXAMPLES examples, whatever its own settings say."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, settings


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
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
