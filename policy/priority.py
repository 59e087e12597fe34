"""Which queued discovery this node runs next, whether now, and how far trust may shorten the run.

* **Value.** expected gain x trust / cost. A gain counts up to what such claims turned out to be (`gain_ceiling`), so
  that a fabricated 50 % does not come first.
* **Strangers.** Their trust is 0 and so would be their turn; but everybody starts as a stranger. One pick in
  `EXPLORE_EVERY` (all picks, while nobody is trusted) goes to an author drawn at random with the chance that its claims
  hold up, one ticket for each author: a flood by one key has one ticket, and a known liar a small one. Many keys have
  many tickets; what they get is bounded by these picks, and those by the share.
* **Share.** Verification takes at most its share of all compute, whatever arrives (`may_verify`). It is asked before
  the search, so the search does not starve it either.
* **Shortening.** What trusted peers vouch for is run with fewer pairs at most, never with fewer than `PAIRS_LEAST`,
  and an audited claim in full (policy/standing.py).
* **Lengthening.** What the first check left open and a quorum confirms is looked at again, with twice the pairs of a
  full first check in each further look: a small gain shows in a longer test or not at all.

*Pure:* chance comes in as an argument.
"""

import math
import random
import statistics
from collections.abc import Sequence

from msgspec import Struct

from policy.quorum import Opinion, Tally
from policy.sequential import PAIRS_MAX

VERIFY_SHARE = 0.3  # of compute; the constitution's limit is what a node passes
EXPLORE_EVERY = 4  # every how many-th pick goes to a stranger
PAIRS_LEAST = 3  # of a node's own check; three pairs are the fewest that give a spread
LOOKS_MAX = 3  # checks of one claim
FURTHER_PAIRS_MAX = 2 * PAIRS_MAX  # of a check that is not the first
CEILING_HISTORY = 5  # verified gains before they bound what a claim is expected to be worth


class Queued(Struct, frozen=True, kw_only=True):
    """A claim that could be run now."""

    id: str
    author: str
    gain: float  # claimed, bits per byte, positive
    cost: float  # of the runs, s of the lane; positive
    trust: float  # `quorum.belief`: 0 to 1, 0 where only strangers speak for it
    promise: float  # chance that it holds up for all that is known, `promise`: 0 to 1
    again: bool = False  # it was confirmed here or is built on, and something speaks against it since


class Pick(Struct, frozen=True):
    """What to run, and why it and not another."""

    id: str
    reason: str


def promise(mean: float, refuting: float) -> float:
    """The chance that a claim holds up: what its author's do (`Account.mean`), less what trusted peers say against it.

    `refuting`: the sum of `quorum.voice_strength` over those who refute it.
    """
    return mean * math.exp(-refuting)


def gain_ceiling(verified: Sequence[float]) -> float | None:
    """The largest gain (bits per byte) that a claim is credited with: twice the median of those verified here.

    None with fewer than `CEILING_HISTORY` of them: then nothing is known yet.
    """
    return 2 * statistics.median(verified) if len(verified) >= CEILING_HISTORY else None


def value(gain: float, trust: float, cost: float, ceiling: float | None) -> float:
    """Expected gain per s of the lane. `gain` and `ceiling` in bits per byte, `trust` 0 to 1, `cost` in s, above 0."""
    if cost <= 0:
        raise ValueError("a run costs something")
    return (gain if ceiling is None else min(gain, ceiling)) * trust / cost


def choose(queue: Sequence[Queued], turn: int, rng: random.Random, ceiling: float | None = None) -> Pick | None:
    """The claim to run at this pick, the `turn`-th of the node, counted from 0; None if none is queued."""
    if not queue:
        return None
    doubted = [item for item in queue if item.again]
    if doubted:
        return Pick(
            doubted[0].id, "it was confirmed here or is built on, and is in doubt: that comes before anything new"
        )
    trusted = [item for item in queue if item.trust > 0]
    strange = [item for item in queue if item.trust == 0]
    if trusted and not (strange and turn % EXPLORE_EVERY == EXPLORE_EVERY - 1):
        best = max(trusted, key=lambda item: value(item.gain, item.trust, item.cost, ceiling))
        return Pick(best.id, f"the most to be expected of {len(queue)} queued (trusted to {best.trust:.0%})")
    by_author: dict[str, list[Queued]] = {}
    for item in strange:
        by_author.setdefault(item.author, []).append(item)
    authors = list(by_author)
    # Squared: that of two authors the better one is seen first matters more than that each is seen.
    chances = [by_author[author][0].promise ** 2 for author in authors]
    author = rng.choices(authors, chances)[0] if sum(chances) > 0 else rng.choice(authors)
    best = max(by_author[author], key=lambda item: value(item.gain, 1.0, item.cost, ceiling))
    return Pick(best.id, f"a stranger's turn: drawn of {len(authors)} authors whom nobody trusted speaks for")


def may_verify(spent_verifying: float, spent_total: float, share: float = VERIFY_SHARE, next_cost: float = 0.0) -> bool:
    """Whether a verification of `next_cost` may start now without ever taking more than `share` of all compute.

    A token bucket in closed form: each s of the lane puts in `share`, each s of verification takes out 1, `next_cost`
    must be in it. If no run costs more than was said, spent_verifying <= share x spent_total holds at all times, also
    at the end of a run. Pass what was spent within a window (a day, say) to keep a quiet week from being saved up.
    A share of 1 is for a node that only verifies, 0 for one that never does.

    Raises `ValueError` for a share outside 0 to 1 or negative spends.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share of compute lies between 0 and 1, not at {share}")
    if min(spent_verifying, spent_total, next_cost) < 0:
        raise ValueError("compute that was spent is not negative")
    return share > 0 and spent_verifying + next_cost <= share * (spent_total + next_cost)


def look_again(voices: Tally, looks: int) -> bool:
    """Whether a claim that `looks` checks here left open is worth another one: trusted peers confirm it.

    The next check goes on from the pairs of the earlier ones. An always-valid test (policy/sequential.py) allows that;
    a fresh start each time would be a new chance for luck.
    """
    return looks < LOOKS_MAX and voices.opinion is Opinion.CONFIRMS


def pairs_allowed(pairs_max: int, trust: float, *, audited: bool, looks: int = 0) -> int:
    """The most fresh pairs of this node's next check: of the first, down to half for a claim that is trusted wholly.

    `pairs_max`: what the constitution allows; `looks`: checks of this claim before. Trust makes a verdict cheaper, not
    easier: the test is the same, it only ends inconclusive earlier.
    """
    if looks > 0:
        return min(pairs_max, FURTHER_PAIRS_MAX)
    first = min(pairs_max, PAIRS_MAX)
    if audited or trust <= 0:
        return first
    return max(min(PAIRS_LEAST, first), round(first * (1 - min(trust, 1.0) / 2)))
