"""Private elements: out, unless creator and element stand in PS3.15 Table E.3.10-1 and the element is what the table says.

Invariants
- The creator decides, not the block number: a creator's block may stand anywhere in 10..FF (PS3.5 7.8.1).
- An element without its creator in the same dataset, or with another VR than the table's, is dropped.
- Only creators named in the table are written again, so that a creator's name carries nothing out.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from compliance.profile_table import standard_data


@cache
def safe_elements() -> Mapping[tuple[int, int, str], str]:
    """VR by (group, low byte of the element number, creator); "" where the table gives none."""
    found: dict[tuple[int, int, str], str] = {}
    for row in standard_data("e3.10-1.json")["rows"]:
        element = row["element"].lower()
        found[int(element[1:5], 16), int(element[8:10], 16), row["creator"]] = row["vr"].strip()
    return found


@cache
def safe_groups() -> frozenset[int]:
    """Groups in which the table has any element."""
    return frozenset(group for group, _, _ in safe_elements())


@cache
def safe_creators() -> frozenset[str]:
    """Creators the table names."""
    return frozenset(creator for _, _, creator in safe_elements())


def safe_vr(tag: int, creators: Mapping[int, str], declared_vr: str) -> str | None:
    """The VR under which private `tag` may stay, None where it goes.

    `creators` maps group << 8 | block to the creator's name in the same dataset; `declared_vr` is "" in implicit VR and may be UN.
    """
    block, low = tag >> 8 & 0xFF, tag & 0xFF
    creator = creators.get(tag >> 16 << 8 | block)
    if block < 0x10 or creator is None:
        return None
    vr = safe_elements().get((tag >> 16, low, creator))
    if not vr or (declared_vr not in ("", "UN", vr)):
        return None
    return vr
