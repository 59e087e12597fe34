"""How each discovery came to its state: kept, lost, older or newer than the ledger, and cut short anywhere."""

import sqlite3
from pathlib import Path

import examples
import histories
import pytest
from scripted import ScriptedLane, program
from sides import SPREAD, Side, claim, verify_all

from ledger.envelope import Signed
from ledger.predicates import Measurement
from ledger.store import Store
from node.adoption import Adopter
from node.courses import REASON_CHARS_MAX, STEPS_MAX, Courses
from node.errors import UserError
from node.incumbent import IncumbentTree
from node.workbench import Workbench
from policy.intake import Move, State, Step
from policy.moves import IllegalMove
from policy.standing import Ban, Misdeed
from trainer.requests import TrialRequest

ONE, TWO, THREE = 5, 6, 7


class PowerCut(Exception):
    pass


class Failing(ScriptedLane):
    """Works for a number of runs."""

    def __init__(self, runs: int) -> None:
        super().__init__()
        self.left = runs

    async def trial(self, request: TrialRequest) -> Measurement:
        if self.left == 0:
            raise PowerCut
        self.left -= 1
        return await super().trial(request)


@pytest.fixture
def side(tmp_path: Path) -> Side:
    return Side(tmp_path / "b", 2)


def lose_courses(side: Side) -> None:
    side.courses.close()
    for path in side.courses_file.parent.glob("courses.db*"):
        path.unlink()


def restart(side: Side) -> None:
    side.verifier = side.new_verifier()
    side.verifier.reconsider()


async def all_kinds(side: Side) -> dict[str, Signed]:
    """Discoveries in as many states as one node's history easily has."""
    found = {"refuted": claim(side, ONE, -0.2), "adopted": claim(side, TWO, 0.3)}
    await verify_all(side)
    found["declined"] = claim(side, TWO, 0.15)
    await verify_all(side)
    found["duplicate"] = claim(side, THREE, -0.2)
    found["waiting"] = claim(side, TWO, 0.4, side.store.blobs.put(program(0.35)))
    by = examples.author(side.store, 8)
    found["rejected"] = examples.state_discovery(by, examples.digest("a"), examples.digest("a"))
    found["quarantined"] = claim(side, 9, 0.5, says=2.5)
    found["queued"] = claim(side, 9, 0.6)
    found["overturned"] = claim(side, 10, 0.7)
    histories.state_retraction(examples.author(side.store, 10), found["overturned"])
    side.verifier.hear()
    side.verifier.reconsider()
    return found


@pytest.mark.parametrize("lost", [False, True])
async def test_every_state_survives_a_restart_and_is_found_again_without_the_file(side: Side, lost: bool) -> None:
    found = await all_kinds(side)
    before = {name: side.state(one) for name, one in found.items()}
    assert before == {name: State(name) for name in found}
    if lost:
        lose_courses(side)
    restart(side)
    assert {name: side.state(one) for name, one in found.items()} == before
    runs = len(side.lane.requests)
    side.verifier.reconsider()
    assert side.verifier.pending() is None
    assert len(side.lane.requests) == runs


async def test_a_verification_cut_short_is_queued_again(side: Side) -> None:
    found = claim(side, ONE, 0.2)
    side.bench._lane = Failing(3)
    row = side.next()
    assert row is not None
    with pytest.raises(PowerCut):
        await side.verifier.step(row, SPREAD)
    assert side.state(found) is State.QUEUED
    side.courses.move(found.id, Move.START)  # and as a crash of the process leaves it
    side.bench._lane = side.lane
    restart(side)
    assert side.state(found) is State.QUEUED
    await verify_all(side)
    assert side.state(found) is State.ADOPTED


async def test_a_comparison_with_the_incumbent_cut_short_begins_again(side: Side) -> None:
    claim(side, ONE, 0.2)
    await verify_all(side)
    better = claim(side, TWO, 0.5)
    row = side.next()
    assert row is not None
    side.bench._lane = Failing(8)  # three pairs with its parent, one with the incumbent
    with pytest.raises(PowerCut):
        await side.verifier.step(row, SPREAD)
    assert side.state(better) is State.CONFIRMED
    side.bench._lane = side.lane
    restart(side)
    left = side.verifier.pending()
    assert left is not None
    await side.verifier.consider(left, SPREAD)
    assert side.adopter.incumbent == better.statement.subject
    assert side.state(better) is State.ADOPTED


async def test_what_is_confirmed_while_the_gate_holds_adoption_is_decided_when_it_opens(side: Side) -> None:
    side.held = "frozen"
    found = claim(side, ONE, 0.2)
    await verify_all(side)
    assert side.state(found) is State.CONFIRMED
    assert side.adopter.incumbent == side.baseline
    restart(side)
    side.held = None
    left = side.verifier.pending()
    assert left is not None
    await side.verifier.consider(left, SPREAD)
    assert side.adopter.incumbent == found.statement.subject


async def test_a_ledger_older_than_the_courses_has_what_it_lacks_run_again(side: Side) -> None:
    found = claim(side, ONE, 0.2)
    side.verifier.reconsider()
    side.courses.note(found.id, Step(Move.CONFIRM, State.CONFIRMED, "in a ledger that was lost"))
    restart(side)
    assert side.state(found) is State.QUEUED


async def test_an_own_verdict_that_comes_back_from_a_peer_after_its_claim_is_heeded(side: Side, tmp_path: Path) -> None:
    found = claim(side, ONE, -0.2)
    await verify_all(side)
    fresh = Store.create(tmp_path / "fresh.db", side.store.challenge)
    entries = list(side.store.entries())
    for own in (False, True):
        for signed in entries:
            if (signed.statement.entry.author == side.author.id) is own:
                fresh.add(signed)
        if not own:  # the claim is all that is here
            fresh.blobs.put(side.store.blobs.get(side.baseline))
            fresh.blobs.put(side.store.blobs.get(found.statement.subject))
            lose_courses(side)
            side.store = fresh
            side.author = examples.author(fresh, 2)
            side.bench = Workbench(fresh, side.author, side.lane, examples.TRACK, side.lines.append)
            side.adopter = Adopter(fresh, side.author, IncumbentTree(side.tree), examples.TRACK, side.lines.append)
            restart(side)
            assert side.state(found) is State.QUEUED
    side.verifier.hear()
    assert side.next() is None
    assert side.state(found) is State.REFUTED


def test_a_file_that_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "courses.db"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(UserError, match="Remove it"):
        Courses(path)
    path.unlink()
    Courses(path).note("a", Step(Move.WAIT, State.WAITING, "why"))
    with sqlite3.connect(path) as database:
        database.execute("UPDATE steps SET state = 'dreaming'")
    with pytest.raises(UserError, match="dreaming"):
        Courses(path)


def test_the_first_and_the_latest_steps_are_kept_and_reasons_are_bounded(tmp_path: Path) -> None:
    courses = Courses(tmp_path / "courses.db")
    courses.move("a", Move.WAIT, "the first")
    for number in range(STEPS_MAX):
        courses.move("a", Move.ARRIVE)
        courses.move("a", Move.WAIT, f"{number}" + "x" * 10_000)
    courses.say("a", "y" * 10_000)
    steps = [dated.step for dated in Courses(tmp_path / "courses.db").steps("a")]
    assert len(steps) == STEPS_MAX
    assert steps[0].reason == "the first"
    assert steps[-1].reason == "y" * REASON_CHARS_MAX == courses.reason("a")


def test_an_illegal_move_changes_nothing(tmp_path: Path) -> None:
    courses = Courses(tmp_path / "courses.db")
    with pytest.raises(IllegalMove):
        courses.move("a", Move.ADOPT)
    assert courses.state("a") is None
    assert courses.steps("a") == []


def test_the_first_proof_of_a_ban_stays(tmp_path: Path) -> None:
    courses = Courses(tmp_path / "courses.db")
    courses.ban("liar", Ban(Misdeed.OWN_RECORDS, ("first",)))
    courses.ban("liar", Ban(Misdeed.OWN_RECORDS, ("second",)))
    assert Courses(tmp_path / "courses.db").bans() == {"liar": Ban(Misdeed.OWN_RECORDS, ("first",))}
