"""What a proposer is told, and what the node learns of candidates, over a real ledger and a real search."""

import random
from pathlib import Path

import examples
import pytest
import trio
from msgspec.structs import replace
from scripted import NOISE, ScriptedLane, program

from ledger.predicates import Claim, Discovery, Lesson
from node.adoption import Adopter
from node.claims import Candidate, ClaimBook
from node.context import BRIEF_BYTES_MAX, Contexts
from node.home import SplitChoice
from node.incumbent import IncumbentTree
from node.lessons import LessonBook
from node.population import Population
from node.proposing import Ahead, Ready
from node.research import Research
from node.steering import Steering, Wish
from node.workbench import Workbench
from trainer.proposers.evolve import Evolve
from trainer.proposers.proposal import Outcome, Proposal, fingerprint

SPREAD = 0.01


class Node:
    """The parts of a node that make and try proposals, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, examples.new_store(folder)
        self.author, self.lane, self.lines = examples.author(self.store), ScriptedLane(), list[str]()
        self.adopter = Adopter(
            self.store, self.author, IncumbentTree(folder / "tree"), examples.TRACK, self.lines.append
        )
        self.adopter.begin(self.store.blobs.put(program(0.0)))
        self.bench = Workbench(self.store, self.author, self.lane, examples.TRACK, self.lines.append)
        self.weights: dict[str, float] = {}
        self.start()

    def start(self) -> None:
        """As a restart does it: all but the folder is new."""

        def standing(author: str) -> float:
            return self.weights.get(author, 0.0)

        self.steering = Steering(self.folder / "steering", self.lines.append)
        self.claims = ClaimBook(self.store, self.author, examples.TRACK, standing)
        self.contexts = Contexts(
            self.store,
            self.author,
            examples.TRACK,
            brief=self.folder / "program.md",
            claims=self.claims,
            lessons=LessonBook(self.store, self.author, examples.TRACK, standing),
            steering=self.steering,
            population=Population(
                self.store, self.author.id, examples.TRACK, examples.digest(program(0.0).decode()), standing=standing
            ),
            run_sd=lambda: SPREAD,
            report=self.lines.append,
        )
        self.proposals: list[Ready] = []
        self.research = Research(
            self.store, self.author, self.bench, self.adopter, self, SplitChoice("public", bytes(16)),
            self.lines.append, course=self.contexts,
        )  # fmt: skip
        self.research.resume()
        self.contexts.resume(self.research.under_way)

    def turn_to(self, parent: str) -> None: ...

    def waits(self, parent: str) -> bool:
        return False

    async def next(self, parent: str) -> Ready | None:
        given = self.contexts.by_hand(parent)
        return given or (self.proposals.pop(0) if self.proposals else None)

    def propose(self, text: bytes, operator: str = "constant:GAIN") -> None:
        proposal = Proposal(program=text.decode(), hypothesis="more gain", proposer="given", operator=operator)
        self.proposals.append(Ready(self.adopter.incumbent, proposal))

    async def search(self) -> list[str]:
        """Until there is nothing to try; the kinds of what was stated."""
        stated: list[str] = []
        for _ in range(300):
            statements = await self.research.step()
            if statements is None:
                return stated
            stated += [one.statement.kind for one in statements]
        raise AssertionError("the search does not end")

    def put(self, gain: float) -> str:
        return self.store.blobs.put(program(gain))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


async def test_a_candidate_is_claimed_before_its_first_run_and_remembered_after(node: Node) -> None:
    node.propose(program(-0.3))
    node.propose(program(0.3), "recipe:deeper")
    stated = await node.search()
    assert stated.count("claim") == 2
    assert "discovery" in stated
    runs = [(e.statement.kind, e.statement.subject) for e in node.store.entries() if e.statement.kind != "lesson"]
    child = examples.digest(program(0.3).decode())
    assert runs.index(("claim", child)) < runs.index(("trial", child))
    context = node.contexts(node.adopter.incumbent, frozenset(), random.Random(0))
    assert [(one.operator, one.verdict) for one in context.outcomes][:2] == [
        ("constant:GAIN", "discarded"),
        ("recipe:deeper", "kept"),
    ]
    found = next(e.statement.body for e in node.store.entries() if isinstance(e.statement.body, Discovery))
    assert (found.proposer, found.hypothesis) == ("given", "more gain")


async def test_a_candidate_taken_up_after_a_restart_keeps_its_proposer_and_operator(node: Node) -> None:
    node.propose(program(5 * NOISE), "recipe:deeper")
    while not node.research.search.children:
        await node.research.step()
    node.start()
    await node.search()
    found = next(e.statement.body for e in node.store.entries() if isinstance(e.statement.body, Discovery))
    assert (found.proposer, found.hypothesis) == ("given", "more gain")
    assert node.claims.outcomes()[0].operator == "recipe:deeper"


def test_what_anybody_tried_is_seen_and_peers_claims_are_named(node: Node) -> None:
    peer = examples.author(node.store, 2)
    examples.state_trial(peer, node.put(0.1), 0, 3.0)
    ClaimBook(node.store, peer, examples.TRACK).state(
        Candidate(node.adopter.incumbent, node.put(0.2), "more", "evolve", "constant:GAIN")
    )
    context = node.contexts(node.adopter.incumbent, frozenset({"waiting"}), random.Random(0))
    seen = {"waiting", fingerprint(program(0.1).decode())}
    assert seen <= set(context.seen)  # type: ignore[call-overload]
    assert context.claimed == {fingerprint(program(0.2).decode())}
    assert "" not in context.seen
    near = Ready(
        node.adopter.incumbent,
        Proposal(program=program(0.4).decode(), hypothesis="near", proposer="x"),
    )
    assert node.contexts.contested(near) == 0.0
    assert node.contexts.tried(examples.digest(program(0.1).decode()))


def test_the_brief_is_read_afresh_bounded_and_may_be_missing(node: Node) -> None:
    brief = node.folder / "program.md"
    assert node.contexts.brief() == ""
    brief.write_text("try small models")
    assert node.contexts(node.adopter.incumbent, frozenset(), random.Random(0)).brief == "try small models"
    brief.write_bytes(b"\xff" + b"a" * 2 * BRIEF_BYTES_MAX)
    assert len(node.contexts.brief()) == BRIEF_BYTES_MAX
    brief.unlink()
    brief.mkdir()
    assert node.contexts.brief() == node.contexts.brief() == ""
    assert len(node.lines) - sum("adopted" in line for line in node.lines) == 2  # one line for each trouble


async def test_relatives_are_what_own_runs_confirmed_with_the_nearest_common_ancestor(node: Node) -> None:
    peer = examples.author(node.store, 2)
    base = node.adopter.incumbent
    mine, theirs, further, unchecked = (node.put(gain) for gain in (0.1, 0.2, 0.3, 0.4))
    examples.state_discovery(node.author, base, mine)
    found = examples.state_discovery(peer, base, theirs)
    examples.state_discovery(peer, base, unchecked)
    own = examples.comparison(node.author, base, theirs, examples.GAIN)
    node.author.append("main", theirs, _confirming(found.id, own))
    examples.state_discovery(node.author, theirs, further)
    relatives = node.contexts(mine, frozenset(), random.Random(0)).relatives
    by_program = {one.program: one for one in relatives}
    assert by_program.keys() == {program(0.2).decode(), program(0.3).decode()}
    assert {one.ancestor for one in relatives} == {program(0.0).decode()}
    assert by_program[program(0.3).decode()].effect == pytest.approx(2 * by_program[program(0.2).decode()].effect)
    assert node.contexts(base, frozenset(), random.Random(0)).relatives == ()  # all of them descend from it


async def test_where_a_restart_is_due_other_texts_are_changed_and_the_incumbent_is_compared_with(node: Node) -> None:
    base, best, other = node.adopter.incumbent, node.put(0.3), node.put(0.25)
    examples.state_discovery(node.author, base, other)
    there = node.store.blobs.put(program(0.0, crash_on="ff"))
    elsewhere_found = examples.discovery_body(node.author, base, there)
    node.author.append("main", there, lambda entry: replace(elsewhere_found(entry), track="another-track"))
    found = examples.state_discovery(node.author, base, best)
    node.adopter.adopt(best, found.id, "better", None)
    assert {node.contexts(best, frozenset(), random.Random(n)).origin for n in range(40)} == {""}
    candidate = Candidate(best, node.put(-0.1), "less", "given", "constant:GAIN")
    worse = Outcome(operator="constant:GAIN", hypothesis="less", verdict="discarded", effect=0.1)
    for _ in range(3000):
        node.contexts.ended(candidate, worse, None, "")
        if any("a restart from another lineage" in line for line in node.lines):
            break
    told = [node.contexts(best, frozenset(), random.Random(n)) for n in range(40)]
    elsewhere = [context for context in told if context.origin]
    assert 10 < len(elsewhere) < 38
    assert {context.program for context in elsewhere} == {program(0.25).decode()}
    assert {len(context.transfers) for context in elsewhere} == {0}  # or their effect would be mixed with another's
    assert {len(context.transfers) for context in told if not context.origin} == {1}
    assert all(f"made from {other[:12]}, of another lineage" in context.origin for context in elsewhere)
    assert all(fingerprint(program(0.3).decode()) in context.seen for context in told)
    node.steering.add(Wish(hypothesis="more heads", made_at=0))
    assert {node.contexts(best, frozenset(), random.Random(n)).origin for n in range(40)} == {""}
    kept = Outcome(operator="constant:GAIN", hypothesis="more", verdict="kept", effect=-0.1)
    node.contexts.ended(candidate, kept, None, "")
    assert {node.contexts(best, frozenset(), random.Random(n)).origin for n in range(40)} == {""}


def _confirming(discovery: str, comparison: object):  # type: ignore[no-untyped-def]
    from ledger.predicates import Attestation

    return lambda entry: Attestation(
        entry=entry, discovery=discovery, verdict="confirmed", reason="own runs", comparison=comparison
    )


async def test_failures_become_lessons_and_what_is_forbidden_is_refused(node: Node) -> None:
    for index in range(5):
        node.propose(program(0.1 + index / 100, crash_on="00"))
    stated = await node.search()
    assert "lesson" in stated
    bodies = [e.statement.body for e in node.store.entries() if isinstance(e.statement.body, Lesson)]
    assert {body.failure for body in bodies} == {"crash:other"}
    assert node.contexts(node.adopter.incumbent, frozenset(), random.Random(0)).lessons
    refusal = node.contexts.screen(node.adopter.incumbent, program(0.9, crash_on="00").decode())
    assert refusal is not None
    assert "static rule" in refusal or "fingerprint block" in refusal
    assert node.contexts.screen(node.adopter.incumbent, program(-0.9).decode()) is None


def test_what_the_screen_refuses_is_a_lesson_too_and_is_published(node: Node) -> None:
    bad = "import os\n" + program(0.1).decode()
    assert "os" in (node.contexts.screen(node.adopter.incumbent, bad) or "")
    assert [one.statement.kind for one in node.contexts.take_statements()] == ["lesson"]
    assert node.contexts.take_statements() == []


async def test_the_operators_program_is_tried_next_and_its_fate_shown(node: Node) -> None:
    node.propose(program(-0.5))
    node.steering.add(Wish(hypothesis="by me", program=program(0.3).decode(), made_at=0))
    node.steering.add(Wish(hypothesis="again", program=program(-0.3).decode(), made_at=0))
    await node.search()
    tried = [e.statement.body for e in node.store.entries() if isinstance(e.statement.body, Claim)]
    assert [body.hypothesis for body in tried] == ["by me", "again", "more gain"]
    assert [body.proposer for body in tried] == ["operator", "operator", "given"]
    assert [one.wish.state for one in node.steering.all()] == ["kept", "discarded"]


async def test_the_operators_program_that_was_waiting_at_a_stop_is_tried_after_it(node: Node) -> None:
    node.steering.add(Wish(hypothesis="by me", program=program(0.3).decode(), made_at=0))
    while not node.research.under_way:
        await node.research.step()
    assert [one.wish.state for one in node.steering.all()] == ["trying"]
    node.start()
    assert [one.wish.state for one in node.steering.all()] == ["open"]
    await node.search()
    assert [one.wish.state for one in node.steering.all()] == ["kept"]


async def test_a_peer_who_claimed_first_goes_on_and_nobody_is_stopped_twice_in_a_row(node: Node) -> None:
    peer = examples.author(node.store, 2)
    theirs = ClaimBook(node.store, peer, examples.TRACK)
    for gain in (0.4, 0.5):
        theirs.state(Candidate(node.adopter.incumbent, node.put(gain + 1), "more", "evolve", "constant:GAIN"))
        node.propose(program(gain))
    await node.search()
    left = [line for line in node.lines if "claimed it first" in line]
    assert len(left) == 1
    ran = {request.program for request in node.lane.requests}
    assert program(0.4) not in ran
    assert program(0.5) in ran


async def test_a_plateau_widens_the_search_and_says_why_and_a_keep_ends_it(node: Node) -> None:
    candidate = Candidate(node.adopter.incumbent, node.put(-0.1), "less", "given", "constant:GAIN")
    worse = Outcome(operator="constant:GAIN", hypothesis="less", verdict="discarded", effect=0.1)
    for _ in range(400):
        node.contexts.ended(candidate, worse, None, "")
        if any(line.startswith("plateau") for line in node.lines):
            break
    assert node.contexts(node.adopter.incumbent, frozenset(), random.Random(0)).widen > 0
    assert "without a keep" in node.lines[-1]
    kept = Outcome(operator="constant:GAIN", hypothesis="more", verdict="kept", effect=-0.1)
    node.contexts.ended(candidate, kept, None, "")
    assert node.contexts(node.adopter.incumbent, frozenset(), random.Random(0)).widen == 0


async def test_evolve_proposes_over_a_ledger_and_repeats_nothing(node: Node, nursery: trio.Nursery) -> None:
    ahead = Ahead(
        node.contexts, Evolve(recipes=()), node.contexts.screen, random.Random, node.lines.append,
        outlook=node.contexts,
    )  # fmt: skip
    nursery.start_soon(ahead.run)
    found = [await ahead.next(node.adopter.incumbent) for _ in range(4)]
    texts = [ready.proposal.program for ready in found if ready is not None]
    assert len({fingerprint(text) for text in texts}) == len(texts) >= 2
