"""What a node does with others' discoveries, and with its own candidates, from the ledger alone."""

import shutil
from pathlib import Path

import examples
import pytest
from scripted import program
from sides import BASELINE, PRIVATE, SPREAD, Side, conclude, discover

from ledger import queries
from ledger.envelope import Signed
from ledger.predicates import PROGRAM_BYTES_MAX, Attestation, Discovery, Reveal
from ledger.statements import commit, opens
from node.salts import Salts
from node.workbench import seeds_of
from policy.intake import State
from policy.splits import USES_MAX


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
    side = Side(tmp_path / "a", 1, program(-0.3), program(0.3, crash_on="00"))
    assert await conclude(side) == []
    assert await conclude(side) == []
    assert await conclude(side) is None  # nothing left to propose
    assert side.adopter.incumbent == side.baseline
    assert queries.counts(side.store).get("discovery") is None
    assert sum(request.program != BASELINE for request in side.lane.requests) == 2  # one run each


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
    assert two.next() is None


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
    while not two.research.search.children:
        assert await two.research.step() == []
    found = await discover(one)
    two.receive(one.store)
    await two.verify_next()
    assert two.adopter.incumbent == found.statement.subject
    await two.research.step()
    assert any("given up" in line for line in two.lines)
    better = await discover(two)
    assert better.statement.subject == two.store.blobs.put(program(1.5))
    assert isinstance(better.statement.body, Discovery)
    assert better.statement.body.parent == found.statement.subject


async def test_a_discovery_waits_for_what_has_not_arrived(tmp_path: Path) -> None:
    one, two = Side(tmp_path / "a", 1, program(0.3)), Side(tmp_path / "b", 2)
    found = await discover(one)
    two.receive(one.store, blobs=False)
    assert two.next() is None
    assert two.verifier.states[found.id] is State.WAITING
    assert "have not arrived" in two.verifier.reasons[found.id]
    two.verifier.hear()
    assert two.next() is None
    two.receive(one.store)
    assert two.next() is None  # looked at again only when something is heard
    two.verifier.hear()
    assert two.next() is not None
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
    assert two.next() is None
    assert set(two.verifier.states.values()) == {State.REJECTED}
    assert two.lane.requests == []
    assert await discover(two)


async def test_a_claim_that_contradicts_its_records_costs_no_run(tmp_path: Path) -> None:
    liar, two = Side(tmp_path / "a", 1), Side(tmp_path / "b", 2)
    child = liar.store.blobs.put(program(-0.1))
    found = examples.state_discovery(liar.author, child, child)
    two.receive(liar.store)
    assert two.next() is None
    assert two.verifier.states[found.id] is State.REJECTED
    assert two.lane.requests == []


async def test_interrupted_between_verdict_and_adoption(tmp_path: Path) -> None:
    one, two = Side(tmp_path / "a", 1, program(0.3)), Side(tmp_path / "b", 2)
    found = await discover(one)
    two.receive(one.store)
    comparing = two.bench.comparing(two.baseline, found.statement.subject, seeds_of(b"test"), PRIVATE, SPREAD)
    compared = await comparing.run()
    two.author.append(
        "main",
        found.statement.subject,
        lambda entry: Attestation(
            entry=entry, discovery=found.id, verdict="confirmed", reason="", comparison=compared.comparison
        ),
    )
    two.verifier = two.new_verifier()
    assert two.next() is None
    left = two.verifier.pending()
    assert left is not None
    statements = await two.verifier.consider(left, SPREAD)
    assert [signed.statement.kind for signed in statements] == ["adoption"]
    two.verifier = two.new_verifier()
    assert two.next() is None
    assert two.verifier.pending() is None


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
