"""The way of a foreign discovery through this node, as a table, and the checks before any compute is spent on it.

    received ──► screened ──► queued ──► verifying ──► confirmed ──► adopted
       │  ▲         │           │            │             └───────► declined
       ▼  │         ├──► duplicate           ├──► refuted
     waiting        └──► quarantined         └──► inconclusive
       └──► rejected              later, from any of the believed: ──► overturned

docs/transitions.md draws the whole table. Entries and blobs travel separately and in any order, so what is incomplete
*waits*. Nothing here is believed because it was claimed: these checks find claims that contradict themselves or their
own records. Whether the effect is real is for the node's own paired runs to say. *Pure.*
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Set
from enum import Enum
from typing import Self

from msgspec import Struct

from ledger.predicates import Discovery, Trial
from policy.moves import made
from policy.screening import screen_program

DIFFERENCE_TOLERANCE = 1e-9  # bits per byte: a difference of two recorded scores, recomputed in float64


class State(Enum):
    RECEIVED = "received"
    WAITING = "waiting"
    SCREENED = "screened"
    QUEUED = "queued"
    VERIFYING = "verifying"
    CONFIRMED = "confirmed"
    REFUTED = "refuted"
    INCONCLUSIVE = "inconclusive"
    ADOPTED = "adopted"
    DECLINED = "declined"
    REJECTED = "rejected"
    QUARANTINED = "quarantined"
    WITHHELD = "withheld"
    DUPLICATE = "duplicate"
    OVERTURNED = "overturned"


class Move(Enum):
    WAIT = "something that it rests on has not arrived"
    ARRIVE = "something has arrived: look again"
    CHECKED = "the claim agrees with its own records"
    REJECT = "the claim contradicts itself or its records"
    ENQUEUE = "nothing like it is under way"
    REPEAT = "the same question is asked, or answered, already"
    QUARANTINE = "something about it is not as it should be"
    RELEASE = "what held it back is gone"
    START = "the node takes it up"
    INTERRUPT = "the node stopped before a verdict"
    CONFIRM = "own paired runs show the gain"
    REFUTE = "own paired runs show no gain"
    LEAVE_OPEN = "own paired runs do not decide"
    ADOPT = "it beats the incumbent"
    DECLINE = "it does not beat the incumbent"
    OVERTURN = "later evidence speaks against it"
    REOPEN = "it is to be run again"
    VOUCH = "the owner, or a quorum of trusted peers, vouches for what own runs confirmed"


TRANSITIONS: Mapping[tuple[State, Move], State] = {
    (State.RECEIVED, Move.WAIT): State.WAITING,
    (State.RECEIVED, Move.CHECKED): State.SCREENED,
    (State.RECEIVED, Move.REJECT): State.REJECTED,
    (State.WAITING, Move.ARRIVE): State.RECEIVED,
    (State.WAITING, Move.OVERTURN): State.OVERTURNED,
    (State.SCREENED, Move.ENQUEUE): State.QUEUED,
    (State.SCREENED, Move.REPEAT): State.DUPLICATE,
    (State.SCREENED, Move.QUARANTINE): State.QUARANTINED,
    (State.QUEUED, Move.START): State.VERIFYING,
    (State.QUEUED, Move.REPEAT): State.DUPLICATE,
    (State.QUEUED, Move.QUARANTINE): State.QUARANTINED,
    (State.QUEUED, Move.OVERTURN): State.OVERTURNED,
    (State.DUPLICATE, Move.RELEASE): State.QUEUED,
    (State.QUARANTINED, Move.RELEASE): State.QUEUED,
    (State.QUARANTINED, Move.OVERTURN): State.OVERTURNED,
    (State.WITHHELD, Move.VOUCH): State.CONFIRMED,
    (State.WITHHELD, Move.RELEASE): State.QUEUED,
    (State.WITHHELD, Move.OVERTURN): State.OVERTURNED,
    (State.VERIFYING, Move.INTERRUPT): State.QUEUED,
    (State.VERIFYING, Move.CONFIRM): State.CONFIRMED,
    (State.VERIFYING, Move.REFUTE): State.REFUTED,
    (State.VERIFYING, Move.LEAVE_OPEN): State.INCONCLUSIVE,
    (State.CONFIRMED, Move.ADOPT): State.ADOPTED,
    (State.CONFIRMED, Move.DECLINE): State.DECLINED,
    (State.CONFIRMED, Move.QUARANTINE): State.WITHHELD,
    (State.CONFIRMED, Move.OVERTURN): State.OVERTURNED,
    (State.ADOPTED, Move.OVERTURN): State.OVERTURNED,
    (State.DECLINED, Move.OVERTURN): State.OVERTURNED,
    (State.ADOPTED, Move.REOPEN): State.QUEUED,
    (State.DECLINED, Move.REOPEN): State.QUEUED,
    (State.DECLINED, Move.VOUCH): State.CONFIRMED,
    (State.INCONCLUSIVE, Move.OVERTURN): State.OVERTURNED,
    (State.INCONCLUSIVE, Move.REOPEN): State.QUEUED,
    (State.REFUTED, Move.REOPEN): State.QUEUED,
    (State.OVERTURNED, Move.REOPEN): State.QUEUED,
}


def advance(state: State, move: Move) -> State:
    """The state after a move. Raises `IllegalMove`."""
    return made(TRANSITIONS, state, move)


class Step(Struct, frozen=True):
    """One move, where it led, and why it was made here."""

    move: Move
    state: State
    reason: str


class Course(Struct, frozen=True):
    """How a discovery came to be in its state, for `waggle why`."""

    steps: tuple[Step, ...] = ()

    @property
    def state(self) -> State:
        return self.steps[-1].state if self.steps else State.RECEIVED

    def go(self, move: Move, reason: str = "") -> Self:
        """The course after one more move; without a reason, the move's own words. Raises `IllegalMove`."""
        step = Step(move, advance(self.state, move), reason or move.value)
        return type(self)((*self.steps, step))


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
    """Provably wrong, or of a form that this node does not run; says why.

    `misdeed`: what the author signed contradicts what the author signed. Anybody can check that from the entries, so
    it is a reason for a ban (policy/standing.py). A program that fails the screen is none: the screen may differ from
    version to version.
    """

    reason: str
    misdeed: bool = False


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
        return Rejected("its mean is not the mean of its differences", misdeed=True)
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
                return Rejected(f"trial {trial_id[:16]} is not the run that the claim says it is", misdeed=True)
            scores.append(trial.result.val_bpb)
        if not math.isclose(scores[1] - scores[0], difference, abs_tol=DIFFERENCE_TOLERANCE):
            return Rejected(f"the difference for seed {seed} is not that of its two trials", misdeed=True)
    return None


class Question(Struct, frozen=True):
    """What a claim asks of this node's compute, and where that stands."""

    id: str  # of the discovery
    author: str
    track: str
    parent: str  # SHA-256
    child: str
    change: tuple[str, str] | None  # fingerprints of both programs' syntax trees; None where one has none
    state: State = State.SCREENED


# While a claim is in one of these, another one that asks the same has nothing to add.
ANSWERING = frozenset(
    {
        State.QUEUED,
        State.VERIFYING,
        State.CONFIRMED,
        State.REFUTED,
        State.INCONCLUSIVE,
        State.WITHHELD,
        State.ADOPTED,
        State.DECLINED,
        State.OVERTURNED,
    }
)


def repeats(asked: Question, earlier: Iterable[Question], line: Set[str] = frozenset()) -> str | None:
    """Why a claim is a duplicate, or None. `line`: the programs that my incumbent descends from, itself among them.

    1. Its child is in my own line: it is built on already.
    2. The same child and parent, or the same two syntax trees (comments and layout do not make a discovery), whoever
       claims it. Who came *first* is this node's own order of arrival: a Lamport clock can be set back by its owner.
    3. The child was confirmed here against another parent.

    An `earlier` claim that was rejected, quarantined or waits answers nothing: otherwise whoever copies a discovery and
    spoils its records would keep the true one out. When the earlier one falls, ask again, and `Move.RELEASE`.
    """
    if asked.child in line:
        return "its program is in the line of the incumbent already"
    for other in earlier:
        if other.id == asked.id or other.track != asked.track or other.state not in ANSWERING:
            continue
        if (other.child, other.parent) == (asked.child, asked.parent):
            return f"the same child and parent as discovery {other.id[:16]}"
        if asked.change is not None and asked.change == other.change:
            return f"the same change as discovery {other.id[:16]}: only comments or layout differ"
        if other.child == asked.child and other.state in (State.CONFIRMED, State.ADOPTED, State.DECLINED):
            return f"its program was confirmed here as discovery {other.id[:16]}"
    return None
