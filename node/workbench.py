"""Runs trials, records each one in the node's own feed, and compares programs by pairs of them.

The ledger is the memory: a trial of the same program with the same seed on the same split, once recorded as `ok`, is
not run again, neither within a night nor after a restart. So a parent's runs serve every candidate that is compared
with it. (The candidates of one parent thus share its luck; a peer's verification, with its own seeds and its own
split, does not.)
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from ledger import queries
from ledger.author import Author
from ledger.statements import Comparison, Measurement, Status, Trial
from ledger.store import Store
from node.home import SplitChoice
from policy import evidence
from policy.evidence import Decision
from trainer.requests import TrialRequest


class Lane(Protocol):
    """One place where trials run, one at a time."""

    async def trial(self, request: TrialRequest) -> Measurement: ...


class Run(NamedTuple):
    """A recorded trial."""

    id: str
    status: Status
    val_bpb: float | None
    reason: str


class Compared(NamedTuple):
    """What a comparison came to."""

    decision: Decision
    comparison: Comparison | None  # None with fewer than two complete pairs
    failure: str | None  # why a pair could not be completed
    failed_child: Run | None  # the child's run that failed, where it was the child's


class Workbench:
    """The trials of one node in one track."""

    def __init__(self, store: Store, author: Author, lane: Lane, track: str, report: Callable[[str], None]) -> None:
        self._store, self._author, self._lane, self._report = store, author, lane, report
        self.track = track
        self.trials_run = 0

    async def trial(self, program: str, seed: int, split: SplitChoice, purpose: str) -> Run:
        """One trial of a program in the store (by SHA-256), from the ledger if it is there; recorded otherwise."""
        for row in queries.trials(self._store, self._author.id, program, split.name):
            if row.seed == seed and row.track == self.track and row.status == "ok":
                return Run(row.id, "ok", row.val_bpb, "")
        request = TrialRequest(program=self._store.blob(program), track=self.track, seed=seed, salt=split.salt)
        result = await self._lane.trial(request)
        signed = self._author.append(
            "trials",
            program,
            lambda entry: Trial(entry=entry, track=self.track, seed=seed, split=split.name, result=result),
        )
        self.trials_run += 1
        score = result.status if result.val_bpb is None else f"{result.val_bpb:.4f} bpb"
        self._report(f"{purpose}: seed {seed}, {score}, {result.wall_s:.0f} s")
        return Run(signed.id, result.status, result.val_bpb, result.reason)

    async def noise(self, baseline: str, seeds: Sequence[int], split: SplitChoice) -> float:
        """Standard deviation of a difference, from A/A runs of the baseline; see `evidence.difference_noise`.

        Raises `BaselineFails` if the baseline itself does not run here: no number of this machine means anything then.
        """
        scores: list[float] = []
        for seed in seeds[: evidence.NOISE_RUNS]:
            run = await self.trial(baseline, seed, split, "noise of the baseline")
            if run.val_bpb is None:
                raise BaselineFails(f"the baseline does not run on this machine ({run.status}): {run.reason}")
            scores.append(run.val_bpb)
        return evidence.difference_noise(scores)

    async def compare(
        self, parent: str, child: str, seeds: Sequence[int], split: SplitChoice, noise: float, *, give_up_early: bool
    ) -> Compared:
        """Paired trials of two programs until `evidence.decide` has seen enough."""
        pairs: list[tuple[int, Run, Run, float]] = []
        failure: str | None = None
        failed_child: Run | None = None
        while True:
            differences = [pair[3] for pair in pairs]
            decision = evidence.decide(differences, noise, give_up_early=give_up_early)
            if decision is not Decision.MORE:
                break
            seed = seeds[len(pairs)]
            which = f"{child[:8]} against {parent[:8]}"
            before = await self.trial(parent, seed, split, f"{which}, parent")
            if before.val_bpb is None:
                failure, decision = f"the parent's run ended as {before.status}: {before.reason}", Decision.UNDECIDED
                break
            after = await self.trial(child, seed, split, f"{which}, child")
            if after.val_bpb is None:
                failure, decision = f"the child's run ended as {after.status}: {after.reason}", Decision.NOT_BETTER
                failed_child = after
                break
            pairs.append((seed, before, after, after.val_bpb - before.val_bpb))
        comparison = None
        if len(pairs) >= 2:
            shown = evidence.effect(differences := [pair[3] for pair in pairs], noise)
            comparison = Comparison(
                split=split.name,
                seeds=tuple(pair[0] for pair in pairs),
                parent_trials=tuple(pair[1].id for pair in pairs),
                child_trials=tuple(pair[2].id for pair in pairs),
                differences=tuple(differences),
                mean=shown.mean,
                low=shown.low,
                high=shown.high,
                p_value=shown.p_value,
                noise=noise,
            )
        return Compared(decision, comparison, failure, failed_child)


class BaselineFails(Exception):
    """The challenge's own baseline does not run here, so nothing can be measured."""
