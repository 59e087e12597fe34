"""The transport over py-libp2p: TCP, Noise, Yamux, identify and GossipSub v1.1.

Every parameter is explicit, because the library's defaults accept plaintext, beat once in two minutes and drop bursts.
Its faults are contained in libp2p_containment.py. Nothing of libp2p is visible through the interface (transport.py).

libp2p's validators know true and false only, where ours know three verdicts. So peer scores are off (all weights zero):
a refused message is not delivered, not forwarded and costs its forwarder nothing here.
"""

import errno
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from libp2p.abc import INetConn, INetStream, INetwork, INotifee, ISubscriptionAPI
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError, MultiError
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.peer.peerstore import PeerStore
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, PROTOCOL_ID_V12
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.score import ScoreParams
from libp2p.rcmgr import ResourceLimits, ResourceManager
from libp2p.rcmgr.connection_limits import ConnectionLimits
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream
from libp2p.tools.anyio_service import background_trio_service
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from gossip import limits
from gossip.addresses import Endpoint, concrete, parse_listen, parse_peer
from gossip.errors import BadAddress, DialFailed, GossipError, PeerFault, PortInUse, StreamBroken
from gossip.events import Event, Kind, Observer
from gossip.libp2p_containment import (
    ContainedHost,
    ContainedPubsub,
    ContainedRouter,
    ContainedSwarm,
    bounded,
    check_version,
)
from gossip.screen import Verdict
from gossip.transport import Handler, Stream, Validator

# Yamux would answer every read with a window update of its own. The library looks this up at each read.
os.environ["PY_YAMUX_RELEASE_ON_READ"] = "0"

# Without any handler it prints each stranger's failed handshake to stderr; what matters here comes as events.
logging.getLogger("libp2p").addHandler(logging.NullHandler())

_LIBRARY_FAILURES = (BaseLibp2pError, OSError, ValueError)


class Libp2pTransport:
    """See `gossip.transport.Transport`. One instance runs once."""

    def __init__(
        self,
        key: Ed25519PrivateKey,
        listen: str,
        *,
        connections_max: int = limits.CONNECTIONS_MAX,
    ) -> None:
        """A node with this identity that will listen on the multiaddress `listen`, port 0 for any.

        Raises `BadAddress`, `UnsupportedLibp2p`.
        """
        check_version()
        self._listen = parse_listen(listen)
        self._observers: list[Observer] = []
        self._wanted: dict[str, str] = {}  # peer id → address to redial
        self._serving: Counter[str] = Counter()  # streams of each peer that are being answered
        self._nursery: trio.Nursery | None = None
        self._publishing = trio.Lock()
        self._host, self._swarm = _build_host(key, connections_max, self._observe)
        self._router = _build_router()
        self._pubsub = _build_pubsub(self._host, self._router, self._observe)
        self._swarm.register_notifee(_Connections(self.peers, self._observe))

    @property
    def peer_id(self) -> str:
        return self._host.get_id().to_base58()

    def addresses(self) -> tuple[str, ...]:
        bound = [parse_listen(str(address)) for address in self._host.get_transport_addrs()]
        return tuple(f"{endpoint}/p2p/{self.peer_id}" for wide in bound for endpoint in concrete(wide))

    def watch(self, observer: Observer) -> None:
        self._observers.append(observer)

    def _observe(self, event: Event) -> None:
        for observer in self._observers:
            observer(event)

    # Life

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        probe_port(self._listen)
        async with self._host.run(listen_addrs=[Multiaddr(str(self._listen))]):
            try:
                listening = bool(self._swarm.listeners)  # the library does not raise, and swallows why
                if listening:
                    await self._serve(task_status)
            finally:
                await self._swarm.close_sockets()
        if not listening:
            raise PortInUse(f"cannot listen on {self._listen}; choose another port, or port 0 for a free one")

    async def _serve(self, task_status: trio.TaskStatus[None]) -> None:
        async with background_trio_service(self._pubsub), background_trio_service(self._router):
            await self._pubsub.wait_until_ready()
            async with trio.open_nursery() as self._nursery:
                for peer in self._wanted:
                    self._nursery.start_soon(self._redial, peer)
                task_status.started()
                await trio.sleep_forever()

    # Connections

    def peers(self) -> frozenset[str]:
        alive = self._swarm.get_connections_map().items()
        return frozenset(peer.to_base58() for peer, conns in alive if any(not conn.is_closed for conn in conns))

    async def connect(self, address: str) -> str:
        endpoint, peer = parse_peer(address)
        if peer == self.peer_id:
            raise DialFailed(f"{address} is this node itself")
        target = ID.from_string(peer)
        self._swarm.unblock_peer(target)  # a failed dial is remembered for a minute
        if peer not in self.peers():
            # Only one TCP address of a peer is ever dialled, the first that the library remembers.
            self._host.get_peerstore().add_addrs(target, [], 1)
            self._host.get_peerstore().clear_addrs(target)
        try:
            with trio.fail_after(limits.DIAL_DEADLINE_S):
                await self._host.connect(PeerInfo(target, [Multiaddr(str(endpoint))]))
        except (*_LIBRARY_FAILURES, trio.TooSlowError) as error:
            raise DialFailed(f"no connection to {address}: {_root_cause(error)}") from error
        return peer

    def keep_connected(self, address: str) -> str:
        _, peer = parse_peer(address)
        if peer == self.peer_id:
            raise BadAddress(f"{address} is this node itself")
        known = peer in self._wanted
        self._wanted[peer] = address
        if self._nursery is not None and not known:
            self._nursery.start_soon(self._redial, peer)
        return peer

    async def _redial(self, peer: str) -> None:
        pause_s = limits.REDIAL_S_MIN
        while True:
            if peer in self.peers():
                pause_s = limits.REDIAL_S_MIN
            else:
                try:
                    await self.connect(self._wanted[peer])
                except DialFailed as error:
                    self._observe(Event(kind=Kind.DIAL_FAILED, peer=peer, detail=str(error)))
                    pause_s = min(pause_s * 2, limits.REDIAL_S_MAX)
            await trio.sleep(pause_s)

    # Streams

    def handle(self, protocol: str, handler: Handler) -> None:
        async def serve(net: INetStream) -> None:
            peer = net.muxed_conn.peer_id.to_base58()
            if self._serving[peer] >= limits.STREAMS_SERVED_PER_PEER_MAX:
                await bounded(net, net.reset, limits.WRITE_DEADLINE_S)
                return
            self._serving[peer] += 1
            try:
                async with _ended(net) as stream:
                    await handler(stream)
            except PeerFault as error:
                self._observe(Event(kind=Kind.PEER_FAULT, peer=peer, detail=f"{protocol}: {error}"))
            except GossipError as error:
                self._observe(Event(kind=Kind.REQUEST_FAILED, peer=peer, detail=f"{protocol}: {error}"))
            except Exception as error:  # noqa: BLE001  ours: one stream's bug must not end the node
                self._observe(Event(kind=Kind.HANDLER_FAILED, peer=peer, detail=f"{protocol}: {error!r}"))
            finally:
                self._serving[peer] -= 1
                if not self._serving[peer]:
                    del self._serving[peer]

        self._host.set_stream_handler(TProtocol(protocol), serve)

    @asynccontextmanager
    async def open(self, peer: str, protocol: str) -> AsyncIterator[Stream]:
        if peer not in self.peers():
            raise StreamBroken(f"not connected to {peer}")
        try:
            with trio.fail_after(limits.OPEN_DEADLINE_S):
                net = await self._host.new_stream(ID.from_string(peer), [TProtocol(protocol)])
        except (*_LIBRARY_FAILURES, trio.TooSlowError) as error:
            raise StreamBroken(f"no {protocol} stream to {peer}: {_root_cause(error)}") from error
        async with _ended(net) as stream:
            yield stream

    # Topics

    async def join(self, topic: str, validator: Validator) -> trio.MemoryReceiveChannel[tuple[str, bytes]]:
        if self._nursery is None:
            raise RuntimeError("the transport does not run yet")
        send, receive = trio.open_memory_channel[tuple[str, bytes]](limits.MESSAGES_PENDING_MAX)

        def validate(forwarder: ID, message: rpc_pb2.Message) -> bool:
            # Delivered from here, because the library's subscription does not say who forwarded. It runs once for
            # each message: between its check for seen messages and this call there is nothing to await.
            peer = forwarder.to_base58()
            if peer == self.peer_id:
                return True
            try:
                verdict = validator(peer, message.data) if list(message.topicIDs) == [topic] else Verdict.REJECT
            except Exception as error:  # noqa: BLE001  ours: a raising validator would end the process
                self._observe(Event(kind=Kind.HANDLER_FAILED, peer=peer, detail=f"validator: {error!r}"))
                return False
            if verdict is not Verdict.ACCEPT:
                return False
            try:
                send.send_nowait((peer, message.data))
            except trio.WouldBlock:
                self._observe(Event(kind=Kind.MESSAGE_DROPPED, peer=peer, detail="too many messages are waiting"))
            except trio.BrokenResourceError:
                return False  # nobody listens any more
            return True

        self._pubsub.set_topic_validator(topic, validate, False)
        self._nursery.start_soon(_drain, await self._pubsub.subscribe(topic))
        return receive

    async def publish(self, topic: str, message: bytes) -> None:
        async with self._publishing:
            await self._pubsub.publish(topic, message)
            await trio.sleep(limits.PUBLISH_SPACING_S)


class _Stream:
    """See `gossip.transport.Stream`."""

    def __init__(self, net: NetStream) -> None:
        self._net = net
        self.peer = net.muxed_conn.peer_id.to_base58()

    async def read(self, bytes_max: int) -> bytes:
        try:
            with trio.fail_after(limits.READ_DEADLINE_S):
                return await self._net.read(min(bytes_max, limits.BLOB_CHUNK_BYTES))
        except StreamEOF as error:
            # The library also says "end" for a reset and for a lost connection, which are no ends of a message.
            yamux = self._net.muxed_stream
            if not isinstance(yamux, YamuxStream) or yamux.reset_received or yamux.conn.event_shutting_down.is_set():
                raise StreamBroken("the stream was reset, or its connection lost") from error
            return b""
        except trio.TooSlowError as error:
            raise StreamBroken(f"nothing came for {limits.READ_DEADLINE_S} s") from error
        except _LIBRARY_FAILURES as error:
            raise StreamBroken(f"could not read: {_root_cause(error)}") from error

    async def write(self, data: bytes) -> None:
        for start in range(0, len(data), limits.BLOB_CHUNK_BYTES):
            await self._bounded(partial(self._net.write, data[start : start + limits.BLOB_CHUNK_BYTES]))
            await trio.lowlevel.checkpoint()  # a cancellation that waited for the chunk takes effect here

    async def finish(self) -> None:
        await self._bounded(self._net.close_write)

    async def _bounded(self, operation: Callable[[], Awaitable[None]]) -> None:
        try:
            await bounded(self._net, operation, limits.WRITE_DEADLINE_S)
        except _LIBRARY_FAILURES as error:
            raise StreamBroken(f"could not write: {_root_cause(error)}") from error


@asynccontextmanager
async def _ended(net: INetStream) -> AsyncIterator[_Stream]:
    """Close the stream after the block, so that what was written arrives; reset it if the block raises."""
    if not isinstance(net, NetStream):
        raise TypeError(f"libp2p gave a {type(net).__name__}")
    done = False
    try:
        yield _Stream(net)
        done = True
    finally:
        with suppress(StreamBroken, *_LIBRARY_FAILURES):  # it is over either way
            await bounded(net, net.close if done else net.reset, limits.WRITE_DEADLINE_S)


class _Connections(INotifee):
    """Tells the transport's observers when the first connection to a peer opens and the last one closes."""

    def __init__(self, peers: Callable[[], frozenset[str]], observe: Observer) -> None:
        self._peers, self._observe = peers, observe
        self._told: set[str] = set()

    async def connected(self, network: INetwork, conn: INetConn) -> None:
        peer = conn.muxed_conn.peer_id.to_base58()
        if peer not in self._told:
            self._told.add(peer)
            self._observe(Event(kind=Kind.PEER_CONNECTED, peer=peer))

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:
        peer = conn.muxed_conn.peer_id.to_base58()
        if peer in self._told and peer not in self._peers():
            self._told.discard(peer)
            self._observe(Event(kind=Kind.PEER_LOST, peer=peer))

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None:
        pass

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None:
        pass

    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None:
        pass

    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None:
        pass


def probe_port(endpoint: Endpoint) -> None:
    """Raise `PortInUse` or `BadAddress` if nothing can listen there.

    The library listens with SO_REUSEPORT, with which two nodes would share a port and each get half the connections.
    """
    family = socket.AF_INET if endpoint.kind == "ip4" else socket.AF_INET6
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a former run may linger
        try:
            probe.bind((endpoint.host, endpoint.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(
                    f"port {endpoint.port} on {endpoint.host} is in use, perhaps by another node; "
                    "stop that, or listen on another port (port 0 takes a free one)"
                ) from error
            raise BadAddress(f"cannot listen on {endpoint}: {error.strerror}") from error


async def _drain(subscription: ISubscriptionAPI) -> None:
    while True:
        await subscription.get()


def _root_cause(error: BaseException) -> str:
    """The innermost message of a failure that the library has wrapped several times."""
    while True:
        many = error.errors if isinstance(error, MultiError) else getattr(error, "exceptions", ())
        inner = many[0] if many else error.__cause__
        if not isinstance(inner, Exception) or not (str(inner) or inner.__cause__):
            return str(error) or type(error).__name__
        error = inner


def _build_host(
    key: Ed25519PrivateKey, connections_max: int, observe: Observer
) -> tuple[ContainedHost, ContainedSwarm]:
    pair = create_new_key_pair(key.private_bytes_raw())
    peer = ID.from_pubkey(pair.public_key)
    peerstore = PeerStore()
    peerstore.add_key_pair(peer, pair)
    swarm = ContainedSwarm(
        peer,
        peerstore,
        TransportUpgrader(
            {NOISE: Noise(pair, noise_privkey=create_noise_key_pair().private_key)},
            {TProtocol(YAMUX): Yamux},
        ),
        transports=[TCP()],
        retry_config=RetryConfig(max_retries=0),  # redialling is ours
        connection_config=ConnectionConfig(
            max_connections=connections_max,
            high_watermark=connections_max,
            low_watermark=0,
            min_connections=0,
            max_connections_per_peer=limits.CONNECTIONS_PER_PEER_MAX,
            dial_timeout=limits.DIAL_DEADLINE_S,
            inbound_upgrade_timeout=limits.DIAL_DEADLINE_S,
            outbound_upgrade_timeout=limits.DIAL_DEADLINE_S,
            inbound_stream_protocol_negotiation_timeout=limits.OPEN_DEADLINE_S,
            outbound_stream_protocol_negotiation_timeout=limits.OPEN_DEADLINE_S,
            enable_health_monitoring=True,  # else a frozen peer is never noticed
            health_initial_delay=limits.PING_INTERVAL_S,
            health_check_interval=limits.PING_INTERVAL_S,
            ping_timeout=limits.PING_DEADLINE_S,
            abort_connection_on_ping_failure=True,
        ),
    )
    resources = ResourceManager(
        limits=ResourceLimits(max_connections=2 * connections_max, max_streams=limits.STREAMS_MAX),
        connection_limits=ConnectionLimits(
            max_established_inbound=connections_max,
            max_established_outbound=connections_max,
            max_established_per_peer=limits.CONNECTIONS_PER_PEER_MAX,
            max_established_total=connections_max,
        ),
        enable_memory_limits=False,  # of the whole machine's memory, which training fills
        enable_circuit_breaker=False,  # five failures of strangers would refuse everybody for a minute
        enable_graceful_degradation=False,
        enable_rate_limiting=False,  # before the handshake all strangers count as one peer
    )
    host = ContainedHost(
        swarm,
        negotiate_timeout=int(limits.OPEN_DEADLINE_S),
        resource_manager=resources,
        disable_identify_address_discovery=True,
    )
    host.observe = observe
    return host, swarm


def _build_router() -> ContainedRouter:
    return ContainedRouter(
        protocols=[PROTOCOL_ID_V11, PROTOCOL_ID_V12],  # 1.2 fills the queues with IDONTWANT: for peers without 1.1
        degree=6,
        degree_low=4,
        degree_high=10,
        time_to_live=60,  # s, of a topic that we publish to without joining
        gossip_window=10,  # heartbeats
        gossip_history=60,
        heartbeat_initial_delay=0.1,
        heartbeat_interval=1,
        do_px=False,  # has no effect in this version
        prune_back_off=15,
        unsubscribe_back_off=5,
        score_params=ScoreParams(),  # all weights zero
        adaptive_gossip_enabled=False,  # would set the heartbeat to 30 s
        spam_protection_enabled=False,  # would drop our own messages past 10 a second
        eclipse_protection_enabled=False,  # wants peers from several networks, which a LAN does not have
    )


def _build_pubsub(host: ContainedHost, router: ContainedRouter, observe: Observer) -> ContainedPubsub:
    pubsub = ContainedPubsub(
        host,
        router,
        seen_ttl=600,  # s
        strict_signing=True,
        max_subscriptions_per_peer=limits.SUBSCRIPTIONS_PER_PEER_MAX,
        max_inbound_rpc_size=limits.RPC_BYTES_MAX,
    )
    pubsub.observe = observe
    pubsub.counter = time.time_ns()  # whole seconds by default: after a quick restart messages would count as seen
    return pubsub
