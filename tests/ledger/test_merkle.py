"""Merkle trees: the RFC's definitions, published vectors and another library say what is right; then lies are tried."""

from collections.abc import Sequence
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymerkle import InmemoryTree

from ledger.errors import BadStatement
from ledger.merkle import (
    EMPTY_ROOT,
    PATH_NODES_MAX,
    TREE_SIZE_MAX,
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root,
    verify_consistency,
    verify_inclusion,
)

# The reference tree of Certificate Transparency, as in github.com/transparency-dev/merkle, proof/verify_test.go.
DATA = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
LEAVES = [leaf_hash(data) for data in DATA]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]  # by size, from 0
INCLUSION = [  # index, size, path
    (0, 1, []),
    (
        0,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        5,
        8,
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (2, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    (
        1,
        5,
        [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]
CONSISTENCY = [  # old size, new size, path
    (1, 1, []),
    (
        1,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        5,
        [
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
    (
        6,
        7,
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
]

sizes = st.integers(1, 300)
bits = st.integers(0, 255)


def leaves(size: int) -> list[bytes]:
    return [leaf_hash(b"entry %d" % number) for number in range(size)]


def flipped(value: bytes, bit: int) -> bytes:
    return (int.from_bytes(value, "big") ^ 1 << bit).to_bytes(len(value), "big")


# The definitions of RFC 9162, sections 2.1.1, 2.1.3.1 and 2.1.4.1, as they are printed there.


def split(n: int) -> int:
    """The largest power of two smaller than n."""
    return 1 << (n - 1).bit_length() - 1


def mth(d: Sequence[bytes]) -> bytes:
    if len(d) <= 1:
        return d[0] if d else sha256(b"").digest()
    k = split(len(d))
    return node_hash(mth(d[:k]), mth(d[k:]))


def path(m: int, d: Sequence[bytes]) -> list[bytes]:
    if len(d) == 1:
        return []
    k = split(len(d))
    return [*path(m, d[:k]), mth(d[k:])] if m < k else [*path(m - k, d[k:]), mth(d[:k])]


def subproof(m: int, d: Sequence[bytes], b: bool) -> list[bytes]:
    if m == len(d):
        return [] if b else [mth(d)]
    k = split(len(d))
    return [*subproof(m, d[:k], b), mth(d[k:])] if m <= k else [*subproof(m - k, d[k:], False), mth(d[:k])]


def test_roots_and_paths_are_those_of_the_rfcs_definitions() -> None:
    for size in range(1, 35):
        tree = leaves(size)
        assert root(tree) == mth(tree)
        for at in range(size):
            assert inclusion_proof(tree, at) == path(at, tree)
            assert consistency_proof(tree, at + 1) == subproof(at + 1, tree, True)


@pytest.mark.parametrize("size", range(9))
def test_published_roots(size: int) -> None:
    assert root(LEAVES[:size]).hex() == ROOTS[size]


@pytest.mark.parametrize(("index", "size", "nodes"), INCLUSION)
def test_published_inclusion_proofs(index: int, size: int, nodes: list[str]) -> None:
    proof = inclusion_proof(LEAVES[:size], index)
    assert [node.hex() for node in proof] == nodes
    verify_inclusion(proof, leaf=LEAVES[index], index=index, size=size, root_hash=bytes.fromhex(ROOTS[size]))


@pytest.mark.parametrize(("old", "new", "nodes"), CONSISTENCY)
def test_published_consistency_proofs(old: int, new: int, nodes: list[str]) -> None:
    proof = consistency_proof(LEAVES[:new], old)
    assert [node.hex() for node in proof] == nodes
    old_root, new_root = bytes.fromhex(ROOTS[old]), bytes.fromhex(ROOTS[new])
    verify_consistency(proof, old_size=old, old_root=old_root, new_size=new, new_root=new_root)


def test_another_library_agrees() -> None:
    theirs = InmemoryTree(algorithm="sha256")
    theirs.append_entries(b"entry %d" % number for number in range(70))
    tree = leaves(70)
    for size in range(1, 71):
        assert root(tree[:size]) == theirs.get_root(size)
        for index in range(size):
            # It counts leaves from 1, and its path begins with the leaf itself.
            assert [tree[index], *inclusion_proof(tree[:size], index)] == theirs.prove_inclusion(index + 1, size).path


def test_a_frontier_knows_the_root_of_every_size() -> None:
    frontier, tree = Frontier(), leaves(130)
    assert frontier.root() == EMPTY_ROOT
    for size, leaf in enumerate(tree, start=1):
        frontier = frontier.append(leaf)
        assert frontier.size == size
        assert len(frontier.peaks) == size.bit_count()
        assert frontier.root() == root(tree[:size])


def test_a_feed_of_a_hundred_thousand() -> None:
    tree, frontier = leaves(100_000), Frontier()
    for leaf in tree:
        frontier = frontier.append(leaf)
    assert frontier.root() == root(tree)
    for at in (0, 65_535, 65_536, 99_999):
        included, extended = inclusion_proof(tree, at), consistency_proof(tree, at)
        verify_inclusion(included, leaf=tree[at], index=at, size=100_000, root_hash=frontier.root())
        verify_consistency(extended, old_size=at, old_root=root(tree[:at]), new_size=100_000, new_root=frontier.root())


@settings(deadline=None)  # a busy machine is no failure
@given(sizes, st.data())
def test_every_leaf_is_proved_and_any_flipped_bit_found(size: int, data: st.DataObject) -> None:
    tree = leaves(size)
    index = data.draw(st.integers(0, size - 1))
    parts = [tree[index], root(tree), *inclusion_proof(tree, index)]

    def verify() -> None:
        leaf, root_hash, *nodes = parts
        verify_inclusion(nodes, leaf=leaf, index=index, size=size, root_hash=root_hash)

    verify()
    at = data.draw(st.integers(0, len(parts) - 1))
    parts[at] = flipped(parts[at], data.draw(bits))
    with pytest.raises(BadStatement):
        verify()


@settings(deadline=None)  # a busy machine is no failure
@given(sizes, st.data())
def test_every_tree_extends_every_older_one_and_any_flipped_bit_is_found(size: int, data: st.DataObject) -> None:
    tree = leaves(size)
    old_size = data.draw(st.integers(0, size))
    parts = [root(tree[:old_size]), root(tree), *consistency_proof(tree, old_size)]

    def verify() -> None:
        old_root, new_root, *nodes = parts
        verify_consistency(nodes, old_size=old_size, old_root=old_root, new_size=size, new_root=new_root)

    verify()
    # Every tree extends the empty one, so of that a proof depends on nothing but the old root.
    at = data.draw(st.integers(0, len(parts) - 1 if old_size else 0))
    parts[at] = flipped(parts[at], data.draw(bits))
    with pytest.raises(BadStatement):
        verify()


def test_a_path_proves_no_other_index() -> None:
    for size in range(1, 20):
        tree = leaves(size)
        for index in range(size):
            nodes = inclusion_proof(tree, index)
            for other in set(range(size)) - {index}:
                with pytest.raises(BadStatement):
                    verify_inclusion(nodes, leaf=tree[index], index=other, size=size, root_hash=root(tree))


@settings(deadline=None)  # a busy machine is no failure
@given(sizes, st.data())
def test_a_changed_past_is_not_extended(size: int, data: st.DataObject) -> None:
    tree = leaves(size)
    old_size = data.draw(st.integers(1, size))
    rewritten = list(tree)
    rewritten[data.draw(st.integers(0, old_size - 1))] = leaf_hash(b"something else")
    with pytest.raises(BadStatement):
        verify_consistency(
            consistency_proof(rewritten, old_size),
            old_size=old_size,
            old_root=root(tree[:old_size]),
            new_size=size,
            new_root=root(rewritten),
        )


@pytest.mark.parametrize("added", [[], [EMPTY_ROOT], [LEAVES[0]] * 5, [b""], [EMPTY_ROOT] * 5000])
@pytest.mark.parametrize("in_front", [True, False])
def test_paths_of_another_length(added: list[bytes], in_front: bool) -> None:
    included, extended = inclusion_proof(LEAVES, 5), consistency_proof(LEAVES, 6)
    for nodes in (included, extended):
        nodes[:] = added + nodes if in_front else nodes + added
    if not added:
        del included[-1], extended[-1]
    with pytest.raises(BadStatement):
        verify_inclusion(included, leaf=LEAVES[5], index=5, size=8, root_hash=root(LEAVES))
    with pytest.raises(BadStatement):
        verify_consistency(extended, old_size=6, old_root=root(LEAVES[:6]), new_size=8, new_root=root(LEAVES))


def test_a_root_above_the_real_one_proves_nothing() -> None:
    one, above = LEAVES[0], node_hash(LEAVES[1], LEAVES[0])
    with pytest.raises(BadStatement, match="too long"):
        verify_inclusion([LEAVES[1]], leaf=one, index=0, size=1, root_hash=above)
    below = node_hash(LEAVES[0], LEAVES[1])
    with pytest.raises(BadStatement, match="too short"):
        verify_inclusion([], leaf=below, index=0, size=2, root_hash=below)


def test_positions_outside_of_any_tree() -> None:
    for index, size in ((-1, 1), (0, 0), (1, 1), (0, -1), (-2, -1), (9, 8), (10**5000, 1), (0, 10**5000)):
        with pytest.raises(BadStatement, match="does not lie within the tree"):
            verify_inclusion([], leaf=LEAVES[0], index=index, size=size, root_hash=LEAVES[0])


def test_sizes_that_no_two_trees_have() -> None:
    for old, new in ((-1, 1), (2, 1), (1, -1), (-1, -1), (1, 10**5000), (10**5000, 10**5000)):
        with pytest.raises(BadStatement, match="out of range"):
            verify_consistency([], old_size=old, old_root=LEAVES[0], new_size=new, new_root=LEAVES[0])


@pytest.mark.parametrize(
    ("nodes", "old", "old_root", "new", "new_root"),
    [
        ([], 0, LEAVES[0], 1, LEAVES[0]),
        ([], 0, EMPTY_ROOT, 0, LEAVES[0]),
        ([], 1, LEAVES[0], 1, LEAVES[1]),
        ([LEAVES[0]], 0, EMPTY_ROOT, 1, LEAVES[0]),
        ([LEAVES[0]], 1, LEAVES[0], 1, LEAVES[0]),
        ([], 1, LEAVES[0], 2, LEAVES[0]),
        ([], 3, LEAVES[0], 4, LEAVES[0]),
    ],
)
def test_trees_that_need_no_path_and_paths_that_are_missing(
    nodes: list[bytes], old: int, old_root: bytes, new: int, new_root: bytes
) -> None:
    with pytest.raises(BadStatement):
        verify_consistency(nodes, old_size=old, old_root=old_root, new_size=new, new_root=new_root)


def test_hashes_of_another_length() -> None:
    for hashes in ((b"", LEAVES[0]), (LEAVES[0], b""), (LEAVES[0] + b"\x00", LEAVES[0])):
        with pytest.raises(BadStatement, match="32 bytes"):
            verify_inclusion([], leaf=hashes[0], index=0, size=1, root_hash=hashes[1])
        with pytest.raises(BadStatement, match="32 bytes"):
            verify_consistency([], old_size=1, old_root=hashes[0], new_size=1, new_root=hashes[1])


@given(
    st.lists(st.binary(min_size=32, max_size=32), max_size=80),
    st.integers(0, TREE_SIZE_MAX),
    st.integers(0, TREE_SIZE_MAX),
)
def test_any_path_is_refused(nodes: list[bytes], one: int, other: int) -> None:
    with pytest.raises(BadStatement):
        verify_inclusion(nodes, leaf=LEAVES[0], index=one, size=other, root_hash=EMPTY_ROOT)
    with pytest.raises(BadStatement):
        verify_consistency(nodes, old_size=one, old_root=LEAVES[0], new_size=other, new_root=LEAVES[1])


def test_paths_may_be_as_long_as_the_largest_perfect_tree_needs() -> None:
    peaks = [LEAVES[0]]  # by level; all leaves are one, so that such a tree can be hashed
    for _ in range(TREE_SIZE_MAX.bit_length() - 1):
        peaks.append(node_hash(peaks[-1], peaks[-1]))
    *nodes, top = peaks
    verify_inclusion(nodes, leaf=LEAVES[0], index=0, size=2 ** len(nodes), root_hash=top)
    three = node_hash(peaks[1], peaks[0])
    assert len([peaks[0], *nodes]) < PATH_NODES_MAX
    verify_consistency([peaks[0], *nodes], old_size=3, old_root=three, new_size=2 ** len(nodes), new_root=top)


def test_provers_refuse_what_makes_no_sense() -> None:
    for index in (-1, 8):
        with pytest.raises(ValueError, match="no leaf"):
            inclusion_proof(LEAVES, index)
    for size in (-1, 9):
        with pytest.raises(ValueError, match="does not begin"):
            consistency_proof(LEAVES, size)
    with pytest.raises(ValueError, match="32 bytes"):
        root([b"a payload, not its hash"])
    with pytest.raises(ValueError, match="32 bytes"):
        Frontier().append(b"a payload, not its hash")
