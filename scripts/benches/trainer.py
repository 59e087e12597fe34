"""What trust costs: the trainer against the same work without sandbox, audit or a second process.

throughput   training inside the sandbox / outside: same program, text and seed, tokens per CPU second counted by the
             program itself, in pairs whose order alternates
overhead     wall time of a trial in which no program trains or predicts, with warm sandboxes and with cold ones; and
             what share of the time a lane trains or predicts, trial after trial, at a budget of 30 s. The node's own
             work between trials (a proposal, two signed entries: milliseconds) is not in it
evaluation   wall seconds of evaluation and audit for 128 KB and 1 MB of text, of the baseline's model
memory       growth of the scoring process's peak memory while 1 GB of logits streams through it
gpu_program  the GPU baseline against itself with AdamW for all parameters: tokens per second and bits per byte. At toy
             size on one CPU core, in the sandbox; and where CUDA is, at full size, outside it
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from benches.report import Effort, Goal, Outcome, Parts, Row, row
from benches.trials import Counted, Observed, counted_inside, counted_outside, program, trial, warm
from trainer.trial import start_sandbox

THROUGHPUT_GOAL = 0.98
OVERHEAD_GOAL_S = 0.3
SHARE_GOAL = 0.95
SCORING_MEMORY_GOAL_MB = 128.0

PAIR_BUDGET_S = 5.0
IDLE_BUDGET_S = 8.0  # in which one core makes three sandboxes warm while the other trains
NODE_BUDGET_S = 30.0
TOY_BUDGET_S = 12.0
POOL_FILL_S = 8.0
STREAMED_BYTES = 10**9
TOY = {"WIDTH": 64, "LAYERS": 2, "HEADS": 2, "BATCH": 16, "CONTEXT": 64}

# Uses its budget up, and its model answers at once: what a trial of it takes beyond its phases is overhead.
_IDLE = b"""
import torch

def build(vocab_size, seq_len):
    return torch.nn.Embedding(vocab_size, vocab_size)

def train(model, task):
    while task.time_left() > 0.1:
        pass
"""
_UNTRAINED = b"""

def train(model, task):
    pass
"""

# Run on its own, because a peak never falls: what ran before must not hide what is measured.
# The peak of /proc is this process's own: ru_maxrss begins with that of the process that started it.
_STREAM = """
import sys
import numpy as np
from trainer.evaluate import row_nats, score

total, sent = int(sys.argv[1]), 0
rows = np.zeros((max(1, total // (128 * 256 * 4)), 129), dtype=np.uint8)
piece = np.random.default_rng(1).standard_normal(2**18, dtype=np.float32).tobytes()

def peak_bytes():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["VmHWM"].split()[0]) * 1024

before = peak_bytes()

def read(bytes_max):
    global sent
    part = piece[: min(bytes_max, rows.shape[0] * 128 * 256 * 4 - sent)]
    sent += len(part)
    return part

score(row_nats(rows, range(len(rows)), 256, read), rows.shape[0] * 128)
print((peak_bytes() - before) / 1e6)
"""


def throughput(effort: Effort) -> Outcome:
    source = program("cpu_quick.py", counting=True)
    inside: list[Counted] = []
    outside: list[Counted] = []
    ways = ((inside, counted_inside), (outside, counted_outside))
    for index in effort.repeat(11, 25):
        effort.say(f"throughput: pair {index + 1}")
        for results, run in ways if index % 2 == 0 else ways[::-1]:
            results.append(run(source, PAIR_BUDGET_S, index))
    by_cpu, by_wall = (
        row(what, [rate(one) for one in inside], unit, "outside it", [rate(one) for one in outside], paired=True)
        for what, unit, rate in (
            ("training in the sandbox", "tokens/CPU s", _per_cpu_s),
            ("training in the sandbox", "tokens/s", lambda one: one.tokens / one.wall_s),
        )
    )
    goal = Goal(
        what="training throughput in the sandbox / outside",
        figure=by_cpu.ratio or 0.0,
        bound="at least",
        goal=THROUGHPUT_GOAL,
    )
    return Outcome([by_cpu, by_wall], [goal])


def _per_cpu_s(one: Counted) -> float:
    return one.tokens / one.cpu_s


def overhead(effort: Effort) -> Outcome:
    cold: list[float] = []
    observed = Observed(start_sandbox)
    for index in effort.repeat(3, 6):
        effort.say(f"overhead: cold trial {index + 1}")
        cold.append(_overhead_s(observed))
    prompt: list[float] = []
    with warm(IDLE_BUDGET_S) as observed:
        time.sleep(POOL_FILL_S)
        for index in effort.repeat(6, 20):
            effort.say(f"overhead: warm trial {index + 1}")
            prompt.append(_overhead_s(observed))
    share = _share(effort)
    beyond = row("trial beyond training, evaluation and audit, warm", prompt, "s", "cold", cold)
    return Outcome(
        [beyond, share],
        [
            Goal(
                what="overhead per trial beyond budget and evaluation, warm",
                figure=beyond.figure,
                bound="at most",
                goal=OVERHEAD_GOAL_S,
                unit="s",
            ),
            Goal(
                what=f"share of a lane's time in training or evaluation at {NODE_BUDGET_S:g} s",
                figure=share.ratio or 0.0,
                bound="at least",
                goal=SHARE_GOAL,
            ),
        ],
    )


def _overhead_s(observed: Observed) -> float:
    measured = trial(_IDLE, IDLE_BUDGET_S, eval_bytes=1024, start=observed.start)
    return measured.wall_s - observed.phases().total_s


def _share(effort: Effort) -> Row:
    source = program("cpu_quick.py")
    busy_s: list[float] = []
    with warm(NODE_BUDGET_S) as observed:
        time.sleep(POOL_FILL_S)
        started = time.monotonic()
        for index in effort.repeat(2, 8):
            effort.say(f"overhead: trial {index + 1} with {NODE_BUDGET_S:g} s")
            trial(source, NODE_BUDGET_S, seed=index, start=observed.start)
            busy_s.append(observed.phases().total_s)
        each_s = (time.monotonic() - started) / len(busy_s)
    return row("training, evaluation and audit of a trial", busy_s, "s", "from trial to trial", [each_s])


def evaluation(effort: Effort) -> Outcome:
    source = program("cpu_quick.py") + _UNTRAINED
    rows: list[Row] = []
    with warm(10.0) as observed:
        for label, eval_bytes in (("128 KB", 128 * 1024), ("1 MB", 1024 * 1024)):
            evaluations: list[float] = []
            audits: list[float] = []
            for index in effort.repeat(3, 7):
                effort.say(f"evaluation: {label}, trial {index + 1}")
                trial(source, 10.0, seed=index, eval_bytes=eval_bytes, start=observed.start)
                phases = observed.phases()
                evaluations.append(phases.evaluation_s)
                audits.append(phases.audit_s)
            rows.append(row(f"audit of {label}", audits, "s", "its evaluation", evaluations, paired=True))
    return Outcome(rows)


def memory(effort: Effort) -> Outcome:
    effort.say("memory: streaming logits")
    large, small = (
        [_streamed_mb(size) for _ in effort.repeat(3, 5)] for size in (STREAMED_BYTES, STREAMED_BYTES // 10)
    )
    growth = row("memory to score 1 GB of logits", large, "MB", "100 MB of logits", small)
    goal = Goal(
        what="memory that scoring 1 GB of logits adds",
        figure=growth.figure,
        bound="at most",
        goal=SCORING_MEMORY_GOAL_MB,
        unit="MB",
    )
    return Outcome([growth], [goal])


def _streamed_mb(size: int) -> float:
    """Megabytes that the peak resident memory of a fresh process grows by while it scores `size` bytes of logits."""
    done = subprocess.run([sys.executable, "-P", "-c", _STREAM, str(size)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def gpu_program(effort: Effort) -> Outcome:
    rows = _twins(
        "toy size, one core",
        [
            (counted_inside, program("gpu_5min.py", True, **TOY, OPTIMIZER=optimizer), TOY_BUDGET_S)
            for optimizer in ("muon", "adamw")
        ],
        effort,
        lambda one: one.cpu_s,
    )
    if _has_cuda():
        budget_s = 300.0 if effort.full else 60.0

        def on_cuda(source: bytes, budget_s: float, seed: int) -> Counted:
            return counted_outside(source, budget_s, seed, "cuda", "wall")

        full = [(on_cuda, program("gpu_5min.py", True, OPTIMIZER=name), budget_s) for name in ("muon", "adamw")]
        rows += _twins(f"CUDA, {budget_s:g} s", full, effort, lambda one: one.wall_s)
    return Outcome(rows)


Run = Callable[[bytes, float, int], Counted]


def _twins(
    label: str, twins: Sequence[tuple[Run, bytes, float]], effort: Effort, seconds: Callable[[Counted], float]
) -> list[Row]:
    """Speed and score of Muon against AdamW, pairs of equal seeds."""
    results: tuple[list[Counted], list[Counted]] = ([], [])
    for index in effort.repeat(3, 5):
        effort.say(f"gpu_program: {label}, pair {index + 1}")
        for results_of_one, (run, source, budget_s) in zip(results, twins, strict=True):
            results_of_one.append(run(source, budget_s, index))
    (muon, adamw), against = results, "AdamW for all"
    return [
        row(
            f"gpu_5min, {label}",
            [one.tokens / seconds(one) for one in muon],
            "tokens/s",
            against,
            [one.tokens / seconds(one) for one in adamw],
            paired=True,
        ),
        row(
            f"gpu_5min, {label}",
            [one.bits_per_byte for one in muon],
            "bpb",
            against,
            [one.bits_per_byte for one in adamw],
            paired=True,
        ),
    ]


def _has_cuda() -> bool:
    """Asked in a process of its own: this one needs no torch."""
    code = "import json, torch; print(json.dumps(torch.cuda.is_available()))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    return bool(json.loads(done.stdout))


PARTS: Parts = {
    "throughput": throughput,
    "overhead": overhead,
    "evaluation": evaluation,
    "memory": memory,
    "gpu_program": gpu_program,
}
