"""The metric: bits per byte of validation text, computed by the trusted parent from raw logits.

A row has seq_len + 1 tokens. The model sees the first seq_len and predicts each one's successor, so a row has seq_len
targets. Cross-entropy of a target in nats is log sum exp(logits) - logits[target]; bits per byte is its sum over all
targets / ln 2 / the number of bytes that the targets stand for. With byte tokens each stands for one.

The logits come from an untrusted process as bytes: row after row, float32 little-endian, (seq_len, V) each, in the
order in which the rows were sent. They are read in bounded chunks, must all be finite, and must end where they
should. They need not be normalised: the softmax is taken here. Sums are in float64, and the sum over targets is exact
(Shewchuk's algorithm, `math.fsum`), so that the order of the rows does not show. A failure is an exception and never
a number. This module knows nothing of processes.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ledger.predicates import BPB_MAX

CHUNK_BYTES = 4 * 2**20  # of float32 logits; in float64 with the intermediate arrays about five times that

_LOGIT_BYTES = 4

Tokens = NDArray[np.integer[Any]]
Read = Callable[[int], bytes]  # gives 1 to n bytes, or none at the end


class InvalidLogits(Exception):
    """The model's answer cannot be scored: the trial is void."""


class MissingLogits(Exception):
    """The answer ended early: the evaluation process failed."""


class Score(NamedTuple):
    bits_per_byte: float
    evaluated_bytes: int  # that the targets stand for


def inputs(rows: Tokens, order: Sequence[int]) -> bytes:
    """What the model is shown: the rows (N, seq_len + 1) in the given order, each without its last token."""
    return rows[np.asarray(order), :-1].tobytes()


def row_nats(rows: Tokens, order: Sequence[int], vocab_size: int, read: Read) -> NDArray[np.float64]:
    """Nats of each target, (N, seq_len), rows in their own order; `read` gives the logits in the order of `inputs`.

    Raises as `target_nats` does.
    """
    shuffled = np.asarray(order)
    nats = np.empty((len(rows), rows.shape[1] - 1))
    nats[shuffled] = target_nats(rows[shuffled, 1:].ravel(), vocab_size, read).reshape(nats.shape)
    return nats


def target_nats(targets: Tokens, vocab_size: int, read: Read) -> NDArray[np.float64]:
    """Nats of each of `targets` (n,), whose logits `read` gives, (V,) each.

    Raises `MissingLogits` where they end early, `InvalidLogits` where one is not finite or where they do not end.
    """
    nats = np.empty(len(targets))
    position_bytes = vocab_size * _LOGIT_BYTES
    step = max(1, CHUNK_BYTES // position_bytes)
    for start in range(0, len(targets), step):
        chunk = targets[start : start + step]
        data = _exactly(len(chunk) * position_bytes, read, start * position_bytes, len(targets) * position_bytes)
        logits = np.frombuffer(data, dtype="<f4").reshape(len(chunk), vocab_size)  # (positions, V)
        nats[start : start + len(chunk)] = _nats(logits, chunk)
    if read(1):
        raise InvalidLogits(f"more logits than the {len(targets) * position_bytes} bytes that are needed")
    return nats


def score(nats: NDArray[np.float64], evaluated_bytes: int) -> Score:
    """Bits per byte of targets that cost `nats` and stand for `evaluated_bytes`. Raises `InvalidLogits`."""
    bits_per_byte = math.fsum(nats.ravel().tolist()) / math.log(2) / evaluated_bytes
    if bits_per_byte > BPB_MAX:
        raise InvalidLogits(f"{bits_per_byte:.3g} bits per byte are no score: the limit is {BPB_MAX:.3g}")
    return Score(bits_per_byte, evaluated_bytes)


def _nats(logits: NDArray[np.float32], targets: Tokens) -> NDArray[np.float64]:
    """Cross-entropy of each position in nats: log sum exp(logits) - logits[target]. (positions,)"""
    if not np.isfinite(logits).all():
        raise InvalidLogits("the model gives logits that are not finite")
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    chosen = shifted[np.arange(len(targets)), targets]
    result: NDArray[np.float64] = np.log(np.exp(shifted).sum(axis=1)) - chosen
    return result


def _exactly(size: int, read: Read, before: int, total: int) -> bytearray:
    data = bytearray()
    while len(data) < size:
        piece = read(size - len(data))
        if not piece:
            raise MissingLogits(f"logits end after {before + len(data)} of {total} bytes")
        data += piece
    return data
