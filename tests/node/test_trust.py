"""What authors' words are worth to a node, from its own ledger."""

from pathlib import Path

import examples
import histories
import pytest
from scripted import program
from sides import Side, claim, verdicts, verify_all

from ledger.author import Author
from node.trust import Trust
from policy.intake import Move, State
from policy.quorum import Opinion
from policy.standing import STRANGER, Kind, Misdeed, Outcome

ONE, TWO, THREE = 5, 6, 7
HONEST_GAINS = (0.20, 0.21, 0.22, 0.19)


@pytest.fixture
def side(tmp_path: Path) -> Side:
    return Side(tmp_path / "b", 2)


def trust_of(side: Side) -> Trust:
    """As a node knows it that has just started."""
    trust = Trust(side.store, side.author.id, side.courses.bans)
    trust.refresh()
    return trust


def outcomes(trust: Trust, number: int) -> list[Outcome]:
    return [word.outcome for word in trust.words if word.author == examples.author_id(number)]


async def earn(side: Side, number: int) -> None:
    """Let an author make true claims, which the node runs."""
    for gain in HONEST_GAINS:
        claim(side, number, gain)
    await verify_all(side)


async def test_standing_is_earned_by_what_own_runs_show_and_survives_a_restart(side: Side) -> None:
    author = examples.author_id(ONE)
    assert trust_of(side).word(author) == 0
    await earn(side, ONE)
    trust = trust_of(side)
    assert outcomes(trust, ONE) == [Outcome.HELD] * len(HONEST_GAINS)
    assert trust.weight(author, Kind.CLAIM) > 0.1
    assert trust.weight(author, Kind.CONFIRM) == trust.weight(author, Kind.REFUTE) == 0
    assert trust.standing(author).checked == len(HONEST_GAINS)
    running = side.verifier._trust
    assert (running.words, running.gains) == (trust.words, trust.gains)


async def test_exaggerating_earns_less_and_fabricating_costs_what_was_earned(side: Side) -> None:
    await earn(side, ONE)
    before = trust_of(side).word(examples.author_id(ONE))
    claim(side, ONE, 0.25, says=0.4)
    await verify_all(side)
    assert outcomes(trust_of(side), ONE)[-1] is Outcome.EXAGGERATED
    assert 0 < trust_of(side).word(examples.author_id(ONE)) < before
    claim(side, ONE, -0.2)
    await verify_all(side)
    assert outcomes(trust_of(side), ONE)[-1] is Outcome.CONTRADICTED
    assert trust_of(side).word(examples.author_id(ONE)) == 0


async def test_a_verdict_counts_only_if_it_was_here_before_ours(side: Side) -> None:
    found = claim(side, ONE, -0.2)
    histories.state_measured(examples.author(side.store, TWO), found, "refuted", [(3.0, 3.2)] * 2)
    assert verdicts(await verify_all(side)) == ["refuted"]
    examples.state_attestation(examples.author(side.store, THREE), found, "refuted")
    side.verifier.hear()
    await verify_all(side)
    for trust in (trust_of(side), side.verifier._trust):
        assert outcomes(trust, TWO) == [Outcome.RIGHT]
        assert outcomes(trust, THREE) == []


async def test_hundreds_of_strangers_weigh_nothing(side: Side) -> None:
    found = claim(side, ONE, -0.2)
    with side.store.batch():
        for number in range(100, 400):
            examples.state_attestation(examples.author(side.store, number), found, "confirmed")
    trust = trust_of(side)
    assert len(trust.voices(found.id)) == 300
    assert trust.tally(found.id).opinion is Opinion.NONE
    assert trust.belief(trust.claims[found.id]) == 0


async def test_who_signs_two_histories_is_banned_with_the_proof_and_not_run(side: Side) -> None:
    await earn(side, ONE)
    found = claim(side, ONE, 0.23)
    side.verifier.reconsider()
    assert side.state(found) is State.QUEUED
    histories.equivocate(side.store, ONE, found)
    side.verifier.hear()
    side.verifier.reconsider()
    assert side.state(found) is State.OVERTURNED
    assert found.id not in side.verifier.intake.queue
    ban = trust_of(side).standing(examples.author_id(ONE)).ban
    assert ban is not None
    assert ban.misdeed is Misdeed.EQUIVOCATION
    assert len(ban.proof) == 1
    assert trust_of(side).word(examples.author_id(ONE)) == 0


async def test_who_contradicts_its_own_trials_is_banned_at_once_and_after_a_restart(side: Side) -> None:
    queued = claim(side, ONE, 0.2)
    side.verifier.reconsider()
    assert side.state(queued) is State.QUEUED
    by, child = examples.author(side.store, ONE), side.store.blobs.put(program(0.3))
    body = examples.discovery_body(by, side.baseline, child, [(3.0, 2.9)] * 3)
    other = side.store.blobs.put(program(0.4))
    lie = by.append("main", other, body)  # its trials are of another program
    side.verifier.hear()
    side.verifier.reconsider()
    assert side.state(lie) is State.REJECTED
    assert side.state(queued) is State.OVERTURNED
    assert "banned" in side.courses.reason(queued.id)
    later = claim(side, ONE, 0.25)
    side.verifier = side.new_verifier()
    assert side.next() is None
    assert side.state(later) is State.REJECTED
    ban = trust_of(side).standing(examples.author_id(ONE)).ban
    assert ban is not None
    assert (ban.misdeed, ban.proof) == (Misdeed.OWN_RECORDS, (lie.id,))
    assert side.lane.requests == []


async def test_some_checks_of_a_trusted_author_are_audits_and_nobody_else_knows_which(side: Side) -> None:
    side.held = "not now"  # verdicts are enough
    await earn(side, ONE)
    found = [claim(side, ONE, 0.2 + index / 1000) for index in range(1, 15)]
    assert set(verdicts(await verify_all(side))) == {"confirmed"}
    begun = [
        dated.step.reason for one in found for dated in side.courses.steps(one.id) if dated.step.move is Move.START
    ]
    assert len(begun) == len(found)
    audits = ["an audit in full" in reason for reason in begun]
    assert 0 < sum(audits) < len(begun)
    assert all(("12 pairs" in reason) == audit for reason, audit in zip(begun, audits, strict=True))


def by_a_thief(side: Side, owner: Author, trials: int) -> None:
    """The owner's key goes on with its feed of trials in the side's ledger."""
    thief = Author(side.store, examples.key(ONE), now=lambda: "2026-01-01T00:00:00Z")
    assert thief.id == owner.id
    with side.store.batch():
        for seed in range(trials):
            examples.state_trial(thief, side.baseline, seed, 3.0)


async def test_a_revocation_that_frees_numbers_hides_no_claim(side: Side, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    own = examples.new_store(tmp_path / "own")
    owner = examples.author(own, ONE)
    first = examples.state_trial(owner, side.baseline, 0, 3.0)
    side.store.add(first)
    by_a_thief(side, owner, 600)
    side.verifier.hear()
    side.verifier.reconsider()
    side.store.add(owner.revoke("stolen"))
    found = claim(side, TWO, 0.2)
    with side.store.batch():  # past the number that was seen last
        for seed in range(600):
            examples.state_trial(examples.author(side.store, THREE), side.baseline, seed, 3.0)
    side.verifier.hear()
    side.verifier.reconsider()
    assert side.state(found) is State.QUEUED


async def test_a_word_that_a_revocation_removes_is_said_no_more(side: Side, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    found = claim(side, TWO, 0.2)
    owner, thief = examples.author(examples.new_store(tmp_path / "own"), ONE), examples.author(side.store, ONE)
    side.store.add(examples.state_attestation(owner, found, "confirmed"))
    thief.reset("a second machine", number=7)
    examples.state_attestation(thief, found, "refuted")
    side.verifier.hear()
    side.verifier.reconsider()
    assert [voice.verdict for voice in side.verifier._trust.voices(found.id)] == ["refuted"]
    side.store.add(owner.revoke("stolen"))
    side.verifier.hear()
    side.verifier.reconsider()
    for trust in (trust_of(side), side.verifier._trust):
        assert [voice.verdict for voice in trust.voices(found.id)] == ["confirmed"]


def test_who_is_not_known_is_a_stranger(side: Side) -> None:
    assert trust_of(side).standing(examples.author_id(ONE)) is STRANGER
