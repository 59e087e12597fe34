"""`scripts/bench search`: the surrogate reads programs and fits what was recorded, the arms spend equal trials."""

import importlib
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def benches(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of scripts/benches."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return lambda name: importlib.import_module(f"benches.{name}")


def test_a_text_is_read_as_its_knobs_and_recipes(benches: Any) -> None:
    surrogate = benches("surrogate")
    apply = importlib.import_module("trainer.proposers.recipes.recipe").apply
    recipes = {one.name: one for one in importlib.import_module("trainer.proposers.recipes.table").RECIPES}
    record = surrogate.read_record()
    reader = surrogate._reader(record.baseline)
    assert reader.read(record.baseline) == ({}, ())
    wider = record.baseline.replace("WIDTH = 64 ", "WIDTH = 96 ").replace('ACTIVATION = "relu2"', 'ACTIVATION = "gelu"')
    assert reader.read(wider) == ({"WIDTH": 96, "ACTIVATION": "gelu"}, ())
    both = apply(recipes["muon"], wider)
    assert reader.read(both).recipes == ("muon",)
    assert reader.read(both).knobs["WIDTH"] == 96
    away = surrogate.distances(reader.read(wider).knobs, reader.knobs)
    assert away == {"WIDTH": pytest.approx(0.585, abs=1e-3), "ACTIVATION=gelu": 1.0}


def test_a_surrogate_finds_the_effects_that_made_its_record(benches: Any) -> None:
    surrogate = benches("surrogate")
    baseline = surrogate.read_record().baseline
    rng, trials = random.Random(1), []
    for number in range(120):
        rate = 1e-3 * 2 ** rng.choice([0, 0, -1, 1, 2])
        recipes = ("muon",) if number % 3 == 0 else ()
        score = surrogate.FLOOR + 3.0 * 0.8 ** (rate / 1e-3 - 1) * (0.9 if recipes else 1.0) + rng.gauss(0, 0.02)
        trials.append(
            surrogate.Recorded(
                program=f"{rate} {recipes}", knobs={} if rate == 1e-3 else {"LEARNING_RATE": rate}, recipes=recipes,
                seed=number, score=None if number % 20 == 7 else score,
            )
        )  # fmt: skip
    record = surrogate.Record(
        made="2026-01-01", machine="", command="", budget_s=2.0, seq_len=128, eval_bytes=16384, baseline=baseline,
        best=(), trials=tuple(trials),
    )  # fmt: skip
    fitted = surrogate.fit(record)
    assert fitted.noise == pytest.approx(0.02, rel=0.3)
    likely, drawn = fitted.surrogate(), fitted.surrogate(3)
    plain = likely.of(surrogate.Reading({}, ()))
    assert plain == pytest.approx(surrogate.FLOOR + 3.0, abs=0.1)
    assert likely.of(surrogate.Reading({}, ("muon",))) == pytest.approx(plain - 0.3, abs=0.1)
    scores = [likely.of(surrogate.Reading({"LEARNING_RATE": rate}, ())) for rate in (5e-4, 1e-3, 2e-3, 4e-3)]
    assert scores == sorted(scores, reverse=True)
    far = surrogate.Reading({"LEARNING_RATE": 1.0}, ())
    assert likely.of(far) > plain  # nothing is best at infinity
    near = surrogate.Reading({"LEARNING_RATE": 2e-3}, ())
    assert drawn.of(near) not in (likely.of(near), fitted.surrogate(4).of(near))
    assert likely.score(baseline) == pytest.approx(plain)
    with pytest.raises(ValueError, match="noise is unknown"):
        surrogate.fit(msgspec.structs.replace(record, trials=record.trials[:1]))


def test_all_ways_to_search_spend_the_same_trials_and_improve(benches: Any) -> None:
    search = benches("search")
    fitted = benches("surrogate").fit(benches("surrogate").read_record())
    found = search.repetition(1, fitted, 14)
    assert set(found) == set(search.ARMS)
    for arm, one in found.items():
        assert len(one.course) == 15, arm
        assert one.hits <= min(one.gains, len(one.decided))
        assert len(one.decided) + 1 <= 14
    landscape = fitted.surrogate(1)
    for arm in ("a", "d"):
        assert found[arm] == search.on_surrogate(arm, landscape, 14, 1, search.Memory())
    assert found["a"].final < found["a"].course[0]
    outcome = search.compared({arm: [one, one] for arm, one in found.items()}, 14)
    assert [goal.what for goal in outcome.goals] == [
        "(d) - (a), mean true score",
        "(d) - (b), mean true score",
        "(d) - (c), mean true score",
        "(e) - (d), hit rate on the way to the worse of their final scores",
    ]


def test_a_course_is_judged_by_true_scores(benches: Any) -> None:
    search, arms = benches("search"), benches("search_arms")
    true = {"base": 3.0, "luck": 3.1, "gain": 2.5, "crash": None, "missed": 2.9}
    lab = arms.Lab(lambda text, seed: true[text], 6, "base")
    for text, kept in [("luck", True), ("crash", False), ("missed", False), ("gain", True)]:
        lab.run(text, 0)
        lab.tried(lab.final, text, kept=kept)
    one = search.searched(lab, true.__getitem__)
    assert one.course == (3.0, 3.1, 3.1, 3.1, 2.5, 2.5, 2.5)
    assert one.decided == ((1, False), (2, False), (3, False), (4, True))
    assert (one.hits, one.gains, one.false_keeps) == (1, 2, 1)
    assert (one.hit_rate(), one.hit_rate(3), one.hit_rate(0)) == (0.25, 0, 0)
    assert [search.trials_to(one.course, score) for score in (3.0, 2.5, 2.0)] == [0, 4, float("inf")]


def test_correlation_has_an_interval(benches: Any) -> None:
    search = benches("search")
    rng = random.Random(2)
    xs = [rng.random() for _ in range(40)]
    rho, low, high = search.correlation([(x, x + rng.gauss(0, 0.2)) for x in xs])
    assert 0 < low < rho < high <= 1
    assert search.correlation([(x, -x) for x in xs])[0] == pytest.approx(-1)


def test_plans_of_a_record_try_the_baseline_again_and_single_moves_once(benches: Any) -> None:
    recording, surrogate = benches("recording"), benches("surrogate")
    record = msgspec.structs.replace(surrogate.read_record(), best=(), trials=())
    plan = recording.Plan(record, random.Random(3))
    texts = []
    for number in range(24):
        texts.append(plan.next(number, record))
        plan.tell(texts[-1], 4.0 + number)
    assert texts[0] == texts[12] == record.baseline
    assert texts[6] == record.baseline  # the best so far
    single = texts[1::2]
    assert len(set(single)) == len(single)


def test_a_lane_is_busy_while_it_has_a_trial(benches: Any) -> None:
    lanes = benches("search_lane")
    timed = lanes.Timed(None)
    timed.spans = [(10.0, 19.0), (19.5, 29.5), (31.5, 40.0)]
    assert timed.gaps() == [0.5, 2.0]
    assert timed.busy_share() == pytest.approx(27.5 / 30)
