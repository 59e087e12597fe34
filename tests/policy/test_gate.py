"""The gate: every move is legal or refused, every rule takes hold and lets go, commands hold."""

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.charter import default_constitution
from policy.gate import (
    FORBIDDEN,
    RULES,
    TRANSITIONS,
    Action,
    Change,
    Command,
    Facts,
    Gate,
    Move,
    State,
    advance,
    compare_verdicts,
    forbids,
    look,
    read,
)
from policy.moves import IllegalMove

LIMITS = default_constitution().numbers()
FINE = Facts(
    compute_s_today=100.0,
    money_usd_today=0.0,
    trials_recent=20,
    failed_recent=2,
    verdicts_shared=10,
    verdicts_contradicted=1,
    adoptions_unseen=3,
    disk_free_bytes=2**40,
    integrity_failures=(),
)
FREEZE = Command(state=State.FREEZE, reason="an audit")


def facts(**changes: Any) -> Facts:
    return msgspec.structs.replace(FINE, **changes)


def looked(gate: Gate, *seen: Facts, command: Command | None = None) -> tuple[Gate, list[Change]]:
    """After a look at each of the facts in turn."""
    changes: list[Change] = []
    for one in seen:
        gate, moved = look(gate, command, one, LIMITS)
        changes += moved
    return gate, changes


def test_every_move_is_legal_exactly_if_the_table_has_it() -> None:
    for state, move in itertools.product(State, Move):
        if (state, move) in TRANSITIONS:
            assert advance(state, move) is TRANSITIONS[state, move]
        else:
            with pytest.raises(IllegalMove):
                advance(state, move)


def test_a_rule_never_loosens_and_a_recovery_is_one_step() -> None:
    order = list(State)
    for (before, move), after in TRANSITIONS.items():
        if move in (Move.THROTTLE, Move.FREEZE, Move.STOP):
            assert after.stricter_than(before)
        if move is Move.RECOVER:
            assert order.index(after) == order.index(before) - 1
    assert (State.RUN, Move.RECOVER) not in TRANSITIONS


def test_every_state_is_reached_by_rules_alone_and_left_again() -> None:
    ruled = {Move.THROTTLE, Move.FREEZE, Move.STOP, Move.RECOVER}
    reached = {after for (_, move), after in TRANSITIONS.items() if move in ruled}
    assert reached == set(State)
    assert {before for before, move in TRANSITIONS if move is Move.RECOVER} == set(State) - {State.RUN}


def test_each_state_forbids_what_the_milder_ones_do_and_more() -> None:
    for milder, stricter in itertools.pairwise(State):
        assert FORBIDDEN[milder].keys() < FORBIDDEN[stricter].keys()
    assert FORBIDDEN[State.STOP].keys() == set(Action)
    assert forbids(State.RUN, Action.ADOPT) is None
    assert forbids(State.THROTTLE, Action.VERIFY) is None
    assert "mistake" in (forbids(State.FREEZE, Action.ADOPT) or "")


# Each fact at the threshold of its rules, and where it has let go again.
PASSED: list[tuple[str, State, dict[str, Any], dict[str, Any]]] = [
    ("lane seconds", State.STOP, {"compute_s_today": 172800.0}, {"compute_s_today": 0.0}),
    ("US dollars", State.THROTTLE, {"money_usd_today": 5.0}, {"money_usd_today": 4.0}),
    ("US dollars", State.STOP, {"money_usd_today": 10.0}, {"money_usd_today": 8.0}),
    ("failed", State.THROTTLE, {"failed_recent": 14}, {"failed_recent": 11}),
    ("failed", State.FREEZE, {"failed_recent": 19}, {"failed_recent": 15}),
    ("contradicted", State.THROTTLE, {"verdicts_contradicted": 4}, {"verdicts_contradicted": 2}),
    ("contradicted", State.FREEZE, {"verdicts_contradicted": 6}, {"verdicts_contradicted": 4}),
    ("adoptions", State.THROTTLE, {"adoptions_unseen": 50}, {"adoptions_unseen": 40}),
    ("adoptions", State.FREEZE, {"adoptions_unseen": 100}, {"adoptions_unseen": 80}),
    ("bytes free", State.THROTTLE, {"disk_free_bytes": 2**31}, {"disk_free_bytes": 2**31 * 5 // 4}),
    ("bytes free", State.STOP, {"disk_free_bytes": 2**29}, {"disk_free_bytes": 2**29 * 5 // 4}),
    ("integrity", State.STOP, {"integrity_failures": ("ledger: gone",)}, {"integrity_failures": ()}),
]


@pytest.mark.parametrize(("fact", "state", "passed", "gone"), PASSED)
def test_a_rule_takes_hold_at_its_threshold_and_lets_go_below(
    fact: str, state: State, passed: dict[str, Any], gone: dict[str, Any]
) -> None:
    gate, changes = looked(Gate(), facts(**passed))
    assert gate.state is state
    assert (changes[0].previous, changes[0].commanded) == (State.RUN, False)
    assert fact in changes[0].reason
    after, back = looked(gate, facts(**gone))
    assert state.stricter_than(after.state)
    assert back[0].move is Move.RECOVER
    assert looked(after, FINE, FINE, FINE)[0] == Gate()


def test_every_rule_is_in_that_list_but_one_that_never_comes_first() -> None:
    covered = {(fact, state) for fact, state, _, _ in PASSED}
    alone = [rule for rule in RULES if not any(f in rule.fact and s is rule.state for f, s in covered)]
    assert [rule.limit for rule in alone] == ["compute_s_throttle"]  # its default is the threshold of the stop


def test_between_the_two_thresholds_nothing_moves() -> None:
    almost = facts(adoptions_unseen=90)
    assert looked(Gate(), almost)[0].state is State.THROTTLE
    frozen, _ = looked(Gate(), facts(adoptions_unseen=100))
    assert looked(frozen, almost, almost) == (frozen, [])


def test_too_few_trials_or_verdicts_say_nothing() -> None:
    assert looked(Gate(), facts(trials_recent=9, failed_recent=9))[0] == Gate()
    assert looked(Gate(), facts(verdicts_shared=3, verdicts_contradicted=3))[0] == Gate()
    readings = {one.fact: one.value for one in read(facts(trials_recent=9, failed_recent=9), LIMITS)}
    assert readings["share of failed trials"] is None


def test_recovery_is_one_state_at_a_look() -> None:
    gate, changes = looked(Gate(), facts(integrity_failures=("sandbox: broken",)), FINE, FINE, FINE, FINE)
    assert gate == Gate()
    assert [change.state for change in changes] == [State.STOP, State.FREEZE, State.THROTTLE, State.RUN]
    assert "sandbox: broken" in changes[0].reason


def test_a_command_holds_against_the_rules_until_it_is_taken_back() -> None:
    crashing = facts(failed_recent=20)
    run = Command(state=State.RUN, reason="I know why")
    gate, changes = looked(Gate(), crashing)
    gate, changes = looked(gate, crashing, crashing, command=run)
    assert (gate.state, [(change.move, change.commanded) for change in changes]) == (
        State.RUN,
        [(Move.COMMAND_RUN, True)],
    )
    gate, changes = looked(gate, crashing)
    assert [change.move for change in changes] == [Move.RELEASE, Move.FREEZE]
    gate, _ = looked(Gate(), FINE, FINE, command=FREEZE)
    assert gate.state is State.FREEZE
    gate, changes = looked(gate, FINE, FINE, FINE)
    assert [change.state for change in changes] == [State.FREEZE, State.THROTTLE, State.RUN]


def test_a_command_is_stated_once_and_again_where_its_reason_changes() -> None:
    gate, changes = looked(Gate(), FINE, FINE, command=Command(state=State.RUN, reason="stay"))
    assert [(change.previous, change.state, change.reason) for change in changes] == [(State.RUN, State.RUN, "stay")]
    assert len(looked(gate, FINE, command=Command(state=State.RUN, reason="other"))[1]) == 1


def test_no_command_helps_against_a_full_disk_and_it_holds_again_afterwards() -> None:
    full = facts(disk_free_bytes=1)
    gate, _ = looked(Gate(), FINE, command=FREEZE)
    gate, changes = looked(gate, full, command=FREEZE)
    assert (gate.state, changes[0].commanded) == (State.STOP, False)
    gate, changes = looked(gate, FINE, command=FREEZE)
    assert (gate.state, gate.command, changes[0].move) == (State.FREEZE, FREEZE, Move.COMMAND_FREEZE)


def test_verdicts_are_contradicted_by_the_greater_weight_of_the_trusted() -> None:
    rows = [
        ("d1", "confirmed", "trusted", "refuted"),
        ("d1", "confirmed", "less", "confirmed"),
        ("d1", "confirmed", "stranger", "confirmed"),
        ("d2", "refuted", "less", "refuted"),
        ("d3", "refuted", "stranger", "confirmed"),
    ]
    assert compare_verdicts(rows, {"trusted": 0.9, "less": 0.3, "stranger": 0.0}) == (2, 1)
    assert compare_verdicts(rows, {}) == (0, 0)


SOME_FACTS = st.builds(
    Facts,
    compute_s_today=st.floats(0, 3e5),
    money_usd_today=st.floats(0, 20),
    trials_recent=st.just(20),
    failed_recent=st.integers(0, 20),
    verdicts_shared=st.just(10),
    verdicts_contradicted=st.integers(0, 10),
    adoptions_unseen=st.integers(0, 150),
    disk_free_bytes=st.integers(0, 2**33),
    integrity_failures=st.sampled_from([(), ("ledger: gone",)]),
)
SOME_COMMANDS = st.none() | st.builds(Command, state=st.sampled_from(State), reason=st.sampled_from(["a", "b"]))


@given(st.lists(st.tuples(SOME_FACTS, SOME_COMMANDS), max_size=8))
def test_whatever_happens_the_moves_are_legal_and_what_cannot_wait_is_obeyed(
    days: list[tuple[Facts, Command | None]],
) -> None:
    gate = Gate()
    for seen, command in days:
        before = gate.state
        gate, changes = look(gate, command, seen, LIMITS)
        for change in changes:
            assert change.previous is before
            assert TRANSITIONS[change.previous, change.move] is change.state
            before = change.state
        assert gate.state is before
        if seen.integrity_failures or seen.disk_free_bytes <= LIMITS.disk_free_stop_bytes:
            assert gate.state is State.STOP
        for _ in range(5):
            gate, _ = look(gate, command, seen, LIMITS)
        assert look(gate, command, seen, LIMITS) == (gate, ())  # it comes to rest
