"""Amendments: who can make them, what they can change, from when on they hold; the same in any order of arrival."""

import itertools
import random
from collections.abc import Mapping, Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.charter import default_constitution
from policy.amendments import (
    Fate,
    History,
    Motion,
    Succession,
    change_fault,
    history,
    in_force,
    seats_of,
    votes_needed,
)
from policy.constitution import Constitution, Limit

ROOT = default_constitution()
DELAY = ROOT.numbers().amendment_delay_ticks
SEATS = ("alice", "bob", "carol")


def with_limits(base: Constitution = ROOT, **values: float) -> Constitution:
    limits = {name: msgspec.structs.replace(base.limits[name], value=value) for name, value in values.items()}
    return msgspec.structs.replace(base, limits={**base.limits, **limits})


MORE, MOST = with_limits(verification_share=0.4), with_limits(verification_share=0.5)
TEXTS = {one.digest(): one for one in (ROOT, MORE, MOST)}


def propose(lamport: int, author: str, after: Constitution, before: Constitution = ROOT, name: str = "") -> Motion:
    return Motion(
        lamport=lamport,
        id=name or f"{author}@{lamport}",
        author=author,
        constitution=after.digest(),
        previous=before.digest(),
        proposal=None,
    )


def ratify(lamport: int, author: str, proposal: Motion) -> Motion:
    return msgspec.structs.replace(
        proposal, lamport=lamport, author=author, id=f"{author}@{lamport}", proposal=proposal.id
    )


def past(
    motions: Sequence[Motion],
    texts: Mapping[str, Constitution] = TEXTS,
    seats: Sequence[str] = SEATS,
    successions: Sequence[Succession] = (),
    discredited: Sequence[str] = (),
) -> History:
    return history(ROOT, seats, motions, texts, successions=successions, discredited=discredited)


def constitutions(found: History) -> list[str]:
    return [term.constitution for term in found.terms]


def test_it_is_in_force_a_delay_after_the_vote_that_made_the_quorum() -> None:
    first = propose(10, "alice", MORE)
    found = past([first, ratify(50, "bob", first), ratify(90, "carol", first)])
    since = 50 + DELAY
    assert (in_force(found, since - 1).constitution, in_force(found, since).constitution) == (
        ROOT.digest(),
        MORE.digest(),
    )
    assert in_force(found, 0).constitution == ROOT.digest()
    assert in_force(found, 10**9).proposal == first.id


def test_a_sole_maintainer_proposes_and_has_ratified() -> None:
    assert past([propose(10, "alice", MORE)], seats=["alice"]).terms[-1].since == 10 + DELAY


def test_without_a_quorum_nothing_changes() -> None:
    first = propose(10, "alice", MORE)
    twice = ratify(20, "alice", first)  # the same seat
    strange = ratify(21, "mallory", first)
    other = msgspec.structs.replace(ratify(22, "bob", first), constitution=MOST.digest())  # names another text
    early = ratify(9, "carol", first)  # before what it is about
    found = past([first, twice, strange, other, early])
    assert constitutions(found) == [ROOT.digest()]
    assert [(one.fate, one.votes, one.needed) for one in found.proposals] == [(Fate.OPEN, 1, 2)]


def test_a_stranger_proposes_nothing() -> None:
    first = propose(10, "mallory", MORE)
    assert past([first, ratify(11, "alice", first), ratify(12, "bob", first)]).proposals == ()


@pytest.mark.parametrize(
    ("after", "says"),
    [
        (ROOT, "changes nothing"),
        (msgspec.structs.replace(ROOT, articles=ROOT.articles[::-1]), "articles"),
        (
            msgspec.structs.replace(
                ROOT, articles=(msgspec.structs.replace(ROOT.articles[0], text="Anything goes."), *ROOT.articles[1:])
            ),
            "evaluator",
        ),
        (
            msgspec.structs.replace(
                ROOT,
                limits={
                    **ROOT.limits,
                    "fdr_level": Limit(value=0.4, unit=ROOT.limits["fdr_level"].unit, range=(0.0, 0.5), reason="more"),
                },
            ),
            "fdr_level",
        ),
    ],
)
def test_what_no_amendment_can_change(after: Constitution, says: str) -> None:
    assert says in (change_fault(ROOT, after) or "")
    first = propose(10, "alice", after)
    found = past([first, ratify(11, "bob", first)], texts={**TEXTS, after.digest(): after})
    assert constitutions(found) == [ROOT.digest()]
    assert found.proposals[0].fate is Fate.VOID


def test_of_two_for_one_predecessor_the_earlier_quorum_wins() -> None:
    one, other = propose(10, "alice", MORE), propose(11, "bob", MOST)
    votes = [ratify(40, "carol", one), ratify(30, "carol", other)]
    found = past([one, other, *votes])
    assert constitutions(found) == [ROOT.digest(), MOST.digest()]
    assert {p.motion.id: p.fate for p in found.proposals} == {one.id: Fate.VOID, other.id: Fate.RATIFIED}


def test_at_one_time_the_lower_id_wins() -> None:
    one, other = propose(10, "alice", MORE, name="b"), propose(10, "bob", MOST, name="a")
    found = past([one, other, ratify(30, "carol", one), msgspec.structs.replace(ratify(30, "carol", other), id="x")])
    assert constitutions(found)[-1] == MOST.digest()


def test_going_back_is_an_amendment_like_another_and_wakes_no_old_proposal() -> None:
    there = propose(10, "alice", MORE)
    lost = propose(11, "alice", MOST)
    back = propose(10 + DELAY, "alice", ROOT, MORE)
    found = past([there, lost, back], seats=["alice"])
    assert [term.since for term in found.terms] == [0, 10 + DELAY, 10 + 2 * DELAY]
    assert constitutions(found) == [ROOT.digest(), MORE.digest(), ROOT.digest()]
    again = propose(20 + 2 * DELAY, "alice", MOST)
    assert constitutions(past([there, lost, back, again], seats=["alice"]))[-1] == MOST.digest()


def test_a_proposal_to_change_what_is_not_in_force_yet_is_void() -> None:
    found = past([propose(10, "alice", MORE), propose(12, "alice", MOST, MORE)], seats=["alice"])
    assert constitutions(found) == [ROOT.digest(), MORE.digest()]
    assert "not in force" in found.proposals[1].reason


def test_while_the_text_is_missing_the_one_before_stays() -> None:
    first = propose(10, "alice", MORE)
    found = past([first], texts={}, seats=["alice"])
    assert (constitutions(found), found.waiting_for) == ([ROOT.digest()], MORE.digest())
    assert found.proposals[0].fate is Fate.WAITING


def test_a_rotated_key_keeps_the_seat_and_has_no_second_vote() -> None:
    moved = Succession(lamport=5, id="s", author="alice", successor="alice-2")
    assert seats_of(SEATS, [moved])["alice-2"] == "alice"
    first = propose(10, "alice-2", MORE)
    assert len(past([first, ratify(20, "bob", first)], successions=[moved]).terms) == 2
    assert len(past([first, ratify(20, "alice", first)], successions=[moved]).terms) == 1
    circle = [moved, Succession(lamport=6, id="t", author="alice-2", successor="alice")]
    assert seats_of(SEATS, circle).keys() == {*SEATS, "alice-2"}


def test_who_signed_two_histories_has_no_vote_and_lowers_no_quorum() -> None:
    first = propose(10, "alice", MORE)
    motions = [first, ratify(20, "bob", first)]
    assert len(past(motions).terms) == 2
    assert len(past(motions, discredited=["bob"]).terms) == 1
    assert len(past([first], discredited=["bob"]).terms) == 1


@pytest.mark.parametrize(
    ("seats", "share", "needed"), [(1, 0.5, 1), (2, 0.5, 2), (3, 0.5, 2), (4, 0.5, 3), (3, 0.99, 3)]
)
def test_more_than_the_share_is_needed(seats: int, share: float, needed: int) -> None:
    assert votes_needed(seats, share) == needed


@st.composite
def motions_of_a_swarm(draw: st.DrawFn) -> list[Motion]:
    """Proposals on each constitution by maintainers and strangers, and votes for them, at arbitrary times."""
    who = st.sampled_from([*SEATS, "mallory"])
    when = st.integers(0, 5 * DELAY)
    texts = st.sampled_from([ROOT, MORE, MOST])
    proposals = [
        propose(draw(when), draw(who), draw(texts), draw(texts), name=f"p{index}")
        for index in range(draw(st.integers(1, 6)))
    ]
    votes = [
        msgspec.structs.replace(ratify(draw(when), draw(who), draw(st.sampled_from(proposals))), id=f"v{index}")
        for index in range(draw(st.integers(0, 12)))
    ]
    return proposals + votes


@given(motions_of_a_swarm(), st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_nothing(motions: list[Motion], rng: random.Random) -> None:
    whole = past(motions)
    turned = list(motions)
    rng.shuffle(turned)
    assert past(turned + turned[:2]) == whole


@given(motions_of_a_swarm())
def test_every_term_is_a_legal_step_from_the_one_before(motions: list[Motion]) -> None:
    found = past(motions)
    for before, after in itertools.pairwise(found.terms):
        assert after.since >= before.since + DELAY
        assert change_fault(TEXTS[before.constitution], TEXTS[after.constitution]) is None
        made = next(one for one in motions if one.id == after.proposal)
        assert made.lamport >= before.since
        assert {one.author for one in motions if one.id == made.id or one.proposal == made.id} & set(SEATS)


@given(motions_of_a_swarm(), st.integers(0, 5 * DELAY))
def test_what_is_stated_later_changes_nothing_before_its_time(motions: list[Motion], now: int) -> None:
    """A vote counts from its own Lamport time plus the delay on, so the rules of up to then are settled."""
    known = past([one for one in motions if one.lamport <= now])
    whole = past(motions)
    for lamport in range(0, now + DELAY, DELAY // 4):
        assert in_force(known, lamport) == in_force(whole, lamport)
