"""Whole nodes on loopback: joining, catching up, restarting, and peers that are wrong, garbled or lying."""

import hashlib
import struct
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
from loopback import CHALLENGE, PATIENCE_S, Node

from gossip import limits
from gossip.errors import GossipError, NotThere, PeerFault, StreamBroken
from gossip.events import Kind
from gossip.exchange import Compare, Compared, Page, digest
from gossip.mesh import fetch_blob, fetch_status
from gossip.protocols import topic_of
from gossip.transport import Stream
from gossip.wire import (
    BLOB,
    PROTOCOL,
    STATUS,
    SYNC,
    BlobReply,
    BlobRequest,
    Status,
    SyncReply,
    SyncRequest,
    encode,
    receive,
)

MakeNode = Callable[..., Node]
NEVER_S = 3600.0


def same(one: Node, two: Node) -> bool:
    return digest(one.store.heads()) == digest(two.store.heads())


async def answering(node: Node, replies: dict[str, bytes]) -> None:
    """Make `node` answer each protocol with fixed bytes, whatever is asked."""

    def fixed(reply: bytes) -> Callable[[Stream], Any]:
        async def answer(stream: Stream) -> None:
            while await stream.read(1 << 16):
                pass
            await stream.write(reply)
            await stream.finish()

        return answer

    for protocol, reply in replies.items():
        node.transport.handle(protocol, fixed(reply))


OURS = encode(Status(PROTOCOL, CHALLENGE, "liar", ()))
NOTHING = encode(SyncReply(Compared(b"?" * 16, ())))


async def test_a_late_joiner_knowing_one_address_gets_everything(make_node: MakeNode) -> None:
    founder = await make_node().start()
    corpus = bytes(range(256)) * 12_000  # 3 MB: many chunks
    corpus_digest = founder.store.blobs.put(corpus)
    founder.discover(b"parent", b"child" * 12_000)
    for number in range(450):  # more than one page
        founder.state("trials" if number % 2 else "main")

    joiner = await make_node().start(mesh=False)
    peer = await joiner.transport.connect(founder.address)
    status = await fetch_status(joiner.transport, peer)
    assert (status.challenge, status.addresses) == (CHALLENGE, founder.transport.addresses())
    seen: list[tuple[int, int]] = []
    blob = await fetch_blob(joiner.transport, peer, corpus_digest, len(corpus), lambda *now: seen.append(now))
    assert blob == corpus
    assert seen == sorted(seen)
    assert seen[-1] == (len(corpus), len(corpus))

    await joiner.stop()
    await joiner.start()
    joiner.transport.keep_connected(founder.address)
    await joiner.watch.event(Kind.BLOB_RECEIVED, founder.id, count=2)
    assert same(founder, joiner)
    assert not joiner.store.blobs.missing(10)
    order = [(s.statement.entry.feed, s.statement.entry.seq) for s in joiner.watch.new]
    assert [seq for feed, seq in order if feed == "main"] == list(range(226))
    assert len(order) == len(set(order)) == 451
    assert sum(event.count for event in joiner.watch.of(Kind.ENTRIES_RECEIVED)) == 451
    assert joiner.watch.of(Kind.PEER_STATUS, founder.id)[0].addresses == founder.transport.addresses()


async def test_a_publication_reaches_the_third_node(make_node: MakeNode) -> None:
    first, middle, third = [await make_node().start() for _ in range(3)]
    first.transport.keep_connected(middle.address)
    third.transport.keep_connected(middle.address)
    await middle.watch.event(Kind.PEER_CONNECTED, third.id)
    stated = first.state()
    await first.mesh.publish(stated)
    await third.watch.until(lambda: [signed.id for signed in third.watch.new] == [stated.id])
    assert first.watch.new == []


async def test_a_gap_shown_by_gossip_is_filled_at_once(make_node: MakeNode) -> None:
    author, reader = await make_node().start(), await make_node(sync_interval_s=NEVER_S).start()
    reader.transport.keep_connected(author.address)
    await reader.watch.event(Kind.PEER_STATUS, author.id)  # its only round by the clock is over or under way
    last = [author.state(), author.state("trials"), author.state()][-1]
    with trio.fail_after(PATIENCE_S):
        while not reader.watch.of(Kind.FEED_REFUSED):  # until gossip works, which a new topic takes a heartbeat for
            await author.mesh.publish(last)
            if reader.store.head(author.id, "main") is not None:
                last = [author.state(), author.state()][-1]  # the first round was slower than us; show another gap
    await reader.watch.until(lambda: same(author, reader))


async def test_a_restarted_peer_is_found_again_and_both_catch_up(make_node: MakeNode) -> None:
    one, two = await make_node().start(), await make_node().start()
    one.state()
    one.transport.keep_connected(two.address)
    await two.watch.until(lambda: same(one, two))
    address = two.address
    await two.stop()
    one.state()
    two.state("trials")  # what it did while it was alone
    await two.start()
    assert two.address == address
    await one.watch.until(lambda: same(one, two))
    await two.watch.until(lambda: same(one, two))
    assert len(one.store.heads()) == 2


async def test_a_peer_of_another_challenge_is_reported_and_not_synced(make_node: MakeNode) -> None:
    ours, theirs = await make_node().start(), await make_node(challenge="d" * 64).start()
    ours.state()
    theirs.state()
    ours.transport.keep_connected(theirs.address)
    assert "d" * 64 in (await ours.watch.event(Kind.OTHER_SWARM, theirs.id)).detail
    assert CHALLENGE in (await theirs.watch.event(Kind.OTHER_SWARM, ours.id)).detail
    assert [len(node.store.heads()) for node in (ours, theirs)] == [1, 1]
    assert not ours.watch.of(Kind.PEER_STATUS)


async def test_wrong_bytes_for_a_digest_are_refused(make_node: MakeNode) -> None:
    node, liar = await make_node().start(), await make_node().start(mesh=False)
    await node.transport.connect(liar.address)
    wanted = hashlib.sha256(b"right").hexdigest()
    for reply, error, message in [
        (encode(BlobReply(5)) + b"wrong", PeerFault, "other bytes"),
        (encode(BlobReply(2**40)), PeerFault, "over"),
        (encode(BlobReply(50)) + b"short", StreamBroken, "ended after 5 of 50"),
        (encode(BlobReply(None)), NotThere, "does not have"),
        (b"\0\0\0\1x", PeerFault, "malformed"),
    ]:
        await answering(liar, {BLOB: reply})
        with pytest.raises(error, match=message):
            await fetch_blob(node.transport, liar.id, wanted, 1000)
    await answering(liar, {BLOB: encode(BlobReply(5)) + b"right and more"})
    assert await fetch_blob(node.transport, liar.id, wanted, 1000) == b"right"


async def test_a_mesh_keeps_no_wrong_blob(make_node: MakeNode) -> None:
    node, liar = make_node(), await make_node().start(mesh=False)
    await answering(liar, {STATUS: OURS, SYNC: NOTHING, BLOB: encode(BlobReply(5)) + b"wrong"})
    author = make_node()
    author.transport = liar.transport  # only its ledger is used
    node.store.add(author.discover(b"parent", b"child"))
    await node.start()
    await node.transport.connect(liar.address)
    assert "other bytes" in (await node.watch.event(Kind.PEER_FAULT, liar.id)).detail
    assert len(node.store.blobs.missing(10)) == 2
    assert not node.store.blobs.has(hashlib.sha256(b"wrong").hexdigest())


def serving(node: Node, page: Page) -> None:
    """Make `node` say that it has everything, and answer all that it is asked for with one page."""

    async def answer(stream: Stream) -> None:
        question = (await receive(stream, SyncRequest, limits.REQUEST_BYTES_MAX)).question
        lacking = Compared(b"?" * 16, (0,))
        await stream.write(encode(SyncReply(lacking if isinstance(question, Compare) else page)))
        await stream.finish()

    node.transport.handle(SYNC, answer)


@pytest.mark.parametrize("challenge", [CHALLENGE, "d" * 64])
async def test_pages_of_a_liar_are_refused(make_node: MakeNode, challenge: str) -> None:
    node, liar, author = await make_node().start(), await make_node().start(mesh=False), make_node(challenge=challenge)
    endless, foreign = Page((), (), more=True), Page((author.state().envelope,), (), more=False)
    page = endless if challenge == CHALLENGE else foreign
    await answering(liar, {STATUS: OURS})
    serving(liar, page)
    await node.transport.connect(liar.address)
    await node.watch.event(Kind.PEER_FAULT, liar.id)
    assert node.store.heads() == {}


async def test_a_peer_that_was_at_fault_is_asked_again_when_it_returns(make_node: MakeNode) -> None:
    node, other = await make_node().start(), await make_node().start(mesh=False)
    await answering(other, {STATUS: OURS, SYNC: b"\0\0\0\1x"})
    await node.transport.connect(other.address)
    await node.watch.event(Kind.PEER_FAULT, other.id)  # now it would be left alone for a minute
    await other.stop()
    await node.watch.event(Kind.PEER_LOST, other.id)
    other.state()
    await other.start()
    await node.transport.connect(other.address)
    await node.watch.until(lambda: same(node, other))


async def test_a_second_history_bans_its_author_and_stops_no_other_feed(make_node: MakeNode) -> None:
    """An author signed two histories. The peer that holds the other one gets its own third feed through."""
    one, two, twin = make_node(), make_node(), make_node()
    twin.author = type(twin.author)(twin.store, one.key)
    one.state()
    for _ in range(3):
        two.store.add(twin.state("main") if twin.store.heads() else twin.discover(b"p", b"c"))
    two.store.blobs.put(b"p")
    two.store.blobs.put(b"c")
    two.state()
    await one.start()
    await two.start()
    one.transport.keep_connected(two.address)
    await one.watch.event(Kind.EQUIVOCATION, two.id)
    await one.watch.until(lambda: one.store.head(two.id, "main") is not None)
    head = one.store.head(one.id, "main")
    assert head is not None
    assert head.seq == 0


GARBAGE = [
    b"",
    b"\xff" * 3,
    struct.pack("!I", 2**32 - 1),
    struct.pack("!I", 100) + b"short",
    struct.pack("!I", 1) + b"\xc1",  # never used in msgpack
    struct.pack("!I", 4) + b"\x91" * 4,
    struct.pack("!I", 3) + b"\x93\x01\x02",
    encode(BlobRequest("e" * 64)) * 3,
    bytes(range(256)) * 40,
]


async def test_garbage_on_each_protocol_leaves_the_node_up(make_node: MakeNode) -> None:
    node, attacker = await make_node().start(), await make_node().start(mesh=False)
    node.state()
    await attacker.transport.connect(node.address)
    for protocol in (STATUS, SYNC, BLOB):
        for garbage in GARBAGE:
            try:
                async with attacker.transport.open(node.id, protocol) as stream:
                    await stream.write(garbage)
                    await stream.finish()
                    while await stream.read(1000):
                        pass
            except GossipError:
                continue
    assert (await fetch_status(attacker.transport, node.id)).challenge == CHALLENGE
    await attacker.stop()
    await attacker.start()
    await attacker.transport.connect(node.address)
    await attacker.watch.until(lambda: same(node, attacker))
    assert not node.watch.of(Kind.HANDLER_FAILED)


async def test_gossip_garbage_is_dropped_with_a_reason(make_node: MakeNode) -> None:
    node, attacker = await make_node().start(), await make_node().start()
    await attacker.transport.connect(node.address)
    trial = attacker.state("trials")
    with trio.fail_after(PATIENCE_S):
        while len(node.watch.of(Kind.MESSAGE_DROPPED, attacker.id)) < 2:
            await attacker.transport.publish(topic_of(CHALLENGE), b"garbage")
            await attacker.transport.publish(topic_of(CHALLENGE), trial.envelope)
    verdicts = {event.detail.partition(":")[0] for event in node.watch.of(Kind.MESSAGE_DROPPED)}
    assert verdicts == {"reject", "ignore"}


async def test_too_many_requests_at_once_are_not_answered(make_node: MakeNode) -> None:
    node, greedy = await make_node().start(), await make_node().start(mesh=False)
    await greedy.transport.connect(node.address)
    async with AsyncExitStack() as stack:
        for _ in range(limits.STREAMS_SERVED_PER_PEER_MAX):
            await stack.enter_async_context(greedy.transport.open(node.id, STATUS))  # and then says nothing
        with pytest.raises(StreamBroken):
            await fetch_status(greedy.transport, node.id)
    async with greedy.transport.open(node.id, STATUS) as stream:
        await stream.write(OURS)
        await stream.finish()
        assert (await receive(stream, Status, limits.STATUS_BYTES_MAX)).challenge == CHALLENGE
