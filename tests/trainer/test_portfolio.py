"""The portfolio: whose turn it is, who takes it where one fails, and what is recorded of it."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.proposers.briefing import Setting
from trainer.proposers.command import CommandOptions, CommandProposer
from trainer.proposers.evolve import Evolve
from trainer.proposers.portfolio import REST_S_MAX, REST_S_MIN, Attempt, NobodyProposes, Portfolio
from trainer.proposers.proposal import Context, NothingNew, ProgramUnreadable, Proposal, Proposer, ProposerError
from trainer.proposers.shares import EXPLORATION, FADING, Shares
from trainer.proposers.spending import BudgetExhausted, Caps, ProposalFailed, Spending

PROGRAM = "WIDTH = 64\n"


class Scripted:
    """A proposer whose next proposal costs this, or that raises this."""

    def __init__(self, name: str, usd: float = 0.0, error: Exception | None = None) -> None:
        self.name, self.usd, self.error = name, usd, error
        self.asked = 0

    def propose(self, context: Context, rng: random.Random) -> Proposal:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return Proposal(program="WIDTH = 96\n", hypothesis="h", proposer="who knows", usd=self.usd)


class World:
    """A portfolio with a clock that only a test moves."""

    def __init__(self, *proposers: Proposer, behind: Proposer | None = None) -> None:
        self.attempts: list[Attempt] = []
        self.now = 0.0
        self.portfolio = Portfolio(
            proposers, seconds_per_usd=100.0, record=self.attempts.append, clock=lambda: self.now, behind=behind
        )
        self.rng = random.Random(1)

    def propose(self) -> Proposal:
        return self.portfolio.propose(Context(program=PROGRAM), self.rng)

    def until(self, name: str) -> None:
        """Propose until that one is asked first."""
        for _ in range(500):
            before = len(self.attempts)
            self.propose()
            if self.attempts[before].proposer == name:
                return
        raise AssertionError(f"{name} had no turn")


def turns(shares: Shares, count: int, outcome: Callable[[str, random.Random], tuple[float, float, float]]) -> list[str]:
    """Turns of a search in which `outcome` says gain, lane seconds and dollars of each proposal."""
    rng, names, had = random.Random(7), list(shares.shares(random.Random(1), 1)), []
    for _ in range(count):
        name, _ = shares.draw(rng, names)
        gain, lane_s, usd = outcome(name, rng)
        shares.spend(name, usd)
        shares.learn(name, gain, lane_s)
        had.append(name)
    return had


def test_the_one_that_yields_more_gets_most_turns_and_the_other_keeps_some() -> None:
    chance = {"evolve": 0.05, "anthropic": 0.4}
    had = turns(
        Shares(list(chance), seconds_per_usd=0.0), 400, lambda name, rng: (0.01 * (rng.random() < chance[name]), 30, 0)
    )
    late = had[200:]
    assert late.count("anthropic") > 0.75 * len(late)
    assert late.count("evolve") >= 0.3 * EXPLORATION * len(late)


def test_gains_count_and_not_only_how_often() -> None:
    def outcome(name: str, rng: random.Random) -> tuple[float, float, float]:
        return (0.001 if name == "often" else 0.02) * (rng.random() < (0.4 if name == "often" else 0.2)), 30, 0

    had = turns(Shares(["often", "much"], seconds_per_usd=0.0), 400, outcome)
    assert had[200:].count("much") > 0.7 * 200


@pytest.mark.parametrize(("seconds_per_usd", "expected"), [(0.0, "dear"), (3600.0, "cheap")])
def test_money_counts_at_the_operators_rate(seconds_per_usd: float, expected: str) -> None:
    def outcome(name: str, rng: random.Random) -> tuple[float, float, float]:
        return 0.01 * (rng.random() < (0.4 if name == "dear" else 0.15)), 30, 0.1 * (name == "dear")

    had = turns(Shares(["dear", "cheap"], seconds_per_usd=seconds_per_usd), 400, outcome)
    assert had[200:].count(expected) > 0.6 * 200


def test_what_turns_dry_gives_way_and_comes_back() -> None:
    shares = Shares(["a", "b"], seconds_per_usd=0.0)
    phase = 0

    def outcome(name: str, rng: random.Random) -> tuple[float, float, float]:
        nonlocal phase
        phase += 1
        good = "b" if 300 < phase <= 700 else "a"
        return 0.01 * (rng.random() < (0.4 if name == good else 0.02)), 30, 0

    had = turns(shares, 1100, outcome)
    assert had[200:300].count("a") > 60
    assert had[600:700].count("b") > 60
    assert had[1000:].count("a") > 60


def test_the_same_seed_draws_the_same_and_old_outcomes_fade() -> None:
    one, other = (Shares(["a", "b"], seconds_per_usd=1.0) for _ in range(2))
    for shares in (one, other):
        shares.learn("a", 0.1, 30)
    assert one.shares(random.Random(3)) == other.shares(random.Random(3))
    assert one.shares(random.Random(3))["a"] > 0.65
    assert FADING**400 < 0.001
    for _ in range(200):
        one.learn("a", 0.0, 30)
        one.learn("b", 0.0, 30)
    assert 0.4 < one.shares(random.Random(3))["a"] < 0.6
    one.learn("nobody", 1.0, 1.0)  # an operator's own proposal
    one.spend("nobody", 1.0)


@pytest.mark.parametrize(
    ("names", "exploration", "rate"), [([], 0.1, 0.0), (["a", "a"], 0.1, 0.0), (["a"], 1.1, 0.0), (["a"], 0.1, -1.0)]
)
def test_a_portfolio_that_makes_no_sense_is_refused(names: list[str], exploration: float, rate: float) -> None:
    with pytest.raises(ValueError, match=r"distinct names|between 0 and 1"):
        Shares(names, seconds_per_usd=rate, exploration=exploration)


def test_a_proposal_says_who_made_it_and_what_it_took() -> None:
    world = World(Scripted("evolve"), Scripted("anthropic", usd=0.02))
    world.until("anthropic")
    assert world.attempts[-1].usd == 0.02
    assert {attempt.proposer for attempt in world.attempts} <= {"evolve", "anthropic"}
    assert world.propose().proposer in ("evolve", "anthropic")


def test_where_one_fails_the_first_takes_its_turn_and_both_are_recorded() -> None:
    failing = Scripted("anthropic", error=BudgetExhausted("the day's money is spent\x1b[2J", usd=0.25))
    world = World(Scripted("evolve"), failing, Scripted("command"))
    world.until("anthropic")
    failed, instead = world.attempts[-2:]
    assert (failed.proposer, failed.error, failed.usd) == ("anthropic", "BudgetExhausted", 0.25)
    assert failed.reason == "the day's money is spent[2J"
    assert failed.rests_s == REST_S_MIN
    assert (instead.proposer, instead.why, instead.error) == ("evolve", "in place of anthropic", "")


def test_one_that_fails_rests_longer_each_time_and_not_after_it_has_worked() -> None:
    failing = Scripted("anthropic", error=ProposalFailed("overloaded"))
    world = World(Scripted("evolve"), failing)
    rests = []
    for _ in range(10):
        world.until("anthropic")
        rests.append(world.attempts[-2].rests_s)
        asked = failing.asked
        world.now += rests[-1] - 1
        for _ in range(50):
            assert world.propose().proposer == "evolve"
        assert failing.asked == asked
        world.now += 1
    assert rests == [min(REST_S_MAX, REST_S_MIN * 2**n) for n in range(10)]
    failing.error = None
    world.until("anthropic")
    failing.error = ProposalFailed("overloaded")
    world.until("anthropic")
    assert world.attempts[-2].rests_s == REST_S_MIN


def test_nothing_new_is_no_reason_to_rest() -> None:
    exhausted = Scripted("evolve", error=NothingNew("all tried"))
    world = World(exhausted, Scripted("anthropic"))
    for _ in range(100):
        assert world.propose().proposer == "anthropic"
    assert exhausted.asked > 20
    assert {attempt.rests_s for attempt in world.attempts} == {0.0}


def test_that_all_is_tried_and_that_all_fail_are_told_apart() -> None:
    with pytest.raises(NothingNew, match=r"(a|b): all tried; (a|b): all tried"):
        World(*(Scripted(name, error=NothingNew("all tried")) for name in "ab")).propose()
    world = World(Scripted("a", error=NothingNew("all tried")), Scripted("b", error=OSError("no git")))
    with pytest.raises(NobodyProposes, match="no git"):
        world.propose()
    assert {attempt.error for attempt in world.attempts} == {"NothingNew", "OSError"}


def test_when_all_rest_the_next_one_due_is_asked_all_the_same() -> None:
    world = World(Scripted("a", error=ProposalFailed("down")))
    for _ in range(2):
        with pytest.raises(NobodyProposes, match="a: down"):
            world.propose()
    assert [attempt.why for attempt in world.attempts][1] == "all rest, and it is due next"


def test_with_one_behind_them_those_that_rest_are_left_to_rest() -> None:
    failing, behind = Scripted("anthropic", error=ProposalFailed("overloaded")), Scripted("evolve")
    world = World(failing, behind=behind)
    assert [world.propose().proposer for _ in range(20)] == ["evolve"] * 20
    assert failing.asked == 1
    assert [attempt.why for attempt in world.attempts[1:3]] == ["in place of anthropic", "all others rest"]
    world.now += REST_S_MIN
    failing.error = None
    assert world.propose().proposer == "anthropic"
    assert set(world.portfolio.shares(world.rng)) == {"anthropic"}
    failing.error = behind.error = NothingNew("all tried")
    with pytest.raises(NothingNew, match="anthropic: all tried; evolve: all tried"):
        world.propose()


def test_a_parent_that_nobody_can_read_is_no_fault_of_a_proposer() -> None:
    world = World(Scripted("a", error=ProgramUnreadable("not Python")), Scripted("b", error=ProgramUnreadable("not")))
    with pytest.raises(ProgramUnreadable):
        world.propose()
    assert [attempt.rests_s for attempt in world.attempts] == [0.0]


def test_a_bug_is_not_taken_for_a_failure() -> None:
    with pytest.raises(ZeroDivisionError):
        World(Scripted("a", error=ZeroDivisionError())).propose()


def test_the_real_ones_side_by_side(tmp_path: Path) -> None:
    setting = Setting(
        challenge="c", track="t", device="cpu", clock="cpu", budget_s=1.0, threads=1, memory_bytes=2**28, seq_len=8,
        vocab_size=256,
    )  # fmt: skip
    spending = Spending(Caps())

    def command(script: str) -> CommandProposer:
        options = CommandOptions(argv=("/bin/sh", "-c", script), time_limit_s=20.0)
        return CommandProposer(options, setting, (), spending, {"PATH": "/usr/bin:/bin"}, bytes(16))

    world = World(Evolve(()), command("echo 'DEPTH = 2' >> train.py; echo Deeper."))
    world.until("command")
    assert world.attempts[-1].error == ""
    broken = World(Evolve(()), command("exit 1"))
    broken.until("command")
    assert [attempt.error for attempt in broken.attempts[-2:]] == ["CommandFailed", ""]
    assert broken.attempts[-1].proposer == "evolve"
    assert issubclass(NobodyProposes, ProposerError)
