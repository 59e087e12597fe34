"""When a difference is believed: the paired t-test over seeds, with the noise of the baseline as a second opinion.

A comparison runs two programs with the same seeds on the same split; its data are the differences child - parent in
bits per byte, negative is better. The procedure is fixed before the first run:

* There are two looks at the data, after 3 and after 6 pairs. The child is believed better at a look if the
  one-sided paired t-test (Student 1908) rejects "no better" at ALPHA / 2 *and* the mean gain is at least twice the
  standard error that the A/A noise predicts. Dividing ALPHA over the looks (Bonferroni) keeps the chance of a false
  keep per candidate at or below ALPHA for normal noise. The second condition is there because three differences that
  agree by accident give the t-test a tiny spread to divide by.
* A candidate of one's own whose mean so far is no gain is given up at once: stopping early for futility cannot raise
  the rate of false keeps. A peer's discovery gets its full first look, because a refutation is itself a claim.

What it does not give: control over a whole stream of candidates. A later version replaces this test (an always-valid
one); until then a peer's own re-verification on another split is what guards the swarm. *Pure.*
"""

import math
import statistics
from collections.abc import Sequence
from enum import Enum

from msgspec import Struct
from scipy.stats import t as student_t

ALPHA = 0.05  # chance of believing a candidate that is no better, over both looks
LOOKS = (3, 6)  # pairs
NOISE_RUNS = 3  # A/A trials of the baseline before the first candidate; the fewest that give a spread worth the name
STANDARD_ERRORS_MIN = 2.0


class Decision(Enum):
    MORE = "run another pair"
    BETTER = "better"
    NOT_BETTER = "no better"
    UNDECIDED = "promising, but not shown within the pairs allowed"


class Effect(Struct, frozen=True):
    """A mean difference with its 95 % interval, and the one-sided p-value of "no better"."""

    mean: float
    low: float
    high: float
    p_value: float


def difference_noise(scores: Sequence[float]) -> float:
    """Standard deviation of the difference of two runs of one program, from A/A runs with different seeds.

    Raises `ValueError` for fewer than two scores.
    """
    if len(scores) < 2:
        raise ValueError("noise needs at least two runs of the same program")
    return math.sqrt(2) * statistics.stdev(scores)


def effect(differences: Sequence[float], noise: float) -> Effect:
    """Mean, interval and p-value of paired differences, (n,) with n >= 2, in bits per byte.

    `noise` stands in for the spread where all differences are equal, which says nothing about it.
    """
    n = len(differences)
    if n < 2:
        raise ValueError("an effect with an interval needs at least two pairs")
    mean = statistics.fmean(differences)
    error = (statistics.stdev(differences) or noise) / math.sqrt(n)
    if error == 0:
        return Effect(mean, mean, mean, 0.0 if mean < 0 else 1.0)
    margin = float(student_t.ppf(0.975, n - 1)) * error
    return Effect(mean, mean - margin, mean + margin, float(student_t.cdf(mean / error, n - 1)))


def decide(differences: Sequence[float], noise: float, *, give_up_early: bool) -> Decision:
    """What to do after these pairs; `noise` as `difference_noise` gives it.

    `give_up_early` is for one's own candidates: stop as soon as the mean is no gain.
    """
    n = len(differences)
    if n == 0:
        return Decision.MORE
    mean = statistics.fmean(differences)
    if give_up_early and mean >= 0:
        return Decision.NOT_BETTER
    if n not in LOOKS:
        return Decision.MORE if n < LOOKS[-1] else Decision.UNDECIDED
    if mean >= 0:
        return Decision.NOT_BETTER
    large_enough = -mean >= STANDARD_ERRORS_MIN * noise / math.sqrt(n)
    if large_enough and effect(differences, noise).p_value <= ALPHA / len(LOOKS):
        return Decision.BETTER
    return Decision.MORE if n < LOOKS[-1] else Decision.UNDECIDED
