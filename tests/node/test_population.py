"""The population over a real ledger: what comes in and goes out, what it costs, and what is carried between tracks."""

import random
import re
from collections.abc import Callable
from pathlib import Path

import examples
import histories
import msgspec
import pytest

from ledger import queries
from ledger.author import Author
from ledger.envelope import Signed
from ledger.predicates import Adoption, Claim, Entry
from node.population import CHANGES_AT_ONCE, TRANSFERS_FIRST, Population
from node.transfers import transfers
from policy.plateau import Plateau, Suggestion

HERE, THERE = examples.TRACK, "gpu-5min"
RESTART = Plateau(Suggestion.RESTART, 0.3, "a long wait", 5)
TEXT = "WIDTH = {}\nDEPTH = {}\n\n\ndef build(a, b): ...\n\n\ndef train(a, b): ...\n"


class World:
    """A ledger with this node (author 1) and two others."""

    def __init__(self, folder: Path) -> None:
        self.store = examples.new_store(folder)
        self.me, self.peer, self.third = (examples.author(self.store, number) for number in (1, 2, 3))
        self.base = self.put(1, 1)
        self.weights: dict[str, float] = {}
        self.population = self.fresh()

    def fresh(self) -> Population:
        return Population(
            self.store, self.me.id, HERE, self.base, standing=lambda author: self.weights.get(author, 0.0)
        )

    def put(self, width: int, depth: int) -> str:
        return self.store.blobs.put(TEXT.format(width, depth).encode())

    def found(
        self, by: Author, parent: str, child: str, gain: float = 0.2, track: str = HERE, source: Signed | None = None
    ) -> Signed:
        body = examples.discovery_body(by, parent, child, [(3.0, 3.0 - gain)] * 3)
        of = None if source is None else source.id
        return by.append("main", child, lambda entry: msgspec.structs.replace(body(entry), track=track, source=of))

    def claimed(self, by: Author, child: str, source: Signed, track: str = HERE, operator: str = "") -> Signed:
        return by.append(
            "main",
            child,
            lambda entry: Claim(
                entry=entry, track=track, parent=self.base, hypothesis="as there", operator=operator, source=source.id
            ),
        )

    def elites(self) -> set[str]:
        """After enough calls for all to have been read."""
        for _ in range(20):
            self.population.parent_for_next(self.base, random.Random(1))
        return {elite.program for elite in self.population.archive.elites}

    def relatives(self, parent: str) -> set[str]:
        return {relative.program for relative in self.population.relatives_of(parent)}

    def text(self, program: str) -> str:
        return self.store.blobs.get(program).decode()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# The archive


def test_what_own_runs_confirmed_is_in_and_what_others_praise_is_not(world: World) -> None:
    mine, confirmed, refuted, praised = (world.put(2, depth) for depth in (10, 11, 12, 13))
    world.weights = {world.peer.id: 1.0, world.third.id: 1.0}
    world.found(world.me, world.base, mine)
    histories.state_measured(world.me, world.found(world.peer, world.base, confirmed), "confirmed", examples.GAIN)
    histories.state_measured(world.me, world.found(world.peer, world.base, refuted), "refuted", [(3.0, 3.1)] * 2)
    histories.state_measured(world.third, world.found(world.peer, world.base, praised, 2.0), "confirmed", examples.GAIN)
    archive = world.population.archive
    assert world.relatives(mine) == {world.text(confirmed)}
    assert praised in archive.levels  # it can close a gap
    assert refuted not in archive.levels
    assert praised not in world.elites()
    restarts = {world.population.parent_for_next(mine, random.Random(n), RESTART).parent for n in range(40)}
    assert restarts == {mine, confirmed}


def test_an_elite_of_another_cell_is_drawn_now_and_then(world: World) -> None:
    best, near = world.put(2, 2), world.put(3, 3)
    long = world.store.blobs.put("".join(f"OPTION_{number} = {number}\n" for number in range(40)).encode())
    for program, gain in ((best, 0.2), (near, 0.19), (long, 0.18)):
        world.found(world.me, world.base, program, gain)
    assert world.elites() == {best, long}
    draws = [world.population.parent_for_next(best, random.Random(n)) for n in range(200)]
    assert {draw.parent for draw in draws} == {best, long}
    assert 160 < sum(draw.parent == best for draw in draws) < 195
    assert {draw.compare_with for draw in draws} == {best}


def test_it_follows_the_ledger_and_is_what_a_fresh_reading_gives(world: World) -> None:
    """Each statement after the last reading: the same answers as from a new start."""
    one, two, three = world.put(2, 2), world.put(2, 3), world.put(2, 4)
    made: list[Signed] = []

    def retract(which: int) -> Callable[[], object]:
        return lambda: histories.state_retraction(world.peer, made[which])

    steps: list[Callable[[], object]] = [
        lambda: world.found(world.me, world.base, one),
        lambda: made.append(world.found(world.peer, world.base, two, 0.3)),
        lambda: histories.state_measured(world.me, made[0], "confirmed", [(3.0, 2.7)] * 3),
        lambda: made.append(world.found(world.peer, two, three, 0.4)),
        lambda: histories.state_measured(world.me, made[1], "inconclusive", [(3.0, 2.99)] * 2),
        lambda: histories.state_measured(world.me, made[1], "confirmed", [(3.0, 2.8)] * 3),
        retract(1),
        retract(0),
    ]
    seen = []
    for step in steps:
        step()
        assert world.population.archive.levels == world.fresh().archive.levels
        seen.append(world.relatives(one))
    names = {world.text(program) for program in (two, three)}
    assert seen == [
        set(),
        set(),
        {world.text(two)},
        {world.text(two)},
        {world.text(two)},
        names,
        {world.text(two)},
        set(),
    ]


def test_who_signed_two_histories_is_out_with_all_that_he_found(world: World) -> None:
    mine, theirs = world.put(2, 2), world.put(2, 3)
    world.found(world.me, world.base, mine)
    found = world.found(world.peer, world.base, theirs)
    histories.state_measured(world.me, found, "confirmed", examples.GAIN)
    assert world.relatives(mine) == {world.text(theirs)}
    histories.equivocate(world.store, 2, found)
    assert world.relatives(mine) == set()


def test_a_text_that_is_missing_or_too_large_is_passed_over(world: World) -> None:
    mine, missing = world.put(2, 2), examples.digest("not here")
    huge = world.store.blobs.put(b"#" * 2**21)
    world.found(world.me, world.base, mine)
    world.found(world.me, world.base, missing)
    world.found(world.me, world.base, huge)
    assert world.relatives(mine) == set()
    assert world.population.parent_for_next(mine, random.Random(1), RESTART).parent == mine
    drawn = {world.population.parent_for_next(mine, random.Random(n), RESTART).parent for n in range(60)}
    assert drawn <= {mine, world.base}


def test_a_comparison_with_the_incumbent_of_then_connects_levels_and_makes_no_ancestor(world: World) -> None:
    mine, other = world.put(2, 2), world.put(2, 3)
    world.found(world.me, world.base, mine)
    lone = world.put(9, 9)  # its parent is not known here
    found = world.found(world.peer, examples.digest("elsewhere"), lone)
    histories.state_measured(world.me, found, "confirmed", examples.GAIN)
    assert lone not in world.population.archive.levels
    shown = examples.comparison(world.me, mine, lone, [(2.9, 2.8)] * 3)

    def adopted(entry: Entry) -> Adoption:
        return Adoption(entry=entry, track=HERE, previous=mine, discovery=found.id, reason="better", comparison=shown)

    world.me.append("main", lone, adopted)
    assert world.population.archive.levels[lone].before == mine
    assert world.population.archive.lineage(lone) == (lone, examples.digest("elsewhere"))
    assert world.relatives(other) == set()


def test_no_question_before_a_proposal_reads_all_entries(world: World) -> None:
    """Nor all trials, which are most of a ledger."""
    mine = world.put(2, 2)
    found = world.found(world.peer, world.base, world.put(3, 3), track=THERE)
    histories.state_measured(world.third, found, "confirmed", examples.GAIN)
    world.found(world.me, world.base, mine)
    for ask in (world.population, world.fresh()):  # what is new, and from the start
        world.claimed(world.me, world.put(4, 4), found)
        asked: list[str] = []
        world.store.db.conn.set_trace_callback(asked.append)
        ask.parent_for_next(mine, random.Random(1))
        ask.relatives_of(mine)
        ask.transfers_to_try()
        world.store.db.conn.set_trace_callback(None)
        assert len(asked) > 5
        steps = [row[3] for sql in asked for row in world.store.db.execute(f"EXPLAIN QUERY PLAN {sql}")]
        assert [step for step in steps if re.match(r"SCAN (entries|e|at|t|trials|r|trial_results)\b", step)] == []


# Transfers


def test_what_is_confirmed_elsewhere_is_to_be_tried_here_with_its_texts(world: World) -> None:
    there, child = world.put(5, 1), world.put(6, 1)
    found = world.found(world.peer, there, child, track=THERE)
    assert world.population.transfers_to_try() == ()  # only its author says so
    world.claimed(world.peer, child, found, track=THERE, operator="recipe:wider")
    histories.state_measured(world.third, found, "confirmed", [(3.0, 2.9)] * 2)
    (one,) = world.population.transfers_to_try()
    assert (one.source, one.track, one.operator) == (found.id, THERE, "recipe:wider")
    assert (one.ancestor, one.program) == (world.text(there), world.text(child))
    assert one.effect == pytest.approx(-0.1)  # what was measured again, not what was claimed
    world.claimed(world.me, world.put(6, 2), found)
    assert world.population.transfers_to_try() == ()  # being tried
    histories.state_retraction(world.peer, found)
    assert world.fresh().transfers_to_try() == ()


def test_a_confirmation_that_was_taken_back_counts_no_more(world: World) -> None:
    found = world.found(world.peer, world.base, world.put(6, 1), track=THERE)
    histories.state_measured(world.third, found, "confirmed", examples.GAIN)
    assert len(world.population.transfers_to_try()) == 1
    histories.state_retraction(world.third, found)
    assert world.population.transfers_to_try() == world.fresh().transfers_to_try() == ()


def test_what_this_node_refuted_or_has_not_the_text_of_is_not_to_be_tried(world: World) -> None:
    refuted, textless = world.put(5, 1), examples.digest("not here")
    for child, verdict in ((refuted, "refuted"), (textless, "confirmed")):
        found = world.found(world.peer, world.base, child, track=THERE)
        histories.state_measured(world.third, found, "confirmed", examples.GAIN)
        histories.state_measured(world.me, found, verdict, examples.GAIN)  # type: ignore[arg-type]
    assert world.population.transfers_to_try() == ()


def test_the_same_change_found_here_is_not_to_be_tried(world: World) -> None:
    other = world.put(7, 7)
    same = world.put(8, 7)
    found = world.found(world.peer, other, same, track=THERE)
    histories.state_measured(world.me, found, "confirmed", examples.GAIN)
    assert [one.source for one in world.population.transfers_to_try()] == [found.id]
    world.found(world.me, world.base, world.put(2, 1))  # WIDTH raised, as there
    world.elites()
    for _ in range(1 + 2 // CHANGES_AT_ONCE):  # what is read counts from the next call on
        last = world.population.transfers_to_try()
    assert last == ()


def test_what_cannot_be_carried_over_does_not_stand_in_the_way_for_ever(world: World) -> None:
    sources = set()
    for number in range(3 * TRANSFERS_FIRST):
        found = world.found(world.me, world.base, world.put(100 + number, number), 0.1 + number / 100, track=THERE)
        sources.add(found.id)
    rounds = [world.population.transfers_to_try() for _ in range(2)]
    assert all(len(one) == 2 * TRANSFERS_FIRST for one in rounds)
    assert rounds[0][:TRANSFERS_FIRST] == rounds[1][:TRANSFERS_FIRST]
    assert {one.source for given in rounds for one in given} == sources


# What became of them


def test_the_fate_of_an_attempt_follows_from_what_its_author_said_later(world: World) -> None:
    me, source = world.me, world.found(world.peer, world.base, world.put(5, 5), track=THERE)

    def fate(child: str) -> str:
        return next(row.fate for row in queries.transfers(world.store) if row.program == child)

    kept, lost, failed, dropped, left, last = (world.put(50, depth) for depth in range(6))
    for program, scores in ((kept, [2.9]), (lost, [3.1]), (failed, [3.0, None]), (dropped, [3.0]), (left, [])):
        world.claimed(me, program, source)
        assert fate(program) == "open"
        for seed, score in enumerate(scores):
            examples.state_trial(me, program, seed, score)
        if program == kept:
            found = world.found(me, world.base, kept, source=source)
            assert fate(kept) == "kept"
        if program == dropped:
            examples.state_adoption(me, world.put(60, 0))
    world.claimed(me, last, source)
    fates = {row.program: row.fate for row in queries.transfers(world.store)}
    assert fates == {
        kept: "kept", lost: "discarded", failed: "failed", dropped: "given up", left: "given up", last: "open"
    }  # fmt: skip
    histories.state_retraction(me, found)
    assert fate(kept) == "discarded"
    assert [row.lamport for row in queries.transfers(world.store)] == sorted(
        row.lamport for row in queries.transfers(world.store)
    )
    assert queries.transfers(world.store, track=THERE) == []
    assert len(queries.transfers(world.store, limit=2)) == 2


def test_effects_and_counts_by_direction_hardware_and_discovery(world: World) -> None:
    source = world.found(world.peer, world.base, world.put(5, 5), 0.2, track=THERE)
    histories.state_measured(world.third, source, "confirmed", [(3.0, 2.9)] * 2)
    kept, lost, failed = (world.put(50, depth) for depth in range(3))
    world.claimed(world.me, kept, source)
    world.found(world.me, world.base, kept, 0.05, source=source)
    world.claimed(world.me, lost, source)
    examples.state_trial(world.me, lost, 0, 3.3)
    world.claimed(world.me, failed, source)
    examples.state_trial(world.me, failed, 0, None)
    world.claimed(world.me, world.put(50, 9), source)
    said = transfers(world.store, world.me.id)
    (direction,) = said.directions
    assert (direction.source_track, direction.track) == (THERE, HERE)
    assert (direction.tried, direction.kept, direction.failed, direction.measured) == (3, 1, 1, 2)
    assert direction.ratio is not None
    assert direction.ratio.value == pytest.approx((-0.05 + 0.3) / -0.2)  # over the measured, not the claimed
    (placed,) = said.by_hardware
    assert (placed.hardware, placed.tried, placed.kept) == ("a processor, x86_64", 3, 1)
    (one,) = said.discoveries
    assert one.discovery.id == source.id
    assert [(effect.how, effect.n) for effect in one.effects] == [("claimed", 3), ("attested", 2)]
    assert [carried.attempt.fate for carried in one.attempts] == ["kept", "discarded", "failed", "open"]
    assert [carried.ratio is None for carried in one.attempts] == [False, False, True, True]
    assert one.attempts[0].difference is not None
    assert one.attempts[0].difference.value == pytest.approx(0.05)


def test_this_nodes_verdict_on_a_kept_transfer_counts_before_its_authors_word(world: World) -> None:
    source = world.found(world.peer, world.base, world.put(5, 5), track=THERE)
    kept = world.put(6, 6)
    found = world.found(world.peer, world.base, kept, source=source)
    assert [one.kept for one in transfers(world.store, world.me.id).directions] == [1]
    histories.state_measured(world.me, found, "refuted", [(3.0, 3.01)] * 2)
    assert [(one.tried, one.kept) for one in transfers(world.store, world.me.id).directions] == [(1, 0)]


def test_a_source_that_is_not_here_or_of_the_same_track_makes_no_attempt(world: World) -> None:
    same = world.found(world.peer, world.base, world.put(5, 5))
    world.claimed(world.me, world.put(6, 6), same)
    liar = world.found(world.peer, world.base, world.put(7, 7), track=THERE)
    world.claimed(world.peer, world.put(6, 7), liar)
    assert len(queries.transfers(world.store)) == 1
    histories.equivocate(world.store, 2, liar)
    assert queries.transfers(world.store) == []
    assert transfers(world.store, world.me.id).discoveries == ()
