"""The Merkle tree of a feed, and proofs about it: RFC 9162 section 2.1, with SHA-256. *Pure.*

The leaf of an entry is its exact *payload* bytes, because its id is the CID of just these. A payload can be had in more
than one envelope (whoever holds the key can make many valid Ed25519 signatures of one message), so trees of envelopes
could differ between two peers that hold the same entries.

An inclusion proof shows that a leaf stands at an index of a tree; a consistency proof, that a tree begins with all the
leaves of an older one. Both are paths: hashes of subtrees, the lowest first, at most one for each level and one more.

Source: https://www.rfc-editor.org/rfc/rfc9162#section-2.1. The functions that prove are given our own leaves and raise
`ValueError` for arguments that make no sense. Those that verify are given anything at all, return nothing if the proof
holds, and raise `BadStatement` otherwise.
"""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import NamedTuple

from ledger.errors import BadStatement

HASH_BYTES = 32
TREE_SIZE_MAX = 2**53 - 1  # leaves; exact in every JSON reader, as positions in a feed are
PATH_NODES_MAX = TREE_SIZE_MAX.bit_length() + 1  # one for each level, and the one that a consistency path starts with
EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf (32 bytes); for an entry `data` is its payload."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node. Its prefix differs from a leaf's, so that neither can pass for the other."""
    return sha256(b"\x01" + left + right).digest()


class Frontier(NamedTuple):
    """All that an append-only tree needs to remember in order to grow: the roots of its perfect subtrees.

    Appending n leaves one by one takes fewer than n hashes in all, and a root fewer than one for each level.
    """

    size: int = 0  # leaves
    peaks: tuple[bytes, ...] = ()  # widest first, one for each 1 in the binary form of `size`

    def append(self, leaf: bytes) -> "Frontier":
        """The frontier with one more leaf, given as its hash."""
        _check_own([leaf])
        peaks, node, width = list(self.peaks), leaf, self.size
        while width & 1:
            node = node_hash(peaks.pop(), node)
            width >>= 1
        return Frontier(self.size + 1, (*peaks, node))

    def root(self) -> bytes:
        """The root of the tree as it is now (32 bytes)."""
        if not self.peaks:
            return EMPTY_ROOT
        *wider, node = self.peaks
        for peak in reversed(wider):
            node = node_hash(peak, node)
        return node


def root(leaf_hashes: Sequence[bytes]) -> bytes:
    """The root (32 bytes) of the tree over all of `leaf_hashes`."""
    return _levels(leaf_hashes)[-1][0] if leaf_hashes else EMPTY_ROOT


def inclusion_proof(leaf_hashes: Sequence[bytes], index: int) -> list[bytes]:
    """The path from the leaf at `index` to the root (section 2.1.3.1)."""
    if not 0 <= index < len(leaf_hashes):
        raise ValueError(f"no leaf {index} in a tree of {len(leaf_hashes)}")
    return _siblings(_levels(leaf_hashes), index)


def verify_inclusion(path: Sequence[bytes], *, leaf: bytes, index: int, size: int, root_hash: bytes) -> None:
    """Check that the leaf with hash `leaf` stands at `index` of the tree of that size and root (section 2.1.3.2)."""
    if not 0 <= index < size <= TREE_SIZE_MAX:
        raise BadStatement("the entry does not lie within the tree")
    _check_foreign(path, leaf, root_hash)
    r = leaf
    for node, on_the_left in _sides(path, index, size - 1):
        r = node_hash(node, r) if on_the_left else node_hash(r, node)
    if r != root_hash:
        raise BadStatement("the inclusion path leads to another root")


def consistency_proof(leaf_hashes: Sequence[bytes], old_size: int) -> list[bytes]:
    """The path that shows the tree over the first `old_size` leaves within that over all (section 2.1.4.1).

    Empty if the old tree is, or if it is the whole tree.
    """
    if not 0 <= old_size <= len(leaf_hashes):
        raise ValueError(f"a tree of {len(leaf_hashes)} does not begin with one of {old_size}")
    if old_size in (0, len(leaf_hashes)):
        return []
    levels = _levels(leaf_hashes)
    # The last perfect subtree of the old tree is a node of the new one. Whoever has the old root knows it already
    # if it is the whole old tree.
    height = (old_size & -old_size).bit_length() - 1
    index = (old_size >> height) - 1
    known = index == 0
    return ([] if known else [levels[height][index]]) + _siblings(levels[height:], index)


def verify_consistency(
    path: Sequence[bytes], *, old_size: int, old_root: bytes, new_size: int, new_root: bytes
) -> None:
    """Check that the new tree begins with all the leaves of the old one (section 2.1.4.2).

    Beyond the RFC, which leaves them out: equal sizes need equal roots, every tree begins with the empty one, and the
    path is then empty.
    """
    if not 0 <= old_size <= new_size <= TREE_SIZE_MAX:
        raise BadStatement("the older tree is larger than the newer one, or a size is out of range")
    _check_foreign(path, old_root, new_root)
    if (old_size == 0 and old_root != EMPTY_ROOT) or (old_size == new_size and old_root != new_root):
        raise BadStatement("one tree size with two roots")
    if old_size in (0, new_size):
        if path:
            raise BadStatement("a consistency path where none is needed")
        return
    nodes = [old_root, *path] if old_size.bit_count() == 1 else [*path]
    if not nodes:
        raise BadStatement("the path is too short for the tree")
    fn, sn = old_size - 1, new_size - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = nodes[0]
    for node, on_the_left in _sides(nodes[1:], fn, sn):
        if on_the_left:
            fr = node_hash(node, fr)
        sr = node_hash(node, sr) if on_the_left else node_hash(sr, node)
    if fr != old_root or sr != new_root:
        raise BadStatement("the consistency path leads to another root: the newer tree does not extend the older")


def _levels(leaf_hashes: Sequence[bytes]) -> list[list[bytes]]:
    """All nodes of a tree that is not empty, from its leaves to its root.

    Pairs are hashed from the left and an odd node at the end goes up as it is: the same tree as the RFC's, which is
    defined from the top.
    """
    _check_own(leaf_hashes)
    levels = [list(leaf_hashes)]
    while len(level := levels[-1]) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        odd = level[-1:] if len(level) & 1 else []
        levels.append([node_hash(left, right) for left, right in pairs] + odd)
    return levels


def _siblings(levels: Sequence[Sequence[bytes]], index: int) -> list[bytes]:
    """Of each node from `index` of the first level up to the root: its sibling, if it has one."""
    places = ((level, (index >> height) ^ 1) for height, level in enumerate(levels))
    return [level[place] for level, place in places if place < len(level)]


def _sides(path: Sequence[bytes], fn: int, sn: int) -> Iterator[tuple[bytes, bool]]:
    """Each node of a path with whether it stands on the left: what both of the RFC's verifications do at each step.

    `fn` is the index of the node where the path starts, `sn` that of the last node on its level; names are the RFC's.
    """
    for node in path:
        if sn == 0:
            raise BadStatement("the path is too long for the tree")
        on_the_left = fn & 1 == 1 or fn == sn
        yield node, on_the_left
        while on_the_left and fn and not fn & 1:
            fn, sn = fn >> 1, sn >> 1
        fn, sn = fn >> 1, sn >> 1
    if sn != 0:
        raise BadStatement("the path is too short for the tree")


def _check_own(hashes: Sequence[bytes]) -> None:
    if any(len(each) != HASH_BYTES for each in hashes):
        raise ValueError(f"leaves are given as hashes of {HASH_BYTES} bytes: see leaf_hash")


def _check_foreign(path: Sequence[bytes], *ends: bytes) -> None:
    if any(len(each) != HASH_BYTES for each in (*path, *ends)):
        raise BadStatement(f"a hash of other than {HASH_BYTES} bytes")
