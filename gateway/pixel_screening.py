"""The pixel step of de-identification as processing runs it: in a child process with limits, that may die without losing anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import pydicom

from compliance.burned_in import PixelScreening


class PixelScreener(Protocol):
    """`compliance.pixel_child.PixelChild` in the product; tests of other things may pass a plain function's object."""

    def screen(self, dataset: pydicom.Dataset, identity: Sequence[str]) -> PixelScreening:
        """See compliance/burned_in.py. A child that died or took too long is a HOLD."""
        ...
