"""The hash tree of the audit log: RFC 6962 section 2.1 (the same in RFC 9162), with SHA-256.

Pure: a tree is its leaf hashes in order, or anything that gives the hash of a complete subtree. A leaf's prefix 0x00
and a node's 0x01 keep a node from being passed off as a leaf. The root of the empty tree is the SHA-256 of nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()

#: The hash of the complete subtree over leaves [index * 2**level, (index + 1) * 2**level).
NodeHash = Callable[[int, int], bytes]


def leaf_hash(entry: bytes) -> bytes:
    """The hash of the leaf `entry`: SHA-256(0x00 || entry)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node: SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True)
class CompactRange:
    """A tree of `size` leaves by the roots of its complete subtrees, largest first: all that appending needs (at most 64 hashes)."""

    size: int = 0
    hashes: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if len(self.hashes) != self.size.bit_count():
            raise ValueError("a compact range has one hash for each bit that is set in its size")

    def append(self, leaf: bytes) -> CompactRange:
        """The tree with the leaf hash `leaf` at index `size`."""
        hashes, current, size = list(self.hashes), leaf, self.size
        while size & 1:
            current = node_hash(hashes.pop(), current)
            size >>= 1
        return CompactRange(self.size + 1, (*hashes, current))

    def root(self) -> bytes:
        """The tree's root hash."""
        if not self.hashes:
            return EMPTY_ROOT
        current = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            current = node_hash(left, current)
        return current


def from_leaves(leaves: Sequence[bytes]) -> NodeHash:
    """`NodeHash` over leaf hashes held in memory; each call costs as many hashes as the subtree has leaves."""

    def node(level: int, index: int) -> bytes:
        row = leaves[index << level : (index + 1) << level]
        while len(row) > 1:
            row = [node_hash(row[position], row[position + 1]) for position in range(0, len(row), 2)]
        return row[0]

    return node


def root_hash(node: NodeHash, size: int) -> bytes:
    """The root of the first `size` leaves."""
    return EMPTY_ROOT if size == 0 else _range_hash(node, 0, size)


def inclusion_proof(tree: Sequence[bytes] | NodeHash, index: int, size: int) -> list[bytes]:
    """The audit path of leaf `index` in the tree of the first `size` leaves, from the leaf upwards (RFC 6962 section 2.1.1).

    `tree` is the leaf hashes in order, or a `NodeHash`.
    """
    if not 0 <= index < size:
        raise ValueError("there is no such leaf in a tree of that size")
    node = tree if callable(tree) else from_leaves(tree)
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(_range_hash(node, middle, end))
            end = middle
        else:
            path.append(_range_hash(node, start, middle))
            start = middle
    return path[::-1]


def consistency_proof(tree: Sequence[bytes] | NodeHash, old_size: int, new_size: int) -> list[bytes]:
    """That the first `old_size` leaves are a prefix of the first `new_size` (RFC 6962 section 2.1.2).

    Empty where there is nothing to prove: equal sizes, or an empty old tree.
    """
    if not 0 <= old_size <= new_size:
        raise ValueError("a tree does not shrink")
    if old_size in (0, new_size):
        return []
    node = tree if callable(tree) else from_leaves(tree)
    proof: list[bytes] = []
    start, end, is_whole_old_tree = 0, new_size, True
    while end > old_size:
        middle = start + _split(end - start)
        if old_size <= middle:
            proof.append(_range_hash(node, middle, end))
            end = middle
        else:
            proof.append(_range_hash(node, start, middle))
            start, is_whole_old_tree = middle, False
    if not is_whole_old_tree:
        proof.append(_range_hash(node, start, end))
    return proof[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether `proof` shows the leaf hash `leaf` at `index` of the tree of `size` leaves with this root (RFC 9162 section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    first, last, current = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if first & 1 or first == last:
            current = node_hash(sibling, current)
            while not first & 1 and first:
                first >>= 1
                last >>= 1
        else:
            current = node_hash(current, sibling)
        first >>= 1
        last >>= 1
    return last == 0 and current == root


def verify_consistency(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether `proof` shows that the old tree is a prefix of the new one (RFC 9162 section 2.1.4.2)."""
    if not 0 <= old_size <= new_size:
        return False
    if old_size == new_size:
        return not proof and old_root == new_root
    if old_size == 0:
        return not proof and old_root == EMPTY_ROOT
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    if not path:
        return False
    first, last = old_size - 1, new_size - 1
    while first & 1:
        first >>= 1
        last >>= 1
    old_current = new_current = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if first & 1 or first == last:
            old_current = node_hash(sibling, old_current)
            new_current = node_hash(sibling, new_current)
            while not first & 1 and first:
                first >>= 1
                last >>= 1
        else:
            new_current = node_hash(new_current, sibling)
        first >>= 1
        last >>= 1
    return last == 0 and old_current == old_root and new_current == new_root


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << (count - 1).bit_length() - 1


def _range_hash(node: NodeHash, start: int, end: int) -> bytes:
    """The hash over leaves [start, end) as the tree has it: complete subtrees from left to right, joined from the right."""
    pieces = []
    while start < end:
        level = (end - start).bit_length() - 1
        pieces.append(node(level, start >> level))
        start += 1 << level
    current = pieces[-1]
    for left in reversed(pieces[:-1]):
        current = node_hash(left, current)
    return current
