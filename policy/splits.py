"""How often a split may be asked, and whether an improvement carries over from one split to others.

A split that answers many questions is fitted by whoever asks (Dwork et al. 2015: the reusable holdout). Private splits
therefore serve a stated number of verifications and are then replaced and revealed (`node.salts` keeps the count on
disk). The public split is fixed, for comparable scores: it can only be watched, by comparing what a change gains there
with what it gains on splits that its finder never saw. *Pure.*
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct
from scipy.special import chdtrc, stdtr

from policy.noise import Spread
from policy.sequential import DOF_MAX

USES_MAX = 20  # of a private split: each answers with about one bit about it, and with noise
LEVEL = 0.01  # of the check below; a node makes it for every discovery that it verifies


def spent(uses: int) -> bool:
    """Whether a private split has served its time. Raises `ValueError` for a negative count."""
    if uses < 0:
        raise ValueError(f"a split cannot have been asked {uses} times")
    return uses >= USES_MAX


def uses(asked: Iterable[str]) -> Mapping[str, int]:
    """How often each split was asked, from the split's name of every comparison or trial that has one."""
    return Counter(asked)


class Estimate(Struct, frozen=True):
    """A mean difference in bits per byte, its standard error, and the degrees of freedom of that error."""

    mean: float
    error: float
    dof: float


def estimate(differences: Sequence[float], noise: Spread) -> Estimate:
    """From paired differences, (n,) with n >= 1, and the spread of a difference, pooled.

    Raises `ValueError` where neither says how much differences scatter.
    """
    n = len(differences)
    known = min(noise.dof, DOF_MAX)
    if n == 0 or n - 1 + known <= 0:
        raise ValueError("an estimate needs two differences, or one and a noise")
    mean = math.fsum(differences) / n
    squares = known * noise.sd**2 + math.fsum((difference - mean) ** 2 for difference in differences)
    dof = n - 1 + known
    return Estimate(mean, math.sqrt(squares / dof / n), dof)


class CarryOver(Struct, frozen=True):
    """What became of an effect on other splits."""

    flagged: bool  # the gain elsewhere is smaller than on the split where it was found, at `LEVEL`
    found: float  # bits per byte, negative is better
    elsewhere: float  # the same, pooled by inverse variance
    p_value: float  # one-sided, of "elsewhere it gains at least as much"
    heterogeneity: float  # Cochran's Q of all estimates
    heterogeneity_p: float  # of "one effect on all splits": also where the others disagree among themselves


def carries_over(found: Estimate, elsewhere: Sequence[Estimate]) -> CarryOver:
    """Compare the effect where it was found with those on splits that its finder did not see, at least one.

    Welch's test (1947) of the difference, with the others pooled by inverse variance, and Cochran's Q (1954) over all.
    With few pairs Q is only roughly chi-square distributed, so that the flag rests on the first alone. The runs that
    state a discovery are not those that selected it, yet a claim that was made because it was large is a little too
    large: a flag is a reason to look, not a proof.
    """
    if not elsewhere:
        raise ValueError("nothing to compare with: no other split was asked")
    weights = [1 / max(one.error, 1e-12) ** 2 for one in elsewhere]
    pooled = math.fsum(weight * one.mean for weight, one in zip(weights, elsewhere, strict=True)) / math.fsum(weights)
    parts = [(found.error**2, found.dof)]
    parts += [
        ((weight / math.fsum(weights) * one.error) ** 2, one.dof)
        for weight, one in zip(weights, elsewhere, strict=True)
    ]
    variance = max(math.fsum(part for part, _ in parts), 1e-24)
    # Satterthwaite (1946)
    dof = variance**2 / max(math.fsum(part**2 / dof for part, dof in parts), 1e-300)
    p_value = float(stdtr(dof, (found.mean - pooled) / math.sqrt(variance)))
    every = [found, *elsewhere]
    weights = [1 / max(one.error, 1e-12) ** 2 for one in every]
    centre = math.fsum(weight * one.mean for weight, one in zip(weights, every, strict=True)) / math.fsum(weights)
    q = math.fsum(weight * (one.mean - centre) ** 2 for weight, one in zip(weights, every, strict=True))
    return CarryOver(p_value <= LEVEL, found.mean, pooled, p_value, q, float(chdtrc(len(every) - 1, q)))
