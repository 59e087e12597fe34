"""Claims as a ledger has them: what is avoided, who gives way, and what they say of the past."""

from pathlib import Path

import examples
import msgspec
import pytest
from scripted import program

from ledger.author import Author
from ledger.envelope import Signed
from ledger.predicates import Claim, Trial
from ledger.store import Store
from node.claims import Candidate, ClaimBook

BASELINE = program(0.0)


class Swarm:
    """Authors who write to one ledger, each with its view of the claims in it."""

    def __init__(self, folder: Path) -> None:
        self.store: Store = examples.new_store(folder)
        self.parent = self.store.blobs.put(BASELINE)
        self.weights: dict[str, float] = {}

    def author(self, number: int) -> tuple[Author, ClaimBook]:
        by = examples.author(self.store, number)
        return by, ClaimBook(self.store, by, examples.TRACK, lambda author: self.weights.get(author, 0.0))

    def claim(self, book: ClaimBook, gain: float, operator: str = "constant:GAIN") -> tuple[Candidate, Signed]:
        child = self.store.blobs.put(program(gain))
        candidate = Candidate(self.parent, child, f"GAIN to {gain}", "evolve", operator)
        return candidate, book.state(candidate)


@pytest.fixture
def swarm(tmp_path: Path) -> Swarm:
    return Swarm(tmp_path)


def test_a_claim_names_the_change_and_never_its_author_in_the_key(swarm: Swarm) -> None:
    (_, first), (_, second) = swarm.author(1), swarm.author(2)
    bodies = [swarm.claim(book, gain)[1].statement.body for book, gain in ((first, 0.1), (second, 0.2))]
    assert all(isinstance(body, Claim) for body in bodies)
    keys = {body.fingerprint for body in bodies if isinstance(body, Claim)}
    assert len(keys) == 1  # `GAIN` raised, by whatever amount and whomever
    assert None not in keys


def test_others_claims_are_contested_by_standing_and_own_ones_are_not(swarm: Swarm) -> None:
    (me, mine), (peer, theirs) = swarm.author(1), swarm.author(2)
    swarm.claim(theirs, 0.1)
    near, far = program(0.3), program(-0.3)
    assert mine.contested(BASELINE, near, examples.digest(near.decode())) == 0.0
    swarm.weights[peer.id] = 0.5
    assert mine.contested(BASELINE, near, examples.digest(near.decode())) == 0.5
    assert mine.contested(BASELINE, far, examples.digest(far.decode())) is None  # the other direction
    assert theirs.contested(BASELINE, near, examples.digest(near.decode())) is None
    assert me.id != peer.id


def test_of_two_who_claim_the_same_the_later_gives_way_and_both_agree(swarm: Swarm) -> None:
    (first, mine), (_, theirs) = swarm.author(1), swarm.author(2)
    candidate, _ = swarm.claim(mine, 0.1)
    other, _ = swarm.claim(theirs, 0.4)
    assert mine.held_by_another(candidate.child) is None
    held = theirs.held_by_another(other.child)
    assert held is not None
    assert held.author == first.id


def test_a_claim_that_has_expired_stands_in_nobodys_way(swarm: Swarm) -> None:
    (_, mine), (peer, theirs) = swarm.author(1), swarm.author(2)
    _, stated = swarm.claim(theirs, 0.1)
    body = stated.statement.body
    assert isinstance(body, Claim)
    for seed in range(body.ticks + 1):
        examples.state_trial(peer, swarm.parent, seed, 3.0)
    assert mine.live() == []


def test_the_joined_statements_say_what_became_of_each(swarm: Swarm) -> None:
    me, book = swarm.author(1)
    worse, _ = swarm.claim(book, -0.1)
    examples.state_trial(me, swarm.parent, 1, 3.0)
    examples.state_trial(me, worse.child, 0, 3.1)
    crashed, _ = swarm.claim(book, 0.7, "recipe:deeper")
    examples.state_trial(me, crashed.child, 0, None)
    better, _ = swarm.claim(book, 0.2)
    examples.state_discovery(me, swarm.parent, better.child)
    swarm.claim(book, 0.3)  # never run: it says nothing
    open_yet, _ = swarm.claim(book, 0.4)
    examples.state_trial(me, open_yet.child, 0, 2.5)
    found = book.outcomes()
    assert [(one.verdict, one.operator, one.weight) for one in found] == [
        ("discarded", "constant:GAIN", 1.0),
        ("failed", "recipe:deeper", 1.0),
        ("kept", "constant:GAIN", 1.0),
    ]
    assert found[0].effect == pytest.approx(0.1)
    assert found[1].effect is None
    assert found[2].effect == pytest.approx(-0.19333, abs=1e-4)
    assert found[0].hypothesis == "GAIN to -0.1"


def test_one_that_was_given_up_for_another_incumbent_says_nothing(swarm: Swarm) -> None:
    me, book = swarm.author(1)
    candidate, _ = swarm.claim(book, 0.1)
    examples.state_trial(me, candidate.child, 0, 2.0)
    examples.state_adoption(me, swarm.store.blobs.put(program(0.9)), previous=swarm.parent)
    swarm.claim(book, 0.2)
    assert book.outcomes() == ()


def test_a_peers_outcomes_weigh_as_its_author_until_this_node_has_run_them(swarm: Swarm) -> None:
    (me, mine), (peer, theirs) = swarm.author(1), swarm.author(2)
    candidate, _ = swarm.claim(theirs, 0.2)
    found = examples.state_discovery(peer, swarm.parent, candidate.child)
    assert [(one.verdict, one.weight) for one in mine.outcomes()] == [("kept", 0.0)]
    swarm.weights[peer.id] = 0.3
    assert [(one.verdict, one.weight) for one in mine.outcomes()] == [("kept", 0.3)]
    examples.state_attestation(me, found, "refuted")
    assert [(one.verdict, one.weight) for one in mine.outcomes()] == [("discarded", 1.0)]


def test_the_own_past_is_told_with_programs_scores_gains_and_lane_seconds(swarm: Swarm) -> None:
    (me, mine), (peer, theirs) = swarm.author(1), swarm.author(2)
    worse, _ = swarm.claim(mine, -0.1)
    first = examples.state_trial(me, worse.child, 0, 3.1)
    crashed, _ = swarm.claim(mine, 0.7)
    examples.state_trial(me, crashed.child, 0, None)
    theirs_too, _ = swarm.claim(theirs, 0.5)
    examples.state_discovery(peer, swarm.parent, theirs_too.child)
    better, _ = swarm.claim(mine, 0.2)
    examples.state_discovery(me, swarm.parent, better.child)
    swarm.claim(mine, 0.3)  # under way
    past = mine.own_past()
    assert [(one.program, one.proposer) for one in past] == [
        (program(gain).decode(), "evolve") for gain in (-0.1, 0.7, 0.2)
    ]
    assert [one.score for one in past[:2]] == [3.1, None]
    assert [one.gain for one in past] == [0.0, 0.0, pytest.approx(0.19333, abs=1e-4)]
    body = first.statement.body
    assert isinstance(body, Trial)
    assert past[0].lane_s == body.result.wall_s > 0


def test_others_claims_however_many_leave_a_node_its_own_memory(swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    (me, mine), (_, theirs) = swarm.author(1), swarm.author(2)
    candidate, _ = swarm.claim(mine, -0.1, "constant:MINE")
    examples.state_trial(me, candidate.child, 0, None)
    monkeypatch.setattr("node.claims.OUTCOMES_MAX", 3)
    for number in range(10):
        swarm.claim(theirs, 0.1 * number)
    assert [(one.operator, one.verdict) for one in mine.outcomes()] == [("constant:MINE", "failed")]


def test_claims_of_another_track_are_not_read(swarm: Swarm) -> None:
    (me, mine), (peer, _) = swarm.author(1), swarm.author(2)
    elsewhere = ClaimBook(swarm.store, peer, "another-track")
    candidate, stated = swarm.claim(elsewhere, 0.2)
    assert mine.live() == []
    assert mine.outcomes() == ()
    assert not mine.tried_by_anybody(candidate.child)
    examples.state_trial(me, candidate.child, 0, 3.0)
    assert mine.tried_by_anybody(candidate.child)
    assert msgspec.structs.asdict(stated.statement.body)["track"] == "another-track"
