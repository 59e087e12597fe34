"""Every trial is recorded; comparisons pair them; failures are reasons, not numbers."""

from pathlib import Path

import examples
import pytest
from scripted import NOISE, ScriptedLane, program

from ledger import queries
from ledger.store import Store
from node.home import SplitChoice
from node.workbench import RunFailed, Workbench, seeds_of
from policy.evidence import Decision
from policy.noise import Spread
from policy.priority import FURTHER_PAIRS_MAX
from policy.sequential import PAIRS_MIN

PUBLIC = SplitChoice("public", bytes(16))
SEEDS = seeds_of(b"test")
SPREAD = Spread(2 * NOISE, 10.0)


class Bench:
    def __init__(self, store: Store) -> None:
        self.store, self.lane, self.lines = store, ScriptedLane(), list[str]()
        self.author = examples.author(store)
        self.bench = Workbench(store, self.author, self.lane, examples.TRACK, self.lines.append)

    def put(self, gain: float, crash_on: str = "") -> str:
        return self.store.blobs.put(program(gain, crash_on))


@pytest.fixture
def on(tmp_path: Path) -> Bench:
    return Bench(examples.new_store(tmp_path))


async def test_a_trial_is_recorded_as_it_was_measured(on: Bench) -> None:
    baseline = on.put(0.0)
    score = await on.bench.trial(baseline, 1, PUBLIC, "test")
    stated = queries.trial(on.store, score.id)
    assert stated is not None
    assert stated[0] == baseline
    assert stated[1].result.val_bpb == score.val_bpb
    assert (stated[1].seed, stated[1].split) == (1, "public")


async def test_a_crash_is_recorded_without_a_score(on: Bench) -> None:
    crashing = on.put(0.0, crash_on="00")
    with pytest.raises(RunFailed) as caught:
        await on.bench.trial(crashing, 1, PUBLIC, "test")
    assert (caught.value.program, caught.value.status) == (crashing, "crash")
    (row,) = queries.trials(on.store, on.author.id, crashing, "public")
    assert (row.status, row.val_bpb) == ("crash", None)


async def test_a_clear_gain_and_a_clear_loss_take_the_fewest_pairs(on: Bench) -> None:
    baseline, better, worse = on.put(0.0), on.put(0.2), on.put(-0.2)
    compared = await on.bench.comparing(baseline, better, SEEDS, PUBLIC, SPREAD).run()
    assert compared.decision is Decision.BETTER
    assert compared.comparison is not None
    assert compared.comparison.seeds == SEEDS[:PAIRS_MIN]
    assert compared.comparison.mean == pytest.approx(-0.2, abs=4 * NOISE)
    order = [b"0.2" in request.program for request in on.lane.requests]
    assert order == [False, True, True, False, False, True]  # who runs first alternates
    compared = await on.bench.comparing(baseline, worse, SEEDS, PUBLIC, SPREAD).run()
    assert compared.decision is Decision.NOT_BETTER
    assert compared.comparison is not None
    assert compared.comparison.low > 0
    assert len(on.lane.requests) == 4 * PAIRS_MIN


async def test_a_child_that_crashes_is_no_better(on: Bench) -> None:
    child = on.put(0.5, crash_on="00")
    compared = await on.bench.comparing(on.put(0.0), child, SEEDS, PUBLIC, SPREAD).run()
    assert compared.decision is Decision.NOT_BETTER
    assert compared.failure is not None
    assert compared.failure.program == child


async def test_a_parent_that_crashes_decides_nothing(on: Bench) -> None:
    parent = on.put(0.0, crash_on="00")
    compared = await on.bench.comparing(parent, on.put(0.5), SEEDS, PUBLIC, SPREAD).run()
    assert compared.decision is Decision.UNDECIDED
    assert compared.failure is not None
    assert compared.failure.program == parent


def test_seeds_are_as_many_as_needed_and_differ_by_purpose() -> None:
    assert len(set(seeds_of(b"a"))) == FURTHER_PAIRS_MAX
    assert seeds_of(b"a") == seeds_of(b"a")
    assert not set(seeds_of(b"a")) & set(seeds_of(b"b"))
