"""The transport over py-libp2p: supervises the host, dials, and hands streams and messages to whoever asked for them.

    libp2p_host.py         one host, with all its parameters      ┐ rebuilt whenever it fails
    libp2p_containment.py  what would make it fail, contained     ┘
    libp2p_streams.py      streams with deadlines
    admission.py           who may connect, and who has misbehaved

Nothing of libp2p is visible through the interface (transport.py).
"""

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from libp2p.abc import INetStream, ISubscriptionAPI
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.protocol_muxer.exceptions import MultiselectError
from libp2p.pubsub.pb import rpc_pb2
from libp2p.tools.anyio_service import Service, background_trio_service
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from gossip import limits
from gossip.addresses import Endpoint, parse_listen, parse_peer
from gossip.admission import Door
from gossip.errors import BadAddress, DialFailed, GossipError, HostFailed, PeerFault, PortInUse, StreamBroken
from gossip.events import Event, Kind, Observer, Quiet
from gossip.interfaces import concrete, resolve
from gossip.libp2p_containment import Admits, check_version
from gossip.libp2p_host import Host, Owner, build_host
from gossip.libp2p_pubsub import Judge
from gossip.libp2p_sockets import bounded, probe_port
from gossip.libp2p_streams import LIBRARY_FAILURES, causes, ended, root_cause
from gossip.metrics import Metrics
from gossip.rates import Bucket, Buckets
from gossip.screen import Verdict
from gossip.transport import Handler, Stream, Validator

_CONNECTION_FAULT_WEIGHT = limits.FAULTS.burst / 2  # a closed connection weighs as much as many bad messages
_CONNECTION_FAULTS = frozenset({"window overrun", "too many streams", "stream id"})


class Libp2pTransport:
    """See `gossip.transport.Transport`. One instance runs once."""

    def __init__(
        self,
        key: Ed25519PrivateKey,
        listen: str,
        *,
        psk: bytes | None = None,
        connections_max: int = limits.CONNECTIONS_MAX,
    ) -> None:
        """A node with this identity that will listen on the multiaddress `listen`, port 0 for any.

        `psk` is the 32-byte key of a private swarm: only who has it gets as far as a handshake
        (https://github.com/libp2p/specs/blob/master/pnet/Private-Networks-PSK-V1.md).
        Raises `BadAddress`, `UnsupportedLibp2p`.
        """
        check_version()
        self._endpoint = parse_listen(listen)
        self.metrics = Metrics()
        self._observers: list[Observer] = []
        self._quiet = Quiet()
        self._wanted: dict[str, str] = {}  # peer id → address to redial
        self._handlers: dict[str, Handler] = {}
        self._judges: dict[str, Judge] = {}  # by topic
        self._serving: Counter[str] = Counter()  # streams of each peer that are being answered
        self._requests: Buckets[str] = Buckets(limits.REQUESTS, limits.PEERS_JUDGED_MAX)
        self._nursery: trio.Nursery | None = None
        self._publishing = trio.Lock()
        self._admits: Admits = lambda peer, ip: True
        self._door = Door(max(1, min(limits.CONNECTIONS_INBOUND_MAX, connections_max * 2 // 3)))
        self._owner = Owner(
            key=key, psk=psk, connections_max=connections_max, door=self._door, metrics=self.metrics,
            admits=lambda peer, ip: self._admits(peer, ip), blame=self._blame, closed=self._closed,
            connected=lambda peer: self._observe(Event(kind=Kind.PEER_CONNECTED, peer=peer)), lost=self._lost,
        )  # fmt: skip
        self._up: Host | None = None  # the host, while it runs
        self._next = build_host(self._owner)
        self._id = self._next.host.get_id()
        self.metrics.gauge("peers", lambda: len(self.peers()))
        self.metrics.gauge("gossip_mesh_peers", self._mesh_peers)

    @property
    def peer_id(self) -> str:
        return self._id.to_base58()

    def addresses(self) -> tuple[str, ...]:
        return tuple(f"{endpoint}/p2p/{self.peer_id}" for endpoint in concrete(self._endpoint))

    def watch(self, observer: Observer) -> None:
        self._observers.append(observer)

    def guard(self, admits: Admits) -> None:
        """Ask `admits` about each connection from now on, and close those that it does not let in."""
        self._admits = admits
        if self._up is not None:
            self._up.swarm.abort_banned()

    def disconnect(self, peer: str) -> None:
        """Close all connections to a peer at once. It may come back."""
        if self._up is not None:
            self._up.swarm.abort_peer(ID.from_string(peer))

    # Life

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See `Transport.run`. Raises `HostFailed` as well, when rebuilding the host does not help."""
        probe_port(self._endpoint)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for peer in self._wanted:
                nursery.start_soon(self._redial, peer)
            failure = await self._keep_up(task_status)
            nursery.cancel_scope.cancel()
        raise failure

    async def _keep_up(self, task_status: trio.TaskStatus[None]) -> GossipError:
        """Run hosts until one cannot be started, or too many failed; say why.

        Whatever the library did not contain ends its host: the next one, on the same port and with the same key, has
        all handlers and topics of the last.
        """
        rebuilds, pause_s, started = Bucket(limits.REBUILDS, trio.current_time()), limits.REBUILD_PAUSE_S, False
        while True:
            began_s, ready = trio.current_time(), trio.Event()
            why = await self._live(ready, trio.TASK_STATUS_IGNORED if started else task_status)
            await trio.lowlevel.checkpoint_if_cancelled()  # then it is no failure, whatever the library raised
            if not (started or ready.is_set()):
                return why if isinstance(why, GossipError) else HostFailed(f"the network did not start: {why!r:.300}")
            started = True
            if not rebuilds.take(trio.current_time()):
                return HostFailed(
                    f"the network failed {limits.REBUILDS.burst:.0f} times within a minute, the last time because: "
                    f"{root_cause(why)}. Start the node again; if that does not help, this is a bug to report"
                )
            pause_s = limits.REBUILD_PAUSE_S if trio.current_time() - began_s > limits.REDIAL_S_MAX else pause_s * 2
            self._observe(Event(kind=Kind.HOST_REBUILT, peer=self.peer_id, detail=f"{root_cause(why)!s:.300}"))
            self.metrics.count("host_rebuilds_total")
            await trio.sleep(pause_s)
            self._next = build_host(self._owner)

    async def _live(self, ready: trio.Event, task_status: trio.TaskStatus[None]) -> Exception:
        """Run one host to its end, and say why it ended. `ready` is set once it serves."""
        built = self._next
        try:
            async with built.host.run(listen_addrs=[Multiaddr(str(self._endpoint))]):
                try:
                    if not built.swarm.listeners:  # the library does not raise, and swallows why
                        return PortInUse(
                            f"cannot listen on {self._endpoint}; choose another port, or port 0 for a free one"
                        )
                    await self._serve(built, ready, task_status)
                finally:
                    await built.swarm.close_sockets()
        except Exception as error:  # noqa: BLE001  whatever the library dies of; cancellation is none of these
            return error
        finally:
            self._up = None
            built.connections.end()
        return RuntimeError("it ended by itself")

    async def _serve(self, built: Host, ready: trio.Event, task_status: trio.TaskStatus[None]) -> None:
        async with background_trio_service(built.pubsub), background_trio_service(built.router):
            await built.pubsub.wait_until_ready()
            (bound,) = built.host.get_transport_addrs()
            self._endpoint = parse_listen(str(bound))  # port 0 is a real one now, and the next host's too
            for protocol, handler in self._handlers.items():
                self._offer(built, protocol, handler)
            async with trio.open_nursery() as nursery:
                for service in (built.swarm, built.pubsub, built.router):
                    nursery.start_soon(_outlives, service)
                self._up = built
                for topic in list(self._judges):
                    await nursery.start(self._subscribe, built, topic)
                ready.set()
                task_status.started()
                await trio.sleep_forever()

    # Connections

    def peers(self) -> frozenset[str]:
        return frozenset() if self._up is None else self._up.connections.peers()

    async def connect(self, address: str) -> str:
        endpoint, peer = parse_peer(address)
        if peer == self.peer_id:
            raise DialFailed(f"{address} is this node itself")
        if self._up is None:
            raise DialFailed(f"no connection to {address}: this node's own network is not up")
        failures: list[str] = []
        for place in await resolve(endpoint):
            if not self._admits(peer, place.host):
                raise DialFailed(f"no connection to {address}: this node's own rules keep it out")
            try:
                await self._dial(self._up, ID.from_string(peer), place)
            except (*LIBRARY_FAILURES, trio.TooSlowError) as error:
                failures.append(_why_no_connection(error))
            else:
                return peer
        raise DialFailed(f"no connection to {address}: {'; '.join(failures)}")

    async def _dial(self, up: Host, target: ID, place: Endpoint) -> None:
        up.swarm.unblock_peer(target)  # a failed dial is remembered for a minute
        if target.to_base58() not in self.peers():
            # Only one TCP address of a peer is ever dialled, the first that the library remembers.
            up.host.get_peerstore().add_addrs(target, [], 1)
            up.host.get_peerstore().clear_addrs(target)
        with trio.fail_after(limits.DIAL_DEADLINE_S):
            await up.host.connect(PeerInfo(target, [Multiaddr(str(place))]))

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
            elif self._up is not None:
                pause_s = min(pause_s * 2, limits.REDIAL_S_MAX)  # also for a peer that lets us in and hangs up at once
                try:
                    await self.connect(self._wanted[peer])
                except DialFailed as error:
                    self._observe(Event(kind=Kind.DIAL_FAILED, peer=peer, detail=str(error)))
            await trio.sleep(pause_s * random.uniform(0.75, 1.0))  # those that lost a peer together return apart

    # Conduct

    def _observe(self, event: Event) -> None:
        self.metrics.count("events_total", event.kind.value)
        if self._quiet.lets(event, trio.current_time()):
            shown = event.printable()
            for observer in self._observers:
                observer(shown)

    def _lost(self, peer: str) -> None:
        self._door.forget(peer)
        self._observe(Event(kind=Kind.PEER_LOST, peer=peer))

    def _closed(self, peer: ID, reason: str) -> None:
        self.metrics.count("connections_closed_total", reason)
        if peer.to_bytes():
            self._observe(Event(kind=Kind.CONNECTION_CLOSED, peer=peer.to_base58(), detail=reason))
        if reason in _CONNECTION_FAULTS:
            self._door.fault(peer.to_base58(), trio.current_time(), _CONNECTION_FAULT_WEIGHT)

    def _blame(self, peer: ID, kind: Kind, detail: str) -> bool:
        """Count a peer's fault, tell of it unless the detail is empty, and say whether the peer is disconnected."""
        name, now_s = peer.to_base58(), trio.current_time()
        if detail:
            self._observe(Event(kind=kind, peer=name, detail=detail))
        if not self._door.fault(name, now_s):
            return False
        if name in self.peers():
            refused_s = self._door.refused_for_s(name, now_s)
            self.metrics.count("peers_refused_total" if refused_s else "peers_disconnected_total")
            detail = f"for {refused_s:.0f} s" if refused_s else "disconnected; it may come back once"
            self._observe(Event(kind=Kind.PEER_REFUSED, peer=name, detail=f"too many faults: {detail}"))
        self.disconnect(name)
        return True

    # Streams

    def handle(self, protocol: str, handler: Handler) -> None:
        self._handlers[protocol] = handler
        if self._up is not None:
            self._offer(self._up, protocol, handler)

    def _offer(self, built: Host, protocol: str, handler: Handler) -> None:
        async def serve(net: INetStream) -> None:
            peer = net.muxed_conn.peer_id.to_base58()
            if self._serving[peer] >= limits.STREAMS_SERVED_PER_PEER_MAX:
                self.metrics.count("requests_refused_total", protocol)
                await bounded(net, net.reset, limits.WRITE_DEADLINE_S)
                return
            self._serving[peer] += 1
            self.metrics.count("requests_total", protocol)
            try:
                await trio.sleep(self._requests.delay_s(peer, trio.current_time()))
                async with ended(net, self.metrics) as stream:
                    await handler(stream)
            except PeerFault as error:
                self._blame(net.muxed_conn.peer_id, Kind.PEER_FAULT, f"{protocol}: {error}")
            except GossipError as error:
                self._observe(Event(kind=Kind.REQUEST_FAILED, peer=peer, detail=f"{protocol}: {error}"))
            except Exception as error:  # noqa: BLE001  ours: one stream's bug must not end the node
                self._observe(Event(kind=Kind.HANDLER_FAILED, peer=peer, detail=f"{protocol}: {error!r}"))
            finally:
                self._serving[peer] -= 1
                if not self._serving[peer]:
                    del self._serving[peer]

        built.host.set_stream_handler(TProtocol(protocol), serve)

    @asynccontextmanager
    async def open(self, peer: str, protocol: str) -> AsyncIterator[Stream]:
        if self._up is None or peer not in self.peers():
            raise StreamBroken(f"not connected to {peer}")
        try:
            with trio.fail_after(limits.OPEN_DEADLINE_S):
                net = await self._up.host.new_stream(ID.from_string(peer), [TProtocol(protocol)])
        except (*LIBRARY_FAILURES, trio.TooSlowError) as error:
            raise StreamBroken(f"no {protocol} stream to {peer}: {root_cause(error)}") from error
        async with ended(net, self.metrics) as stream:
            yield stream
        self._door.prove(peer)

    # Topics

    async def join(self, topic: str, validator: Validator) -> trio.MemoryReceiveChannel[tuple[str, bytes]]:
        if self._nursery is None:
            raise RuntimeError("the transport does not run yet")
        send, receive = trio.open_memory_channel[tuple[str, bytes]](limits.MESSAGES_PENDING_MAX)

        def judge(forwarder: ID, message: rpc_pb2.Message) -> Verdict:
            # Delivered from here, because the library's subscription does not say who forwarded.
            peer = forwarder.to_base58()
            try:
                verdict = validator(peer, message.data)
            except Exception as error:  # noqa: BLE001  ours: a raising validator must not end the peer's stream
                self._observe(Event(kind=Kind.HANDLER_FAILED, peer=peer, detail=f"validator: {error!r}"))
                return Verdict.IGNORE
            if verdict is not Verdict.ACCEPT:
                return verdict
            self._door.prove(peer)
            try:
                send.send_nowait((peer, message.data))
            except trio.WouldBlock:
                self._observe(Event(kind=Kind.MESSAGE_DROPPED, peer=peer, detail="too many messages are waiting"))
            except trio.BrokenResourceError:
                return Verdict.IGNORE  # nobody listens any more
            return verdict

        self._judges[topic] = judge
        if self._up is not None:
            await self._nursery.start(self._subscribe, self._up, topic)
        return receive

    async def _subscribe(self, built: Host, topic: str, task_status: trio.TaskStatus[None]) -> None:
        """Be in a topic; what the library's subscription gives was delivered already."""
        built.pubsub.judges[topic] = self._judges[topic]
        subscription: ISubscriptionAPI = await built.pubsub.subscribe(topic)
        task_status.started()
        while True:
            await subscription.get()

    async def publish(self, topic: str, message: bytes) -> None:
        async with self._publishing:
            if self._up is not None:  # no promise of delivery
                await self._up.pubsub.publish(topic, message)
            await trio.sleep(limits.PUBLISH_SPACING_S)

    def _mesh_peers(self) -> float:
        return 0 if self._up is None else sum(map(len, self._up.router.mesh.values()))


def _why_no_connection(error: Exception) -> str:
    """A failed dial, for people. With another swarm key the other side hears noise, and answers likewise or not."""
    if isinstance(error, trio.TooSlowError):
        why = f"no answer in {limits.DIAL_DEADLINE_S:g} s"
    elif any(isinstance(cause, MultiselectError) for cause in causes(error)):
        why = "no handshake"
    else:
        return root_cause(error)
    return f"{why}: it may be another program, or of a private swarm whose key this node does not have"


async def _outlives(service: Service) -> None:
    """Raise when a part of the host ends. The library would go on without it and say nothing."""
    await service.manager.wait_finished()
    raise RuntimeError(f"its {type(service).__name__} ended")
