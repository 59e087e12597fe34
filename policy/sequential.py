"""Whether paired runs show what a peer claims: a sequential test that may be looked at after every pair.

The data are differences child - parent in bits per byte, negative is better. Two e-processes run side by side: one
against "no better" (mean >= 0), one against "at least a stated share of what was claimed" (mean <= -worth). An
e-process is a non-negative process whose mean is at most 1 under its hypothesis at whatever time one stops, so that it
ever reaches 1 / α with probability at most α (Ville 1939; Ramdas, Grünwald, Vovk & Shafer 2023).

Each is the Bayes factor of the t-statistic. The unknown scale is integrated out with its right Haar prior, which makes
the factor a test martingale of the scale-invariant data (Pérez-Ortiz, Lardy, de Heide & Grünwald 2024; Wang & Ramdas
2025), and the standardised effect has a half-normal prior of scale `EFFECT_SCALE` (Robbins 1970). What is known of the
noise enters as data: a sum of squares with its degrees of freedom, with the same right Haar prior.

That noise was measured on other programs. So it counts with at most `DOF_MAX` degrees of freedom, and with at most
`DOF_MIN` a second time, and the smaller e-value is the one that counts: programs that scatter ten times as much as the
baseline, by accident or on purpose, pass for better hardly more often for it (docs/evidence.md has the measured rates,
with those of skewed and heavy-tailed noise). *Pure.*
"""

import math
from collections.abc import Sequence

from scipy.special import stdtr

from policy.evidence import Decision, Effect
from policy.noise import Spread

ALPHA = 0.025  # chance that what is no better is ever confirmed; two-sided it makes the 95 % interval
ALPHA_REFUTE = 0.05  # chance that a claim of which at least `WORTH_SHARE` is true is ever refuted
PAIRS_MIN = 3  # fewer never decide: it is what an accidental accord of two pairs costs to rule out
PAIRS_MAX = 12  # then the verdict is open; normal noise finds a gain of 1.4 standard deviations in most cases by then
EFFECT_SCALE = 2.0  # of the prior of effects, in standard deviations of a difference
DOF_MAX, DOF_MIN = 6.0, 1.0
# Less than this share of what was claimed refutes the claim: winners exaggerate a little, and machines differ.
WORTH_SHARE = 0.5
WORTH_NOISE = 0.5  # the same where nothing was claimed, in standard deviations of a difference


def bayes_factor(estimate: float, variance: float, squares: float, dof: float, scale: float) -> float:
    """Bayes factor of a positive effect against none, for an unknown standard deviation σ of one observation.

    `estimate` is a least-squares estimate of the effect with variance `variance` · σ²; `squares` the sum of squares
    about the fit with `dof` degrees of freedom, of whatever origin. The prior is |N(0, `scale`² σ²)|, that of σ is 1/σ.
    Integrating both gives twice the two-sided factor (Wang & Ramdas 2025, with a sum of squares of its own) times the
    posterior chance of a positive effect.
    """
    under_none = squares + estimate**2 / variance
    under_some = squares + estimate**2 / (variance + scale**2)
    if under_some <= 0:  # nothing scatters, and there is no effect
        return 1.0
    log_two_sided = 0.5 * (dof + 1) * math.log(under_none / under_some) - 0.5 * math.log1p(scale**2 / variance)
    shrunk = scale**2 / (variance + scale**2)
    error = math.sqrt(under_some / (dof + 1) * variance * shrunk)
    chance = float(stdtr(dof + 1, estimate * shrunk / error))
    return 2 * chance * math.exp(min(log_two_sided, 700.0))


def e_value(differences: Sequence[float], noise: Spread) -> float:
    """Evidence that the mean of the differences, (n,), is below 0: against "0 or above". 1 with no data.

    `noise` is the spread of a difference.
    """
    n = len(differences)
    if n == 0:
        return 1.0
    gain = -math.fsum(differences) / n
    scatter = math.fsum((difference + gain) ** 2 for difference in differences)
    dofs = (min(noise.dof, DOF_MAX), min(noise.dof, DOF_MIN))
    return min(bayes_factor(gain, 1 / n, scatter + dof * noise.sd**2, dof + n - 1, EFFECT_SCALE) for dof in dofs)


def interval(differences: Sequence[float], noise: Spread) -> tuple[float, float]:
    """Always-valid 95 % interval of the mean of the differences, (n,) with n >= 1, in bits per byte.

    The effects that the two-sided test of level 2 · `ALPHA` does not reject, whenever one looks (Wang & Ramdas 2025).
    It is (-inf, inf) while scatter and effect cannot be told apart: one pair, or two and a noise of few runs.
    """
    n = len(differences)
    mean = math.fsum(differences) / n
    dof = min(noise.dof, DOF_MAX)
    squares = dof * noise.sd**2 + math.fsum((difference - mean) ** 2 for difference in differences)
    spreading = 1 + n * EFFECT_SCALE**2
    bound = (math.sqrt(spreading) / (2 * ALPHA)) ** (2 / (dof + n))
    if bound >= spreading:
        return -math.inf, math.inf
    margin = math.sqrt(squares * (bound - 1) / (1 - bound / spreading) / n)
    return mean - margin, mean + margin


def effect(differences: Sequence[float], noise: Spread) -> Effect:
    """Mean, always-valid 95 % interval and always-valid one-sided p-value of "no better", (n,) with n >= 1.

    The p-value is the smallest 1 / e-value on the way. `noise` is the spread of a difference.
    """
    if not differences:
        raise ValueError("an effect needs at least one pair")
    low, high = interval(differences, noise)
    largest = max(e_value(differences[:count], noise) for count in range(len(differences) + 1))
    return Effect(math.fsum(differences) / len(differences), low, high, min(1.0, 1 / largest))


def worth(noise: Spread, claimed: float | None) -> float:
    """The gain in bits per byte below which a claim does not hold; `claimed` is its mean, negative for a gain."""
    if claimed is not None and claimed >= 0:
        raise ValueError("a claim of no gain has nothing to verify")
    return WORTH_NOISE * noise.sd if claimed is None else WORTH_SHARE * -claimed


def verdict(
    differences: Sequence[float], noise: Spread, *, claimed: float | None = None, pairs_max: int = PAIRS_MAX
) -> Decision:
    """What these pairs say of a claim; call it after every pair, and stop when it is not `Decision.MORE`.

    `noise` is the spread of a difference (`Spread.of_difference`), `claimed` the mean that the claim states (negative),
    or None to ask for half a standard deviation of noise. BETTER: a gain is shown. NOT_BETTER: it is shown that the
    gain is not `worth` it. UNDECIDED: neither within `pairs_max` pairs, or neither even if all that are left agreed.
    How many are allowed may follow from the data and from others' words: the test is valid whenever one stops.
    """
    least = worth(noise, claimed)
    n = len(differences)
    if n < PAIRS_MIN:
        return Decision.MORE
    if _shown(differences, noise):
        return Decision.BETTER
    if _refuted(differences, noise, least):
        return Decision.NOT_BETTER
    left = pairs_max - n
    hoped = max(least / WORTH_SHARE, noise.sd)
    if _shown([*differences, *[-hoped] * left], noise) or _refuted([*differences, *[hoped] * left], noise, least):
        return Decision.MORE
    return Decision.UNDECIDED


def _shown(differences: Sequence[float], noise: Spread) -> bool:
    return e_value(differences, noise) >= 1 / ALPHA


def _refuted(differences: Sequence[float], noise: Spread, least: float) -> bool:
    return e_value([-(difference + least) for difference in differences], noise) >= 1 / ALPHA_REFUTE
