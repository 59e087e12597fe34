"""Ledgers in step, over the network in memory: two histories, peers that never agree, and what a joiner costs."""

import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from examples import CHALLENGE, author, author_id, digest, key, state_adoption, state_trial
from loopback import Node, sim_nodes
from trio.testing import MockClock

from gossip import limits
from gossip.events import Kind
from gossip.exchange import Compare, Compared
from gossip.holdings import Holdings
from gossip.simnet import Network
from gossip.summary import WHOLE, Summary
from gossip.transport import Stream
from gossip.wire import PROTOCOL, STATUS, SYNC, Status, SyncReply, SyncRequest, encode, receive
from ledger.envelope import Signed, open_envelope, seal
from ledger.feed import next_entry
from ledger.predicates import FEEDS_MAX, FeedReset
from ledger.statements import encode as encode_statement
from ledger.store import Store

MakeNode = Callable[[], Node]
LIAR = 9  # whose key signs two histories


@pytest.fixture
def network() -> Network:
    return Network(random.Random(1))


@pytest.fixture
def make_node(network: Network, nursery: trio.Nursery, tmp_path: Path) -> MakeNode:
    return sim_nodes(nursery, tmp_path, network)


def whole(node: Node) -> bytes:
    return Holdings(node.store).summary().whole()


async def started(make_node: MakeNode, count: int) -> list[Node]:
    return [await make_node().start() for _ in range(count)]


def state_history(store: Store, *programs: str) -> None:
    for program in programs:
        state_adoption(author(store, LIAR), digest(program))


async def test_one_node_hears_both_histories_and_all_learn_of_it(
    make_node: MakeNode, autojump_clock: MockClock
) -> None:
    left, middle, right = await started(make_node, 3)
    state_history(left.store, "same", "one")
    state_history(right.store, "same", "another", "more")
    left.transport.keep_connected(middle.address)
    right.transport.keep_connected(middle.address)
    for node in (left, middle, right):
        await node.watch.until(lambda node=node: node.store.is_banned(author_id(LIAR)))
        (proof,) = node.store.proofs()
        first, second = (open_envelope(data) for data in proof[1:])
        assert first.id != second.id
        assert first.statement.entry.seq == second.statement.entry.seq == 1
    assert whole(left) == whole(middle) == whole(right)


async def test_who_joins_after_the_ban_gets_what_was_believed_and_the_proof(
    make_node: MakeNode, autojump_clock: MockClock
) -> None:
    one, two = await started(make_node, 2)
    state_history(one.store, "same", "one")
    state_history(two.store, "same", "another")
    state_trial(author(one.store, LIAR), digest("one"), 1, 3.0)
    one.transport.keep_connected(two.address)
    await one.watch.until(lambda: one.store.is_banned(author_id(LIAR)))
    joiner = await make_node().start()
    joiner.transport.keep_connected(one.address)
    await joiner.watch.until(lambda: joiner.store.is_banned(author_id(LIAR)))
    assert joiner.store.heads() == one.store.heads()
    assert len(one.store.heads()) == 2


def reset(number: int) -> Signed:
    entry = next_entry(
        None, clock=0, challenge=CHALLENGE, author=author_id(LIAR), feed=f"main.{number}", recorded_at=""
    )
    subject = hashlib.sha256(key(LIAR).public_key().public_bytes_raw()).hexdigest()
    return seal(key(LIAR), encode_statement(subject, FeedReset(entry=entry, reason="lost", known=())))


async def test_peers_that_never_agree_ask_one_small_question_a_round(
    make_node: MakeNode, network: Network, autojump_clock: MockClock
) -> None:
    """An author has one feed too many, and each of the two has heard of another one last."""
    one, two = await started(make_node, 2)
    for node, numbers in ((one, range(1, FEEDS_MAX + 1)), (two, range(2, FEEDS_MAX + 2))):
        for number in numbers:
            node.store.add(reset(number))
    one.transport.keep_connected(two.address)
    await one.watch.event(Kind.PEER_SYNCED)
    await two.watch.event(Kind.PEER_SYNCED)
    assert whole(one) != whole(two)
    await trio.sleep(2 * limits.SYNC_INTERVAL_S)
    before = one.transport.traffic.stream_bytes + two.transport.traffic.stream_bytes
    rounds = 20
    await trio.sleep(rounds * limits.SYNC_INTERVAL_S)
    after = one.transport.traffic.stream_bytes + two.transport.traffic.stream_bytes
    assert 0 < after - before < 2 * rounds * 250


def filled(make_node: MakeNode, entries: int) -> tuple[Node, int]:
    """A node with a large ledger, and its size in bytes of envelopes."""
    node = make_node()
    with node.store.batch():  # one write to the disk
        sizes = [len(node.state("trials" if number % 2 else "main").envelope) for number in range(entries)]
    return node, sum(sizes)


async def test_a_joiner_with_many_peers_gets_every_page_once(make_node: MakeNode, autojump_clock: MockClock) -> None:
    founder, size = filled(make_node, 800)
    await founder.start()
    others = await started(make_node, 4)
    for node in others:
        node.transport.keep_connected(founder.address)
    for node in others:
        await node.watch.until(lambda node=node: whole(node) == whole(founder))
    holders = [founder, *others]
    before = [node.transport.traffic.stream_bytes for node in holders]
    joiner = await make_node().start()
    for node in holders:
        joiner.transport.keep_connected(node.address)
    await joiner.watch.until(lambda: whole(joiner) == whole(founder))
    served = [node.transport.traffic.stream_bytes - sent for node, sent in zip(holders, before, strict=True)]
    assert sum(served) < 1.1 * size
    assert max(served) < size / 2


async def test_a_download_that_was_cut_goes_on_where_it_was(
    make_node: MakeNode, network: Network, autojump_clock: MockClock
) -> None:
    founder, size = filled(make_node, 800)
    await founder.start()
    joiner = await make_node().start()
    joiner.transport.keep_connected(founder.address)
    for part in (0.3, 0.6):
        await joiner.watch.until(lambda part=part: len(joiner.watch.new) > part * 800)
        joiner.transport.cut(founder.id)
    await joiner.watch.until(lambda: whole(joiner) == whole(founder))
    pages_lost = 2
    assert founder.transport.traffic.stream_bytes < size + (1 + pages_lost) * limits.PAGE_BYTES_MAX


async def test_a_peer_that_never_sends_its_pages_does_not_keep_others_from_it(
    make_node: MakeNode, autojump_clock: MockClock
) -> None:
    founder, _ = filled(make_node, 600)
    await founder.start()
    mute = await make_node().start(mesh=False)
    asked = trio.Event()

    async def hang(stream: Stream) -> None:
        question = (await receive(stream, SyncRequest, limits.REQUEST_BYTES_MAX)).question
        if isinstance(question, Compare):
            await stream.write(encode(SyncReply(Compared(b"?" * 16, (0,)))))
        else:
            asked.set()
            await trio.sleep_forever()

    mute.transport.handle(SYNC, hang)
    mute.transport.handle(STATUS, introduce)
    joiner = await make_node().start()
    joiner.transport.keep_connected(mute.address)
    await asked.wait()
    joiner.transport.keep_connected(founder.address)
    start = trio.current_time()
    await joiner.watch.until(lambda: whole(joiner) == whole(founder))
    assert trio.current_time() - start < 3 * limits.SYNC_TURN_S + 1


async def introduce(stream: Stream) -> None:
    await stream.write(encode(Status(PROTOCOL, CHALLENGE, "mute", ())))


def test_holdings_follow_what_another_process_writes(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "ledger.db", CHALLENGE)
    holdings, other = Holdings(store), Store.open(tmp_path / "ledger.db")
    assert len(holdings.summary()) == 0
    for step in range(3):
        state_adoption(author(other, 1), digest(f"program {step}"))
        state_trial(author(store, 2), digest("program"), step, 3.0)
        assert holdings.summary().whole() == Summary(store.heads()).whole()


def test_holdings_follow_a_revocation_and_a_ban(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "ledger.db", CHALLENGE)
    twin = Store.create(tmp_path / "twin.db", CHALLENGE)
    holdings = Holdings(store)
    for step in range(3):
        state_trial(author(store, 1), digest("program"), step, 3.0)
    holdings.summary()
    author(twin, 1).revoke("stolen")  # vouches for nothing
    for data in twin.envelopes(author_id(1), "main", 0, 1 << 20):
        store.add(open_envelope(data))
    assert [item.feed for item in holdings.summary().items(WHOLE)] == ["main"]

    state_history(store, "one")
    holdings.summary()
    state_history(twin, "another")
    (other,) = twin.envelopes(author_id(LIAR), "main", 0, 1 << 20)
    with pytest.raises(Exception, match="signed both"):
        store.add(open_envelope(other))
    assert [item.head for item in holdings.summary().items(WHOLE)].count(None) == 3
    assert holdings.summary().whole() == Summary(store.heads(), {author_id(LIAR)}).whole()
    proof = holdings.proof(author_id(LIAR))
    assert proof is not None
    assert proof[1] == other
