"""Real libp2p hosts on loopback: addresses, identity, dialling and redialling, topics, and what must not end them."""

import socket
from collections.abc import Callable

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from loopback import PATIENCE_S, Node

from gossip.addresses import Endpoint, concrete, of_peer, parse_listen, parse_peer
from gossip.errors import BadAddress, DialFailed, PortInUse, StreamBroken
from gossip.events import Kind
from gossip.libp2p_transport import Libp2pTransport, probe_port
from gossip.screen import Verdict
from gossip.transport import Stream
from ledger.envelope import peer_id

MakeNode = Callable[..., Node]
PEER = peer_id(Ed25519PrivateKey.from_private_bytes(b"1" * 32).public_key())
TOPIC = "/a/topic"


@pytest.mark.parametrize(
    "address",
    ["", "x", "127.0.0.1:4001", "/ip4/127.0.0.1/tcp/4001", f"/ip4/127.0.0.1/udp/4001/quic-v1/p2p/{PEER}",
     f"/ip4/127.0.0.1/tcp/4001/ws/p2p/{PEER}",
     "/ip4/127.0.0.1/tcp/4001/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
     f"/ip4/300.0.0.1/tcp/4001/p2p/{PEER}", f"/p2p/{PEER}", f"/ip4/127.0.0.1/tcp/0/p2p/{PEER}", "/" * 5000],
)  # fmt: skip
def test_a_bad_peer_address_is_refused_with_an_example(address: str) -> None:
    with pytest.raises(BadAddress, match=r"/ip4/.*/tcp/4001/p2p/12D3KooW|port 0|peer id"):
        parse_peer(address)


@pytest.mark.parametrize("address", ["", "/ip4/0.0.0.0", "/dns4/example.org/tcp/1", "/ip4/0.0.0.0/udp/1", "/tcp/1"])
def test_a_bad_listening_address_is_refused_with_an_example(address: str) -> None:
    with pytest.raises(BadAddress, match=r"/ip4/0\.0\.0\.0/tcp/4001"):
        parse_listen(address)


def test_addresses_are_read() -> None:
    assert parse_peer(f"/dns4/example.org/tcp/4001/p2p/{PEER}") == (Endpoint("dns4", "example.org", 4001), PEER)
    assert parse_listen("/ip6/::1/tcp/0") == Endpoint("ip6", "::1", 0)


def test_a_wildcard_becomes_the_addresses_of_this_machine() -> None:
    found = concrete(Endpoint("ip4", "0.0.0.0", 7))
    assert found[-1] == Endpoint("ip4", "127.0.0.1", 7)
    assert all(endpoint.host != "0.0.0.0" for endpoint in found)


def test_announced_addresses_that_lead_elsewhere_are_dropped() -> None:
    own = f"/ip4/192.0.2.1/tcp/1/p2p/{PEER}"
    other = f"/ip4/192.0.2.1/tcp/1/p2p/{peer_id(Ed25519PrivateKey.generate().public_key())}"
    assert of_peer([other, own, "junk", own], PEER) == (own,)


async def test_the_peer_id_is_the_ledgers_and_port_zero_becomes_a_real_one(make_node: MakeNode) -> None:
    node = await make_node().start(mesh=False)
    assert node.id == peer_id(node.key.public_key())
    endpoint, peer = parse_peer(node.address)
    assert peer == node.id
    assert endpoint.port > 0


async def test_a_port_in_use_is_refused_and_says_what_to_do(make_node: MakeNode) -> None:
    node = await make_node().start(mesh=False)  # listens with SO_REUSEPORT, so another could
    with pytest.raises(PortInUse, match="another port"):
        await Libp2pTransport(Ed25519PrivateKey.generate(), node.listen).run()
    with socket.create_server(("127.0.0.1", 0)) as plain, pytest.raises(PortInUse):
        probe_port(Endpoint("ip4", "127.0.0.1", plain.getsockname()[1]))


async def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    with pytest.raises(BadAddress, match=r"192\.0\.2\.1"):
        await Libp2pTransport(Ed25519PrivateKey.generate(), "/ip4/192.0.2.1/tcp/0").run()


async def test_dialling_fails_with_the_reason(make_node: MakeNode) -> None:
    one, two = await make_node().start(mesh=False), await make_node().start(mesh=False)
    with pytest.raises(DialFailed, match="itself"):
        await one.transport.connect(one.address)
    with pytest.raises(DialFailed, match="peer id"):  # somebody answers, but not the one that was meant
        await one.transport.connect(two.address.replace(two.id, PEER))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(DialFailed, match=r"refused|failed"):
            await one.transport.connect(f"/ip4/127.0.0.1/tcp/{closed.getsockname()[1]}/p2p/{PEER}")
    assert await one.transport.connect(two.address) == two.id  # a failure is not remembered
    assert one.transport.peers() == {two.id}


async def test_a_wanted_peer_is_dialled_until_it_is_there_and_again_when_it_returns(make_node: MakeNode) -> None:
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


async def test_a_stream_carries_megabytes_both_ways_and_ends(make_node: MakeNode) -> None:
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


async def test_streams_to_strangers_and_for_unknown_protocols_are_refused(make_node: MakeNode) -> None:
    one, two = await make_node().start(mesh=False), await make_node().start(mesh=False)
    with pytest.raises(StreamBroken, match="not connected"):
        async with one.transport.open(two.id, "/echo"):
            pass
    await one.transport.connect(two.address)
    with pytest.raises(StreamBroken, match="/nonsense"):
        async with one.transport.open(two.id, "/nonsense"):
            pass


async def test_a_connection_lost_in_the_middle_is_not_taken_for_an_end(make_node: MakeNode) -> None:
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
    make_node: MakeNode,
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


async def test_raising_handlers_and_validators_are_contained(make_node: MakeNode) -> None:
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
