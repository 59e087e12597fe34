"""What a word is worth: nothing at first, much after many that held up, little after a betrayal; and quorums of it."""

import random
from collections.abc import Sequence

import pytest

from policy.quorum import Opinion, Tally, Voice, belief_of, tally
from policy.standing import (
    STRANGER,
    Ban,
    Interval,
    Kind,
    Misdeed,
    Outcome,
    Standing,
    Word,
    audit_due,
    judge_claim,
    judge_verdict,
    standings,
)


def after(kind: Kind, outcomes: Sequence[Outcome], start: Standing = STRANGER) -> Standing:
    for outcome in outcomes:
        start = start.after(kind, outcome)
    return start


def test_a_stranger_weighs_nothing_and_two_good_words_are_not_enough() -> None:
    for kind in Kind:
        assert STRANGER.weight(kind) == 0.0
    assert after(Kind.CLAIM, [Outcome.HELD] * 2).weight(Kind.CLAIM) == 0.0
    assert after(Kind.CLAIM, [Outcome.HELD] * 3).weight(Kind.CLAIM) > 0.0


def test_weight_grows_with_good_words_and_stays_below_one() -> None:
    found = [after(Kind.CLAIM, [Outcome.HELD] * n).weight(Kind.CLAIM) for n in range(3, 60)]
    assert found == sorted(found)
    assert 0.8 < found[-1] < 1.0


def test_words_of_one_kind_earn_nothing_for_another() -> None:
    refuter = after(Kind.REFUTE, [Outcome.RIGHT] * 30)
    assert refuter.weight(Kind.REFUTE) > 0.5
    assert refuter.weight(Kind.CONFIRM) == refuter.weight(Kind.CLAIM) == 0.0


def test_a_betrayal_after_trust_costs_it_in_every_kind_at_once() -> None:
    trusted = after(Kind.CONFIRM, [Outcome.RIGHT] * 20, after(Kind.CLAIM, [Outcome.HELD] * 20))
    assert trusted.weight(Kind.CLAIM) > 0.6
    betrayed = trusted.after(Kind.CLAIM, Outcome.CONTRADICTED)
    assert betrayed.weight(Kind.CLAIM) == betrayed.weight(Kind.CONFIRM) == 0.0


def test_an_honest_author_of_whom_one_claim_in_ten_is_chance_keeps_some_weight() -> None:
    rng = random.Random(1)
    words = [Outcome.FAILED if rng.random() < 0.1 else Outcome.HELD for _ in range(400)]
    found = [after(Kind.CLAIM, words[:n]).weight(Kind.CLAIM) for n in range(40, 400, 5)]
    assert sum(found) / len(found) > 0.25


def test_who_refutes_everything_where_most_is_false_gains_little() -> None:
    rng = random.Random(2)
    words = [Outcome.RIGHT if rng.random() < 0.8 else Outcome.WRONG for _ in range(400)]
    found = [after(Kind.REFUTE, words[:n]).weight(Kind.REFUTE) for n in range(40, 400, 5)]
    assert sum(found) / len(found) < 0.05


def test_a_ban_needs_a_proof_and_is_for_good() -> None:
    with pytest.raises(ValueError, match="prove"):
        Ban(Misdeed.EQUIVOCATION, ())
    ban = Ban(Misdeed.EQUIVOCATION, ("one", "other"))
    banned = after(Kind.CLAIM, [Outcome.HELD] * 20).banned(ban)
    assert banned.weight(Kind.CLAIM) == 0.0
    later = banned.after(Kind.CLAIM, Outcome.HELD).banned(Ban(Misdeed.OWN_RECORDS, ("third",)))
    assert later.ban == ban
    assert later.weight(Kind.CLAIM) == 0.0


def test_standings_follow_from_the_words_in_their_order() -> None:
    words = [Word("a", Kind.CLAIM, Outcome.HELD)] * 5 + [Word("b", Kind.CLAIM, Outcome.FAILED)]
    found = standings(words, {"c": Ban(Misdeed.OWN_RECORDS, ("id",))})
    assert found["a"] == after(Kind.CLAIM, [Outcome.HELD] * 5)
    assert found["b"].checked == 1
    assert found["c"].ban is not None
    assert "d" not in found


def test_what_our_verdict_says_of_a_claim() -> None:
    claimed, below, across = Interval(-0.05, -0.03), Interval(-0.06, -0.02), Interval(-0.02, 0.01)
    assert judge_claim("confirmed", below, claimed) is Outcome.HELD
    assert judge_claim("confirmed", Interval(-0.02, -0.01), claimed) is Outcome.EXAGGERATED
    assert judge_claim("refuted", across, claimed) is Outcome.CONTRADICTED
    assert judge_claim("refuted", across, Interval(-0.05, -0.01)) is Outcome.FAILED
    assert judge_claim("refuted", None, claimed) is Outcome.FAILED
    assert judge_claim("inconclusive", across, claimed) is None


def test_what_our_verdict_says_of_another() -> None:
    assert judge_verdict("confirmed", "confirmed") == (Kind.CONFIRM, Outcome.RIGHT)
    assert judge_verdict("refuted", "confirmed") == (Kind.REFUTE, Outcome.WRONG)
    assert judge_verdict("confirmed", "inconclusive") is judge_verdict("inconclusive", "refuted") is None


def test_audits_come_at_their_rate_and_by_the_rng_alone() -> None:
    drawn = [audit_due(random.Random(seed), 0.1) for seed in range(2000)]
    assert 0.07 < sum(drawn) / len(drawn) < 0.13
    assert drawn == [audit_due(random.Random(seed), 0.1) for seed in range(2000)]


def voices(verdict: str, number: int, weight: float, prefix: str = "") -> list[Voice]:
    return [Voice(f"{prefix}{verdict}{n}", verdict, weight) for n in range(number)]  # type: ignore[arg-type]


def test_a_thousand_sybils_are_no_quorum_and_raise_no_trust() -> None:
    sybils = voices("confirmed", 1000, 0.0)
    assert tally(sybils, claimant="x") == Tally()
    assert belief_of(0.0, sybils, claimant="x") == 0.0


def test_a_quorum_needs_weight_voices_and_a_majority() -> None:
    def opinion(*groups: list[Voice]) -> Opinion:
        return tally([voice for group in groups for voice in group], claimant="x").opinion

    assert opinion(voices("confirmed", 3, 0.5)) is Opinion.CONFIRMS
    assert opinion(voices("refuted", 3, 0.5)) is Opinion.REFUTES
    assert opinion(voices("refuted", 2, 0.9)) is Opinion.NONE  # two friends are none
    assert opinion(voices("refuted", 9, 0.1)) is Opinion.NONE  # nor are nine acquaintances
    assert opinion(voices("refuted", 4, 0.5), voices("confirmed", 3, 0.5)) is Opinion.NONE


def test_what_only_chance_confirms_is_refuted_by_its_share() -> None:
    many = voices("confirmed", 3, 0.5) + voices("inconclusive", 60, 0.5)
    assert tally(many, claimant="x").opinion is Opinion.REFUTES
    assert tally(many[:20], claimant="x").opinion is Opinion.CONFIRMS
    assert tally(voices("inconclusive", 9, 0.5), claimant="x").opinion is Opinion.NONE


def test_one_author_has_one_voice_and_the_claimant_none() -> None:
    repeated = [Voice("a", "confirmed", 0.9)] * 9 + [Voice("a", "refuted", 0.9), Voice("x", "confirmed", 0.9)]
    assert tally(repeated, claimant="x") == Tally(refuting=0.9, refuters=1)


def test_trust_rises_with_those_who_confirm_and_falls_with_those_who_refute() -> None:
    confirmed = belief_of(0.2, voices("confirmed", 2, 0.5), claimant="x")
    assert 0.2 < confirmed < 1.0
    assert belief_of(0.2, voices("confirmed", 2, 0.5) + voices("refuted", 2, 0.5), claimant="x") < confirmed
