"""The metric against a plain reference, and every way in which an answer can be no answer."""

import io
import math
import random

import numpy as np
import pytest
from numpy.typing import NDArray

from trainer.evaluate import InvalidLogits, MissingLogits, inputs, score

ROWS, SEQ_LEN, VOCAB = 37, 24, 256


def example(scale: float = 3.0) -> tuple[list[bytes], NDArray[np.float32]]:
    generator = np.random.default_rng(7)
    rows = [generator.integers(0, VOCAB, SEQ_LEN + 1, dtype=np.uint8).tobytes() for _ in range(ROWS)]
    return rows, (generator.standard_normal((ROWS, SEQ_LEN, VOCAB)) * scale).astype(np.float32)


def reference(rows: list[bytes], logits: NDArray[np.float32]) -> float:
    """Bits per byte, one position at a time in plain Python floats."""
    bits = 0.0
    for row, predictions in zip(rows, logits.astype(np.float64).tolist(), strict=True):
        for target, prediction in zip(row[1:], predictions, strict=True):
            highest = max(prediction)
            total = sum(math.exp(value - highest) for value in prediction)
            bits -= (prediction[target] - highest - math.log(total)) / math.log(2)
    return bits / (len(rows) * SEQ_LEN)


@pytest.mark.parametrize("scale", [0.0, 3.0, 1e4])
def test_equals_the_reference(scale: float) -> None:
    rows, logits = example(scale)
    result = score(rows, range(ROWS), VOCAB, io.BytesIO(logits.tobytes()).read)
    assert result.bits_per_byte == pytest.approx(reference(rows, logits), rel=1e-12)
    assert result.evaluated_bytes == ROWS * SEQ_LEN


def test_uniform_predictions_cost_eight_bits() -> None:
    rows, logits = example(0.0)
    assert score(rows, range(ROWS), VOCAB, io.BytesIO(logits.tobytes()).read).bits_per_byte == pytest.approx(8.0)


def test_order_and_piece_sizes_do_not_show() -> None:
    rows, logits = example()
    plain = score(rows, range(ROWS), VOCAB, io.BytesIO(logits.tobytes()).read)
    order = list(range(ROWS))
    random.Random(3).shuffle(order)
    stream = io.BytesIO(logits[order].tobytes())
    sizes = random.Random(4)
    assert score(rows, order, VOCAB, lambda size: stream.read(sizes.randint(1, min(size, 50_000)))) == plain


def test_inputs_leave_out_the_last_target() -> None:
    assert inputs([b"abc", b"xyz"], [1, 0]) == b"xyab"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_single_value_that_is_not_finite_voids_the_answer(value: float) -> None:
    rows, logits = example()
    logits[-1, -1, -1] = value
    with pytest.raises(InvalidLogits, match="not finite"):
        score(rows, range(ROWS), VOCAB, io.BytesIO(logits.tobytes()).read)


def test_a_short_answer_is_missing_logits() -> None:
    rows, logits = example()
    with pytest.raises(MissingLogits, match="logits end after"):
        score(rows, range(ROWS), VOCAB, io.BytesIO(logits.tobytes()[:-1]).read)


def test_a_long_answer_is_invalid() -> None:
    rows, logits = example()
    with pytest.raises(InvalidLogits, match="more logits"):
        score(rows, range(ROWS), VOCAB, io.BytesIO(logits.tobytes() + b"\0").read)
