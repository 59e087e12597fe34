"""The way of a foreign discovery through this node, as a table, and the checks before any compute is spent on it.

    received ──► queued ──► verifying ──► confirmed ──► adopted
       │                        │             └───────► declined
       └──► rejected            ├──► refuted
                                └──► inconclusive

A discovery whose evidence has not arrived yet stays *received*: entries and blobs travel separately and in any order.
Nothing here is believed because it was claimed: these checks find claims that contradict themselves or their own
records. Whether the effect is real is for the node's own paired runs to say. *Pure.*
"""

import math
import statistics
from collections.abc import Mapping
from enum import Enum

from msgspec import Struct

from ledger.predicates import Discovery, Trial
from policy.screening import screen_program

DIFFERENCE_TOLERANCE = 1e-9  # bits per byte: a difference of two recorded scores, recomputed in float64


class State(Enum):
    RECEIVED = "received"
    QUEUED = "queued"
    VERIFYING = "verifying"
    CONFIRMED = "confirmed"
    REFUTED = "refuted"
    INCONCLUSIVE = "inconclusive"
    ADOPTED = "adopted"
    DECLINED = "declined"
    REJECTED = "rejected"


class Move(Enum):
    CHECKED = "the claim agrees with its own records"
    REJECT = "the claim contradicts itself or its records"
    START = "the node takes it up"
    INTERRUPT = "the node stopped before a verdict"
    CONFIRM = "own paired runs show the gain"
    REFUTE = "own paired runs show no gain"
    LEAVE_OPEN = "own paired runs do not decide"
    ADOPT = "it beats the incumbent"
    DECLINE = "it does not beat the incumbent"


TRANSITIONS: Mapping[tuple[State, Move], State] = {
    (State.RECEIVED, Move.CHECKED): State.QUEUED,
    (State.RECEIVED, Move.REJECT): State.REJECTED,
    (State.QUEUED, Move.START): State.VERIFYING,
    (State.VERIFYING, Move.INTERRUPT): State.QUEUED,
    (State.VERIFYING, Move.CONFIRM): State.CONFIRMED,
    (State.VERIFYING, Move.REFUTE): State.REFUTED,
    (State.VERIFYING, Move.LEAVE_OPEN): State.INCONCLUSIVE,
    (State.CONFIRMED, Move.ADOPT): State.ADOPTED,
    (State.CONFIRMED, Move.DECLINE): State.DECLINED,
}


class IllegalMove(Exception):
    """Our own bug: a move that the table does not have. The state is unchanged."""


def advance(state: State, move: Move) -> State:
    """The state after a move. Raises `IllegalMove`."""
    try:
        return TRANSITIONS[state, move]
    except KeyError:
        raise IllegalMove(f"{move.name} is no move from {state.value}") from None


class Claim(Struct, frozen=True):
    """A foreign discovery with those of its records that are here; None for what has not arrived."""

    child: str  # SHA-256
    discovery: Discovery
    child_program: bytes | None
    parent_program: bytes | None
    parent_known: bool  # the parent is the track's baseline, or the child of a discovery in the ledger
    trials: Mapping[str, tuple[str, Trial] | None]  # id to (program, trial), for each trial that the claim names


class Waiting(Struct, frozen=True):
    """Not to be judged yet; says what is missing."""

    reason: str


class Rejected(Struct, frozen=True):
    """Provably wrong, or of a form that this node does not run; says why."""

    reason: str


def check_claim(claim: Claim, *, tracks: Mapping[str, str]) -> Waiting | Rejected | None:
    """Whether a claim may be queued (None), must wait, or is rejected. `tracks`: the challenge's, name to baseline.

    1. It is about a track of the challenge, and about two different programs.
    2. It claims a gain, and its mean is the mean of its differences.
    3. Its programs are here, and both pass the static screen.
    4. Its parent has a lineage.
    5. Every trial that it names is here, is by the same author, and says what the claim says it does.
    """
    found, comparison = claim.discovery, claim.discovery.comparison
    # 1
    if found.track not in tracks:
        return Rejected(f"track {found.track!r} is not one of the challenge's")
    if claim.child == found.parent:
        return Rejected("the child is the parent: a change that changes nothing")
    # 2
    if len(comparison.differences) < 2 or comparison.mean >= 0:
        return Rejected("it does not claim a gain over two or more pairs")
    if not math.isclose(comparison.mean, statistics.fmean(comparison.differences), abs_tol=DIFFERENCE_TOLERANCE):
        return Rejected("its mean is not the mean of its differences")
    # 3
    if claim.child_program is None or claim.parent_program is None:
        return Waiting("its programs have not arrived")
    for whose, text in (("child", claim.child_program), ("parent", claim.parent_program)):
        if (refusal := screen_program(text)) is not None:
            return Rejected(f"its {whose} program is refused: {refusal}")
    # 4
    if not claim.parent_known:
        return Waiting("its parent's lineage has not arrived")
    # 5
    pairs = zip(
        comparison.seeds, comparison.parent_trials, comparison.child_trials, comparison.differences, strict=True
    )
    for seed, parent_id, child_id, difference in pairs:
        scores: list[float] = []
        for trial_id, program in ((parent_id, found.parent), (child_id, claim.child)):
            named = claim.trials.get(trial_id)
            if named is None:
                return Waiting(f"trial {trial_id[:16]} has not arrived")
            ran, trial = named
            agrees = (
                ran == program
                and trial.entry.author == found.entry.author
                and (trial.seed, trial.split, trial.track) == (seed, comparison.split, found.track)
            )
            if not agrees or trial.result.val_bpb is None:
                return Rejected(f"trial {trial_id[:16]} is not the run that the claim says it is")
            scores.append(trial.result.val_bpb)
        if not math.isclose(scores[1] - scores[0], difference, abs_tol=DIFFERENCE_TOLERANCE):
            return Rejected(f"the difference for seed {seed} is not that of its two trials")
    return None
