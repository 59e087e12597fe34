"""What falls with what, and where a node goes back to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ledger.predicates import Verdict
from policy.priority import LOOKS_MAX
from policy.quorum import Opinion
from policy.retraction import (
    CONSEQUENCES,
    EXHAUSTED,
    TURNS_LOOKS_MAX,
    Consequence,
    Evidence,
    Ground,
    Held,
    Link,
    NothingSound,
    Own,
    after_recheck,
    fallen,
    foundation,
    judge,
    last_sound,
    taken_up_again,
    unsound,
)


def test_every_ground_has_a_consequence_whatever_own_runs_say() -> None:
    assert set(CONSEQUENCES) == {(ground, own) for ground in Ground for own in Own}
    assert Consequence.NOTHING not in CONSEQUENCES.values()
    assert set(EXHAUSTED) == set(Own)


def test_without_a_ground_nothing_happens() -> None:
    assert judge(Evidence()).consequence is Consequence.NOTHING
    assert judge(Evidence(own="refuted", opinion=Opinion.CONFIRMS)).consequence is Consequence.NOTHING


WORDS = [Evidence(opinion=Opinion.REFUTES), Evidence(retracted=True), Evidence(equivocated=True)]


@pytest.mark.parametrize("against", WORDS)
def test_what_was_confirmed_here_is_run_again_and_after_enough_checks_stands(against: Evidence) -> None:
    confirmed = replace(against, own="confirmed", looks=1)
    assert judge(confirmed).consequence is Consequence.RECHECK
    assert judge(replace(confirmed, looks=LOOKS_MAX)).consequence is Consequence.NOTHING


@pytest.mark.parametrize("against", WORDS[1:])
def test_what_its_author_takes_back_falls_unless_own_runs_show_it(against: Evidence) -> None:
    assert judge(against).consequence is Consequence.OVERTURNED
    assert judge(replace(against, own="inconclusive", looks=1, built_on=True)).consequence is Consequence.OVERTURNED


@pytest.mark.parametrize("own", [None, "inconclusive"])
def test_a_quorum_against_what_own_runs_leave_open_means_a_run_before_anything_falls(own: Verdict | None) -> None:
    against = Evidence(own=own, opinion=Opinion.REFUTES, built_on=True)
    assert judge(against).consequence is Consequence.RECHECK
    assert judge(replace(against, built_on=False)).consequence is Consequence.NOTHING
    assert judge(replace(against, looks=LOOKS_MAX)).consequence is Consequence.OVERTURNED


def test_when_words_turn_what_they_overturned_is_taken_up_again_and_not_for_ever() -> None:
    fallen_by_words = Evidence(own="inconclusive", looks=LOOKS_MAX, built_on=True, opinion=Opinion.REFUTES)
    assert not taken_up_again(fallen_by_words)
    turned = replace(fallen_by_words, opinion=Opinion.NONE)
    assert taken_up_again(turned)
    assert not taken_up_again(replace(turned, looks=TURNS_LOOKS_MAX))
    assert not taken_up_again(replace(turned, own="refuted"))


def test_own_later_runs_overturn_and_every_ground_is_named() -> None:
    judged = judge(Evidence(own="refuted", own_earlier="confirmed", retracted=True))
    assert judged.consequence is Consequence.OVERTURNED
    assert judged.grounds == (Ground.OWN_RERUN, Ground.RETRACTED)
    assert Ground.RETRACTED.value in judged.reason


def test_fresh_runs_decide_a_recheck_where_they_can() -> None:
    assert after_recheck("refuted", True) == "refuted"
    assert after_recheck("confirmed", False) == "confirmed"
    assert after_recheck("inconclusive", True) == "confirmed"
    assert after_recheck("inconclusive", False) == "inconclusive"


#     a ─► b ─► d ─► f (a merge of d and e)
#     └──► c ─► e ──┘
LINKS = [
    Link("a", ()),
    Link("b", ("a",)),
    Link("c", ("a",)),
    Link("d", ("b",)),
    Link("e", ("c",)),
    Link("f", ("d", "e")),
]


def test_everything_built_on_it_falls_and_nothing_else() -> None:
    assert fallen(LINKS, {"b"}) == {"b": "b", "d": "b", "f": "b"}
    assert set(fallen(LINKS, {"c"})) == {"c", "e", "f"}
    assert fallen(LINKS, set()) == {}


def test_a_claimed_cycle_ends() -> None:
    circle = [Link("x", ("y",)), Link("y", ("x",))]
    assert fallen(circle, {"a"}) == {"a": "a"}
    assert set(fallen(circle, {"x"})) == {"x", "y"}
    assert foundation(circle, ["x"]) == {"x", "y"}


def test_a_discovery_stands_on_all_that_leads_to_it() -> None:
    assert foundation(LINKS, ["d"]) == {"a", "b", "d"}
    assert foundation(LINKS, ["f"]) == {"a", "b", "c", "d", "e", "f"}
    assert foundation(LINKS, ()) == set()


def test_a_node_goes_back_to_the_last_program_that_is_sound() -> None:
    history = [
        Held("baseline", None),
        Held("pa", "a"),
        Held("pc", "c"),
        Held("pd", "d"),
        Held("own merge", None, ("d", "e")),
    ]
    marked = fallen(LINKS, {"b"})
    assert unsound(history[-1], marked) == "b"
    assert last_sound(history, marked).program == "pc"
    assert last_sound(history, fallen(LINKS, {"a"})).program == "baseline"
    assert last_sound(history, {}).program == "own merge"


def test_where_nothing_is_sound_the_error_says_what_to_do() -> None:
    with pytest.raises(NothingSound, match="baseline"):
        last_sound([Held("pa", "a")], {"a": "a"})


@given(st.data())
def test_what_a_node_goes_back_to_rests_on_nothing_overturned(data: st.DataObject) -> None:
    names = [f"d{n}" for n in range(12)]
    links = [
        Link(name, tuple(data.draw(st.lists(st.sampled_from(names[:n]), max_size=2, unique=True))) if n else ())
        for n, name in enumerate(names)
    ]
    overturned = set(data.draw(st.lists(st.sampled_from(names))))
    marked = fallen(links, overturned)
    sources = {link.id: link.sources for link in links}

    def ancestors(name: str) -> set[str]:
        return {name}.union(*(ancestors(source) for source in sources[name]))

    assert set(marked) == {name for name in names if ancestors(name) & overturned}
    history = [Held("baseline", None), *(Held(name, name) for name in names)]
    sound = last_sound(history, marked)
    assert sound.discovery is None or not ancestors(sound.discovery) & overturned
