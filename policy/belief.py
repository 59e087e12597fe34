"""What runs say of a candidate without a prior: its difference to the incumbent, with drift. *Pure.*"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from policy.noise import Spread
from policy.sequential import bayes_factor

E_SCALE = 2.0  # of the prior of effects behind the e-value, in standard deviations of a run
E_DOF_MAX = 30.0  # past it normal noise is trusted further than it should be
WIDE = 1e6  # variance of an unknown level, in variances of a run


class Run(NamedTuple):
    seed: int  # number
    score: float  # bits per byte
    at: int  # number of the run on this machine


def contrast(controls: Sequence[Run], children: Sequence[Run], drift: float) -> tuple[float, float]:
    """Generalised least-squares estimate of child - parent in bits per byte, and its variance in variances of a run.

    Levels walk with variance `drift` a run; runs at one place share the walk. At least one of each kind.
    """
    runs = [*controls, *children]
    at = np.array([float(run.at) for run in runs])
    walked = np.minimum.outer(at, at) - at.min()
    covariance = np.eye(len(runs)) + drift * walked
    design = np.column_stack([np.ones(len(runs)), [0.0] * len(controls) + [1.0] * len(children)])
    solved = np.linalg.solve(covariance, np.column_stack([design, [run.score for run in runs]]))
    inverse = np.linalg.inv(design.T @ solved[:, :2])
    return float(inverse[1] @ (design.T @ solved[:, 2])), float(inverse[1, 1])


def confirming_e_value(before: tuple[float, float], now: tuple[float, float], then: Spread, spread: Spread) -> float:
    """Evidence against "no better" in the runs after the first: `before` and `now` as `contrast` gives them.

    The Bayes factor of all runs over that of the runs up to and with the first of the child: the factor by which the
    later ones changed it. It is 1 at the first run whatever that run was; a lucky first run adds nothing, and since
    "no better" predicts the later runs from it as well, it makes them harder to surprise. The unknown level of the
    incumbent is integrated out with its right Haar prior, and so is the unknown σ, with the repeated runs so far.
    """
    factors = []
    for (estimate, variance), known in ((now, spread), (before, then)):
        dof = min(known.dof, E_DOF_MAX)
        factors.append(bayes_factor(-estimate, variance, dof * known.sd**2, dof, E_SCALE))
    return factors[0] / max(factors[1], 1e-300)


class Belief:
    """Level of the incumbent and effect of a candidate, as a normal distribution with a flat effect.

    A Kalman filter (1960). Levels and effects are in bits per byte, variances in those of a run.
    """

    def __init__(self, level: float, variance: float, at: int) -> None:
        self.level, self.variance, self.at = level, variance, at
        self.estimate = self.estimate_variance = self.covariance = 0.0  # of the effect

    def walk(self, at: int, drift: float) -> None:
        """Time goes on to run number `at`; each run adds the variance `drift`."""
        self.variance = min(self.variance + drift * max(0, at - self.at), WIDE)
        self.at = max(self.at, at)

    def control(self, score: float) -> None:
        """A run of the incumbent."""
        if self.variance >= WIDE:
            self.level, self.variance = score, 1.0
            return
        share = self.variance + 1
        error = score - self.level
        gain, other = self.variance / share, self.covariance / share
        self.level += gain * error
        self.estimate += other * error
        self.estimate_variance -= other * self.covariance
        self.covariance -= gain * self.covariance
        self.variance = gain

    def first_child(self, score: float) -> None:
        """The first run of the candidate: with a flat effect it says nothing of the level."""
        self.estimate, self.estimate_variance = score - self.level, self.variance + 1
        self.covariance = -self.variance

    def child(self, score: float) -> None:
        """A later run of the candidate."""
        with_level = self.variance + self.covariance
        with_effect = self.estimate_variance + self.covariance
        total = with_level + with_effect + 1
        error = score - self.level - self.estimate
        self.level += with_level / total * error
        self.estimate += with_effect / total * error
        self.variance -= with_level**2 / total
        self.estimate_variance -= with_effect**2 / total
        self.covariance -= with_level * with_effect / total
