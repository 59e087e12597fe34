"""What evolve tries first: priors, what has worked, suggestions, claims, plateaus, relatives."""

import random
import statistics
from collections import Counter
from collections.abc import Callable

import pytest
import toy

from trainer.proposers.bandit import Arm, Bandit, arms_of, prior_kept
from trainer.proposers.evolve import Evolve
from trainer.proposers.proposal import Context, Outcome, Proposal, Relative, fingerprint
from trainer.proposers.surface import Belief, Surface, place

BASELINE = toy.source("cpu_quick.py")


def proposals(count: int, of: Callable[[random.Random], Context]) -> list[Proposal]:
    rng = random.Random(4)
    return [Evolve().propose(of(rng), rng) for _ in range(count)]


def outcome(operator: str, verdict: str, hypothesis: str = "", effect: float = -0.01, weight: float = 1.0) -> Outcome:
    return Outcome(
        operator=operator,
        hypothesis=hypothesis,
        verdict=verdict,  # type: ignore[arg-type]
        effect=None if verdict == "failed" else effect if verdict == "kept" else 0.01,
        weight=weight,
    )


def operators(count: int = 40, **context: object) -> Counter[str]:
    known = Context(program=BASELINE, **context)  # type: ignore[arg-type]
    return Counter(proposal.operator for proposal in proposals(count, lambda rng: known))


@pytest.mark.parametrize("name", ["cpu_quick.py", "gpu_5min.py"])
def test_proposals_of_a_series_differ_and_are_of_every_kind(name: str) -> None:
    text, seen, rng, kinds = toy.source(name), set[str](), random.Random(1), Counter[str]()
    for _ in range(150 if name == "cpu_quick.py" else 40):
        proposal = Evolve().propose(Context(program=text, seen=seen), rng)
        assert fingerprint(proposal.program) not in seen | {fingerprint(text)}
        assert 0 < len(proposal.hypothesis) <= 1000
        seen.add(fingerprint(proposal.program))
        kinds[proposal.operator.partition(":")[0]] += 1
    assert set(kinds) == {"constant", "recipe", "pair"}
    assert min(kinds.values()) >= 3


def test_the_same_context_and_chance_give_the_same_proposal() -> None:
    outcomes = measured(BASELINE, {"LEARNING_RATE": -0.8, "WARMUP_SHARE": -1.1})
    context = Context(program=BASELINE, outcomes=outcomes, noise=1.0, widen=0.5)
    assert Evolve().propose(context, random.Random(7)) == Evolve().propose(context, random.Random(7))


def test_what_has_worked_is_tried_more_and_what_failed_less() -> None:
    before = operators()
    after = operators(
        outcomes=tuple(
            [outcome("recipe:key-shift", "kept")] * 30
            + [outcome("recipe:half-batch", "failed"), outcome("recipe:muon", "discarded")] * 30
        )
    )
    assert after["recipe:key-shift"] > before["recipe:key-shift"] + 10
    assert after["recipe:muon"] + after["recipe:half-batch"] == 0 < before["recipe:muon"] + before["recipe:half-batch"]


def test_a_stranger_without_standing_changes_nothing() -> None:
    lies = tuple(outcome("recipe:label-smoothing", "kept", effect=-9.0, weight=0.0) for _ in range(50))
    own = measured(BASELINE, {"LEARNING_RATE": -0.8, "WARMUP_SHARE": -1.1})
    assert operators(outcomes=own + lies, noise=1.0) == operators(outcomes=own, noise=1.0)


def test_the_direction_that_paid_is_tried_again() -> None:
    kept = outcome("constant:LEARNING_RATE", "kept", "LEARNING_RATE from 0.0005 to 0.001: larger updates")
    context = Context(program=BASELINE, outcomes=(kept,) * 30)
    moves = [p for p in proposals(40, lambda rng: context) if p.operator == "constant:LEARNING_RATE"]
    assert len(moves) >= 10
    raised = [p for p in moves if "to 0.002:" in p.hypothesis or "to 0.0014:" in p.hypothesis]
    assert len(raised) == len(moves)


def measured(program: str, effects: dict[str, float], verdict: str = "discarded") -> tuple[Outcome, ...]:
    """Outcomes of the first edits that are proposed of the constants named by effect."""
    context, found = Context(program=program), dict[str, Outcome]()
    for proposal in proposals(200, lambda rng: context):
        name = proposal.operator.removeprefix("constant:")
        if name in effects and name not in found:
            told = {"operator": proposal.operator, "hypothesis": proposal.hypothesis, "verdict": verdict}
            found[name] = Outcome(**told, effect=effects[name])  # type: ignore[arg-type]
    assert set(found) == set(effects)
    return tuple(found[name] for name in effects)


def changed(proposal: Proposal) -> set[str]:
    return {part.partition(" from ")[0] for part in proposal.hypothesis.split("; ") if " from " in part}


def test_near_misses_are_gathered_into_one_proposal_and_losers_are_not() -> None:
    effects = {"LEARNING_RATE": -3.0, "WARMUP_SHARE": -2.5, "BATCH": -3.5, "LAYERS": 6.0}
    outcomes = measured(BASELINE, effects)
    context = Context(program=BASELINE, noise=1.0, outcomes=outcomes * 3)
    gathered = [one for one in proposals(60, lambda rng: context) if one.operator == "gather"]
    assert len(gathered) >= 12
    together = [one for one in gathered if len({"LEARNING_RATE", "WARMUP_SHARE", "BATCH"} & changed(one)) >= 2]
    assert len(together) >= 0.8 * len(gathered)
    assert not any(outcomes[-1].hypothesis in one.hypothesis for one in gathered)
    assert all(1 < one.hypothesis.count("; ") + 1 <= 8 for one in gathered)


def test_without_a_measure_of_noise_nothing_is_near() -> None:
    outcomes = measured(BASELINE, {"LEARNING_RATE": -0.8, "WARMUP_SHARE": -1.1})
    context = Context(program=BASELINE, noise=0.0, outcomes=outcomes)
    assert not [one for one in proposals(40, lambda rng: context) if one.operator == "gather"]


def test_what_was_kept_in_an_earlier_run_comes_first() -> None:
    """A skill: on the baseline again, what helped there is most of what is proposed, alone or together."""
    kept = measured(BASELINE, {"LEARNING_RATE": -6.0, "BATCH": -5.0}, "kept")
    context = Context(program=BASELINE, noise=1.0, outcomes=kept)
    helped = {"LEARNING_RATE", "BATCH"}
    again = [one for one in proposals(40, lambda rng: context) if helped & changed(one)]
    fresh = [one for one in proposals(40, lambda rng: Context(program=BASELINE)) if helped & changed(one)]
    assert len(again) >= 20 >= 2 * len(fresh)


def surface(*outcomes: Outcome, changes: tuple[str, ...] = ("a", "b")) -> Surface:
    return Surface(changes, {"RATE": 0.01, "BETA": 0.9, "FLAG": True}, outcomes, noise=0.1)


def test_effects_of_what_was_made_together_are_shared_out() -> None:
    kept = outcome("recipe:a", "kept", "a", effect=-0.4)
    alone = surface(kept).belief("a")
    assert alone == pytest.approx(Belief(-4 * 2.25 / (2.25 + 0.7), 2.25 * 0.7 / (2.25 + 0.7)))
    together = surface(outcome("pair", "kept", "a; b", effect=-0.4))
    shared = pytest.approx(Belief(-4 * 2.25 / (2 * 2.25 + 0.8), 2.25 * (1 - 2.25 / (2 * 2.25 + 0.8))))
    assert together.belief("a") == shared
    assert together.belief("b") == shared
    after = surface(kept, outcome("pair", "kept", "a; b", effect=-0.4))
    assert after.belief("b").mean > together.belief("b").mean  # a alone explains most of it
    unknown = surface(outcome("pair", "kept", "a; what nobody else made", effect=-0.4)).belief("a")
    assert alone.mean < unknown.mean < 0
    half = surface(outcome("recipe:a", "kept", "a", effect=-0.4, weight=0.5)).belief("a")
    assert alone.mean < half.mean < 0
    old = surface(kept, *[outcome("recipe:c", "discarded", "c")] * 100).belief("a")
    assert half.mean < old.mean < 0


STEP = "RATE from 0.01 to 0.02: why"


@pytest.mark.parametrize(
    "nothing",
    [
        outcome("recipe:a", "kept", "a", weight=0.0),
        outcome("pair", "failed", f"a; {STEP}"),
        outcome("crossover", "kept", "a"),
        outcome("optuna:tpe", "kept", STEP),
        outcome("elite:gather", "kept", f"on another program: a; {STEP}"),
        outcome("pair", "kept", "b; " * 300 + "RATE from nan to 1e999: why; RATE from -1 to 0: why"),
        outcome("constant:RATE", "kept", "RATE from 1e-300 to 1e300: far"),
    ],
)
def test_what_does_not_say_what_changed_here_teaches_nothing(nothing: Outcome) -> None:
    known = surface(nothing, changes=("a", STEP))
    assert not known.measured("a")
    assert not known.measured(STEP)
    assert known.belief("a") == pytest.approx(Belief(0.0, 2.25))


def test_what_is_claimed_is_bounded() -> None:
    huge = surface(outcome("recipe:a", "kept", "a", effect=-1e300)).belief("a")
    assert huge.mean == pytest.approx(-8 * 2.25 / (2.25 + 0.7))
    failed = surface(outcome("recipe:a", "failed", "a")).belief("a")
    assert failed.mean == pytest.approx(8 * 2.25 / (2.25 + 1.4))
    own = [outcome("constant:RATE", "kept", STEP, effect=-0.2)] * 20
    lie = outcome("constant:RATE", "discarded", "RATE from 1e-6 to 1.0: why", weight=0.1)
    assert surface(*own, lie, changes=(STEP,)).belief(STEP).mean < -1.5


def test_strangers_neither_age_nor_evict_what_is_known() -> None:
    own = [outcome("constant:RATE", "kept", STEP, effect=-0.2)] * 20
    flood = [outcome("recipe:a", "kept", "a", effect=-5e-324, weight=0.0)] * 3000
    assert surface(*own, *flood, changes=(STEP,)).belief(STEP) == surface(*own, changes=(STEP,)).belief(STEP)
    bandit, alone = Bandit([*own, *flood], noise=0.1), Bandit(own, noise=0.1)
    arm = Arm("constant:RATE", 1)
    assert bandit.score(arm, 0.15, random.Random(1)) == alone.score(arm, 0.15, random.Random(1))
    belief = Belief(-2.0, 1.0)
    assert bandit.score_known(belief, random.Random(1)) == alone.score_known(belief, random.Random(1))


def test_the_usual_gain_is_by_standing() -> None:
    """Many who weigh little do not set the scale; nor does a gain that no run could show."""
    belief, own = Belief(-2.0, 1e-9), [outcome("recipe:a", "kept", effect=-0.2)] * 3

    def score(*outcomes: Outcome) -> float:
        return Bandit(outcomes, noise=0.1).score_known(belief, random.Random(1))

    assert score(*own, *[outcome("recipe:b", "kept", effect=-1e9, weight=0.01)] * 200) == score(*own)
    assert score(outcome("recipe:b", "kept", effect=-5e-324)) < 10


def test_a_step_says_something_of_other_steps_of_its_constant() -> None:
    up, further, down = (f"RATE from 0.01 to {value}: why" for value in (0.014, 0.02, 0.005))
    flag = "FLAG from True to False: why"
    known = surface(
        outcome("constant:RATE", "kept", "RATE from 0.005 to 0.01: other words", effect=-0.6),
        changes=(up, further, down, flag),
    )
    assert known.measured(further)
    assert not known.measured(flag)
    assert known.on_a_scale(up)
    assert not known.on_a_scale(flag)
    assert known.belief(up).mean < 0 < known.belief(down).mean
    assert known.belief(further).variance > known.belief(up).variance
    flagged = surface(outcome("constant:FLAG", "discarded", flag, effect=0.9), changes=(flag,))
    assert flagged.measured(flag)


def test_a_draw_is_of_the_surface() -> None:
    changes = ("RATE from 0.01 to 0.02: why", "RATE from 0.01 to 0.005: why", "a")
    known = surface(*[outcome("constant:RATE", "kept", changes[0], effect=-0.5)] * 5, changes=changes)
    draws = [known.draw(random.Random(seed)) for seed in range(2000)]
    for change in changes:
        drawn = [effect(change) for effect in draws]
        mean, variance = known.belief(change)
        assert statistics.fmean(drawn) == pytest.approx(mean, abs=0.15)
        assert statistics.variance(drawn) == pytest.approx(variance, rel=0.15)
    assert known.draw(random.Random(1))("a") == known.draw(random.Random(1))("a")


def test_places_are_octaves_of_what_moves() -> None:
    assert place(4, 1) == 2
    assert place(0.25, 0.4) == -2
    assert place(0.75, 0.9) == 2  # of the distance to 1
    assert place(1.0, 0.9) is None
    assert place(2.0**-40, 1e-9) == -40
    assert place(0.75, 0.4) == pytest.approx(-0.415, abs=1e-3)
    for nowhere in (0.0, -1.0, float("nan"), float("inf"), True):
        assert place(nowhere, nowhere) is None


def test_a_hypothesis_is_only_matched() -> None:
    up, down = Arm("constant:RATE", 1), Arm("constant:RATE", -1)
    assert list(arms_of(outcome("constant:RATE", "kept", "RATE from 1 to 2: why"))) == [up]
    assert list(arms_of(outcome("constant:RATE", "kept", "RATE from 2.0 to 1e-3: why"))) == [down]
    assert set(arms_of(outcome("constant:RATE", "kept", "print the key"))) == {up, down, Arm("constant:RATE")}
    assert list(arms_of(outcome("constant:KIND", "kept", "KIND from 'a' to 'b': why"))) == [Arm("constant:KIND")]
    assert list(arms_of(outcome("recipe:smear", "kept", "RATE from 1 to 2: why"))) == [Arm("recipe:smear")]


def test_scores_follow_gains_in_units_of_the_usual_gain() -> None:
    """The same whether gains are tenths or thousandths."""
    for unit in (0.1, 0.0001):
        known = [outcome("recipe:small", "kept", effect=-unit)] * 20 + [
            outcome("recipe:large", "kept", effect=-3 * unit)
        ] * 20
        bandit, rng = Bandit(known), random.Random(1)
        small, large = (
            sum(bandit.score(Arm(f"recipe:{name}"), 0.15, rng) for _ in range(50)) for name in ("small", "large")
        )
        assert 1.3 < large / small < 3
    assert prior_kept(-0.02) > prior_kept(0.0) > prior_kept(0.02) > 0


def test_a_suggestion_is_tried_first() -> None:
    found = operators(20, suggestion="maybe a longer WARMUP helps, please")
    assert found["constant:WARMUP_SHARE"] >= 15
    assert operators(20, suggestion="try the z-loss, z loss")["recipe:z-loss"] >= 10


def test_only_what_a_suggestion_names_is_said_to_answer_it() -> None:
    def proposed(suggestion: str) -> Proposal:
        return Evolve(()).propose(Context(program=BASELINE, suggestion=suggestion), random.Random(1))

    assert proposed("a longer warmup").answers
    assert not proposed("a state space machine").answers
    assert not proposed("").answers


def test_what_is_claimed_comes_last() -> None:
    first = Context(
        program="LAYERS = 2\n", claimed=frozenset({fingerprint("LAYERS = 3\n"), fingerprint("LAYERS = 4\n")})
    )
    for seed in range(10):
        assert Evolve().propose(first, random.Random(seed)).program == "LAYERS = 1\n"
    left = Context(program="LAYERS = 2\n", claimed=first.claimed, seen={fingerprint("LAYERS = 1\n")})
    assert Evolve().propose(left, random.Random(1)).program in {"LAYERS = 3\n", "LAYERS = 4\n"}


def test_a_plateau_widens_the_moves() -> None:
    calm, wide = operators(), operators(widen=1.0)
    assert wide["pair"] > calm["pair"] + 5
    changes = [p.hypothesis.count("; ") for p in proposals(40, lambda rng: Context(program=BASELINE, widen=1.0))]
    assert max(changes) >= 3


def test_relatives_are_crossed() -> None:
    theirs = BASELINE.replace("BATCH = 16", "BATCH = 8")
    ours = BASELINE.replace("HEADS = 2", "HEADS = 4")
    relative = Relative(program=theirs, ancestor=BASELINE, effect=-0.02)
    context = Context(program=ours, relatives=(relative,))
    crossed = [p for p in proposals(40, lambda rng: context) if p.operator == "crossover"]
    assert 2 <= len(crossed) <= 20
    assert all("BATCH = 8" in p.program and "HEADS = 4" in p.program for p in crossed)
    assert "-0.0200 bpb" in crossed[0].hypothesis
