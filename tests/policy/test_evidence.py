"""The effect of a fixed number of pairs: equal to an independent t-test."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from policy.evidence import effect

differences = st.lists(st.floats(-1, 1), min_size=2, max_size=8).filter(lambda d: statistics.stdev(d) > 1e-6)


@given(differences)
def test_the_effect_is_that_of_a_one_sample_t_test(observed: list[float]) -> None:
    theirs = ttest_1samp(observed, 0, alternative="less")
    interval = ttest_1samp(observed, 0).confidence_interval(0.95)
    ours = effect(observed)
    assert ours.p_value == pytest.approx(theirs.pvalue, abs=1e-9)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-9)
    assert ours.mean == pytest.approx(statistics.fmean(observed))


def test_equal_differences_are_exact_and_one_is_not_enough() -> None:
    gained = effect([-0.01, -0.01])
    assert (gained.low, gained.high, gained.p_value) == (gained.mean, gained.mean, 0.0)
    assert effect([0.0, 0.0]).p_value == 1.0
    with pytest.raises(ValueError, match="two pairs"):
        effect([0.1])
