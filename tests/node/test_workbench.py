"""Every trial is recorded; comparisons pair them; failures are reasons, not numbers."""

from pathlib import Path

import examples
import pytest
from scripted import NOISE, ScriptedLane, program

from ledger import queries
from ledger.store import Store
from node.errors import NodeFailure
from node.home import SplitChoice
from node.workbench import RunFailed, Workbench, seeds_of
from policy.evidence import LOOKS, Decision

PUBLIC = SplitChoice("public", bytes(16))
SEEDS = seeds_of(b"test")


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


async def test_noise_is_that_of_the_baseline_and_measured_once(on: Bench) -> None:
    baseline = on.put(0.0)
    noise = await on.bench.noise(baseline, PUBLIC)
    assert 0 < noise < 5 * NOISE
    assert len(on.lane.requests) == 3
    restarted = Workbench(on.store, on.author, on.lane, examples.TRACK, on.lines.append)
    assert await restarted.noise(baseline, PUBLIC) == noise
    assert len(on.lane.requests) == 3
    with pytest.raises(NodeFailure, match="crash"):
        await on.bench.noise(on.put(0.0, crash_on="00"), PUBLIC)


async def test_a_clear_gain_takes_three_fresh_pairs_and_a_clear_loss_one(on: Bench) -> None:
    baseline, better, worse = on.put(0.0), on.put(0.2), on.put(-0.2)
    compared = await on.bench.comparing(baseline, better, SEEDS, PUBLIC, 2 * NOISE, give_up_early=True).run()
    assert compared.decision is Decision.BETTER
    assert compared.comparison is not None
    assert compared.comparison.seeds == SEEDS[:3]
    assert compared.comparison.mean == pytest.approx(-0.2, abs=4 * NOISE)
    order = [b"0.2" in request.program for request in on.lane.requests]
    assert order == [False, True, True, False, False, True]  # who runs first alternates
    compared = await on.bench.comparing(baseline, worse, SEEDS, PUBLIC, 2 * NOISE, give_up_early=True).run()
    assert compared.decision is Decision.NOT_BETTER
    assert compared.comparison is None
    assert len(on.lane.requests) == 8


async def test_a_child_that_crashes_is_no_better(on: Bench) -> None:
    child = on.put(0.5, crash_on="00")
    compared = await on.bench.comparing(on.put(0.0), child, SEEDS, PUBLIC, 2 * NOISE, give_up_early=True).run()
    assert compared.decision is Decision.NOT_BETTER
    assert compared.failure is not None
    assert compared.failure.program == child


async def test_a_parent_that_crashes_decides_nothing(on: Bench) -> None:
    parent = on.put(0.0, crash_on="00")
    compared = await on.bench.comparing(parent, on.put(0.5), SEEDS, PUBLIC, 2 * NOISE, give_up_early=False).run()
    assert compared.decision is Decision.UNDECIDED
    assert compared.failure is not None
    assert compared.failure.program == parent


def test_seeds_are_as_many_as_needed_and_differ_by_purpose() -> None:
    assert len(set(seeds_of(b"a"))) == LOOKS[-1]
    assert seeds_of(b"a") == seeds_of(b"a")
    assert not set(seeds_of(b"a")) & set(seeds_of(b"b"))
