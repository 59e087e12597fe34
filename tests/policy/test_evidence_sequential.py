"""The test of a peer's claim: equal to its integrals, seldom wrong however often one looks, decided in few pairs."""

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import dblquad

from policy.evidence import Decision
from policy.noise import Spread, spread_of
from policy.sequential import (
    ALPHA,
    ALPHA_REFUTE,
    DOF_MAX,
    EFFECT_SCALE,
    PAIRS_MAX,
    PAIRS_MIN,
    bayes_factor,
    e_value,
    effect,
    interval,
    verdict,
    worth,
)

STREAMS = 1500


def three_errors(level: float, streams: int) -> float:
    return level + 3 * math.sqrt(level * (1 - level) / streams)


def test_the_bayes_factor_is_the_ratio_of_the_integrals() -> None:
    estimate, variance, squares, dof, scale = 1.3, 0.25, 2.1, 4.0, 2.0

    def joint(theta: float, sd: float) -> float:
        """Density of estimate and squares for a standardised effect, times 1/sd and the half-normal prior."""
        exponent = -(squares + (estimate - theta * sd) ** 2 / variance) / (2 * sd**2) - theta**2 / (2 * scale**2)
        return 2 / (scale * math.sqrt(2 * math.pi)) * sd ** -(dof + 2) * math.exp(exponent)

    some, _ = dblquad(joint, 0.05, 30, 0, 14)
    under_none = squares + estimate**2 / variance
    none = 2 ** ((dof - 1) / 2) * math.gamma((dof + 1) / 2) * under_none ** (-(dof + 1) / 2)
    assert bayes_factor(estimate, variance, squares, dof, scale) == pytest.approx(some / none, rel=1e-3)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=8), st.floats(1e-3, 1e3), st.floats(0, 1))
def test_units_do_not_matter_and_a_shift_down_never_lowers_the_evidence(
    observed: list[float], unit: float, shift: float
) -> None:
    noise = Spread(0.3, 4)
    value = e_value(observed, noise)
    assert e_value([unit * x for x in observed], Spread(0.3 * unit, 4)) == pytest.approx(value, rel=1e-6)
    assert e_value([x - shift for x in observed], noise) >= value * (1 - 1e-9)


def draw_normal(rng: random.Random) -> float:
    return rng.gauss(0, 1)


def draw_skewed(rng: random.Random) -> float:
    return rng.lognormvariate(0, 1)


def draw_heavy(rng: random.Random) -> float:
    return rng.gauss(0, 1) / math.sqrt(rng.gammavariate(1.25, 0.8))  # Student's t, 2.5 degrees of freedom


@pytest.mark.parametrize("draw", [draw_normal, draw_skewed, draw_heavy])
@pytest.mark.parametrize("noise_runs", [3, 12])
def test_what_is_no_better_is_seldom_ever_shown_though_one_looks_after_every_pair(
    draw: Callable[[random.Random], float], noise_runs: int
) -> None:
    rng = random.Random(20260201)
    wrong = 0
    for _ in range(STREAMS):
        noise = spread_of([draw(rng) for _ in range(noise_runs)]).of_difference()
        observed: list[float] = []
        while len(observed) < PAIRS_MAX and e_value(observed, noise) < 1 / ALPHA:
            observed.append(draw(rng) - draw(rng))
        wrong += e_value(observed, noise) >= 1 / ALPHA
    assert wrong / STREAMS <= three_errors(ALPHA, STREAMS)


def verdicts(gain: float, claimed: float | None, *, streams: int = 400, scatter: float = 1.0) -> Counter[Decision]:
    """Of a child that gains so much, in standard deviations of a run, with a noise of four runs."""
    rng = random.Random(20260202)
    found: Counter[Decision] = Counter()
    for _ in range(streams):
        noise = spread_of([rng.gauss(0, 1) for _ in range(4)]).of_difference()
        observed: list[float] = []
        while (decision := verdict(observed, noise, claimed=claimed)) is Decision.MORE:
            observed.append(rng.gauss(-gain, scatter) - rng.gauss(0, 1))
        assert PAIRS_MIN <= len(observed) <= PAIRS_MAX
        found[decision] += 1
    return found


def test_a_claim_that_holds_is_confirmed_and_one_that_does_not_is_refuted() -> None:
    assert verdicts(4, -4)[Decision.BETTER] > 390
    assert verdicts(0, -6)[Decision.NOT_BETTER] > 380
    assert verdicts(-2, -2)[Decision.NOT_BETTER] > 380
    assert verdicts(0, -6)[Decision.BETTER] <= 400 * three_errors(ALPHA, 400)
    assert verdicts(2, -4)[Decision.NOT_BETTER] <= 400 * three_errors(ALPHA_REFUTE, 400)


def test_a_child_that_scatters_ten_times_as_much_does_not_pass_for_better() -> None:
    assert verdicts(0, -4, scatter=10)[Decision.BETTER] <= 400 * 0.05


def test_a_verdict_is_open_as_soon_as_no_pairs_left_could_decide() -> None:
    noise = Spread(1.0, 6)
    weak = [0.9, -0.9] * 4
    assert len(weak) < PAIRS_MAX
    assert verdict(weak, noise, claimed=-0.05) is Decision.UNDECIDED  # hopeless: a twentieth of the noise
    assert verdict(weak, noise, claimed=-1.0, pairs_max=2 * PAIRS_MAX) is Decision.MORE  # more pairs could
    assert verdict(weak[:4], noise, claimed=-4.0) is Decision.MORE
    assert verdict([-5.0, -5.2], noise, claimed=-5.0) is Decision.MORE  # too few pairs, however clear


def test_the_interval_is_what_the_two_sided_test_does_not_reject() -> None:
    observed, noise = [-0.4, -0.1, -0.3, -0.35], Spread(0.15, 3)
    low, high = interval(observed, noise)
    for end in (low, high):
        shifted = [x - end for x in observed]
        mean = sum(shifted) / 4
        squares = 3 * 0.15**2 + sum((x - mean) ** 2 for x in shifted)
        one_sided = bayes_factor(-mean, 0.25, squares, 6.0, EFFECT_SCALE)
        # Two-sided: the one-sided factor over twice the posterior chance of its side.
        other_sided = bayes_factor(mean, 0.25, squares, 6.0, EFFECT_SCALE)
        assert (one_sided + other_sided) / 2 == pytest.approx(1 / (2 * ALPHA), rel=1e-6)
    assert interval([0.1], Spread(1.0, 1)) == (-math.inf, math.inf)


def test_the_interval_covers_at_whatever_pair_one_looks() -> None:
    rng = random.Random(20260203)
    missed = 0
    for _ in range(800):
        noise = spread_of([rng.gauss(0, 1) for _ in range(5)]).of_difference()
        observed = [rng.gauss(-1, math.sqrt(2)) for _ in range(PAIRS_MAX)]
        ends = [interval(observed[:n], noise) for n in range(1, PAIRS_MAX + 1)]
        missed += any(not low <= -1 <= high for low, high in ends)
    assert missed / 800 <= three_errors(2 * ALPHA, 800)


def test_an_effect_states_mean_interval_and_the_smallest_p_value_on_the_way() -> None:
    noise = Spread(0.03, 2)
    observed = [-0.15, -0.16, -0.14, -0.15]
    shown = effect(observed, noise)
    assert shown.mean == pytest.approx(-0.15)
    assert (shown.low, shown.high) == interval(observed, noise)
    assert shown.high < 0
    assert shown.p_value == pytest.approx(1 / e_value(observed, noise))
    assert effect([*observed, 0.3], noise).p_value == pytest.approx(shown.p_value)
    assert effect([0.1, 0.2], noise).p_value == 1.0


def test_bad_input_is_refused_and_a_machine_without_noise_is_no_failure() -> None:
    with pytest.raises(ValueError, match="no gain"):
        worth(Spread(1, 1), 0.1)
    with pytest.raises(ValueError, match="one pair"):
        effect([], Spread(1, 1))
    exact = Spread(0.0, 5)
    assert e_value([0.0, 0.0, 0.0], exact) == 1.0
    assert verdict([-0.1, -0.1, -0.1], exact, claimed=-0.1) is Decision.BETTER
    assert verdict([0.0, 0.0, 0.0], exact, claimed=-0.1) is Decision.NOT_BETTER
    assert verdict([0.0, 0.0, 0.0], exact) is Decision.UNDECIDED


def test_the_pooled_noise_counts_no_more_than_it_may() -> None:
    observed: Sequence[float] = [-1.0, -1.2, -0.9]
    assert e_value(observed, Spread(0.2, DOF_MAX)) == e_value(observed, Spread(0.2, 500))
    assert np.isfinite(e_value([-1e6] * 5, Spread(1e-9, 5)))
