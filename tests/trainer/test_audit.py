"""The audit's decisions, without any process: which cuts, what passes, what does not, and how likely it is found."""

import math
import random
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trainer import programs
from trainer.audit import (
    COARSE_TOLERANCE_BITS,
    FLOAT32_TOLERANCE_BITS,
    NGRAM_ORDER,
    NGRAM_PRIOR_COUNT,
    NGRAM_TOKENS_MAX,
    TARGETED_ROWS_MAX,
    UNIFORM_LENGTHS_MAX,
    AuditFailed,
    Cut,
    draw,
    judge,
    ngram_bits,
    prefixes,
    targets,
    tolerance_bits,
)

BASELINE = Path(programs.__file__).with_name("cpu_quick.py")
Bits = NDArray[np.float64]


def honest(rows: int = 512, seq_len: int = 32, seed: int = 1) -> tuple[Bits, NDArray[np.float32]]:
    """Costs of an honest program and surprise of the n-gram model, which go together as costs of text do."""
    generator = np.random.default_rng(seed)
    difficulty = generator.gamma(1.0, 2.5, (rows, seq_len))
    surprise = difficulty * generator.uniform(0.7, 1.6, (rows, seq_len))
    return difficulty, surprise.astype(np.float32)


def at(bits: Bits, cuts: list[Cut]) -> Bits:
    return np.array([bits[cut.row, cut.length - 1] for cut in cuts])


def cheating(bits: Bits, where: NDArray[np.bool_], cost: float = 0.01) -> Bits:
    return np.where(where, np.minimum(bits, cost), bits)


def found(bits: Bits, prefix_bits: Bits, cuts: list[Cut], tolerance: float = FLOAT32_TOLERANCE_BITS) -> bool:
    try:
        judge(bits, cuts, at(prefix_bits, cuts), tolerance)
    except AuditFailed:
        return True
    return False


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(2, 300), st.integers(1, 300), st.integers(0, 2**32))
def test_every_row_is_cut_once_and_prefixes_of_one_length_come_together(rows: int, seq_len: int, seed: int) -> None:
    bits, surprise = honest(rows, seq_len, seed % 97)
    cuts = draw(bits, surprise, random.Random(seed))
    assert sorted(cut.row for cut in cuts) == list(range(rows))
    assert all(1 <= cut.length <= seq_len for cut in cuts)
    lengths = [cut.length for cut in cuts]
    runs = [length for index, length in enumerate(lengths) if index == 0 or lengths[index - 1] != length]
    assert len(runs) == len(set(runs)) <= UNIFORM_LENGTHS_MAX + TARGETED_ROWS_MAX
    assert sum(cut.targeted for cut in cuts) == min(rows // 2, TARGETED_ROWS_MAX)


def test_uniform_cuts_fall_on_every_position_alike() -> None:
    bits, surprise = honest(1024, 200)
    rng = random.Random(2)
    counts = Counter(cut.length for _ in range(40) for cut in draw(bits, surprise, rng) if not cut.targeted)
    total = sum(counts.values())
    assert len(counts) == 200
    assert max(counts.values()) < 2 * total / 200  # in each draw 128 of the 200 lengths occur
    assert abs(sum(length * n for length, n in counts.items()) / total - 100.5) < 5


def test_what_is_shown_ends_before_the_target() -> None:
    rows = np.arange(2 * 5).reshape(2, 5).astype(np.uint8)
    cuts = [Cut(1, 4, True), Cut(0, 1, False)]
    assert prefixes(rows, cuts) == bytes([5, 6, 7, 8, 0])
    assert targets(rows, cuts).tolist() == [9, 1]


def test_an_honest_program_passes_with_what_was_seen() -> None:
    bits, surprise = honest()
    cuts = draw(bits, surprise, random.Random(3))
    noise = np.random.default_rng(4).normal(0, 1e-6, bits.shape)
    audit = judge(bits, cuts, at(bits + noise, cuts), FLOAT32_TOLERANCE_BITS)
    assert (audit.cuts, audit.targeted) == (512, TARGETED_ROWS_MAX)
    assert 1e-6 < audit.largest_bits < 1e-5
    assert abs(audit.mean_bits) < 1e-6


def test_one_prediction_that_is_off_voids_with_its_evidence() -> None:
    bits, surprise = honest()
    cuts = draw(bits, surprise, random.Random(3))
    prefix_bits = at(bits, cuts)
    bits[cuts[7].row, cuts[7].length - 1], prefix_bits[7] = 1.0, 3.0
    with pytest.raises(AuditFailed) as raised:
        judge(bits, cuts, prefix_bits, FLOAT32_TOLERANCE_BITS)
    text = str(raised.value)
    assert text.startswith("1 of 512 predictions differ by more than 0.001 bits")
    assert f"row {cuts[7].row}, after {cuts[7].length} tokens" in text
    assert "probability 0.5 with the whole row, 0.125 with the prefix" in text
    assert "batch norm in training mode" in text


def test_a_prediction_that_is_worse_with_the_whole_row_is_off_as_well() -> None:
    bits, surprise = honest()
    assert found(bits + 1, bits, draw(bits, surprise, random.Random(3)))


def test_rounding_in_bfloat16_passes_and_a_steady_small_gain_does_not() -> None:
    bits, surprise = honest()
    cuts = draw(bits, surprise, random.Random(3))
    noise = np.random.default_rng(4).normal(0, 0.03, bits.shape)
    assert not found(bits, bits + noise, cuts, COARSE_TOLERANCE_BITS)
    assert found(bits, bits + noise + 0.02, cuts, COARSE_TOLERANCE_BITS)
    assert found(bits, bits + 0.0005, cuts, FLOAT32_TOLERANCE_BITS)


def test_a_diverged_model_is_bad_and_not_void() -> None:
    bits, surprise = honest()
    bits *= 1000
    rounding = np.random.default_rng(4).normal(1, 1e-6, bits.shape)
    assert not found(bits, bits * rounding, draw(bits, surprise, random.Random(3)))
    peeked = bits.copy()
    peeked[:, ::7] = 0.1
    assert found(peeked, bits, draw(peeked, surprise, random.Random(3)))


@pytest.mark.parametrize("share", [0.002, 0.01, 0.05])
def test_uniform_cuts_find_a_cheat_as_often_as_stated(share: float) -> None:
    """1 - (1 - p)^n for a cheat at a share p of the positions that targeted cuts know nothing of."""
    bits, surprise = honest(96, 32)
    generator = np.random.default_rng(5)
    uniform = 96 - 96 // 2
    caught = 0
    for trial in range(400):
        scored = cheating(bits, generator.random(bits.shape) < share)
        cuts = [cut for cut in draw(scored, surprise, random.Random(trial)) if not cut.targeted]
        assert len(cuts) == uniform
        # Rows that were too suspicious to be cut uniformly are no longer among these: draw rows anew.
        cuts = [Cut(int(row), cut.length, False) for row, cut in zip(generator.permutation(96), cuts, strict=False)]
        caught += found(scored, bits, cuts)
    expected = 1 - (1 - share) ** uniform
    assert abs(caught / 400 - expected) < 4 * math.sqrt(expected * (1 - expected) / 400) + 0.01


def test_targeted_cuts_find_a_cheat_at_one_position_in_2500() -> None:
    """It looks at the answer just where it would be badly surprised, which is where it gains most."""
    caught_uniform = caught = 0
    for trial in range(50):
        bits, surprise = honest(512, 128, trial)
        worst = bits >= np.quantile(bits, 1 - 0.0004)
        scored = cheating(bits, worst)
        cuts = draw(scored, surprise, random.Random(trial))
        caught += found(scored, bits, cuts)
        caught_uniform += found(scored, bits, [cut for cut in cuts if not cut.targeted])
    assert caught == 50
    assert caught_uniform < 25


def test_tolerances_follow_the_text_of_the_program() -> None:
    for text in (b"x.to(torch.bfloat16)", b"torch.autocast('cpu')", b"x.half()", b"torch.Float16"):
        assert tolerance_bits(text, "cpu") == COARSE_TOLERANCE_BITS
    for text in (b"x.float()", b"x[: n // 2]  # the first half, uint8", BASELINE.read_bytes()):
        assert tolerance_bits(text, "cpu") == FLOAT32_TOLERANCE_BITS
    assert tolerance_bits(b"x.float()", "cuda") == COARSE_TOLERANCE_BITS


def reference_bits(text: list[int], rows: list[list[int]], vocab_size: int) -> list[list[float]]:
    """The n-gram model in plain Python."""
    alone: dict[tuple[int, ...], int] = defaultdict(int)
    both: dict[tuple[int, ...], int] = defaultdict(int)
    for order in range(NGRAM_ORDER + 1):
        for end in range(order, len(text)):
            alone[tuple(text[end - order : end])] += 1
            both[tuple(text[end - order : end + 1])] += 1
    result = []
    for row in rows:
        costs = []
        for target in range(1, len(row)):
            probability = 1 / vocab_size
            for order in range(min(NGRAM_ORDER, target) + 1):
                context = tuple(row[target - order : target])
                seen = both[(*context, row[target])] + NGRAM_PRIOR_COUNT * probability
                probability = seen / (alone[context] + NGRAM_PRIOR_COUNT)
            costs.append(-math.log2(probability))
        result.append(costs)
    return result


@pytest.mark.parametrize("seq_len", [1, 3, 40])
def test_the_ngram_model_equals_its_reference(seq_len: int) -> None:
    rng = random.Random(6)
    text = [rng.choice([1, 2, 2, 3, 500, 40_000]) for _ in range(3000)]
    rows = [text[start : start + seq_len + 1] for start in range(0, 400, 41)]
    bits = ngram_bits(np.array(text, np.int32), np.array(rows, np.int32), 50_000)
    assert bits == pytest.approx(np.array(reference_bits(text, rows, 50_000)), rel=1e-4)


def test_the_ngram_model_knows_what_it_has_read_and_reads_no_more_than_its_bound() -> None:
    generator = np.random.default_rng(7)
    phrase = generator.integers(97, 123, 4096, dtype=np.uint8)
    text = np.tile(phrase, 3 * NGRAM_TOKENS_MAX // len(phrase))
    known = phrase[: 33 * 60].reshape(60, 33)
    strange = generator.integers(0, 256, (60, 33), dtype=np.uint8)
    assert ngram_bits(text, known, 256)[:, 4:].mean() < 1.0
    assert ngram_bits(text, strange, 256).mean() > 8.0
