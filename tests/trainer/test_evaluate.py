"""The metric against a plain reference, and every way in which an answer can be no answer."""

import io
import math
import random

import numpy as np
import pytest
from numpy.typing import NDArray

from trainer.evaluate import InvalidLogits, MissingLogits, Read, Score, Tokens, inputs, row_nats, score, target_nats

ROWS, SEQ_LEN, VOCAB = 37, 24, 256


def example(scale: float = 3.0) -> tuple[Tokens, NDArray[np.float32]]:
    generator = np.random.default_rng(7)
    rows = generator.integers(0, VOCAB, (ROWS, SEQ_LEN + 1), dtype=np.uint8)
    return rows, (generator.standard_normal((ROWS, SEQ_LEN, VOCAB)) * scale).astype(np.float32)


def scored(rows: Tokens, order: list[int], read: Read, evaluated_bytes: int = ROWS * SEQ_LEN) -> Score:
    return score(row_nats(rows, order, VOCAB, read), evaluated_bytes)


def reference(rows: Tokens, logits: NDArray[np.float32]) -> float:
    """Nats of all targets, one position at a time in plain Python floats."""
    nats = 0.0
    for row, predictions in zip(rows.tolist(), logits.astype(np.float64).tolist(), strict=True):
        for target, prediction in zip(row[1:], predictions, strict=True):
            highest = max(prediction)
            nats -= prediction[target] - highest - math.log(sum(math.exp(value - highest) for value in prediction))
    return nats


@pytest.mark.parametrize("scale", [0.0, 3.0, 1e4])
@pytest.mark.parametrize("evaluated_bytes", [ROWS * SEQ_LEN, 3210], ids=["bytes", "longer tokens"])
def test_equals_the_reference(scale: float, evaluated_bytes: int) -> None:
    rows, logits = example(scale)
    result = scored(rows, list(range(ROWS)), io.BytesIO(logits.tobytes()).read, evaluated_bytes)
    assert result.bits_per_byte == pytest.approx(reference(rows, logits) / math.log(2) / evaluated_bytes, rel=1e-12)
    assert result.evaluated_bytes == evaluated_bytes


def test_uniform_predictions_cost_eight_bits() -> None:
    rows, logits = example(0.0)
    assert scored(rows, list(range(ROWS)), io.BytesIO(logits.tobytes()).read).bits_per_byte == pytest.approx(8.0)


def test_logits_that_are_not_normalised_gain_nothing() -> None:
    rows, logits = example()
    order = list(range(ROWS))
    plain = scored(rows, order, io.BytesIO(logits.tobytes()).read)
    shifted = scored(rows, order, io.BytesIO((logits + np.float32(1000)).tobytes()).read)
    assert shifted.bits_per_byte == pytest.approx(plain.bits_per_byte, abs=1e-4)


def test_order_and_piece_sizes_do_not_show() -> None:
    rows, logits = example()
    plain = row_nats(rows, list(range(ROWS)), VOCAB, io.BytesIO(logits.tobytes()).read)
    order = list(range(ROWS))
    random.Random(3).shuffle(order)
    stream = io.BytesIO(logits[order].tobytes())
    sizes = random.Random(4)
    again = row_nats(rows, order, VOCAB, lambda size: stream.read(sizes.randint(1, min(size, 50_000))))
    assert np.array_equal(again, plain)


def test_inputs_leave_out_the_last_target() -> None:
    rows = np.frombuffer(b"abcxyz", np.uint8).reshape(2, 3)
    assert inputs(rows, [1, 0]) == b"xyab"
    assert inputs(rows.astype(np.int32), [1]) == b"x\0\0\0y\0\0\0"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_single_value_that_is_not_finite_voids_the_answer(value: float) -> None:
    rows, logits = example()
    logits[-1, -1, -1] = value
    with pytest.raises(InvalidLogits, match="not finite"):
        scored(rows, list(range(ROWS)), io.BytesIO(logits.tobytes()).read)


def test_a_cost_past_all_bounds_is_no_score() -> None:
    nats = target_nats(np.array([1]), 2, io.BytesIO(np.array([3e38, -3e38], np.float32).tobytes()).read)
    assert np.isfinite(nats).all()
    with pytest.raises(InvalidLogits, match="are no score"):
        score(nats, 1)


def test_a_short_answer_is_missing_logits() -> None:
    rows, logits = example()
    with pytest.raises(MissingLogits, match="logits end after"):
        scored(rows, list(range(ROWS)), io.BytesIO(logits.tobytes()[:-1]).read)


def test_a_long_answer_is_invalid() -> None:
    rows, logits = example()
    with pytest.raises(InvalidLogits, match="more logits"):
        scored(rows, list(range(ROWS)), io.BytesIO(logits.tobytes() + b"\0").read)
