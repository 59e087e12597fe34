"""What every transport does: the same tests over libp2p on loopback and over the network in memory."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from loopback import CHALLENGE, PATIENCE_S, News, Node, sim_nodes
from trio.testing import MockClock

from gossip.addresses import parse_peer
from gossip.errors import BadAddress, DialFailed, PortInUse, StreamBroken
from gossip.events import Kind
from gossip.screen import Verdict
from gossip.simnet import Network
from gossip.transport import Stream
from ledger.envelope import peer_id

MakeNode = Callable[[], Node]
PEER = peer_id(Ed25519PrivateKey.from_private_bytes(b"1" * 32).public_key())
TOPIC = "/a/topic"


@pytest.fixture(params=["libp2p", "simnet"])
def network(request: pytest.FixtureRequest) -> Network | None:
    return Network(random.Random(1)) if request.param == "simnet" else None


@pytest.fixture
def clock(network: Network | None) -> MockClock | None:
    """For every test, as an argument: time jumps where nothing waits for sockets."""
    return MockClock(autojump_threshold=0) if network else None


@pytest.fixture
def make_node(network: Network | None, nursery: trio.Nursery, tmp_path: Path) -> MakeNode:
    if network is not None:
        return sim_nodes(nursery, tmp_path, network)
    news = News()
    return lambda: Node(nursery, news, tmp_path / str(len(list(tmp_path.iterdir()))), CHALLENGE, 0.5)


async def test_the_peer_id_is_the_ledgers_and_port_zero_becomes_a_real_one(
    make_node: MakeNode, clock: MockClock | None
) -> None:
    node = await make_node().start(mesh=False)
    assert node.id == peer_id(node.key.public_key())
    endpoint, peer = parse_peer(node.address)
    assert peer == node.id
    assert endpoint.port > 0


async def test_a_port_in_use_is_refused(make_node: MakeNode, clock: MockClock | None) -> None:
    one, two = await make_node().start(mesh=False), make_node()
    two.listen = one.listen
    with pytest.raises(ExceptionGroup) as caught:
        await two.start(mesh=False)
    assert caught.group_contains(PortInUse, match="another port")


async def test_a_node_does_not_dial_itself(make_node: MakeNode, clock: MockClock | None) -> None:
    node = await make_node().start(mesh=False)
    with pytest.raises(DialFailed, match="itself"):
        await node.transport.connect(node.address)
    with pytest.raises(BadAddress, match="itself"):
        node.transport.keep_connected(node.address)


async def test_dialling_fails_with_the_reason(make_node: MakeNode, clock: MockClock | None) -> None:
    one, two = await make_node().start(mesh=False), await make_node().start(mesh=False)
    with pytest.raises(DialFailed, match="peer id"):  # somebody answers, but not the one that was meant
        await one.transport.connect(two.address.replace(two.id, PEER))
    gone = await make_node().start(mesh=False)
    await gone.stop()
    with pytest.raises(DialFailed, match=r"refused|failed"):
        await one.transport.connect(f"{gone.listen}/p2p/{PEER}")
    assert await one.transport.connect(two.address) == two.id  # a failure is not remembered
    assert one.transport.peers() == {two.id}


async def test_a_wanted_peer_is_dialled_until_it_is_there_and_again_when_it_returns(
    make_node: MakeNode, clock: MockClock | None
) -> None:
    one, two = await make_node().start(mesh=False), make_node()
    await two.start(mesh=False)
    address = two.address
    await two.stop()
    assert one.transport.keep_connected(address) == two.id
    await one.watch.event(Kind.DIAL_FAILED, two.id)
    await two.start(mesh=False)
    await one.watch.event(Kind.PEER_CONNECTED, two.id)
    assert two.address == address
    await two.stop()
    await one.watch.event(Kind.PEER_LOST, two.id)
    await two.start(mesh=False)
    await one.watch.event(Kind.PEER_CONNECTED, two.id, count=2)


async def test_a_stream_carries_megabytes_both_ways_and_ends(make_node: MakeNode, clock: MockClock | None) -> None:
    one, two = await make_node().start(mesh=False), await make_node().start(mesh=False)
    payload = bytes(range(256)) * 4 * 4096  # 4 MiB

    async def echo(stream: Stream) -> None:
        received = bytearray()
        while part := await stream.read(1 << 20):
            received += part
        await stream.write(bytes(received))
        await stream.finish()

    two.transport.handle("/echo", echo)
    await one.transport.connect(two.address)
    async with one.transport.open(two.id, "/echo") as stream:
        await stream.write(payload)
        await stream.finish()
        received = bytearray()
        while part := await stream.read(1 << 20):
            received += part
    assert received == payload


async def test_streams_to_strangers_and_for_unknown_protocols_are_refused(
    make_node: MakeNode, clock: MockClock | None
) -> None:
    one, two = await make_node().start(mesh=False), await make_node().start(mesh=False)
    with pytest.raises(StreamBroken, match="not connected"):
        async with one.transport.open(two.id, "/echo"):
            pass
    await one.transport.connect(two.address)
    with pytest.raises(StreamBroken, match="/nonsense"):
        async with one.transport.open(two.id, "/nonsense"):
            pass


async def test_a_connection_lost_in_the_middle_is_not_taken_for_an_end(
    make_node: MakeNode, clock: MockClock | None
) -> None:
    one, two = await make_node().start(mesh=False), await make_node().start(mesh=False)
    serving = trio.Event()

    async def hang(stream: Stream) -> None:
        serving.set()
        await stream.read(1)

    two.transport.handle("/hang", hang)
    await one.transport.connect(two.address)
    async with one.transport.open(two.id, "/hang") as stream:
        await serving.wait()
        await two.stop()
        with pytest.raises(StreamBroken):
            await stream.read(1)


async def test_a_message_reaches_the_third_node_through_the_middle_one_and_only_if_accepted(
    make_node: MakeNode, clock: MockClock | None
) -> None:
    first, middle, third = [await make_node().start(mesh=False) for _ in range(3)]
    channels = {}
    for node in (first, middle, third):
        channels[node] = await node.transport.join(
            TOPIC, lambda _, message: Verdict.REJECT if message.startswith(b"bad") else Verdict.ACCEPT
        )
    await first.transport.connect(middle.address)
    await third.transport.connect(middle.address)
    with trio.fail_after(PATIENCE_S):
        while True:  # who is in a topic is known only after a heartbeat, and gossip promises nothing
            await first.transport.publish(TOPIC, b"bad")
            await first.transport.publish(TOPIC, b"good")
            with trio.move_on_after(0.2):
                assert await channels[third].receive() == (middle.id, b"good")
                break
    assert channels[first].statistics().current_buffer_used == 0  # one's own messages do not come back
    assert await channels[middle].receive() == (first.id, b"good")


async def test_who_has_not_joined_a_topic_reaches_those_who_have(make_node: MakeNode, clock: MockClock | None) -> None:
    outsider, member = [await make_node().start(mesh=False) for _ in range(2)]
    heard = await member.transport.join(TOPIC, lambda *_: Verdict.ACCEPT)
    await outsider.transport.connect(member.address)
    with trio.fail_after(PATIENCE_S):
        while True:  # until its subscription is known there
            await outsider.transport.publish(TOPIC, b"hello")
            with trio.move_on_after(0.2):
                assert await heard.receive() == (outsider.id, b"hello")
                break


async def test_raising_handlers_and_validators_are_contained(make_node: MakeNode, clock: MockClock | None) -> None:
    one, two = await make_node().start(mesh=False), await make_node().start(mesh=False)

    async def broken(stream: Stream) -> None:
        raise ZeroDivisionError("a bug in a handler")

    def raising(peer: str, message: bytes) -> Verdict:
        raise ZeroDivisionError("a bug in a validator")

    two.transport.handle("/broken", broken)
    await two.transport.join(TOPIC, raising)
    await one.transport.join(TOPIC, lambda *_: Verdict.ACCEPT)
    await one.transport.connect(two.address)
    with pytest.raises(StreamBroken):
        async with one.transport.open(two.id, "/broken") as stream:
            await stream.read(1)
    with trio.fail_after(PATIENCE_S):
        while not any("validator" in event.detail for event in two.watch.of(Kind.HANDLER_FAILED, one.id)):
            await one.transport.publish(TOPIC, b"any")
    assert any("/broken" in event.detail for event in two.watch.of(Kind.HANDLER_FAILED, one.id))
    assert two.transport.peers() == {one.id}
