"""Foreign discoveries from their arrival to the queue, over a real ledger."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import examples
import histories
import pytest
from scripted import ScriptedLane, program
from sides import PUBLIC, SPREAD, Side, claim, verdicts, verify_all

from ledger.envelope import Signed, open_envelope
from ledger.predicates import PROGRAM_BYTES_MAX, Measurement
from node.charter import default_constitution
from node.intake import AUTHORS_AT_ONCE, LOOK_BYTES, LOOKS_AT_ONCE
from policy.intake import Move, State
from trainer.requests import TrialRequest

ONE, TWO, THREE = 5, 6, 7


@pytest.fixture
def side(tmp_path: Path) -> Side:
    return Side(tmp_path / "b", 2)


def state_after_news(side: Side, found: Signed) -> State | None:
    side.verifier.hear()
    side.verifier.reconsider()
    return side.state(found)


def moves(side: Side, found: Signed) -> list[Move]:
    return [dated.step.move for dated in side.courses.steps(found.id)]


# What is incomplete waits


def test_a_claim_waits_for_a_program_a_lineage_and_its_trials(side: Side, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    there = examples.new_store(tmp_path / "elsewhere")
    by = examples.author(there, ONE)
    first, second = there.blobs.put(program(0.2)), there.blobs.put(program(0.4))
    below = examples.state_discovery(by, side.baseline, first)
    found = examples.state_discovery(by, first, second)
    feeds = {
        feed: [open_envelope(envelope) for envelope in there.envelopes(by.id, feed, 0, 10**9)]
        for feed in ("main", "trials")
    }

    side.store.add(feeds["main"][0])
    assert state_after_news(side, below) is State.WAITING
    assert "programs have not arrived" in side.courses.reason(below.id)
    side.store.blobs.put(program(0.2))
    assert state_after_news(side, below) is State.WAITING
    assert "trial" in side.courses.reason(below.id)
    for trial in feeds["trials"][:5]:
        side.store.add(trial)
    assert state_after_news(side, below) is State.WAITING
    side.store.add(feeds["trials"][5])
    assert state_after_news(side, below) is State.QUEUED
    assert moves(side, below) == [Move.WAIT, Move.ARRIVE, Move.CHECKED, Move.ENQUEUE]

    side.store.add(feeds["main"][1])
    side.store.blobs.put(program(0.4))
    assert state_after_news(side, found) is State.WAITING
    side.verifier = side.new_verifier()  # what it waits for is known again after a restart
    for trial in feeds["trials"][6:]:
        side.store.add(trial)
    assert state_after_news(side, found) is State.QUEUED


def test_a_claim_waits_for_the_lineage_of_its_parent(side: Side) -> None:
    parent = side.store.blobs.put(program(0.2))
    found = claim(side, ONE, 0.4, parent)
    assert state_after_news(side, found) is State.WAITING
    assert "lineage" in side.courses.reason(found.id)
    claim(side, TWO, 0.2)
    assert state_after_news(side, found) is State.QUEUED


def test_many_authors_of_an_unknown_constitution_wait_and_cost_a_bounded_number_of_questions(side: Side) -> None:
    asked: list[str] = []

    def unknown(author: str) -> str | None:
        asked.append(author)
        return "its author works by a constitution that nobody proposed"

    side.stranger = unknown
    with side.store.batch():
        found = [claim(side, number, 0.2) for number in range(100, 100 + AUTHORS_AT_ONCE + 6)]
    for _ in range(2 * AUTHORS_AT_ONCE // LOOKS_AT_ONCE):
        side.verifier.reconsider()
    assert {side.state(one) for one in found} == {State.WAITING}
    asked.clear()
    state_after_news(side, found[0])
    assert len(asked) == AUTHORS_AT_ONCE
    side.stranger = lambda author: None
    for _ in range(3 + 2 * AUTHORS_AT_ONCE // LOOKS_AT_ONCE):
        state_after_news(side, found[0])
    states = [side.state(one) for one in found]
    assert (states.count(State.QUEUED), states.count(State.DUPLICATE)) == (1, len(found) - 1)


def test_a_claim_that_a_crash_left_half_looked_at_may_still_have_to_wait(side: Side) -> None:
    found = claim(side, ONE, 0.2)
    side.courses.move(found.id, Move.CHECKED)
    side.store.db.execute("DELETE FROM blobs WHERE digest = ?", (found.statement.subject,))
    assert state_after_news(side, found) is State.WAITING


def test_a_claim_that_its_author_takes_back_before_it_is_looked_at_costs_no_run(side: Side) -> None:
    found = claim(side, ONE, 0.2)
    histories.state_retraction(examples.author(side.store, ONE), found)
    assert state_after_news(side, found) is State.OVERTURNED
    assert side.next() is None


# The same question twice


async def test_the_same_claim_by_another_is_run_once(side: Side) -> None:
    first, second = claim(side, ONE, 0.2), claim(side, TWO, 0.2)
    assert verdicts(await verify_all(side)) == ["confirmed"]
    assert side.state(first) is State.ADOPTED
    assert side.state(second) is State.DUPLICATE
    assert first.id[:16] in side.courses.reason(second.id)


async def test_a_copy_of_an_own_discovery_with_a_comment_more_is_not_run(tmp_path: Path) -> None:
    side = Side(tmp_path / "own", 2)
    mine = claim(side, 2, 0.3)
    side.adopter.adopt(mine.statement.subject, mine.id, "own", None)
    commented = side.store.blobs.put(program(0.3) + b"# mine\n")
    copy = examples.state_discovery(examples.author(side.store, ONE), side.baseline, commented)
    assert state_after_news(side, copy) is State.DUPLICATE
    assert "comments or layout" in side.courses.reason(copy.id)
    side.verifier = side.new_verifier()
    assert side.next() is None


@pytest.mark.parametrize("deed", ["takes it back", "signs two histories", "contradicts its trials"])
async def test_a_copy_that_falls_by_its_authors_deeds_frees_the_true_one(side: Side, deed: str) -> None:
    copy, true = claim(side, ONE, 0.2), claim(side, TWO, 0.2)
    assert state_after_news(side, true) is State.DUPLICATE
    if deed == "takes it back":
        histories.state_retraction(examples.author(side.store, ONE), copy)
    elif deed == "signs two histories":
        histories.equivocate(side.store, ONE, copy)
    else:
        by = examples.author(side.store, ONE)
        body = examples.discovery_body(by, side.baseline, examples.digest("another"))
        by.append("main", side.store.blobs.put(program(0.5)), body)
    state_after_news(side, copy)
    assert state_after_news(side, copy) is State.OVERTURNED
    assert side.state(true) is State.QUEUED
    await verify_all(side)
    assert side.state(true) is State.ADOPTED


async def test_a_duplicate_is_released_when_the_incumbent_goes_back(side: Side) -> None:
    first = claim(side, ONE, 0.2)
    await verify_all(side)
    again = claim(side, TWO, 0.2, side.store.blobs.put(program(0.1)))
    claim(side, THREE, 0.1)
    assert state_after_news(side, again) is State.DUPLICATE
    assert "line of the incumbent" in side.courses.reason(again.id)
    side.adopter.adopt(side.baseline, None, "by hand", None)
    side.courses.move(first.id, Move.OVERTURN)
    side.verifier.intake.settle(first.id)
    assert state_after_news(side, again) is State.QUEUED


# Quarantine


async def test_what_is_too_good_is_held_back_until_a_check_in_full(side: Side) -> None:
    found = claim(side, ONE, -0.2, says=2.0)
    assert state_after_news(side, found) is State.QUARANTINED
    assert "more than any first gain" in side.courses.reason(found.id)
    assert verdicts(await verify_all(side)) == ["refuted"]
    steps = [dated.step for dated in side.courses.steps(found.id)]
    assert [step.state for step in steps[-3:]] == [State.QUEUED, State.VERIFYING, State.REFUTED]
    assert "12 pairs" in steps[-2].reason


async def test_copies_of_what_is_held_back_are_run_once(side: Side) -> None:
    copies = [claim(side, number, -0.2, says=2.0) for number in range(10, 30)]
    assert verdicts(await verify_all(side)) == ["refuted"]
    states = [side.state(found) for found in copies]
    assert (states.count(State.REFUTED), states.count(State.DUPLICATE)) == (1, 19)


class Hungry(ScriptedLane):
    """Children need ten times the memory of the baseline."""

    async def trial(self, request: TrialRequest) -> Measurement:
        found = await super().trial(request)
        more = 10 if b"GAIN = 0.0" not in request.program else 1
        return type(found)(**{name: getattr(found, name) for name in found.__struct_fields__} | {
            "peak_memory_bytes": found.peak_memory_bytes * more
        })  # fmt: skip


@pytest.mark.parametrize("lost", [False, True])
async def test_what_is_confirmed_and_costs_elsewhere_is_withheld_also_where_the_courses_are_lost(
    side: Side, lost: bool
) -> None:
    side.bench._lane = Hungry()
    found = claim(side, ONE, 0.2)
    assert verdicts(await verify_all(side)) == ["confirmed"]
    assert side.state(found) is State.WITHHELD
    assert "memory" in side.courses.reason(found.id)
    if lost:
        side.courses.close()
        for path in side.courses_file.parent.glob("courses.db*"):
            path.unlink()
    side.verifier = side.new_verifier()
    side.verifier.reconsider()
    if lost:
        pending = side.verifier.pending()
        assert pending is not None
        assert await side.verifier.consider(pending, SPREAD) == []
    assert side.verifier.pending() is None
    assert side.state(found) is State.WITHHELD
    assert side.adopter.incumbent == side.baseline
    side.asked.ask("adopt", found.id)
    vouched = side.verifier.pending()
    assert vouched is not None
    assert [one.statement.kind for one in await side.verifier.consider(vouched, SPREAD)] == ["adoption"]
    assert side.state(found) is State.ADOPTED
    assert side.asked.to_adopt() == []


# A flood


@contextmanager
def statements_asked(side: Side) -> Iterator[list[str]]:
    """What is asked of the ledger's database meanwhile."""
    asked: list[str] = []
    side.store.db.conn.set_trace_callback(asked.append)
    yield asked
    side.store.db.conn.set_trace_callback(None)


def flood(side: Side, number: int, claims: int, *, programs: int) -> list[Signed]:
    """Well-formed claims of one author: each program is claimed again and again, over parents that are claimed too."""
    by = examples.author(side.store, number)
    with side.store.batch():
        children = [side.store.blobs.put(program(-0.1 - index / 1000)) for index in range(programs)]
        bodies = [examples.discovery_body(by, side.baseline, child) for child in children]
        return [by.append("main", children[index % programs], bodies[index % programs]) for index in range(claims)]


async def test_thousands_of_claims_do_not_slow_a_step(side: Side) -> None:
    claim(side, ONE, 0.2)
    side.verifier.reconsider()
    with statements_asked(side) as alone:
        side.verifier.reconsider()
        assert side.next() is not None
    found = flood(side, TWO, 2_000, programs=30)
    side.verifier.hear()
    side.verifier.reconsider()
    looked_at = sum(state is not None for state in map(side.state, found))
    assert 0 < looked_at <= LOOKS_AT_ONCE
    after = [side.state(one) for one in found].count(State.QUEUED)
    for _ in range(2):
        side.verifier.reconsider()
    assert [side.state(one) for one in found].count(State.QUEUED) >= after
    with statements_asked(side) as flooded:
        side.verifier.reconsider()
        assert side.next() is not None
    # A look asks for the claim, its two programs and its six trials, where its programs come from, and what is like it.
    assert len(flooded) <= len(alone) + 30 * LOOKS_AT_ONCE


async def test_a_flood_stays_within_the_share_and_behind_whom_is_trusted(side: Side) -> None:
    for gain in (0.05, 0.06, 0.07, 0.08):
        claim(side, ONE, gain, says=gain)
    await verify_all(side)
    share = default_constitution().numbers().verification_share
    flood(side, TWO, 100, programs=40)
    side.verifier.hear()
    for _ in range(12):
        side.verifier.reconsider()
    before = len(side.lane.requests)
    for number in range(240):  # the lane's own search, a run at a time, and what may be verified beside it
        await side.bench.trial(side.baseline, number, PUBLIC, "search")
        side.verifier.reconsider()
        row = side.verifier.next()
        if row is not None:
            await side.verifier.step(row, SPREAD)
    requests = side.lane.requests
    verifying = sum(request.salt != PUBLIC.salt for request in requests)
    assert 0.5 * share < verifying / len(requests) <= share + 24 / len(requests)
    assert len(requests) > before + 240
    trusted = claim(side, ONE, 0.5, says=0.45)
    turns = 0
    while side.state(trusted) in (None, State.QUEUED):
        row = side.next()
        assert row is not None
        await side.verifier.step(row, SPREAD)
        turns += 1
    assert turns <= 2  # one in four is a stranger's


def test_long_programs_are_looked_at_a_few_at_a_time(side: Side) -> None:
    by = examples.author(side.store, ONE)
    long = [b"# " + b"%d" % index + b"x" * (PROGRAM_BYTES_MAX - 300) + b"\n" + program(0.1) for index in range(8)]
    found = [examples.state_discovery(by, side.baseline, side.store.blobs.put(text)) for text in long]
    side.verifier.hear()
    side.verifier.reconsider()
    looked_at = [one for one in found if side.state(one) is not None]
    assert len(looked_at) * (PROGRAM_BYTES_MAX - 300) <= LOOK_BYTES + PROGRAM_BYTES_MAX
    for _ in range(8):
        side.verifier.reconsider()
    assert None not in map(side.state, found)
