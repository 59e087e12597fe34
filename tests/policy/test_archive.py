"""The archive: levels add up along chains, elites rest on own runs, and the draw seldom leaves the incumbent."""

import random

import numpy as np
import pytest
from scipy.stats import norm

from policy.archive import (
    ELITES_MAX,
    LINEAGES_MAX,
    REACH,
    SHARE,
    SHARE_MAX,
    Archive,
    Link,
    Traits,
    share_of,
)
from policy.effects import MEANS, VARIANCES, Effects
from policy.plateau import Plateau, Suggestion

BASE = "base"
RUN_SD = 0.02


def link(parent: str, child: str, mean: float, half: float = 0.005, **more: object) -> Link:
    noise = RUN_SD * 2**0.5  # of a difference of two runs
    values = {"parent": parent, "child": child, "mean": mean, "low": mean - half, "high": mean + half, "noise": noise}
    return Link(**(values | more))  # type: ignore[arg-type]


def archive(*links: Link, alike: bool = False) -> Archive:
    """All programs in a cell of their own, or all in one."""
    names = sorted({name for one in links for name in (one.parent, one.child)} | {BASE})
    return Archive(BASE, links, {name: (0 if alike else place,) for place, name in enumerate(names)})


def plateau(suggestion: Suggestion, number: int = 1) -> Plateau:
    return Plateau(suggestion, 0.5, "a long wait", number)


# Levels


def test_levels_are_sums_along_the_chain_and_uncertainties_add_as_variances() -> None:
    one, two = link(BASE, "a", -0.10), link("a", "b", -0.06, half=0.02)
    found = archive(one, two).levels
    alone = archive(link(BASE, "b", -0.06, half=0.02)).levels["b"]
    assert found[BASE].mean == found[BASE].sd == 0
    assert found["b"].mean == pytest.approx(found["a"].mean + alone.mean)
    assert found["b"].variance == pytest.approx(found["a"].variance + alone.variance)
    assert found["b"].before == "a"


def test_an_effect_is_the_posterior_mean_so_a_doubtful_gain_shrinks_more() -> None:
    """Against Bayes' rule on a grid, under the same mixture of effects."""
    step = 0.002
    grid = np.arange(-20_000, 20_001) * step  # standard deviations of a run
    prior = np.zeros_like(grid)
    for share, mean, variance in zip(Effects().shares, MEANS, VARIANCES, strict=True):
        prior += share * (norm.pdf(grid, mean, variance**0.5) * step if variance > 0 else grid == 0)
    for half in (0.004, 0.03):
        weights = prior * norm.pdf(-0.05 / RUN_SD, grid, half / 1.959964 / RUN_SD)
        expected = float(weights @ grid / weights.sum()) * RUN_SD
        assert archive(link(BASE, "a", -0.05, half)).levels["a"].mean == pytest.approx(expected, rel=1e-3)
    sure, doubtful = (archive(link(BASE, "a", -0.05, half)).levels["a"].mean for half in (0.004, 0.03))
    assert -0.05 < sure < doubtful < 0


def test_of_several_chains_the_surest_counts_and_circles_end() -> None:
    found = archive(
        link(BASE, "a", -0.1), link("a", "b", -0.1), link(BASE, "b", -0.5, half=0.5), link("b", "a", -0.3, half=0.4)
    )
    assert found.levels["b"].before == "a"
    assert found.levels["a"].before == BASE
    assert found.lineage("b") == ("b", "a", BASE)


def test_another_nodes_word_weighs_less_than_own_runs() -> None:
    mine, theirs = (archive(link(BASE, "a", -0.1, weight=weight)).levels["a"] for weight in (1.0, 0.25))
    assert theirs.mean == pytest.approx(mine.mean)
    assert theirs.variance == pytest.approx(4 * mine.variance)
    assert "a" not in archive(link(BASE, "a", -0.1, weight=0.0)).levels


def test_the_uncertainty_of_a_difference_leaves_out_what_both_share() -> None:
    trunk, one, two = link(BASE, "t", -0.1, half=0.05), link("t", "a", -0.05), link("t", "b", -0.08)
    found = archive(trunk, one, two)
    difference = found.between("a", "b")
    assert difference is not None
    levels = found.levels
    assert difference[0] == pytest.approx(levels["a"].mean - levels["b"].mean)
    own = sum(levels[name].variance - levels["t"].variance for name in "ab")
    assert difference[1] ** 2 == pytest.approx(own)
    assert difference[1] < levels["a"].sd
    assert found.between("a", "unheard of") is None


# Cells and elites


def test_small_changes_stay_in_their_cell_and_doubling_leaves_it() -> None:
    like = {"weights_bytes": 3_000_000, "wall_per_budget": 1.2, "lines": 150, "knobs": 20}
    cell = Traits(**like).cell()  # type: ignore[arg-type]
    assert Traits(**(like | {"lines": 160, "knobs": 21})).cell() == cell  # type: ignore[arg-type]
    for name in like:
        other = Traits(**(like | {name: 2 * like[name]})).cell()  # type: ignore[arg-type]
        assert other != cell
        assert sum(a != b for a, b in zip(cell, other, strict=True)) == 1
    assert Traits(weights_bytes=0, wall_per_budget=0.0, lines=0, knobs=0).cell()


def test_the_best_of_a_cell_is_its_elite_and_their_number_is_bounded() -> None:
    links = [link(BASE, f"p{number:03}", -0.1 - number / 1000) for number in range(3 * ELITES_MAX)]
    assert [elite.program for elite in archive(*links, alike=True).elites] == [links[-1].child]
    elites = archive(*links).elites
    assert len(elites) == ELITES_MAX
    assert [elite.program for elite in elites] == [one.child for one in reversed(links)][:ELITES_MAX]


def test_no_elite_relative_or_parent_by_the_word_of_a_peer() -> None:
    """However well its author stands here, and however good it is said to be."""
    found = archive(link(BASE, "mine", -0.02), link(BASE, "praised", -0.5, weight=0.99))
    assert {elite.program for elite in found.elites} == {BASE, "mine"}
    assert "praised" in found.levels  # it may close a gap
    assert found.relatives("mine", 9) == []
    assert found.other_lineages("mine") == []
    rng = random.Random(1)
    restart = plateau(Suggestion.RESTART, 5)
    assert {found.draw("mine", rng, restart).parent for _ in range(300)} <= {"mine", BASE}


# Lineages


def test_relatives_are_side_branches_with_the_nearest_common_ancestor() -> None:
    links = (
        link(BASE, "t", -0.1),
        link("t", "a", -0.1),
        link("a", "b", -0.1),
        link("t", "c", -0.3),
        link("c", "d", 0.1),
    )
    found = archive(*links, alike=True)  # one cell: descent tells them apart
    assert [(elite.program, common) for elite, common, _ in found.relatives("b", 9)] == [("c", "t"), ("d", "t")]
    assert [elite.program for elite, _, _ in found.relatives("b", 1)] == ["c"]
    effects = {elite.program: effect for elite, _, effect in found.relatives("b", 9)}
    assert effects["c"] == pytest.approx(found.levels["c"].mean - found.levels["t"].mean)
    assert found.relatives("t", 9) == []  # all others stand on it, or it on them
    assert found.relatives("unheard of", 9) == []


def test_a_program_that_was_only_compared_is_no_child() -> None:
    found = archive(link(BASE, "a", -0.1), link("a", "b", -0.01, lineage=False))
    assert found.lineage("b") == ("b",)
    assert found.levels["b"].before == "a"


def test_other_lineages_are_the_best_of_each_branch() -> None:
    side = [link(BASE, f"s{number}", -0.01 * (number + 1)) for number in range(2 * LINEAGES_MAX)]
    found = archive(link(BASE, "a", -0.5), link("a", "b", -0.1), link("b", "below", -0.1), *side)
    names = [elite.program for elite in found.other_lineages("b")]
    assert names == [f"s{2 * LINEAGES_MAX - 1 - place}" for place in range(LINEAGES_MAX)]
    deep = archive(link(BASE, "a", -0.1), link(BASE, "x", -0.1), link("x", "y", -0.1))
    assert [elite.program for elite in deep.other_lineages("a")] == ["y"]


# The draw


def test_the_incumbent_is_drawn_mostly_and_elites_of_other_cells_evenly() -> None:
    found = archive(link(BASE, "best", -0.1), link(BASE, "near", -0.09), link(BASE, "close", -0.08))
    rng = random.Random(3)
    drawn = [found.draw("best", rng) for _ in range(6000)]
    counts = {name: sum(one.parent == name for one in drawn) for name in ("best", "near", "close", BASE)}
    assert counts["best"] / 6000 == pytest.approx(1 - SHARE, abs=0.02)
    for name in ("near", "close", BASE):
        assert counts[name] / 6000 == pytest.approx(SHARE / 3, abs=0.012)
    assert {one.compare_with for one in drawn} == {"best"}
    said = next(one.reason for one in drawn if one.parent == "near")
    assert said.startswith("of another lineage, +0.0")


def test_a_draw_takes_two_numbers_whatever_comes_of_it() -> None:
    for found in (archive(), archive(link(BASE, "a", -0.1), link(BASE, "b", -0.1))):
        rng, other = random.Random(5), random.Random(5)
        found.draw("a", rng)
        other.random(), other.random()
        assert rng.random() == other.random()


def test_none_is_drawn_that_no_gain_seen_could_bring_to_the_front() -> None:
    far = archive(link(BASE, "a", -0.1), link("a", "b", -0.1), link("b", "c", -0.1), link("c", "d", -0.1))
    assert far.typical_gain == pytest.approx(0.1, rel=0.05)
    rng = random.Random(2)
    reached = {far.draw("d", rng).parent for _ in range(2000)}
    assert reached == {"d", "c", "b"}  # REACH typical gains behind, and no further
    assert REACH == 2


def test_a_plateau_draws_elites_more_often_and_a_restart_other_lineages() -> None:
    found = archive(
        link(BASE, "trunk", -0.05),
        link("trunk", "best", -0.05),
        link(BASE, "other", -0.06),
        link("other", "tip", -0.02),
    )
    shares = [share_of(one and plateau(one)) for one in (None, Suggestion.CROSSOVER, Suggestion.RESTART)]
    assert shares == sorted(shares)
    assert share_of(plateau(Suggestion.RESTART, 50)) == SHARE_MAX
    rng = random.Random(4)
    restart = [found.draw("best", rng, plateau(Suggestion.RESTART)) for _ in range(1000)]
    assert {one.parent for one in restart} == {"best", "tip"}
    assert sum(one.parent == "tip" for one in restart) / 1000 == pytest.approx(shares[2], abs=0.05)
    assert {one.compare_with for one in restart} == {"best"}


def test_while_the_incumbents_cell_is_not_known_no_other_is_called_another() -> None:
    links = link(BASE, "a", -0.1), link(BASE, "b", -0.1)
    found = Archive(BASE, links, {"b": (1,)})
    assert [elite.program for elite in found.elites] == ["b"]
    assert {found.draw("a", random.Random(n)).parent for n in range(200)} == {"a"}
    assert {found.draw("a", random.Random(n), plateau(Suggestion.RESTART)).parent for n in range(200)} == {"a", "b"}


def test_an_empty_archive_draws_the_incumbent() -> None:
    assert archive().draw("anything", random.Random(1), plateau(Suggestion.RESTART, 9)).parent == "anything"
