"""Runs trials, records each one in the node's own feed, and compares programs by fresh pairs of them.

In a fresh pair both runs are made one right after the other, and which goes first alternates, which cancels a drift of
the machine. Pairs are what a peer's discovery is verified with; a node's own search reuses its incumbent's runs
(research.py, docs/adr/0004).
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from ledger.author import Author
from ledger.predicates import BPB_MAX, Comparison, Measurement, Status, Trial
from ledger.store import Store
from node.home import SplitChoice
from policy import sequential
from policy.evidence import Decision
from policy.noise import Spread
from policy.priority import FURTHER_PAIRS_MAX
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
    """Two trials with one seed."""

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


def seed_of(*what: bytes) -> int:
    """A seed, different for each thing that it is for, always the same for the same."""
    return int.from_bytes(hashlib.sha256(b"/".join(what)).digest()[:4], "big") % 2**31


def seeds_of(*what: bytes) -> tuple[int, ...]:
    """The seeds of one comparison by fresh pairs: as many as it can need."""
    return tuple(seed_of(*what, b"%d" % index) for index in range(FURTHER_PAIRS_MAX))


def comparison_of(pairs: Sequence[Pair], split: SplitChoice, noise: Spread) -> Comparison:
    """The statement of two or more pairs; `noise` is the spread of a difference."""
    differences = tuple(pair.difference for pair in pairs)
    shown = sequential.effect(differences, noise)
    return Comparison(
        split=split.name,
        seeds=tuple(pair.seed for pair in pairs),
        parent_trials=tuple(pair.parent.id for pair in pairs),
        child_trials=tuple(pair.child.id for pair in pairs),
        differences=differences,
        mean=shown.mean,
        low=max(shown.low, -BPB_MAX),  # an interval without end is stated as the widest there is
        high=min(shown.high, BPB_MAX),
        p_value=shown.p_value,
        noise=noise.sd,
    )


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

    def comparing(
        self,
        parent: str,
        child: str,
        seeds: Sequence[int],
        split: SplitChoice,
        noise: Spread,
        *,
        claimed: float | None = None,
    ) -> "Comparing":
        """A comparison of two programs in the store that has not begun; `noise` is the spread of a difference.

        `claimed` is what somebody says the mean is; None to ask for a gain that is worth the name.
        """
        return Comparing(self, parent, child, seeds, split, noise, claimed)


class Comparing:
    """A comparison by fresh pairs under way, one pair at a time."""

    def __init__(
        self,
        bench: Workbench,
        parent: str,
        child: str,
        seeds: Sequence[int],
        split: SplitChoice,
        noise: Spread,
        claimed: float | None,
    ) -> None:
        self.parent, self.child = parent, child
        self._bench, self._seeds, self._split, self._noise, self._claimed = bench, seeds, split, noise, claimed
        self._pairs: list[Pair] = []
        self._failure: RunFailed | None = None

    def decision(self) -> Decision:
        """`Decision.MORE` as long as `sequential.verdict` wants another pair and no run has failed."""
        if self._failure is not None:
            return Decision.NOT_BETTER if self._failure.program == self.child else Decision.UNDECIDED
        return sequential.verdict([pair.difference for pair in self._pairs], self._noise, claimed=self._claimed)

    @property
    def differences(self) -> list[float]:
        """Of the pairs so far, bits per byte, child - parent."""
        return [pair.difference for pair in self._pairs]

    @property
    def failed(self) -> bool:
        return self._failure is not None

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
        comparison = comparison_of(self._pairs, self._split, self._noise) if enough else None
        return Compared(self.decision(), comparison, self._failure)
