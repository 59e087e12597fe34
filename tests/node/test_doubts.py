"""What speaks against what was believed: what falls, what is run again, and where the node goes back to."""

from pathlib import Path

import examples
import histories
import pytest
from scripted import ScriptedLane
from sides import SPREAD, Side, claim, verdicts, verify_all

from ledger import queries
from ledger.envelope import Signed
from ledger.predicates import Adoption, Measurement, Retraction
from policy.intake import State
from policy.priority import LOOKS_MAX
from trainer.requests import TrialRequest

ONE, TWO = 5, 6
PEERS = (20, 21, 22)


class Turning(ScriptedLane):
    """Programs do worse than the baseline from some day on, as what was chance does."""

    def __init__(self) -> None:
        super().__init__()
        self.turned: set[bytes] = set()

    async def trial(self, request: TrialRequest) -> Measurement:
        if request.program in self.turned:
            self.requests.append(request)
            return examples.measurement(3.2 + request.seed % 7 / 1000)
        return await super().trial(request)


@pytest.fixture
def lane() -> Turning:
    return Turning()


@pytest.fixture
def side(tmp_path: Path, lane: Turning) -> Side:
    side = Side(tmp_path / "b", 2)
    side.lane = side.bench._lane = lane
    return side


async def adopted(side: Side, number: int, gain: float, parent: str = "") -> Signed:
    """A discovery that the node has confirmed and built on."""
    found = claim(side, number, gain, parent)
    await verify_all(side)
    assert side.adopter.incumbent == found.statement.subject
    return found


def take_back(side: Side, number: int, found: Signed) -> None:
    histories.state_retraction(examples.author(side.store, number), found)
    side.verifier.hear()


async def trusted_peers(side: Side) -> None:
    """Let three peers refute what this node then refutes too."""
    for index in range(7):
        lie = claim(side, 40 + index, -0.1 - index / 100)
        for number in PEERS:
            examples.state_attestation(examples.author(side.store, number), lie, "refuted")
    assert verdicts(await verify_all(side)) == ["refuted"] * 7


def refute(side: Side, found: Signed) -> None:
    for number in PEERS:
        examples.state_attestation(examples.author(side.store, number), found, "refuted")
    side.verifier.hear()


def last_adoption(made: list[Signed]) -> Adoption:
    body = made[-1].statement.body
    assert isinstance(body, Adoption)
    return body


@pytest.mark.parametrize("ground", ["its author", "two histories", "a quorum"])
async def test_what_was_confirmed_here_is_run_again_before_it_falls_and_may_hold(side: Side, ground: str) -> None:
    if ground == "a quorum":
        await trusted_peers(side)
    found = await adopted(side, ONE, 0.2)
    runs = len(side.lane.requests)
    if ground == "its author":
        take_back(side, ONE, found)
    elif ground == "two histories":
        histories.equivocate(side.store, ONE, found)
        side.verifier.hear()
    else:
        refute(side, found)
    assert side.verifier.reconsider() == []
    assert side.state(found) is State.QUEUED
    side.verifier = side.new_verifier()
    row = side.next()
    assert row is not None
    assert row.id == found.id
    made = await verify_all(side)
    assert {one.statement.kind for one in made} == {"attestation"}
    assert set(verdicts(made)) == {"confirmed"}
    assert 1 <= len(made) < LOOKS_MAX
    assert side.state(found) is State.ADOPTED
    assert side.adopter.incumbent == found.statement.subject
    assert len(side.lane.requests) >= runs + 6
    side.verifier.hear()
    assert await verify_all(side) == []  # not again for the same reason


async def test_what_own_runs_refute_later_falls_and_the_node_goes_back_to_the_sound_ancestor(
    side: Side, lane: Turning
) -> None:
    first = await adopted(side, ONE, 0.2)
    second = await adopted(side, TWO, 0.4, first.statement.subject)
    lane.turned.add(side.store.blobs.get(second.statement.subject))
    take_back(side, TWO, second)
    made = await verify_all(side)
    assert [one.statement.kind for one in made] == ["attestation", "retraction", "adoption"]
    assert verdicts(made) == ["refuted"]
    retraction = made[1].statement.body
    assert isinstance(retraction, Retraction)
    assert retraction.discovery == second.id
    assert made[0].id in retraction.evidence
    assert retraction.comparison is not None
    assert side.adopter.incumbent == first.statement.subject
    back = last_adoption(made)
    assert back.discovery == first.id
    assert back.previous == second.statement.subject
    assert second.id[:16] in back.reason
    assert side.diary()[-1].startswith("back to the last sound program")
    assert side.state(first) is State.ADOPTED
    side.verifier = side.new_verifier()
    assert await verify_all(side) == []  # taken back once


async def test_with_an_ancestor_falls_what_was_built_on_it(side: Side, lane: Turning) -> None:
    first = await adopted(side, ONE, 0.2)
    second = await adopted(side, TWO, 0.4, first.statement.subject)
    lane.turned.add(side.store.blobs.get(first.statement.subject))
    take_back(side, ONE, first)
    made = await verify_all(side)
    assert side.adopter.incumbent == side.baseline
    assert last_adoption(made).discovery is None
    assert side.verifier._doubts.rests_on(second.id) == first.id


async def test_a_node_killed_before_it_went_back_does_so_at_its_next_start(side: Side, lane: Turning) -> None:
    first = await adopted(side, ONE, 0.2)
    lane.turned.add(side.store.blobs.get(first.statement.subject))
    take_back(side, ONE, first)
    row = side.next()
    assert row is not None
    await side.verifier.step(row, SPREAD)
    assert side.adopter.incumbent == first.statement.subject
    side.verifier = side.new_verifier()
    kinds = [one.statement.kind for one in side.verifier.reconsider()]
    assert kinds == ["retraction", "adoption"]
    assert side.adopter.incumbent == side.baseline


async def test_a_quorum_of_strangers_reopens_nothing(side: Side) -> None:
    found = await adopted(side, ONE, 0.2)
    refute(side, found)
    assert await verify_all(side) == []
    assert side.state(found) is State.ADOPTED


async def test_an_own_discovery_that_a_quorum_doubts_is_run_again_by_its_finder(side: Side, lane: Turning) -> None:
    await trusted_peers(side)
    mine = claim(side, 2, 0.3)
    side.adopter.adopt(mine.statement.subject, mine.id, "found here", None)
    side.verifier.reconsider()
    assert side.state(mine) is State.ADOPTED
    lane.turned.add(side.store.blobs.get(mine.statement.subject))
    refute(side, mine)
    made = await verify_all(side)
    assert [one.statement.kind for one in made] == ["attestation", "retraction", "adoption"]
    retraction = made[1].statement.body
    assert isinstance(retraction, Retraction)
    assert len(retraction.evidence) == 1 + len(PEERS)
    assert side.adopter.incumbent == side.baseline
    found = queries.discovery(side.store, mine.id)
    assert found is not None
    assert found.retracted


async def test_a_long_chain_on_what_is_refuted_costs_few_questions(side: Side) -> None:
    """A liar's claims, each on the one before, none of which is here in full."""
    root = claim(side, ONE, -0.2)
    by, parent = examples.author(side.store, ONE), root.statement.subject
    with side.store.batch():
        body = examples.discovery_body(by, parent, examples.digest("0"))
        for index in range(300):
            child = examples.digest(f"{index}")
            by.append("main", child, body)
            parent = child
    side.verifier.hear()
    asked: list[str] = []
    while (row := side.next()) is None:
        pass
    await side.verifier.step(row, SPREAD)
    side.store.db.conn.set_trace_callback(asked.append)
    side.verifier.reconsider()
    side.store.db.conn.set_trace_callback(None)
    assert side.state(root) is State.REFUTED
    assert len(asked) < 1000
