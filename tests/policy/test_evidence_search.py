"""The node's own search: first runs are no evidence, keeps are mostly true, old controls fade, restarts lose none."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from policy.belief import WIDE, Belief, Run, confirming_e_value, contrast
from policy.effects import learn
from policy.noise import NoiseModel, Spread
from policy.search import (
    CHILD_RUNS_MAX,
    CONFIRMING_MIN,
    E_MIN,
    FDR,
    LEVEL_VARIANCE_MAX,
    LEVEL_VARIANCE_MIN,
    NULL_MAX,
    Past,
    Search,
    Step,
    replay,
)

SIGMA = 0.02


class Machine:
    """A stream of candidates on a machine whose level may walk, and the search that is fed with it."""

    def __init__(self, seed: int, draw: Callable[[np.random.Generator], float], drift: float = 0.0) -> None:
        self.rng = np.random.default_rng(seed)
        self.draw, self.drift = draw, drift
        self.search = Search()
        self.kept: list[float] = []
        self.nulls: list[float] = []  # their posterior chances at the keep
        self.history: list[Past] = []
        self.effect = self.level = self.walk = 0.0
        self.incumbent, self.child, self.proposed = "p0", "", 0

    def step(self) -> Step:
        due = self.search.next()
        if due.step is Step.PROPOSE:
            self.effect, self.proposed = self.draw(self.rng), self.proposed + 1
            self.child = f"p{self.proposed}"
            self.search.begin()
        elif due.step is Step.DISCARD:
            self.search.discard()
        elif due.step is Step.KEEP:
            self.check_keep()
            self.search.keep()
            self.kept.append(self.effect)
            self.level += self.effect
            self.incumbent = self.child
        else:
            of_child = due.step is Step.CHILD
            at = len(self.history)
            self.walk += math.sqrt(self.drift) * float(self.rng.normal())
            score = 3 + SIGMA * (self.level + of_child * self.effect + self.walk + float(self.rng.normal()))
            (self.search.child if of_child else self.search.control)(due.seed, score, at)
            self.history.append(Past(self.child if of_child else self.incumbent, self.incumbent, due.seed, score, at))
        return due.step

    def check_keep(self) -> None:
        """What the keep rule promises, seen from outside."""
        pairs = self.search.pairs()
        assert len(pairs) == len(self.search.children) - 1 >= CONFIRMING_MIN
        assert all(control.seed == child.seed != 0 for control, child in pairs)
        assert len({control.seed for control, _ in pairs}) == len(pairs)
        assert sum(child.score - control.score for control, child in pairs) < 0
        assert self.search.e_value() >= E_MIN
        self.nulls.append(self.search.posterior().null)
        assert self.nulls[-1] <= NULL_MAX
        assert sum(self.nulls) / len(self.nulls) <= FDR

    def run(self, runs: int) -> "Machine":
        while len(self.history) < runs:
            self.step()
        return self


def easy(rng: np.random.Generator) -> float:
    which = rng.random()
    return -float(rng.uniform(0.3, 5)) if which < 0.03 else 0.0 if which < 0.4 else abs(float(rng.normal(0, 2)))


def nothing(rng: np.random.Generator) -> float:
    return 0.0 if rng.random() < 0.4 else abs(float(rng.normal(0, 2)))


def test_it_finds_gains_keeps_hardly_anything_else_and_learns_noise_and_shares() -> None:
    machines = [Machine(seed, easy).run(400) for seed in range(6)]
    kept = [effect for machine in machines for effect in machine.kept]
    assert sum(effect >= 0 for effect in kept) / len(kept) <= FDR
    assert -sum(kept) / len(machines) > 12  # of 30 that 12 gains of 2.65 in 400 candidates make on average
    assert np.mean([machine.search.sd for machine in machines]) == pytest.approx(SIGMA, rel=0.12)
    for machine in machines:
        assert machine.search.sd == pytest.approx(SIGMA, rel=0.4)
        assert 0.005 < machine.search.effects.shares[:6].sum() < 0.15


def test_where_nothing_gains_next_to_nothing_is_kept() -> None:
    assert sum(len(Machine(seed, nothing).run(250).kept) for seed in range(8)) <= 2


def test_the_noise_is_measured_before_the_first_candidate() -> None:
    search = Search()
    for at, score in enumerate((3.0, 3.02, 2.99)):
        assert search.next().step is Step.CONTROL
        search.control(search.next().seed, score, at)
    assert [run.seed for run in search.controls] == [1, 2, 3]
    while search.next().step is Step.CONTROL:
        search.control(search.next().seed, 3.01, len(search.controls))
    assert search.next().step is Step.PROPOSE


def test_the_level_is_measured_as_well_as_the_usual_gain_needs_it() -> None:
    def begins_at(gain: float) -> float:
        """Variance of the level with which a search begins candidates that gain so much, or harm."""
        search = Search()
        search.effects = learn(np.array([-gain] * 30 + [gain] * 30), np.full(60, 1.2))
        at = 0
        while search.next().step is Step.CONTROL:
            search.control(search.next().seed, 3 + SIGMA * (-1) ** at, at)
            at += 1
        return search.posterior_level()[1]

    assert begins_at(1.0) <= LEVEL_VARIANCE_MIN
    assert LEVEL_VARIANCE_MIN < begins_at(9.0) <= LEVEL_VARIANCE_MAX


def test_a_machine_that_would_wait_for_a_candidate_runs_controls_and_not_for_ever() -> None:
    search = Search()
    at = 0
    while search.next().step is Step.CONTROL:
        search.control(search.next().seed, 3 + SIGMA * (-1) ** at, at)
        at += 1
    began = search.posterior_level()[1]
    while (spare := search.spare()) is not None:
        assert spare[:2] == (Step.CONTROL, at + 1)
        search.control(spare.seed, 3 + SIGMA * (-1) ** at, at)
        at += 1
        assert at < 12
    assert search.posterior_level()[1] < began
    search.begin()
    assert search.spare() is None
    drifting = Machine(3, easy, drift=1.0).run(100)
    while drifting.search.next().step is not Step.PROPOSE:
        drifting.step()
    for run in range(20):
        if (spare := drifting.search.spare()) is None:
            break
        drifting.search.control(spare.seed, 3 + SIGMA * float(drifting.rng.normal()), len(drifting.history) + run)
    assert drifting.search.spare() is None


def prepared(sd: float = SIGMA) -> Search:
    search = Search()
    for index, error in enumerate((0.9, -1.1, 0.4, -0.6, 1.3, -0.9)):
        search.control(index + 1, 3 + sd * error, index)
    search.begin()
    return search


def test_a_first_run_selects_and_is_never_evidence() -> None:
    search = prepared()
    assert search.next()[:2] == (Step.CHILD, 0)
    search.child(0, 3 - 12 * SIGMA, 6)  # as lucky as can be
    assert search.e_value() == pytest.approx(1.0)
    assert search.next().step is Step.CHILD
    with pytest.raises(ValueError, match="confirming runs"):
        search.keep()
    assert search.pairs() == []


def test_runs_that_confirm_lead_to_a_keep_and_runs_that_do_not_to_a_discard() -> None:
    confirmed, disappointed = prepared(), prepared()
    for search, later in ((confirmed, 3 - 8 * SIGMA), (disappointed, 3 + 1 * SIGMA)):
        search.child(0, 3 - 8 * SIGMA, 6)
        at = 7
        while (due := search.next()).step in (Step.CHILD, Step.CONTROL):
            is_child = due.step is Step.CHILD
            (search.child if is_child else search.control)(due.seed, later if is_child else 3.0, at)
            at += 1
    assert confirmed.next().step is Step.KEEP
    assert disappointed.next().step is Step.DISCARD
    assert len(confirmed.children) == 1 + CONFIRMING_MIN
    children = confirmed.children[1:]
    confirmed.keep()
    assert confirmed.controls == children
    assert confirmed.next().step in (Step.CONTROL, Step.PROPOSE)
    assert len(disappointed.children) < CHILD_RUNS_MAX / 4


def test_the_e_value_of_confirming_runs_is_seldom_large_for_what_is_no_better_though_a_lucky_run_selected_it() -> None:
    """Controls are shared and the first run must look like a gain: the chance of ever passing 10 stays below 1 / 10."""
    rng = np.random.default_rng(5)
    selected = passed = 0
    while selected < 400:
        controls = [Run(index + 1, float(rng.normal()), index) for index in range(5)]
        spread = Spread(float(np.std([run.score for run in controls], ddof=1)), 4)
        children = [Run(0, float(rng.normal()), 5)]
        before = contrast(controls, children, 0.0)
        if before[0] > -1.5:
            continue
        selected += 1
        for index in range(8):
            children.append(Run(index + 1, float(rng.normal()), 6 + index))
            if confirming_e_value(before, contrast(controls, children, 0.0), spread, spread) >= 10:
                passed += 1
                break
    assert passed / 400 <= 0.1 + 3 * math.sqrt(0.09 / 400)


def test_old_controls_lose_weight_as_the_machine_drifts() -> None:
    old, fresh = Run(1, 3.5, 0), Run(2, 3.0, 99)
    child = Run(3, 2.9, 100)
    assert contrast([old, fresh], [child], 0.0)[0] == pytest.approx(2.9 - 3.25)
    drifting, variance = contrast([old, fresh], [child], 0.5)
    assert drifting == pytest.approx(-0.1, abs=0.02)  # as good as a fresh pair
    assert variance == pytest.approx(2.5, abs=0.1)
    belief = Belief(0.0, WIDE, 0)
    belief.control(3.0)
    assert belief.variance == 1.0
    belief.walk(50, 0.1)
    assert belief.variance == pytest.approx(6.0)


def test_the_belief_is_the_least_squares_estimate_run_by_run() -> None:
    rng = np.random.default_rng(6)
    controls = [Run(index, float(rng.normal()), index) for index in range(4)]
    children = [Run(index, float(rng.normal() - 1), 4 + index) for index in range(3)]
    for drift in (0.0, 0.2):
        belief = Belief(0.0, WIDE, 0)
        for run in controls:
            belief.walk(run.at, drift)
            belief.control(run.score)
        for index, run in enumerate(children):
            belief.walk(run.at, drift)
            (belief.child if index else belief.first_child)(run.score)
        expected = contrast(controls, children, drift)
        assert (belief.estimate, belief.estimate_variance) == pytest.approx(expected)


def test_on_a_drifting_machine_it_runs_more_controls_and_still_keeps_what_is_true() -> None:
    def controls_per_candidate(machine: Machine) -> float:
        return sum(past.program == past.incumbent for past in machine.history) / machine.proposed

    still = [Machine(seed, easy).run(250) for seed in range(4)]
    drifting = [Machine(seed, easy, drift=1.0).run(250) for seed in range(4)]
    assert np.mean([machine.search.noise.drift for machine in drifting]) > 0.1
    assert np.mean([*map(controls_per_candidate, drifting)]) > 2 * np.mean([*map(controls_per_candidate, still)])
    kept = [effect for machine in drifting for effect in machine.kept]
    assert sum(effect >= 0 for effect in kept) <= 2


@pytest.mark.parametrize("runs", [5, 60, 200])
def test_a_restart_loses_nothing(runs: int) -> None:
    machine = Machine(7, easy).run(runs)
    again = Search()
    replay(again, machine.history, machine.incumbent)
    assert again.next() == machine.search.next()
    assert again.keeps == len(machine.kept)
    while machine.search.next().step in (Step.KEEP, Step.DISCARD):  # decided, and the node stopped before it acted
        machine.step()
        (again.keep if len(machine.kept) > again.keeps else again.discard)()
    assert again.posterior_level() == machine.search.posterior_level()
    assert again.noise.spread == machine.search.noise.spread


def test_another_incumbent_from_elsewhere_begins_anew() -> None:
    search = prepared()
    search.child(0, 2.9, 6)
    noise = search.noise.spread
    search.replace()
    assert search.controls == []
    assert search.next()[:2] == (Step.CONTROL, 1)
    assert search.noise.spread == noise
    replayed = Search()
    replay(replayed, [Past("a", "a", 1, 3.0, 0), Past("b", "b", 1, 9.0, 1), Past("c", "b", 0, None, 2)], "b")
    assert len(replayed.controls) == 1
    assert replayed.candidates == 2


def test_calls_out_of_turn_are_refused() -> None:
    search = Search()
    with pytest.raises(ValueError, match="after a control"):
        search.child(0, 3.0, 0)
    search = prepared()
    with pytest.raises(ValueError, match="one candidate at a time"):
        search.begin()
    search.failed()
    assert search.next().step in (Step.PROPOSE, Step.CONTROL)


def test_a_machine_without_any_noise_is_no_failure() -> None:
    search = Search(NoiseModel())
    for at in range(4):
        search.control(at + 1, 3.0, at)
    for effect, wanted in ((-0.1, Step.KEEP), (0.0, Step.DISCARD), (0.1, Step.DISCARD)):
        search.begin()
        at, level = 10, search.controls[-1].score
        while (due := search.next()).step in (Step.CHILD, Step.CONTROL):
            (search.child if due.step is Step.CHILD else search.control)(
                due.seed, level + (effect if due.step is Step.CHILD else 0.0), at
            )
            at += 1
        assert search.next().step is wanted
        (search.keep if wanted is Step.KEEP else search.discard)()
