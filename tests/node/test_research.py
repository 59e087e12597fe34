"""The node's own search over its ledger: its runs, what a keep rests on, and how it goes on after a restart."""

from pathlib import Path

import examples
import pytest
from scripted import NOISE, ScriptedLane, program

from ledger.author import Author
from ledger.envelope import Signed
from ledger.predicates import Discovery
from node.adoption import Adopter
from node.errors import NodeFailure
from node.home import SplitChoice
from node.incumbent import IncumbentTree
from node.proposing import Ready
from node.research import INCUMBENT_FAILURES_MAX, Research
from node.workbench import Workbench
from policy.search import CONFIRMING_MIN, Step
from trainer.proposers.proposal import Proposal

PUBLIC = SplitChoice("public", bytes(16))


class Given:
    """Proposals as they were given, in order."""

    def __init__(self, programs: list[bytes]) -> None:
        self._programs = programs
        self.slow = False
        self.parents: list[str] = []  # in the order in which it heard of them

    def turn_to(self, parent: str) -> None:
        if parent not in self.parents:
            self.parents.append(parent)

    def waits(self, parent: str) -> bool:
        return self.slow

    async def next(self, parent: str) -> Ready | None:
        if not self._programs:
            return None
        text = self._programs.pop(0).decode()
        return Ready(parent, Proposal(program=text, hypothesis=f"idea {len(self._programs)}", proposer="given"))


class Node:
    """What research needs, with a lane whose trials cost nothing."""

    def __init__(self, folder: Path, *programs: bytes, baseline: bytes = program(0.0)) -> None:
        self.store = examples.new_store(folder)
        self.author: Author = examples.author(self.store)
        self.lane, self.lines, self.programs = ScriptedLane(), list[str](), list(programs)
        self.bench = Workbench(self.store, self.author, self.lane, examples.TRACK, self.lines.append)
        self.adopter = Adopter(
            self.store, self.author, IncumbentTree(folder / "tree"), examples.TRACK, self.lines.append
        )
        self.adopter.begin(self.store.blobs.put(baseline))
        self.given = Given(self.programs)
        self.research = self.started()

    def started(self) -> Research:
        research = Research(self.store, self.author, self.bench, self.adopter, self.given, PUBLIC, self.lines.append)
        research.resume()
        return research

    async def until_found(self) -> Signed:
        for _ in range(200):
            statements = await self.research.step()
            assert statements is not None
            if statements:
                return statements[0]
        raise AssertionError("nothing was found in 200 steps")


async def test_a_keep_rests_on_the_runs_after_the_first(tmp_path: Path) -> None:
    node = Node(tmp_path, program(5 * NOISE))
    found = (await node.until_found()).statement.body
    assert isinstance(found, Discovery)
    assert len(found.comparison.seeds) >= CONFIRMING_MIN
    ran = [request.seed for request in node.lane.requests if request.program == program(5 * NOISE)]
    assert set(found.comparison.seeds) == set(ran[1:])
    assert found.comparison.mean == pytest.approx(-5 * NOISE, abs=4 * NOISE)


async def test_losers_cost_one_run_each_and_the_incumbent_is_not_run_again_for_each(tmp_path: Path) -> None:
    losers = [program(-20 * NOISE - index / 1000) for index in range(20)]
    node = Node(tmp_path, *losers)
    while await node.research.step() is not None:
        pass
    runs = [request.program for request in node.lane.requests]
    assert [runs.count(loser) for loser in losers] == [1] * 20
    assert runs.count(program(0.0)) < 20  # those before the first candidate among them


async def test_a_restart_at_any_run_goes_on_as_if_there_had_been_none(tmp_path: Path) -> None:
    """The search that is read back from the ledger asks for the same as the one that never stopped."""
    node = Node(tmp_path, program(-0.05), program(2 * NOISE), program(0.3, crash_on="00"), program(0.05), program(-0.1))
    for _ in range(60):
        if await node.research.step() is None:
            break
        again = node.started()
        was = node.research.search
        if was.next().step in (Step.CHILD, Step.KEEP, Step.DISCARD) and not was.children:
            continue  # a candidate without a run leaves no trace
        if again.search.next().step is Step.DISCARD and not was.children:
            await again.step()  # nor does the end of one
        assert (again.search.runs, again.search.keeps) == (was.runs, was.keeps)
        assert again.search.sd == pytest.approx(was.sd)
        if was.children or was.next().step is not Step.PROPOSE:
            assert again.search.next() == was.next()
    assert node.research.search.keeps >= 1


async def test_controls_run_while_a_candidate_is_being_made_and_not_for_ever(tmp_path: Path) -> None:
    node = Node(tmp_path, program(-0.1))
    while node.research.search.next().step is Step.CONTROL:
        await node.research.step()
    node.given.slow = True
    runs = node.research.search.runs
    for _ in range(8):
        await node.research.step()
        if node.research.under_way:
            break
    assert node.research.under_way  # it waited after all
    assert 1 <= node.research.search.runs - runs <= 4
    assert {request.program for request in node.lane.requests} == {program(0.0)}


async def test_proposers_hear_of_each_parent_before_its_controls(tmp_path: Path) -> None:
    node = Node(tmp_path, program(8 * NOISE))
    baseline, other = node.adopter.incumbent, node.store.blobs.put(program(0.2))
    await node.research.step()
    assert node.given.parents == [baseline]
    found = await node.until_found()
    assert node.given.parents == [baseline, found.statement.subject]
    node.adopter.adopt(other, None, "by a peer", None)
    await node.research.step()
    assert node.given.parents[2:] == [other]
    assert node.lane.requests[-1].program == program(0.2)


async def test_a_candidate_whose_text_was_lost_is_given_up(tmp_path: Path) -> None:
    node = Node(tmp_path, program(5 * NOISE))
    while len(node.research.search.children) < 2:
        await node.research.step()
    with node.store.db.conn as lost:
        lost.execute("DELETE FROM blobs WHERE digest = ?", (node.research.under_way,))
    again = node.started()
    assert again.under_way == ""
    assert again.search.next().step in (Step.CONTROL, Step.PROPOSE)
    assert "its text is not here" in node.lines[-1]


async def test_an_incumbent_that_does_not_run_ends_the_node(tmp_path: Path) -> None:
    node = Node(tmp_path, baseline=program(0.0, crash_on="00"))
    assert [await node.research.step() for _ in range(INCUMBENT_FAILURES_MAX - 1)] == [[], []]
    with pytest.raises(NodeFailure, match="does not run on this machine"):
        await node.research.step()
