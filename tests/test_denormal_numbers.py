"""Numbers too small for full precision: zero where a network is run, and as ever everywhere else."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from compliance.denormal_numbers import denormals_are_zero
from compliance.text_detection import open_text_detector

_SMALLEST = np.float64(5e-324)
_ON_X86 = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is left as it is")


def _is_kept() -> bool:
    return bool(_SMALLEST * np.float64(1.0) > 0)


@_ON_X86
def test_switch_is_put_back_whatever_happens() -> None:
    with denormals_are_zero():
        assert not _is_kept()
        with denormals_are_zero(False):
            assert _is_kept()
        assert not _is_kept()
    assert _is_kept()
    with pytest.raises(RuntimeError), denormals_are_zero():
        raise RuntimeError
    assert _is_kept()


def test_reading_text_leaves_the_numbers_of_the_thread_alone() -> None:
    detector = open_text_detector()
    if detector is None:
        pytest.skip("the extra ocr is not installed")
    assert _is_kept()
    detector.read(np.random.default_rng(1).integers(0, 255, (64, 96), dtype=np.uint8))
    assert _is_kept()
