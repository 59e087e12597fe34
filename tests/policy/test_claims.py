"""Which claims count, and who of two goes on: alike wherever the same entries are."""

import itertools

import pytest

from policy.claims import LIVE_PER_AUTHOR, Claimed, contested, holder, live, ticks_for


def claim(author: str, lamport: int, program: str = "p", change: str | None = "c", **other: object) -> Claimed:
    known = {"id": f"{author}{lamport}", "ticks": 100, **other}
    return Claimed(author=author, lamport=lamport, program=program, change=change, **known)  # type: ignore[arg-type]


def test_a_claim_ends_by_the_lamport_clock() -> None:
    made = claim("a", 10, ticks=5)
    assert live([made], 15) == [made]
    assert live([made], 16) == []


def test_one_from_the_future_counts_for_nothing_and_one_dated_back_ends_earlier() -> None:
    assert live([claim("a", 1000)], 10) == []
    assert live([claim("a", 1)], 500) == []


def test_conflicts_resolve_alike_whatever_the_order_of_arrival() -> None:
    claims = [claim("b", 7), claim("a", 7), claim("c", 9, program="other"), claim("d", 5, program="q", change="else")]
    for order in itertools.permutations(claims):
        held = holder(live(order, 20), "p", "c")
        assert held is not None
        assert held.id == "a7"


def test_near_duplicates_meet_and_others_do_not() -> None:
    known = [claim("a", 1, program="p", change="WIDTH raised")]
    assert holder(known, "another", "WIDTH raised") is not None
    assert holder(known, "p", None) is not None
    assert holder(known, "another", "WIDTH lowered") is None
    assert holder([claim("a", 1, change=None)], "another", None) is None


def test_a_liar_who_claims_everything_claims_next_to_nothing() -> None:
    flood = [claim("liar", 100 + n, program=f"p{n}", change=f"c{n}") for n in range(1000)]
    counted = live([*flood, claim("honest", 50, program="mine")], 1100)
    assert [one.id for one in counted if one.author == "liar"] == [f"liar{1100 - n}" for n in (2, 1)]
    assert len(counted) == LIVE_PER_AUTHOR
    counted = live([*flood, claim("honest", 1050, program="mine")], 1100)
    assert [one.author for one in counted] == ["honest", "liar", "liar"]


def test_the_weight_of_a_contest_is_the_highest_standing_and_own_claims_are_no_contest() -> None:
    claims = [claim("me", 1, weight=1.0), claim("stranger", 2), claim("known", 3, weight=0.4)]
    assert contested(claims, "me", "p", "c") == 0.4
    assert contested(claims[:2], "me", "p", "c") == 0.0
    assert contested(claims[:1], "me", "p", "c") is None


@pytest.mark.parametrize(("taken", "ticks"), [([], 50), ([5], 50), ([30, 90, 10], 270), ([9000], 10_000)])
def test_how_long_to_claim_follows_from_how_long_candidates_take(taken: list[int], ticks: int) -> None:
    assert ticks_for(taken, 10_000) == ticks
