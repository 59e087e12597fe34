"""Attacks by GossipSub RPCs and gossip messages. The node stays up, bounded, and an honest peer gets through."""

import random
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import count

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils.varint import encode_uvarint, encode_varint_prefixed
from loopback import CHALLENGE, PATIENCE_S, Node
from multiaddr import Multiaddr  # type: ignore[import-untyped]
from raw_peer import DATA, FIN, GONE, MESHSUB, RawPeer, raw_peer, tcp

from gossip import limits
from gossip.addresses import parse_peer
from gossip.events import Kind
from gossip.libp2p_pubsub import ContainedPubsub
from gossip.protocols import topic_of

MakeNode = Callable[..., Node]
TOPIC = topic_of(CHALLENGE)
RANDOM = random.Random(1)
NEVER_S = 3600.0
OTHER_TOPICS = [f"/random/{number}" for number in range(5000)]


async def besieged(make_node: MakeNode, nursery: trio.Nursery) -> tuple[Node, RawPeer]:
    """A victim, and an attacker that is in its topic."""
    victim = await make_node().start()
    return victim, await joined(nursery, victim)


async def joined(nursery: trio.Nursery, victim: Node, key: Ed25519PrivateKey | None = None) -> RawPeer:
    attacker = await raw_peer(nursery, victim.address, key)
    await attacker.open(1, MESHSUB)
    await attacker.rpc(1, rpc_pb2.RPC(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid=TOPIC)]))
    await victim.watch.event(Kind.PEER_CONNECTED, attacker.id)
    return attacker


async def publishes(attacker: RawPeer, messages: Iterable[rpc_pb2.Message], batch: int = 100) -> None:
    """In RPCs of `batch`, until all are sent or the connection is closed."""
    waiting = list(messages)
    with suppress(*GONE):
        for start in range(0, len(waiting), batch):
            await attacker.rpc(1, rpc_pb2.RPC(publish=waiting[start : start + batch]))


async def controls(attacker: RawPeer, control: rpc_pb2.ControlMessage) -> None:
    with suppress(*GONE):
        await attacker.rpc(1, rpc_pb2.RPC(control=control))


async def gets_through(make_node: MakeNode, victim: Node) -> None:
    """A newcomer's gossip reaches the victim, and the victim's ledger the newcomer."""
    victim.state()
    honest = await make_node(sync_interval_s=NEVER_S).start()
    honest.transport.keep_connected(victim.address)
    await honest.watch.until(lambda: honest.store.head(victim.id, "main") == victim.store.head(victim.id, "main"))
    with trio.fail_after(PATIENCE_S):
        while victim.store.head(honest.id, "main") is None:
            await honest.mesh.publish(honest.state())
            with trio.move_on_after(0.3):
                await victim.watch.until(lambda: victim.store.head(honest.id, "main") is not None)
    assert not victim.watch.of(Kind.HOST_REBUILT)
    assert not victim.watch.of(Kind.HANDLER_FAILED)


async def is_disconnected(victim: Node, attacker: RawPeer) -> None:
    await victim.watch.event(Kind.PEER_REFUSED, attacker.id)
    await victim.watch.event(Kind.PEER_LOST, attacker.id)
    with trio.fail_after(PATIENCE_S):
        await attacker.closed.wait()


async def holds(condition: Callable[[], bool]) -> None:
    """Wait for what is counted and not told."""
    with trio.fail_after(PATIENCE_S):
        while not condition():
            await trio.sleep(0.01)


def router(victim: Node) -> GossipSub:
    assert victim.transport._up is not None
    return victim.transport._up.router


def pubsub(victim: Node) -> ContainedPubsub:
    assert victim.transport._up is not None
    return victim.transport._up.pubsub


def counted(victim: Node, outcome: str) -> float:
    return victim.transport.metrics.snapshot().get(f'gossip_messages_total{{of="{outcome}"}}', 0)


def statements(make_node: MakeNode, number: int, *, challenge: str = CHALLENGE) -> list[bytes]:
    """Sound envelopes of one author, oldest first."""
    author = make_node(challenge=challenge)
    return [author.state().envelope for _ in range(number)]


@pytest.mark.parametrize(
    "rpc",
    [encode_varint_prefixed(b"\xff" * 20), encode_uvarint(2**40), b"\xff" * 50,
     encode_uvarint(limits.RPC_BYTES_MAX + 1),
     encode_varint_prefixed(rpc_pb2.RPC(publish=[rpc_pb2.Message(data=b"x")]).SerializeToString()[:-1]),
     encode_varint_prefixed(b"\x0a\x04\x08\x01\x12\x82\xff\xfe"), RANDOM.randbytes(60_000)],
    ids=["not protobuf", "a terabyte", "endless varint", "a byte too many", "cut off", "not text", "random"],
)  # fmt: skip
async def test_malformed_and_oversized_rpcs(make_node: MakeNode, nursery: trio.Nursery, rpc: bytes) -> None:
    victim, attacker = await besieged(make_node, nursery)
    await attacker.frame(DATA, 0, 1, rpc)
    await victim.watch.event(Kind.PEER_FAULT, attacker.id)
    await gets_through(make_node, victim)


async def test_rpcs_that_are_empty_are_read_at_their_pace(make_node: MakeNode, nursery: trio.Nursery) -> None:
    victim, attacker = await besieged(make_node, nursery)
    with suppress(*GONE):
        for _ in range(4):
            await attacker.frame(DATA, 0, 1, b"\0" * 65_000)
    await gets_through(make_node, victim)


async def test_an_rpc_cut_off_by_the_end_of_its_stream(make_node: MakeNode, nursery: trio.Nursery) -> None:
    victim, attacker = await besieged(make_node, nursery)
    await attacker.frame(DATA, FIN, 1, encode_uvarint(1000) + b"x")
    await gets_through(make_node, victim)


async def test_more_pubsub_streams_than_a_peer_needs_are_reset(make_node: MakeNode, nursery: trio.Nursery) -> None:
    victim, attacker = await besieged(make_node, nursery)
    for number in range(30):
        await attacker.open(3 + 2 * number, MESHSUB, encode_uvarint(limits.RPC_BYTES_MAX) + b"x" * 1000)
    await gets_through(make_node, victim)
    assert max(pubsub(victim)._readers.values()) <= limits.RPC_STREAMS_PER_PEER_MAX


async def test_invalid_signatures_in_bulk_end_in_disconnection_and_then_in_refusal(
    make_node: MakeNode, nursery: trio.Nursery
) -> None:
    victim = await make_node().start()
    key = Ed25519PrivateKey.generate()
    numbers = count()

    def forged(attacker: RawPeer) -> list[rpc_pb2.Message]:
        return [attacker.message(TOPIC, b"x" * 500, next(numbers), signature=b"s" * 64) for _ in range(2000)]

    attacker = await joined(nursery, victim, key)
    await publishes(attacker, forged(attacker))
    await is_disconnected(victim, attacker)
    assert counted(victim, "signature") == limits.FAULTS.burst + 1

    victim.transport._door._struck_at_s.clear()  # as if a second had passed: it is no single incident
    again = await raw_peer(nursery, victim.address, key)
    await again.open(1, MESHSUB)
    await publishes(again, forged(again)[:100])
    await victim.watch.event(Kind.PEER_REFUSED, again.id, count=2)
    await victim.watch.event(Kind.PEER_LOST, again.id, count=2)
    with suppress(*GONE):
        late = await raw_peer(nursery, victim.address, key)
        with trio.fail_after(PATIENCE_S):
            await late.closed.wait()
    assert len(victim.watch.of(Kind.PEER_CONNECTED, attacker.id)) == 2
    assert counted(victim, "signature") < limits.FAULTS.burst + 10
    await gets_through(make_node, victim)


async def test_signed_nonsense_in_bulk(make_node: MakeNode, nursery: trio.Nursery) -> None:
    victim, attacker = await besieged(make_node, nursery)
    await publishes(attacker, [attacker.message(TOPIC, RANDOM.randbytes(200), number) for number in range(300)])
    await is_disconnected(victim, attacker)
    await gets_through(make_node, victim)


async def test_replays_from_another_swarm(make_node: MakeNode, nursery: trio.Nursery) -> None:
    """Sound statements of a challenge that is not this one: nothing of them is kept, and who sends many is sent off."""
    foreign = statements(make_node, 80, challenge="d" * 64)
    victim, attacker = await besieged(make_node, nursery)
    await publishes(attacker, [attacker.message(TOPIC, data, number) for number, data in enumerate(foreign)])
    await is_disconnected(victim, attacker)
    assert victim.store.heads() == {}
    await gets_through(make_node, victim)


async def test_one_statement_wrapped_anew_is_stored_and_forwarded_once(
    make_node: MakeNode, nursery: trio.Nursery
) -> None:
    (statement,) = statements(make_node, 1)
    victim, attacker = await besieged(make_node, nursery)
    await publishes(attacker, [attacker.message(TOPIC, statement, number) for number in range(300)])
    await victim.watch.until(lambda: len(victim.watch.new) == 1)
    await gets_through(make_node, victim)
    assert counted(victim, "accept") == 2  # that one, and the honest peer's


async def test_more_of_one_author_than_its_share_is_left_to_sync(make_node: MakeNode, nursery: trio.Nursery) -> None:
    flood = statements(make_node, 200)
    victim, attacker = await besieged(make_node, nursery)
    await publishes(attacker, [attacker.message(TOPIC, data, number) for number, data in enumerate(flood)])
    await gets_through(make_node, victim)
    foreign = [signed for signed in victim.watch.new if signed.envelope in flood]
    assert limits.AUTHOR_ENTRIES.burst <= len(foreign) < limits.AUTHOR_ENTRIES.burst + 30


async def test_messages_faster_than_a_peer_may_are_dropped_unread(make_node: MakeNode, nursery: trio.Nursery) -> None:
    victim, attacker = await besieged(make_node, nursery)
    message = attacker.message(TOPIC, b"x", 1)
    message.from_id = victim.transport._id.to_bytes()  # as if it were the victim's own: not judged, but counted
    await publishes(attacker, [message] * 5000, batch=1000)
    await holds(lambda: counted(victim, "rate") > 0)
    await gets_through(make_node, victim)
    assert counted(victim, "duplicate") <= limits.GOSSIP_MESSAGES.burst + limits.GOSSIP_MESSAGES.per_s * PATIENCE_S


async def test_messages_that_are_too_large_or_carry_ballast(make_node: MakeNode, nursery: trio.Nursery) -> None:
    (statement,) = statements(make_node, 1)
    victim, attacker = await besieged(make_node, nursery)
    heavy = attacker.message(TOPIC, statement, 1)
    heavy.key = b"k" * 200_000
    await publishes(attacker, [heavy, attacker.message(TOPIC, b"x" * (limits.MESSAGE_BYTES_MAX + 5000), 2)], batch=1)
    await victim.watch.event(Kind.MESSAGE_DROPPED, attacker.id, count=2)
    await gets_through(make_node, victim)
    assert counted(victim, "size") == 2


async def test_random_topics(make_node: MakeNode, nursery: trio.Nursery) -> None:
    """Subscribed to, grafted and published on: none is remembered beyond a peer's few subscriptions."""
    victim, attacker = await besieged(make_node, nursery)
    await controls(attacker, rpc_pb2.ControlMessage(graft=[rpc_pb2.ControlGraft(topicID=one) for one in OTHER_TOPICS]))
    await publishes(attacker, [attacker.message(one, b"x", 1) for one in OTHER_TOPICS[:500]])
    with suppress(*GONE):
        await attacker.rpc(
            1,
            rpc_pb2.RPC(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid=one) for one in OTHER_TOPICS]),
        )
    await victim.watch.event(Kind.PEER_FAULT, attacker.id)  # too many subscriptions
    await gets_through(make_node, victim)
    assert set(router(victim).mesh) == {TOPIC}
    assert len(pubsub(victim).peer_topics) <= 1 + limits.SUBSCRIPTIONS_PER_PEER_MAX
    assert not set(router(victim).time_since_last_publish) & set(OTHER_TOPICS)


async def test_a_graft_flood(make_node: MakeNode, nursery: trio.Nursery) -> None:
    victim, attacker = await besieged(make_node, nursery)
    for _ in range(50):
        await controls(attacker, rpc_pb2.ControlMessage(graft=[rpc_pb2.ControlGraft(topicID=TOPIC)] * 1000))
    await gets_through(make_node, victim)
    assert len(router(victim).mesh[TOPIC]) <= 2


async def test_a_prune_flood_is_not_remembered_nor_obeyed_for_ever(make_node: MakeNode, nursery: trio.Nursery) -> None:
    victim, attacker = await besieged(make_node, nursery)
    prunes = [rpc_pb2.ControlPrune(topicID=one, backoff=60) for one in OTHER_TOPICS]
    await controls(attacker, rpc_pb2.ControlMessage(prune=prunes))
    await controls(attacker, rpc_pb2.ControlMessage(prune=[rpc_pb2.ControlPrune(topicID=TOPIC, backoff=2**60)]))
    await gets_through(make_node, victim)
    assert set(router(victim).back_off) <= {TOPIC}
    assert max(router(victim).back_off[TOPIC].values()) <= time.time() + limits.PRUNE_BACKOFF_S_MAX


async def test_peers_offered_with_a_prune_are_not_dialled(make_node: MakeNode, nursery: trio.Nursery) -> None:
    victim, attacker = await besieged(make_node, nursery)
    bystander = await make_node().start(mesh=False)
    endpoint, _ = parse_peer(bystander.address)
    up = victim.transport._up
    assert up is not None
    up.host.get_peerstore().add_addrs(ID.from_string(bystander.id), [Multiaddr(str(endpoint))], 100)
    offer = rpc_pb2.PeerInfo(peerID=ID.from_string(bystander.id).to_bytes())
    prune = rpc_pb2.ControlPrune(topicID=TOPIC, peers=[offer] * 16, backoff=1)
    await controls(attacker, rpc_pb2.ControlMessage(prune=[prune]))
    await gets_through(make_node, victim)
    assert not bystander.watch.of(Kind.PEER_CONNECTED)


async def test_an_ihave_flood(make_node: MakeNode, nursery: trio.Nursery) -> None:
    victim, attacker = await besieged(make_node, nursery)
    ids = [RANDOM.randbytes(46) for _ in range(5000)]
    many = rpc_pb2.ControlMessage(ihave=[rpc_pb2.ControlIHave(topicID=TOPIC, messageIDs=ids)] * 4)
    long = rpc_pb2.ControlMessage(ihave=[rpc_pb2.ControlIHave(topicID=TOPIC, messageIDs=[RANDOM.randbytes(900_000)])])
    received = attacker.received_bytes
    for control in (many, long, many):
        await controls(attacker, control)
    await gets_through(make_node, victim)
    assert attacker.received_bytes - received < 2 * limits.CONTROL_IDS_MAX * 60 + 100_000


async def test_an_iwant_flood(make_node: MakeNode, nursery: trio.Nursery) -> None:
    """One message asked for ten thousand times, by whoever is in the topic: it is sent a few times."""
    victim, attacker = await besieged(make_node, nursery)
    stated = victim.state()
    await victim.mesh.publish(stated)
    (wanted,) = router(victim).mcache.window(TOPIC)
    received = attacker.received_bytes
    iwant = rpc_pb2.ControlIWant(messageIDs=[wanted] * 1000)
    for _ in range(10):
        await controls(attacker, rpc_pb2.ControlMessage(iwant=[iwant] * 10))
    await gets_through(make_node, victim)
    assert attacker.received_bytes - received < 30 * len(stated.envelope) + 100_000


async def test_subscribing_and_unsubscribing_without_end(make_node: MakeNode, nursery: trio.Nursery) -> None:
    victim, attacker = await besieged(make_node, nursery)
    await victim.mesh.publish(victim.state())
    flaps = [rpc_pb2.RPC.SubOpts(subscribe=bool(number % 2), topicid=TOPIC) for number in range(5000)]
    with suppress(*GONE):
        await attacker.rpc(1, rpc_pb2.RPC(subscriptions=flaps))
    await victim.watch.event(Kind.PEER_FAULT, attacker.id)
    await gets_through(make_node, victim)


async def test_faults_are_told_a_few_times_and_counted_always(make_node: MakeNode, nursery: trio.Nursery) -> None:
    """A peer fills neither a log nor a screen."""
    victim = await make_node().start()
    trials = make_node()
    flood = [trials.state("trials").envelope for _ in range(100)]  # sound, but not what gossip is for: ignored
    attacker = await joined(nursery, victim)
    await publishes(attacker, [attacker.message(TOPIC, data, number) for number, data in enumerate(flood)])
    await holds(lambda: counted(victim, "ignore") == 100)
    assert len(victim.watch.of(Kind.MESSAGE_DROPPED)) <= limits.TOLD.burst + 1


async def test_sockets_that_only_listen_do_not_stop_the_gossip(make_node: MakeNode, nursery: trio.Nursery) -> None:
    """Peers in the topic that never read: what is sent to them waits for them alone."""
    victim = await make_node().start()
    for _ in range(5):
        deaf = await raw_peer(nursery, victim.address, listening=False)
        await deaf.open(1, MESHSUB)
        await deaf.rpc(1, rpc_pb2.RPC(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid=TOPIC)]))
        await trio.aclose_forcefully(await tcp(victim.address))
    for _ in range(50):
        await victim.mesh.publish(victim.state())
    await gets_through(make_node, victim)
