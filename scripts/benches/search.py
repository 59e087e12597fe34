"""What a search finds with equal trials: the node's own against a greedy climber, random search and Optuna.

surrogate  many repetitions on the surrogate of the trainer (surrogate.py), each with a landscape of its own out of the
           surrogate's posterior, the same for all ways to search (search_arms.py)
ranks      how alike the surrogate and real trials order programs that it was not fitted to
real       a small comparison with the trainer itself, in real sandboxes
lane       how busy the node's loop keeps the lane with a slow proposer (search_lane.py)
cpu_quick, gpu_5min  many proposals of `evolve` (proposals.py)
"""

import math
import os
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import get_context

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from scipy.stats import spearmanr
from scipy.stats import t as student_t

from benches import proposals
from benches.recording import moves
from benches.report import Effort, Goal, Outcome, Parts, Row
from benches.search_arms import FromEvolve, Lab, Memory, Run, climb, evolve, scatter, tune, typed_edits
from benches.search_lane import lane
from benches.surrogate import Fit, Reading, Record, Surrogate, fit, read_record
from benches.trials import SALT, SEQ_LEN, VALIDATION_SHARE, corpus, program
from trainer.challenge import Challenge, CorpusRef, Split, Track
from trainer.proposers.proposal import fingerprint
from trainer.requests import TrialRequest
from trainer.sandbox.pool import Pool
from trainer.trial import run_trial, start_sandbox

PRIVATE_SALT = bytes(range(16, 32))
FRESH_SEEDS = range(1_000_000, 1_000_008)
REPETITIONS, REPETITIONS_FULL, TRIALS = 5, 20, 150
REAL_REPETITIONS_FULL, REAL_TRIALS, REAL_TRIALS_FULL = 5, 20, 40
SHOWN = (0.25, 0.5)  # shares of the trials after which the course is shown as well
RANKED = 24
MOVES_MAX = 8
FOLDS = 10
RESAMPLES = 2000

ARMS = {
    "a": "greedy climber, typed edits",
    "a2": "greedy climber, evolve's proposals",
    "b": "random search",
    "c": "Optuna TPE",
    "d": "evolve",
    "e": "evolve, with an earlier run's outcomes and lessons",
}


class Searched(Struct, frozen=True, kw_only=True):
    """What one way to search came to in one repetition. Scores are true ones, bits per byte."""

    course: tuple[float, ...]  # of the incumbent after each trial, from 0 trials on
    decided: tuple[tuple[int, bool], ...]  # each candidate: after how many trials, and whether it is a hit:
    # better than its parent, and kept
    gains: int  # candidates that are better than their parent
    false_keeps: int

    @property
    def final(self) -> float:
        return self.course[-1]

    @property
    def hits(self) -> int:
        return sum(hit for _, hit in self.decided)

    def hit_rate(self, trials: float = math.inf) -> float:
        """Hits per candidate that was decided within the first `trials`; 0 without one."""
        hits = [hit for at, hit in self.decided if at <= trials]
        return sum(hits) / max(1, len(hits))


def search(arm: str, run: Run, total: int, baseline: str, rng: random.Random, memory: Memory) -> Lab:
    """One search of `total` trials; `memory` is that of `d` and, an earlier run's, of `e`."""
    lab = Lab(run, total, baseline)
    if arm == "a":
        climb(lab, typed_edits(), rng)
    elif arm == "a2":
        proposer = FromEvolve(baseline)
        climb(lab, proposer, rng, proposer.told)
    elif arm == "b":
        scatter(lab, rng)
    elif arm == "c":
        tune(lab, rng)
    else:
        evolve(lab, rng, memory)
    return lab


def repetition(seed: int, fitted: Fit, total: int) -> dict[str, Searched]:
    """All ways to search on one landscape. `e` goes on with what `d` learnt, from the baseline and without a score."""
    truth, memory = fitted.surrogate(seed), Memory()
    return {arm: on_surrogate(arm, truth, total, seed, memory) for arm in ARMS}


def on_surrogate(arm: str, truth: Surrogate, total: int, seed: int, memory: Memory) -> Searched:
    """One way to search on a landscape, with the noise and chance of `seed`."""
    noise = np.random.default_rng((seed, *arm.encode()))

    def run(text: str, _: int) -> float | None:
        score = truth.score(text)
        return None if score is None else score + truth.noise * float(noise.normal())

    lab = search(arm, run, total, truth.reader.baseline, random.Random(f"{arm} {seed}"), memory)
    return searched(lab, truth.score)


def searched(lab: Lab, score: Callable[[str], float | None]) -> Searched:
    """What a search came to by the true scores of its programs; a program that has none is no gain."""
    true = {text: score(text) for text in {one.child for one in lab.candidates} | {lab.incumbents[0][1]}}

    def is_gain(parent: str, child: str) -> bool:
        before, after = true[parent], true[child]
        return before is not None and after is not None and after < before

    gains = [is_gain(one.parent, one.child) for one in lab.candidates]
    kept = [one.kept for one in lab.candidates]
    course: list[float] = []
    for (start, text), (end, _) in zip(lab.incumbents, [*lab.incumbents[1:], (lab.total + 1, "")], strict=True):
        value = true[text]
        assert value is not None, "a program that crashes is never kept"
        course += [value] * (end - start)
    return Searched(
        course=tuple(course),
        decided=tuple((one.trials, gain and one.kept) for one, gain in zip(lab.candidates, gains, strict=True)),
        gains=sum(gains),
        false_keeps=sum(keep and not gain for gain, keep in zip(gains, kept, strict=True)),
    )


def half_width(figures: Sequence[float]) -> float:
    """Half of a 95 % t interval of the mean of independent figures, (n,) with n > 1."""
    quantile = float(student_t.ppf(0.975, len(figures) - 1))
    return quantile * statistics.stdev(figures) / math.sqrt(len(figures))


def _mean(what: str, figures: Sequence[float], unit: str) -> Row:
    shown = f"{what} ±{half_width(figures):.2g}" if len(figures) > 1 else what
    return Row(what=shown, figure=statistics.fmean(figures), unit=unit, repetitions=len(figures))


def trials_to(course: Sequence[float], score: float) -> float:
    """After how many trials the incumbent is at least as good as `score` bits per byte; infinite where it never is."""
    return next((float(trial) for trial, value in enumerate(course) if value <= score), math.inf)


def surrogate(effort: Effort) -> Outcome:
    """All ways to search, on the surrogate."""
    seeds, total = effort.repeat(REPETITIONS, REPETITIONS_FULL), TRIALS
    record = read_record()
    fitted = fit(record)
    effort.say(f"surrogate of {len(record.trials)} trials, recorded {record.made} on {record.machine}")
    results: list[dict[str, Searched]] = []
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("forkserver")) as processes:
        for found in processes.map(partial(repetition, fitted=fitted, total=total), seeds):
            results.append(found)
            effort.say(", ".join(f"{arm} {one.final:.3f}" for arm, one in found.items()))
    return compared({arm: [one[arm] for one in results] for arm in ARMS}, total)


def compared(results: dict[str, list[Searched]], total: int) -> Outcome:
    """Figures and goals from repetitions; equal places of the lists belong together."""
    rows: list[Row] = []
    for arm, found in results.items():
        name = f"({arm}) {ARMS[arm]}"
        rows.append(_mean(f"{name}: true score after {total} trials", [one.final for one in found], "bpb"))
        rows += [
            _mean(f"{name}: after {round(share * total)}", [one.course[round(share * total)] for one in found], "bpb")
            for share in SHOWN
        ]
        rows.append(_mean(f"{name}: hit rate", [one.hit_rate() for one in found], ""))
        rows.append(_mean(f"{name}: candidates", [float(len(one.decided)) for one in found], ""))
        keeps = [one.false_keeps / max(1, one.hits + one.false_keeps) for one in found]
        rows.append(_mean(f"{name}: false share of keeps", keeps, ""))
        reached = [trials_to(b.course, a.final) for a, b in zip(results["a"], found, strict=True)]
        rows.append(
            Row(
                what=f"{name}: trials to (a)'s final score, median; {reached.count(math.inf)} never got there",
                figure=min(statistics.median(reached), total + 1.0),
                unit="trials",
                repetitions=len(reached),
            )
        )
    goals = []
    for other in ("a", "b", "c"):
        differences = [d.final - o.final for d, o in zip(results["d"], results[other], strict=True)]
        rows.append(_mean(f"(d) - ({other}), true score", differences, "bpb"))
        goals.append(
            Goal(
                what=f"(d) - ({other}), mean true score",
                figure=statistics.fmean(differences),
                bound="at most",
                goal=0,
                unit="bpb",
            )
        )
    pairs = list(zip(results["d"], results["e"], strict=True))
    rows.append(_mean("(e) - (d), hit rate", [e.hit_rate() - d.hit_rate() for d, e in pairs], ""))
    # Whoever is there sooner has the rest of the trials to find that little is left to gain.
    on_the_way = []
    for d, e in pairs:
        score = max(d.final, e.final)  # which both came to
        on_the_way.append(e.hit_rate(trials_to(e.course, score)) - d.hit_rate(trials_to(d.course, score)))
    rows.append(_mean("(e) - (d), hit rate on the way to the worse of their final scores", on_the_way, ""))
    goals.append(
        Goal(
            what="(e) - (d), hit rate on the way to the worse of their final scores",
            figure=statistics.fmean(on_the_way),
            bound="at least",
            goal=0,
        )
    )
    return Outcome(rows, goals)


Real = Callable[[str, int, bytes], float | None]
"""A real trial of a program (text) with a seed and the salt of a split; None where it fails."""


@contextmanager
def real_trials(budget_s: float, eval_bytes: int) -> Iterator[Real]:
    """Trials in sandboxes, with the next ones warm."""
    track = Track(budget_s=budget_s, seq_len=SEQ_LEN, eval_bytes=eval_bytes, baseline="0" * 64)
    text = corpus()
    challenge = Challenge(
        name="bench",
        founder="12D3KooW" + "A" * 44,
        constitution="c" * 64,
        corpus=CorpusRef(digest="0" * 64, bytes=text.text_bytes, documents=len(text.documents)),
        split=Split(public_salt=SALT.hex(), validation_share=VALIDATION_SHARE),
        tracks={"bench": track},
    )
    with ExitStack() as pools:
        training = pools.enter_context(Pool(lambda: start_sandbox("train", track), 1))
        others = pools.enter_context(Pool(lambda: start_sandbox("eval", track), 2))

        def run(source: str, seed: int, salt: bytes) -> float | None:
            request = TrialRequest(source.encode(), "bench", seed, salt)
            return run_trial(
                request, challenge, text, start=lambda mode, _: (training if mode == "train" else others).take()
            ).val_bpb

        yield run


def ranks(effort: Effort) -> Outcome:
    """Spearman's correlation of surrogate and real scores, over random descendants of the baseline."""
    record = read_record()
    truth, known = fit(record).surrogate(), {one.program for one in record.trials}
    rng = random.Random("ranks")
    pairs: list[tuple[float, float]] = []
    with real_trials(record.budget_s, record.eval_bytes) as run:
        for number in range(10 * RANKED):
            text = moves(record.baseline, rng, rng.randint(1, MOVES_MAX))
            said = truth.of(truth.reader.read(text))
            if fingerprint(text) in known:
                continue
            known.add(fingerprint(text))
            score = run(text, number, SALT)
            if score is not None:
                pairs.append((said, score))
                effort.say(f"ranks: surrogate {said:.3f}, real {score:.3f}")
            if len(pairs) >= effort.repeat(RANKED, 4 * RANKED).stop:
                break
    return Outcome(
        [_alike("recorded scores of programs left out of the fit", left_out(record)), _alike("real scores", pairs)]
    )


def _alike(what: str, pairs: Sequence[tuple[float, float]]) -> Row:
    rho, low, high = correlation(pairs)
    what = f"Spearman's correlation of surrogate and {what} [{low:.2f}, {high:.2f}]"
    return Row(what=what, figure=rho, unit="", repetitions=len(pairs))


def left_out(record: Record) -> list[tuple[float, float]]:
    """Surrogate's and recorded score of each program, with a surrogate fitted without it, in FOLDS parts."""
    programs = sorted({one.program for one in record.trials if one.score is not None})  # by digest: no order
    pairs: list[tuple[float, float]] = []
    for part in range(FOLDS):
        held = set(programs[part::FOLDS])
        truth = fit(replace(record, trials=tuple(one for one in record.trials if one.program not in held))).surrogate()
        scores: dict[str, list[float]] = {}
        readings: dict[str, Reading] = {}
        for one in record.trials:
            if one.program in held and one.score is not None:
                scores.setdefault(one.program, []).append(one.score)
                readings[one.program] = Reading(one.knobs, one.recipes)
        pairs += [(truth.of(readings[name]), statistics.fmean(found)) for name, found in scores.items()]
    return pairs


def correlation(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Spearman's rho of (n, 2), and its 95 % percentile bootstrap interval (Efron and Tibshirani 1993, 13.3)."""
    values, rng = np.array(pairs), np.random.default_rng(5)

    def rho(rows: np.ndarray) -> float:
        return float(spearmanr(rows[:, 0], rows[:, 1]).statistic)

    drawn = [rho(values[rng.integers(len(values), size=len(values))]) for _ in range(RESAMPLES)]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return rho(values), float(low), float(high)


def real(effort: Effort) -> Outcome:
    """Searches with the trainer itself; their final programs with fresh seeds on a split that no search has seen."""
    record = read_record()
    baseline, total = program("cpu_quick.py").decode(), REAL_TRIALS_FULL if effort.full else REAL_TRIALS
    arms = list(ARMS) if effort.full else ["a", "d"]
    finals: dict[str, list[float]] = {arm: [] for arm in arms}
    rows: list[Row] = []
    with real_trials(record.budget_s, record.eval_bytes) as run:
        for repeated in effort.repeat(1, REAL_REPETITIONS_FULL):
            memory = Memory()
            for arm in arms:
                rng = random.Random(f"real {arm} {repeated}")
                lab = search(arm, lambda text, seed: run(text, seed, SALT), total, baseline, rng, memory)
                fresh = [score for seed in FRESH_SEEDS if (score := run(lab.final, seed, PRIVATE_SALT)) is not None]
                if len(fresh) < 2:
                    raise RuntimeError(f"the final program of ({arm}) fails on fresh seeds: run this part again")
                finals[arm].append(statistics.fmean(fresh))
                keeps = len(lab.incumbents) - 1
                name = f"real: ({arm}) {ARMS[arm]}, {total} trials, {keeps} keeps, repetition {repeated + 1}"
                rows.append(_mean(name, fresh, "bpb"))
                effort.say(f"{name}: {finals[arm][-1]:.3f}")
    for other in arms:
        if other != "d" and other != "e":
            differences = [d - o for d, o in zip(finals["d"], finals[other], strict=True)]
            rows.append(_mean(f"real: (d) - ({other})", differences, "bpb"))
    return Outcome(rows)


PARTS: Parts = {"surrogate": surrogate, "ranks": ranks, "real": real, "lane": lane, **proposals.PARTS}
