"""Each containment of libp2p, with the attack or accident that it is for. Each test fails with the plain class."""

from collections import defaultdict
from collections.abc import Callable

import pytest
import trio
from libp2p.custom_types import TProtocol
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils import encode_varint_prefixed
from loopback import CHALLENGE, LOOPBACK, Node
from multiaddr import Multiaddr

from gossip import libp2p_containment
from gossip.errors import StreamBroken, UnsupportedLibp2p
from gossip.events import Kind
from gossip.libp2p_containment import bounded, check_version
from gossip.libp2p_transport import Libp2pTransport
from gossip.protocols import fetch_status, topic_of
from gossip.screen import Verdict

MakeNode = Callable[..., Node]


async def raw_stream(attacker: Node, victim: Node) -> NetStream:
    """A stream on which no protocol has been agreed."""
    stream = await attacker.transport._swarm.new_stream(ID.from_string(victim.id))
    assert isinstance(stream, NetStream)
    return stream


async def pubsub_stream(attacker: Node, victim: Node) -> NetStream:
    stream = await attacker.transport._host.new_stream(ID.from_string(victim.id), [PROTOCOL_ID_V11])
    assert isinstance(stream, NetStream)
    return stream


async def attack(make_node: MakeNode) -> tuple[Node, Node]:
    victim, attacker = await make_node().start(), await make_node().start(mesh=False)
    await attacker.transport.connect(victim.address)
    return attacker, victim


async def still_answers(victim: Node, attacker: Node) -> None:
    assert (await fetch_status(attacker.transport, victim.id)).challenge == CHALLENGE


def test_another_libp2p_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_version()
    monkeypatch.setattr(libp2p_containment, "LIBP2P_VERSION", "0.8.0")
    with pytest.raises(UnsupportedLibp2p, match=r"pip install libp2p==0\.8\.0"):
        check_version()


async def test_accepted_connections_give_their_slots_back(make_node: MakeNode) -> None:
    node = await make_node().start(mesh=False)
    small = Libp2pTransport(make_node().key, LOOPBACK, connections_max=2)
    async with trio.open_nursery() as nursery:
        small.watch(node.watch.observe)
        await nursery.start(small.run)
        for _ in range(4):
            caller = await make_node().start(mesh=False)
            await caller.transport.connect(small.addresses()[0])
            await node.watch.event(Kind.PEER_CONNECTED, caller.id)
            await caller.stop()
            await node.watch.event(Kind.PEER_LOST, caller.id)
        nursery.cancel_scope.cancel()


async def test_the_library_does_not_dial_by_itself(make_node: MakeNode) -> None:
    one, two = await make_node().start(mesh=False), await make_node().start(mesh=False)
    one.transport._host.get_peerstore().add_addrs(ID.from_string(two.id), [Multiaddr(two.listen)], 120)
    await one.transport._swarm.auto_connector.maybe_connect()
    assert one.transport.peers() == set()


async def test_a_cancelled_host_stops_listening(make_node: MakeNode) -> None:
    node = await make_node().start(mesh=False)
    host, port = node.listen.split("/")[2], int(node.listen.split("/")[4])
    await node.stop()
    with pytest.raises(OSError, match=r"refused|failed"):
        await trio.open_tcp_stream(host, port)


async def test_a_protocol_name_that_is_not_text_ends_only_its_stream(make_node: MakeNode) -> None:
    attacker, victim = await attack(make_node)
    stream = await raw_stream(attacker, victim)
    await stream.write(encode_varint_prefixed(b"\xff\xfe\n"))
    await victim.watch.event(Kind.PEER_FAULT, attacker.id)
    await still_answers(victim, attacker)


async def test_a_pubsub_frame_that_is_not_protobuf_ends_only_its_stream(make_node: MakeNode) -> None:
    attacker, victim = await attack(make_node)
    stream = await pubsub_stream(attacker, victim)
    await stream.write(encode_varint_prefixed(b"\xff" * 20))
    await victim.watch.event(Kind.PEER_FAULT, attacker.id)
    await still_answers(victim, attacker)


async def test_a_message_with_an_undecodable_key_is_dropped(make_node: MakeNode) -> None:
    attacker, victim = await attack(make_node)
    message = rpc_pb2.Message(
        data=b"x",
        topicIDs=[topic_of(CHALLENGE)],
        from_id=b"\x12\x20" + b"0" * 32,
        seqno=b"1",
        signature=b"s",
        key=b"\xff",
    )
    stream = await pubsub_stream(attacker, victim)
    await stream.write(encode_varint_prefixed(rpc_pb2.RPC(publish=[message]).SerializeToString()))
    await victim.watch.event(Kind.MESSAGE_DROPPED, attacker.id)
    await still_answers(victim, attacker)


async def test_a_full_mesh_is_left_alone(make_node: MakeNode) -> None:
    node = await make_node().start(mesh=False)
    await node.transport.join("/t", lambda *_: Verdict.ACCEPT)
    router, pubsub = node.transport._router, node.transport._pubsub
    peers = {ID(b"\x12\x20" + bytes([n]) * 32) for n in range(12)}
    pubsub.peer_topics["/t"] = set(peers)
    router.peer_protocol.update(dict.fromkeys(peers, TProtocol(PROTOCOL_ID_V11)))
    router.mesh["/t"] = set(list(peers)[: router.degree])
    grafts: defaultdict[ID, list[str]] = defaultdict(list)
    router._perform_opportunistic_grafting("/t", grafts)
    assert grafts == {}
    assert len(router.mesh["/t"]) == router.degree


async def test_a_write_that_takes_too_long_closes_the_connection(make_node: MakeNode) -> None:
    attacker, victim = await attack(make_node)
    stream = await raw_stream(attacker, victim)
    with pytest.raises(StreamBroken, match="connection was closed"):
        await bounded(stream, trio.sleep_forever, 0.01)
    await attacker.watch.event(Kind.PEER_LOST, victim.id)
    await victim.watch.event(Kind.PEER_LOST, attacker.id)


async def test_a_cancelled_write_is_finished_first(make_node: MakeNode) -> None:
    attacker, victim = await attack(make_node)
    stream = await raw_stream(attacker, victim)
    done = False

    async def write() -> None:
        nonlocal done
        await trio.lowlevel.checkpoint()
        done = True

    with trio.CancelScope() as scope:
        scope.cancel()
        await bounded(stream, write, 5.0)
    assert done
    assert attacker.transport.peers() == {victim.id}
