"""Transfer: what is confirmed in one track is a hypothesis in the others, and whether it carries over is a number.

A discovery that came by transfer, and the claim made before its first run, name the discovery that they come from,
their *source*. So attempts that failed are in the ledger beside those that were kept, and both count: of transfers that
are shown because they worked, every one works.

How much of an effect carries over is the ratio of the effect in the track to that in the source's, with the interval of
Fieller (1954, J. R. Stat. Soc. B 16), since a ratio of two means with errors has no standard error of its own: the
ratios r for which b - r a does not differ from 0 at 5 %. Where the source's effect itself is not shown to differ from
0, no finite interval holds the ratio, and none is given. The difference of the two effects always has an interval. Both
take the errors as normal and independent, and are about the pairs and machines that were measured.

A *family* is a discovery with all that came from it by transfer, over any number of tracks. One member of a family is
tried in a track, and none where another member is confirmed already: so nothing goes to and fro. *Pure.*
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace
from scipy.special import betaincinv, stdtrit

from ledger.predicates import Verdict

TO_TRY_MAX = 32
FAMILY_STEPS_MAX = 100
RATE_COUNT = 4.0  # attempts between two tracks that weigh as much as what is known of one discovery
CONTROL_RUNS_MIN = 2
STRANGER_WEIGHT = 0.05
STRANGERS_MAX = 4  # of one list
_NORMAL_95 = 1.959963984540054

Fate = Literal["kept", "discarded", "failed", "given up", "open"]
DECIDED: tuple[Fate, ...] = ("kept", "discarded", "failed")


class Measured(Struct, frozen=True, kw_only=True):
    """An effect as one node measured it: bits per byte, child - parent, negative is better."""

    author: str
    how: Literal["claimed", "attested", "runs"]
    n: int  # pairs; of `runs`, runs of the child
    mean: float
    low: float  # 95 % interval
    high: float
    hardware: str | None  # class of it; None while the trial that tells has not arrived
    verdict: Verdict | None = None

    @property
    def sd(self) -> float:
        """Standard error of the mean that a normal interval of this width has; infinite for one without end."""
        return (self.high - self.low) / (2 * _NORMAL_95)


class Interval(Struct, frozen=True):
    """An estimate with its 95 % interval; both ends are None where no finite interval holds it."""

    value: float
    low: float | None
    high: float | None


class Found(Struct, frozen=True, kw_only=True):
    """A discovery that somebody besides its author has confirmed, or that is this node's own."""

    id: str
    track: str
    source: str  # the discovery that it came from; empty where it came by no transfer
    change: str  # fingerprint of what it changes; empty where that is not known
    effect: Measured
    weight: float = 1.0  # of those who confirmed it: 1 for this node's own runs, for others their standing here


class OnHardware(Struct, frozen=True):
    """What an attempt showed on one class of hardware."""

    hardware: str
    effect: Measured | None  # None where it did not run to a score there, or nothing can be said


class Attempt(Struct, frozen=True, kw_only=True):
    """A transfer that was tried, whatever came of it."""

    source: str  # discovery
    source_track: str
    author: str
    track: str
    program: str
    fate: Fate
    effect: Measured | None  # in its track
    source_effect: Measured | None
    weight: float = 1.0  # 1 for this node's own, for others' their standing here
    places: tuple[OnHardware, ...] = ()  # each class of hardware on which it ran


class ToTry(Struct, frozen=True):
    """A discovery of another track that has not been tried here."""

    source: str
    track: str  # of the discovery
    effect: float  # there, bits per byte
    chance: float  # of being kept here, by what became of others
    reason: str


class Direction(Struct, frozen=True, kw_only=True):
    """All attempts from one track to another. Those that are open or were given up are not in the counts."""

    source_track: str
    track: str
    hardware: str | None  # on which it ran in `track`; None: any
    tried: int
    kept: int
    failed: int  # of the tried: did not run to a score
    share: Interval  # kept of tried, with the interval of Jeffreys
    measured: int  # attempts in the ratio, kept and discarded
    ratio: Interval | None  # sum of the effects here over the sum of the effects there; None where none was measured


def settled(me: str, claimed: Measured, attested: Sequence[Measured]) -> Measured:
    """Which measurement of a discovery to go by: this node's own verdict, else the median other node's, else the claim.

    `attested` has the last of each other node, the discovery's author not among them. The claim comes last even where
    it is this node's: who picks a winner measures it too high.
    """
    own = [said for said in attested if said.author == me]
    others = sorted(attested, key=lambda said: (said.mean, said.author))
    return own[-1] if own else others[(len(others) - 1) // 2] if others else claimed


def of_runs(author: str, child: Sequence[float], parent: Sequence[float], hardware: str | None) -> Measured | None:
    """The effect that an author's runs of two programs show, with Student's interval for two means of equal variance.

    Scores in bits per byte. None with fewer than CONTROL_RUNS_MIN runs of the parent or none of the child. Neither
    drift of the machine nor that the runs may have been stopped because of their results is corrected for.
    """
    if not child or len(parent) < CONTROL_RUNS_MIN:
        return None
    freedom = len(child) + len(parent) - 2
    means = [statistics.fmean(scores) for scores in (child, parent)]
    squares = sum((score - mean) ** 2 for scores, mean in zip((child, parent), means, strict=True) for score in scores)
    error = math.sqrt(squares / freedom * (1 / len(child) + 1 / len(parent)))
    half = float(stdtrit(freedom, 0.975)) * error
    effect = means[0] - means[1]
    return Measured(
        author=author, how="runs", n=len(child), mean=effect, low=effect - half, high=effect + half, hardware=hardware
    )


def ratio(here: tuple[float, float], there: tuple[float, float]) -> Interval | None:
    """Fieller's interval of `here / there`, each a mean and its standard error; None where `there` is 0."""
    (b, b_sd), (a, a_sd) = here, there
    if a == 0:
        return None
    value = b / a
    leading = a**2 - (_NORMAL_95 * a_sd) ** 2
    if not (leading > 0 and math.isfinite(b_sd)):
        return Interval(value, None, None)
    # b^2 - r 2ab + r^2 a^2 <= z^2 (b_sd^2 + r^2 a_sd^2), solved for r
    root = _NORMAL_95 * math.sqrt(a**2 * b_sd**2 + b**2 * a_sd**2 - (_NORMAL_95 * a_sd * b_sd) ** 2)
    return Interval(value, (a * b - root) / leading, (a * b + root) / leading)


def difference(here: Measured, there: Measured) -> Interval:
    """Effect here - effect there, bits per byte: positive where less carried over."""
    half = _NORMAL_95 * math.hypot(here.sd, there.sd)
    value = here.mean - there.mean
    return Interval(value, value - half, value + half)


def carried(attempt: Attempt) -> Interval | None:
    """The share of the source's effect that an attempt showed; None where one of the two was not measured."""
    here, there = attempt.effect, attempt.source_effect
    return None if here is None or there is None else ratio((here.mean, here.sd), (there.mean, there.sd))


def directions(attempts: Iterable[Attempt]) -> list[Direction]:
    """What became of transfers, by source's track and track, sorted by both."""
    groups: dict[tuple[str, str], list[Attempt]] = {}
    for attempt in attempts:
        if attempt.fate in DECIDED:
            groups.setdefault((attempt.source_track, attempt.track), []).append(attempt)
    return [_direction(*tracks, None, groups[tracks]) for tracks in sorted(groups)]


def directions_by_hardware(attempts: Iterable[Attempt]) -> list[Direction]:
    """As `directions`, and by class of hardware; an attempt counts in each class on which it was measured."""
    groups: dict[tuple[str, str, str], list[Attempt]] = {}
    for attempt in attempts:
        for place in attempt.places if attempt.fate in DECIDED else ():
            key = attempt.source_track, attempt.track, place.hardware
            groups.setdefault(key, []).append(replace(attempt, effect=place.effect))
    return [_direction(*key, groups[key]) for key in sorted(groups)]


def _direction(source_track: str, track: str, hardware: str | None, group: Sequence[Attempt]) -> Direction:
    kept = sum(attempt.fate == "kept" for attempt in group)
    low, high = betaincinv(kept + 0.5, len(group) - kept + 0.5, [0.025, 0.975])
    share = Interval(kept / len(group), 0.0 if kept == 0 else float(low), 1.0 if kept == len(group) else float(high))
    there: dict[str, Measured] = {}
    here: list[Measured] = []
    times: dict[str, int] = {}
    for attempt in group:
        if attempt.effect is not None and attempt.source_effect is not None:
            here.append(attempt.effect)
            there[attempt.source] = attempt.source_effect
            times[attempt.source] = times.get(attempt.source, 0) + 1
    # One measurement of a source stands under each attempt at it: its error is the same in all of them.
    below = sum(times[source] * there[source].mean for source in times)
    below_sd = math.sqrt(sum((times[source] * there[source].sd) ** 2 for source in times))
    above = sum(effect.mean for effect in here)
    above_sd = math.sqrt(sum(effect.sd**2 for effect in here))
    return Direction(
        source_track=source_track,
        track=track,
        hardware=hardware,
        tried=len(group),
        kept=kept,
        failed=sum(attempt.fate == "failed" for attempt in group),
        share=share,
        measured=len(here),
        ratio=ratio((above, above_sd), (below, below_sd)) if here else None,
    )


def family(discovery: str, sources: Mapping[str, str]) -> str:
    """The discovery at which a family begins. `sources`: by discovery the one that it came from, or an empty text."""
    met = [discovery]
    while len(met) < FAMILY_STEPS_MAX and (before := sources.get(met[-1], "")) and before not in met:
        met.append(before)
    before = sources.get(met[-1], "")
    return min(met[met.index(before) :]) if before in met else met[-1]  # a claimed circle has no beginning


def to_try(
    found: Sequence[Found],
    attempts: Sequence[Attempt],
    track: str,
    me: str,
    *,
    origins: Mapping[str, tuple[str, str]] | None = None,
    limit: int = TO_TRY_MAX,
) -> list[ToTry]:
    """What of the other tracks is to be tried in this one, the largest expected gain first.

    `found` is of all tracks; `origins` has source and track of discoveries named as sources that are not in it. What
    this node has tried here to an end, or is trying, is not tried again; what others tried counts in the chance, by
    their standing. A node need not know anybody of another track, so strangers' discoveries are not left out: they come
    last, weighed as STRANGER_WEIGHT, and at most STRANGERS_MAX of them, for anybody can confirm himself under another
    name. The expected gain is the chance times weight times the effect there, and says nothing of the size of effects
    here: it is for the order only.
    """
    sources = {name: source for name, (source, _) in (origins or {}).items()} | {one.id: one.source for one in found}
    tracks = {name: place for name, (_, place) in (origins or {}).items()} | {one.id: one.track for one in found}
    here = [one for one in found if one.track == track]
    taken = {family(one.id, sources) for one in here}
    tried = [one for one in attempts if one.track == track and one.author == me and one.fate != "given up"]
    taken |= {family(one.source, sources) for one in tried}
    changes = {one.change for one in here} - {""}
    along: dict[str, list[Attempt]] = {}  # by the source's track
    at_it: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        if attempt.fate in DECIDED and attempt.track == track:
            along.setdefault(attempt.source_track, []).append(attempt)
            at_it.setdefault(attempt.source, []).append(attempt)
    rates = {place: _rate(tried) for place, tried in along.items()}
    best: dict[str, tuple[float, ToTry]] = {}
    for one in found:
        root = family(one.id, sources)
        if one.track == track or root in taken or tracks.get(root) == track or one.change in changes:
            continue
        chance, said = _chance(rates.get(one.track, _rate(())), at_it.get(one.id, ()))
        gain = -one.effect.mean * chance * max(one.weight, STRANGER_WEIGHT)
        reason = f"{one.effect.mean:+.4f} bpb in {one.track} over {one.effect.n} pairs; {said}"
        if gain > 0 and (root not in best or (-gain, one.id) < (-best[root][0], best[root][1].source)):
            best[root] = gain, ToTry(one.id, one.track, one.effect.mean, chance, reason)
    order = [one for _, one in sorted(best.values(), key=lambda scored: (-scored[0], scored[1].source))]
    known = {one.id for one in found if one.weight >= STRANGER_WEIGHT}
    strangers = [one for one in order if one.source not in known][:STRANGERS_MAX]
    return [*(one for one in order if one.source in known), *strangers][:limit]


def _rate(along: Sequence[Attempt]) -> tuple[float, str]:
    """The share of attempts from one track to another that is kept, Beta(1, 1) at first; and the counts in words."""
    kept = sum(attempt.fate == "kept" for attempt in along)
    rate = (1 + _weight(along, kept=True)) / (2 + _weight(along))
    return rate, f"{kept} of {len(along)} such transfers were kept"


def _chance(rate: tuple[float, str], at_it: Sequence[Attempt]) -> tuple[float, str]:
    """Chance of being kept: the rate between the tracks, moved by the attempts at this discovery.

    They are in the rate too: without them it would rank above what nobody has tried.
    """
    share, said = rate
    chance = (RATE_COUNT * share + _weight(at_it, kept=True)) / (RATE_COUNT + _weight(at_it))
    return chance, f"{said}, {len(at_it)} of them tried this one"


def _weight(attempts: Iterable[Attempt], *, kept: bool = False) -> float:
    return sum(attempt.weight for attempt in attempts if not kept or attempt.fate == "kept")
