"""Programs of the contract at toy size: loaded with changed constants, with a clock that counts steps."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

import trainer

SEQ_LEN = 32
VOCAB_SIZE = 256


class StepClock:
    """Budget in readings of the clock instead of seconds, so that every run makes the same steps."""

    def __init__(self, readings: int) -> None:
        self.left = float(readings)

    def time_left(self) -> float:
        self.left -= 1
        return self.left


def source(name: str, **changes: object) -> str:
    """The text of a program in trainer/programs, after changes of its constants.

    Raises `StopIteration` for a constant that it does not have.
    """
    text = Path(trainer.__file__).with_name("programs").joinpath(name).read_text()
    for constant, value in changes.items():
        before = next(line for line in text.splitlines() if line.startswith(f"{constant} = "))
        text = text.replace(before, f"{constant} = {value!r}", 1)
    return text


def load(name: str, **changes: object) -> SimpleNamespace:
    """The names of a program after changes of its constants. Nobody imports programs, nor do tests."""
    scope: dict[str, Any] = {"__name__": "train"}
    exec(compile(source(name, **changes), "train.py", "exec"), scope)
    return SimpleNamespace(**scope)


def make_task(readings: int, seed: int = 1) -> SimpleNamespace:
    text = b"".join(b"%d and %d make %d.\n" % (n, n + 1, 2 * n + 1) for n in range(500))
    clock = StepClock(readings)
    return SimpleNamespace(
        tokens=torch.frombuffer(bytearray(text), dtype=torch.uint8),
        doc_starts=torch.zeros(1, dtype=torch.int64),
        vocab_size=VOCAB_SIZE,
        seq_len=SEQ_LEN,
        device="cpu",
        seed=seed,
        time_left=clock.time_left,
        clock=clock,
    )


def trained(program: SimpleNamespace, task: SimpleNamespace) -> torch.nn.Module:
    torch.manual_seed(task.seed)
    model: torch.nn.Module = program.build(VOCAB_SIZE, SEQ_LEN)
    program.train(model, task)
    return model


def bits_per_byte(model: torch.nn.Module, tokens: torch.Tensor) -> float:
    rows = tokens[: 64 * (SEQ_LEN + 1)].view(64, SEQ_LEN + 1).long()
    with torch.no_grad():
        logits = model(rows[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).item() / math.log(2)
