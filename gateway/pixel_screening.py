"""De-identification as processing runs it: in child processes with limits, that may die without losing anything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import pydicom

from compliance.burned_in import PixelScreening
from compliance.device_masks import Box, DeviceMask
from compliance.identified import DeidentifiedDataset, IdentifiedDataset, Pseudonymity
from compliance.pixel_review import PixelDecisions


class PixelScreener(Protocol):
    """`compliance.pixel_child.PixelChild` in the product; tests of other things may pass a plain function's object."""

    def screen(
        self,
        dataset: pydicom.Dataset,
        identity: Sequence[str],
        *,
        masks: Iterable[DeviceMask] | None = None,
        reviewed: Sequence[Box] | None = None,
    ) -> PixelScreening:
        """See compliance/burned_in.py. A child that died or took too long is a HOLD."""
        ...


@runtime_checkable
class ConfinedDeidentifier(Protocol):
    """De-identification with its pixel step in processes that may die: `compliance.deid_child.DeidChildren` in the product."""

    def deidentify(
        self, source: IdentifiedDataset, under: Pseudonymity, *, masks: Sequence[DeviceMask], reviewed: Sequence[Box] | None
    ) -> DeidentifiedDataset:
        """Raises: RefusedContent; RefusedPixels where a person may accept boxes."""
        ...


class ReviewedScreen:
    """The screen of one instance under its hospital's decisions; `proposed` are the boxes of a HOLD, for a person to look at."""

    def __init__(self, screener: PixelScreener, decisions: PixelDecisions, instance_pk: int | None) -> None:
        self._screener, self._masks = screener, decisions.masks
        self._reviewed = None if instance_pk is None else decisions.boxes.get(instance_pk)
        self.proposed: tuple[tuple[int, int, int, int, str], ...] = ()

    def __call__(self, dataset: pydicom.Dataset, identity: Sequence[str]) -> PixelScreening:
        result = self._screener.screen(dataset, identity, masks=self._masks, reviewed=self._reviewed)
        self.proposed = tuple((*screened.box, screened.why) for screened in result.boxes) if result.outcome == "HOLD" else ()
        return result
