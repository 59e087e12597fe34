"""What single changes are worth by all outcomes so far, as if effects of changes that were made together added up.

Most changes that help gain less than a run's noise: alone they are discarded, rightly, because nobody could tell. But
what they measured is known, and several of them together may gain enough to be seen. Each change's effect has a normal
belief that starts at N(0, PRIOR_SD²), in standard deviations of a run; each outcome moves the beliefs in the changes
that it names (the update of a Kalman filter that keeps variances only). A first run that looked good is believed by
half, as whoever is picked for a good run was lucky too.
"""

from collections.abc import Sequence
from typing import NamedTuple

from trainer.proposers.proposal import Outcome

PRIOR_SD = 1.5
DISCARDED_VARIANCE = 1.3  # of a measured effect, in variances of a run: mostly one run against the incumbent's level
KEPT_VARIANCE = 0.6  # of several
EFFECT_MAX = 8.0  # standard deviations: what crashes nearly says no more about the others
PARTS_JOINED_BY = "; "  # hypotheses of changes that were tried together


class Belief(NamedTuple):
    """In a change's effect, in standard deviations of a run; negative is better."""

    mean: float
    variance: float


def beliefs(outcomes: Sequence[Outcome], noise: float) -> dict[str, Belief]:
    """By the words of each change that was measured. `noise`: standard deviation of a run, bits per byte."""
    known: dict[str, Belief] = {}
    if noise <= 0:
        return known
    for outcome in outcomes:
        if outcome.effect is None or outcome.weight <= 0:
            continue
        parts = outcome.hypothesis.split(PARTS_JOINED_BY)
        before = [known.get(part, Belief(0.0, PRIOR_SD**2)) for part in parts]
        variance = KEPT_VARIANCE if outcome.verdict == "kept" else DISCARDED_VARIANCE
        total = sum(belief.variance for belief in before) + variance / min(1.0, outcome.weight)
        effect = max(-EFFECT_MAX, min(EFFECT_MAX, outcome.effect / noise))
        surprise = effect - sum(belief.mean for belief in before)
        for part, (mean, own) in zip(parts, before, strict=True):
            known[part] = Belief(mean + own / total * surprise, own * (1 - own / total))
    return known
