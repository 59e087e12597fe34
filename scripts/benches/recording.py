"""Records real trials for the surrogate of `scripts/bench search`.

    PYTHONPATH=scripts .venv/bin/python -P -m benches.recording 80 --again   # a new file
    PYTHONPATH=scripts .venv/bin/python -P -m benches.recording 80           # 80 trials more

Each trial trains a program for BUDGET_S CPU seconds in a process of its own, forked from one that has imported torch;
text, budget, seed and score are those of a trial, without sandbox and audit. What is tried, in turn: the baseline with
another seed; one edit or recipe of the baseline, each once; walks of 2 to 8 moves from it; moves from the best programs
so far; and where a climber ends on a surrogate of what has been recorded until then, so that what it only hopes for is
put right where searches go. The best so far is repeated as well, to learn how large the noise is there.
"""

import datetime
import hashlib
import importlib
import json
import math
import os
import random
import resource
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import msgspec

from benches.search_arms import FromEvolve, Lab, climb, typed_edits
from benches.surrogate import RECORD, Reader, Record, Recorded, fit, read_record, write_record
from benches.trials import SALT, SEQ_LEN, VALIDATION_SHARE, corpus, program
from trainer.corpus import split
from trainer.proposers.constants import apply_edits, constants_of, edits_of, keeps_asserts, knobs_of
from trainer.proposers.proposal import parse
from trainer.proposers.recipes.recipe import apply
from trainer.proposers.recipes.table import RECIPES
from trainer.trial import hardware

BUDGET_S = 2.0
EVAL_BYTES = 16 * 1024
WALK_MAX = 8
CLIMB_MIN, CLIMB_TRIALS = 30, 60  # recorded trials before the first climb on their surrogate; trials of a climb
BEST = 6  # programs that moves are made from
CPU_S_MAX = 20  # of one trial, evaluation included
MEMORY_BYTES_MAX = 4 * 2**30


def moves(text: str, rng: random.Random, count: int) -> str:
    """`count` random edits or recipes, one after the other; those that do not fit are drawn again."""
    done = 0
    for _ in range(50 * count):
        changed = _move(text, rng)
        if changed is not None:
            text, done = changed, done + 1
        if done == count:
            break
    return text


def _move(text: str, rng: random.Random) -> str | None:
    if rng.random() < 0.5:
        return apply(rng.choice(RECIPES), text)
    tree = parse(text)
    edits = edits_of(knobs_of(text, tree, constants_of(tree)))
    changed = apply_edits(text, [rng.choice(edits)])
    return changed if keeps_asserts(changed) else None


def singles(text: str) -> list[str]:
    """Every single edit and recipe that fits."""
    tree = parse(text)
    edited = [apply_edits(text, [edit]) for edit in edits_of(knobs_of(text, tree, constants_of(tree)))]
    made = [changed for recipe in RECIPES if (changed := apply(recipe, text)) is not None]
    return [*(changed for changed in edited if keeps_asserts(changed)), *made]


class Trainer:
    """Trains and scores programs in forked children of this process."""

    def __init__(self) -> None:
        import torch  # whoever only draws programs needs none

        torch.set_num_threads(1)
        importlib.import_module("torch._dynamo")  # as in the sandbox: the first optimiser would, within its budget
        training, validation = split(corpus(), SALT, VALIDATION_SHARE)
        self._tokens = torch.frombuffer(bytearray(b"".join(training)), dtype=torch.uint8)
        stream = b"".join(validation)[:EVAL_BYTES]
        rows = torch.frombuffer(bytearray(stream[: len(stream) // (SEQ_LEN + 1) * (SEQ_LEN + 1)]), dtype=torch.uint8)
        self._rows = rows.view(-1, SEQ_LEN + 1).long()

    def run(self, text: str, seed: int) -> tuple[float | None, str]:
        """Bits per byte, or None and the reason."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
                os.write(writing, json.dumps(self._inside(text, seed)).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as answer:
            said = answer.read()
        _, status = os.waitpid(child, 0)
        if not said:
            return None, f"the process ended with status {status}"
        score, reason = json.loads(said)
        return score, reason

    def _inside(self, text: str, seed: int) -> tuple[float | None, str]:
        import torch
        import torch.nn.functional as F

        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S_MAX, CPU_S_MAX))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
        torch.manual_seed(seed)
        end = time.process_time() + BUDGET_S
        task = SimpleNamespace(
            tokens=self._tokens,
            doc_starts=torch.zeros(1, dtype=torch.int64),
            vocab_size=256,
            seq_len=SEQ_LEN,
            device="cpu",
            seed=seed,
            time_left=lambda: end - time.process_time(),
        )
        scope: dict[str, Any] = {"__name__": "train"}
        try:
            exec(compile(text, "train.py", "exec"), scope)
            model = scope["build"](256, SEQ_LEN)
            scope["train"](model, task)
            if time.process_time() > end + 1:
                return None, "over budget"
            model.eval()
            with torch.no_grad():
                logits = torch.cat([model(rows[:, :-1]) for rows in torch.split(self._rows, 16)]).double()
            nats = F.cross_entropy(logits.flatten(0, 1), self._rows[:, 1:].flatten()).item()
        except Exception as error:  # noqa: BLE001 - whatever a proposed program raises is what is recorded here
            return None, f"{type(error).__name__}: {error}"[:200]
        return (nats / math.log(2), "") if math.isfinite(nats) else (None, "no finite score")


class Plan:
    """Which program is recorded next."""

    def __init__(self, record: Record, rng: random.Random) -> None:
        self._rng, self._baseline = rng, record.baseline
        self._seen = {one.program for one in record.trials}
        self._singles = [text for text in singles(record.baseline) if _digest(text) not in self._seen]
        self.best = list(record.best)
        rng.shuffle(self._singles)

    def next(self, number: int, record: Record) -> str:
        """The text for trial `number`, after those of `record`."""
        if number % 12 == 0:
            return self._baseline
        if number % 12 == 6 and self.best:
            return self.best[0][1]
        if number % 4 == 2 and len(record.trials) >= CLIMB_MIN:
            return self._climbed(record)
        if number % 2 and self._singles:
            return self._singles.pop()
        if number % 4 == 0 and self.best:
            return moves(self._rng.choice(self.best)[1], self._rng, self._rng.randint(1, 2))
        return moves(self._baseline, self._rng, self._rng.randint(2, WALK_MAX))

    def _climbed(self, record: Record) -> str:
        truth = fit(record).surrogate(self._rng.getrandbits(31))
        lab = Lab(lambda text, seed: truth.score(text), CLIMB_TRIALS, self._baseline)
        if self._rng.random() < 0.5:
            climb(lab, typed_edits(), self._rng)
        else:
            proposer = FromEvolve(self._baseline)
            climb(lab, proposer, self._rng, proposer.told)
        return lab.final

    def tell(self, text: str, score: float | None) -> None:
        """What came of it."""
        if score is not None and text not in (known for _, known in self.best):
            self.best = sorted([*self.best, (score, text)])[:BEST]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("count", type=int)
@click.option("--again", is_flag=True, help="Begin a new file.")
@click.option("--file", "path", type=click.Path(path_type=Path, dir_okay=False), default=RECORD)
def main(count: int, again: bool, path: Path) -> None:
    """Record COUNT trials more; two to three seconds of one core each."""
    machine = hardware("cpu")
    command = "PYTHONPATH=scripts .venv/bin/python -P -m benches.recording COUNT"
    record = Record(
        made=datetime.datetime.now(datetime.UTC).date().isoformat(),
        machine=f"{machine.cpu}, {machine.system}, torch {machine.torch}",
        command=command, budget_s=BUDGET_S, seq_len=SEQ_LEN, eval_bytes=EVAL_BYTES,
        baseline=program("cpu_quick.py").decode(), best=(), trials=(),
    )  # fmt: skip
    if path.exists() and not again:
        record = read_record(path)
    reader, trainer = Reader(record.baseline), Trainer()
    start = len(record.trials)
    plan = Plan(record, random.Random(f"record {start}"))
    for number in range(start, start + count):
        text = plan.next(number, record)
        score, reason = trainer.run(text, number)
        plan.tell(text, score)
        reading = reader.read(text)
        one = Recorded(
            program=_digest(text), knobs=reading.knobs, recipes=reading.recipes, seed=number, score=score, reason=reason
        )
        record = msgspec.structs.replace(record, best=tuple(plan.best), trials=(*record.trials, one))
        write_record(record, path)
        click.echo(f"{number}: {score if score is not None else reason} {reading}")


if __name__ == "__main__":
    main()
