"""The node's own search: one run at a time, and a candidate is kept only when the runs after its first one say so.

What to run next is decided by `policy.search`, which reuses the incumbent's runs for all candidates (docs/evidence.md,
docs/adr/0004). A step is one run, so that a claim of somebody else never waits for a whole candidate: what holds in the
swarm is worth more than one more try of one's own.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Literal, Protocol

from ledger import queries
from ledger.author import Author
from ledger.envelope import Signed
from ledger.predicates import Comparison, Discovery
from ledger.store import Store
from node.adoption import Adopter
from node.claims import Candidate
from node.errors import NodeFailure
from node.home import SplitChoice
from node.proposing import Ready
from node.workbench import Pair, RunFailed, Score, Workbench, comparison_of, seed_of
from policy.noise import Spread
from policy.search import CHILD_RUNS_MAX, CONTROLS_MAX, FDR, Past, Search, Step, replay
from trainer.proposers.proposal import Outcome

INCUMBENT_FAILURES_MAX = 3  # in a row; then no number of this machine means anything


Fate = Literal["kept", "discarded", "failed"]


class Proposals(Protocol):
    """Where candidates come from."""

    def turn_to(self, parent: str) -> None:
        """Candidates on `parent` will be asked for, after its controls; told again and again while it stays."""

    def waits(self, parent: str) -> bool:
        """Whether `next` would wait now."""

    async def next(self, parent: str) -> Ready | None:
        """A candidate on `parent`; None if there is nothing to try now."""


class Course(Protocol):
    """Who hears how candidates fare; what it states of them is published."""

    def begin(self, candidate: Candidate) -> list[Signed]:
        """Its first run is next."""

    def gives_way(self, candidate: Candidate) -> str | None:
        """Right before its first run: why it is left to another node, if so."""

    def given_up(self, candidate: Candidate, why: str) -> None:
        """It was not tried to the end."""

    def ended(self, candidate: Candidate, outcome: Outcome, failure: RunFailed | None, discovery: str) -> list[Signed]:
        """It was kept, discarded or failed. `discovery`: its id, where it was kept."""


class Alone:
    """A `Course` of a node without peers and memory."""

    def begin(self, candidate: Candidate) -> list[Signed]:
        return []

    def gives_way(self, candidate: Candidate) -> str | None:
        return None

    def given_up(self, candidate: Candidate, why: str) -> None: ...

    def ended(self, candidate: Candidate, outcome: Outcome, failure: RunFailed | None, discovery: str) -> list[Signed]:
        return []


class Research:
    """Tries candidates against the incumbent, and states the gains as discoveries."""

    def __init__(
        self,
        store: Store,
        author: Author,
        bench: Workbench,
        adopter: Adopter,
        proposals: Proposals,
        split: SplitChoice,
        report: Callable[[str], None],
        *,
        held: Callable[[], str | None] = lambda: None,
        course: Course | None = None,
        fdr: float = FDR,
    ) -> None:
        """`held` says why no discovery is to be published now; None: no reason. `fdr`: as `Search` has it."""
        self._store, self._author, self._bench, self._adopter = store, author, bench, adopter
        self._proposals, self._split, self._report = proposals, split, report
        self._held = held
        self._course: Course = course or Alone()
        self._numbers = {self._seed(number): number for number in range(max(CHILD_RUNS_MAX, CONTROLS_MAX) + 1)}
        self._runs = 0  # of this lane, those on other splits and tracks as well
        self._failures = 0  # of the incumbent, in a row
        self._incumbent = ""
        self._candidate: Candidate | None = None
        self._gave_way = False  # the last candidate; not twice in a row, so that nobody can stop this node by claims
        self.search = Search(fdr=fdr)

    def resume(self) -> None:
        """Take up the search where the ledger shows it to have been; after `Adopter.begin`."""
        self._incumbent = self._adopter.incumbent
        candidate = replay(self.search, self._history(), self._incumbent)
        if candidate and self._store.blobs.has(candidate):
            self._candidate = self._taken_up(candidate)
        elif candidate:  # the runs came back from peers, to a ledger that was an old backup; the text did not yet
            self._report(f"candidate {candidate[:8]} given up: its text is not here")
            self.search.discard()

    def _history(self) -> Iterator[Past]:
        """Own runs that the search has to do with, oldest first."""
        adopted = queries.incumbents(self._store, self._author.id, self._bench.track)
        times = [lamport for lamport, _ in adopted]
        for at, run in enumerate(queries.runs_of(self._store, self._author.id)):
            self._runs = at + 1
            number = self._numbers.get(run.seed)
            before = bisect_right(times, run.lamport)
            if run.track == self._bench.track and run.split == self._split.name and number is not None and before:
                yield Past(run.program, adopted[before - 1][1], number, run.val_bpb, at)

    def _taken_up(self, child: str) -> Candidate:
        claim = queries.claimed(self._store, self._author.id, child)
        if claim is None:
            return Candidate(self._incumbent, child, "taken up again after a restart", "", "")
        return Candidate(self._incumbent, child, claim.hypothesis, claim.proposer, claim.operator, claim.source or "")

    @property
    def under_way(self) -> str:
        """SHA-256 of the candidate that is being tried; empty where there is none."""
        return "" if self._candidate is None else self._candidate.child

    @property
    def noise(self) -> Spread:
        """The spread of a difference of two runs here, as far as it is known."""
        return self.search.noise.spread.of_difference()

    def _seed(self, number: int) -> int:
        """One list of seeds for all candidates of a node in a track, since the controls are shared."""
        return seed_of(self._author.id.encode(), self._bench.track.encode(), b"%d" % number)

    async def step(self) -> list[Signed] | None:
        """The next run, or the end of a candidate: the statements to publish. None if there was nothing to try."""
        if self._adopter.incumbent != self._incumbent:
            self._give_up("its parent is no longer the incumbent")
            self._incumbent = self._adopter.incumbent
            self.search.replace()
        self._proposals.turn_to(self._incumbent)
        due = self.search.next()
        if due.step is Step.PROPOSE and self._proposals.waits(self._incumbent):
            due = self.search.spare() or due
        match due.step:
            case Step.PROPOSE:
                return await self._begin()
            case Step.CONTROL:
                return await self._control(due.seed)
            case Step.CHILD:
                return await self._child(due.seed)
            case Step.KEEP:
                return None if self._held() is not None else self._keep(due.reason)
            case Step.DISCARD:
                return self._discard(due.reason)

    async def _begin(self) -> list[Signed] | None:
        ready = await self._proposals.next(self._incumbent)
        if ready is None:
            return None
        proposal = ready.proposal
        child = self._store.blobs.put(proposal.program.encode())
        self._report(f"candidate {child[:8]} on {ready.parent[:8]}: {proposal.hypothesis}")
        self._candidate = Candidate(
            ready.parent, child, proposal.hypothesis, proposal.proposer, proposal.operator, proposal.source
        )
        self.search.begin()
        return self._course.begin(self._candidate)

    def _give_up(self, why: str) -> None:
        if self._candidate is not None:
            self._report(f"candidate {self._candidate.child[:8]} given up: {why}")
            self._course.given_up(self._candidate, why)
            self._candidate = None

    async def _control(self, number: int) -> list[Signed]:
        purpose = f"incumbent {self._incumbent[:8]}, seed {number}"
        try:
            score = await self._run(self._incumbent, number, purpose)
        except RunFailed as failure:
            self._failures += 1
            if self._failures < INCUMBENT_FAILURES_MAX:
                self._report(f"{purpose}: {failure}")
                return []
            raise NodeFailure(
                f"the program {self._incumbent[:8]} that this node builds on does not run on this machine ({failure})"
            ) from failure
        self._failures = 0
        self.search.control(number, score, self._runs)
        return []

    async def _child(self, number: int) -> list[Signed]:
        candidate = self._trying()
        run = len(self.search.children) + 1
        if run == 1 and not self._gave_way and (why := self._course.gives_way(candidate)) is not None:
            self._gave_way = True
            self._give_up(why)
            self.search.failed()
            return []
        self._gave_way = False
        purpose = f"{candidate.child[:8]} against {self._incumbent[:8]}, run {run}"
        try:
            score = await self._run(candidate.child, number, purpose)
        except RunFailed as failure:
            self.search.failed()
            self._candidate = None
            self._report(f"discarded {candidate.child[:8]}: {str(failure).splitlines()[0]}")
            return self._course.ended(candidate, self._outcome(candidate, "failed", None), failure, "")
        self.search.child(number, score, self._runs)
        return []

    async def _run(self, program: str, number: int, purpose: str) -> float:
        self._runs += 1
        return (await self._bench.trial(program, self._seed(number), self._split, purpose)).val_bpb

    def _trying(self) -> Candidate:
        if self._candidate is None:
            raise LookupError("the search is at a candidate that is not here")
        return self._candidate

    def _discard(self, reason: str) -> list[Signed]:
        candidate = self._trying()
        effect = -self.search.posterior().gain * self.search.sd
        self.search.discard()
        self._candidate = None
        self._report(f"discarded {candidate.child[:8]}: {reason}")
        return self._course.ended(candidate, self._outcome(candidate, "discarded", effect), None, "")

    def _keep(self, reason: str) -> list[Signed]:
        candidate = self._trying()
        comparison = self._comparison(candidate.child)
        with self._store.batch():  # both or neither: a discovery whose finder does not build on it tells a wrong story
            discovery = self._author.append(
                "main",
                candidate.child,
                lambda entry: Discovery(
                    entry=entry,
                    track=self._bench.track,
                    parent=self._incumbent,
                    hypothesis=candidate.hypothesis,
                    proposer=candidate.proposer,
                    comparison=comparison,
                    source=candidate.source or None,
                ),
            )
            why = f"own discovery, {comparison.mean:+.4f} bpb: {reason}"
            adoption = self._adopter.adopt(candidate.child, discovery.id, why, None)
        self.search.keep()
        self._incumbent, self._candidate = candidate.child, None
        self._proposals.turn_to(self._incumbent)
        self._report(f"discovery {discovery.id[:16]}: {comparison.mean:+.4f} bpb, {candidate.hypothesis}")
        outcome = self._outcome(candidate, "kept", comparison.mean)
        return [discovery, adoption, *self._course.ended(candidate, outcome, None, discovery.id)]

    def _comparison(self, child: str) -> Comparison:
        """The confirming runs with the incumbent's runs of the same seeds; the first run only selected."""
        scores: list[dict[int, Score]] = [{}, {}]
        for program, found in zip((self._incumbent, child), scores, strict=True):
            for run in queries.trials(self._store, self._author.id, program, self._split.name):
                if run.track == self._bench.track and run.val_bpb is not None:
                    found[run.seed] = Score(run.id, run.val_bpb)
        seeds = [self._seed(control.seed) for control, _ in self.search.pairs()]
        pairs = [Pair(seed, scores[0][seed], scores[1][seed]) for seed in seeds]
        return comparison_of(pairs, self._split, self.noise)

    @staticmethod
    def _outcome(candidate: Candidate, fate: Fate, effect: float | None) -> Outcome:
        return Outcome(operator=candidate.operator, hypothesis=candidate.hypothesis, verdict=fate, effect=effect)
