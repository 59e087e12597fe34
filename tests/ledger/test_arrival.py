"""In whatever order entries arrive, ledgers with the same entries say the same; and what holds where they cannot."""

import random
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import examples
import histories
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from integrity import errors

from ledger import tables
from ledger.envelope import Signed, payload_of, seal
from ledger.errors import AuthorBanned, BrokenChain, Equivocation, KeyRevoked
from ledger.feed import Head
from ledger.predicates import FEEDS_MAX, FeedHead, Revocation
from ledger.store import Store


class World(NamedTuple):
    """What was signed in a swarm, and what a ledger with all of it says."""

    entries: list[Signed]
    heads: dict[tuple[str, str], Head]
    digest: str

    def __repr__(self) -> str:  # Hypothesis writes it out for each example
        return f"World({self.digest[:8]})"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """All kinds of statements; feeds begun anew; a type of a newer version; a key that was stolen, and then revoked."""
    folder = tmp_path_factory.mktemp("world")
    store = examples.new_store(folder)
    one, two, robbed = (examples.author(store, number) for number in (1, 2, 3))
    found = examples.state_discovery(one, "a" * 64, "b" * 64)
    examples.state_attestation(two, found)
    examples.state_adoption(two, "b" * 64, found)
    examples.state_trial(robbed, "a" * 64, 0, 3.0)
    examples.state_trial(robbed, "a" * 64, 1, None)
    histories.state_skill(one, "a lesson", "shorter warm-ups help")
    histories.state_newer(1, store, store.entry(store.heads()[one.id, "main"].id))
    one.reset("the disk was lost", number=7)
    examples.state_discovery(one, "b" * 64, "c" * 64)
    histories.state_retraction(two, found)
    one.checkpoint("trials.7")
    thief = copy_of(store, folder)
    examples.state_trial(examples.author(thief, 3), "f" * 64, 0, 0.1)
    examples.author(thief, 3).reset("a thief's", number=9)
    examples.state_adoption(examples.author(thief, 3), "f" * 64)
    histories.state_every_other_kind(robbed, "b" * 64)
    entries = {signed.id: signed for each in (store, thief) for signed in each.entries()}
    return World(list(entries.values()), store.heads(), tables.digest(store.db))


def copy_of(store: Store, folder: Path) -> Store:
    copy = examples.new_store(folder, "copy.db")
    for signed in store.entries():
        copy.add(signed)
    return copy


def deliver(store: Store, entries: Sequence[Signed]) -> dict[str, BrokenChain]:
    """Add entries, and those that come before their predecessors again and again, as sync does; the rest by id."""
    pending, refused = list(entries), dict[str, BrokenChain]()
    while True:
        refused.clear()
        with store.batch():
            for signed in pending:
                try:
                    store.add(signed)
                except BrokenChain as error:
                    refused[signed.id] = error
        if len(refused) == len(pending):
            return refused
        pending = [signed for signed in pending if signed.id in refused]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_order_gives_the_same_state(tmp_path_factory: pytest.TempPathFactory, world: World, seed: int) -> None:
    entries = random.Random(seed).sample(world.entries, len(world.entries))
    with closing(examples.new_store(tmp_path_factory.mktemp("order"))) as store:
        left = deliver(store, entries)
        assert store.heads() == world.heads
        assert tables.digest(store.db) == world.digest
        assert all(isinstance(error, KeyRevoked) for error in left.values())
        assert errors(store) == []


def test_tables_made_anew_are_those_that_grew(tmp_path: Path, world: World) -> None:
    store = examples.new_store(tmp_path)
    deliver(store, world.entries)
    with tables.transaction(store.db):
        tables.rebuild(store.db)
    assert tables.digest(store.db) == world.digest


def test_what_a_thief_signed_after_the_last_vouched_entry_is_moved_away(tmp_path: Path, world: World) -> None:
    """Whether the revocation came first or last."""
    robbed = examples.author_id(3)
    first, last = examples.new_store(tmp_path, "first.db"), examples.new_store(tmp_path, "last.db")
    revoking = [signed for signed in world.entries if signed.statement.kind == "revocation"]
    before = [signed for signed in world.entries if signed not in revoking]
    deliver(last, before)
    assert {"main.9", "trials.9"} & set(last.feeds(robbed)) == {"main.9"}
    deliver(last, revoking)
    deliver(first, [signed for signed in world.entries if signed.statement.entry.feed == "main"])
    deliver(first, world.entries)
    assert sorted(first.feeds(robbed)) == sorted(last.feeds(robbed)) == ["main", "trials"]
    assert first.head(robbed, "trials") == last.head(robbed, "trials") == world.heads[robbed, "trials"]
    moved = last.db.execute("SELECT count(*) FROM refused WHERE reason = 'revoked'").fetchone()
    assert moved == (3,)
    assert errors(first) == errors(last) == []


def test_a_revocation_cannot_vouch_for_what_comes_after_it(tmp_path: Path) -> None:
    store = examples.new_store(tmp_path)
    by = examples.author(store)
    stated = examples.state_adoption(by, "a" * 64)
    heads = (FeedHead(feed="main", seq=1000, id=stated.id),)
    by.append("main", "d" * 64, lambda entry: Revocation(entry=entry, reason="", heads=heads, successor=None))
    with pytest.raises(KeyRevoked):
        examples.state_adoption(by, "a" * 64)
    assert errors(store) == []


@pytest.mark.parametrize("second_first", [False, True])
def test_two_histories_end_belief_whichever_was_first(tmp_path: Path, second_first: bool) -> None:
    """Which of the two is believed is the one thing that the order decides; what was there before the fork is there."""
    one, two = examples.new_store(tmp_path, "one.db"), examples.new_store(tmp_path, "two.db")
    common = examples.state_trial(examples.author(one), "a" * 64, 0, 3.0)
    two.add(common)
    told = [examples.state_trial(examples.author(one), "a" * 64, seed, 3.0) for seed in (1, 2)]
    other = [examples.state_trial(examples.author(two), "a" * 64, seed, 2.0) for seed in (3, 4)]
    honest = examples.state_adoption(examples.author(one, 2), "a" * 64)
    store = examples.new_store(tmp_path, "three.db")
    for signed in (common, honest):
        store.add(signed)
    believed, refused = (other, told) if second_first else (told, other)
    assert store.add(believed[0])
    with pytest.raises(Equivocation):
        store.add(refused[0])
    for signed in (believed[1], refused[1]):
        with pytest.raises(AuthorBanned if signed is believed[1] else BrokenChain):
            store.add(signed)
    (proof,) = store.proofs()
    assert proof == (common.statement.entry.author, believed[0].envelope, refused[0].envelope)
    assert store.entry(common.id) == common
    assert store.entry(honest.id) == honest
    assert errors(store) == []


def test_a_proof_of_two_histories_is_kept_once_however_many_there_are(tmp_path: Path) -> None:
    store = examples.new_store(tmp_path)
    payload = payload_of(examples.state_trial(examples.author(store), "a" * 64, 0, 3.0).envelope)
    for second in range(200):
        other = payload.replace(b"2026-01-01T00:00:00Z", b"another time %d" % second)
        with pytest.raises(Equivocation):
            store.add(seal(examples.key(1), other))
    assert store.db.execute("SELECT count(*) FROM refused").fetchone() == (1,)


def test_a_flood_is_refused_at_the_limit_and_its_author_can_still_revoke(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.store.FEED_ENTRIES_MAX", 5)  # a million entries take minutes
    store = examples.new_store(tmp_path)
    by = examples.author(store)
    for seed in range(5):
        examples.state_trial(by, "a" * 64, seed, 3.0)
    for _ in range(2):
        with pytest.raises(BrokenChain, match=r"trials has 5 entries already.*`waggle key rotate`"):
            examples.state_trial(by, "a" * 64, 5, 3.0)
    head = by.head("trials")
    assert head is not None
    assert head.seq == 4
    for _ in range(5):
        by.checkpoint("trials")
    with pytest.raises(BrokenChain, match="main has 5 entries"):
        by.checkpoint("trials")
    by.revoke("the feed is full")
    assert errors(store) == []


def test_an_author_without_end_of_feeds_is_held_at_the_limit(tmp_path: Path) -> None:
    store = examples.new_store(tmp_path)
    by = examples.author(store)
    for number in range(1, FEEDS_MAX + 1):
        by.reset("again", number=number)
    with pytest.raises(BrokenChain, match=f"{FEEDS_MAX} feeds already"):
        by.reset("once more", number=FEEDS_MAX + 1)
    assert len(store.feeds(by.id)) == FEEDS_MAX
    assert errors(store) == []
