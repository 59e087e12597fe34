"""What a node's own stream of candidates has taught it about the effects of changes: how many help, and how much.

An effect is the difference of the means of child and parent, in standard deviations of one run; negative is better. Its
distribution is a mixture of normals: none (exactly 0), and gains and harms of a few sizes, each N(±size, (0.4 size)²).
The shares are learnt from all candidates by EM with a Dirichlet prior (Dempster, Laird & Rubin 1977; empirical Bayes as
in Efron 2008 and Stephens 2017). Which candidates got more runs depends on their data only, so that the likelihood
of what was seen is the same as if that had been fixed. *Pure.*
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from policy.noise import FloatArray

SIZES = np.array([0.6, 1.2, 2.4, 4.8, 9.6, 19.2])  # standard deviations of one run
MEANS = np.concatenate([-SIZES, [0.0], SIZES])  # (components,)
VARIANCES = (0.4 * MEANS) ** 2
GAINS = MEANS < 0
START = np.concatenate([np.full(6, 0.08 / 6), [0.37], np.full(6, 0.55 / 6)])  # the share of each before any candidate
START_CANDIDATES = 12.0  # and how many candidates that is worth
EM_STEPS = 25

_TABLE_VARIANCES = np.geomspace(0.02, 4.0, 24)
_TABLE_ESTIMATES = np.linspace(-12.0, 1.0, 131)


class Posterior(NamedTuple):
    """Of an effect in standard deviations of a run: a normal for each component, (components,)."""

    weights: FloatArray
    means: FloatArray
    variances: FloatArray

    @property
    def null(self) -> float:
        """Chance that it is no gain."""
        return float(self.weights[~GAINS].sum())

    @property
    def gain(self) -> float:
        """Expected gain, of either sign."""
        return -float(self.weights @ self.means)


class Effects:
    """A learnt distribution of effects, and what follows from it for an estimate."""

    def __init__(self, shares: FloatArray = START) -> None:
        """`shares` of the components, (components,), positive; they sum to 1."""
        self.shares = shares
        self._log_shares = np.log(shares)
        posterior_weights = self._weights(_TABLE_ESTIMATES, _TABLE_VARIANCES[:, None])
        self._nulls = posterior_weights[..., ~GAINS].sum(axis=-1)  # (variances, estimates)

    def _weights(self, estimates: FloatArray, variances: FloatArray) -> FloatArray:
        total = VARIANCES + variances[..., None]
        logs = self._log_shares - 0.5 * (estimates[..., None] - MEANS) ** 2 / total - 0.5 * np.log(total)
        weights: FloatArray = np.exp(logs - logs.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return weights

    @property
    def usual_gain(self) -> float:
        """Size of the gains that there are, in standard deviations of a run: the geometric mean."""
        shares = self.shares[GAINS]
        return math.exp(float(shares @ np.log(SIZES)) / float(shares.sum()))

    def posterior(self, estimate: float, variance: float) -> Posterior:
        """Given an unbiased normal estimate of the effect, in standard deviations and variances of a run."""
        weights = self._weights(np.array(estimate), np.array(variance))
        total = VARIANCES + variance
        return Posterior(weights, (estimate * VARIANCES + MEANS * variance) / total, VARIANCES * variance / total)

    def bounds(self, variances: FloatArray, null_max: float) -> FloatArray:
        """The estimates, (n,), below which the chance of no gain is at most `null_max`, for estimates' variances, (n,).

        From a table, rounded to the strict side.
        """
        rows = self._nulls[np.minimum(np.searchsorted(_TABLE_VARIANCES, variances), len(_TABLE_VARIANCES) - 1)]
        found: FloatArray = _TABLE_ESTIMATES[np.maximum(np.argmax(rows > null_max, axis=1) - 1, 0)]
        return found

    def gain_if_kept(self, estimate: float, variance: float, variances: FloatArray, null_max: float) -> FloatArray:
        """Expected gain in standard deviations, (n,), if more runs bring the variance down to `variances`, (n,), and
        the candidate is kept when its chance of no gain is at most `null_max` then, and given up else.
        """
        now = self.posterior(estimate, variance)
        ratio = np.minimum(variances / variance, 0.999)[:, None]
        mean = now.means + ratio * (estimate - now.means)  # of the estimate to come, (n, components)
        spread = np.sqrt((1 - ratio) ** 2 * now.variances + variances[:, None] * (1 - ratio))
        z = (self.bounds(variances, null_max)[:, None] - mean) / spread
        density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
        gains = -now.means * ndtr(z) + (1 - ratio) * now.variances / spread * density
        result: FloatArray = gains @ now.weights
        return result


def learn(estimates: FloatArray, variances: FloatArray) -> Effects:
    """From estimates of effects, (n,), and their variances, (n,), in standard deviations and variances of a run."""
    total = VARIANCES + variances[:, None]
    exponents = -0.5 * (estimates[:, None] - MEANS) ** 2 / total
    densities = np.exp(exponents - exponents.max(axis=1, initial=-math.inf, keepdims=True)) / np.sqrt(total)
    shares = START
    for _ in range(EM_STEPS if len(estimates) else 0):
        joint = densities * shares
        counts = (joint / joint.sum(axis=1, keepdims=True)).sum(axis=0)
        shares = (counts + START * START_CANDIDATES) / (len(estimates) + START_CANDIDATES)
    return Effects(shares)
