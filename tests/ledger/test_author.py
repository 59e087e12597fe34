"""An author places what it says, commits to it, begins anew after a loss, and can declare its key void."""

import base64
import hashlib
import sqlite3
from pathlib import Path

import examples
import msgspec
import pytest

from ledger.author import Author
from ledger.checkpoint import Checkpoint as TreeHead
from ledger.checkpoint import origin, sign
from ledger.envelope import consent_bytes, open_envelope, payload_of
from ledger.errors import BadStatement, KeyRevoked
from ledger.merkle import leaf_hash, root
from ledger.predicates import Adoption, Checkpoint, FeedReset, Revocation, Successor
from ledger.proof import check
from ledger.proving import NoCheckpoint, checkpoints, feeds_to_commit, prove_entry
from ledger.statements import encode
from ledger.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return examples.new_store(tmp_path)


def test_a_checkpoint_is_of_the_whole_feed_as_it_was(store: Store) -> None:
    by = examples.author(store)
    for seed in range(5):
        examples.state_trial(by, "a" * 64, seed, 3.0)
    body = by.checkpoint("trials").statement.body
    assert isinstance(body, Checkpoint)
    leaves = [leaf_hash(payload_of(envelope)) for envelope in store.envelopes(by.id, "trials", 0, 10**9)]
    assert body.note.splitlines()[1] == "5"
    assert base64.b64decode(body.note.splitlines()[2]) == root(leaves)
    examples.state_trial(by, "a" * 64, 5, 3.0)
    by.checkpoint("trials")
    assert [size for size, _ in checkpoints(store, by.id, "trials")] == [5, 6]
    with pytest.raises(ValueError, match="no feed"):
        by.checkpoint("trials.7")


def test_an_entry_is_proved_once_its_author_has_committed_to_it(store: Store) -> None:
    by = examples.author(store)
    trials = [examples.state_trial(by, "a" * 64, seed, 3.0) for seed in range(70)]
    with pytest.raises(NoCheckpoint, match="ledger checkpoint"):
        prove_entry(store, trials[3].id)
    assert feeds_to_commit(store, by, 64) == ["trials"]
    by.checkpoint("trials")
    assert feeds_to_commit(store, by, 64) == []
    assert feeds_to_commit(store, by, 1) == ["main"]
    by.checkpoint("main")
    assert feeds_to_commit(store, by, 1) == []  # a checkpoint of the main feed is no reason for the next one
    late = examples.state_trial(by, "a" * 64, 99, 3.0)
    with pytest.raises(NoCheckpoint):
        prove_entry(store, late.id)
    by.checkpoint("trials")
    proved = check(prove_entry(store, trials[3].id))
    assert proved.signed.id == trials[3].id
    assert (proved.checkpoint.size, proved.earlier and proved.earlier.size) == (71, 70)


@pytest.mark.parametrize("wrong", ["feed", "challenge", "signer", "subject"])
def test_a_checkpoint_of_something_else_is_refused(store: Store, wrong: str) -> None:
    by = examples.author(store)
    name = origin("d" * 64 if wrong == "challenge" else store.challenge, by.id, "main" if wrong == "feed" else "trials")
    note = sign(examples.key(2 if wrong == "signer" else 1), TreeHead(name, 1, bytes(32)))
    subject = "0" * 64 if wrong == "subject" else hashlib.sha256(note.encode()).hexdigest()
    with pytest.raises(BadStatement):
        by.append("main", subject, lambda entry: Checkpoint(entry=entry, feed="trials", note=note))


def test_after_a_reset_an_author_writes_to_new_feeds(store: Store) -> None:
    by = examples.author(store)
    old = examples.state_adoption(by, "a" * 64)
    reset = by.reset("the disk is gone", number=7)
    assert isinstance(reset.statement.body, FeedReset)
    assert [head.id for head in reset.statement.body.known] == [old.id]
    new = examples.state_adoption(by, "b" * 64)
    trial = examples.state_trial(by, "b" * 64, 1, 3.0)
    assert [signed.statement.entry.feed for signed in (new, trial)] == ["main.7", "trials.7"]
    assert new.statement.entry.lamport > old.statement.entry.lamport
    again = by.reset("and again", number=9)
    assert again.statement.entry.feed == by.feed("main") == "main.9"


def test_a_numbered_feed_begins_with_a_reset(store: Store) -> None:
    by = examples.author(store)
    adoption = examples.state_adoption(by, "a" * 64).statement.body
    assert isinstance(adoption, Adoption)
    elsewhere = msgspec.structs.replace(adoption.entry, feed="main.3")
    with pytest.raises(BadStatement, match="feed reset"):
        encode("a" * 64, msgspec.structs.replace(adoption, entry=elsewhere))


def test_what_a_revoked_key_signs_later_is_refused_and_what_stood_stands(store: Store, tmp_path: Path) -> None:
    by = examples.author(store)
    before = examples.state_trial(by, "a" * 64, 1, 3.0)
    stolen = examples.new_store(tmp_path, "thief.db")
    for envelope in store.envelopes(by.id, "trials", 0, 10**9):
        stolen.add(open_envelope(envelope))
    by.revoke("stolen")
    with pytest.raises(KeyRevoked):
        examples.state_trial(by, "a" * 64, 2, 3.0)
    with pytest.raises(KeyRevoked):
        examples.state_adoption(by, "a" * 64)
    forged = examples.state_trial(examples.author(stolen), "a" * 64, 2, 1.0)
    with pytest.raises(KeyRevoked):
        store.add(forged)
    new_feed = examples.author(stolen).reset("I am the author, really", number=5)
    with pytest.raises(KeyRevoked):
        store.add(new_feed)
    assert store.entry(before.id) is not None


def test_a_successor_has_to_consent(store: Store) -> None:
    by, heir = examples.author(store), examples.key(2)
    good = heir.sign(consent_bytes(store.challenge, by.id))
    other = heir.sign(consent_bytes("d" * 64, by.id))
    for signature in (other, bytes(64)):
        with pytest.raises(BadStatement, match="consent"):
            by.revoke("a new machine", successor(signature))
    body = by.revoke("a new machine", successor(good)).statement.body
    assert isinstance(body, Revocation)
    assert store.revocation(by.id, examples.author_id(2)) is not None
    assert store.revocation(by.id, None) is None


def successor(signature: bytes) -> Successor:
    return Successor(peer=examples.author_id(2), consent=base64.b64encode(signature).decode())


def test_two_processes_with_one_key_wait_for_each_other(store: Store) -> None:
    """The head is read under the writer's lock, so that two writers never sign for one place."""
    by = examples.author(store)
    other = sqlite3.connect(store.path, timeout=0)
    locked: list[bool] = []

    def now() -> str:
        try:
            other.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            locked.append(True)
        return "2026-01-01T00:00:00Z"

    examples.state_adoption(Author(store, examples.key(1), now=now), "a" * 64)
    assert locked == [True]
    assert by.head("main") is not None
