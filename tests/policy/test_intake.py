"""A foreign claim: what is queued, what waits, what is rejected; and every illegal move is refused."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import examples
import msgspec
import pytest

from ledger import queries
from ledger.author import Author
from ledger.predicates import Comparison, Discovery
from ledger.store import Store
from policy.intake import (
    TRANSITIONS,
    Claim,
    Course,
    Move,
    Question,
    Rejected,
    State,
    Waiting,
    advance,
    check_claim,
    repeats,
)
from policy.moves import IllegalMove

PARENT, CHILD = (
    f"STEPS = {steps}\n\ndef build(vocab_size, seq_len): ...\n\ndef train(model, task): ...\n".encode()
    for steps in (1, 2)
)


class Ledger:
    """A store with one author, whose claims can be spoilt."""

    def __init__(self, store: Store, by: Author) -> None:
        self.store, self.by = store, by
        self.parent, self.child = store.blobs.put(PARENT), store.blobs.put(CHILD)
        self.tracks: Mapping[str, str] = {examples.TRACK: self.parent}

    def claim(self, change: Callable[[Discovery], Discovery] = lambda body: body, **overrides: Any) -> Claim:
        body = examples.discovery_body(self.by, self.parent, self.child)
        signed = self.by.append("main", self.child, lambda entry: change(body(entry)))
        found = signed.statement.body
        assert isinstance(found, Discovery)
        named = (*found.comparison.parent_trials, *found.comparison.child_trials)
        claim = Claim(
            child=self.child,
            discovery=found,
            child_program=CHILD,
            parent_program=PARENT,
            parent_known=True,
            trials={trial_id: queries.trial(self.store, trial_id) for trial_id in named},
        )
        return msgspec.structs.replace(claim, **overrides)

    def judge(self, claim: Claim) -> Waiting | Rejected | None:
        return check_claim(claim, tracks=self.tracks)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    store = examples.new_store(tmp_path)
    return Ledger(store, examples.author(store))


def evidence(**changes: Any) -> Callable[[Discovery], Discovery]:
    def change(body: Discovery) -> Discovery:
        return msgspec.structs.replace(body, comparison=msgspec.structs.replace(body.comparison, **changes))

    return change


def test_a_claim_that_agrees_with_its_records_is_queued(ledger: Ledger) -> None:
    assert ledger.judge(ledger.claim()) is None


@pytest.mark.parametrize("absent", ["child_program", "parent_program"])
def test_a_claim_waits_for_its_programs(ledger: Ledger, absent: str) -> None:
    assert isinstance(ledger.judge(ledger.claim(**{absent: None})), Waiting)


def test_a_claim_waits_for_its_lineage_and_its_trials(ledger: Ledger) -> None:
    assert isinstance(ledger.judge(ledger.claim(parent_known=False)), Waiting)
    claim = ledger.claim()
    for trial_id in claim.trials:
        assert isinstance(ledger.judge(msgspec.structs.replace(claim, trials=claim.trials | {trial_id: None})), Waiting)


def reason(judged: Waiting | Rejected | None) -> str:
    assert isinstance(judged, Rejected)
    return judged.reason


def test_claims_that_contradict_themselves(ledger: Ledger) -> None:
    assert "not one of the challenge" in reason(
        ledger.judge(ledger.claim(lambda body: msgspec.structs.replace(body, track="gpu")))
    )
    assert "changes nothing" in reason(
        ledger.judge(ledger.claim(lambda body: msgspec.structs.replace(body, parent=ledger.child)))
    )
    assert "mean of its differences" in reason(ledger.judge(ledger.claim(evidence(mean=-0.5))))
    assert "does not claim a gain" in reason(ledger.judge(ledger.claim(evidence(mean=0.1))))
    assert "child program is refused" in reason(ledger.judge(ledger.claim(child_program=b"print('no contract')")))
    assert "parent program is refused" in reason(ledger.judge(ledger.claim(parent_program=bytes(70_000))))


def test_a_fabricated_difference(ledger: Ledger) -> None:
    invented = evidence(differences=(-1.0, -1.0, -1.0), mean=-1.0)
    assert "not that of its two trials" in reason(ledger.judge(ledger.claim(invented)))


def test_borrowed_and_swapped_trials(ledger: Ledger) -> None:
    other = examples.author(ledger.store, 2)
    theirs = examples.comparison(other, ledger.parent, ledger.child, examples.GAIN)
    assert "not the run" in reason(
        ledger.judge(ledger.claim(evidence(parent_trials=theirs.parent_trials, child_trials=theirs.child_trials)))
    )

    def swapped(body: Discovery) -> Discovery:
        comparison = body.comparison
        return evidence(parent_trials=comparison.child_trials, child_trials=comparison.parent_trials)(body)

    assert "not the run" in reason(ledger.judge(ledger.claim(swapped)))
    assert "not the run" in reason(ledger.judge(ledger.claim(evidence(seeds=(7, 8, 9)))))
    assert "not the run" in reason(ledger.judge(ledger.claim(evidence(split="private:" + "0" * 64))))


def test_a_crashed_trial_is_no_evidence(ledger: Ledger) -> None:
    crashed = examples.state_trial(ledger.by, ledger.child, 0, None)

    def change(body: Discovery) -> Discovery:
        comparison: Comparison = body.comparison
        return evidence(child_trials=(crashed.id, *comparison.child_trials[1:]))(body)

    assert "not the run" in reason(ledger.judge(ledger.claim(change)))


def test_a_single_pair_is_no_evidence(ledger: Ledger) -> None:
    def first_pair(body: Discovery) -> Discovery:
        names = ("seeds", "parent_trials", "child_trials", "differences")
        cut = {name: getattr(body.comparison, name)[:1] for name in names}
        return evidence(**cut, mean=body.comparison.differences[0])(body)

    assert "two or more pairs" in reason(ledger.judge(ledger.claim(first_pair)))


def test_a_misdeed_is_what_the_signed_entries_contradict_and_nothing_else(ledger: Ledger) -> None:
    def judged(claim: Claim) -> Rejected:
        found = ledger.judge(claim)
        assert isinstance(found, Rejected)
        return found

    assert judged(ledger.claim(evidence(differences=(-1.0, -1.0, -1.0), mean=-1.0))).misdeed
    assert judged(ledger.claim(evidence(mean=-0.5))).misdeed
    assert judged(ledger.claim(evidence(seeds=(7, 8, 9)))).misdeed
    assert not judged(ledger.claim(evidence(mean=0.1))).misdeed
    assert not judged(ledger.claim(child_program=b"print('no contract')")).misdeed
    assert not judged(ledger.claim(lambda body: msgspec.structs.replace(body, track="gpu"))).misdeed


def question(name: str, by: str = "a", **changes: Any) -> Question:
    asked = Question(name, by, "cpu", parent="p", child="c", change=("tree-p", "tree-c"))
    return msgspec.structs.replace(asked, **changes)


def test_the_same_question_is_run_once() -> None:
    first = question("first", state=State.QUEUED)
    assert "same child and parent" in (repeats(question("copy", "b"), [first]) or "")
    disguised = question("disguised", "b", child="c2", parent="p2")
    assert "only comments or layout" in (repeats(disguised, [first]) or "")
    assert repeats(question("other", child="c2", change=("tree-p", "tree-c2")), [first]) is None
    assert repeats(question("elsewhere", track="gpu"), [first]) is None
    assert (
        repeats(question("no tree", child="c2", change=None), [question("x", change=None, state=State.QUEUED)]) is None
    )
    assert repeats(first, [first]) is None


def test_a_child_confirmed_here_is_not_run_against_a_weaker_parent() -> None:
    weaker = question("weaker", "b", parent="weak", change=("tree-weak", "tree-c"))
    assert "confirmed here" in (repeats(weaker, [question("first", state=State.ADOPTED)]) or "")
    assert repeats(weaker, [question("first", state=State.REFUTED)]) is None
    assert "in the line" in (repeats(weaker, [], {"c"}) or "")


@pytest.mark.parametrize("fallen", [State.REJECTED, State.QUARANTINED, State.WAITING, State.RECEIVED])
def test_a_spoilt_copy_that_came_first_keeps_nobody_out(fallen: State) -> None:
    assert repeats(question("true"), [question("copy", "thief", state=fallen)]) is None


def test_a_course_remembers_why_and_refuses_what_the_table_has_not() -> None:
    course = Course().go(Move.WAIT, "a trial is missing").go(Move.ARRIVE).go(Move.CHECKED).go(Move.ENQUEUE)
    assert course.state is State.QUEUED
    assert course.steps[0].reason == "a trial is missing"
    assert course.steps[1].reason == Move.ARRIVE.value
    with pytest.raises(IllegalMove):
        course.go(Move.ADOPT)
    assert course.state is State.QUEUED


def test_every_move_is_legal_exactly_if_the_table_has_it() -> None:
    for state, move in itertools.product(State, Move):
        if (state, move) in TRANSITIONS:
            assert advance(state, move) is TRANSITIONS[state, move]
        else:
            with pytest.raises(IllegalMove):
                advance(state, move)


def reachable(start: State) -> set[State]:
    found, open_states = {start}, [start]
    while open_states:
        state = open_states.pop()
        after = {to for (before, _), to in TRANSITIONS.items() if before is state} - found
        found |= after
        open_states += after
    return found


def test_every_state_is_reached_and_only_what_is_provably_wrong_is_final() -> None:
    assert reachable(State.RECEIVED) == set(State)
    assert {state for state in State if reachable(state) == {state}} == {State.REJECTED}


def test_nothing_is_adopted_that_this_node_has_not_run() -> None:
    """The only way to `adopted` is from `confirmed`, and there only from `verifying`, or back from where it led."""
    assert {before for (before, _), after in TRANSITIONS.items() if after is State.ADOPTED} == {State.CONFIRMED}
    before_confirmed = {before for (before, _), after in TRANSITIONS.items() if after is State.CONFIRMED}
    assert before_confirmed == {State.VERIFYING, State.WITHHELD, State.DECLINED}
    for state in (State.WITHHELD, State.DECLINED):
        assert {before for (before, _), after in TRANSITIONS.items() if after is state} == {State.CONFIRMED}


def test_every_move_is_used_and_has_words_of_its_own() -> None:
    assert {move for _, move in TRANSITIONS} == set(Move)
    assert len({move.value for move in Move}) == len(Move)
