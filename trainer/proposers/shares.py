"""Which proposer's turn it is: by what its proposals have been worth for what they cost. *Pure*: all chance comes from
the caller's generator.

A proposal's yield is the gain that trials verified, in bits per byte, and nothing where it was not kept; its cost is
lane seconds, plus dollars at the operator's rate of seconds per dollar. A proposer's score is one draw of its
probability of being kept (a Beta posterior, Thompson 1933; Chapelle and Li 2011), times its mean gain where kept, over
its mean cost. Means start from those of all proposers together, so a new one is judged by its record and not by its
luck. What is old fades, for all alike: a proposer that has run dry comes back, and one that shone long ago does not
rule. A share of all turns goes round without regard to the scores, so that no record is ever final.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

KEPT_PRIOR = 0.15  # probability before any outcome, as in bandit.py
PRIOR_WEIGHT = 4.0  # outcomes that a prior counts for
FADING = 0.98  # of all outcomes, for each later one
EXPLORATION = 0.1  # share of turns that are drawn evenly


@dataclass
class _Record:
    """Faded sums."""

    kept: float = 0.0
    lost: float = 0.0
    gain: float = 0.0  # bits per byte, of what was kept
    cost: float = 0.0  # lane seconds, of everything


class Shares:
    """The records of several proposers, and draws from them."""

    def __init__(self, names: Sequence[str], *, seconds_per_usd: float, exploration: float = EXPLORATION) -> None:
        """`seconds_per_usd`: how many lane seconds the operator would give for a dollar.

        Raises `ValueError` for names that are not distinct, or numbers out of range.
        """
        if not names or len(set(names)) < len(names):
            raise ValueError("the proposers of a portfolio have distinct names, and there is at least one")
        if not 0 <= exploration <= 1 or not 0 <= seconds_per_usd < float("inf"):
            raise ValueError("exploration lies between 0 and 1, and a dollar is worth a finite time of at least 0 s")
        self._rate, self._exploration = seconds_per_usd, exploration
        self._records = {name: _Record() for name in names}

    def learn(self, name: str, gain: float, lane_s: float) -> None:
        """A proposal was tried: `gain` in bits per byte as verified, 0 where it was not kept; `lane_s` it ran for.

        Names that are not in the portfolio (an operator's own proposal) are let pass.
        """
        if name not in self._records:
            return
        for record in self._records.values():
            record.kept *= FADING
            record.lost *= FADING
            record.gain *= FADING
            record.cost *= FADING
        record = self._records[name]
        if gain > 0:
            record.kept += 1
            record.gain += gain
        else:
            record.lost += 1
        record.cost += max(0.0, lane_s)

    def spend(self, name: str, usd: float) -> None:
        """An attempt at a proposal took money, whether or not it gave one."""
        if name in self._records:
            self._records[name].cost += self._rate * max(0.0, usd)

    def draw(self, rng: random.Random, among: Sequence[str]) -> tuple[str, str]:
        """One of the names, and why in a few words."""
        if rng.random() < self._exploration:
            return rng.choice(list(among)), "its turn without regard to yield"
        scores = {name: self.score(name, rng) for name in among}
        best = max(scores, key=lambda name: scores[name])
        return best, "best draw of yield per cost"

    def score(self, name: str, rng: random.Random) -> float:
        """One draw of bits per byte gained per lane second, up to a factor that all have."""
        record, records = self._records[name], self._records.values()
        tried = record.kept + record.lost
        all_kept = sum(one.kept for one in records)
        all_tried = all_kept + sum(one.lost for one in records)
        gain_prior = sum(one.gain for one in records) / all_kept if all_kept > 0 else 1.0
        all_cost = sum(one.cost for one in records)
        cost_prior = all_cost / all_tried if all_tried > 0 and all_cost > 0 else 1.0
        kept = rng.betavariate(PRIOR_WEIGHT * KEPT_PRIOR + record.kept, PRIOR_WEIGHT * (1 - KEPT_PRIOR) + record.lost)
        gain = (gain_prior + record.gain) / (1 + record.kept)
        cost = (PRIOR_WEIGHT * cost_prior + record.cost) / (PRIOR_WEIGHT + tried)
        return kept * gain / cost

    def shares(self, rng: random.Random, draws: int = 1000) -> dict[str, float]:
        """The share of turns that each would get now, estimated by `draws` draws."""
        counts = dict.fromkeys(self._records, 0)
        for _ in range(draws):
            counts[self.draw(rng, list(self._records))[0]] += 1
        return {name: count / draws for name, count in counts.items()}
