"""Near duplicates: what is grouped, what is not, and that a group is on one side of every split."""

import hashlib
import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.corpus import Corpus, Document, divide
from trainer.corpus.cutting import cut
from trainer.corpus.similarity import BINS, ROUNDS, groups, signature_batches


def lines(count: int, seed: int) -> list[bytes]:
    """Lines of 64 bytes that share nothing with others."""
    rng = random.Random(seed)
    return [rng.randbytes(31).hex().encode() + b".\n" for _ in range(count)]


def corpus_of(*texts: bytes) -> Corpus:
    return Corpus(tuple(Document(f"{index}", text) for index, text in enumerate(texts)))


def linked(*texts: bytes) -> bool:
    return len(set(corpus_of(*texts).groups.tolist())) == 1


def rewrapped(text: bytes) -> bytes:
    return text.replace(b"\n", b"\n\n    ")


def upper(text: bytes) -> bytes:
    return text.upper()


def with_a_line_changed(text: bytes) -> bytes:
    parts = text.splitlines(keepends=True)
    parts[len(parts) // 2] = b"Quite another line.\n"
    return b"".join(parts)


def with_an_end(text: bytes) -> bytes:
    return text + b"".join(lines(4, 77))


@pytest.mark.parametrize("change", [rewrapped, upper, with_a_line_changed, with_an_end])
@pytest.mark.parametrize("count", [50, 250])
def test_a_copy_that_was_changed_a_little_is_a_near_duplicate(change: Callable[[bytes], bytes], count: int) -> None:
    for seed in range(20):
        text = b"".join(lines(count, seed))
        assert change(text) != text
        assert linked(text, change(text))


def test_unlike_texts_are_no_near_duplicates() -> None:
    texts = [b"".join(lines(100, seed)) for seed in range(200)]
    assert len(set(corpus_of(*texts).groups.tolist())) == 200


def test_short_texts_are_near_duplicates_only_if_equal() -> None:
    assert corpus_of(b"a", b"b", b"a", b"ab", b"record 17\n", b"record 18\n").groups.tolist() == [0, 1, 0, 3, 4, 5]


def with_similarity(similarity: float, seed: int) -> tuple[bytes, bytes]:
    """Two texts whose shingles have about this Jaccard index: lines in common ÷ lines in either."""
    common = round(similarity * 240)
    own = (240 - common) // 2
    shared, mine, yours = lines(common, 3 * seed), lines(own, 3 * seed + 1), lines(own, 3 * seed + 2)
    return b"".join(shared + mine), b"".join(shared + yours)


@pytest.mark.parametrize(("similarity", "low", "high"), [(0.9, 60, 60), (0.85, 58, 60), (0.6, 0, 2), (0.4, 0, 0)])
def test_the_documented_probabilities_hold(similarity: float, low: int, high: int) -> None:
    found = sum(linked(*with_similarity(similarity, seed)) for seed in range(60))
    assert low <= found <= high


def test_signatures_agree_in_the_share_that_is_the_similarity() -> None:
    for similarity in (0.2, 0.5, 0.8):
        pairs = [text for seed in range(40) for text in with_similarity(similarity, seed)]
        signatures = np.concatenate(list(signature_batches(pairs)))
        mean = (signatures[::2] == signatures[1::2]).mean()
        assert abs(mean - similarity) < 4 * (similarity * (1 - similarity) / (40 * BINS)) ** 0.5 + 0.01


def test_short_texts_have_signatures_of_the_right_similarity_as_well() -> None:
    """Most of their bins are empty, and filled from others."""
    rng = random.Random(4)
    found = []
    for _ in range(300):
        start, one, other = (rng.randbytes(n).hex().encode() for n in (30, 10, 10))
        signatures = np.concatenate(list(signature_batches([start + one, start + other])))
        found.append((signatures[0] == signatures[1]).mean())
    shared, own = 60 - 15, 15 + 20  # shingles that end before the difference, and the others
    assert abs(np.mean(found) - shared / (shared + 2 * own)) < 0.03


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_groups_do_not_depend_on_the_order(rng: random.Random) -> None:
    texts = [text for seed in range(12) for text in with_similarity(0.75, seed)]
    texts += [with_a_line_changed(text) for text in texts[:6]]
    order = list(range(len(texts)))
    rng.shuffle(order)
    before, after = corpus_of(*texts), corpus_of(*(texts[index] for index in order))

    def members(corpus: Corpus) -> set[frozenset[bytes]]:
        sets: dict[int, set[bytes]] = {}
        for document, group in zip(corpus.documents, corpus.groups.tolist(), strict=True):
            sets.setdefault(group, set()).add(document.text)
        return {frozenset(one) for one in sets.values()}

    assert members(before) == members(after)
    ids, group_of = before.group_ids
    again, group_again = after.group_ids
    assert [again[group_again[order.index(n)]].tobytes() for n in range(len(texts))] == [
        ids[group_of[n]].tobytes() for n in range(len(texts))
    ]


def test_signatures_and_groups_are_the_same_on_every_machine() -> None:
    """They are part of a corpus' digest. If this fails, new corpora will be told apart from old ones."""
    texts = [b"".join(lines(n, n)) for n in (1, 20, 300)] + [b"short", b" \n", b"\0\0", "schön".encode()]
    signatures = np.concatenate(list(signature_batches(texts)))
    found = hashlib.sha256(signatures.astype("<u2").tobytes()).hexdigest()
    assert found == "7c9557ab07a71b7079685c404a1ae1c28df70bcd61a64f02461f567aaa2381cf"


def test_a_signature_does_not_depend_on_what_is_in_the_batch() -> None:
    texts = [b"".join(lines(n, n)) for n in range(1, 40)]
    together = np.concatenate(list(signature_batches(texts)))
    alone = np.concatenate([one for text in texts for one in signature_batches([text])])
    assert (together == alone).all()


def test_many_copies_and_many_that_share_a_band_are_told_apart() -> None:
    """More unlike documents in one band than there are rounds must neither be merged nor hide the copies in it."""
    rng = np.random.default_rng(1)
    kinds = rng.integers(0, 2**16, (4 * ROUNDS, BINS), dtype=np.uint16)
    kinds[:, :4] = 7
    copies = np.repeat(kinds, 50, axis=0)
    assert len(np.unique(groups(copies))) == 4 * ROUNDS
    assert (groups(copies) == np.repeat(np.arange(4 * ROUNDS) * 50, 50)).all()


def test_a_chain_of_versions_is_one_group() -> None:
    versions = [b"".join(lines(200, 1))]
    for number in range(30):
        parts = versions[-1].splitlines(keepends=True)
        versions.append(b"".join([*parts[8:], *lines(8, 100 + number)]))
    assert not linked(versions[0], versions[-1])
    assert linked(*versions)
    assert corpus_of(*versions[::-1]).groups.tolist() == [0] * 31


def test_near_duplicates_are_on_one_side_of_every_split() -> None:
    originals = [b"".join(lines(60, seed)) for seed in range(40)]
    corpus = corpus_of(*originals, *map(with_a_line_changed, originals), *map(rewrapped, originals))
    both = 0
    for salt in range(20):
        training, validation = (set(side.tolist()) for side in divide(corpus, bytes([salt]), 0.3))
        for one in range(40):
            assert {one, one + 40, one + 80} <= training or {one, one + 40, one + 80} <= validation
        both += bool(training) and bool(validation)
    assert both == 20


def test_pieces_of_one_book_are_on_both_sides_and_share_nothing() -> None:
    text = b"".join(lines(20_000, 3))
    corpus = Corpus(tuple(cut([("book", [text])])))
    assert b"".join(document.text for document in corpus.documents) == text  # so no byte is in two
    assert len(set(corpus.groups.tolist())) == len(corpus.documents)
    assert all(len(side) > 3 for side in divide(corpus, b"salt", 0.1))


def test_two_versions_of_a_long_file_are_cut_alike_and_grouped() -> None:
    text = b"".join(lines(15_000, 5))
    inserted = b"".join(lines(40, 6))
    changed = inserted + text[:400_000] + inserted + text[400_000:]
    corpus = Corpus(tuple(cut([("one", [text]), ("two", [changed])])))
    first = {document.text for document in corpus.documents if document.name.startswith("one#")}
    second = {document.text for document in corpus.documents if document.name.startswith("two#")}
    assert len(first) > 60
    assert len(first & second) > 0.9 * len(first)
