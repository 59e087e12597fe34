"""The keep decision: equal to an independent t-test, right about obvious cases, and wrong as seldom as it says."""

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from policy.evidence import ALPHA, LOOKS, Decision, decide, difference_noise, effect

differences = st.lists(st.floats(-1, 1), min_size=2, max_size=8).filter(lambda d: statistics.stdev(d) > 1e-6)


@given(differences)
def test_the_effect_is_that_of_a_one_sample_t_test(observed: list[float]) -> None:
    theirs = ttest_1samp(observed, 0, alternative="less")
    interval = ttest_1samp(observed, 0).confidence_interval(0.95)
    ours = effect(observed, noise=0.02)
    assert ours.p_value == pytest.approx(theirs.pvalue, abs=1e-9)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-9)
    assert ours.mean == pytest.approx(statistics.fmean(observed))


def test_equal_differences_borrow_the_baselines_spread() -> None:
    shown = effect([-0.01, -0.01, -0.01], noise=0.03)
    assert shown.low < -0.05
    assert shown.high > 0.03
    assert effect([-0.01, -0.01], noise=0.0).p_value == 0.0
    assert effect([0.0, 0.0], noise=0.0).p_value == 1.0


def test_noise_of_a_difference() -> None:
    assert difference_noise([3.0, 3.1, 3.2]) == pytest.approx(math.sqrt(2) * 0.1)
    with pytest.raises(ValueError, match="at least two"):
        difference_noise([3.0])
    with pytest.raises(ValueError, match="two pairs"):
        effect([0.1], 0.1)


@pytest.mark.parametrize(
    ("observed", "give_up_early", "expected"),
    [
        ([], True, Decision.MORE),
        ([-0.2], True, Decision.MORE),
        ([0.01], True, Decision.NOT_BETTER),
        ([0.01], False, Decision.MORE),
        ([-0.1, 0.2], True, Decision.NOT_BETTER),
        ([-0.1, 0.2], False, Decision.MORE),
        ([-0.2, -0.22, -0.19], True, Decision.BETTER),
        ([0.2, 0.22, -0.19], False, Decision.NOT_BETTER),
        ([-0.2, 0.02, -0.05], True, Decision.MORE),  # promising, not shown
        ([-0.010, -0.0101, -0.0099], True, Decision.MORE),  # in accord by accident: far below the noise
        ([-0.2, 0.02, -0.05, -0.01], True, Decision.MORE),
        ([-0.2, 0.1, -0.05, 0.1, 0.1, -0.1], False, Decision.UNDECIDED),
        ([-0.2, -0.1, -0.15, -0.2, -0.1, -0.2], False, Decision.BETTER),
        ([0.2, 0.1, 0.15, -0.2, -0.1, 0.2], False, Decision.NOT_BETTER),
    ],
)
def test_decisions(observed: list[float], give_up_early: bool, expected: Decision) -> None:
    assert decide(observed, 0.03, give_up_early=give_up_early) is expected


@pytest.mark.parametrize("give_up_early", [True, False])
def test_a_candidate_that_is_no_better_is_seldom_kept(give_up_early: bool) -> None:
    """Over 4,000 null candidates the share of false keeps stays below ALPHA, by more than chance allows for."""
    rng = random.Random(20260101)
    kept = 0
    for _ in range(4000):
        observed: list[float] = []
        while (decision := decide(observed, 1.0, give_up_early=give_up_early)) is Decision.MORE:
            observed.append(rng.gauss(0, 1))
        assert len(observed) <= LOOKS[-1]
        kept += decision is Decision.BETTER
    assert kept / 4000 < ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / 4000)


def test_a_gain_of_many_sigma_is_nearly_always_kept() -> None:
    rng = random.Random(20260102)
    kept = 0
    for _ in range(500):
        observed: list[float] = []
        while (decision := decide(observed, 0.025, give_up_early=True)) is Decision.MORE:
            observed.append(rng.gauss(-0.17, 0.025))
        kept += decision is Decision.BETTER
    assert kept / 500 > 0.95
