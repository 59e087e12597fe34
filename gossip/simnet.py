"""A network in memory: another transport, for simulations and tests. All chance in it comes from one seed.

Under `trio.testing.MockClock(autojump_threshold=0)` minutes of many nodes pass as fast as their code runs.

What it has: connections that are dialled, lost, cut and parted; streams in order, with latency and a window; a mesh of
degree six for each topic, over which every message is pushed on, so that most nodes get several copies of it; loss of
such copies, as when a queue overflows. What it has not: bandwidth, cryptography, GossipSub's IHAVE, its scores. A
partition is noticed at once, where a real one takes until a ping is missed.
"""

import heapq
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from typing import NamedTuple
from weakref import WeakSet

import trio
from msgspec import Struct

from gossip import limits
from gossip.addresses import Endpoint, parse_listen, parse_peer
from gossip.errors import BadAddress, DialFailed, GossipError, PeerFault, PortInUse, StreamBroken
from gossip.events import Event, Kind, Observer
from gossip.screen import Verdict
from gossip.simstreams import Pipe, SimStream
from gossip.transport import Handler, Stream, Validator

HEARTBEAT_S = 1.0
DEGREE, DEGREE_LOW, DEGREE_HIGH = 6, 4, 10
FIRST_PORT = 49152


def schedule_by_seed(seed: int) -> None:
    """Have trio run tasks that are ready at the same time in an order that follows from the seed, from here on.

    It shuffles them on purpose, and has a switch for Hypothesis only. Without this, runs by one seed differ a little.
    """
    trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    trio._core._run._r.seed(seed)


class Conditions(NamedTuple):
    """Of all connections alike."""

    latency_s: float = 0.02  # one way, at least
    jitter_s: float = 0.02  # and up to so much more, evenly
    loss: float = 0.0  # share of the copies of messages that do not arrive; streams lose nothing


class Traffic(Struct):
    """What one node has sent and received so far."""

    stream_bytes: int = 0  # sent
    gossip_bytes: int = 0  # sent, in copies of messages
    copies: int = 0  # of messages, received
    messages: int = 0  # received for the first time


class _Message(NamedTuple):
    number: int
    topic: str
    data: bytes


class Network:
    """Where the nodes meet."""

    def __init__(self, rng: random.Random, conditions: Conditions | None = None) -> None:
        self.rng = rng
        self.conditions = conditions or Conditions()
        self._listening: dict[tuple[str, int], SimTransport] = {}
        self._ports = count(FIRST_PORT)
        self._numbers = count()
        self._side: dict[str, int] = {}  # peer → its side of the partition

    def part(self, *sides: Iterable[str]) -> None:
        """Let peers (by id) reach only those of their own side. Whoever is on none is on a side with its like."""
        self._side = {peer: number for number, side in enumerate(sides, 1) for peer in side}
        for transport in self._listening.values():
            for peer in sorted(transport.peers()):
                if not self._reaches(transport.peer_id, peer):
                    transport.cut(peer)

    def heal(self) -> None:
        """End the partition; nodes that want each other dial again."""
        self._side = {}

    def delay_s(self) -> float:
        return self.conditions.latency_s + self.rng.random() * self.conditions.jitter_s

    def loses(self) -> bool:
        return self.rng.random() < self.conditions.loss

    def number(self) -> int:
        return next(self._numbers)

    def listen(self, transport: "SimTransport", wanted: Endpoint) -> Endpoint:
        """Raises `PortInUse`."""
        endpoint = wanted if wanted.port else wanted._replace(port=next(self._ports))
        if (endpoint.host, endpoint.port) in self._listening:
            raise PortInUse(f"port {endpoint.port} on {endpoint.host} is in use; listen on another port")
        self._listening[endpoint.host, endpoint.port] = transport
        return endpoint

    def leave(self, endpoint: Endpoint) -> None:
        del self._listening[endpoint.host, endpoint.port]

    def find(self, endpoint: Endpoint, caller: str) -> "SimTransport | None":
        """Who listens there, if `caller` reaches it."""
        found = self._listening.get((endpoint.host, endpoint.port))
        return found if found is not None and self._reaches(caller, found.peer_id) else None

    def _reaches(self, one: str, other: str) -> bool:
        return self._side.get(one) == self._side.get(other)


class _Link:
    """A connection between two nodes, with the streams over it."""

    def __init__(self, one: "SimTransport", other: "SimTransport") -> None:
        self._ends = {one.peer_id: other, other.peer_id: one}
        self._pipes: WeakSet[Pipe] = WeakSet()
        self.lost = trio.Event()

    def other(self, end: "SimTransport") -> "SimTransport":
        return self._ends[end.peer_id]

    def stream(self, opener: "SimTransport") -> tuple[SimStream, SimStream]:
        """Its two ends, the opener's first."""
        out, back = Pipe(), Pipe()
        self._pipes |= {out, back}
        other = self.other(opener)
        return (
            SimStream(other.peer_id, back, out, opener.carry, partial(opener.cut, other.peer_id)),
            SimStream(opener.peer_id, out, back, other.carry, partial(other.cut, opener.peer_id)),
        )

    def break_off(self) -> None:
        self.lost.set()
        for pipe in self._pipes:
            pipe.break_off()


class _Topic(NamedTuple):
    validator: Validator
    deliver: trio.MemorySendChannel[tuple[str, bytes]]
    mesh: set[str]  # the peers that messages are pushed to


class SimTransport:
    """See `gossip.transport.Transport`. One instance runs once."""

    def __init__(
        self, network: Network, peer_id: str, listen: str, *, connections_max: int = limits.CONNECTIONS_MAX
    ) -> None:
        """A node that will listen on the multiaddress `listen`, port 0 for any. Raises `BadAddress`."""
        self.network, self.traffic = network, Traffic()
        self._peer_id, self._connections_max = peer_id, connections_max
        self._endpoint = parse_listen(listen)
        self._observers: list[Observer] = []
        self._wanted: dict[str, str] = {}  # peer id → address to redial
        self._links: dict[str, _Link] = {}
        self._handlers: dict[str, Handler] = {}
        self._serving: Counter[str] = Counter()  # streams of each peer that are being answered
        self._topics: dict[str, _Topic] = {}
        self._seen: set[int] = set()
        self._inbox: list[tuple[float, int, str, _Message]] = []  # a heap, by time of arrival
        self._mail = trio.Event()
        self._nursery: trio.Nursery | None = None

    @property
    def peer_id(self) -> str:
        return self._peer_id

    def addresses(self) -> tuple[str, ...]:
        return (f"{self._endpoint}/p2p/{self._peer_id}",)

    def watch(self, observer: Observer) -> None:
        self._observers.append(observer)

    def _observe(self, kind: Kind, peer: str, detail: str = "") -> None:
        for observer in self._observers:
            observer(Event(kind=kind, peer=peer, detail=detail))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self._endpoint = self.network.listen(self, self._endpoint)
        try:
            async with trio.open_nursery() as self._nursery:
                for peer in self._wanted:
                    self._nursery.start_soon(self._redial, peer)
                self._nursery.start_soon(self._keep_mesh)
                self._nursery.start_soon(self._receive)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            self.network.leave(self._endpoint)
            for peer in sorted(self._links):
                self.cut(peer)

    # Connections

    def peers(self) -> frozenset[str]:
        return frozenset(self._links)

    async def connect(self, address: str) -> str:
        endpoint, peer = parse_peer(address)
        if peer == self._peer_id:
            raise DialFailed(f"{address} is this node itself")
        await trio.sleep(2 * self.network.delay_s())
        if peer in self._links:
            return peer
        target = self.network.find(endpoint, self._peer_id)
        if target is None:
            raise DialFailed(f"no connection to {address}: refused")
        if target.peer_id != peer:
            raise DialFailed(f"no connection to {address}: peer id {target.peer_id} answered")
        if not (self._has_room() and target._has_room()):
            raise DialFailed(f"no connection to {address}: refused, too many connections")
        link = _Link(self, target)
        for one, other in ((self, target), (target, self)):
            one._links[other.peer_id] = link
            one._observe(Kind.PEER_CONNECTED, other.peer_id)
        return peer

    def _has_room(self) -> bool:
        return len(self._links) < self._connections_max

    def cut(self, peer: str) -> None:
        """Lose the connection to a peer, if there is one, with all that is under way on it."""
        link = self._links.get(peer)
        if link is None:
            return
        link.break_off()
        target = link.other(self)
        for one, other in ((self, target), (target, self)):
            del one._links[other.peer_id]
            for topic in one._topics.values():
                topic.mesh.discard(other.peer_id)
            one._observe(Kind.PEER_LOST, other.peer_id)

    def keep_connected(self, address: str) -> str:
        _, peer = parse_peer(address)
        if peer == self._peer_id:
            raise BadAddress(f"{address} is this node itself")
        known = peer in self._wanted
        self._wanted[peer] = address
        if self._nursery is not None and not known:
            self._nursery.start_soon(self._redial, peer)
        return peer

    async def _redial(self, peer: str) -> None:
        pause_s = limits.REDIAL_S_MIN
        while True:
            if (link := self._links.get(peer)) is not None:
                await link.lost.wait()
                pause_s = limits.REDIAL_S_MIN
            else:
                try:
                    await self.connect(self._wanted[peer])
                    continue
                except DialFailed as error:
                    self._observe(Kind.DIAL_FAILED, peer, str(error))
                    pause_s = min(pause_s * 2, limits.REDIAL_S_MAX)
            await trio.sleep(pause_s)

    # Streams

    def carry(self, size: int) -> float:
        """Count bytes of a stream as sent, and give their delay in s."""
        self.traffic.stream_bytes += size
        return self.network.delay_s()

    def handle(self, protocol: str, handler: Handler) -> None:
        self._handlers[protocol] = handler

    @asynccontextmanager
    async def open(self, peer: str, protocol: str) -> AsyncIterator[Stream]:
        link = self._links.get(peer)
        if link is None:
            raise StreamBroken(f"not connected to {peer}")
        await trio.sleep(2 * self.network.delay_s())  # to agree on the protocol
        target = link.other(self)
        if link.lost.is_set() or target._nursery is None:
            raise StreamBroken(f"the connection to {peer} was lost")
        if protocol not in target._handlers:
            raise StreamBroken(f"no {protocol} stream to {peer}: it does not speak that")
        ours, theirs = link.stream(self)
        target._nursery.start_soon(target._serve, protocol, theirs)
        async with ours.ended() as stream:
            yield stream

    async def _serve(self, protocol: str, stream: SimStream) -> None:
        peer = stream.peer
        if self._serving[peer] >= limits.STREAMS_SERVED_PER_PEER_MAX:
            stream.reset()
            return
        self._serving[peer] += 1
        try:
            async with stream.ended():
                await self._handlers[protocol](stream)
        except PeerFault as error:
            self._observe(Kind.PEER_FAULT, peer, f"{protocol}: {error}")
        except GossipError as error:
            self._observe(Kind.REQUEST_FAILED, peer, f"{protocol}: {error}")
        except Exception as error:  # noqa: BLE001  one stream's bug must not end the node
            self._observe(Kind.HANDLER_FAILED, peer, f"{protocol}: {error!r}")
        finally:
            self._serving[peer] -= 1

    # Topics

    async def join(self, topic: str, validator: Validator) -> trio.MemoryReceiveChannel[tuple[str, bytes]]:
        await trio.lowlevel.checkpoint()
        send, receive = trio.open_memory_channel[tuple[str, bytes]](limits.MESSAGES_PENDING_MAX)
        self._topics[topic] = _Topic(validator, send, set())
        return receive

    async def publish(self, topic: str, message: bytes) -> None:
        made = _Message(self.network.number(), topic, message)
        self._seen.add(made.number)
        self._push(made, source=None)
        await trio.sleep(limits.PUBLISH_SPACING_S)

    def _push(self, message: _Message, source: str | None) -> None:
        topic = self._topics.get(message.topic)
        for peer in sorted((topic.mesh if topic else self._subscribed(message.topic)) - {source}):
            self.traffic.gossip_bytes += len(message.data)
            if not self.network.loses():
                arrives = trio.current_time() + self.network.delay_s()
                self._links[peer].other(self)._post(arrives, self._peer_id, message)

    def _subscribed(self, topic: str) -> set[str]:
        return {peer for peer, link in self._links.items() if topic in link.other(self)._topics}

    def _post(self, arrives: float, source: str, message: _Message) -> None:
        heapq.heappush(self._inbox, (arrives, self.network.number(), source, message))
        if self._inbox[0][0] == arrives:
            self._mail.set()

    async def _receive(self) -> None:
        while True:
            next_arrival = self._inbox[0][0] if self._inbox else float("inf")
            if next_arrival <= trio.current_time():
                _, _, source, message = heapq.heappop(self._inbox)
                if source in self._links:
                    self._take(source, message)
                await trio.lowlevel.checkpoint()
                continue
            self._mail = trio.Event()
            with trio.move_on_at(next_arrival):
                await self._mail.wait()

    def _take(self, source: str, message: _Message) -> None:
        self.traffic.copies += 1
        topic = self._topics.get(message.topic)
        if topic is None or message.number in self._seen:
            return
        self._seen.add(message.number)
        self.traffic.messages += 1
        try:
            verdict = topic.validator(source, message.data)
        except Exception as error:  # noqa: BLE001  as a handler's
            self._observe(Kind.HANDLER_FAILED, source, f"validator: {error!r}")
            return
        if verdict is not Verdict.ACCEPT:
            return
        try:
            topic.deliver.send_nowait((source, message.data))
        except trio.WouldBlock:
            self._observe(Kind.MESSAGE_DROPPED, source, "too many messages are waiting")
        except trio.BrokenResourceError:
            return  # nobody listens any more
        self._push(message, source)

    async def _keep_mesh(self) -> None:
        """Graft while there are too few peers in a mesh, and prune while there are too many; both sides follow."""
        await trio.sleep(0.1 * self.network.rng.random())
        while True:
            for name, topic in self._topics.items():
                others = {peer: link.other(self) for peer, link in self._links.items()}
                if len(topic.mesh) < DEGREE_LOW:
                    free = sorted(self._subscribed(name) - topic.mesh)
                    for peer in self.network.rng.sample(free, min(len(free), DEGREE - len(topic.mesh))):
                        topic.mesh.add(peer)
                        others[peer]._topics[name].mesh.add(self._peer_id)
                elif len(topic.mesh) > DEGREE_HIGH:
                    for peer in self.network.rng.sample(sorted(topic.mesh), len(topic.mesh) - DEGREE):
                        topic.mesh.discard(peer)
                        others[peer]._topics[name].mesh.discard(self._peer_id)
            await trio.sleep(HEARTBEAT_S)
