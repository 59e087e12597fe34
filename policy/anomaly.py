"""What about a claim is not as it should be, before it is run and after.

Each rule gives a sentence; any sentence puts the claim in quarantine, which is no verdict: `until` says what lets it
out. Numbers that a rule compares with are in `Limits`.

1. *Too good to be true.* The claimed gain against the gains verified here, by the modified z-score of their logarithms
   (Iglewicz & Hoaglin 1993: median, median absolute deviation, cut at 3.5). Gains span orders of magnitude, so a plain
   z-score would see outliers everywhere. Before there are enough, only a share of the parent's score bounds it.
2. *A gain here, losses elsewhere.* Memory, wall time, weights, program length: child against parent.
3. *Not carried over.* Another split does not show it (policy/splits.py finds that; its sentence is passed on).
4. *Audits failed* while the author says they passed.
5. *Seen only by its author*: several trusted peers ran it, and none confirms.

And the other way, `simpler`: an equal score with fewer lines is a keep. *Pure.*
"""

import math
import statistics
from collections.abc import Sequence
from enum import Enum

from msgspec import Struct

from policy.quorum import Tally


class Until(Enum):
    """What releases from quarantine."""

    FULL_CHECK = "an exploration turn takes it, for a check in full"
    PEOPLE = "the node's owner or a quorum of trusted peers vouches for it"


class Anomaly(Struct, frozen=True):
    """Reasons to hold a claim back; none of them means that it is clear."""

    reasons: tuple[str, ...] = ()
    until: Until = Until.FULL_CHECK

    @property
    def clear(self) -> bool:
        return not self.reasons


CLEAR = Anomaly()


class Limits(Struct, frozen=True, kw_only=True):
    """Where ordinary ends. Ratios are child / parent; wide, since a wider model is an honest idea."""

    gain_z: float = 3.5  # modified z-score of log gain
    gain_history: int = 8  # verified gains before rule 1 uses them
    gain_share_first: float = 0.5  # of the parent's score, before that
    peak_memory: float = 3.0
    weights: float = 4.0
    wall: float = 2.0
    lines: float = 2.0
    lines_more: int = 40  # and at least so many more
    unseen_voices: int = 3  # trusted peers that ran it and do not confirm


class Measures(Struct, frozen=True, kw_only=True):
    """A program's side effects: medians over its runs on one machine."""

    peak_memory_bytes: float
    weights_bytes: float
    wall_s: float
    program_lines: float


_SPREAD_LEAST = 0.25  # of log gain: verified gains that happen to be alike are no reason to suspect one 30 % larger


def too_good(gain: float, parent_score: float, verified: Sequence[float], limits: Limits) -> str | None:
    """Rule 1. `gain` claimed and `verified` gains, positive bits per byte; `parent_score` as claimed, bits per byte."""
    if gain <= 0:
        return None
    history = [one for one in verified if one > 0]
    if len(history) < limits.gain_history:
        if gain > limits.gain_share_first * parent_score:
            return f"it claims {gain:.4g} bpb of a score of {parent_score:.4g}, more than any first gain should be"
        return None
    logs = [math.log(one) for one in history]
    middle = statistics.median(logs)
    spread = max(statistics.median(abs(one - middle) for one in logs) / 0.6745, _SPREAD_LEAST)
    z = (math.log(gain) - middle) / spread
    if z <= limits.gain_z:
        return None
    return f"it claims {gain:.4g} bpb; of {len(history)} gains verified here the median is {math.exp(middle):.4g}"


def losses(parent: Measures, child: Measures, limits: Limits) -> list[str]:
    """Rule 2."""
    found = []
    for name, before, after, limit in (
        ("peak memory", parent.peak_memory_bytes, child.peak_memory_bytes, limits.peak_memory),
        ("the size of the weights", parent.weights_bytes, child.weights_bytes, limits.weights),
        ("wall time", parent.wall_s, child.wall_s, limits.wall),
    ):
        if before > 0 and after > limit * before:
            found.append(f"{name} grows {after / before:.1f}-fold, over the limit of {limit:g}")
    more = child.program_lines - parent.program_lines
    if more >= limits.lines_more and child.program_lines > limits.lines * parent.program_lines:
        found.append(f"the program grows from {parent.program_lines:.0f} to {child.program_lines:.0f} lines")
    return found


def before_runs(
    gain: float,
    parent_score: float,
    verified: Sequence[float],
    sides: tuple[Measures, Measures] | None = None,
    limits: Limits | None = None,
) -> Anomaly:
    """Rules 1 and 2 on what the author states. `sides`: its parent's and its child's, where its trials are here."""
    bounds = limits or Limits()
    excess = too_good(gain, parent_score, verified, bounds)
    found = [] if excess is None else [excess]
    if sides is not None:
        found += losses(*sides, bounds)
    return Anomaly(tuple(found), Until.FULL_CHECK) if found else CLEAR


def after_runs(
    sides: tuple[Measures, Measures] | None,
    voices: Tally,
    *,
    audits_failed: int = 0,
    not_carried_over: Sequence[str] = (),
    limits: Limits | None = None,
) -> Anomaly:
    """Rules 2 to 5 on what this node measured itself of a claim that its runs confirm."""
    bounds = limits or Limits()
    found = [] if sides is None else losses(*sides, bounds)
    found += not_carried_over
    if audits_failed > 0:
        found.append(f"{audits_failed} of its runs here failed the audit")
    if voices.refuters >= bounds.unseen_voices and voices.confirmers == 0:
        found.append(f"{voices.refuters} trusted peers ran it, and none confirms it")
    return Anomaly(tuple(found), Until.PEOPLE) if found else CLEAR


SIMPLER_SHARE = 0.02  # of the lines that must go: the equality costs up to the noise each time, so it must be worth it


def simpler(low: float, high: float, noise: float, parent_lines: int, child_lines: int) -> str | None:
    """Why an equal score is a keep, or None: an equivalence test (Schuirmann 1987) with the noise as the margin.

    `low`, `high`: the interval of the mean difference; `noise`: the standard deviation of a difference of two runs; all
    in bits per byte. The interval must lie within the noise on both sides, so few pairs are never enough: a wide
    interval is ignorance, not equality.
    """
    fewer = parent_lines - child_lines
    if fewer < max(1, SIMPLER_SHARE * parent_lines) or not -noise <= low <= high <= noise:
        return None
    return f"equal within the noise of {noise:.4g} bpb, with {fewer} lines fewer"
