"""The prefix-only audit: whether a score is what the program predicts from the tokens before each target.

Logits for a whole row can be computed from the very tokens that they should predict. So a second fresh sandbox sees
*prefixes* only: of each row the tokens before one cut, and nothing after it. What it predicts there is what the program
can know; the audit compares the cost of the target, in bits, with the cost that the scored logits gave it. The order
of things is what makes it sound:

1. The first sandbox, which saw whole rows, has answered and is dead. Its logits are scored and cannot change.
2. Only then are the cuts drawn, with randomness that no program has seen, one for each row: a second, longer prefix of
   a row would show what the first one has to predict.
3. The second sandbox is as new as the first was, and nothing that the first could write reaches it. It may know that
   it is the second: it still has to give the probability that the first gave, without the token that the first saw.

Most cuts are *uniform* over all positions. The others are *targeted*: they fall where a trusted n-gram model of the
training text is surprised and the program is not, which is where a program that looks at the answer shows most.

What is compared is the target's cost, bits = -log2 P(target), and not the whole distribution, because the score is the
sum of just these: at a position where it agrees the program has gained nothing, whatever else differs. Rounding
differs between batches of other shapes, so there is a tolerance for a single difference, and a second test for what
many small differences of one sign would gain. docs/audit.md has both measured, and what they detect.

Nothing here knows processes or torch. Randomness is an argument.
"""

import math
import random
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ledger.predicates import Audit
from trainer.evaluate import Tokens

TARGETED_ROWS_MAX = 128
UNIFORM_LENGTHS_MAX = 128  # different lengths of prefix; each costs one more batch, and a compiler one more shape
FLOAT32_TOLERANCE_BITS = 1e-3  # of one cut, for programs that compute in float32 …
COARSE_TOLERANCE_BITS = 0.25  # … and for others, bfloat16 above all; both for targets that cost …
TOLERANCE_FULL_BITS = 8.0  # … up to this many bits; in proportion where they cost more
MEAN_TOLERANCE_BITS = 1e-5  # gain of the mean over uniform cuts; and, besides …
MEAN_TOLERANCE_ERRORS = 4.0  # … this many of its standard errors
EVIDENCE_CUTS_MAX = 3

NGRAM_ORDER = 5  # tokens of context
NGRAM_TOKENS_MAX = 2**21  # of training text that are counted
NGRAM_BUCKETS_BITS = 21
NGRAM_PRIOR_COUNT = 4.0  # weight of the shorter context's prediction, in observations

_RULE = (
    "a prediction may depend on the tokens before it in its own row, and on nothing else. Besides looking ahead, these "
    "break the rule: state kept between calls, mixing the rows of a batch (batch norm in training mode, capacity "
    "limits of experts), random numbers during evaluation, and a result that depends on the length of the input"
)
_COARSE = re.compile(rb"float16|\.half\b|autocast|float8|\bq?int8|quantiz|tf32|matmul_precision", re.IGNORECASE)
_HASH = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd: Knuth's multiplicative hashing


class AuditFailed(Exception):
    """The scored logits are not what the program predicts from prefixes; the message holds the evidence."""


class Cut(NamedTuple):
    """The first `length` tokens of `row`, whose target is the token after them."""

    row: int
    length: int  # 1 … seq_len
    targeted: bool


def draw(bits: NDArray[np.float64], surprise: NDArray[np.float32], rng: random.Random) -> list[Cut]:
    """One cut for each row, in the order in which the prefixes are to be sent: grouped by length, shuffled otherwise.

    `bits` (N, T) is what the program's logits cost at each target, `surprise` (N, T) what the n-gram model pays there.
    A targeted cut takes position i of its row with probability proportional to 2 ** (surprise - bits) at i.
    """
    rows, seq_len = bits.shape
    suspicion = surprise - bits  # (N, T)
    peaks = suspicion.max(axis=1, keepdims=True)
    ranked = np.argsort(-peaks[:, 0], kind="stable").tolist()
    targeted = set(ranked[: min(rows // 2, TARGETED_ROWS_MAX)])
    every = range(1, seq_len + 1)
    lengths = every if seq_len <= UNIFORM_LENGTHS_MAX else rng.sample(every, UNIFORM_LENGTHS_MAX)
    groups: dict[int, list[Cut]] = {}
    for row in range(rows):
        if row in targeted:
            length = rng.choices(every, weights=np.exp2(suspicion[row] - peaks[row]).tolist())[0]
        else:
            length = rng.choice(lengths)
        groups.setdefault(length, []).append(Cut(row, length, row in targeted))
    for group in groups.values():
        rng.shuffle(group)
    order = list(groups)
    rng.shuffle(order)
    return [cut for length in order for cut in groups[length]]


def prefixes(rows: Tokens, cuts: Sequence[Cut]) -> bytes:
    """What the second sandbox is shown: the prefixes end to end, in the order of `cuts`."""
    return b"".join(rows[cut.row, : cut.length].tobytes() for cut in cuts)


def targets(rows: Tokens, cuts: Sequence[Cut]) -> Tokens:
    """The token after each prefix, (n,)."""
    return rows[[cut.row for cut in cuts], [cut.length for cut in cuts]]


def tolerance_bits(program: bytes, device: str) -> float:
    """The tolerance of one cut for a program.

    Who computes in less than float32 has to name it somewhere in the text; a program that names it for no reason is
    held to the coarse tolerance only, which everybody can see. On a GPU some float32 operations use TF32 unasked.
    """
    return COARSE_TOLERANCE_BITS if device != "cpu" or _COARSE.search(program) else FLOAT32_TOLERANCE_BITS


def judge(bits: NDArray[np.float64], cuts: Sequence[Cut], prefix_bits: NDArray[np.float64], tolerance: float) -> Audit:
    """What the audit found, if it found nothing wrong: `prefix_bits` (n,) are the costs at `cuts` from prefixes alone.

    Raises `AuditFailed`.
    """
    row_bits = bits[[cut.row for cut in cuts], [cut.length - 1 for cut in cuts]]  # (n,)
    gains = prefix_bits - row_bits  # (n,), positive where the whole row helped
    uniform = gains[[not cut.targeted for cut in cuts]]
    # A diverged model has logits in the thousands and rounding to match; a program that peeks has cheap targets.
    allowed = tolerance * np.maximum(1.0, np.minimum(row_bits, prefix_bits) / TOLERANCE_FULL_BITS)
    off = np.flatnonzero(np.abs(gains) > allowed)
    if len(off):
        worst = off[np.argsort(-np.abs(gains[off]), kind="stable")][:EVIDENCE_CUTS_MAX]
        shown = "\n".join(_evidence(cuts[i], row_bits[i], prefix_bits[i]) for i in worst.tolist())
        raise AuditFailed(
            f"{len(off)} of {len(cuts)} predictions differ by more than {tolerance} bits from what the program "
            f"predicts when it is shown only what comes before:\n{shown}\n{_RULE}"
        )
    mean = math.fsum(uniform.tolist()) / len(uniform)
    error = float(np.std(uniform)) / math.sqrt(len(uniform))
    if mean > MEAN_TOLERANCE_BITS + MEAN_TOLERANCE_ERRORS * error:
        raise AuditFailed(
            f"over {len(uniform)} uniform cuts the whole row saves {mean:.2g} bits of each prediction, with a standard "
            f"error of {error:.2g}, against being shown only what comes before; {_RULE}"
        )
    return Audit(
        cuts=len(cuts),
        targeted=len(cuts) - len(uniform),
        tolerance_bits=tolerance,
        largest_bits=float(np.abs(gains).max()),
        mean_bits=mean,
    )


def _evidence(cut: Cut, row_bits: float, prefix_bits: float) -> str:
    kind = "targeted" if cut.targeted else "uniform"
    return (
        f"row {cut.row}, after {cut.length} tokens ({kind}): probability {2**-row_bits:.6g} with the whole row, "
        f"{2**-prefix_bits:.6g} with the prefix"
    )


def ngram_bits(text: Tokens, rows: Tokens, vocab_size: int) -> NDArray[np.float32]:
    """Bits that an n-gram model of the training `text` (n,) pays for each target of `rows` (N, T + 1): (N, T).

    P_k(x | k tokens) = (count(k tokens, x) + a P_{k-1}(x | k-1 tokens)) / (count(k tokens) + a), the Dirichlet prior of
    MacKay and Peto (1995), "A hierarchical Dirichlet language model", from P = 1 / V up to `NGRAM_ORDER`; contexts end
    at the row's start. Counts are kept by hash, so rare contexts may share one: it has to be roughly right, no more.
    """
    text = _sample(text)
    keys, row_keys = text.astype(np.uint64) + np.uint64(1), rows.astype(np.uint64) + np.uint64(1)
    seq_len = rows.shape[1] - 1
    probability = np.full((len(rows), seq_len), 1.0 / vocab_size)
    context, row_context = np.zeros(len(text), np.uint64), np.zeros((len(rows), seq_len + 1), np.uint64)
    for order in range(min(NGRAM_ORDER, len(text) - 1, seq_len) + 1):
        # context[i] stands for the `order` tokens before token i + order; the target is that token.
        nexts, row_nexts = keys[order:], row_keys[:, order:]
        seen = _counts(context)
        joint = _counts(_joined(context, nexts))
        # Position i of a row predicts token i + 1, so it has i + 1 tokens of context: order 0 has one more than needed.
        skip = 1 if order == 0 else 0
        before, after = row_context[:, skip:], row_nexts[:, skip:]
        place = slice(seq_len - before.shape[1], None)
        both, alone = joint[_bucket(_joined(before, after))], seen[_bucket(before)]
        probability[:, place] = (both + NGRAM_PRIOR_COUNT * probability[:, place]) / (alone + NGRAM_PRIOR_COUNT)
        context = _joined(context, nexts)[:-1]
        row_context = _joined(row_context, row_nexts)[:, :-1]
    return -np.log2(probability).astype(np.float32)


def _sample(text: Tokens) -> Tokens:
    """The text, or of a long one 64 blocks at equal distances."""
    if len(text) <= NGRAM_TOKENS_MAX:
        return text
    size = NGRAM_TOKENS_MAX // 64
    starts = [block * (len(text) - size) // 63 for block in range(64)]
    return np.concatenate([text[start : start + size] for start in starts])


def _joined(context: NDArray[np.uint64], nexts: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A hash of a context with one more token at its end; wraps around."""
    joined: NDArray[np.uint64] = (context + nexts) * _HASH
    return joined ^ (joined >> np.uint64(29))


def _bucket(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return (keys * _HASH) >> np.uint64(64 - NGRAM_BUCKETS_BITS)


def _counts(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    return np.bincount(_bucket(keys).astype(np.int64), minlength=2**NGRAM_BUCKETS_BITS)
