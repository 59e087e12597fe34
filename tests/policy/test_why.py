"""`waggle why`: every state has a sentence, and the reasons of the way there are told."""

from policy.intake import Course, Move, State
from policy.quorum import Tally
from policy.retraction import Consequence, Ground, Judgement
from policy.standing import STRANGER, Ban, Kind, Misdeed, Outcome
from policy.why import SENTENCES, Account, explain, of_author, of_voices


def test_every_state_has_a_sentence_of_its_own() -> None:
    assert set(SENTENCES) == set(State)
    assert len(set(SENTENCES.values())) == len(State)


def test_the_way_of_a_discovery_is_told_in_order() -> None:
    course = (
        Course()
        .go(Move.CHECKED)
        .go(Move.ENQUEUE)
        .go(Move.START, "a stranger's turn")
        .go(Move.CONFIRM, "-0.0400 bpb over 4 pairs")
        .go(Move.ADOPT)
    )
    judgement = Judgement(Consequence.RECHECK, (Ground.RETRACTED,))
    lines = explain(Account(author="abcd", course=course, standing=STRANGER, voices=Tally(), judgement=judgement))
    assert lines[0] == SENTENCES[State.ADOPTED]
    assert lines[3] == "3. verifying: a stranger's turn"
    assert lines[4] == "4. confirmed: -0.0400 bpb over 4 pairs"
    assert "stranger" in lines[6]
    assert lines[-1] == f"Since then: to be run again here: {Ground.RETRACTED.value}."


def test_a_queued_one_says_why_it_is_not_its_turn() -> None:
    course = Course().go(Move.CHECKED).go(Move.ENQUEUE)
    account = Account(author="a", course=course, standing=STRANGER, voices=Tally(), next_turn="the share is spent")
    assert "Its turn: the share is spent." in explain(account)


def test_authors_and_voices() -> None:
    known = STRANGER.after(Kind.CLAIM, Outcome.HELD)
    assert "1.0 held up and 0.0 did not" in of_author("a", known)
    assert "banned" in of_author("a", known.banned(Ban(Misdeed.EQUIVOCATION, ("id",))))
    assert "2 confirm it (weight 0.80)" in of_voices(Tally(confirming=0.8, confirmers=2))
    assert "500 verdicts by strangers weigh nothing" in of_voices(Tally(), 500)
