"""Real libp2p hosts on loopback: addresses, identity, dialling and redialling, topics, and what must not end them."""

import socket
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from loopback import Node

from gossip.addresses import Endpoint, of_peer, parse_listen, parse_peer
from gossip.errors import BadAddress, PortInUse
from gossip.interfaces import concrete
from gossip.libp2p_transport import Libp2pTransport, probe_port
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


async def test_a_port_in_use_is_refused_and_says_what_to_do(make_node: MakeNode) -> None:
    node = await make_node().start(mesh=False)  # listens with SO_REUSEPORT, so another could
    with pytest.raises(PortInUse, match="another port"):
        await Libp2pTransport(Ed25519PrivateKey.generate(), node.listen).run()
    with socket.create_server(("127.0.0.1", 0)) as plain, pytest.raises(PortInUse):
        probe_port(Endpoint("ip4", "127.0.0.1", plain.getsockname()[1]))


async def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    with pytest.raises(BadAddress, match=r"192\.0\.2\.1"):
        await Libp2pTransport(Ed25519PrivateKey.generate(), "/ip4/192.0.2.1/tcp/0").run()
