"""What a node does with others' discoveries, and with its own candidates, from the ledger alone."""

import random
import shutil
import subprocess
from pathlib import Path

import examples
import pytest
from scripted import NOISE, ScriptedLane, program

from ledger import queries
from ledger.author import Author
from ledger.envelope import Signed, open_envelope
from ledger.predicates import PROGRAM_BYTES_MAX, Attestation, Discovery, Reveal
from ledger.statements import commit, opens
from ledger.store import Store
from node.adoption import Adopter
from node.home import SplitChoice
from node.incumbent import IncumbentTree
from node.research import Research
from node.salts import USES_MAX, Salts
from node.verify import Verifier
from node.workbench import Workbench, seeds_of
from policy.intake import State
from trainer.proposers.proposal import Context, NothingNew, Proposal

PUBLIC = SplitChoice("public", bytes(16))
PRIVATE = SplitChoice(commit(b"\x11" * 16), b"\x11" * 16)
BASELINE = program(0.0)


class Scripted:
    """A proposer that proposes what it was given, in order."""

    name = "scripted"

    def __init__(self, *programs: bytes) -> None:
        self.programs = list(programs)

    def propose(self, context: Context, rng: random.Random) -> Proposal:
        if not self.programs:
            raise NothingNew("the script is over")
        return Proposal(program=self.programs.pop(0).decode(), hypothesis="a larger gain", proposer="scripted")


class Side:
    """One node's parts, without its network."""

    def __init__(self, folder: Path, number: int, *candidates: bytes) -> None:
        folder.mkdir()
        self.store = examples.new_store(folder)
        self.author: Author = examples.author(self.store, number)
        self.lane, self.lines = ScriptedLane(), list[str]()
        self.baseline = self.store.blobs.put(BASELINE)
        self.salts_file = folder / "private.salt"
        Salts.create(self.salts_file, PRIVATE.salt)
        self.tree = folder / "incumbent"
        self.bench = Workbench(self.store, self.author, self.lane, examples.TRACK, self.lines.append)
        self.adopter = Adopter(self.store, self.author, IncumbentTree(self.tree), examples.TRACK, self.lines.append)
        self.research = Research(
            self.store, self.author, self.bench, self.adopter, Scripted(*candidates), PUBLIC, self.lines.append
        )
        self.verifier = self.new_verifier()
        self.adopter.begin(self.baseline)

    def new_verifier(self) -> Verifier:
        tracks = {examples.TRACK: self.baseline}
        salts = Salts(self.salts_file, lambda: b"\x22" * 16)
        return Verifier(self.store, self.author, self.bench, self.adopter, salts, tracks, self.lines.append)

    def receive(self, source: Store, *, blobs: bool = True) -> None:
        """Everything that the other ledger has."""
        for (author, feed), _ in source.heads().items():
            for envelope in source.envelopes(author, feed, 0, 10**9):
                self.store.add(open_envelope(envelope))
        if blobs:
            for digest in self.store.blobs.missing(100):
                self.store.blobs.put(source.blobs.get(digest))

    async def verify_next(self) -> list[Signed]:
        row = self.verifier.next()
        assert row is not None
        return await self.verifier.step(row, 2 * NOISE)

    def diary(self) -> list[str]:
        command = ["git", "-C", str(self.tree), "log", "--format=%s", "--reverse"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


async def conclude(side: Side) -> list[Signed] | None:
    """Steps of research up to the verdict on one candidate; None if there is none to try."""
    while (statements := await side.research.step(2 * NOISE)) == [] and "discarded" not in side.lines[-1]:
        pass
    return statements


async def discover(side: Side) -> Signed:
    statements = await conclude(side)
    assert statements is not None
    assert [signed.statement.kind for signed in statements] == ["discovery", "adoption"]
    return statements[0]


def claimed_seeds(found: Signed) -> tuple[int, ...]:
    body = found.statement.body
    assert isinstance(body, Discovery)
    return body.comparison.seeds


async def test_a_gain_is_kept_stated_and_adopted(tmp_path: Path) -> None:
    side = Side(tmp_path / "a", 1, program(0.3))
    found = await discover(side)
    assert side.adopter.incumbent == found.statement.subject
    assert (side.tree / "train.py").read_bytes() == program(0.3)
    assert len(side.diary()) == 2
    assert side.diary()[0] == "the challenge's baseline"


async def test_no_gain_is_discarded_and_nothing_is_stated(tmp_path: Path) -> None:
    side = Side(tmp_path / "a", 1, program(-0.3), program(0.3, crash_on="00"), b"not a program")
    assert await conclude(side) == []
    assert await conclude(side) == []
    assert await conclude(side) is None  # refused by the screen before any run
    assert await conclude(side) is None  # nothing left to propose
    assert side.adopter.incumbent == side.baseline
    assert queries.counts(side.store).get("discovery") is None
    assert len(side.lane.requests) == 4  # a pair, and the parent's run before the child's crash


async def test_a_true_discovery_is_confirmed_on_the_private_split_and_adopted(tmp_path: Path) -> None:
    one, two = Side(tmp_path / "a", 1, program(0.3)), Side(tmp_path / "b", 2)
    found = await discover(one)
    two.receive(one.store)
    statements = await two.verify_next()
    assert [signed.statement.kind for signed in statements] == ["attestation", "adoption"]
    attestation = statements[0].statement.body
    assert isinstance(attestation, Attestation)
    assert attestation.verdict == "confirmed"
    assert attestation.comparison is not None
    assert attestation.comparison.split == PRIVATE.name
    assert not set(attestation.comparison.seeds) & set(claimed_seeds(found))
    assert {request.salt for request in two.lane.requests} == {PRIVATE.salt}
    assert two.adopter.incumbent == found.statement.subject
    assert two.verifier.states[found.id] is State.ADOPTED
    assert two.verifier.next() is None


async def test_a_spent_split_is_revealed_and_opens_the_verdicts_on_it(tmp_path: Path) -> None:
    one, two = Side(tmp_path / "a", 1, program(0.3)), Side(tmp_path / "b", 2)
    await discover(one)
    two.receive(one.store)
    spent = Salts(two.salts_file, lambda: b"\x22" * 16)
    for _ in range(USES_MAX):
        spent.use()
    two.verifier = two.new_verifier()
    statements = await two.verify_next()
    assert [signed.statement.kind for signed in statements] == ["reveal", "attestation", "adoption"]
    reveal, attestation = statements[0].statement.body, statements[1].statement.body
    assert isinstance(reveal, Reveal)
    assert isinstance(attestation, Attestation)
    assert attestation.comparison is not None
    assert opens(PRIVATE.name, bytes.fromhex(reveal.salt))
    assert attestation.comparison.split == commit(b"\x22" * 16)
    assert two.new_verifier()._reveal() == []  # once


async def test_a_fabricated_gain_is_refuted(tmp_path: Path) -> None:
    liar, two = Side(tmp_path / "a", 1), Side(tmp_path / "b", 2)
    child = liar.store.blobs.put(program(-0.1))
    examples.state_discovery(liar.author, liar.baseline, child)  # its trials are invented, and agree with the claim
    two.receive(liar.store)
    statements = await two.verify_next()
    assert [signed.statement.kind for signed in statements] == ["attestation"]
    body = statements[0].statement.body
    assert isinstance(body, Attestation)
    assert body.verdict == "refuted"
    assert two.adopter.incumbent == two.baseline


async def test_a_program_that_fails_only_for_others_is_refuted(tmp_path: Path) -> None:
    one, two = Side(tmp_path / "a", 1, program(0.3, crash_on="11")), Side(tmp_path / "b", 2)
    await discover(one)
    two.receive(one.store)
    statements = await two.verify_next()
    body = statements[0].statement.body
    assert isinstance(body, Attestation)
    assert (body.verdict, body.comparison) == ("refuted", None)
    assert "crash" in body.reason


async def test_what_does_not_beat_the_incumbent_is_confirmed_and_declined(tmp_path: Path) -> None:
    one, two = Side(tmp_path / "a", 1, program(0.3)), Side(tmp_path / "b", 2, program(0.6))
    found = await discover(one)
    better = await discover(two)
    two.receive(one.store)
    statements = await two.verify_next()
    assert [signed.statement.kind for signed in statements] == ["attestation"]
    assert two.verifier.states[found.id] is State.DECLINED
    assert two.adopter.incumbent == better.statement.subject


async def test_what_beats_an_incumbent_that_is_not_its_parent_is_adopted(tmp_path: Path) -> None:
    one, two = Side(tmp_path / "a", 1, program(0.9)), Side(tmp_path / "b", 2, program(0.3))
    found = await discover(one)
    await discover(two)
    two.receive(one.store)
    statements = await two.verify_next()
    assert [signed.statement.kind for signed in statements] == ["attestation", "adoption"]
    assert two.adopter.incumbent == found.statement.subject
    adopted = queries.last_adoption(two.store, two.author.id, examples.TRACK)
    assert adopted is not None
    assert adopted.previous is not None


async def test_a_claim_goes_before_an_own_candidate_which_falls_with_its_parent(tmp_path: Path) -> None:
    one, two = Side(tmp_path / "a", 1, program(0.9)), Side(tmp_path / "b", 2, program(0.3), program(1.5))
    assert await two.research.step(2 * NOISE) == []  # the first pair of its own candidate
    found = await discover(one)
    two.receive(one.store)
    await two.verify_next()
    assert two.adopter.incumbent == found.statement.subject
    await two.research.step(2 * NOISE)
    assert any("given up" in line for line in two.lines)
    better = await discover(two)
    assert better.statement.subject == two.store.blobs.put(program(1.5))
    assert isinstance(better.statement.body, Discovery)
    assert better.statement.body.parent == found.statement.subject


async def test_a_discovery_waits_for_what_has_not_arrived(tmp_path: Path) -> None:
    one, two = Side(tmp_path / "a", 1, program(0.3)), Side(tmp_path / "b", 2)
    found = await discover(one)
    two.receive(one.store, blobs=False)
    assert two.verifier.next() is None
    assert two.verifier.states[found.id] is State.RECEIVED
    assert "have not arrived" in two.verifier.reasons[found.id]
    two.receive(one.store)
    assert two.verifier.next() is None  # looked at again only when something is heard
    two.verifier.hear()
    assert two.verifier.next() is not None
    assert found.id not in two.verifier.reasons


async def test_programs_that_cannot_be_read_end_nobody(tmp_path: Path) -> None:
    """A stranger's deep, binary or enormous text is in the ledger, with trials that name it."""
    stranger, two = Side(tmp_path / "a", 1), Side(tmp_path / "b", 2, program(0.3))
    deep = program(0.1) + b"x = 1" + b" + 1" * 500 + b"\n"
    for text in (deep, b"\xff\xfe", b"#" * (PROGRAM_BYTES_MAX + 1)):
        odd = stranger.store.blobs.put(text)
        examples.state_discovery(stranger.author, stranger.baseline, odd)
        child = stranger.store.blobs.put(program(0.2) + b"# on " + odd.encode())
        examples.state_discovery(stranger.author, odd, child)
    two.receive(stranger.store)
    assert two.verifier.next() is None
    assert set(two.verifier.states.values()) == {State.REJECTED}
    assert two.lane.requests == []
    assert await discover(two)


async def test_a_claim_that_contradicts_its_records_costs_no_run(tmp_path: Path) -> None:
    liar, two = Side(tmp_path / "a", 1), Side(tmp_path / "b", 2)
    child = liar.store.blobs.put(program(-0.1))
    found = examples.state_discovery(liar.author, child, child)
    two.receive(liar.store)
    assert two.verifier.next() is None
    assert two.verifier.states[found.id] is State.REJECTED
    assert two.lane.requests == []


async def test_interrupted_between_verdict_and_adoption(tmp_path: Path) -> None:
    one, two = Side(tmp_path / "a", 1, program(0.3)), Side(tmp_path / "b", 2)
    found = await discover(one)
    two.receive(one.store)
    comparing = two.bench.comparing(
        two.baseline, found.statement.subject, seeds_of(b"test"), PRIVATE, 2 * NOISE, give_up_early=False
    )
    compared = await comparing.run()
    two.author.append(
        "main",
        found.statement.subject,
        lambda entry: Attestation(
            entry=entry, discovery=found.id, verdict="confirmed", reason="", comparison=compared.comparison
        ),
    )
    restarted = two.new_verifier()
    assert restarted.next() is None
    left = restarted.interrupted()
    assert left is not None
    statements = await restarted.consider(*left, 2 * NOISE)
    assert [signed.statement.kind for signed in statements] == ["adoption"]
    assert two.new_verifier().interrupted() is None


@pytest.mark.parametrize("damage", ["delete", "change"])
async def test_the_working_tree_is_mended_from_the_ledger(tmp_path: Path, damage: str) -> None:
    side = Side(tmp_path / "a", 1, program(0.3))
    await discover(side)
    if damage == "delete":
        shutil.rmtree(side.tree)
    else:
        (side.tree / "train.py").write_text("edited by hand")
    assert side.adopter.begin(side.baseline) == []
    assert (side.tree / "train.py").read_bytes() == program(0.3)
