"""Proposals made ahead: a small queue that is refilled while the compute lane trains.

A proposer may take a second or a minute. It works in a thread of its own, one proposal at a time, as long as fewer than
`depth` screened proposals wait; the lane takes the next without waiting whenever one is there.

    proposer ──► tried by anybody? ──► screen ──► claimed by another? ──► queue ──► lane
                     │ again             │ again        │ set aside, and again
                     ▼                   ▼              └──► taken when the claim is over, or nothing else is left
                  forgotten           refused

What was set aside is not lost, since it may have cost money. What the operator asks for by hand goes before all.
"""

import hashlib
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

import trio
from msgspec.structs import replace

from trainer.proposers.proposal import Context, ProgramUnreadable, Proposal, Proposer, ProposerError, fingerprint

DEPTH = 2  # proposals that wait; more would be older than what was learnt since
REFUSED_MAX = 8  # by the screen in a row, before the proposer counts as having nothing
REPEATED_MAX = 64  # of what somebody has tried, likewise: each costs a proposal, and no run
AVOIDED_MAX = 4  # claimed by others in a row, before one of them is taken nevertheless
ASIDE_MAX = 8
HYPOTHESIS_CHARACTERS_MAX, OPERATOR_CHARACTERS_MAX = 1000, 64  # as the ledger takes them
AGAIN_S, AGAIN_MAX_S = 5.0, 300.0  # until a proposer that had nothing is asked again, twice as long each time
LOOK_S = 5.0  # between two looks for the operator's programs, while the lane waits
UNANSWERED_MAX = 8  # proposals that leave a suggestion aside, before it counts as one that nobody can make


class Ready(NamedTuple):
    """A screened proposal that waits for the compute lane."""

    parent: str  # SHA-256 of the program that it is a change of
    proposal: Proposal

    @property
    def child(self) -> str:
        """SHA-256 of the proposed program."""
        return hashlib.sha256(self.proposal.program.encode("utf-8", "surrogatepass")).hexdigest()


class Source(Protocol):
    """What a proposer is told of a parent, given by its SHA-256; called in the node's own thread.

    `waiting`: fingerprints, to be avoided. The program of the context may be another than the parent, with which the
    candidate is compared all the same; it says so in `origin`. All chance comes from `rng`.
    """

    def __call__(self, parent: str, waiting: frozenset[str], rng: random.Random) -> Context: ...


class Outlook(Protocol):
    """What the rest of the node knows of proposals, and hears of them."""

    def by_hand(self, parent: str) -> Ready | None:
        """What the operator wants to be tried before all proposals; it is used up by the call."""

    def tried(self, child: str) -> bool:
        """Whether anybody has tried the program with this SHA-256."""

    def contested(self, ready: Ready) -> float | None:
        """How much others' claims to a proposal weigh; None where there are none."""

    def queued(self, ready: Ready, suggested: bool) -> None:
        """It waits for the lane. `suggested`: made for the suggestion in its context."""

    def dropped(self, ready: Ready) -> None:
        """It will not be tried: its parent is not built on any more."""

    def none_passed(self, reason: str) -> None:
        """A proposer that was given a suggestion has made nothing of it that could be tried."""


class Alone:
    """An `Outlook` without operator, peers or memory."""

    def by_hand(self, parent: str) -> Ready | None:
        return None

    def tried(self, child: str) -> bool:
        return False

    def contested(self, ready: Ready) -> float | None:
        return None

    def queued(self, ready: Ready, suggested: bool) -> None: ...

    def dropped(self, ready: Ready) -> None: ...

    def none_passed(self, reason: str) -> None: ...


def _of_origin(proposal: Proposal, origin: str) -> Proposal:
    """A change of another program than the parent says so, and teaches nothing of its operator on the parent."""
    if not origin:
        return proposal
    hypothesis = f"{origin}: {proposal.hypothesis}"[:HYPOTHESIS_CHARACTERS_MAX]
    return replace(proposal, hypothesis=hypothesis, operator=f"elite:{proposal.operator}"[:OPERATOR_CHARACTERS_MAX])


Propose = Callable[[Context, random.Random], Proposal]


async def in_thread(propose: Propose, context: Context, rng: random.Random) -> Proposal:
    """Call a proposer in a thread; cancelled, the thread goes on by itself and its proposal is lost."""
    return await trio.to_thread.run_sync(propose, context, rng, abandon_on_cancel=True)


class Ahead:
    """Keeps proposals for one parent ready; `run` is its background task."""

    def __init__(
        self,
        source: Source,
        proposer: Proposer,
        screen: Callable[[str, str], str | None],
        rng_for: Callable[[int], random.Random],
        report: Callable[[str], None],
        *,
        outlook: Outlook | None = None,
        depth: int = DEPTH,
        call: Callable[[Propose, Context, random.Random], Awaitable[Proposal]] = in_thread,
    ) -> None:
        """`screen`: why a program (second, its text) may not be tried on a parent (first, its SHA-256), if so.

        `rng_for`: the chance of the proposal of that number. `call`: how the proposer is called.
        """
        self._source, self._proposer, self._screen = source, proposer, screen
        self._rng_for, self._report = rng_for, report
        self._outlook: Outlook = outlook or Alone()
        self._depth, self._call = depth, call
        self._parent = ""
        self._queue: deque[Ready] = deque()
        self._aside: list[Ready] = []  # of this parent: claimed by others
        self._made: dict[str, None] = {}  # fingerprints of this parent's proposals: queued, under way or refused
        self._nothing = False  # nothing is left to try on this parent, until there is news
        self._nothing_s, self._nothing_times, self._nothing_news = 0.0, 0, 0  # when, how often in a row, after what
        self._said = ""  # the last complaint
        self._count = self._news = 0
        self._unanswered, self._suggestion = 0, ""  # how often in a row, and which
        self._wanted, self._answered = trio.Event(), trio.Event()

    def waits(self, parent: str) -> bool:
        """Whether `next` would wait for a proposer now, as far as can be told without asking."""
        self.turn_to(parent)
        return not self._queue and not self._nothing

    async def next(self, parent: str) -> Ready | None:
        """A proposal on `parent`: at once if one is ready, else the next that is made.

        None where there is nothing to try, or where something was heard meanwhile that may be more urgent: ask again.
        """
        self.turn_to(parent)
        self._wanted.set()
        if (given := self._outlook.by_hand(parent)) is not None:
            return given
        self._try_again()
        news = self._news
        while not self._queue:
            if self._nothing or self._news != news:
                return None
            self._wanted.set()
            with trio.move_on_after(LOOK_S) as waited:
                await self._answered.wait()
            if waited.cancelled_caught and (given := self._outlook.by_hand(parent)) is not None:
                return given
        self._wanted.set()
        for ready in self._queue:  # what others have claimed since it was queued comes later
            if self._outlook.contested(ready) is None:
                self._queue.remove(ready)
                return ready
        return self._queue.popleft()

    def hear(self, *, urgent: bool = False) -> None:
        """Something is new, in the ledger or (urgent) by the operator's hand: there may be something to try again."""
        self._news += 1
        if urgent:
            self._nothing_times, self._nothing_s = 0, -AGAIN_MAX_S
        self._answer()

    async def run(self) -> None:
        """Refill the queue until cancelled."""
        while True:
            self._wanted = trio.Event()
            if not self._parent or len(self._queue) >= self._depth or self._nothing:
                await self._wanted.wait()
                continue
            parent, news = self._parent, self._news
            ready = await self._propose(parent)
            if parent != self._parent:
                if ready is not None:
                    self._outlook.dropped(ready)
            elif ready is not None:
                self._nothing_times = 0
                self._queue.append(ready)
            else:
                self._nothing, self._nothing_s, self._nothing_news = True, trio.current_time(), news
                self._nothing_times += 1
            self._answer()

    def turn_to(self, parent: str) -> None:
        """Proposals on `parent` (SHA-256) will be asked for: make them from now on, and drop those on another."""
        if parent == self._parent:
            return
        for ready in (*self._queue, *self._aside):
            self._outlook.dropped(ready)
        self._queue.clear()
        self._aside.clear()
        self._made.clear()
        self._parent, self._nothing, self._nothing_times = parent, False, 0
        self._wanted.set()

    def _try_again(self) -> None:
        """Ask a proposer that had nothing once more, if there was news since, and not at once for each."""
        pause_s = min(AGAIN_MAX_S, AGAIN_S * 2.0 ** min(self._nothing_times - 1, 10))
        if self._nothing and self._news != self._nothing_news and trio.current_time() >= self._nothing_s + pause_s:
            self._nothing = False

    def _answer(self) -> None:
        self._answered.set()
        self._answered = trio.Event()

    async def _propose(self, parent: str) -> Ready | None:
        """The next proposal that may be tried; None where the proposer has none."""
        for ready in self._aside:
            if self._outlook.contested(ready) is None:
                self._aside.remove(ready)
                return self._taken(ready, suggested=False)
        refused = repeated = avoided = 0
        reason = suggestion = ""
        while max(refused / REFUSED_MAX, repeated / REPEATED_MAX, avoided / AVOIDED_MAX) < 1:
            self._count += 1
            rng = self._rng_for(self._count)
            context = self._source(parent, frozenset(self._made), rng)
            suggestion = context.suggestion
            try:
                proposal = _of_origin(await self._call(self._proposer.propose, context, rng), context.origin)
            except (ProposerError, OSError) as nothing:
                reason = str(nothing)
                break
            if parent != self._parent:
                return Ready(parent, proposal)  # to be dropped
            ready, suggested = Ready(parent, proposal), bool(suggestion) and proposal.answers
            try:
                self._made[fingerprint(proposal.program)] = None
                refusal = self._screen(parent, proposal.program)
            except ProgramUnreadable as unreadable:
                refusal = str(unreadable)
            if refusal is not None:
                refused += 1
                reason = f"{proposal.proposer}: {refusal}"
                self._report(f"proposal of {proposal.proposer} refused: {refusal}")
            elif self._outlook.tried(ready.child):
                repeated += 1
                reason = f"{proposal.proposer}: what it proposes has been tried"
            elif not suggested and self._outlook.contested(ready) is not None:
                avoided += 1
                self._aside = [*self._aside, ready][-ASIDE_MAX:]
            else:
                self._heed(suggestion, proposal)
                return self._taken(ready, suggested=suggested)
        if suggestion and avoided < AVOIDED_MAX:
            self._outlook.none_passed(reason)
        if self._aside:
            ready = min(self._aside, key=lambda ready: self._outlook.contested(ready) or 0.0)
            self._aside.remove(ready)
            return self._taken(ready, suggested=False)
        if reason != self._said:  # asked again whenever there is news: say it once
            self._said = reason
            self._report(f"nothing to try on {parent[:8]}: {reason}")
        return None

    def _heed(self, suggestion: str, proposal: Proposal) -> None:
        """Give up a suggestion that several proposals in a row have left aside."""
        left_aside = bool(suggestion) and not proposal.answers
        self._unanswered = left_aside * (self._unanswered * (suggestion == self._suggestion) + 1)
        self._suggestion = suggestion
        if self._unanswered >= UNANSWERED_MAX:
            self._unanswered = 0
            self._outlook.none_passed(
                f"{UNANSWERED_MAX} proposals in a row, the last by {proposal.proposer}, were of something else. "
                "Name a constant or a recipe, ask a model, or write the program and `waggle propose` it"
            )

    def _taken(self, ready: Ready, *, suggested: bool) -> Ready:
        self._outlook.queued(ready, suggested)
        return ready
