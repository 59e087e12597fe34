"""Plateaus: raised as seldom as the rule says, always with a reason, and never the same twice in silence."""

import math
import random

import pytest

from policy.plateau import LEVEL, Plateau, Suggestion, Tried, Watch

NOISE = 0.01


def fed(*outcomes: Tried, start: Watch | None = None) -> Watch:
    watch = start or Watch()
    for tried in outcomes:
        watch = watch.after(tried)
    return watch


def learnt(keeps: int = 10, between: int = 9) -> Watch:
    """Of ten proposals one was kept, and the last one just now."""
    return fed(*([Tried(False, mean=0.0)] * between + [Tried(True, mean=-0.1)]) * keeps)


def suggestions(watch: Watch, proposals: int, tried: Tried, **possible: bool) -> list[Plateau]:
    found = []
    options = {"relatives": True, "lineages": True} | possible
    for _ in range(proposals):
        watch, plateau = watch.after(tried).judge(NOISE, **options)
        found += [] if plateau is None else [plateau]
    return found


def test_the_chance_of_a_wait_is_that_of_the_beta_binomial() -> None:
    watch = fed(*[Tried(False)] * 5)
    assert watch.chance == pytest.approx(math.prod((19 + i) / (20 + i) for i in range(5)))
    assert Watch().chance == pytest.approx(1)


def test_the_longer_the_usual_wait_the_more_patience() -> None:
    def patience(watch: Watch) -> int:
        for waited in range(1, 2000):
            watch, plateau = watch.after(Tried(False, mean=0.0)).judge(NOISE, relatives=True, lineages=True)
            if plateau is not None:
                return waited
        raise AssertionError("never")

    often, seldom, never = patience(learnt(20, 3)), patience(learnt(10, 19)), patience(Watch())
    assert 8 <= often <= 20
    assert 40 <= seldom <= 80
    assert often < seldom < never
    assert never == 362  # 19 / (19 + n) < 0.05


def test_a_search_that_goes_on_as_before_is_seldom_called_a_plateau() -> None:
    """Of the waits for a keep about LEVEL get so long by chance, when the rate is what was learnt."""
    rng = random.Random(7)
    watch, waits, alarms, alarmed = learnt(30), 0, 0, False
    for _ in range(30_000):
        tried = Tried(rng.random() < 0.1, mean=0.0)
        waits += tried.kept
        watch, plateau = watch.after(tried).judge(NOISE, relatives=True, lineages=True)
        alarms += plateau is not None and not alarmed
        alarmed = not tried.kept and (alarmed or plateau is not None)
    assert waits > 2500
    assert 0.3 * LEVEL < alarms / waits < 1.5 * LEVEL


def test_within_the_noise_moves_get_wider_first_and_clear_losses_lead_elsewhere() -> None:
    near = suggestions(learnt(), 200, Tried(False, mean=0.001))
    assert [one.suggestion for one in near[:3]] == [Suggestion.WIDER, Suggestion.CROSSOVER, Suggestion.RESTART]
    far = suggestions(learnt(), 200, Tried(False, mean=0.5))
    assert [one.suggestion for one in far[:3]] == [Suggestion.CROSSOVER, Suggestion.RESTART, Suggestion.WIDER]
    assert "100% of them were worse by more than the noise" in far[0].reason


def test_the_second_round_says_so_and_goes_all_the_way() -> None:
    found = suggestions(learnt(), 3000, Tried(False, mean=0.0))
    assert len(found) >= 6
    assert [one.round for one in found[:6]] == [1, 1, 1, 2, 2, 2]
    assert {one.widen for one in found[3:6]} == {1.0}
    assert all(one.widen < 1 for one in found[:3])
    assert "suggested for time 2 since the last keep" in found[3].reason
    assert len({one.reason for one in found}) == len(found)


def test_only_what_is_possible_is_suggested() -> None:
    found = suggestions(learnt(), 3000, Tried(False, mean=0.5), relatives=False, lineages=False)
    assert {one.suggestion for one in found} == {Suggestion.WIDER}
    assert [one.round for one in found] == list(range(1, len(found) + 1))


def test_proposals_that_do_not_run_are_no_plateau_but_a_reason_to_heed_the_lessons() -> None:
    found = suggestions(learnt(), 100, Tried(False, ran=False))
    assert [one.suggestion for one in found] == [Suggestion.NARROWER]
    assert "did not run to a score" in found[0].reason
    mixed = [Tried(False, ran=False), *[Tried(False, mean=0.0)] * 4] * 4
    watch = learnt()
    for tried in mixed:
        watch, plateau = watch.after(tried).judge(NOISE, relatives=True, lineages=True)
        assert plateau is None


def test_a_keep_ends_it() -> None:
    watch = learnt()
    for _ in range(60):
        watch, _ = watch.after(Tried(False, mean=0.0)).judge(NOISE, relatives=True, lineages=True)
    assert watch.given
    watch, plateau = watch.after(Tried(True, mean=-0.1)).judge(NOISE, relatives=True, lineages=True)
    assert plateau is None
    assert (watch.given, watch.waited, watch.recent, watch.chance) == ((), 0, (), pytest.approx(1))


def test_it_remembers_little_of_a_long_wait() -> None:
    assert len(fed(*[Tried(False, mean=0.0)] * 500).recent) == 64
