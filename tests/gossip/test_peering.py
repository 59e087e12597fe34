"""Real nodes on loopback that find each other, keep each other out, and lie about where others are."""

import random
import time
from collections.abc import Callable

import examples
import pytest
import trio
from loopback import CHALLENGE, Node

from gossip import limits
from gossip.addresses import Endpoint
from gossip.errors import DialFailed
from gossip.events import Kind
from gossip.peering import Peering
from gossip.peerstore import PeerStore
from gossip.records import Record, open_record, sign_record
from gossip.rules import Rule
from gossip.transport import Stream
from gossip.wire import PEERS, PeersReply, PeersRequest, encode, receive
from ledger.errors import Equivocation
from ledger.store import Store

MakeNode = Callable[..., Node]


def record(number: int) -> Record:
    return sign_record(examples.key(number), CHALLENGE, 1, [Endpoint("ip4", "127.0.0.1", 4001)])


class Acquainted:
    """A node with `Peering`, but no mesh; both can be restarted together."""

    def __init__(self, node: Node, nursery: trio.Nursery) -> None:
        self.node, self._nursery = node, nursery
        self.store = PeerStore(node.store)

    async def start(self, *join: str, wanted: int = limits.PEERS_WANTED) -> "Acquainted":
        await self.node.start(mesh=False)
        self.node.transport.watch(self.node.watch.observe)
        self.peering = Peering(
            self.node.transport, self.store, self.node.key, CHALLENGE, self.node.watch.observe,
            self.node.transport.guard, round_s=0.05, interval_s=0.3, wanted=wanted, rng=random.Random(1),
        )  # fmt: skip
        self._scope = trio.CancelScope()
        await self._nursery.start(self._run, join)
        return self

    async def _run(self, join: tuple[str, ...], task_status: trio.TaskStatus[None]) -> None:
        with self._scope:
            await self.peering.run(join, task_status=task_status)

    async def stop(self) -> None:
        self._scope.cancel()
        await self.node.stop()

    @property
    def id(self) -> str:
        return self.node.id

    @property
    def peers(self) -> frozenset[str]:
        return self.node.transport.peers()


async def test_two_that_joined_through_a_third_find_each_other_and_outlive_it(
    make_node: MakeNode, nursery: trio.Nursery
) -> None:
    bootstrap, one, two = [Acquainted(make_node(), nursery) for _ in range(3)]
    await bootstrap.start()
    await one.start(bootstrap.node.address)
    await two.start(bootstrap.node.address)
    await one.node.watch.until(lambda: {two.id, bootstrap.id} <= one.peers)
    await two.node.watch.until(lambda: {one.id, bootstrap.id} <= two.peers)
    await bootstrap.stop()  # for good
    await one.stop()
    await two.stop()
    await one.start()
    await two.start()
    await one.node.watch.until(lambda: two.id in one.peers)
    third = await Acquainted(make_node(), nursery).start(two.node.address)
    await third.node.watch.until(lambda: {one.id, two.id} <= third.peers)


async def test_a_peer_that_moved_is_found_at_its_new_address(make_node: MakeNode, nursery: trio.Nursery) -> None:
    middle, mover, friend = [Acquainted(make_node(), nursery) for _ in range(3)]
    await middle.start()
    await mover.start(middle.node.address)
    await friend.start(middle.node.address)
    await friend.node.watch.until(lambda: mover.id in friend.peers)
    old = mover.node.address
    await mover.stop()
    await friend.node.watch.event(Kind.PEER_LOST, mover.id)
    mover.node.listen = "/ip4/127.0.0.1/tcp/0"
    await mover.start(middle.node.address, wanted=0)  # so that the friend has to come
    assert mover.node.address != old
    await friend.node.watch.until(lambda: mover.id in friend.peers)
    known = {one.peer: one for one in friend.store.known()}
    await friend.node.watch.until(lambda: mover.id in friend.peers)
    assert known[mover.id].record is not None


async def test_a_bootstrap_peer_that_is_away_is_said_and_dialled_until_it_is_there(
    make_node: MakeNode, nursery: trio.Nursery
) -> None:
    bootstrap, node = Acquainted(make_node(), nursery), Acquainted(make_node(), nursery)
    await bootstrap.start()
    address = bootstrap.node.address
    await bootstrap.stop()
    await node.start(address)
    await node.node.watch.event(Kind.DIAL_FAILED, bootstrap.id)
    await bootstrap.start()
    await node.node.watch.until(lambda: bootstrap.id in node.peers)


async def test_a_ban_disconnects_and_keeps_out_until_it_is_taken_back(
    make_node: MakeNode, nursery: trio.Nursery
) -> None:
    node, other = Acquainted(make_node(), nursery), Acquainted(make_node(), nursery)
    await node.start()
    await other.start(node.node.address)
    await node.node.watch.until(lambda: other.id in node.peers)
    command_line = PeerStore(Store.open(node.node.store.path))
    command_line.set_rule(Rule(target=other.id, allowed=False))
    await node.node.watch.event(Kind.PEER_LOST, other.id)
    lost = len(other.node.watch.of(Kind.PEER_LOST)) + len(other.node.watch.of(Kind.DIAL_FAILED))
    await other.node.watch.until(  # it comes again, in vain
        lambda: len(other.node.watch.of(Kind.PEER_LOST)) + len(other.node.watch.of(Kind.DIAL_FAILED)) > lost
    )
    assert other.id not in node.peers
    with pytest.raises(DialFailed, match="rules"):
        await node.node.transport.connect(other.node.address)
    command_line.drop_rule(other.id)
    await node.node.watch.until(lambda: other.id in node.peers)


async def test_a_banned_network_is_kept_out_before_its_handshake(make_node: MakeNode, nursery: trio.Nursery) -> None:
    node, other = Acquainted(make_node(), nursery), Acquainted(make_node(), nursery)
    node.store.set_rule(Rule(target="127.0.0.0/8", allowed=False))
    await node.start()
    await other.start(node.node.address)
    await other.node.watch.event(Kind.DIAL_FAILED, node.id)
    assert not node.node.watch.of(Kind.PEER_CONNECTED)


async def test_a_connected_peer_that_signed_two_histories_is_disconnected(
    make_node: MakeNode, nursery: trio.Nursery
) -> None:
    node, liar = Acquainted(make_node(), nursery), Acquainted(make_node(), nursery)
    await node.start()
    await liar.start(node.node.address)
    await node.node.watch.until(lambda: liar.id in node.peers)
    twin = make_node()
    twin.author = type(twin.author)(twin.store, liar.node.key)
    node.node.store.add(liar.node.state())
    with pytest.raises(Equivocation):
        node.node.store.add(twin.discover(b"p", b"c"))
    assert [proof.author for proof in node.node.store.proofs()] == [liar.id]
    await node.node.watch.event(Kind.PEER_LOST, liar.id)


async def test_address_records_of_a_liar_are_refused_and_those_before_them_kept(
    make_node: MakeNode, nursery: trio.Nursery
) -> None:
    node, liar = Acquainted(make_node(), nursery), make_node()
    await liar.start(mesh=False)

    async def answer(stream: Stream) -> None:
        good, bad = record(2), record(3)
        await stream.write(encode(PeersReply((good.signed, bad.signed[:-1] + b"?"))))
        await stream.finish()

    liar.transport.handle(PEERS, answer)
    await node.start(liar.address, wanted=0)
    await node.node.watch.event(Kind.PEER_FAULT, liar.id)
    await node.node.watch.until(lambda: any(one.peer == examples.author_id(2) for one in node.store.known()))
    assert not any(one.peer == examples.author_id(3) for one in node.store.known())


async def test_nobody_can_introduce_itself_with_the_record_of_another(
    make_node: MakeNode, nursery: trio.Nursery
) -> None:
    node, liar = await Acquainted(make_node(), nursery).start(), await make_node().start(mesh=False)
    await liar.transport.connect(node.node.address)
    async with liar.transport.open(node.id, PEERS) as stream:
        await stream.write(encode(PeersRequest(CHALLENGE, record(2).signed)))
        await stream.finish()
        await node.node.watch.event(Kind.PEER_FAULT, liar.id)
    async with liar.transport.open(node.id, PEERS) as stream:
        await stream.write(encode(PeersRequest("d" * 64, None)))
        await stream.finish()
        await node.node.watch.event(Kind.PEER_FAULT, liar.id, count=2)


async def test_peers_found_nearby_are_dialled_and_nonsense_is_passed_over(
    make_node: MakeNode, nursery: trio.Nursery
) -> None:
    node, other = await Acquainted(make_node(), nursery).start(), await make_node().start(mesh=False)
    for nonsense in ("", "/ip4/127.0.0.1/udp/1/quic-v1", f"/ip4/127.0.0.1/udp/1/quic-v1/p2p/{other.id}", "x" * 10_000):
        node.peering.found_nearby(nonsense)
    node.peering.found_nearby(other.address)
    await node.node.watch.until(lambda: other.id in node.peers)


async def test_an_own_record_keeps_its_counter_until_the_address_changes(
    make_node: MakeNode, nursery: trio.Nursery
) -> None:
    node, asker = Acquainted(make_node(), nursery), await make_node().start(mesh=False)

    async def told() -> Record:
        await node.start()
        await asker.transport.connect(node.node.address)
        async with asker.transport.open(node.id, PEERS) as stream:
            await stream.write(encode(PeersRequest(CHALLENGE, None)))
            await stream.finish()
            reply = await receive(stream, PeersReply, limits.PEERS_REPLY_BYTES_MAX)
        await node.stop()
        await asker.watch.until(lambda: node.id not in asker.transport.peers())
        return open_record(reply.records[0], CHALLENGE)

    first = await told()
    assert abs(first.counter - time.time()) < 3600
    assert await told() == first
    node.node.listen = "/ip4/127.0.0.1/tcp/0"
    moved = await told()
    assert moved.counter > first.counter
    assert moved.endpoints != first.endpoints
