"""What a node does with its compute lane: noise first, then what others claim, then its own search.

One loop, one pair of runs or one verification at a time. It reads from the ledger what there is to do, so whatever
arrives while a run is under way is seen at the next turn.
"""

import statistics
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import trio

from ledger import queries
from ledger.author import Author
from ledger.envelope import Signed
from ledger.proving import CHECKPOINT_ENTRIES, feeds_to_commit
from ledger.store import Store
from node.adoption import Adopter
from node.home import Home
from node.incumbent import IncumbentTree
from node.research import Research
from node.status import NodeStatus
from node.verify import Verifier
from node.workbench import Lane, Workbench
from trainer.challenge import Challenge
from trainer.proposers.evolve import Evolve

IDLE_S = 5.0  # how long the lane waits for news when there is nothing to try
WAITING_SHOWN_MAX = 20


class Outside(NamedTuple):
    """What the loop needs of the node around it."""

    report: Callable[[str], None]
    publish: Callable[[Signed], Awaitable[None]]
    heard_of_own_past: Callable[[], Awaitable[None]]  # returns when it is safe to make statements


class Work:
    """The parts that run trials and make statements, in one track."""

    def __init__(
        self, home: Home, challenge: Challenge, track: str, store: Store, lane: Lane, outside: Outside
    ) -> None:
        self._store, self._outside, self._track = store, outside, track
        self._baseline = challenge.tracks[self._track].baseline
        self._public = home.public_split(challenge)
        self._news = trio.Event()
        report = outside.report
        author = Author(store, home.key())
        self._me, self._author = author.id, author
        self._bench = Workbench(store, author, lane, self._track, report)
        self._adopter = Adopter(store, author, IncumbentTree(home.incumbent), self._track, report)
        self._research = Research(store, author, self._bench, self._adopter, Evolve(), self._public, report)
        tracks = {name: track.baseline for name, track in challenge.tracks.items()}
        self._verifier = Verifier(store, author, self._bench, self._adopter, home.salts(), tracks, report)

    def hear(self) -> None:
        """Entries or blobs have arrived."""
        self._verifier.hear()
        self._news.set()

    async def run(self, trials: int | None) -> None:
        """Work until cancelled, or until about `trials` trials have been run."""
        await self._outside.heard_of_own_past()
        while (missing := self._adopter.missing_program()) is not None:
            self._outside.report(f"waiting for the text of the incumbent {missing[:8]} to come back from a peer")
            self._news = trio.Event()
            await self._news.wait()
        await self._publish(self._adopter.begin(self._baseline))
        noise = await self._bench.noise(self._baseline, self._public)
        self._outside.report(f"two runs of the baseline differ by {noise:.4f} bpb (standard deviation)")
        if (left := self._verifier.interrupted()) is not None:
            await self._publish(await self._verifier.consider(*left, noise))
        while trials is None or self._bench.trials_run < trials:
            self._news = trio.Event()
            claimed = self._verifier.next()
            statements = (
                await self._research.step(noise) if claimed is None else await self._verifier.step(claimed, noise)
            )
            if statements is None:
                with trio.move_on_after(IDLE_S):
                    await self._news.wait()
            else:
                await self._publish([*statements, *self._checkpoints()])
        self._outside.report(f"done: {self._bench.trials_run} trials run")

    async def _publish(self, statements: list[Signed]) -> None:
        for signed in statements:
            await self._outside.publish(signed)

    def _checkpoints(self) -> list[Signed]:
        """Commit to one's own feeds where they have grown enough."""
        due = feeds_to_commit(self._store, self._author, CHECKPOINT_ENTRIES)
        return [self._author.checkpoint(feed) for feed in due]

    def tell(self, status: NodeStatus) -> None:
        """Fill in what the status shows of the work."""
        status.track, status.trials = self._track, self._bench.trials_run
        status.waiting = dict(list(self._verifier.reasons.items())[-WAITING_SHOWN_MAX:])
        adopted = queries.last_adoption(self._store, self._me, self._track)
        if adopted is not None:
            status.incumbent = adopted.program
            runs = queries.trials(self._store, self._me, adopted.program, self._public.name)
            scores = [run.val_bpb for run in runs if run.val_bpb is not None]
            status.incumbent_bpb = statistics.fmean(scores) if scores else None
