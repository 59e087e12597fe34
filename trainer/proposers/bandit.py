"""Which kind of change to try: Thompson sampling over what has worked here and, by standing, at peers.

An *arm* is an operator, and for a constant the direction in which it moves: a rate that paid to double may pay to
double again, and not to halve. Each arm has a Beta posterior of being kept (Thompson 1933; Chapelle and Li 2011), whose
prior says what published nights of search say: of the order of 15 candidates in 100 are kept, more where the expected
effect is large. One draw per arm, times its typical gain, is its score. Gains are counted in units of the median gain
that was kept, so the same arithmetic serves a CPU's tenths and a GPU's thousandths.

A change of which outcomes say something is drawn from the belief in its effect instead (`surface.py`): one that nearly
paid is worth another try on another parent, and one that paid in an earlier run or on another lineage comes first where
it is missing. That is how a skill reaches this proposer.

Outcomes fade: the program changes under the search, and what failed on an old parent may work on a new one.
"""

import itertools
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from trainer.proposers.proposal import Outcome
from trainer.proposers.surface import MOVE, Belief, faded

PRIOR_WEIGHT = 4.0  # trials that a prior counts for
KEPT_SHARE = 0.15  # field notes: 15 of 89, 22 of 125, 26 of 151, 36 of 194 candidates were kept
GAIN_MAX = 4.0  # in units of the median kept gain: one lucky run must not rule
USUAL_GAIN_SD = 3.0  # standard deviations of a run, where nothing was kept yet
UNIT_SD_MIN, UNIT_SD_MAX = 0.5, 8.0  # the same as kept, within what can be told from noise and what is usual
ELSEWHERE_SD = 0.7  # by which a change's effect on another parent differs, in the same unit
SCORE_MIN = 1e-3  # everything gets its turn


class Arm(NamedTuple):
    operator: str
    direction: int = 0  # of a constant's move: 1 up, -1 down, 0 neither


@dataclass
class _Tally:
    kept: float = 0.0
    lost: float = 0.0
    gain: float = 0.0  # of what was kept, in units of the median kept gain


def prior_kept(expected: float) -> float:
    """Prior probability of being kept from an expected change in bits per byte at five minutes on an H100."""
    return min(0.5, max(0.03, KEPT_SHARE - 15 * expected))


class Bandit:
    """Tallies of outcomes; draws scores."""

    def __init__(self, outcomes: Sequence[Outcome], noise: float = 0.0) -> None:
        """`noise`: standard deviation of a run, bits per byte; 0 where it is not known."""
        usual = _usual_gain(outcomes)
        unit = usual or 1.0
        self._unit_sd = min(UNIT_SD_MAX, max(UNIT_SD_MIN, unit / noise)) if usual and noise > 0 else USUAL_GAIN_SD
        self._tallies: dict[Arm, _Tally] = {}
        for outcome, weight in faded(outcomes):
            for arm in arms_of(outcome):
                tally = self._tallies.setdefault(arm, _Tally())
                if outcome.verdict == "kept":
                    tally.kept += weight
                    gain = -outcome.effect / unit if outcome.effect is not None else 1.0
                    tally.gain += weight * min(GAIN_MAX, max(0.0, gain))
                else:
                    tally.lost += weight

    def score(self, arm: Arm, prior: float, rng: random.Random) -> float:
        """One draw of what a trial of `arm` is worth; `prior` is the probability of being kept before any outcome."""
        tally = self._tallies.get(arm, _Tally())
        kept = rng.betavariate(PRIOR_WEIGHT * prior + tally.kept, PRIOR_WEIGHT * (1 - prior) + tally.lost)
        return kept * (1 + tally.gain) / (1 + tally.kept)

    def score_known(self, belief: Belief, rng: random.Random) -> float:
        """One draw of what a trial of a change is worth of which something is known."""
        effect = rng.gauss(belief.mean, (belief.variance + ELSEWHERE_SD**2) ** 0.5)
        return max(SCORE_MIN, -effect / self._unit_sd)


def _usual_gain(outcomes: Sequence[Outcome]) -> float | None:
    """The median of the kept gains by their weights, bits per byte; None where nothing was kept."""
    gains = sorted(
        (-one.effect, min(1.0, one.weight))
        for one in outcomes
        if one.verdict == "kept" and one.weight > 0 and one.effect is not None and one.effect < 0
    )
    half = sum(weight for _, weight in gains) / 2
    so_far = itertools.accumulate(weight for _, weight in gains)
    return next((gain for (gain, _), weight in zip(gains, so_far, strict=True) if weight >= half), None)


def arms_of(outcome: Outcome) -> Iterable[Arm]:
    """The arms that an outcome speaks of. Its texts may be a stranger's: they are matched, and nothing else."""
    operator = outcome.operator
    if not operator.startswith("constant:"):
        return (Arm(operator),)
    move = MOVE.match(outcome.hypothesis[:200])
    if move is None:
        return (Arm(operator, 1), Arm(operator, -1), Arm(operator, 0))
    try:
        old, new = float(move[2]), float(move[3])
    except ValueError:
        return (Arm(operator, 0),)
    return (Arm(operator, (new > old) - (new < old)),)
