"""A node's own search: which run to make next, and which candidate to keep.

One candidate is tried at a time against the incumbent. Runs of the incumbent (controls) serve all candidates. What is
known of the incumbent's level is a normal distribution that widens with every run made since (the drift of
`policy.noise`), so that old controls lose weight by themselves, and on a machine that drifts much every child run wants
a control of its own.

    propose ──► child, seed 0 ──► discard
                    │  it only selects
                    ▼
                child, seeds 1, 2, … and controls of the same seeds ──► discard
                    │  they confirm
                    ▼
                   keep

**Belief.** Level of the incumbent and effect of the candidate are jointly normal with a flat effect; the learnt mixture
of effects (`policy.effects`) then weighs it. What a candidate's runs say about the incumbent's level is kept when the
candidate is gone: the mixture is replaced by the normal with its mean and variance (assumed density filtering).

**Keep.** A candidate is kept if all of these hold:

1. at least `CONFIRMING_MIN` runs after the first, each with a control of the same seed, and their mean is a gain;
2. an e-value of at least `E_MIN` against "no better" from what came after the first run (`confirming_e_value`);
3. its posterior chance of being no better is at most `NULL_MAX`, and the mean of these chances over all keeps,
   this one included, stays at or below `FDR` (Gang, Sun & Wang 2023; Sun & Cai 2007).

**Continue.** The next run goes where it is worth most: for 1 to `AHEAD_MAX` more child runs, the expected gain if the
candidate is kept then, less the runs at the rate at which this stream has yielded gains so far. Nothing positive:
discard. *Pure*: it holds state, and the same calls always lead to the same state.
"""

import math
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

import numpy as np

from policy.belief import WIDE, Belief, Run, confirming_e_value, contrast
from policy.effects import Effects, Posterior, learn
from policy.noise import NoiseModel, Spread

FDR = 0.1  # over the keeps of a stream
NULL_MAX = 0.3
E_MIN = 5.0
NOISE_DOF_MIN = 2.0  # of the spread, before the first candidate: three runs
CONFIRMING_MIN = 2
CHILD_RUNS_MAX = 40
CONTROLS_MAX = 64  # kept for e-values and pairs; the belief has all of them
AHEAD_MAX = 8
LEVEL_SHARE = 0.25  # of the usual gain: standard deviation of the incumbent's level when a candidate is begun, but
LEVEL_VARIANCE_MIN, LEVEL_VARIANCE_MAX = 0.2, 0.6  # in variances of a run: that of five, and what a keep may leave
CONTROL_BONUS = 1.5  # a control serves later candidates as well
RUN_PRICE = 0.4  # of the stream's gain per run: most of what a run could find elsewhere needs several
RATE_START, RATE_START_RUNS = 0.03, 40.0  # gain per run in standard deviations before anything is known
LEARN_EVERY = 5
CANDIDATES_MAX = 1000  # the last that are learnt from


class Step(Enum):
    PROPOSE = "propose a candidate"
    CONTROL = "run the incumbent"
    CHILD = "run the candidate"
    KEEP = "keep the candidate"
    DISCARD = "discard the candidate"


class Next(NamedTuple):
    step: Step
    seed: int = 0  # number of the seed of the run, where a run is due
    reason: str = ""


class Past(NamedTuple):
    """A run that was made before a restart."""

    program: str
    incumbent: str  # when it was made
    seed: int  # number
    score: float | None  # None: it failed
    at: int


class Search:
    """The state of one node's search in one track; see the module. Feed it every run, and ask `next` what to do."""

    def __init__(self, noise: NoiseModel | None = None, *, fdr: float = FDR) -> None:
        """`fdr`: the level at which the mean chance of a keep to be false is held."""
        self.fdr = fdr
        self.noise = noise or NoiseModel()
        self.controls: list[Run] = []
        self.children: list[Run] = []  # of the present candidate
        self.candidates = self.keeps = self.runs = 0
        self._seen: list[tuple[float, float]] = []  # effects: estimate in bits per byte, its variance in those of a run
        self._null_sum = 0.0  # over the keeps
        self._gain_sum = RATE_START * RATE_START_RUNS  # standard deviations
        self._belief = Belief(0.0, WIDE, 0)
        self._incumbent, self._trying = "incumbent 0", False
        self._selected_controls: list[Run] = []  # what the first run of the candidate was compared with
        self._selected_spread = Spread(0.0, 0.0)
        self.effects = Effects()

    # -- what happens -------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A candidate is there. Raises `ValueError` if there is one already."""
        if self._trying:
            raise ValueError("one candidate at a time: keep or discard the present one first")
        self._trying, self.children = True, []

    def control(self, seed: int, score: float, at: int) -> None:
        """The incumbent ran."""
        self.noise.observe(self._incumbent, score, at)
        self.runs += 1
        self._belief.walk(at, self.noise.drift)
        self._belief.control(score)
        self.controls = [*self.controls, Run(seed, score, at)][-CONTROLS_MAX:]

    def child(self, seed: int, score: float, at: int) -> None:
        """The candidate ran."""
        if not self._trying or not self.controls:
            raise ValueError("a candidate is run after `begin`, and after a control")
        if self.children:  # the first is there because it was low: what follows it would look like noise
            self.noise.observe(f"candidate {self.candidates}", score, at)
        self.runs += 1
        self._belief.walk(at, self.noise.drift)
        self.children.append(Run(seed, score, at))
        if len(self.children) == 1:
            self._belief.first_child(score)
            self._selected_controls, self._selected_spread = self.controls, self.noise.spread
        else:
            self._belief.child(score)

    def failed(self) -> None:
        """The candidate has no score: it is gone, and says nothing about effects."""
        self._forget()

    def discard(self) -> None:
        """The candidate is given up; what it taught is kept."""
        if self.children:
            self._remember()
            self._collapse(self.posterior(), adopt=False)
        self._forget()

    def keep(self) -> None:
        """The candidate becomes the incumbent; its confirming runs become controls.

        Raises `ValueError` without confirming runs: whatever asks for it, the first run is no evidence.
        """
        if not self.confirmed:
            raise ValueError(f"a candidate is kept after {CONFIRMING_MIN} confirming runs, not before")
        posterior = self.posterior()
        self._remember()
        self._null_sum += posterior.null
        self._gain_sum += max(posterior.gain, 0.0)
        self.keeps += 1
        self._collapse(posterior, adopt=True)
        self.controls = self.children[1:]
        self._incumbent = f"candidate {self.candidates}"
        self._forget()

    def replace(self) -> None:
        """Another program, from elsewhere, is the incumbent: its level is unknown, and the candidate is gone."""
        self._belief = Belief(0.0, WIDE, self._belief.at)
        self.controls = []
        self._forget()
        self._incumbent = f"incumbent {self.candidates}"

    def _forget(self) -> None:
        self.candidates += 1
        self._trying, self.children = False, []
        if self.candidates % LEARN_EVERY == 0:
            self._learn()

    def _remember(self) -> None:
        self._seen = [*self._seen[-CANDIDATES_MAX + 1 :], (self._belief.estimate, self._belief.estimate_variance)]

    # -- what is believed ---------------------------------------------------------------------------------------------

    @property
    def sd(self) -> float:
        """Standard deviation of a run in bits per byte."""
        return max(self.noise.spread.sd, 1e-12)

    @property
    def rate(self) -> float:
        """Gain per run so far, in standard deviations."""
        return self._gain_sum / (self.runs + RATE_START_RUNS)

    def posterior(self) -> Posterior:
        """Of the present candidate's effect."""
        return self.effects.posterior(self._belief.estimate / self.sd, self._belief.estimate_variance)

    def posterior_level(self) -> tuple[float, float]:
        """Mean in bits per byte of what is known of the incumbent's level, and its variance in those of a run."""
        return self._belief.level, self._belief.variance

    def _collapse(self, posterior: Posterior, *, adopt: bool) -> None:
        """The level of the incumbent, or of the candidate that takes its place, as one normal distribution."""
        belief, sd = self._belief, self.sd
        slope = belief.covariance / belief.estimate_variance  # of the level in the effect
        residual = belief.variance - slope * belief.covariance
        levels = belief.level / sd + slope * (posterior.means - belief.estimate / sd)
        if adopt:
            levels, slope = levels + posterior.means, slope + 1
        mean = float(posterior.weights @ levels)
        variance = residual + float(posterior.weights @ ((levels - mean) ** 2 + slope**2 * posterior.variances))
        self._belief = Belief(mean * sd, variance, belief.at)

    def _learn(self) -> None:
        seen = np.array(self._seen).reshape(-1, 2)
        self.effects = learn(seen[:, 0] / self.sd, seen[:, 1])

    # -- what to do ---------------------------------------------------------------------------------------------------

    def next(self) -> Next:
        """What to do now. It changes nothing."""
        unknown = self.noise.spread.dof < NOISE_DOF_MIN
        if unknown or not self.controls or (not self._trying and self._belief.variance > self.level_variance_max):
            return Next(Step.CONTROL, self._control_seed(), "the incumbent's level is not known well enough")
        if not self._trying:
            return Next(Step.PROPOSE, reason="the incumbent's level is known well enough")
        if not self.children:
            return Next(Step.CHILD, 0, "a first run, which only selects")
        posterior = self.posterior()
        so_far = f"{len(self.children)} runs, chance of no gain {posterior.null:.3f}"
        if self._deserves_keeping(posterior):
            if (missing := self._missing_control()) is not None:
                return Next(Step.CONTROL, missing, "a confirming run has no control of its seed")
            if math.fsum(child.score - control.score for control, child in self.pairs()) < 0:
                return Next(Step.KEEP, reason=f"{so_far}, e-value {self.e_value():.3g}")
        if len(self.children) >= CHILD_RUNS_MAX or self.worth() <= 0:
            return Next(Step.DISCARD, reason=f"{so_far}, not worth more runs")
        belief = self._belief
        with_effect = belief.estimate_variance + belief.covariance
        by_child = with_effect**2 / (belief.variance + belief.covariance + with_effect + 1)
        by_control = belief.covariance**2 / (belief.variance + 1)
        if CONTROL_BONUS * by_control > by_child:
            return Next(Step.CONTROL, self._control_seed(), f"{so_far}: the incumbent's level is the larger doubt")
        return Next(Step.CHILD, len(self.children), so_far)

    def spare(self) -> Next | None:
        """A control that is worth more than an idle machine while a candidate is being made; None if there is none."""
        if self._trying or self._belief.variance <= max(LEVEL_VARIANCE_MIN, self._level_variance_reachable):
            return None
        return Next(Step.CONTROL, self._control_seed(), "no candidate is ready")

    def _deserves_keeping(self, posterior: Posterior) -> bool:
        return self.confirmed and posterior.null <= self.null_allowed and self.e_value() >= E_MIN

    @property
    def level_variance_max(self) -> float:
        """How uncertain the incumbent's level may be when a candidate is begun, in variances of a run.

        Where gains are large, a first run tells them at once, and a doubtful one asks for controls by itself (`next`).
        Where they are small, an uncertain level would select the wrong ones, and many candidates share its luck.

        On a machine that drifts much it can never be known well: there it is one control before each candidate.
        """
        wanted = (LEVEL_SHARE * self.effects.usual_gain) ** 2
        wanted = min(max(wanted, LEVEL_VARIANCE_MIN), LEVEL_VARIANCE_MAX)
        return max(wanted, self._level_variance_reachable)

    @property
    def _level_variance_reachable(self) -> float:
        """Where controls alone settle, P = (P + drift) / (P + drift + 1), and a little more."""
        drift = self.noise.drift
        return 1.05 * (math.sqrt(drift**2 + 4 * drift) - drift) / 2

    @property
    def confirmed(self) -> bool:
        """Whether the candidate has the runs without which nothing is kept."""
        return self._trying and len(self.children) > CONFIRMING_MIN

    @property
    def null_allowed(self) -> float:
        """How likely to be no better the next keep may be."""
        return min(NULL_MAX, self.fdr * (self.keeps + 1) - self._null_sum)

    def e_value(self) -> float:
        """Of the present candidate, for the drift that is likely and for the largest that is not unlikely.

        See `confirming_e_value`.
        """
        return min(
            confirming_e_value(
                contrast(self._selected_controls, self.children[:1], drift),
                contrast(self.controls, self.children, drift),
                self._selected_spread,
                self.noise.spread,
            )
            for drift in {self.noise.drift, self.noise.drift_high}
        )

    def worth(self) -> float:
        """Largest expected gain of going on with the candidate, less the price of its runs, in standard deviations.

        For 1 to `AHEAD_MAX` more runs of it, each with half a control.
        """
        belief = self._belief
        more = np.arange(1.0, AHEAD_MAX + 1)
        more = more[len(self.children) + more > CONFIRMING_MIN]
        controls = more / 2
        own = max(belief.estimate_variance - belief.variance, 1e-3)
        after = 1 / (1 / own + more) + belief.variance / (1 + controls * belief.variance)
        gains = self.effects.gain_if_kept(belief.estimate / self.sd, belief.estimate_variance, after, self.null_allowed)
        return float(np.max(gains - RUN_PRICE * self.rate * (more + controls / 2)))

    def _control_seed(self) -> int:
        used = {run.seed for run in self.controls}
        return next(seed for seed in range(1, len(used) + 2) if seed not in used)

    def _missing_control(self) -> int | None:
        used = {run.seed for run in self.controls}
        return next((run.seed for run in self.children[1:] if run.seed not in used), None)

    def pairs(self) -> list[tuple[Run, Run]]:
        """Control and child of each seed that both ran, without the first run of the child: what states a keep."""
        latest = {run.seed: run for run in self.controls}
        return [(latest[run.seed], run) for run in self.children[1:] if run.seed in latest]


def replay(search: Search, history: Iterable[Past], incumbent: str) -> str:
    """Bring a new search to where it was before a restart: all own runs on its split, oldest first.

    `incumbent`: the program built on now, which may have become so after the last run. The candidate that was being
    tried is returned; empty where there was none. An incumbent that was the candidate just before was kept; any other
    came from elsewhere. Runs of a candidate without a control before them, which this search would not have asked for,
    are passed over.
    """
    before = candidate = ""
    for past in history:
        if past.incumbent != before:
            _change(search, before, candidate, past.incumbent)
            before, candidate = past.incumbent, ""
        if candidate and (past.program not in (candidate, before) or search.next().step is Step.DISCARD):
            search.discard()
            candidate = ""
        if past.program == before:
            if past.score is not None:
                search.control(past.seed, past.score, past.at)
        elif search.controls:
            if not candidate:
                candidate = past.program
                search.begin()
            if past.score is None:
                search.failed()
                candidate = ""
            else:
                search.child(past.seed, past.score, past.at)
    if incumbent != before:
        _change(search, before, candidate, incumbent)
        candidate = ""
    return candidate


def _change(search: Search, before: str, candidate: str, incumbent: str) -> None:
    if candidate and incumbent == candidate and search.confirmed:
        search.keep()
    elif before:
        search.replace()
