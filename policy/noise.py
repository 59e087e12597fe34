"""What is known of the noise of a run: how far runs of one program lie apart, and how the machine drifts. *Pure.*"""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec import Struct

FloatArray = npt.NDArray[np.float64]


class Spread(Struct, frozen=True):
    """A standard deviation, and how much is known of it.

    `sd` is in bits per byte, `dof` are the degrees of freedom of the estimate: of normal noise, dof · sd² / σ² is
    chi-square distributed with dof of them. With dof 0 nothing is known, and `sd` says nothing.
    """

    sd: float
    dof: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sd) and math.isfinite(self.dof) and self.sd >= 0 and self.dof >= 0):
            raise ValueError(f"no spread: sd {self.sd}, dof {self.dof}; both must be finite and not negative")

    def of_difference(self) -> "Spread":
        """The same for the difference of two independent runs."""
        return Spread(math.sqrt(2) * self.sd, self.dof)


def spread_of(scores: Sequence[float]) -> Spread:
    """The spread of one run, from repeated runs of one program, (n,) in bits per byte. Raises ValueError: n < 2."""
    if len(scores) < 2:
        raise ValueError("noise needs at least two runs of the same program")
    return Spread(statistics.stdev(scores), len(scores) - 1)


DRIFTS = np.array([0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0])  # variance of the walk per run / variance of a run
DRIFTS_PRIOR = np.array([0.7, 0.06, 0.06, 0.05, 0.05, 0.04, 0.03, 0.01])  # most machines hardly drift
DRIFT_SURE = 0.9  # chance that the drift is at most `drift_high`
MEMORY_RUNS = 400  # after as many more repeated runs, one counts 1 / e of what it did
SEGMENTS_MAX = 8


class _Segment(NamedTuple):
    """The level of one program as the filter for each drift has it."""

    at: int  # number of its last run
    level: FloatArray  # (drifts,), bits per byte
    variance: FloatArray  # (drifts,), in variances of a run


class NoiseModel:
    """The standard deviation of one run, and how much a machine drifts: for one family of programs on one machine.

    A score is the program's mean, plus a random walk with variance τ² a run, plus noise of variance σ². Repeated runs
    of a program say how large both are: for each ratio τ²/σ² of `DRIFTS` a Kalman filter (1960) predicts each run from
    the ones before; the squared errors of these predictions, each over its variance, sum to a scaled chi-square. The
    ratios are weighed by their marginal likelihood with σ integrated out over 1/σ (Harvey 1989, 3.4).
    """

    def __init__(self, pooled: Spread | None = None) -> None:
        """`pooled`: what related families or machines make one expect; see `pool`."""
        known = pooled or Spread(0.0, 0.0)
        self._squares = np.full(len(DRIFTS), known.dof * known.sd**2)
        self._log_variances = np.zeros(len(DRIFTS))
        self._dof = known.dof
        self._segments: dict[str, _Segment] = {}
        self._weigh()

    def observe(self, program: str, score: float, at: int) -> None:
        """A run of a program, in bits per byte; `at` counts all runs on this machine. Later runs come later.

        Raises `ValueError` for a score that is not finite, or a run before the last of its program.
        """
        if not math.isfinite(score):
            raise ValueError(f"no score: {score}")
        before = self._segments.pop(program, None)
        if before is None:
            self._segments[program] = _Segment(at, np.full(len(DRIFTS), score), np.ones(len(DRIFTS)))
            if len(self._segments) > SEGMENTS_MAX:
                del self._segments[next(iter(self._segments))]  # the one that ran longest ago
            return
        if at < before.at:
            raise ValueError(f"run {at} of this program comes after its run {before.at}")
        variance = before.variance + DRIFTS * (at - before.at)
        error = score - before.level
        keep = math.exp(-1 / MEMORY_RUNS)
        self._squares = keep * self._squares + error**2 / (variance + 1)
        self._log_variances = keep * self._log_variances + np.log(variance + 1)
        self._dof = keep * self._dof + 1
        gain = variance / (variance + 1)
        self._segments[program] = _Segment(at, before.level + gain * error, gain)
        self._weigh()

    def _weigh(self) -> None:
        if self._dof > 0 and self._squares.min() > 0:
            logs = np.log(DRIFTS_PRIOR) - 0.5 * self._log_variances - 0.5 * self._dof * np.log(self._squares)
            weights = np.exp(logs - logs.max())
        else:
            weights = DRIFTS_PRIOR
        weights = weights / weights.sum()
        mean_square = float(weights @ self._squares) / self._dof if self._dof > 0 else 0.0
        self.spread = Spread(math.sqrt(mean_square), self._dof)
        self.drift = float(weights @ DRIFTS)
        self.drift_high = float(DRIFTS[np.flatnonzero(np.cumsum(weights[::-1])[::-1] >= 1 - DRIFT_SURE)[-1]])


def pool(spreads: Sequence[Spread], dof_max: float = 6.0) -> Spread | None:
    """What other families or machines make one expect of a new one: their pooled variance, worth `dof_max` at most.

    None if they know nothing. A scaled inverse chi-square prior (Gelman et al., Bayesian Data Analysis, 2.6).
    """
    dof = math.fsum(spread.dof for spread in spreads)
    if dof == 0:
        return None
    variance = math.fsum(spread.dof * spread.sd**2 for spread in spreads) / dof
    return Spread(math.sqrt(variance), min(dof, dof_max))
