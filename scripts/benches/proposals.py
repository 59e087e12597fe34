"""`scripts/bench proposals`: many proposals of `evolve` from each baseline: do they differ, pass the screen, and run?

Half of them are told a noise, and all of them outcomes made up by chance, so that changes are gathered as well.
The smoke run is in this process, for the programs are our own edits of our own baselines: build, train for a second by
the wall clock, one forward pass. The GPU baseline is made small first, in what is proposed, by dividing its sizes.
"""

import functools
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from msgspec import Struct

import trainer
from benches import report
from benches.report import Effort, Goal, Part, row
from policy.screening import screen_program
from trainer.corpus import standard_library
from trainer.proposers.evolve import Evolve
from trainer.proposers.proposal import Context, Outcome, fingerprint

PROGRAMS = Path(trainer.__file__).parent / "programs"
SEQ_LEN = 128
TEXT_BYTES = 500_000
SMALLER = {"BATCH": 16, "CONTEXT": 32}  # what sizes of the GPU baseline are divided by; the width by keeping 16 a head
HEAD_CHANNELS = 16
NOISE = 0.05  # bits per byte, of the outcomes that are made up


class Smoke(Struct, frozen=True, kw_only=True):
    """What became of some proposals."""

    proposals: int
    distinct: int  # fingerprints
    screened: int  # passed the screen
    ran: int  # passed it and ran without crashing
    failures: dict[str, int]  # operator and error, counted
    propose_s: list[float]  # wall seconds of each proposal


def smoke(baseline: str, count: int, seconds: float, say: Callable[[str], None] = lambda line: None) -> Smoke:
    """`count` proposals from the program `baseline` (a file of trainer/programs), each run for `seconds`, if any."""
    text = (PROGRAMS / baseline).read_text()
    proposer, rng, seen = Evolve(), random.Random(baseline), {fingerprint(text)}
    failures: Counter[str] = Counter()
    outcomes: list[Outcome] = []
    screened = ran = 0
    times = []
    for number in range(count):
        noise = NOISE * (number % 2)
        started = time.monotonic()
        proposal = proposer.propose(Context(program=text, seen=seen, noise=noise, outcomes=tuple(outcomes)), rng)
        times.append(time.monotonic() - started)
        outcomes.append(
            Outcome(
                operator=proposal.operator,
                hypothesis=proposal.hypothesis,
                verdict="discarded",
                effect=rng.gauss(0.0, 2 * NOISE),
            )
        )
        seen.add(fingerprint(proposal.program))
        if screen_program(proposal.program.encode()) is not None:
            failures[f"{proposal.operator}: refused"] += 1
            continue
        screened += 1
        error = _run(_small(proposal.program) if baseline.startswith("gpu") else proposal.program, seconds)
        if error is None:
            ran += 1
        else:
            failures[f"{proposal.operator}: {error}"] += 1
            say(f"{proposal.operator}: {error}: {proposal.hypothesis[:200]}")
        if number % 100 == 99:
            say(f"{baseline}: {ran} of {number + 1} ran")
    return Smoke(
        proposals=count,
        distinct=len(seen) - 1,
        screened=screened,
        ran=ran,
        failures=dict(failures),
        propose_s=times,
    )


def _small(program: str) -> str:
    """The program at a size at which a CPU makes steps within a second."""

    def constant(name: str) -> int:
        found = re.search(rf"^{name} = (\d+)", program, re.MULTILINE)
        assert found is not None, f"the baseline has {name}"
        return int(found[1])

    sizes = {name: max(1, constant(name) // by) for name, by in SMALLER.items()} | {
        "WIDTH": HEAD_CHANNELS * constant("HEADS")
    }
    sizes["CONTEXT"] = max(8, sizes["CONTEXT"])
    for name, value in sizes.items():
        program = re.sub(rf"^{name} = \d+", f"{name} = {value}", program, flags=re.MULTILINE)
    return program


def _run(program: str, seconds: float) -> str | None:
    """The error of a short run, or None."""
    import torch  # what only proposes needs none

    if not seconds:
        return None
    torch.manual_seed(1)
    end = time.monotonic() + seconds
    task = SimpleNamespace(
        tokens=torch.frombuffer(bytearray(_text()), dtype=torch.uint8),
        doc_starts=torch.zeros(1, dtype=torch.int64),
        vocab_size=256,
        seq_len=SEQ_LEN,
        device="cpu",
        seed=1,
        time_left=lambda: end - time.monotonic(),
    )
    scope: dict[str, Any] = {"__name__": "train"}
    try:
        exec(compile(program, "train.py", "exec"), scope)
        model = scope["build"](256, SEQ_LEN)
        scope["train"](model, task)
        with torch.no_grad():
            logits = model(task.tokens[:SEQ_LEN].long()[None])
        if logits.shape != (1, SEQ_LEN, 256) or not torch.isfinite(logits).all():
            return "no finite logits"
    except Exception as error:  # noqa: BLE001 - whatever a proposed program raises is what is counted here
        return f"{type(error).__name__}: {str(error).splitlines()[0][:100] if str(error) else ''}"
    return None


@functools.cache
def _text() -> bytes:
    corpus = standard_library()
    found = bytearray()
    for document in corpus.documents:
        found += document.text
        if len(found) >= TEXT_BYTES:
            break
    return bytes(found[:TEXT_BYTES])


def _part(baseline: str) -> Part:
    def part(effort: Effort) -> report.Outcome:
        count, seconds = (1000, 1.0) if effort.full else (150, 0.2)
        found = smoke(baseline, count, seconds, effort.say)
        return report.Outcome(
            [row(f"a proposal from {baseline}", found.propose_s, "s")],
            [
                Goal(what=f"{baseline}: distinct", figure=found.distinct, bound="at least", goal=count),
                Goal(what=f"{baseline}: run", figure=found.ran / count, bound="at least", goal=0.95),
            ],
        )

    return part


PARTS = {"cpu_quick": _part("cpu_quick.py"), "gpu_5min": _part("gpu_5min.py")}
