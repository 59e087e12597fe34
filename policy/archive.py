"""An archive of confirmed programs that differ, and the draw of the program to go on from.

A greedy search keeps one program; what it would need to get out of a dead end is gone. So one program is kept for each
*cell* of a few descriptors, the best one there: MAP-Elites (Mouret & Clune 2015, arXiv:1504.04909). Each node has an
archive of its own, an island; what it confirms of others' discoveries migrates into it, whether or not it beats the
incumbent. A program enters by runs of this node, never by somebody's word.

*Level.* Scores of different days and machines cannot be compared, differences of paired runs can. A program's level is
the sum of the effects along a chain of comparisons from the baseline to it. Each effect is the posterior mean under the
distribution of effects that the node has learnt (effects.py), because who picks winners measures them too high;
variances add up as well, and those of others' comparisons are divided by the weight of their word. Where several chains
lead to a program, the one with the least variance counts.

*Lineages.* Cells are wide, and what two nodes found side by side mostly lies in one. So partners for crossover, and
programs to restart from, are looked for among all that this node has confirmed, and told apart by descent.

*Draw.* Mostly the incumbent, else an elite of another cell, all with the same chance as in MAP-Elites, but none so far
behind the incumbent that no gain ever seen would make up for it. For a candidate is always compared with the
*incumbent*, whatever program its text was made from: a child of an elite that beats the elite and not the incumbent is
no discovery. The share of elites grows on a plateau; where a restart is due they are the best programs of other
lineages, and may be further behind. *Pure.*
"""

import heapq
import math
import random
import statistics
from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct

from policy.effects import Effects
from policy.plateau import Plateau, Suggestion

ELITES_MAX = 64
LINEAGES_MAX = 8
CHAIN_MAX = 10_000  # steps from the baseline, far above any real lineage
SHARE = 0.1  # of draws that are not the incumbent, while the search is doing well
SHARES = {Suggestion.NARROWER: 0.1, Suggestion.WIDER: 0.15, Suggestion.CROSSOVER: 0.25, Suggestion.RESTART: 0.6}
SHARE_MAX = 0.8
REACH = 2.0  # typical gains by which an elite may be behind the incumbent
REACH_OF_RESTART = 6.0
_NORMAL_95 = 1.959963984540054

Cell = tuple[int, ...]


class Traits(Struct, frozen=True, kw_only=True):
    """What a program is like: measured in a run of this node, and counted in its text."""

    weights_bytes: int
    wall_per_budget: float  # wall time of a whole trial in units of the budget that it used
    lines: int
    knobs: int  # constants that can be edited

    def cell(self) -> Cell:
        """Each descriptor by powers of two, the time by half ones: a small change stays in its cell."""
        sizes = (_octave(self.weights_bytes), _octave(self.lines), _octave(self.knobs))
        return (*sizes, math.floor(2 * math.log2(max(self.wall_per_budget, 1e-6))))


class Link(Struct, frozen=True, kw_only=True):
    """A comparison of two programs, given by their SHA-256."""

    parent: str
    child: str
    mean: float  # bits per byte, child - parent; negative is better
    low: float  # 95 % interval
    high: float
    noise: float  # standard deviation of a difference of two runs, bits per byte
    weight: float = 1.0  # 1 for this node's own runs; for others' their standing here, below 1
    lineage: bool = True  # the child is a change of the parent; else they were only compared


class Level(Struct, frozen=True):
    """Of a program against the baseline, bits per byte; negative is better."""

    mean: float
    variance: float
    before: str  # the program before it in the chain that counts; empty for the baseline

    @property
    def sd(self) -> float:
        return math.sqrt(self.variance)


class Elite(Struct, frozen=True):
    """A program with its level and place; in `Archive.elites` the best of its cell."""

    program: str
    mean: float  # level, bits per byte against the baseline
    sd: float
    cell: Cell | None  # None while it is not known; no elite then


class Draw(Struct, frozen=True):
    """The program to change next, and the one with which the result is to be compared."""

    parent: str
    compare_with: str  # always the incumbent
    reason: str


class Archive:
    """Elites of one track on one node. Make it anew whenever something is confirmed or taken back."""

    def __init__(
        self, baseline: str, links: Iterable[Link], cells: Mapping[str, Cell], effects: Effects | None = None
    ) -> None:
        """`cells`: those of programs whose place is known. `effects`: as learnt from this node's search."""
        known = [link for link in links if link.weight > 0 and link.child != baseline]
        posteriors = [_posterior(link, effects or Effects()) for link in known]
        self.baseline = baseline
        self.levels = _levels(baseline, known, posteriors)
        self._made_from: dict[str, str] = {}
        for link in sorted(known, key=lambda link: -link.weight):
            if link.lineage:
                self._made_from.setdefault(link.child, link.parent)
        gains = [-mean for link, (mean, _) in zip(known, posteriors, strict=True) if link.weight == 1 and mean < 0]
        self.typical_gain = statistics.median(gains) if gains else 0.0
        own = {link.child for link in known if link.weight == 1} | {baseline}
        self._known = {one.program: one for one in _placed(self.levels, cells, own)}
        self.elites = _best(self._known.values())

    def lineage(self, program: str) -> tuple[str, ...]:
        """The programs from this one back to the first whose origin is not known here; itself first."""
        chain = [program]
        met = {program}
        while len(chain) < CHAIN_MAX:
            before = self._made_from.get(chain[-1])
            if before is None or before in met:  # a circle can be claimed
                break
            chain.append(before)
            met.add(before)
        return tuple(chain)

    def between(self, program: str, other: str) -> tuple[float, float] | None:
        """Level of `program` - that of `other`, and its standard deviation, bits per byte; None where one is unknown.

        What both chains share is in both levels alike and adds no uncertainty.
        """
        if program not in self.levels or other not in self.levels:
            return None
        mine, shared = set(self._chain(program)), self.baseline
        for at in self._chain(other):
            if at in mine:
                shared = at
                break
        one, two, common = (self.levels[name] for name in (program, other, shared))
        return one.mean - two.mean, math.sqrt(max(0.0, one.variance + two.variance - 2 * common.variance))

    def _chain(self, program: str) -> list[str]:
        chain = [program]
        while before := self.levels[chain[-1]].before:
            chain.append(before)
        return chain

    def relatives(self, parent: str, count_max: int) -> list[tuple[Elite, str, float]]:
        """Confirmed programs to cross with `parent`: each with the nearest common ancestor, and its effect against it.

        Neither ancestors of it nor descendants: a merge with either is one of the two. The largest gain comes first.
        """
        found = []
        for program, common in self._meetings(parent).items():
            if common is None or common in (parent, program) or common not in self.levels:
                continue
            effect = self.levels[program].mean - self.levels[common].mean
            if effect < 0:
                found.append((effect, program, common))
        return [(self._known[program], common, effect) for effect, program, common in heapq.nsmallest(count_max, found)]

    def other_lineages(self, incumbent: str) -> list[Elite]:
        """The best program of each line on which the incumbent is not built, nor they on it; the best first."""
        meetings = self._meetings(incumbent)
        apart = [one for one in self._known.values() if meetings[one.program] not in (incumbent, one.program)]
        found: list[Elite] = []
        covered: set[str] = set()
        for one in sorted(apart, key=lambda one: (one.mean, one.program)):
            if one.program not in covered:
                found.append(one)
                covered |= set(self.lineage(one.program))
            if len(found) == LINEAGES_MAX:
                break
        return found

    def _meetings(self, program: str) -> dict[str, str | None]:
        """Of each program that this node has confirmed: where its descent meets that of `program`, if it does."""
        met: dict[str, str | None] = {at: at for at in self.lineage(program)}
        for one in self._known:
            path, at = [], one
            while at not in met:
                path.append(at)
                met[at] = None  # a claimed circle ends here
                before = self._made_from.get(at)
                if before is None:
                    break
                at = before
            met |= dict.fromkeys(path, met[at])
        return {one: met[one] for one in self._known}

    def draw(self, incumbent: str, rng: random.Random, plateau: Plateau | None = None) -> Draw:
        """The parent of the next proposal. All chance comes from `rng`, of which each call takes two numbers."""
        chance, place = rng.random(), rng.random()
        share = share_of(plateau)
        within = self._within_reach(incumbent, plateau)
        if not within or chance >= share:
            return Draw(incumbent, incumbent, "the incumbent")
        elite = within[int(place * len(within))]
        difference = self.between(elite.program, incumbent)
        assert difference is not None, "elites within reach are compared"
        kind = "another lineage" if elite in self.other_lineages(incumbent) else "another cell"
        against = f"{difference[0]:+.4f} bpb against the incumbent, sd {difference[1]:.4f}"
        return Draw(elite.program, incumbent, f"of {kind}, {against}")

    def _within_reach(self, incumbent: str, plateau: Plateau | None) -> list[Elite]:
        restart = plateau is not None and plateau.suggestion is Suggestion.RESTART
        here = None if incumbent not in self._known else self._known[incumbent].cell
        choice = self.other_lineages(incumbent) if restart else []
        choice = choice or [elite for elite in self.elites if here is not None and elite.cell != here]
        reach = (REACH_OF_RESTART if restart else REACH) * self.typical_gain
        found = []
        for elite in choice:
            difference = self.between(elite.program, incumbent)
            if elite.program != incumbent and difference is not None and difference[0] <= reach:
                found.append(elite)
        return found


def share_of(plateau: Plateau | None) -> float:
    """The share of draws that are not the incumbent; it grows with each round of suggestions."""
    return SHARE if plateau is None else min(SHARE_MAX, SHARES[plateau.suggestion] * plateau.round)


def _octave(value: int) -> int:
    return int(math.log2(max(1, value)))


def _posterior(link: Link, effects: Effects) -> tuple[float, float]:
    """Mean and variance of the effect, bits per byte, after shrinkage; the variance grows with a lesser weight."""
    sd = max((link.high - link.low) / (2 * _NORMAL_95), 1e-9)
    run_sd = link.noise / math.sqrt(2) if link.noise > 0 else sd
    found = effects.posterior(link.mean / run_sd, min((sd / run_sd) ** 2, 1e9))
    mean = -found.gain
    variance = float(found.weights @ (found.variances + found.means**2)) - mean**2
    return mean * run_sd, max(variance, 1e-12) * run_sd**2 / link.weight


def _levels(baseline: str, links: Collection[Link], posteriors: Collection[tuple[float, float]]) -> dict[str, Level]:
    """Dijkstra's shortest paths (1959), with variances as lengths."""
    nearby: dict[str, list[tuple[str, float, float]]] = {}
    for link, (mean, variance) in zip(links, posteriors, strict=True):
        nearby.setdefault(link.parent, []).append((link.child, mean, variance))
        nearby.setdefault(link.child, []).append((link.parent, -mean, variance))
    found: dict[str, Level] = {}
    waiting = [(0.0, baseline, 0.0, "")]
    while waiting:
        variance, program, mean, before = heapq.heappop(waiting)
        if program in found:
            continue
        found[program] = Level(mean, variance, before)
        for other, effect, more in nearby.get(program, ()):
            if other not in found:
                heapq.heappush(waiting, (variance + more, other, mean + effect, program))
    return found


def _placed(levels: Mapping[str, Level], cells: Mapping[str, Cell], among: Collection[str]) -> list[Elite]:
    """Those programs that have a level, by their digests."""
    names = sorted(program for program in among if program in levels)
    return [Elite(name, levels[name].mean, levels[name].sd, cells.get(name)) for name in names]


def _best(programs: Iterable[Elite]) -> tuple[Elite, ...]:
    """The best of each cell, at most ELITES_MAX, the best first."""
    best: dict[Cell, Elite] = {}
    for one in programs:
        if one.cell is None:
            continue
        rival = best.get(one.cell)
        if rival is None or (one.mean, one.program) < (rival.mean, rival.program):
            best[one.cell] = one
    return tuple(sorted(best.values(), key=lambda elite: (elite.mean, elite.program))[:ELITES_MAX])
