"""Splits: counted, spent after a stated number of uses, and a gain on one of them alone is flagged."""

import math

import numpy as np
import pytest

from policy.noise import Spread
from policy.splits import LEVEL, USES_MAX, Estimate, carries_over, estimate, spent, uses

NOISE = Spread(0.02, 5)


def test_uses_are_counted_and_end() -> None:
    counted = uses(["public", "private:a", "public"])
    assert (counted["public"], counted["private:a"], counted["private:b"]) == (2, 1, 0)
    assert not spent(USES_MAX - 1)
    assert spent(USES_MAX)
    with pytest.raises(ValueError, match="cannot have been asked"):
        spent(-1)


def test_an_estimate_pools_the_noise() -> None:
    found = estimate([-0.1, -0.2], Spread(0.05, 3))
    assert found.mean == pytest.approx(-0.15)
    assert found.dof == 4
    assert found.error == pytest.approx(math.sqrt((3 * 0.05**2 + 2 * 0.05**2) / 4 / 2))
    with pytest.raises(ValueError, match="two differences"):
        estimate([-0.1], Spread(0.0, 0.0))


def test_a_gain_on_the_public_split_alone_is_flagged() -> None:
    public = estimate([-0.10, -0.11, -0.09, -0.10], NOISE)
    private = estimate([-0.005, 0.004, -0.012], NOISE)
    judged = carries_over(public, [private])
    assert judged.flagged
    assert judged.p_value < LEVEL
    assert judged.heterogeneity_p < LEVEL
    assert (judged.found, judged.elsewhere) == (public.mean, private.mean)


def test_a_gain_that_is_larger_elsewhere_is_not_flagged_though_it_differs() -> None:
    judged = carries_over(estimate([-0.02, -0.03, -0.02], NOISE), [estimate([-0.2, -0.21, -0.2], NOISE)])
    assert not judged.flagged
    assert judged.heterogeneity_p < LEVEL


def test_two_estimates_give_the_square_of_their_normal_difference() -> None:
    a, b = Estimate(-0.3, 0.05, 10), Estimate(-0.1, 0.04, 10)
    judged = carries_over(a, [b])
    assert judged.heterogeneity == pytest.approx(0.2**2 / (0.05**2 + 0.04**2))


def test_what_carries_over_is_seldom_flagged() -> None:
    rng = np.random.default_rng(8)
    flagged = 0
    for _ in range(1000):
        drawn = [[float(x) for x in rng.normal(-1, 1, size)] for size in (4, 3, 6)]
        noise = Spread(float(np.std(rng.normal(size=6), ddof=1)), 5)
        found, *elsewhere = (estimate(differences, noise) for differences in drawn)
        flagged += carries_over(found, elsewhere).flagged
    assert flagged / 1000 <= LEVEL + 3 * math.sqrt(LEVEL / 1000)


def test_there_must_be_something_to_compare_with() -> None:
    with pytest.raises(ValueError, match="no other split"):
        carries_over(Estimate(-0.1, 0.01, 3), [])
