"""Which documents say nearly the same: MinHash signatures, their bands, and the groups that follow.

The rules, in the order in which they apply:

1. A document is folded (runs of white space to one space, ASCII to lower case), so that re-wrapped and re-indented
   copies are alike, and seen as the set of its *shingles*: every `SHINGLE_BYTES` bytes in a row. Two documents are as
   similar as the Jaccard index of these sets says: shingles in common ÷ shingles in either.
2. Its *signature* is `BINS` numbers, of which two documents have an expected share in common that is their similarity.
   One hash of each shingle picks a bin and competes there for the minimum (one permutation hashing: Li, Owen and Zhang,
   2012). An empty bin takes the minimum of the first filled one in an order that is fixed for each bin (optimal
   densification: Shrivastava, 2017).
3. Documents that agree in a whole *band* of `BAND_BINS` bins are compared by their signatures; those that agree in a
   share of `SIMILARITY` or more are linked. Of many in one band only some are compared with all, so the cost is
   linear in the documents, not quadratic.
4. A group is what hangs together by links, however many: of a chain of versions the first and the last may differ.

What it guarantees. A link needs `SIMILARITY` of 128 bins, so a pair of similarity 0.85 is linked with probability
above 0.995, one of 0.75 with about one half, one of 0.6 with about 0.0003 (binomial; the bands miss less than 1e-4
of the pairs above 0.7). It is about wholes: an excerpt within a longer text, a translation and a paraphrase are not
similar. Below `SHINGLE_BYTES` bytes only equal documents are.

The groups are part of a packed corpus, so nothing here may change with a library's version: this is why these lines
stand in for a MinHash library. The result depends neither on the machine nor on the order of the documents. *Pure.*
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

SHINGLE_BYTES = 16  # a power of two, for the doubling in `_shingle_hashes`
BINS = 128
BAND_BINS = 4  # of 16 bits each: a band is one 64-bit number
SIMILARITY = 0.75  # between the 0.7 and 0.8 of published language-model corpora
SIGNATURE_BYTES = 2 * BINS
BATCH_BYTES = 2**18  # of text at once; the arrays take about 60 times as much
COMPARED_AT_ONCE = 2**15  # pairs of signatures: 16 MiB
ROUNDS = 8  # of comparing the members of one band with one of them
FEW_DOCUMENTS = 2**14  # in one batch

_EMPTY = np.uint64(2**64 - 1)
_FOLD = np.arange(256, dtype=np.uint8)
_FOLD[list(b"\t\n\v\f\r")] = ord(" ")
_FOLD[ord("A") : ord("Z") + 1] += 32


def _mix(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): every bit of the result depends on every bit."""
    mixed = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


_OF_BYTE = _mix(np.arange(1, 257, dtype=np.uint64))  # (256,) a random number for each byte
_ORDERS = np.argsort(_mix(np.arange(10_000, 10_000 + BINS * BINS, dtype=np.uint64)).reshape(BINS, BINS), axis=1)


def signature_batches(texts: Iterable[bytes]) -> Iterator[NDArray[np.uint16]]:
    """Signatures of the texts in their order, (batch, BINS) at a time; no text may be empty."""
    batch: list[bytes] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_BYTES or len(batch) >= FEW_DOCUMENTS:
            yield _signatures(batch)
            batch, size = [], 0
    if batch:
        yield _signatures(batch)


def _signatures(texts: list[bytes]) -> NDArray[np.uint16]:
    """(n, BINS) of n texts."""
    hashes, owners = _shingle_hashes(texts)
    lowest = np.full(len(texts) * BINS, _EMPTY)
    np.minimum.at(lowest, owners * BINS + (hashes >> np.uint64(57)).astype(np.int64), hashes)
    minima = lowest.reshape(len(texts), BINS)
    filled = minima != _EMPTY
    sparse = np.flatnonzero(~filled.all(axis=1))  # documents with an empty bin, fewer in each turn
    for turn in range(BINS):
        if not sparse.size:
            break
        donors = _ORDERS[:, turn]
        take = (minima[sparse] == _EMPTY) & filled[sparse][:, donors]  # a donor has its own minimum, not a lent one
        minima[sparse] = np.where(take, minima[sparse][:, donors], minima[sparse])
        sparse = sparse[(minima[sparse] == _EMPTY).any(axis=1)]
    return minima.astype(np.uint16)  # the low 16 of a minimum's 57 random bits


def _shingle_hashes(texts: list[bytes]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The hash of each shingle of the folded texts, and the index of its text: (m,), (m,).

    A text is padded, so that its last bytes begin shingles too and a short text has as many as it has bytes.
    """
    padding = b"\0" * (SHINGLE_BYTES - 1)
    joined = _FOLD[np.frombuffer(b"".join(text + padding for text in texts), dtype=np.uint8)]
    lengths = np.array([len(text) for text in texts])
    owners = np.repeat(np.arange(len(texts)), lengths + len(padding))
    space = joined == ord(" ")
    kept = np.ones(len(joined), dtype=bool)
    kept[1:] = ~(space[1:] & space[:-1])  # padding lies between two texts, so a run never spans them
    joined, owners = joined[kept], owners[kept]
    hashes = _OF_BYTE[joined]
    width = 1
    multiplier = np.uint64(0x9E3779B97F4A7C15)
    while width < SHINGLE_BYTES:  # of twice the width: the hash of the left half, times a constant, plus the right's
        hashes = hashes[:-width] * multiplier + hashes[width:]
        multiplier = np.uint64(int(multiplier) ** 2 % 2**64)
        width *= 2
    inside = joined[: len(hashes)] != 0  # shingles that begin in the padding (or at a NUL) say nothing
    starts = np.flatnonzero(inside)
    return _mix(hashes[starts]), owners[starts]


def groups(signatures: NDArray[np.uint16]) -> NDArray[np.uint32]:
    """For each of n signatures (n, BINS) the lowest index in its group: (n,).

    Memory beyond the signatures, which may be a file's: about 60 bytes a document.
    """
    count = len(signatures)
    bands = signatures.view(np.uint64)  # (n, BINS / BAND_BINS)
    labels = np.arange(count)
    content = np.zeros(count, dtype=np.uint64)  # a hash of the signature: an order that is not that of the documents
    for band in range(bands.shape[1]):
        content = _mix(content ^ bands[:, band])
    for band in range(bands.shape[1]):
        keys = np.ascontiguousarray(bands[:, band])
        order = np.argsort(keys, kind="stable")
        equal = keys[order[1:]] == keys[order[:-1]]
        shared = order[np.append(equal, False) | np.insert(equal, 0, False)]
        shared = shared[np.lexsort((content[shared], keys[shared]))]
        _link(signatures, keys, shared, labels)
    return labels.astype(np.uint32)


def _link(
    signatures: NDArray[np.uint16], keys: NDArray[np.uint64], members: NDArray[np.int64], labels: NDArray[np.int64]
) -> None:
    """Merge the labels of similar `members`, which are sorted by key.

    In each round the first member of each key is compared with all others of that key, and those that are not similar
    to it go on to the next.
    """
    for _ in range(ROUNDS):
        if len(members) < 2:
            return
        first = np.insert(keys[members[1:]] != keys[members[:-1]], 0, True)
        centres = members[np.maximum.accumulate(np.where(first, np.arange(len(members)), 0))]
        open_pairs = labels[members] != labels[centres]
        members, centres = members[open_pairs], centres[open_pairs]
        similar = _similar(signatures, members, centres)
        _merge(labels, members[similar], centres[similar])
        members = members[~similar]


def _similar(signatures: NDArray[np.uint16], ones: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each pair of documents agrees in enough bins: (pairs,)."""
    result = np.zeros(len(ones), dtype=bool)
    for start in range(0, len(ones), COMPARED_AT_ONCE):
        part = slice(start, start + COMPARED_AT_ONCE)
        agreeing = (signatures[ones[part]] == signatures[others[part]]).sum(axis=1)
        result[part] = agreeing >= SIMILARITY * BINS
    return result


def _merge(labels: NDArray[np.int64], ones: NDArray[np.int64], others: NDArray[np.int64]) -> None:
    """Give linked documents, and all that hang on them, one label: the lowest."""
    while len(ones):
        left, right = labels[ones], labels[others]
        if np.array_equal(left, right):
            return
        np.minimum.at(labels, np.maximum(left, right), np.minimum(left, right))
        while not np.array_equal(labels, labels[labels]):
            labels[:] = labels[labels]
