"""What a node does with its compute lane: noise first, then what others claim, then its own search.

One loop, one pair of runs or one verification at a time. It reads from the ledger what there is to do, so whatever
arrives while a run is under way is seen at the next turn.
"""

import math
import random
import statistics
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

import trio

from ledger import queries
from ledger.author import Author
from ledger.envelope import Signed
from ledger.proving import CHECKPOINT_ENTRIES, feeds_to_commit
from ledger.store import Store
from node.adoption import Adopter
from node.asking import Folder
from node.charter import Charter
from node.claims import ClaimBook
from node.context import Contexts
from node.courses import Courses
from node.governance import Governance
from node.home import Home
from node.incumbent import IncumbentTree
from node.lessons import LessonBook
from node.population import Population
from node.proposers import Chosen
from node.proposing import Ahead
from node.research import Research
from node.status import NodeStatus
from node.steering import Steering
from node.trust import Trust
from node.verify import Verifier
from node.workbench import Lane, Workbench
from policy.gate import Action
from policy.lessons import Refusal
from trainer.challenge import Challenge
from trainer.proposers.evolve import Evolve

IDLE_S = 5.0  # how long the lane waits for news when there is nothing to try
WAITING_SHOWN_MAX = 20


class Outside(NamedTuple):
    """What the loop needs of the node around it."""

    report: Callable[[str], None]
    publish: Callable[[Signed], Awaitable[None]]
    heard_of_own_past: Callable[[], Awaitable[None]]  # returns when it is safe to make statements
    charter: Charter
    gate: Governance
    trust: Trust
    courses: Courses


class Work:
    """The parts that run trials and make statements, in one track."""

    def __init__(
        self,
        home: Home,
        challenge: Challenge,
        track: str,
        store: Store,
        lane: Lane,
        outside: Outside,
        chosen: Chosen | None = None,
    ) -> None:
        """`chosen`: where candidates come from; by default `Evolve`."""
        self._store, self._outside, self._track = store, outside, track
        self._baseline = challenge.tracks[self._track].baseline
        self._public = home.public_split(challenge)
        self._news = trio.Event()
        report = outside.report
        author = Author(store, home.key())
        self._me, self._author = author.id, author
        self._bench = Workbench(store, author, lane, self._track, report)
        self._adopter = Adopter(store, author, IncumbentTree(home.incumbent), self._track, report)
        gate, stranger = outside.gate, outside.charter.stranger
        self._search_again_s = 0.0  # when a throttled node's own search goes on
        lessons = LessonBook(store, author, track, outside.trust.word)
        self._contexts = Contexts(
            store, author, track, brief=home.brief_file, claims=ClaimBook(store, author, track, outside.trust.word),
            lessons=lessons, steering=Steering(home.steering, report),
            population=Population(
                store, author.id, track, self._baseline, standing=outside.trust.word,
                effects=lambda: self._research.search.effects,
            ),
            run_sd=self._run_sd, report=report, learn=None if chosen is None else chosen.learn,
        )  # fmt: skip
        self._ahead = Ahead(
            self._contexts, Evolve() if chosen is None else chosen.proposer, self._contexts.screen, self._chance,
            report, outlook=self._contexts,
        )  # fmt: skip
        self._research = Research(
            store, author, self._bench, self._adopter, self._ahead, self._public, report,
            held=lambda: gate.forbids(Action.DISCOVER), course=self._contexts,
            fdr=outside.charter.limits().fdr_level,
        )  # fmt: skip
        tracks = {name: track.baseline for name, track in challenge.tracks.items()}
        self._verifier = Verifier(
            store, author, self._bench, self._adopter, home.salts(), tracks, report,
            trust=outside.trust, courses=outside.courses, asked=Folder(home.asked), limits=outside.charter.limits,
            stranger=stranger, refusal=partial(_refusal, lessons), held=lambda: gate.forbids(Action.ADOPT),
        )  # fmt: skip

    def hear(self) -> None:
        """Entries or blobs have arrived."""
        self._verifier.hear()
        self._ahead.hear()
        self._news.set()

    async def run(self, trials: int | None) -> None:
        """Work until cancelled, or until about `trials` trials have been run."""
        await self._outside.heard_of_own_past()
        while (missing := self._adopter.missing_program()) is not None:
            self._outside.report(f"waiting for the text of the incumbent {missing[:8]} to come back from a peer")
            self._news = trio.Event()
            await self._news.wait()
        await self._publish(self._adopter.begin(self._baseline))
        await self._outside.gate.until_allowed(Action.VERIFY)  # nothing new is begun before
        self._research.resume()
        self._contexts.resume(self._research.under_way)
        async with trio.open_nursery() as background:
            background.start_soon(self._ahead.run)
            while trials is None or self._bench.trials_run < trials:
                self._news = trio.Event()
                if self._contexts.urgent():
                    self._ahead.hear(urgent=True)
                statements = await self._turn()
                await self._publish(self._contexts.take_statements())
                if statements is None:
                    with trio.move_on_after(IDLE_S):
                        await self._news.wait()
                else:
                    await self._publish([*statements, *self._checkpoints()])
            background.cancel_scope.cancel()
        self._outside.report(f"done: {self._bench.trials_run} trials run")

    async def _turn(self) -> list[Signed] | None:
        """What the gate allows, the most urgent first: the statements to publish. None if there is nothing to do."""
        gate, noise = self._outside.gate, self._research.noise
        if stated := self._verifier.reconsider():
            return stated
        if noise.dof > 0:  # nothing can be judged before, neither a claim nor a candidate
            if gate.forbids(Action.ADOPT) is None and (confirmed := self._verifier.pending()) is not None:
                return await self._verifier.consider(confirmed, noise)
            if gate.forbids(Action.VERIFY) is None and (claimed := self._verifier.next()) is not None:
                return await self._verifier.step(claimed, noise)
        searched = await self._search()
        if searched is None and noise.dof > 0 and gate.forbids(Action.VERIFY) is None:
            idle = self._verifier.next(idle=True)
            return None if idle is None else await self._verifier.step(idle, noise)
        return searched

    async def _search(self) -> list[Signed] | None:
        """A step of the own search, as far as the gate allows it; None if it has nothing to do now."""
        gate = self._outside.gate
        started_s = trio.current_time()
        throttled = gate.forbids(Action.SEARCH_FULLY) is not None
        if gate.forbids(Action.SEARCH) is not None or (throttled and started_s < self._search_again_s):
            return None
        statements = await self._research.step()
        if throttled:
            duty = self._outside.charter.limits().throttle_search_duty
            ended_s = trio.current_time()
            self._search_again_s = ended_s + (ended_s - started_s) * (1 / duty - 1) if duty else math.inf
        return statements

    async def _publish(self, statements: list[Signed]) -> None:
        for signed in statements:
            await self._outside.publish(signed)

    def _run_sd(self) -> float:
        """Standard deviation of one run's score, bits per byte; 0 before it is known."""
        return self._research.search.noise.spread.sd

    def _chance(self, number: int) -> random.Random:
        """Reproducible from the ledger: the position in the own feed stands for everything that happened before."""
        head = self._author.head("trials")
        return random.Random(f"{self._me} {head.seq if head else -1} {number}")

    def _checkpoints(self) -> list[Signed]:
        """Commit to one's own feeds where they have grown enough."""
        due = feeds_to_commit(self._store, self._author, CHECKPOINT_ENTRIES)
        return [self._author.checkpoint(feed) for feed in due]

    def tell(self, status: NodeStatus) -> None:
        """Fill in what the status shows of the work."""
        status.track, status.trials = self._track, self._bench.trials_run
        status.waiting = dict(list(self._verifier.reasons.items())[-WAITING_SHOWN_MAX:])
        status.next_turn = self._verifier.next_turn
        adopted = queries.last_adoption(self._store, self._me, self._track)
        if adopted is not None:
            status.incumbent = adopted.program
            runs = queries.trials(self._store, self._me, adopted.program, self._public.name)
            scores = [run.val_bpb for run in runs if run.val_bpb is not None]
            status.incumbent_bpb = statistics.fmean(scores) if scores else None


def _refusal(lessons: LessonBook, parent: bytes, child: bytes) -> str | None:
    """Why what a peer claims is not worth a run, by what its kind of change has led to here."""
    said = lessons.check(parent, child, own=False)
    return said.reason if isinstance(said, Refusal) else None
