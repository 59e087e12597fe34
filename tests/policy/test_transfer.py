"""Transfer: its interval against other ways to the same number, families, what is tried, and what is counted."""

import math
import random

import numpy as np
import pytest
from scipy import stats

from policy.transfer import (
    STRANGERS_MAX,
    TO_TRY_MAX,
    Attempt,
    Fate,
    Found,
    Interval,
    Measured,
    carried,
    difference,
    directions,
    family,
    of_runs,
    ratio,
    settled,
    to_try,
)

Z = 1.959963984540054


def measured(mean: float, sd: float = 0.01, author: str = "me", **more: object) -> Measured:
    values = {"author": author, "how": "claimed", "n": 4, "mean": mean, "hardware": "a processor"}
    return Measured(**(values | {"low": mean - Z * sd, "high": mean + Z * sd} | more))  # type: ignore[arg-type]


def found(name: str, track: str, mean: float = -0.1, **more: object) -> Found:
    values = {"id": name, "track": track, "source": "", "change": "", "effect": measured(mean)}
    return Found(**(values | more))  # type: ignore[arg-type]


def attempt(source: str, fate: Fate, here: float | None = None, there: float | None = -0.1, **more: object) -> Attempt:
    values = {"source": source, "source_track": "cpu", "author": "me", "track": "gpu", "program": "p", "fate": fate}
    effects = {
        name: None if mean is None else measured(mean) for name, mean in (("effect", here), ("source_effect", there))
    }
    return Attempt(**(values | effects | more))  # type: ignore[arg-type]


# Numbers


def test_fiellers_interval_is_where_the_test_of_the_ratio_turns() -> None:
    """Its ends are the ratios r at which b - r a differs from 0 at just 5 %."""
    rng = random.Random(1)
    for _ in range(200):
        b, b_sd, a_sd = rng.uniform(-0.2, 0.2), rng.uniform(0.001, 0.05), rng.uniform(0.001, 0.02)
        a = -rng.uniform(2.5 * a_sd, 0.3)
        said = ratio((b, b_sd), (a, a_sd))
        assert said is not None
        assert said.low is not None
        assert said.high is not None
        assert said.low < said.value < said.high
        for end in (said.low, said.high):
            assert abs(b - end * a) / math.hypot(b_sd, end * a_sd) == pytest.approx(Z)


def test_the_interval_holds_the_ratio_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    truth, held, times = (-0.03, -0.1), 0, 4000
    for b, a in rng.normal(truth, (0.02, 0.03), (times, 2)):
        said = ratio((float(b), 0.02), (float(a), 0.03))
        assert said is not None
        held += said.low is None or said.high is None or said.low <= 0.3 <= said.high
    assert stats.binomtest(held, times, 0.95).pvalue > 0.001


def test_a_source_without_a_shown_effect_gives_no_finite_interval() -> None:
    assert ratio((-0.1, 0.01), (-0.019, 0.01)) == Interval(-0.1 / -0.019, None, None)
    assert ratio((-0.1, 0.01), (-0.020, 0.01)) != Interval(5.0, None, None)
    assert ratio((-0.1, math.inf), (-0.1, 0.01)) == Interval(1.0, None, None)
    assert ratio((-0.1, 0.01), (0.0, 0.01)) is None


def test_the_difference_always_has_an_interval() -> None:
    said = difference(measured(-0.02, 0.03), measured(-0.1, 0.04))
    assert said.value == pytest.approx(0.08)
    assert (said.low, said.high) == (pytest.approx(0.08 - Z * 0.05), pytest.approx(0.08 + Z * 0.05))


def test_runs_of_a_discarded_try_are_compared_as_student_has_it() -> None:
    child, parent = [2.91, 2.95], [3.01, 3.00, 3.04, 3.02]
    said = of_runs("me", child, parent, "a processor")
    known = stats.ttest_ind(child, parent).confidence_interval()
    assert said is not None
    assert (said.low, said.high) == (pytest.approx(known.low), pytest.approx(known.high))
    assert (said.n, said.how) == (2, "runs")
    assert of_runs("me", [], parent, None) is None
    assert of_runs("me", child, parent[:1], None) is None


def test_own_verdicts_come_first_then_the_median_of_others_and_the_claim_last() -> None:
    claim = measured(-0.5, author="finder")
    others = [measured(mean, author=f"peer {mean}") for mean in (-0.3, -0.1, -0.2)]
    own = measured(-0.05)
    assert settled("me", claim, [*others, own]) == own
    assert settled("me", claim, others).mean == -0.2
    assert settled("me", claim, []) == claim
    assert settled("finder", claim, others).mean == -0.2  # who picks a winner measures it too high


# Directions


def test_failures_and_losses_are_counted_with_what_was_kept() -> None:
    tries = [
        attempt("a", "kept", -0.05),
        attempt("b", "discarded", +0.02),
        attempt("c", "failed"),
        attempt("d", "open"),
        attempt("e", "given up"),
        attempt("f", "kept", -0.1, source_track="gpu", track="cpu"),
    ]
    back, forth = sorted(directions(tries), key=lambda one: one.tried)
    assert (back.source_track, back.track, back.tried, back.kept) == ("gpu", "cpu", 1, 1)
    assert (forth.tried, forth.kept, forth.failed, forth.measured) == (3, 1, 1, 2)
    low, high = stats.beta(1.5, 2.5).interval(0.95)
    assert forth.share == Interval(1 / 3, pytest.approx(low), pytest.approx(high))
    assert back.share.high == 1.0
    assert forth.ratio is not None
    assert forth.ratio.value == pytest.approx((-0.05 + 0.02) / -0.2)
    one, same = carried(tries[0]), ratio((-0.05, 0.01), (-0.1, 0.01))
    assert one is not None
    assert same is not None
    assert (one.value, one.low, one.high) == pytest.approx((same.value, same.low, same.high))
    assert carried(tries[2]) is None
    assert directions([attempt("d", "open"), attempt("e", "given up")]) == []
    assert directions([attempt("c", "failed", there=None)])[0].ratio is None


def test_attempts_at_one_source_share_its_error() -> None:
    """Ten nodes that try one discovery know its effect no better than one does."""
    one, many = (directions([attempt("a", "kept", -0.1)] * count)[0].ratio for count in (1, 10))
    assert one is not None
    assert many is not None
    same = ratio((-1.0, 0.01 * math.sqrt(10)), (-1.0, 10 * 0.01))
    assert same is not None
    assert one.value == pytest.approx(many.value)
    assert (many.low, many.high) == pytest.approx((same.low, same.high))


# Families


def test_a_family_begins_at_the_discovery_that_came_by_no_transfer() -> None:
    sources = {"c": "b", "b": "a", "a": ""}
    assert {family(name, sources) for name in "abc"} == {"a"}
    assert family("alone", {}) == "alone"
    assert family("x", {"x": "not here"}) == "not here"


def test_claimed_circles_have_one_name_from_wherever_they_are_entered() -> None:
    sources = {"p": "q", "q": "r", "r": "p", "tail": "q"}
    assert {family(name, sources) for name in ("p", "q", "r", "tail")} == {"p"}


# What to try


def test_the_largest_expected_gain_comes_first_and_each_family_once() -> None:
    known = [
        found("small", "cpu", -0.05),
        found("large", "cpu", -0.2),
        found("again", "tpu", -0.25, source="large"),
        found("harm", "cpu", +0.1),
        found("doubted", "cpu", -0.3, weight=0.3),
    ]
    assert [one.source for one in to_try(known, [], "gpu", "me")] == ["again", "doubted", "small"]
    first = to_try(known, [], "gpu", "me")[0]
    assert (first.track, first.effect) == ("tpu", -0.25)
    assert "-0.2500 bpb in tpu" in first.reason


def test_nothing_goes_to_and_fro() -> None:
    there = found("there", "cpu")
    back = found("carried", "gpu", source="there")
    assert to_try([there, back], [], "gpu", "me") == []  # it is here already
    assert to_try([there, back], [], "cpu", "me") == []  # and where it comes from
    origins = {"carried": ("there", "gpu"), "there": ("", "cpu")}
    assert to_try([back], [], "cpu", "me", origins=origins) == []  # though the source is not believed here
    assert [one.source for one in to_try([back], [], "tpu", "me", origins=origins)] == ["carried"]


def test_the_same_change_found_here_is_not_carried_over() -> None:
    known = [found("there", "cpu", change="deeper"), found("here", "gpu", change="deeper"), found("other", "cpu")]
    assert [one.source for one in to_try(known, [], "gpu", "me")] == ["other"]


def test_own_attempts_are_final_and_others_lower_the_chance() -> None:
    known = [found("a", "cpu"), found("b", "cpu", -0.09)]
    assert [one.source for one in to_try(known, [], "gpu", "me")] == ["a", "b"]
    fates: dict[Fate, list[str]] = {"failed": ["b"], "discarded": ["b"], "open": ["b"], "given up": ["a", "b"]}
    for fate, left in fates.items():
        assert [one.source for one in to_try(known, [attempt("a", fate)], "gpu", "me")] == left
    theirs = [attempt("a", "discarded", author="peer", weight=0.9)] * 3
    said = to_try(known, theirs, "gpu", "me")
    assert [one.source for one in said] == ["b", "a"]
    assert "0 of 3 such transfers were kept, 3 of them tried this one" in said[1].reason
    strangers = [attempt("a", "discarded", author="liar", weight=0.0)] * 1000
    assert [one.source for one in to_try(known, strangers, "gpu", "me")] == ["a", "b"]
    assert to_try(known, strangers, "gpu", "me")[0].chance == to_try(known, [], "gpu", "me")[0].chance


def test_what_strangers_confirm_comes_last_however_large_and_few_of_it() -> None:
    loud = [found(f"s{number:02}", "cpu", -100.0, weight=0.0) for number in range(100)]
    said = to_try([*loud, found("known", "cpu", -0.001)], [], "gpu", "me")
    assert [one.source for one in said] == ["known", "s00", "s01", "s02", "s03"]
    assert len(said) == 1 + STRANGERS_MAX
    many = [found(f"k{number}", "cpu") for number in range(3 * TO_TRY_MAX)]
    assert len(to_try(many, [], "gpu", "me")) == TO_TRY_MAX
