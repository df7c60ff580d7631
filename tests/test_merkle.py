"""The hash tree against the standard's own recursion and published roots."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.merkle import (
    EMPTY_ROOT,
    CompactRange,
    consistency_proof,
    from_leaves,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_hash,
    verify_consistency,
    verify_inclusion,
)

#: The entries and roots that the Certificate Transparency reference implementation publishes for RFC 6962 (merkle_tree_test).
ENTRIES = [
    bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def split(count: int) -> int:
    """The largest power of two smaller than count, by search."""
    power = 1
    while power * 2 < count:
        power *= 2
    return power


def mth(entries: Sequence[bytes]) -> bytes:
    """MTH(D[n]) of RFC 6962 section 2.1, word for word."""
    if not entries:
        return sha(b"")
    if len(entries) == 1:
        return sha(b"\x00" + entries[0])
    k = split(len(entries))
    return sha(b"\x01" + mth(entries[:k]) + mth(entries[k:]))


def path(m: int, entries: Sequence[bytes]) -> list[bytes]:
    """PATH(m, D[n]) of section 2.1.1."""
    if len(entries) == 1:
        return []
    k = split(len(entries))
    if m < k:
        return [*path(m, entries[:k]), mth(entries[k:])]
    return [*path(m - k, entries[k:]), mth(entries[:k])]


def subproof(m: int, entries: Sequence[bytes], whole: bool) -> list[bytes]:
    """SUBPROOF(m, D[n], b) of section 2.1.2."""
    if m == len(entries):
        return [] if whole else [mth(entries)]
    k = split(len(entries))
    if m <= k:
        return [*subproof(m, entries[:k], whole), mth(entries[k:])]
    return [*subproof(m - k, entries[k:], False), mth(entries[:k])]


def tree(size: int) -> list[bytes]:
    return [b"entry %d" % number for number in range(size)]


def test_published_roots() -> None:
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    compact = CompactRange()
    assert compact.root() == EMPTY_ROOT == root_hash(from_leaves([]), 0)
    for size, expected in enumerate(ROOTS, 1):
        compact = compact.append(LEAVES[size - 1])
        assert compact.root().hex() == expected
        assert root_hash(from_leaves(LEAVES), size).hex() == expected


#: RFC 9162 section 2.1.5 draws this tree of seven leaves and lists these proofs.
def test_worked_example_of_rfc_9162() -> None:
    a, b, c, d, e, f, j = (leaf_hash(b"d%d" % number) for number in range(7))
    g, h, i = node_hash(a, b), node_hash(c, d), node_hash(e, f)
    k, m = node_hash(g, h), node_hash(i, j)
    leaves = [a, b, c, d, e, f, j]
    assert root_hash(from_leaves(leaves), 7) == node_hash(k, m)
    assert inclusion_proof(leaves, 0, 7) == [b, h, m]
    assert inclusion_proof(leaves, 3, 7) == [c, g, m]
    assert inclusion_proof(leaves, 4, 7) == [f, j, k]
    assert inclusion_proof(leaves, 6, 7) == [i, k]
    assert consistency_proof(leaves, 3, 7) == [c, d, g, m]
    assert consistency_proof(leaves, 4, 7) == [m]
    assert consistency_proof(leaves, 6, 7) == [i, j, k]


def test_every_proof_up_to_forty_leaves_is_the_standards_and_verifies() -> None:
    for size in range(1, 41):
        entries = tree(size)
        leaves = [leaf_hash(entry) for entry in entries]
        root = mth(entries)
        for index in range(size):
            proof = inclusion_proof(leaves, index, size)
            assert proof == path(index, entries)
            assert verify_inclusion(leaves[index], index, size, proof, root)
        for old in range(size + 1):
            proof = consistency_proof(leaves, old, size)
            assert proof == (subproof(old, entries, True) if old else [])
            assert verify_consistency(old, mth(entries[:old]), size, root, proof)


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 700))
def test_compact_range_has_the_root_of_the_recursion(size: int) -> None:
    compact = CompactRange()
    for entry in tree(size):
        compact = compact.append(leaf_hash(entry))
    assert (compact.size, compact.root()) == (size, mth(tree(size)))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_tampered_proofs_are_rejected(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 130))
    entries = tree(size)
    leaves = [leaf_hash(entry) for entry in entries]
    root = mth(entries)
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size - 1))
    inclusion, consistency = inclusion_proof(leaves, index, size), consistency_proof(leaves, old, size)
    old_root = mth(entries[:old])
    kind = data.draw(st.sampled_from(["flip", "drop", "add", "swap", "other index", "other size", "leaf", "root"]))
    for proof in (inclusion, consistency):
        place = data.draw(st.integers(0, max(len(proof) - 1, 0)))
        if kind == "flip" and proof:
            proof[place] = sha(proof[place])
        elif kind == "drop" and proof:
            del proof[place]
        elif kind == "swap" and len(set(proof)) > 1:
            proof.reverse()
        elif kind == "add":
            proof.insert(place, sha(b"more"))
        elif kind not in ("other index", "other size", "leaf", "root"):
            return
    if kind == "other index":
        other = data.draw(st.integers(-1, size + 1).filter(lambda number: number != index))
        assert not verify_inclusion(leaves[index], other, size, inclusion, root)
    elif kind == "other size":
        assert not verify_consistency(old, old_root, size, mth(entries[:-1]), consistency)
        assert not verify_consistency(old - 1, old_root, size, root, consistency)
        assert not verify_consistency(size + 1, root, size, root, consistency)
    elif kind == "leaf":
        assert not verify_inclusion(sha(b"leaf"), index, size, inclusion, root)
        assert not verify_consistency(old, sha(b"old root"), size, root, consistency)
    elif kind == "root":
        assert not verify_inclusion(leaves[index], index, size, inclusion, sha(root))
        assert not verify_consistency(old, old_root, size, sha(root), consistency)
    else:
        assert not verify_inclusion(leaves[index], index, size, inclusion, root)
        assert not verify_consistency(old, old_root, size, root, consistency)


def test_proofs_from_a_tile_like_source_need_complete_subtrees_only() -> None:
    leaves = [leaf_hash(entry) for entry in tree(77)]
    asked: list[tuple[int, int]] = []
    node = from_leaves(leaves)

    def stored(level: int, index: int) -> bytes:
        asked.append((level, index))
        assert (index + 1) << level <= 77
        return node(level, index)

    assert inclusion_proof(stored, 40, 77) == inclusion_proof(leaves, 40, 77)
    assert consistency_proof(stored, 33, 77) == consistency_proof(leaves, 33, 77)
    assert len(asked) < 40


def test_nodes_do_not_pass_as_leaves() -> None:
    assert leaf_hash(LEAVES[0] + LEAVES[1]) != node_hash(LEAVES[0], LEAVES[1])


def test_impossible_questions_are_programming_errors() -> None:
    for index, size in ((0, 0), (3, 3), (-1, 3)):
        with pytest.raises(ValueError, match="leaf"):
            inclusion_proof(LEAVES, index, size)
    with pytest.raises(ValueError, match="shrink"):
        consistency_proof(LEAVES, 3, 2)
    with pytest.raises(ValueError, match="one hash"):
        CompactRange(3, (LEAVES[0],))
