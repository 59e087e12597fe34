"""Runs trials, records each one in the node's own feed, and compares programs by pairs of them.

Both runs of a pair are made one right after the other, and which goes first alternates: a machine's speed drifts with
whatever else it does, and a budget in CPU seconds only dampens that (measured: docs/log.md). So a parent's earlier
runs are never reused, although they would halve the cost.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from ledger import queries
from ledger.author import Author
from ledger.predicates import Comparison, Measurement, Status, Trial
from ledger.store import Store
from node.errors import NodeFailure
from node.home import SplitChoice
from policy import evidence
from policy.evidence import Decision
from trainer.requests import TrialRequest


class Lane(Protocol):
    """One place where trials run, one at a time."""

    async def trial(self, request: TrialRequest) -> Measurement: ...


class Score(NamedTuple):
    """A recorded trial that ended as ok."""

    id: str
    val_bpb: float


class RunFailed(Exception):
    """A recorded trial that ended in another status than ok, so that it has no score."""

    def __init__(self, program: str, status: Status, reason: str) -> None:
        super().__init__(f"{status}: {reason}")
        self.program, self.status = program, status


class Pair(NamedTuple):
    """Two trials with one seed, one right after the other."""

    seed: int
    parent: Score
    child: Score

    @property
    def difference(self) -> float:
        """Bits per byte, child - parent; negative is better."""
        return self.child.val_bpb - self.parent.val_bpb


class Compared(NamedTuple):
    """What a comparison came to."""

    decision: Decision
    comparison: Comparison | None  # None with fewer than two complete pairs
    failure: RunFailed | None  # what ended it, where a run failed


def seeds_of(*what: bytes) -> tuple[int, ...]:
    """The seeds of one comparison: as many as it can need, different for each, always the same for the same."""
    digests = (hashlib.sha256(b"/".join((*what, b"%d" % index))).digest() for index in range(evidence.LOOKS[-1]))
    return tuple(int.from_bytes(digest[:4], "big") % 2**31 for digest in digests)


class Workbench:
    """The trials of one node in one track."""

    def __init__(self, store: Store, author: Author, lane: Lane, track: str, report: Callable[[str], None]) -> None:
        self._store, self._author, self._lane, self._report = store, author, lane, report
        self.track = track
        self.trials_run = 0

    async def trial(self, program: str, seed: int, split: SplitChoice, purpose: str) -> Score:
        """Run and record one trial of a program in the store, given by its SHA-256. Raises `RunFailed`."""
        request = TrialRequest(program=self._store.blobs.get(program), track=self.track, seed=seed, salt=split.salt)
        result = await self._lane.trial(request)
        signed = self._author.append(
            "trials",
            program,
            lambda entry: Trial(entry=entry, track=self.track, seed=seed, split=split.name, result=result),
        )
        self.trials_run += 1
        if result.val_bpb is None:
            raise RunFailed(program, result.status, result.reason)
        self._report(f"{purpose}: {result.val_bpb:.4f} bpb, {result.wall_s:.0f} s")
        return Score(signed.id, result.val_bpb)

    async def noise(self, baseline: str, split: SplitChoice) -> float:
        """Standard deviation of a difference, from A/A runs of the baseline; see `evidence.difference_noise`.

        Runs that the ledger has count, so a restart does not measure again. Raises `NodeFailure` if the baseline does
        not run here: no number of this machine means anything then.
        """
        scores = [
            row.val_bpb
            for row in queries.trials(self._store, self._author.id, baseline, split.name)
            if row.track == self.track and row.val_bpb is not None
        ][: evidence.NOISE_RUNS]
        while len(scores) < evidence.NOISE_RUNS:
            purpose = f"noise of the baseline, run {len(scores) + 1} of {evidence.NOISE_RUNS}"
            try:
                scores.append((await self.trial(baseline, len(scores), split, purpose)).val_bpb)
            except RunFailed as failure:
                raise NodeFailure(f"the challenge's baseline does not run on this machine ({failure})") from failure
        return evidence.difference_noise(scores)

    def comparing(
        self, parent: str, child: str, seeds: Sequence[int], split: SplitChoice, noise: float, *, give_up_early: bool
    ) -> "Comparing":
        """A comparison of two programs in the store that has not begun."""
        return Comparing(self, parent, child, seeds, split, noise, give_up_early)


class Comparing:
    """A comparison under way, one pair at a time: between pairs the lane can go to something more urgent."""

    def __init__(
        self,
        bench: Workbench,
        parent: str,
        child: str,
        seeds: Sequence[int],
        split: SplitChoice,
        noise: float,
        give_up_early: bool,
    ) -> None:
        self.parent, self.child = parent, child
        self._bench, self._seeds, self._split, self._noise = bench, seeds, split, noise
        self._give_up_early = give_up_early
        self._pairs: list[Pair] = []
        self._failure: RunFailed | None = None

    def decision(self) -> Decision:
        """`Decision.MORE` as long as `evidence.decide` wants another pair and no run has failed."""
        if self._failure is not None:
            return Decision.NOT_BETTER if self._failure.program == self.child else Decision.UNDECIDED
        differences = [pair.difference for pair in self._pairs]
        return evidence.decide(differences, self._noise, give_up_early=self._give_up_early)

    async def advance(self) -> None:
        """Run one pair. Call it while the decision is `MORE`."""
        index = len(self._pairs)
        scores: dict[str, Score] = {}
        try:
            for program in (self.parent, self.child) if index % 2 == 0 else (self.child, self.parent):
                which = "parent" if program == self.parent else "child"
                purpose = f"{self.child[:8]} against {self.parent[:8]}, pair {index + 1}, {which}"
                scores[program] = await self._bench.trial(program, self._seeds[index], self._split, purpose)
        except RunFailed as failure:
            self._failure = failure
        else:
            self._pairs.append(Pair(self._seeds[index], scores[self.parent], scores[self.child]))

    async def run(self) -> Compared:
        """All pairs, to the decision."""
        while self.decision() is Decision.MORE:
            await self.advance()
        return self.result()

    def result(self) -> Compared:
        """What it came to so far."""
        enough = len(self._pairs) >= 2
        comparison = _comparison(self._pairs, self._split, self._noise) if enough else None
        return Compared(self.decision(), comparison, self._failure)


def _comparison(pairs: Sequence[Pair], split: SplitChoice, noise: float) -> Comparison:
    differences = tuple(pair.difference for pair in pairs)
    shown = evidence.effect(differences, noise)
    return Comparison(
        split=split.name,
        seeds=tuple(pair.seed for pair in pairs),
        parent_trials=tuple(pair.parent.id for pair in pairs),
        child_trials=tuple(pair.child.id for pair in pairs),
        differences=differences,
        mean=shown.mean,
        low=shown.low,
        high=shown.high,
        p_value=shown.p_value,
        noise=noise,
    )
