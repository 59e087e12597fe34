"""When what was believed no longer is: which discoveries fall, what falls with them, and where a node goes back to.

A discovery rests on the chain of discoveries by which its author came to its parent program. If one of them falls,
everything that rests on it is marked with it. A node whose incumbent is marked goes back to the last program of its own
history that is not: that one it had verified itself. What is marked may still hold a gain of its own: it is checked
against its parent as before, and its change is merged alone (policy/following.py). *Pure.*
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from enum import Enum

from msgspec import Struct

from ledger.predicates import Verdict
from policy.priority import LOOKS_MAX
from policy.quorum import Opinion

TURNS_LOOKS_MAX = 2 * LOOKS_MAX


class Ground(Enum):
    OWN_RERUN = "this node's own later runs refute it"
    RETRACTED = "its author takes it back"
    QUORUM = "a quorum of trusted peers refutes it"
    EQUIVOCATION = "its author signed two histories"


class Consequence(Enum):
    NOTHING = "nothing speaks against it"
    RECHECK = "to be run again here"
    OVERTURNED = "believed no more"


class Own(Enum):
    """What this node's own last runs say."""

    CONFIRMED = "they confirm it"
    OPEN = "they do not decide, or there are none"
    REFUTED = "they refute it"


# What own runs do not refute is run again before belief ends: colluding peers who were trusted, or an author who takes
# true work back, may cost a few runs, and not throw back a node. In a trial of scripts/benches/liars.py, overturning at
# once let betrayers undo, through one author's retraction, what 41 of 42 nodes had confirmed; and a quorum that was
# wrong about one small gain made 42 nodes go back 129 times, with all that was built on it.
CONSEQUENCES: Mapping[tuple[Ground, Own], Consequence] = {
    (Ground.OWN_RERUN, Own.CONFIRMED): Consequence.OVERTURNED,
    (Ground.OWN_RERUN, Own.OPEN): Consequence.OVERTURNED,
    (Ground.OWN_RERUN, Own.REFUTED): Consequence.OVERTURNED,
    (Ground.RETRACTED, Own.CONFIRMED): Consequence.RECHECK,
    (Ground.RETRACTED, Own.OPEN): Consequence.OVERTURNED,
    (Ground.RETRACTED, Own.REFUTED): Consequence.OVERTURNED,
    (Ground.QUORUM, Own.CONFIRMED): Consequence.RECHECK,
    (Ground.QUORUM, Own.OPEN): Consequence.RECHECK,
    (Ground.QUORUM, Own.REFUTED): Consequence.OVERTURNED,
    (Ground.EQUIVOCATION, Own.CONFIRMED): Consequence.RECHECK,
    (Ground.EQUIVOCATION, Own.OPEN): Consequence.OVERTURNED,
    (Ground.EQUIVOCATION, Own.REFUTED): Consequence.OVERTURNED,
}
# Instead of another check, once `LOOKS_MAX` are made: own runs that confirm stand, and those that cannot tell give way.
EXHAUSTED: Mapping[Own, Consequence] = {
    Own.CONFIRMED: Consequence.NOTHING,
    Own.OPEN: Consequence.OVERTURNED,
    Own.REFUTED: Consequence.OVERTURNED,
}


class Evidence(Struct, frozen=True, kw_only=True):
    """What is known of one discovery now."""

    own: Verdict | None = None  # this node's last verdict
    own_earlier: Verdict | None = None  # the one before, where it was run again
    looks: int = 0  # checks that this node has made of it
    built_on: bool = False  # the incumbent rests on it
    opinion: Opinion = Opinion.NONE  # of the others, weighted
    retracted: bool = False  # by its author
    equivocated: bool = False  # its author, with proof in the ledger

    @property
    def standing(self) -> Own:
        """What own runs say, in the terms of `CONSEQUENCES`."""
        return {"confirmed": Own.CONFIRMED, "refuted": Own.REFUTED}.get(self.own or "", Own.OPEN)


class Judgement(Struct, frozen=True):
    consequence: Consequence
    grounds: tuple[Ground, ...]

    @property
    def reason(self) -> str:
        words = ", and ".join(ground.value for ground in self.grounds)
        return f"{self.consequence.value}: {words}" if words else self.consequence.value


def judge(evidence: Evidence) -> Judgement:
    """What follows from the evidence, with every ground there is."""
    grounds = tuple(
        ground
        for ground, holds in (
            (Ground.OWN_RERUN, evidence.own_earlier == "confirmed" and evidence.own == "refuted"),
            (Ground.RETRACTED, evidence.retracted),
            (Ground.QUORUM, evidence.opinion is Opinion.REFUTES),
            (Ground.EQUIVOCATION, evidence.equivocated),
        )
        if holds
    )
    found = {_consequence(ground, evidence) for ground in grounds}
    for consequence in (Consequence.OVERTURNED, Consequence.RECHECK):
        if consequence in found:
            return Judgement(consequence, grounds)
    return Judgement(Consequence.NOTHING, ())


def _consequence(ground: Ground, evidence: Evidence) -> Consequence:
    own = evidence.standing
    due = CONSEQUENCES[ground, own]
    if due is not Consequence.RECHECK:
        return due
    if own is Own.OPEN and not evidence.built_on:
        return Consequence.NOTHING  # nothing here would fall: peers' words count in the queue (policy/priority.py)
    return due if evidence.looks < LOOKS_MAX else EXHAUSTED[own]


def taken_up_again(evidence: Evidence) -> bool:
    """Whether what was overturned by others' words is to be run again, because those words have turned.

    Own runs that refute it are final, and after `TURNS_LOOKS_MAX` checks peers who change their minds cost no more.
    """
    return (
        evidence.own != "refuted"
        and evidence.looks < TURNS_LOOKS_MAX
        and judge(evidence).consequence is not Consequence.OVERTURNED
    )


def after_recheck(fresh: Verdict, pooled_shows_gain: bool) -> Verdict:
    """The verdict of a check that was made again, in full and with new seeds.

    The fresh runs decide where they can: the earlier ones were selected by having confirmed. Where they are
    inconclusive, belief stays only if all runs together still show the gain.
    """
    return "confirmed" if fresh == "inconclusive" and pooled_shows_gain else fresh


class Link(Struct, frozen=True):
    """A discovery, and the discoveries by which its author came to its parent program: none for the baseline, one as a
    rule, more for a merge."""

    id: str
    sources: tuple[str, ...]


class Held(Struct, frozen=True):
    """An adoption of this node's: a program, and the discovery it came by; None for the baseline or an own merge."""

    program: str
    discovery: str | None
    rests_on: tuple[str, ...] = ()  # discoveries besides, e.g. both sides of a merge


def fallen(links: Iterable[Link], overturned: Set[str]) -> dict[str, str]:
    """Every discovery that is overturned or rests on one that is, with the overturned one that it falls by.

    A cycle can be claimed, though not earned; what is on it falls only if something overturned is reached.
    """
    built_on: dict[str, list[str]] = {}
    for link in links:
        for source in link.sources:
            built_on.setdefault(source, []).append(link.id)
    found = {root: root for root in sorted(overturned)}
    open_ids = list(found)
    while open_ids:
        at = open_ids.pop()
        for above in built_on.get(at, ()):
            if above not in found:
                found[above] = found[at]
                open_ids.append(above)
    return found


def foundation(links: Iterable[Link], held: Iterable[str]) -> set[str]:
    """The discoveries `held` and all that they rest on."""
    sources = {link.id: link.sources for link in links}
    found, open_ids = set[str](), list(held)
    while open_ids:
        at = open_ids.pop()
        if at not in found:
            found.add(at)
            open_ids += sources.get(at, ())
    return found


def unsound(held: Held, marked: Mapping[str, str]) -> str | None:
    """The overturned discovery that an adoption rests on; `marked` as `fallen` gives it."""
    named = held.rests_on if held.discovery is None else (held.discovery, *held.rests_on)
    return next((marked[name] for name in named if name in marked), None)


class NothingSound(LookupError):
    """Not even the first adoption is sound: begin from the track's baseline."""


def last_sound(history: Sequence[Held], marked: Mapping[str, str]) -> Held:
    """The latest adoption that rests on nothing overturned. `history`: this node's, oldest first, in one track.

    Raises `NothingSound`.
    """
    for held in reversed(history):
        if unsound(held, marked) is None:
            return held
    raise NothingSound("every adoption of this node rests on something overturned: begin from the track's baseline")
