"""A small swarm in which three nodes of ten lie, held to what `scripts/bench policy` holds the large one to."""

import importlib
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

SCRIPTS = Path(__file__).parents[2] / "scripts"
SMALL = {"nodes": 60, "cluster": 60, "finds": 25, "cluster_claims": 10}


@pytest.fixture(scope="module")
def bench() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield importlib.import_module("benches.liars")


@pytest.fixture(scope="module")
def ended(bench: Any) -> tuple[Any, Any]:
    """The plan and what came of it."""
    plan = bench.Plan(**SMALL, seed=1)
    return plan, bench.simulate(plan)


def test_the_goals_hold(bench: Any, ended: tuple[Any, Any]) -> None:
    for goal in bench.goals(*ended):
        assert goal.met, goal.line()


def test_the_liars_were_there(ended: tuple[Any, Any]) -> None:
    plan, result = ended
    assert result.honest == 42
    assert result.fabricated > 20
    assert result.copies > 5
    assert 0 < result.wasted < plan.share
    assert result.true > 10


def test_honest_words_end_up_weighing_more_than_lies(ended: tuple[Any, Any]) -> None:
    _, result = ended
    assert result.honest_weight > 10 * result.liar_weight


def test_without_their_own_runs_nodes_would_end_on_lies(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulation can fail: nodes that take every claim at its word end on what is fabricated."""
    member = importlib.import_module("benches.liars_member")

    def believes(self: Any, parent: Any, child: Any, most: int, claimed: float | None, earlier: Any = ()) -> Any:
        return member.Decision.BETTER, [*earlier, -0.03, -0.03, -0.03]

    monkeypatch.setattr(member.Member, "_run", believes)
    plan = bench.Plan(**SMALL | {"nodes": 30, "cluster": 30, "runs": 600.0}, seed=1)
    result = bench.simulate(plan)
    assert result.ended_fabricated > result.honest / 2
    assert not all(goal.met for goal in bench.goals(plan, result))


def test_the_same_seed_is_the_same_run(bench: Any) -> None:
    plan = bench.Plan(**SMALL | {"nodes": 20, "cluster": 20, "runs": 400.0}, seed=7)
    first, second = (replace(bench.simulate(plan), cpu_s=0.0) for _ in range(2))
    assert first == second
