"""How busy the node's loop keeps its compute lane with a proposer that takes PROPOSE_S for each proposal.

The loop is `node.work.Work` with everything that it has in a node but the network: ledger, gate, lessons, claims. The
trials are real ones of the track `cpu-quick`, through a real runner. Busy is the time in which the lane has a trial;
what a trial itself loses between its phases is measured by `scripts/bench trainer`.
"""

import random
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import trio

from benches.report import Effort, Goal, Outcome, Row
from ledger import queries
from ledger.author import Author
from ledger.envelope import Signed
from ledger.predicates import Measurement
from node.charter import Charter
from node.courses import Courses
from node.governance import Governance, Observed
from node.home import Home, found_challenge
from node.lanes import open_lane
from node.proposers import Chosen
from node.tracks import CPU_TRACK, own_tracks
from node.trust import Trust
from node.work import Outside, Work
from node.workbench import Lane
from trainer.proposers.evolve import Evolve
from trainer.proposers.proposal import Context, Proposal, Proposer
from trainer.requests import TrialRequest

PROPOSE_S = 5.0
RUN_S, RUN_FULL_S = 120.0, 900.0
BUSY_GOAL = 0.97


class Slow:
    """A proposer that takes its time."""

    name = "slow"

    def __init__(self, proposer: Proposer, seconds: float) -> None:
        self._proposer, self._seconds = proposer, seconds

    def propose(self, context: Context, rng: random.Random) -> Proposal:
        """As the other one, `seconds` later."""
        time.sleep(self._seconds)
        return self._proposer.propose(context, rng)


class Timed:
    """A lane that notes when it was busy."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self.spans: list[tuple[float, float]] = []  # seconds of trio's clock; the last may have been cancelled

    async def trial(self, request: TrialRequest) -> Measurement:
        """A trial of the lane."""
        started_s = trio.current_time()
        try:
            return await self._lane.trial(request)
        finally:
            self.spans.append((started_s, trio.current_time()))

    def gaps(self) -> list[float]:
        """Seconds between a trial and the next one."""
        return [after - before for (_, before), (after, _) in zip(self.spans, self.spans[1:], strict=False)]

    def busy_share(self) -> float:
        """From the first trial's start to the last one's end."""
        wall_s = self.spans[-1][1] - self.spans[0][0]
        return sum(end - start for start, end in self.spans) / wall_s


class Looped(NamedTuple):
    """What a run of the loop came to."""

    lane: Timed
    discoveries: int


async def loop(folder: Path, seconds: float, propose_s: float, budget_s: float, other: Lane | None = None) -> Looped:
    """Run the node's loop in a new home for `seconds`; with a runner of its own, or on another lane."""
    home = Home(folder)
    challenge = found_challenge(home, "bench-lane", (), own_tracks([CPU_TRACK], budget_s))
    store = home.store(challenge)
    author = Author(store, home.key())
    charter, courses = Charter(store, challenge), Courses(home.courses_file)
    trust = Trust(store, author.id, courses.bans)

    async def publish(signed: Signed) -> None:
        await trio.lowlevel.checkpoint()

    async def nothing_to_wait_for() -> None:
        await trio.lowlevel.checkpoint()

    gate = Governance(
        home, charter, store, author, lambda line: None,
        publish=publish, changed=lambda: None, observed=Observed(home, store, author.id),
    )  # fmt: skip
    outside = Outside(lambda line: None, publish, nothing_to_wait_for, charter, gate, trust, courses)
    chosen = Chosen(Slow(Evolve(), propose_s), lambda *what: None, lambda: 0.0)

    async def work(lane: Lane) -> Looped:
        timed = Timed(lane)
        with trio.move_on_after(seconds):
            await Work(home, challenge, CPU_TRACK, store, timed, outside, chosen).run(None)
        return Looped(timed, len(queries.discoveries(store)))

    async with trio.open_nursery() as nursery:
        await nursery.start(gate.watch)
        if other is not None:
            looped = await work(other)
        else:
            corpus, tokenizer = home.corpus_path(challenge, store), home.tokenizer_path(challenge, store)
            async with open_lane(challenge, corpus, tokenizer) as lane:
                looped = await work(lane)
        nursery.cancel_scope.cancel()
    return looped


def lane(effort: Effort) -> Outcome:
    """The busy share of a real run."""
    seconds = RUN_FULL_S if effort.full else RUN_S
    effort.say(f"lane: the node's loop for {seconds:.0f} s")
    with tempfile.TemporaryDirectory() as folder:
        budget_s = own_tracks([CPU_TRACK])[CPU_TRACK].budget_s
        timed, discoveries = trio.run(loop, Path(folder), seconds, PROPOSE_S, budget_s)
    gaps = timed.gaps()
    what = f"lane busy, {len(timed.spans)} trials, {discoveries} discoveries, proposer of {PROPOSE_S:g} s"
    rows = [
        Row(what=what, figure=timed.busy_share(), unit="", repetitions=1),
        Row(
            what="longest wait of the lane for a trial", figure=max(gaps, default=0.0), unit="s", repetitions=len(gaps)
        ),
    ]
    return Outcome(rows, [Goal(what=what, figure=timed.busy_share(), bound="at least", goal=BUSY_GOAL)])
