"""Finding peers and staying connected to some: the async shell around peerbook.py, records.py and rules.py.

    --join, mDNS ─┐                            ┌─► dial, if too few of our own connections are left
                  ├─► book ◄─► peer_records ───┤
    records ──────┘                            └─► records for whoever asks

`/waggle/peers/1`: the asker gives its own record and gets that of the answerer, with some of others. Every peer is
asked on connecting and every minute. Connections that others made do not count as ours: whoever dials us much must not
decide whom we hear. Peers named by `join` are dialled for ever, whatever becomes of the others.
"""

import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gossip import limits
from gossip.addresses import Endpoint, Scope, parse_peer
from gossip.errors import BadAddress, DialFailed, OtherSwarm, PeerFault, StreamBroken
from gossip.events import Event, Kind, Observer
from gossip.peerbook import Book, Known, reach_of
from gossip.peerstore import PeerStore
from gossip.protocols import within
from gossip.records import Record, announced, open_record, sign_record
from gossip.rules import Rules
from gossip.transport import Stream, Transport
from gossip.wire import PEERS, PeersReply, PeersRequest, encode, receive

Admits = Callable[[str | None, str | None], bool]
"""Peer id and IP address, None if not known yet → whether to connect. Quick and total."""


class Peering:
    """The acquaintances of one node in one swarm."""

    def __init__(
        self,
        transport: Transport,
        store: PeerStore,
        key: Ed25519PrivateKey,
        challenge: str,
        observe: Observer,
        guard: Callable[[Admits], None],
        *,
        announce: Sequence[Endpoint] = (),
        wanted: int = limits.PEERS_WANTED,
        round_s: float = limits.PEERS_ROUND_S,
        interval_s: float = limits.PEERS_INTERVAL_S,
        rng: random.Random | None = None,
    ) -> None:
        """`guard` hands the transport what decides about connections, existing ones included.

        `announce`: where this node can be dialled, if its own interfaces do not show it (a forwarded port, say).
        """
        self._transport, self._store, self._key, self._challenge = transport, store, key, challenge
        self._observe, self._guard = observe, guard
        self._announce = tuple(announce)
        self._wanted, self._round_s, self._interval_s = wanted, round_s, interval_s
        self._rng = rng or random.Random()
        known = store.known()
        self._book = Book(transport.peer_id, known)
        self._own = next((one.record for one in known if one.peer == transport.peer_id), None)
        self._joined: dict[str, str] = {}  # peer → the address to join by
        self._dialled: set[str] = set()  # whose connection is of our making
        self._useful: set[str] = set()  # that have answered on this connection
        self._asked: dict[str, float] = {}  # peer → when, by trio's clock
        self._rules, self._equivocators = Rules(), frozenset[str]()
        self._nearby_in, self._nearby = trio.open_memory_channel[tuple[str, str]](limits.PEERS_WANTED)

    def knows_anybody(self) -> bool:
        return len(self._book) > 0

    def admits(self, peer: str | None, ip: str | None) -> bool:
        """Whether the owner's rules let a peer in, and no proof shows that it signed two histories."""
        return peer not in self._equivocators and self._rules.admits(peer, ip)

    def found_nearby(self, address: str) -> None:
        """Somebody announced a peer at this address on the local network; whoever answers there proves its id.

        Addresses of other kinds of libp2p nodes are passed over, and so is what comes too fast.
        """
        with suppress(BadAddress, trio.WouldBlock):
            self._nearby_in.send_nowait((parse_peer(address)[1], address))

    def forget(self, peer: str) -> None:
        """It is of another swarm: not dialled again, and not asked while this connection lasts."""
        self._dialled.discard(peer)
        self._asked[peer] = float("inf")
        self._book.forget(peer)

    async def run(
        self, join: Sequence[str] = (), *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve, ask and dial until cancelled. The transport must be running.

        `join`: addresses, each ending in a peer id, that are dialled for ever. Raises `BadAddress`.
        """
        self._transport.watch(self._connection_event)
        self._look_at_rules()
        self._transport.handle(PEERS, self._answer)
        self._joined = {parse_peer(address)[1]: address for address in join}
        for address in self._joined.values():
            self._transport.keep_connected(address)
        for peer in self._transport.peers() & self._joined.keys():
            self._reached(peer, self._joined[peer])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_connected)
            nursery.start_soon(self._dial_nearby)
            task_status.started()
            while True:
                self._look_at_rules()
                now = trio.current_time()
                for peer in self._transport.peers():
                    if now >= self._asked.get(peer, float("-inf")) + self._interval_s:
                        self._asked[peer] = now
                        nursery.start_soon(self._ask, peer)
                self._store.keep(self._book.take_changes())
                await trio.sleep(self._round_s)

    def _connection_event(self, event: Event) -> None:
        if event.kind is Kind.PEER_CONNECTED and event.peer in self._joined:
            self._reached(event.peer, self._joined[event.peer])
        elif event.kind is Kind.PEER_LOST:
            if event.peer in self._dialled - self._useful:
                self._failed(event.peer)
            for peers in (self._dialled, self._useful):
                peers.discard(event.peer)
            self._asked.pop(event.peer, None)

    def _look_at_rules(self) -> None:
        rules_changed = self._store.changed()
        if rules_changed:
            self._rules = Rules(self._store.rules())
        equivocators = self._store.equivocators()
        if rules_changed or equivocators != self._equivocators:
            self._equivocators = equivocators
            self._guard(self.admits)

    # Dialling

    async def _keep_connected(self) -> None:
        while True:
            if len(self._dialled & self._transport.peers()) < self._wanted:
                peer = self._book.next_to_dial(
                    self._transport.peers() | self._joined.keys(),
                    trio.current_time(),
                    self._rng,
                    lambda peer: self.admits(peer, None),
                )
                if peer is not None:
                    await self._dial(peer, self._book.addresses(peer, self._reach()))
            await trio.sleep(self._round_s)

    async def _dial_nearby(self) -> None:
        async for peer, address in self._nearby:
            if peer not in self._transport.peers() and self.admits(peer, None):
                await self._dial(peer, [address])

    async def _dial(self, peer: str, addresses: Sequence[str]) -> None:
        """Try the addresses until one leads to the peer."""
        why = ""
        for address in addresses:
            try:
                await self._transport.connect(address)
            except DialFailed as error:
                why = str(error)
            else:
                self._reached(peer, address)
                return
        self._tell(Kind.DIAL_FAILED, peer, why)
        self._failed(peer)

    def _failed(self, peer: str) -> None:
        self._book.failed(peer, trio.current_time(), online=bool(self._transport.peers()))

    def _reached(self, peer: str, address: str) -> None:
        self._dialled.add(peer)
        self._book.reached(peer, address, int(time.time()))
        self._store.remember(peer, address)

    # Addresses

    def _reach(self) -> Scope:
        return reach_of(self._endpoints())

    def _endpoints(self) -> tuple[Endpoint, ...]:
        found = announced(self._transport.addresses())
        return tuple(dict.fromkeys((*self._announce, *found)))[: limits.ADDRESSES_MAX]

    def _own_record(self) -> Record:
        """Signed anew when the addresses have changed. The clock makes a lost ledger's counter go on upwards."""
        endpoints = self._endpoints()
        if self._own is None or self._own.endpoints != endpoints:
            counter = max(0 if self._own is None else self._own.counter + 1, int(time.time()))
            self._own = sign_record(self._key, self._challenge, counter, endpoints)
            self._store.keep([(self._own.peer, Known(peer=self._own.peer, record=self._own, source=self._own.peer))])
        return self._own

    async def _ask(self, peer: str) -> None:
        try:
            with within(limits.REQUEST_DEADLINE_S):
                async with self._transport.open(peer, PEERS) as stream:
                    await stream.write(encode(PeersRequest(self._challenge, self._own_record().signed)))
                    await stream.finish()
                    reply = await receive(stream, PeersReply, limits.PEERS_REPLY_BYTES_MAX)
            news = 0
            for data in reply.records:
                news += self._book.hear(open_record(data, self._challenge), peer, self._reach())
                await trio.lowlevel.checkpoint()  # a signature takes about 0.2 ms
        except StreamBroken as error:
            self._tell(Kind.REQUEST_FAILED, peer, str(error))
        except PeerFault as error:
            self._tell(Kind.PEER_FAULT, peer, str(error))
        else:
            self._useful.add(peer)
            self._book.answered(peer)
            if news:
                self._tell(Kind.ADDRESSES_RECEIVED, peer, f"of {news} peers", count=news)

    async def _answer(self, stream: Stream) -> None:
        with within(limits.REQUEST_DEADLINE_S):
            request = await receive(stream, PeersRequest, limits.RECORD_BYTES_MAX + limits.KIB)
            if request.challenge != self._challenge:
                raise OtherSwarm(f"asked for peers of challenge {request.challenge}")
            if request.record is not None:
                record = open_record(request.record, self._challenge)
                if record.peer != stream.peer:
                    raise PeerFault(f"introduced itself with the address record of {record.peer}")
                if self._book.hear(record, stream.peer, self._reach()):
                    self._tell(Kind.ADDRESSES_RECEIVED, stream.peer, "its own", count=1)
            others = self._book.share(stream.peer, self._transport.peers(), self._rng)
            await stream.write(encode(PeersReply((self._own_record().signed, *others))))
            await stream.finish()

    def _tell(self, kind: Kind, peer: str, detail: str, *, count: int = 0) -> None:
        self._observe(Event(kind=kind, peer=peer, detail=detail[: limits.DETAIL_CHARS_MAX], count=count))
