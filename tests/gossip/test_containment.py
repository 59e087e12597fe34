"""Each containment of libp2p, with the attack or accident that it is for. Each test fails with the plain class.

What strangers do to a node as a whole is in test_attacks_*.py; a host that fails, in test_liveness.py.
"""

import io
import logging
import threading
from collections import defaultdict
from collections.abc import Callable

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from libp2p.custom_types import TProtocol
from libp2p.identity.identify_push.identify_push import ID_PUSH
from libp2p.network.connection import swarm_connection
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.peer.peerstore import create_signed_peer_record
from libp2p.protocol_muxer.exceptions import MultiselectCommunicatorError
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11
from libp2p.pubsub.pb import rpc_pb2
from libp2p.tools.anyio_service.trio_tasks import FunctionTask
from libp2p.utils import encode_varint_prefixed
from loopback import CHALLENGE, LOOPBACK, PATIENCE_S, Node
from multiaddr import Multiaddr  # type: ignore[import-untyped]
from raw_peer import MESHSUB, RST, WINDOW_UPDATE, raw_peer

from gossip import libp2p_containment, limits
from gossip.errors import StreamBroken, UnsupportedLibp2p
from gossip.events import Kind
from gossip.libp2p_containment import check_version
from gossip.libp2p_host import Host
from gossip.libp2p_sockets import bounded
from gossip.libp2p_transport import Libp2pTransport
from gossip.protocols import fetch_status, topic_of
from gossip.screen import Verdict
from gossip.transport import Stream

MakeNode = Callable[..., Node]
TOPIC = topic_of(CHALLENGE)
IDENTIFY = "/ipfs/id/1.0.0"


def up(node: Node) -> Host:
    """What it has of libp2p."""
    built: Host | None = node.transport._up
    assert built is not None
    return built


async def raw_stream(attacker: Node, victim: Node) -> NetStream:
    """A stream on which no protocol has been agreed."""
    stream = await up(attacker).swarm.new_stream(ID.from_string(victim.id))
    assert isinstance(stream, NetStream)
    return stream


async def pubsub_stream(attacker: Node, victim: Node) -> NetStream:
    stream = await up(attacker).host.new_stream(ID.from_string(victim.id), [PROTOCOL_ID_V11])
    assert isinstance(stream, NetStream)
    return stream


async def attack(make_node: MakeNode) -> tuple[Node, Node]:
    victim, attacker = await make_node().start(), await make_node().start(mesh=False)
    await attacker.transport.connect(victim.address)
    return attacker, victim


async def still_answers(victim: Node, attacker: Node) -> None:
    assert (await fetch_status(attacker.transport, victim.id)).challenge == CHALLENGE


async def holds(condition: Callable[[], bool]) -> None:
    """Wait for what nothing tells of."""
    with trio.fail_after(PATIENCE_S):
        while not condition():
            await trio.sleep(0.01)


def test_another_libp2p_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_version()
    monkeypatch.setattr(libp2p_containment, "LIBP2P_VERSION", "0.8.0")
    with pytest.raises(UnsupportedLibp2p, match=r"pip install libp2p==0\.8\.0"):
        check_version()


@pytest.mark.parametrize("log", [logging.getLogger("libp2p.transport.tcp"), swarm_connection.logging])
def test_what_the_library_logs_of_peers_reaches_no_terminal(
    log: logging.Logger,
) -> None:
    printed = io.StringIO()
    terminal = logging.StreamHandler(printed)
    logging.getLogger().addHandler(terminal)
    try:
        log.warning("\x1b[2J said a peer")
    finally:
        logging.getLogger().removeHandler(terminal)
    assert printed.getvalue() == ""


# Connections


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


async def test_a_peer_that_restarted_twice_replaces_its_dead_connections(
    make_node: MakeNode, nursery: trio.Nursery
) -> None:
    """As seen from here: the older ones may be dead, and only the network knows."""
    node = await make_node().start()
    key = Ed25519PrivateKey.generate()
    peers = []
    for _ in range(4):
        peers.append(await raw_peer(nursery, node.address, key))
        await peers[-1].open(1, MESHSUB)
    with trio.fail_after(PATIENCE_S):
        await peers[0].closed.wait()
        await peers[1].closed.wait()
    assert not peers[2].closed.is_set()
    assert not peers[3].closed.is_set()


async def test_the_library_does_not_dial_by_itself(make_node: MakeNode) -> None:
    one, two = await make_node().start(mesh=False), await make_node().start(mesh=False)
    up(one).host.get_peerstore().add_addrs(ID.from_string(two.id), [Multiaddr(two.listen)], 120)
    await up(one).swarm.auto_connector.maybe_connect()
    assert one.transport.peers() == set()


async def test_peers_that_left_are_forgotten(make_node: MakeNode) -> None:
    node, other = await make_node().start(mesh=False), await make_node().start(mesh=False)
    await other.transport.connect(node.address)
    await node.watch.event(Kind.PEER_CONNECTED, other.id)
    await other.stop()
    await node.watch.event(Kind.PEER_LOST, other.id)
    host, swarm, router, pubsub, _ = up(node)
    assert swarm.auto_connector._recent_disconnects == {}
    assert host.get_peerstore().peer_ids() == [host.get_id()]
    await holds(lambda: not (pubsub.peers or pubsub.peer_queues or pubsub._readers or router.peer_protocol))


async def test_a_cancelled_host_stops_listening(make_node: MakeNode) -> None:
    node = await make_node().start(mesh=False)
    host, port = node.listen.split("/")[2], int(node.listen.split("/")[4])
    await node.stop()
    with pytest.raises(OSError, match=r"refused|failed"):
        await trio.open_tcp_stream(host, port)


async def test_a_reader_is_woken_when_its_host_fails(make_node: MakeNode, nursery: trio.Nursery) -> None:
    one, two = await make_node().start(mesh=False), await make_node().start(mesh=False)
    reading = trio.Event()

    async def hang(stream: Stream) -> None:
        await stream.read(1)

    async def bug() -> None:
        await reading.wait()
        raise KeyError("what nobody foresaw")

    two.transport.handle("/hang", hang)
    await one.transport.connect(two.address)
    up(one).swarm.manager.run_task(bug)

    async def read() -> None:
        async with one.transport.open(two.id, "/hang") as stream:
            reading.set()
            await stream.read(1)

    with trio.fail_after(limits.READ_DEADLINE_S / 2), pytest.raises(StreamBroken):
        await read()


# Streams


async def test_an_endless_line_of_the_negotiation_is_not_read() -> None:
    class Endless:
        asked = 0

        async def read(self, n: int | None = None) -> bytes:
            self.asked += n or 0
            await trio.lowlevel.checkpoint()
            return b"\xff\xff\xff\x7f"[self.asked - 1 : self.asked] if self.asked <= 4 else b"x" * min(n or 0, 1000)

    reader = Endless()
    with pytest.raises(MultiselectCommunicatorError):
        await MultiselectCommunicator(reader).read()  # type: ignore[arg-type]
    assert reader.asked < 10


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


async def test_peers_are_not_asked_and_not_heard_about_themselves(make_node: MakeNode) -> None:
    one, two = await make_node().start(), await make_node().start()
    one.transport.keep_connected(two.address)
    await one.watch.event(Kind.PEER_SYNCED, two.id)
    peerstore = up(one).host.get_peerstore()
    assert peerstore.get_protocols(ID.from_string(two.id)) == []
    with pytest.raises(StreamBroken):
        async with two.transport.open(one.id, str(ID_PUSH)):
            pass
    async with two.transport.open(one.id, IDENTIFY) as stream:  # but others may ask
        assert await stream.read(10)


async def test_no_more_is_granted_than_fits_the_window(make_node: MakeNode) -> None:
    """However a reader reads: the library's own accounting grants some bytes twice."""
    one, two = await make_node().start(mesh=False), await make_node().start(mesh=False)
    granted: list[int] = []

    async def nibble(stream: Stream) -> None:
        yamux = stream._net.muxed_stream  # type: ignore[attr-defined]
        for size in [65_000, 1, 9_999, 30_001, 65_536, 131, 4096] * 100:
            if not await stream.read(size):
                break
            granted.append(yamux.recv_window + len(yamux.conn.stream_buffers.get(yamux.stream_id, b"")))
        await stream.finish()

    two.transport.handle("/nibble", nibble)
    await one.transport.connect(two.address)
    async with one.transport.open(two.id, "/nibble") as stream:
        await stream.write(b"x" * 4_000_000)
        await stream.finish()
        assert await stream.read(1) == b""
    assert max(granted) <= limits.WINDOW_BYTES_MAX
    assert two.watch.of(Kind.CONNECTION_CLOSED) == []


async def test_what_was_unread_when_a_stream_was_reset_is_not_kept(make_node: MakeNode, nursery: trio.Nursery) -> None:
    victim = await make_node().start()
    attacker = await raw_peer(nursery, victim.address)
    await attacker.open(1, IDENTIFY, b"unread" * 1000)
    await attacker.frame(WINDOW_UPDATE, RST, 1)
    await attacker.open(3, MESHSUB)
    await victim.watch.event(Kind.PEER_CONNECTED, attacker.id)
    (conn,) = up(victim).swarm.get_connections()
    await holds(lambda: 3 in conn.muxed_conn.streams and 1 not in conn.muxed_conn.streams)


async def test_a_write_that_is_cancelled_after_its_encryption_leaves_the_connection_whole(make_node: MakeNode) -> None:
    attacker, victim = await attack(make_node)
    (conn,) = up(attacker).swarm.get_connections()
    muxed = conn.muxed_conn
    tcp = muxed.secured_conn.conn.read_writer.read_write_closer.stream
    async with trio.open_nursery() as nursery:
        await tcp.write_lock.acquire()  # somebody else writes just now
        nursery.start_soon(muxed._write_frame, bytes(12))
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()
        tcp.write_lock.release()
    await still_answers(victim, attacker)


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


# GossipSub


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


async def test_streams_reset_again_and_again_nest_no_tasks(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time the library opens its pubsub stream anew, within the task that found the last one broken."""
    monkeypatch.setattr(limits, "REDIAL_S_MIN", 0.01)
    attacker, victim = await attack(make_node)
    pubsub, peer = up(victim).pubsub, ID.from_string(attacker.id)

    def depth(task: FunctionTask, level: int = 1) -> int:
        return max((depth(child, level + 1) for child in task.children), default=level)  # type: ignore[arg-type]

    for _ in range(20):
        await holds(lambda: peer in pubsub.peers)
        before = pubsub.peers[peer]
        await before.reset()
        pubsub.peer_queues[peer].push(rpc_pb2.RPC())  # the sending task finds it broken
        await holds(lambda before=before: pubsub.peers.get(peer) not in (None, before))
    assert max(depth(task) for task in pubsub.manager._root_tasks) <= 3


async def test_addresses_in_an_rpc_are_not_remembered(make_node: MakeNode, nursery: trio.Nursery) -> None:
    victim = await make_node().start()
    attacker = await raw_peer(nursery, victim.address)
    record = create_signed_peer_record(attacker.peer, [Multiaddr("/ip4/192.0.2.1/tcp/1")], attacker.pair.private_key)
    await attacker.open(1, MESHSUB)
    subscription = rpc_pb2.RPC.SubOpts(subscribe=True, topicid=TOPIC)
    await attacker.rpc(1, rpc_pb2.RPC(senderRecord=record.marshal_envelope(), subscriptions=[subscription]))
    await holds(lambda: attacker.peer in up(victim).pubsub.peer_topics.get(TOPIC, ()))
    assert up(victim).host.get_peerstore().get_peer_record(attacker.peer) is None


async def test_rpcs_written_at_once_do_not_cut_each_other(make_node: MakeNode) -> None:
    """Each is longer than a frame, and what several tasks write to one stream would interleave."""
    one, two = await make_node().start(mesh=False), await make_node().start(mesh=False)
    received = await two.transport.join("/t", lambda *_: Verdict.ACCEPT)
    await one.transport.join("/t", lambda *_: Verdict.ACCEPT)
    await one.transport.connect(two.address)
    pubsub = up(one).pubsub
    peer = ID.from_string(two.id)
    await holds(lambda: peer in pubsub.peers and "/t" in up(two).pubsub.topic_ids)
    bodies = [bytes([number]) * 60_000 for number in range(6)]
    messages = []
    for body in bodies:
        own = {"from_id": pubsub.my_id.to_bytes(), "seqno": pubsub._next_seqno()}
        message = rpc_pb2.Message(data=body, topicIDs=["/t"], **own)
        assert pubsub.sign_key is not None
        message.signature = pubsub.sign_key.sign(b"libp2p-pubsub:" + message.SerializeToString())
        messages.append(message)
    async with trio.open_nursery() as nursery:
        for first, second in zip(messages[::2], messages[1::2], strict=True):
            nursery.start_soon(pubsub.write_msg, pubsub.peers[peer], rpc_pb2.RPC(publish=[first, second]))
    got = set()
    with trio.fail_after(PATIENCE_S):
        while len(got) < len(bodies):
            got.add((await received.receive())[1])
    assert got == set(bodies)
    assert two.watch.of(Kind.PEER_FAULT) == []


async def test_a_host_leaves_no_thread_behind(make_node: MakeNode) -> None:
    node = await make_node().start(mesh=False)
    during = set(threading.enumerate())
    await node.stop()
    after = {thread for thread in threading.enumerate() if thread in during}
    assert not [thread for thread in after if "_background_cleanup" in thread.name]


async def test_nothing_is_kept_of_messages_but_to_answer_iwant_with(make_node: MakeNode) -> None:
    node = await make_node().start(mesh=False)
    await node.transport.join("/t", lambda *_: Verdict.ACCEPT)
    for number in range(400):  # 24 MB
        await up(node).pubsub.publish("/t", bytes([number % 256]) * 60_000)
    router = up(node).router
    assert sum(message.ByteSize() for message in router.mcache.msgs.values()) <= limits.MESSAGE_CACHE_BYTES_MAX
    assert router.equivocation_detection == {}
    assert not router.recent_message_deliveries
    for _ in range(router.mcache.history_size):
        router.mcache.shift()
    await up(node).pubsub.publish("/t", b"r" * 60_000)  # there is room again
    assert len(router.mcache.msgs) == 1


async def test_a_back_off_that_is_over_is_forgotten(make_node: MakeNode) -> None:
    node = await make_node().start(mesh=False)
    await node.transport.join("/t", lambda *_: Verdict.ACCEPT)
    router = up(node).router
    router.back_off["/t"] = {ID(b"\x12\x20" + bytes([n]) * 32): 0 for n in range(100)}
    router._periodic_security_cleanup()
    assert router.back_off["/t"] == {}


async def test_a_full_mesh_is_left_alone(make_node: MakeNode) -> None:
    node = await make_node().start(mesh=False)
    await node.transport.join("/t", lambda *_: Verdict.ACCEPT)
    router, pubsub = up(node).router, up(node).pubsub
    peers = {ID(b"\x12\x20" + bytes([n]) * 32) for n in range(12)}
    pubsub.peer_topics["/t"] = set(peers)
    router.peer_protocol.update(dict.fromkeys(peers, TProtocol(PROTOCOL_ID_V11)))
    router.mesh["/t"] = set(list(peers)[: router.degree])
    grafts: defaultdict[ID, list[str]] = defaultdict(list)
    router._perform_opportunistic_grafting("/t", grafts)
    assert grafts == {}
    assert len(router.mesh["/t"]) == router.degree
