"""Which claim comes next, what verification may cost, and what to do where the parent is not the incumbent."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from policy.following import MERGE_TRIES_MAX, Merge, Next, Situation, plan, try_again
from policy.priority import (
    EXPLORE_EVERY,
    FURTHER_PAIRS_MAX,
    LOOKS_MAX,
    PAIRS_LEAST,
    Queued,
    choose,
    gain_ceiling,
    look_again,
    may_verify,
    pairs_allowed,
    promise,
)
from policy.quorum import Tally

ITEM = Queued(id="item", author="a", gain=0.05, cost=100.0, trust=0.0, promise=0.5)


def test_nothing_queued_is_nothing_picked() -> None:
    assert choose([], 0, random.Random(1)) is None


def test_the_most_to_be_expected_per_second_comes_first() -> None:
    queue = [
        replace(ITEM, id="large", gain=0.1, trust=0.3),
        replace(ITEM, id="trusted", gain=0.06, trust=0.9),
        replace(ITEM, id="cheap", gain=0.06, trust=0.9, cost=50.0),
    ]
    for expected in ("cheap", "trusted", "large"):
        picked = choose(queue, 0, random.Random(1))
        assert picked is not None
        assert picked.id == expected
        queue = [item for item in queue if item.id != expected]


def test_a_fabricated_gain_counts_up_to_the_ceiling_only() -> None:
    queue = [replace(ITEM, id="absurd", gain=9.0, trust=0.2), replace(ITEM, id="sober", gain=0.05, trust=0.5)]
    ceiling = gain_ceiling([0.02, 0.03, 0.03, 0.04, 0.05])
    assert ceiling == pytest.approx(0.06)
    picked = choose(queue, 0, random.Random(1), ceiling)
    assert picked is not None
    assert picked.id == "sober"
    assert gain_ceiling([0.02] * 4) is None


def test_strangers_get_their_turns_and_no_more_while_somebody_is_trusted() -> None:
    queue = [replace(ITEM, id="friend", trust=0.5), *(replace(ITEM, id=f"s{n}", author=f"s{n}") for n in range(50))]
    picks = [choose(queue, turn, random.Random(turn)) for turn in range(400)]
    strangers = sum(pick is not None and pick.id != "friend" for pick in picks)
    assert strangers == 400 // EXPLORE_EVERY
    alone = choose(queue[1:], 0, random.Random(1))
    assert alone is not None
    assert "stranger" in alone.reason


def test_a_flood_by_one_key_has_one_ticket_and_a_known_liar_a_small_one() -> None:
    flood = [replace(ITEM, id=f"flood{n}", author="flood") for n in range(500)]
    queue = [*flood, replace(ITEM, id="newcomer", author="n"), replace(ITEM, id="lie", author="l", promise=0.1)]
    rng = random.Random(3)
    drawn = Counter(pick.id[:5] for _ in range(1000) if (pick := choose(queue, 0, rng)) is not None)
    assert 400 < drawn["newco"] < 560
    assert drawn["lie"] < 60


def test_what_was_believed_and_is_in_doubt_comes_before_anything_new() -> None:
    queue = [replace(ITEM, id="new", trust=0.9), replace(ITEM, id="doubted", again=True)]
    picked = choose(queue, 0, random.Random(1))
    assert picked is not None
    assert picked.id == "doubted"


def test_promise_falls_with_what_trusted_peers_say_against_it() -> None:
    assert promise(0.5, 0.0) == 0.5
    assert promise(0.5, 2.0) < 0.1


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0.1, 50.0)), max_size=200),
    st.floats(0.05, 0.95),
)
def test_a_flood_never_takes_more_than_its_share(wishes: list[tuple[bool, float]], share: float) -> None:
    verifying = total = 0.0
    for wants_to_verify, cost in wishes:
        if wants_to_verify and may_verify(verifying, total, share, cost):
            verifying += cost
        total += cost
        assert verifying <= share * total + 1e-6


def test_neither_starves() -> None:
    verifying = searching = 0.0
    turns = Counter[bool]()
    for _ in range(10_000):
        verify = may_verify(verifying, verifying + searching, 0.3, 20.0)
        turns[verify] += 1
        verifying, searching = (verifying + 20.0, searching) if verify else (verifying, searching + 6.0)
    assert verifying / (verifying + searching) == pytest.approx(0.3, abs=0.001)
    assert turns[True] > 0
    assert turns[False] > 0


def test_the_ends_of_the_share_and_what_is_no_share() -> None:
    assert may_verify(0.0, 0.0, 1.0, 20.0)
    assert not may_verify(0.0, 100.0, 0.0)
    for spent, total, share in ((0.0, 0.0, 1.5), (-1.0, 0.0, 0.3)):
        with pytest.raises(ValueError, match="compute"):
            may_verify(spent, total, share)


def test_trust_shortens_a_check_and_never_replaces_it() -> None:
    assert pairs_allowed(12, 0.0, audited=False) == 12
    assert pairs_allowed(12, 0.5, audited=False) == 9
    assert pairs_allowed(12, 1.0, audited=False) == 6
    assert pairs_allowed(12, 1.0, audited=True) == 12
    assert pairs_allowed(4, 1.0, audited=False) == PAIRS_LEAST
    assert pairs_allowed(2, 1.0, audited=False) == 2
    assert pairs_allowed(24, 0.0, audited=False) == 12


def test_a_further_check_is_longer_as_far_as_the_constitution_allows_whatever_the_trust() -> None:
    assert pairs_allowed(64, 1.0, audited=False, looks=1) == FURTHER_PAIRS_MAX == 24
    assert pairs_allowed(16, 0.0, audited=True, looks=2) == 16


def test_what_was_left_open_is_looked_at_again_where_trusted_peers_confirm_it() -> None:
    confirmed = Tally(confirming=1.5, confirmers=3)
    assert look_again(confirmed, 1)
    assert not look_again(confirmed, LOOKS_MAX)
    assert not look_again(Tally(), 1)


BEFORE = Situation(
    parent="p", child="c", incumbent="i", child_line=("base", "p", "c"), incumbent_line=("base", "x", "i")
)


def test_first_its_own_parent_then_the_incumbent_then_the_merge() -> None:
    assert plan(BEFORE).next is Next.COMPARE_WITH_PARENT
    confirmed = replace(BEFORE, with_parent="confirmed")
    assert plan(confirmed).next is Next.COMPARE_WITH_INCUMBENT
    for beats, following in ((True, Next.ADOPT), (False, Next.DECLINE)):
        found = plan(replace(confirmed, beats_incumbent=beats))
        assert found.next is following
        assert found.merge == Merge(base="base", ours="i", theirs="c")


def test_what_was_not_confirmed_is_left() -> None:
    for verdict in ("refuted", "inconclusive"):
        assert plan(replace(BEFORE, with_parent=verdict)).next is Next.LEAVE


def test_over_the_incumbent_itself_one_comparison_is_enough() -> None:
    on_it = replace(BEFORE, parent="i", child_line=("base", "x", "i", "c"), with_parent="confirmed")
    assert plan(on_it).next is Next.ADOPT
    assert plan(on_it).merge is None


def test_what_the_incumbent_is_built_on_is_declined_without_a_run() -> None:
    built_on = replace(BEFORE, child="x", with_parent="confirmed")
    assert plan(built_on).next is Next.DECLINE


def test_where_one_descends_from_the_other_there_is_nothing_to_merge() -> None:
    later = replace(BEFORE, child_line=("base", "x", "i", "q", "c"), with_parent="confirmed", beats_incumbent=True)
    assert plan(later).merge is None


def test_of_what_rests_on_something_fallen_only_its_own_change_is_tried() -> None:
    fallen = plan(replace(BEFORE, with_parent="confirmed", fallen="f" * 64))
    assert fallen.next is Next.DECLINE
    assert fallen.merge == Merge(base="p", ours="i", theirs="c")
    on_it = replace(BEFORE, parent="i", with_parent="confirmed", fallen="f" * 64)
    assert plan(on_it).next is Next.DECLINE
    assert plan(on_it).merge is None


def test_a_confirmed_change_is_tried_again_with_another_incumbent_and_not_for_ever() -> None:
    assert try_again(0, None, "i")
    assert try_again(1, "before", "i")
    assert not try_again(1, "i", "i")
    assert not try_again(MERGE_TRIES_MAX, "before", "i")
