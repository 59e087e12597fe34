"""Whether the search has run dry, and what to try then: wider moves, crossover, another lineage.

The share of proposals that are kept is learnt from the node's own stream, Beta(KEPT + kept, LOST + lost), with counts
that fade by FADING a proposal, since gains get rarer. Then the chance of as many proposals without a keep as there have
been, if nothing had changed, is that of the beta-binomial:

    P(n) = product over i < n of (b + i) / (a + b + i)

where a and b are as they stood at the last keep. The search is on a plateau when P(n) is below LEVEL; each further
suggestion comes when it has fallen to LEVEL_FACTOR of that. So of the waits for a keep, a share of LEVEL raises a
plateau although the rate is what it was: that is the price of the rule, known beforehand and small, because what
follows is a suggestion. Before anything was kept it takes about 360 proposals.

Proposals that did not run to a score say nothing about the incumbent: they do not count for n. Where they are so many
that a failure rate of one half makes them unlikely at the same level, the suggestion is to heed the lessons. What the
others measured says which way to go: mostly clear losses, and nothing near is any good; mostly within the noise, and
the moves are too small. No suggestion is made twice in one wait without saying so: when all that is possible was
suggested, the next round says which one it is, and goes all the way. *Pure.*
"""

import math
from collections.abc import Sequence
from enum import Enum
from typing import Self

import msgspec
from msgspec import Struct
from scipy.special import bdtrc

KEPT, LOST = 1.0, 19.0  # of twenty proposals one is kept, before anything is known
FADING = 0.995
LEVEL = 0.05
LEVEL_FACTOR = 0.4
RECENT_MAX = 64  # outcomes that say which way to go
FAILED_RATE = 0.5
WORSE_SHARE = 0.5


class Suggestion(Enum):
    NARROWER = "smaller changes that run: heed the lessons"
    WIDER = "wider moves from the same program"
    CROSSOVER = "crossover with another confirmed program"
    RESTART = "a restart from another lineage"


WIDTHS = {Suggestion.NARROWER: 0.0, Suggestion.WIDER: 0.5, Suggestion.CROSSOVER: 0.3, Suggestion.RESTART: 0.3}
"""How far from the parent to go, for `Context.widen`, the first time; the next rounds go all the way."""


class Tried(Struct, frozen=True):
    """One proposal that was decided."""

    kept: bool
    ran: bool = True  # to a score
    mean: float | None = None  # effect, bits per byte, child - parent; negative is better


class Plateau(Struct, frozen=True):
    """The search has run dry."""

    suggestion: Suggestion
    widen: float  # 0 to 1
    reason: str
    round: int  # 1 for the first time that this is suggested since the last keep


class Watch(Struct, frozen=True, kw_only=True):
    """What is remembered of the stream. Start with `Watch()`; `after` gives the next one."""

    kept: float = KEPT  # of the beta distribution
    lost: float = LOST
    at_keep: tuple[float, float] = (KEPT, LOST)  # as they stood at the last keep
    waited: int = 0  # proposals with a score since then
    failed: int = 0  # and without one
    recent: tuple[float, ...] = ()  # effects since then, the last RECENT_MAX
    given: tuple[Suggestion, ...] = ()  # suggested since then

    def after(self, tried: Tried) -> Self:
        """With one more outcome."""
        if not tried.ran:
            return msgspec.structs.replace(self, failed=self.failed + 1)
        kept = KEPT + FADING * (self.kept - KEPT) + tried.kept
        lost = LOST + FADING * (self.lost - LOST) + (not tried.kept)
        if tried.kept:
            return type(self)(kept=kept, lost=lost, at_keep=(kept, lost))
        recent = self.recent if tried.mean is None else (*self.recent, tried.mean)[-RECENT_MAX:]
        return msgspec.structs.replace(self, kept=kept, lost=lost, waited=self.waited + 1, recent=recent)

    @property
    def rate(self) -> float:
        """Share of proposals that were kept until the last keep, as learnt."""
        a, b = self.at_keep
        return a / (a + b)

    @property
    def chance(self) -> float:
        """Of waiting so long for a keep, had nothing changed since the last one: P(n)."""
        a, b = self.at_keep
        n = self.waited
        return math.exp(math.lgamma(b + n) - math.lgamma(b) + math.lgamma(a + b) - math.lgamma(a + b + n))

    def judge(self, noise: float, *, relatives: bool, lineages: bool) -> tuple[Self, Plateau | None]:
        """Whether to change the search now; ask after each outcome and go on with the watch that is returned.

        `noise`: standard deviation of a measured effect, bits per byte. `relatives`: there are programs to cross with;
        `lineages`: there is another one to start from.
        """
        level = LEVEL * LEVEL_FACTOR ** len(self.given)
        chance_of_failures = float(bdtrc(self.failed - 1, self.failed + self.waited, FAILED_RATE))
        stuck = chance_of_failures < level and Suggestion.NARROWER not in self.given
        if self.chance >= level and not stuck:
            return self, None
        ways = [Suggestion.NARROWER] if stuck else self._ways(noise, relatives=relatives, lineages=lineages)
        rounds = {way: self.given.count(way) for way in ways}
        chosen = min(ways, key=lambda way: rounds[way])  # the first of those least often suggested
        number = rounds[chosen] + 1
        widen = WIDTHS[chosen] if number == 1 or chosen is Suggestion.NARROWER else 1.0
        plateau = Plateau(chosen, widen, self._reason(chosen, number, noise), number)
        return msgspec.structs.replace(self, given=(*self.given, chosen)), plateau

    def _ways(self, noise: float, *, relatives: bool, lineages: bool) -> list[Suggestion]:
        """What is possible, the most fitting first."""
        far = [Suggestion.RESTART] if lineages else []
        cross = [Suggestion.CROSSOVER] if relatives else []
        if _share_worse(self.recent, noise) > WORSE_SHARE:  # nothing near is any good
            return [*cross, *far, Suggestion.WIDER]
        return [Suggestion.WIDER, *cross, *far]

    def _reason(self, chosen: Suggestion, number: int, noise: float) -> str:
        if chosen is Suggestion.NARROWER:
            return f"{self.failed} of {self.failed + self.waited} proposals since the last keep did not run to a score"
        worse = _share_worse(self.recent, noise)
        measured = f"{worse:.0%} of them were worse by more than the noise" if self.recent else "none was measured"
        again = f"; suggested for time {number} since the last keep, now all the way" if number > 1 else ""
        return (
            f"{self.waited} proposals without a keep; at the learnt rate of {self.rate:.1%} so long a wait has a "
            f"chance of {self.chance:.2g}; {measured}{again}"
        )


def _share_worse(effects: Sequence[float], noise: float) -> float:
    return sum(effect > noise for effect in effects) / len(effects) if effects else 0.0
