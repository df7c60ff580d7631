"""Confined children as tests ask them, and what is said to them on the wire."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from compliance import child_wire
from compliance.deid_child import DeidChild
from compliance.device_masks import known_masks
from compliance.identified import DeidentifiedDataset, IdentifiedDataset, Pseudonymity
from compliance.identity_terms import collect_identity
from tests.deid_samples import names_for

MASKS = known_masks()


def asked(child: DeidChild, source: IdentifiedDataset, under: Pseudonymity | None = None) -> DeidentifiedDataset:
    return child.deidentify(source, under or names_for(collect_identity([source])), masks=MASKS, reviewed=None)


def has_landlock() -> int:
    """The version of Landlock that this kernel has, 0 where it has none."""
    return max(0, ctypes.CDLL(None).syscall(444, None, 0, 1))


def told_by_wire(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """All that is said to any child from here on."""
    told: list[bytes] = []
    send = child_wire.send

    def listen(descriptor: int, words: dict[str, Any], payload: bytes = b"", deadline: float | None = None) -> None:
        told.append(repr(words).encode() + payload)
        send(descriptor, words, payload, deadline)

    monkeypatch.setattr(child_wire, "send", listen)
    return told
