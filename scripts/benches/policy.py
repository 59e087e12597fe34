"""What the policy keeps of simulated streams of candidates, and how often its tests err.

stream   700 runs over candidates of which 3 % gain, 37 % change nothing and 60 % harm by |N(0, 2σ)|, with gains
         uniform in 0.3 to 5 σ (easy) or 0.3 σ + Exp(σ) (hard): greedy keep-if-lower with one run, a t-test of three
         runs against three, and `policy.search`, which is told neither σ nor anything of the candidates
drift    the same for `policy.search` on machines whose level walks
null     `policy.search` where no candidate gains
peeking  how often `policy.sequential` confirms what is no better, looked at after every pair
liars    a swarm in which three nodes of ten lie (benches/liars.py)

Each repetition has its own seeds, the same for all procedures, and runs in one of as many processes as there are cores.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from typing import Literal, NamedTuple

import numpy as np
from numpy.random import Generator
from scipy.special import stdtr

from benches.liars import liars
from benches.report import Effort, Goal, Outcome, Parts, Row
from policy.noise import FloatArray, spread_of
from policy.search import Search, Step
from policy.sequential import ALPHA, PAIRS_MAX, e_value

RUNS = 700
SIGMA = 0.02  # bits per byte; nothing may depend on it
LEVEL = 3.0
FDP_GOAL = 0.10
Stream = Literal["easy", "hard", "null"]
GAIN_GOALS: dict[Stream, float] = {"easy": 0.9, "hard": 1.1}  # of greedy's true gain


class Kept(NamedTuple):
    """What one procedure made of one stream; effects in σ, negative is better."""

    effects: Sequence[float]

    @property
    def gain(self) -> float:
        return -math.fsum(self.effects)

    @property
    def false_share(self) -> float:
        return sum(effect >= 0 for effect in self.effects) / max(1, len(self.effects))


def candidates(stream: Stream, seed: int) -> Iterator[float]:
    """Effects of candidates, without end."""
    rng = np.random.default_rng((seed, 1))
    while True:
        which, size = rng.random(), rng.random()
        harm = abs(rng.normal(0, 2))
        if which < 0.03 and stream != "null":
            yield -(0.3 + 4.7 * size) if stream == "easy" else -(0.3 - math.log1p(-size))
        else:
            yield 0.0 if which < 0.4 else harm


def greedy(stream: Stream, seed: int) -> Kept:
    """Keep whatever scores lower than the best so far, with one run each."""
    noise = np.random.default_rng((seed, 2)).normal(size=RUNS)
    kept: list[float] = []
    best, level = noise[0], 0.0
    for effect, error in zip(candidates(stream, seed), noise[1:], strict=False):
        if level + effect + error < best:
            best, level = level + effect + error, level + effect
            kept.append(effect)
    return Kept(kept)


def t_test(stream: Stream, seed: int) -> Kept:
    """Three runs of each candidate against three of the incumbent, Welch's test at 0.05, one-sided.

    The three of the incumbent are those that it was kept with.
    """
    rng = np.random.default_rng((seed, 2))
    kept: list[float] = []
    level, runs = 0.0, 3
    incumbent = rng.normal(size=3)
    for effect in candidates(stream, seed):
        if (runs := runs + 3) > RUNS:
            break
        child = level + effect + rng.normal(size=3)
        variances = incumbent.var(ddof=1) / 3, child.var(ddof=1) / 3
        dof = sum(variances) ** 2 / (variances[0] ** 2 / 2 + variances[1] ** 2 / 2)
        if stdtr(dof, (child.mean() - incumbent.mean()) / math.sqrt(sum(variances))) <= 0.05:
            incumbent, level = child, level + effect
            kept.append(effect)
    return Kept(kept)


def ours(stream: Stream, seed: int, drift: float = 0.0) -> Kept:
    """As the node drives it; `drift` is the variance of the machine's level per run, in σ²."""
    rng = np.random.default_rng((seed, 2))
    noise, steps = rng.normal(size=RUNS), math.sqrt(drift) * rng.normal(size=RUNS)
    walk = np.cumsum(steps)
    search, coming = Search(), candidates(stream, seed)
    kept: list[float] = []
    effect = level = 0.0
    run = 0
    while run < RUNS:
        due = search.next()
        match due.step:
            case Step.PROPOSE:
                effect = next(coming)
                search.begin()
            case Step.DISCARD:
                search.discard()
            case Step.KEEP:
                search.keep()
                kept.append(effect)
                level += effect
            case Step.CONTROL | Step.CHILD:
                own = effect if due.step is Step.CHILD else 0.0
                score = LEVEL + SIGMA * (level + own + walk[run] + noise[run])
                (search.child if due.step is Step.CHILD else search.control)(due.seed, score, run)
                run += 1
    return Kept(kept)


Procedure = Callable[[Stream, int], Kept]
PROCEDURES: dict[str, Procedure] = {"greedy": greedy, "t-test": t_test, "ours": ours}


@contextmanager
def _processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("forkserver")) as processes:
        yield processes


def _interval(figures: Sequence[float] | FloatArray) -> float:
    """Half the width of a 95 % interval of the mean."""
    return 1.96 * float(np.std(figures, ddof=1)) / math.sqrt(len(figures))


def _rows(what: str, kept: Sequence[Kept]) -> list[Row]:
    figures = {
        "true gain": ([one.gain for one in kept], "sigma"),
        "false share of the keeps": ([one.false_share for one in kept], ""),
        "keeps": ([float(len(one.effects)) for one in kept], ""),
    }
    return [
        Row(
            what=f"{what}, {name} ±{_interval(values):.2g}",
            figure=float(np.mean(values)),
            unit=unit,
            repetitions=len(values),
        )
        for name, (values, unit) in figures.items()
    ]


def stream(effort: Effort) -> Outcome:
    rows: list[Row] = []
    goals: list[Goal] = []
    repetitions = effort.repeat(300, 1000)
    with _processes() as processes:
        for name, share in GAIN_GOALS.items():
            gains: dict[str, FloatArray] = {}
            for procedure, act in PROCEDURES.items():
                effort.say(f"stream: {name}, {procedure}")
                kept = list(processes.map(partial(act, name), repetitions, chunksize=5))
                rows += _rows(f"{name}, {procedure}", kept)
                gains[procedure] = np.array([one.gain for one in kept])
            false_share = rows[-2].figure
            ratio = float(gains["ours"].mean() / gains["greedy"].mean())
            unexplained = (gains["ours"] - ratio * gains["greedy"]) / gains["greedy"].mean()
            spread = _interval(unexplained)  # of a ratio of means over the same seeds, by the delta method
            rows.append(
                Row(
                    what=f"{name}, true gain of ours / greedy's ±{spread:.2g}",
                    figure=ratio,
                    unit="",
                    repetitions=len(kept),
                )
            )
            goals.append(Goal(what=f"{name}: false share of ours", figure=false_share, bound="at most", goal=FDP_GOAL))
            goals.append(Goal(what=f"{name}: true gain of ours / greedy's", figure=ratio, bound="at least", goal=share))
    return Outcome(rows, goals)


def drift(effort: Effort) -> Outcome:
    rows: list[Row] = []
    with _processes() as processes:
        for variance in (0.01, 0.1, 1.0):
            for name in GAIN_GOALS:
                effort.say(f"drift: {variance} σ² a run, {name}")
                kept = list(processes.map(partial(ours, name, drift=variance), effort.repeat(60, 300), chunksize=5))
                rows += _rows(f"{name}, ours, level walks by {variance} sigma² a run", kept)
    return Outcome(rows)


def null(effort: Effort) -> Outcome:
    with _processes() as processes:
        kept = list(processes.map(partial(ours, "null"), effort.repeat(60, 300), chunksize=5))
    spoilt = float(np.mean([len(one.effects) > 0 for one in kept]))
    rows = [
        Row(what="streams without a gain in which ours keeps something", figure=spoilt, unit="", repetitions=len(kept))
    ]
    return Outcome([*rows, *_rows("no gains, ours", kept)])


Draw = Callable[[Generator, int], FloatArray]
NOISES: dict[str, Draw] = {  # mean 0, and what a run scatters by
    "normal": lambda rng, n: rng.normal(size=n),
    "skewed up (lognormal)": lambda rng, n: rng.lognormal(size=n) - math.exp(0.5),
    "skewed down (lognormal)": lambda rng, n: math.exp(0.5) - rng.lognormal(size=n),
    "heavy-tailed (t, 2.5 dof)": lambda rng, n: rng.standard_t(2.5, size=n),
}


def false_confirmations(kind: str, scale: float, noise_runs: int, seeds: Iterable[int]) -> list[bool]:
    """Whether a null stream is ever confirmed, looked at after each of `PAIRS_MAX` pairs.

    The child's noise is `scale` times that of the parent, whose runs gave the pooled noise.
    """
    draw = NOISES[kind]
    ever: list[bool] = []
    for seed in seeds:
        rng = np.random.default_rng((seed, 3))
        pooled = spread_of([float(score) for score in draw(rng, noise_runs)]).of_difference()
        differences = [float(x) for x in scale * draw(rng, PAIRS_MAX) - draw(rng, PAIRS_MAX)]
        ever.append(any(e_value(differences[:n], pooled) >= 1 / ALPHA for n in range(1, PAIRS_MAX + 1)))
    return ever


def peeking(effort: Effort) -> Outcome:
    rows: list[Row] = []
    goals: list[Goal] = []
    streams = effort.repeat(20_000, 100_000)
    parts = [range(start, min(start + 1000, len(streams))) for start in range(0, len(streams), 1000)]
    with _processes() as processes:
        for noise_runs in (3, 12):
            for kind, scale in [*((kind, 1.0) for kind in NOISES), ("normal", 3.0), ("normal", 10.0)]:
                effort.say(f"peeking: {kind} × {scale:g}, noise of {noise_runs} runs")
                act = partial(false_confirmations, kind, scale, noise_runs)
                ever = [one for part in processes.map(act, parts) for one in part]
                what = f"null streams ever confirmed: {kind}, noise of {noise_runs} runs"
                if scale != 1:
                    what += f", child's noise {scale:g} times the parent's"
                share = float(np.mean(ever))
                rows.append(
                    Row(
                        what=f"{what} ±{_interval([float(x) for x in ever]):.1g}",
                        figure=share,
                        unit="",
                        repetitions=len(ever),
                    )
                )
                if scale == 1:
                    goals.append(Goal(what=what, figure=share, bound="at most", goal=ALPHA))
    return Outcome(rows, goals)


PARTS: Parts = {"stream": stream, "drift": drift, "null": null, "peeking": peeking, "liars": liars}
