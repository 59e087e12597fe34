"""What others' verdicts on a discovery amount to, weighted by their standing here.

One voice per author; the discovery's own author has none. Strangers weigh 0 (policy/standing.py), so they add nothing,
however many they are. Open verdicts count as well: a test at level 2.5 % confirms what is nothing once in forty checks,
so where a thousand nodes check, some confirm everything, and only their share tells.

A quorum never makes a node adopt, nor by itself take anything back: it moves the node's own check forward or
lengthens it (policy/priority.py), and has the node run again what it builds on or confirmed (policy/retraction.py).
Only what own runs then leave open falls by it, for as long as it stands. *Pure.*
"""

from collections.abc import Iterable
from enum import Enum

import numpy as np
from msgspec import Struct
from numpy.typing import ArrayLike, NDArray

from ledger.predicates import Verdict

QUORUM_WEIGHT = 1.0  # that the trusted voices on one side need together
QUORUM_VOICES = 3  # of different authors with a weight above 0: no single friend is a quorum
MAJORITY = 2.0  # how many times the weight of the other side


SEEN_SHARE = 0.1  # of the weight of all who ran it; chance gives 0.025, a gain of one standard deviation about 0.4
SEEN_VOICES = 10  # that must have run it before a small share speaks against it


class Voice(Struct, frozen=True):
    """A verdict, and what its author's word weighs for a verdict of that kind."""

    author: str
    verdict: Verdict
    weight: float  # 0 to 1: of the account of that kind, for an open verdict of the better one


class Opinion(Enum):
    NONE = "no quorum"
    CONFIRMS = "a quorum of trusted peers confirms it"
    REFUTES = "a quorum of trusted peers refutes it"


class Tally(Struct, frozen=True):
    """Weights and numbers of trusted voices: for, against, and open."""

    confirming: float = 0.0
    refuting: float = 0.0
    confirmers: int = 0
    refuters: int = 0
    undecided: float = 0.0
    undeciders: int = 0

    @property
    def opinion(self) -> Opinion:
        seen = self.confirming >= SEEN_SHARE * (self.confirming + self.refuting + self.undecided)
        if not seen and self.confirmers + self.refuters + self.undeciders >= SEEN_VOICES:
            return Opinion.REFUTES
        if (
            seen
            and self.confirmers >= QUORUM_VOICES
            and self.confirming >= max(QUORUM_WEIGHT, MAJORITY * self.refuting)
        ):
            return Opinion.CONFIRMS
        if self.refuters >= QUORUM_VOICES and self.refuting >= max(QUORUM_WEIGHT, MAJORITY * self.confirming):
            return Opinion.REFUTES
        return Opinion.NONE


def tally(voices: Iterable[Voice], *, claimant: str) -> Tally:
    """Count voices; of several by one author the last, since a verdict may be taken back."""
    last = {voice.author: voice for voice in voices if voice.author != claimant}
    sides = [
        [voice.weight for voice in last.values() if voice.verdict == verdict and voice.weight > 0]
        for verdict in ("confirmed", "refuted", "inconclusive")
    ]
    sums, counts = [sum(side) for side in sides], [len(side) for side in sides]
    return Tally(sums[0], sums[1], counts[0], counts[1], sums[2], counts[2])


def belief(claimant_weight: ArrayLike, confirming: ArrayLike, refuting: ArrayLike) -> NDArray[np.float64]:
    """How far a claim is trusted before this node has run it, between 0 and 1.

    The claimant's and the confirmers' words by a noisy-or (one that is right is enough), discounted in the same way by
    those who refute it. All of one shape: the claimant's weight, and the sums over voices of `voice_strength`.
    """
    vouched = 1 - (1 - np.asarray(claimant_weight, float)) * np.exp(-np.asarray(confirming, float))
    return np.asarray(vouched * np.exp(-np.asarray(refuting, float)))


def voice_strength(weight: ArrayLike) -> NDArray[np.float64]:
    """A weight in the additive form that `belief` takes: -log(1 - weight), and 0 for a stranger."""
    return np.asarray(-np.log1p(-np.minimum(np.asarray(weight, float), 0.99)))


def belief_of(claimant_weight: float, voices: Iterable[Voice], *, claimant: str) -> float:
    """`belief` in one claim, from its voices."""
    last = {voice.author: voice for voice in voices if voice.author != claimant}
    sums = {
        verdict: sum(float(voice_strength(v.weight)) for v in last.values() if v.verdict == verdict)
        for verdict in ("confirmed", "refuted")
    }
    return float(belief(claimant_weight, sums["confirmed"], sums["refuted"]))
