"""What a comparison comes to: a decision, an effect, and the t-test for pairs whose number was fixed beforehand.

Decisions of a node are taken while pairs come in and are those of policy/sequential.py and policy/search.py. `effect`
is for comparisons by hand (`waggle compare`): all pairs are looked at once, where Student's paired t-test (1908) is
exact for normal differences and has the narrower interval. Whoever looks at it earlier, or compares many programs and
picks the best, has more errors than it says. *Pure.*
"""

import math
import statistics
from collections.abc import Sequence
from enum import Enum

from msgspec import Struct
from scipy.special import stdtr, stdtrit


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


def effect(differences: Sequence[float]) -> Effect:
    """Mean, interval and p-value of paired differences child - parent, (n,) with n >= 2, in bits per byte.

    Differences that are all equal count as exact, which for two programs that draw no random numbers they are. Raises
    `ValueError` for fewer than two.
    """
    n = len(differences)
    if n < 2:
        raise ValueError("an effect with an interval needs at least two pairs")
    mean = statistics.fmean(differences)
    error = statistics.stdev(differences) / math.sqrt(n)
    if error == 0:
        return Effect(mean, mean, mean, 0.0 if mean < 0 else 1.0)
    margin = float(stdtrit(n - 1, 0.975)) * error
    return Effect(mean, mean - margin, mean + margin, float(stdtr(n - 1, mean / error)))
