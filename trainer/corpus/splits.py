"""Which documents train and which validate, and the rows that are evaluated.

A salt is the key of a hash that assigns groups of near duplicates: who does not know the salt cannot know the split.
*Pure.*
"""

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.corpus.documents import Corpus
from trainer.corpus.errors import CorpusError

SALT_BYTES_MAX = 64  # the longest key that BLAKE2b takes
TRAINING_BYTES_MAX = 256 * 2**20  # an eighth of the memory that a track has by default
VALIDATION_BYTES_MAX = 32 * 2**20  # far more than is evaluated


class Division(NamedTuple):
    """Indices of the documents on each side, ascending."""

    training: NDArray[np.int64]
    validation: NDArray[np.int64]


def divide(corpus: Corpus, salt: bytes, validation_share: float) -> Division:
    """Assign every document to one side, groups of near duplicates as a whole.

    A group validates if its keyed hash, read as a fraction of one, is below `validation_share`; the share of groups is
    therefore nominal, and the shares of documents and bytes vary with the salt.

    Raises `CorpusError` if one side stays empty, `ValueError` for a salt or share out of range.
    """
    places = _places(corpus, salt, validation_share)
    validates = places < np.uint64(int(validation_share * 2**64))
    division = Division(np.flatnonzero(~validates), np.flatnonzero(validates))
    if not len(division.training) or not len(division.validation):
        side = "validation" if len(division.training) else "training"
        raise CorpusError(
            f"no document of {len(corpus.documents)} falls to {side} at a validation share of {validation_share}: "
            "add more text to the corpus"
        )
    return division


def split(
    corpus: Corpus,
    salt: bytes,
    validation_share: float,
    *,
    training_bytes_max: int = TRAINING_BYTES_MAX,
    validation_bytes_max: int = VALIDATION_BYTES_MAX,
) -> tuple[list[bytes], list[bytes]]:
    """Training texts and validation texts, each in the order of the corpus.

    Of a side with more than its maximum a sample is taken, by the same keyed hash: the same on every machine, and as
    good as at random. Only texts that are returned are read.

    Raises as `divide` does.
    """
    division = divide(corpus, salt, validation_share)
    sides: list[list[bytes]] = []
    for indices, bytes_max in zip(division, (training_bytes_max, validation_bytes_max), strict=True):
        lengths = corpus.lengths[indices]
        if lengths.sum() > bytes_max:
            order = np.argsort(_places(corpus, salt, validation_share)[indices], kind="stable")
            fitting = int(np.searchsorted(np.cumsum(lengths[order]), bytes_max, side="right"))
            indices = np.sort(indices[order[: max(1, fitting)]])
        sides.append([corpus.documents[index].text for index in indices.tolist()])
    return sides[0], sides[1]


def _places(corpus: Corpus, salt: bytes, validation_share: float) -> NDArray[np.uint64]:
    """The keyed hash of each document's group: (n,)."""
    if not 0 < validation_share < 1:
        raise ValueError(f"the validation share is {validation_share}, not between 0 and 1")
    if not 1 <= len(salt) <= SALT_BYTES_MAX:  # an empty key would make BLAKE2b an unkeyed hash
        raise ValueError(f"a salt has 1 to {SALT_BYTES_MAX} bytes, not {len(salt)}")
    ids, group_of = corpus.group_ids
    packed = bytearray()
    for group_id in ids:
        packed += hashlib.blake2b(group_id, key=salt, digest_size=8, person=b"waggle-split-v1").digest()
    return np.frombuffer(packed, dtype=">u8").astype(np.uint64)[group_of]


def validation_rows(texts: list[bytes], seq_len: int, eval_bytes: int) -> list[bytes]:
    """Rows to evaluate: each has `seq_len + 1` bytes, of which all but the first are targets.

    The texts are laid end to end, cut so that no byte is a target twice, and about `eval_bytes / seq_len` of the cuts
    are taken at equal distances; where there is less text, all of them. Raises `ValueError` if there is not one row.
    """
    stream = b"".join(texts)
    available = (len(stream) - 1) // seq_len
    if available < 1:
        raise ValueError(
            f"{len(stream)} bytes of validation text do not fill one row of {seq_len + 1}: add text to the corpus, "
            "raise the validation share or shorten seq_len"
        )
    wanted = min(available, max(1, eval_bytes // seq_len))
    starts = ((2 * row + 1) * available // (2 * wanted) * seq_len for row in range(wanted))
    return [stream[start : start + seq_len + 1] for start in starts]
