"""Noise and effects are learnt from what happened: the standard deviation, the drift, the shares of gains and harms."""

import math

import numpy as np
import pytest

from policy.effects import GAINS, MEANS, START, Effects, learn
from policy.noise import DRIFTS_PRIOR, MEMORY_RUNS, NoiseModel, Spread, pool, spread_of


def observed(runs: int, drift: float, sd: float = 0.02, seed: int = 1) -> NoiseModel:
    """A model after so many runs of one program, each second one of the machine's, on a walk of `drift` · sd² a run."""
    rng = np.random.default_rng(seed)
    walk = np.cumsum(math.sqrt(2 * drift) * rng.normal(size=runs))
    model = NoiseModel()
    for index, error in enumerate(walk + rng.normal(size=runs)):
        model.observe("baseline", 3 + sd * float(error), 2 * index)
    return model


def test_the_standard_deviation_is_found_and_its_degrees_of_freedom_are_counted() -> None:
    model = observed(80, 0.0)
    assert model.spread.sd == pytest.approx(0.02, rel=0.2)
    assert 70 < model.spread.dof <= 79
    assert model.drift < 0.005


def test_without_drift_it_is_the_spread_of_the_scores() -> None:
    scores = [3.01, 2.98, 3.04]
    model = NoiseModel()
    for at, score in enumerate(scores):
        model.observe("a", score, at)
    still = DRIFTS_PRIOR[0]
    assert still > 0.5
    assert model.spread.sd == pytest.approx(spread_of(scores).sd, rel=0.02)


def test_a_walk_is_found_and_not_taken_for_noise() -> None:
    model = observed(120, 0.3)
    assert model.drift == pytest.approx(0.3, rel=0.9)
    assert model.spread.sd == pytest.approx(0.02, rel=0.35)


def test_programs_have_levels_of_their_own() -> None:
    rng = np.random.default_rng(2)
    model = NoiseModel()
    for at in range(40):
        model.observe("ab"[at % 2], (3.0, 9.0)[at % 2] + 0.02 * float(rng.normal()), at)
    assert model.spread.sd == pytest.approx(0.02, rel=0.3)


def test_what_was_long_ago_is_forgotten() -> None:
    rng = np.random.default_rng(3)
    model = NoiseModel(Spread(1.0, 20))
    for at in range(3 * MEMORY_RUNS):
        model.observe("a", 3 + 0.02 * float(rng.normal()), at)
    assert model.spread.dof < 1.1 * MEMORY_RUNS
    assert model.spread.sd == pytest.approx(math.sqrt(0.02**2 + 20 * math.exp(-3) / model.spread.dof), rel=0.1)


def test_pooled_noise_starts_a_new_family_and_is_soon_outvoted() -> None:
    known = pool([Spread(0.03, 10), Spread(0.01, 10), Spread(7.0, 0)])
    assert known is not None
    assert known.sd == pytest.approx(math.sqrt((0.03**2 + 0.01**2) / 2))
    assert known.dof == 6
    assert pool([Spread(1, 0)]) is None
    assert pool([]) is None
    assert NoiseModel(known).spread == known


def test_bad_runs_are_refused() -> None:
    model = NoiseModel()
    model.observe("a", 3.0, 5)
    with pytest.raises(ValueError, match="no score"):
        model.observe("a", math.nan, 6)
    with pytest.raises(ValueError, match="after its run 5"):
        model.observe("a", 3.0, 4)
    with pytest.raises(ValueError, match="no spread"):
        Spread(-1, 2)
    with pytest.raises(ValueError, match="two runs"):
        spread_of([3.0])


def drawn(rng: np.random.Generator, count: int, gains: float) -> tuple[np.ndarray, np.ndarray]:
    """Estimates of one run each, against an incumbent that is known well."""
    which = rng.random(count)
    effects = np.where(
        which < gains, -rng.uniform(1, 5, count), np.where(which < 0.5, 0, np.abs(rng.normal(0, 2, count)))
    )
    return effects + math.sqrt(1.15) * rng.normal(size=count), np.full(count, 1.15)


def test_the_shares_of_gains_are_learnt() -> None:
    rng = np.random.default_rng(4)
    few, many = (learn(*drawn(rng, 600, gains)) for gains in (0.03, 0.3))
    assert few.shares[GAINS].sum() == pytest.approx(0.03, abs=0.035)
    assert many.shares[GAINS].sum() == pytest.approx(0.3, abs=0.08)
    assert few.shares.sum() == pytest.approx(1)
    assert learn(np.empty(0), np.empty(0)).shares == pytest.approx(START)


def test_a_posterior_is_bayes_rule() -> None:
    effects = Effects()
    posterior = effects.posterior(-2.0, 0.5)
    grid = np.linspace(-60, 60, 240_001)
    density = np.zeros_like(grid)
    for share, mean in zip(START, MEANS, strict=True):
        if mean != 0:
            density += share * np.exp(-0.5 * ((grid - mean) / (0.4 * mean)) ** 2) / abs(0.4 * mean)
    weighed = density * np.exp(-0.5 * (grid + 2.0) ** 2 / 0.5) * (grid[1] - grid[0])
    at_zero = START[MEANS == 0][0] * math.sqrt(2 * math.pi) * math.exp(-0.5 * 4 / 0.5)
    assert posterior.gain == pytest.approx(-(weighed @ grid) / (weighed.sum() + at_zero), rel=1e-4)
    assert effects.posterior(3.0, 0.5).null > 0.99 > 0.2 > effects.posterior(-4.0, 0.5).null


def test_bounds_are_where_the_chance_of_no_gain_is_allowed() -> None:
    effects = Effects()
    variances = np.array([1.0, 0.3, 0.1])
    for bound, variance in zip(effects.bounds(variances, 0.1), variances, strict=True):
        assert effects.posterior(float(bound), float(variance)).null <= 0.1
        assert effects.posterior(float(bound) + 0.35, float(variance)).null > 0.1


def test_more_runs_are_worth_more_for_what_is_promising_and_nothing_for_what_is_not() -> None:
    effects = Effects()
    after = np.array([0.6, 0.3, 0.2])
    assert effects.gain_if_kept(-2.0, 1.2, after, 0.1).tolist() == sorted(effects.gain_if_kept(-2.0, 1.2, after, 0.1))
    assert effects.gain_if_kept(-2.0, 1.2, after, 0.1)[-1] > 0.3
    assert effects.gain_if_kept(3.0, 1.2, after, 0.1)[-1] < 0.01
