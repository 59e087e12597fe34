"""Ways to search for a better program with a fixed number of trials, for `scripts/bench search`.

climb     one run for each candidate, kept if it scores lower than the best so far, as autoresearch does it
scatter   random search: each candidate is the baseline with 1 to EDITS_MAX random edits of constants
tune      Optuna's TPE on the constants
evolve    the node's own search: `policy.search` decides which run comes next and what is kept, `Evolve` proposes from
          the outcomes so far, lessons refuse what is known to fail, a plateau widens the moves; as node/work.py has it,
          without ledger and peers

All see scores only, through a `Lab` that counts the trials and ends the search when they are spent.
"""

import itertools
import random
import statistics
from collections.abc import Callable, Iterator
from typing import Literal

from msgspec import Struct

from policy.failures import Outcome as Fate
from policy.lessons import Lessons, Refusal
from policy.plateau import Tried, Watch
from policy.search import Search, Step
from trainer.proposers.constants import Edit, apply_edits, constants_of, edits_of, keeps_asserts, knobs_of
from trainer.proposers.evolve import Evolve
from trainer.proposers.proposal import Context, Outcome, Proposal, ProposerError, fingerprint, parse
from trainer.proposers.tuning import Optuna

EDITS_MAX = 6  # of one candidate of `scatter`
DRAWS_MAX = 200  # for one new candidate
REFUSED_MAX = 8  # by lessons in a row, as node/proposing.py has it
NORMAL_95 = 1.96

Run = Callable[[str, int], float | None]
"""One trial of a program (text) with a seed: bits per byte, or None where it fails."""


class Spent(Exception):
    """All trials have been run."""


class Candidate(Struct, frozen=True):
    """A program that ran at least once."""

    parent: str
    child: str
    kept: bool
    trials: int  # of the whole search, when it was decided


class Lab:
    """Trials of one search, and what it noted of its course."""

    def __init__(self, run: Run, total: int, baseline: str) -> None:
        self._run, self.total = run, total
        self.spent = 0
        self.incumbents: list[tuple[int, str]] = [(0, baseline)]  # from which trial on
        self.candidates: list[Candidate] = []

    def run(self, program: str, seed: int) -> float | None:
        """One trial. Raises `Spent`."""
        if self.spent >= self.total:
            raise Spent
        self.spent += 1
        return self._run(program, seed)

    def tried(self, parent: str, child: str, *, kept: bool) -> None:
        """A candidate is decided; one that is kept is the incumbent from here on."""
        self.candidates.append(Candidate(parent, child, kept, self.spent))
        if kept:
            self.incumbents.append((self.spent, child))

    @property
    def final(self) -> str:
        """The program that the search would hand over now."""
        return self.incumbents[-1][1]


Propose = Callable[[str, random.Random], str]
"""From the incumbent to the next candidate. Raises `ProposerError`."""


def climb(lab: Lab, propose: Propose, rng: random.Random, told: Callable[[bool], None] = lambda kept: None) -> None:
    """Until the trials are spent or nothing is left to propose; all runs have one seed. `told` hears of each keep."""
    best = lab.run(lab.final, 0)
    try:
        while True:
            parent = lab.final
            child = propose(parent, rng)
            score = lab.run(child, 0)
            kept = score is not None and (best is None or score < best)
            lab.tried(parent, child, kept=kept)
            told(kept)
            best = score if kept else best
    except (Spent, ProposerError):
        return


def typed_edits() -> Propose:
    """Edits of the constants of the incumbent in random order; when each has been tried, two at once, and so on."""
    orders: dict[str, Iterator[str]] = {}
    tried: set[str] = set()

    def propose(parent: str, rng: random.Random) -> str:
        order = orders.setdefault(parent, _all_edits(parent, rng))
        child = next(text for text in order if fingerprint(text) not in tried)
        tried.add(fingerprint(child))
        return child

    return propose


def _all_edits(parent: str, rng: random.Random) -> Iterator[str]:
    """Without end."""
    edits = _edits(parent)
    rng.shuffle(edits)
    yield from (text for edit in edits if keeps_asserts(text := apply_edits(parent, [edit])))
    for count in itertools.count(2):
        for _ in range(DRAWS_MAX):
            yield edited(parent, count, rng)


def _edits(program: str) -> list[Edit]:
    tree = parse(program)
    return edits_of(knobs_of(program, tree, constants_of(tree)))


def edited(program: str, count: int, rng: random.Random) -> str:
    """`count` random edits of constants, one after the other."""
    while count:
        changed = apply_edits(program, [rng.choice(_edits(program))])
        if keeps_asserts(changed):
            program, count = changed, count - 1
    return program


class FromEvolve:
    """`Evolve` as a proposer of `climb`: the same moves as `evolve`, other evidence."""

    def __init__(self, baseline: str) -> None:
        self._evolve, self._seen = Evolve(), {fingerprint(baseline)}
        self._outcomes: list[Outcome] = []
        self._last: Proposal | None = None

    def __call__(self, parent: str, rng: random.Random) -> str:
        context = Context(program=parent, seen=self._seen, outcomes=tuple(self._outcomes))
        self._last = self._evolve.propose(context, rng)
        self._seen.add(fingerprint(self._last.program))
        return self._last.program

    def told(self, kept: bool) -> None:
        """What became of the last proposal."""
        assert self._last is not None, "told after a proposal"
        verdict: Literal["kept", "discarded"] = "kept" if kept else "discarded"
        last = self._last
        self._outcomes.append(Outcome(operator=last.operator, hypothesis=last.hypothesis, verdict=verdict, effect=None))


def scatter(lab: Lab, rng: random.Random) -> None:
    """Random search; the best single run is what it hands over."""
    baseline, seen = lab.final, {fingerprint(lab.final)}

    def propose(parent: str, rng: random.Random) -> str:
        for _ in range(DRAWS_MAX):
            text = edited(baseline, rng.randint(1, EDITS_MAX), rng)
            if fingerprint(text) not in seen:
                break
        seen.add(fingerprint(text))
        return text

    climb(lab, propose, rng)


def tune(lab: Lab, rng: random.Random) -> None:
    """Optuna's TPE over the constants of the baseline; the best single run is what it hands over."""
    baseline, tuner = lab.final, Optuna("tpe")
    seen = {fingerprint(baseline)}
    best = lab.run(baseline, 0)
    tuner.tell(baseline, best)
    try:
        while True:
            child = tuner.propose(Context(program=baseline, seen=seen), rng).program
            seen.add(fingerprint(child))
            score = lab.run(child, 0)
            tuner.tell(child, score)
            kept = score is not None and (best is None or score < best)
            lab.tried(lab.final, child, kept=kept)
            best = score if kept else best
    except (Spent, ProposerError):
        return


class Memory:
    """What a node goes on with from an earlier search: outcomes of proposals, and lessons of failures."""

    def __init__(self) -> None:
        self.outcomes: tuple[Outcome, ...] = ()
        self.lessons = Lessons()


def evolve(lab: Lab, rng: random.Random, memory: Memory) -> None:
    """The node's own search. `memory` learns, and may know something of an earlier run."""
    _Evolving(lab, rng, memory).until_spent()


class _Evolving:
    def __init__(self, lab: Lab, rng: random.Random, memory: Memory) -> None:
        self._lab, self._rng, self._memory = lab, rng, memory
        self._search, self._evolve = Search(), Evolve()
        self._watch, self._widen = Watch(), 0.0
        self._seen = {fingerprint(lab.final)}
        self._proposal: Proposal | None = None

    def until_spent(self) -> None:
        try:
            while self._step():
                pass
        except Spent:
            return

    def _step(self) -> bool:
        """The next run or decision; False where nothing is left to propose."""
        search, lab = self._search, self._lab
        due = search.next()
        if due.step is Step.PROPOSE:
            self._proposal = self._propose()
            if self._proposal is None:
                return False
            search.begin()
        elif due.step is Step.CONTROL:
            score = lab.run(lab.final, due.seed)
            if score is not None:
                search.control(due.seed, score, lab.spent)
        elif due.step is Step.CHILD:
            score = lab.run(self._trying.program, due.seed)
            if score is None:
                search.failed()
                self._ended("failed", None, None, Fate(status="crash"))
            else:
                search.child(due.seed, score, lab.spent)
        elif due.step is Step.DISCARD:
            effect = -search.posterior().gain * search.sd
            measured, half = self._measured()
            search.discard()
            self._ended("discarded", effect, measured, Fate(low=measured - half, high=measured + half))
        else:
            effect = statistics.fmean(child.score - control.score for control, child in search.pairs())
            search.keep()
            self._ended("kept", effect, effect, Fate(kept=True))
        return True

    @property
    def _trying(self) -> Proposal:
        assert self._proposal is not None, "a candidate runs after it was proposed"
        return self._proposal

    def _propose(self) -> Proposal | None:
        parent = self._lab.final
        for _ in range(REFUSED_MAX):
            context = Context(
                program=parent,
                seen=self._seen,
                noise=self._search.noise.spread.sd,
                outcomes=self._memory.outcomes,
                lessons=self._memory.lessons.texts(),
                widen=self._widen,
            )
            try:
                proposal = self._evolve.propose(context, self._rng)
            except ProposerError:
                return None
            self._seen.add(fingerprint(proposal.program))
            if not isinstance(self._memory.lessons.check(parent.encode(), proposal.program.encode()), Refusal):
                return proposal
        return None

    def _measured(self) -> tuple[float, float]:
        """Mean of child - parent by all runs of both, and half its 95 % interval, as node/context.py takes them."""
        controls, children = self._search.controls, self._search.children
        mean = statistics.fmean(run.score for run in children) - statistics.fmean(run.score for run in controls)
        return mean, NORMAL_95 * self._search.sd * (1 / len(children) + 1 / len(controls)) ** 0.5

    def _ended(
        self,
        verdict: Literal["kept", "discarded", "failed"],
        effect: float | None,
        measured: float | None,
        fate: Fate,
    ) -> None:
        """`effect`: as the search believes it, for the plateau; `measured`: as the ledger has it, for proposals."""
        proposal, parent, memory = self._trying, self._lab.final, self._memory
        self._lab.tried(parent, proposal.program, kept=verdict == "kept")
        outcome = Outcome(operator=proposal.operator, hypothesis=proposal.hypothesis, verdict=verdict, effect=measured)
        memory.outcomes = (*memory.outcomes, outcome)
        memory.lessons.observe(parent.encode(), proposal.program.encode(), fate)
        self._watch = self._watch.after(Tried(kept=verdict == "kept", ran=verdict != "failed", mean=effect))
        if verdict == "kept":
            self._widen = 0.0
        noise = 2**0.5 * self._search.sd
        self._watch, plateau = self._watch.judge(noise, relatives=False, lineages=False)
        if plateau is not None:
            self._widen = plateau.widen
