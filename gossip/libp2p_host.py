"""One libp2p host with every parameter explicit: TCP, Noise, Yamux, identify and GossipSub v1.1.

The library's defaults accept plaintext, beat once in two minutes and drop bursts. Its validators know true and false
only, where ours know three verdicts, and its scores do not fire; so all score weights are zero here, and conduct is
judged by admission.py.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from libp2p.abc import INetConn, INetStream, INetwork, INotifee
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, PROTOCOL_ID_V12
from libp2p.pubsub.score import ScoreParams
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from gossip import limits
from gossip.admission import Door
from gossip.libp2p_containment import Admits, ContainedHost, ContainedSwarm
from gossip.libp2p_muxer import ContainedMuxers
from gossip.libp2p_pubsub import ContainedPubsub, ContainedRouter
from gossip.libp2p_sockets import Blame, Report
from gossip.metrics import Metrics

GOSSIPSUB: Mapping[str, Any] = {
    "protocols": [PROTOCOL_ID_V11, PROTOCOL_ID_V12],  # 1.2 fills the queues with IDONTWANT: for peers without 1.1
    "degree": 6,
    "degree_low": 4,
    "degree_high": 10,
    "time_to_live": 60,  # s, of a topic that we publish to without joining
    "gossip_window": 10,  # heartbeats
    "gossip_history": 60,
    "heartbeat_initial_delay": 0.1,
    "heartbeat_interval": 1,
    "do_px": False,  # has no effect in this version
    "prune_back_off": 15,
    "unsubscribe_back_off": 5,
    "adaptive_gossip_enabled": False,  # would set the heartbeat to 30 s
    "spam_protection_enabled": False,  # would drop our own messages past 10 a second
    "eclipse_protection_enabled": False,  # wants peers from several networks, which a LAN does not have
}
"""Parameters of GossipSub, scores apart: also those of the bare library that `scripts/bench gossip` compares with."""


class Owner(NamedTuple):
    """What a host is built for: whose it is, what it asks and whom it tells. It outlives its hosts."""

    key: Ed25519PrivateKey
    psk: bytes | None  # of a private swarm, 32 bytes
    connections_max: int
    door: Door
    admits: Admits
    metrics: Metrics
    blame: Blame
    closed: Report  # a connection was closed from here
    connected: Callable[[str], None]  # the first connection to a peer opened
    lost: Callable[[str], None]  # the last one closed


class Host(NamedTuple):
    """One incarnation of our place in the network. It runs once."""

    host: ContainedHost
    swarm: ContainedSwarm
    router: ContainedRouter
    pubsub: ContainedPubsub
    connections: "Connections"


def build_host(owner: Owner) -> Host:
    swarm = _build_swarm(owner)
    host = ContainedHost(swarm)
    host.blame = owner.blame
    router = ContainedRouter(**GOSSIPSUB, score_params=ScoreParams())  # all weights zero
    pubsub = ContainedPubsub(host, router, owner.blame, owner.metrics)
    connections = Connections(swarm, owner)
    swarm.register_notifee(connections)
    return Host(host, swarm, router, pubsub, connections)


def _build_swarm(owner: Owner) -> ContainedSwarm:
    pair = create_new_key_pair(owner.key.private_bytes_raw())
    peer = ID.from_pubkey(pair.public_key)
    peerstore = PeerStore()
    peerstore.add_key_pair(peer, pair)
    upgrader = TransportUpgrader({NOISE: Noise(pair, noise_privkey=create_noise_key_pair().private_key)}, {})
    upgrader.muxer_multistream = muxers = ContainedMuxers({TProtocol(YAMUX): Yamux})
    swarm = ContainedSwarm(
        peer,
        peerstore,
        upgrader,
        transports=[TCP()],
        psk=None if owner.psk is None else owner.psk.hex(),
        retry_config=RetryConfig(max_retries=0),  # redialling is ours
        connection_config=ConnectionConfig(
            max_connections=owner.connections_max,
            high_watermark=owner.connections_max,
            low_watermark=0,
            min_connections=0,
            max_connections_per_peer=owner.connections_max,  # the library would close the quietest; we the oldest
            dial_timeout=limits.DIAL_DEADLINE_S,
            inbound_upgrade_timeout=limits.DIAL_DEADLINE_S,
            outbound_upgrade_timeout=limits.DIAL_DEADLINE_S,
            inbound_stream_protocol_negotiation_timeout=limits.OPEN_DEADLINE_S,
            outbound_stream_protocol_negotiation_timeout=limits.OPEN_DEADLINE_S,
            enable_health_monitoring=False,  # libp2p_muxer.py feels the pulse of each connection
        ),
    )
    swarm.door, swarm.admits = owner.door, owner.admits
    swarm.closed = muxers.closed = owner.closed
    return swarm


class Connections(INotifee):
    """Tells when the first connection to a peer opens and the last one closes."""

    def __init__(self, swarm: ContainedSwarm, owner: Owner) -> None:
        self._swarm, self._owner = swarm, owner
        self._told: set[str] = set()

    def peers(self) -> frozenset[str]:
        alive = self._swarm.get_connections_map().items()
        return frozenset(peer.to_base58() for peer, conns in alive if any(not conn.is_closed for conn in conns))

    def end(self) -> None:
        """All connections are gone, whatever the swarm still believes."""
        for peer in sorted(self._told):
            self._owner.lost(peer)
        self._told.clear()

    async def connected(self, network: INetwork, conn: INetConn) -> None:
        peer = conn.muxed_conn.peer_id.to_base58()
        if peer not in self._told:
            self._told.add(peer)
            self._owner.connected(peer)

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:
        peer = conn.muxed_conn.peer_id.to_base58()
        if peer in self._told and peer not in self.peers():
            self._told.discard(peer)
            self._owner.lost(peer)

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None:
        pass

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None:
        pass

    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None:
        pass

    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None:
        pass
