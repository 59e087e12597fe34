"""Which constitution was in force when: a pure function of signed statements, the same for everybody who has them.

A maintainer *proposes* by a statement that names the constitution as it would be and the one that it changes; that is
its vote as well. Others *ratify* by a statement that names the proposal. The rules:

1. One seat, one vote. The challenge's maintainers have the seats. A key that was revoked in favour of another hands
   its seat on. Who signed two histories has no vote, and its seat still counts: a ban must not lower the quorum.
2. A proposal counts if it was made while the constitution that it changes was in force, and changes nothing but values
   of limits and their reasons. Articles, units and ranges stay as they were (`change_fault`).
3. It is ratified by the vote with which more than `amendment_quorum_share` of the seats have voted for it, votes taken
   in the order of their Lamport times.
4. It is in force from the Lamport time of that vote on, plus `amendment_delay_ticks`. Not by a wall clock, which nobody
   can check; and not by a count of entries, of which a node that leaves out feeds of trials has fewer than others. A
   Lamport time stands in the signed statement itself.
5. Of several for one predecessor, that with the lowest such time wins, then that with the lowest id. The others are
   void: their predecessor is in force no more.

An entry is judged by the constitution in force at its own Lamport time. Nothing here depends on the order in which
statements arrive. What a late one changes, it changes everywhere alike, also for times that have passed.

What this does not prevent: a maintainer can sign its vote with any Lamport time after its own last entry, so also an
early one, and anybody can push the swarm's clock forward, which cuts a delay short. Neither makes a quorum. *Pure.*
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import Enum

import msgspec
from msgspec import Struct

from policy.constitution import Constitution

TERMS_MAX = 10_000  # of one history; the time of each is later than that of the one before


class Motion(Struct, frozen=True, order=True, kw_only=True):
    """A signed `Amendment`: a proposal, or a vote for one. Ordered by Lamport time, then id."""

    lamport: int
    id: str
    author: str
    constitution: str  # digest, as it would be
    previous: str  # digest, that it changes
    proposal: str | None  # id; None: this proposes


class Succession(Struct, frozen=True, order=True, kw_only=True):
    """A signed `Revocation` that names a successor. Ordered by Lamport time, then id."""

    lamport: int
    id: str
    author: str
    successor: str


class Term(Struct, frozen=True, kw_only=True):
    """A constitution and the Lamport time from which on it is in force."""

    constitution: str
    since: int
    proposal: str | None  # that brought it; None: the challenge did


class Fate(Enum):
    """What has become of a proposal."""

    OPEN = "open"
    RATIFIED = "ratified"
    WAITING = "ratified; its text has not arrived"
    VOID = "void"


class Proposal(Struct, frozen=True, kw_only=True):
    """A proposal by a maintainer, with what speaks for it."""

    motion: Motion
    votes: int  # seats
    needed: int  # votes, under the constitution that it changes
    fate: Fate
    since: int | None  # Lamport time from which on it is in force, if it is ratified
    reason: str  # why it is void; else empty


class History(Struct, frozen=True, kw_only=True):
    """The constitutions of a swarm in their order, and every proposal by its Lamport time."""

    terms: tuple[Term, ...]  # at least the challenge's
    proposals: tuple[Proposal, ...]
    waiting_for: str | None  # digest of a ratified constitution whose text is missing: the terms end before it


def change_fault(before: Constitution, after: Constitution) -> str | None:
    """Why `after` cannot amend `before`, or None if it can."""
    if before == after:
        return "it changes nothing"
    if before.articles != after.articles:
        changed = {one.id for one in before.articles} ^ {one.id for one in after.articles} or {
            one.id for one, other in zip(before.articles, after.articles, strict=True) if one != other
        }
        return f"it changes the articles ({', '.join(sorted(changed)[:5])}), which nothing can change"
    if before.limits.keys() != after.limits.keys():
        changed_limits = sorted(before.limits.keys() ^ after.limits.keys())[:5]
        return f"it adds or drops limits ({', '.join(changed_limits)})"
    for name, limit in sorted(before.limits.items()):
        other = after.limits[name]
        if (limit.unit, limit.range) != (other.unit, other.range):
            return f"it changes the unit or the range of {name}; only a value and its reason can change"
    return None


def votes_needed(seats: int, quorum_share: float) -> int:
    """The least number of votes that is more than this share of the seats."""
    return math.floor(seats * quorum_share + 1e-9) + 1


def seats_of(maintainers: Sequence[str], successions: Iterable[Succession]) -> dict[str, str]:
    """Who votes for which seat: peer id to the maintainer that the challenge names."""
    handed_on: dict[str, str] = {}
    for one in sorted(successions):
        handed_on.setdefault(one.author, one.successor)
    seats = {peer: peer for peer in maintainers}
    for peer in maintainers:
        heir = handed_on.get(peer)
        while heir is not None and heir not in seats:
            seats[heir] = peer
            heir = handed_on.get(heir)
    return seats


def history(
    root: Constitution,
    maintainers: Sequence[str],
    motions: Iterable[Motion],
    texts: Mapping[str, Constitution],
    *,
    successions: Iterable[Succession] = (),
    discredited: Collection[str] = frozenset(),
) -> History:
    """The constitutions since `root`, which the challenge names.

    Motions of who has no seat count for nothing. `texts`: the constitutions at hand by digest. `discredited`: who
    signed two histories.
    """
    believed = sorted({one for one in motions if one.author not in discredited})
    handed_on = [one for one in successions if one.author not in discredited]
    votes = _Votes(believed, seats_of(maintainers, handed_on), len(maintainers))
    terms = [Term(constitution=root.digest(), since=0, proposal=None)]
    texts = {**texts, root.digest(): root}
    judged: dict[str, Proposal] = {}
    waiting_for = None
    while waiting_for is None and len(terms) < TERMS_MAX:
        present, winner = terms[-1], None
        for proposal in votes.on(present, texts[present.constitution], texts):
            judged[proposal.motion.id] = proposal
            if proposal.since is not None and (winner is None or _rank(proposal) < _rank(winner)):
                winner = proposal
        if winner is None or winner.since is None:
            break
        for proposal in list(judged.values()):
            if proposal.motion.previous == present.constitution and proposal.motion.id != winner.motion.id:
                judged[proposal.motion.id] = _voided(proposal, "another one was ratified before it")
        if winner.fate is Fate.WAITING:
            waiting_for = winner.motion.constitution
        else:
            terms.append(Term(constitution=winner.motion.constitution, since=winner.since, proposal=winner.motion.id))
    return History(
        terms=tuple(terms),
        proposals=tuple(judged.get(one.id) or votes.out_of_turn(one, terms) for one in votes.proposals),
        waiting_for=waiting_for,
    )


def in_force(past: History, lamport: int) -> Term:
    """The constitution by which an entry of this Lamport time (0 or more) is judged."""
    return next(term for term in reversed(past.terms) if term.since <= lamport)


class _Votes:
    """The motions of those who have a seat."""

    def __init__(self, motions: Sequence[Motion], seats: Mapping[str, str], number: int) -> None:
        self._seats, self._number = seats, number
        self.proposals = [one for one in motions if one.proposal is None and one.author in seats]
        self._ratifying: dict[str, list[Motion]] = {}
        for one in motions:
            if one.proposal is not None and one.author in seats:
                self._ratifying.setdefault(one.proposal, []).append(one)

    def on(self, term: Term, text: Constitution, texts: Mapping[str, Constitution]) -> list[Proposal]:
        """The proposals to change a constitution, made since it is in force."""
        limits = text.numbers()
        needed = votes_needed(self._number, limits.amendment_quorum_share)
        found = []
        for motion in self.proposals:
            if motion.previous != term.constitution or motion.lamport < term.since:
                continue
            cast = self._cast(motion)
            proposal = Proposal(motion=motion, votes=len(cast), needed=needed, fate=Fate.OPEN, since=None, reason="")
            after = texts.get(motion.constitution)
            fault = None if after is None else change_fault(text, after)
            if fault is not None:
                proposal = _voided(proposal, fault)
            elif len(cast) >= needed:
                proposal = msgspec.structs.replace(
                    proposal,
                    fate=Fate.WAITING if after is None else Fate.RATIFIED,
                    since=cast[needed - 1] + limits.amendment_delay_ticks,
                )
            found.append(proposal)
        return found

    def _cast(self, proposal: Motion) -> list[int]:
        """The Lamport time of each seat's first vote for it, in order."""
        first = {self._seats[proposal.author]: proposal.lamport}
        for one in self._ratifying.get(proposal.id, ()):
            names_it = (one.constitution, one.previous) == (proposal.constitution, proposal.previous)
            if names_it and one.lamport > proposal.lamport:
                first.setdefault(self._seats[one.author], one.lamport)
        return sorted(first.values())

    def out_of_turn(self, motion: Motion, terms: Sequence[Term]) -> Proposal:
        """A proposal to change what was not in force when it was made."""
        reason = "what it changes was not in force"
        if motion.previous not in {term.constitution for term in terms}:
            reason = "what it changes has never been in force, as far as is known here"
        votes = len(self._cast(motion))
        return Proposal(motion=motion, votes=votes, needed=0, fate=Fate.VOID, since=None, reason=reason)


def _rank(proposal: Proposal) -> tuple[float, str]:
    return (math.inf if proposal.since is None else proposal.since, proposal.motion.id)


def _voided(proposal: Proposal, reason: str) -> Proposal:
    return msgspec.structs.replace(proposal, fate=Fate.VOID, since=None, reason=proposal.reason or reason)
