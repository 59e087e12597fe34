"""Keeps a ledger in step with the ledgers of connected peers: the async shell around screen.py and exchange.py.

For each connected peer one task runs rounds: status (once for a connection), then sync until nothing is lacking, then
the blobs that the ledger misses. A round starts on connecting, every few seconds, and soon after gossip from that peer
showed a gap. Both sides do this, each for itself, so entries flow both ways. Gossip only makes it faster.

    gossip ─► screen ─► Store.add ─► on_new            sync ─► exchange.checked ─► Store.add ─► on_new
                            └─ gap: a round with the forwarder, soon

The store is called directly: its calls are short, and the thread that runs this is its one writer. What peers would
send again after a loss of power does not wait for the disk.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import trio

from gossip import exchange, limits
from gossip.blobs import BlobServer, Find, fetch_blob, nowhere
from gossip.errors import NotThere, OtherSwarm, OtherVersion, PeerFault, StreamBroken
from gossip.events import Event, Kind, Observer, Quiet
from gossip.holdings import Holdings
from gossip.protocols import Responder, fetch_status, no_constitution, topic_of, within
from gossip.screen import Verdict
from gossip.sieve import SEEN, Sieve
from gossip.transport import Transport
from gossip.wire import SYNC, SyncReply, SyncRequest, encode, receive
from ledger.envelope import Signed
from ledger.errors import BrokenChain, Equivocation
from ledger.predicates import PROGRAM_BYTES_MAX
from ledger.statements import feed_kind
from ledger.store import Store

__all__ = ["Mesh", "fetch_blob", "fetch_status"]


class Mesh:
    """Gossip and sync for one challenge. `on_new` sees every foreign entry once, right after it is stored."""

    def __init__(
        self,
        transport: Transport,
        store: Store,
        challenge: str,
        observe: Observer,
        on_new: Callable[[Signed], None],
        *,
        agent: str = "waggle",
        sync_interval_s: float = limits.SYNC_INTERVAL_S,
        find: Find = nowhere,
        constitution: Callable[[], str | None] = no_constitution,
    ) -> None:
        """`challenge` is its digest in hex; `agent` is the software and its version, for people.

        `find` knows the files of blobs that are too large for the ledger; `constitution` the digest of the one in
        force here.
        """
        self._transport, self._store, self._challenge = transport, store, challenge
        self._observe, self._on_new = observe, on_new
        self._interval_s = sync_interval_s
        self._topic = topic_of(challenge)
        self._holdings = Holdings(store)
        self._responder = Responder(transport, self._holdings, challenge, agent, constitution)
        self._blobs = BlobServer(transport, store.blobs, find, lambda one: self._tell(one.kind, one.peer, one.detail))
        self._sieve, self._quiet = Sieve(challenge), Quiet()
        self._synced_s: dict[str, float] = {}  # connected peer → when a round with it ended well, or it connected
        self._rounds: dict[str, trio.Event] = {}  # peer → set it to have its next round now
        self._pauses: dict[str, trio.CancelScope] = {}  # peer → its wait for the next round
        self._changed = trio.Event()  # somebody connected
        self._turn = trio.Semaphore(1, max_value=1)  # to ask for a page
        self._fetching: set[str] = set()  # digests of blobs on their way
        transport.watch(self._connection_event)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Join the topic, serve, and sync until cancelled. The transport must be running."""
        self._responder.serve()
        self._blobs.serve()
        messages = await self._transport.join(self._topic, self._validate)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive, messages)
            task_status.started()
            while True:
                self._changed = trio.Event()
                for peer in sorted(self._transport.peers() - self._rounds.keys()):
                    self._rounds[peer] = trio.Event()
                    nursery.start_soon(self._accompany, peer)
                await self._changed.wait()

    async def publish(self, signed: Signed) -> None:
        """Announce an own entry that is stored already. Trials are not announced: they travel by sync."""
        if feed_kind(signed.statement.entry.feed) == "main":
            await self._transport.publish(self._topic, signed.envelope)

    def sync_lag_s(self) -> float:
        """How long ago the ledger was last compared with that of the connected peer for which this is the longest."""
        return max((trio.current_time() - then_s for then_s in self._synced_s.values()), default=0.0)

    def _connection_event(self, event: Event) -> None:
        self._observe(event)
        if event.kind is Kind.PEER_CONNECTED:
            self._changed.set()
        elif event.kind is Kind.PEER_LOST and event.peer in self._pauses:
            self._pauses[event.peer].cancel()

    # Gossip

    def _validate(self, peer: str, message: bytes) -> Verdict:
        screened = self._sieve.judge(message, trio.current_time())
        if screened.verdict is not Verdict.ACCEPT and screened is not SEEN:
            self._tell(Kind.MESSAGE_DROPPED, peer, f"{screened.verdict.value}: {screened.reason}")
        return screened.verdict

    async def _receive(self, messages: trio.MemoryReceiveChannel[tuple[str, bytes]]) -> None:
        """Store what gossip brings: all that waits at once, because a transaction costs more than an entry.

        Nothing else runs meanwhile, so the messages are first let out to the next peers.
        """
        async for first in messages:
            for _ in range(limits.FORWARDING_TURNS):
                await trio.lowlevel.checkpoint()
            waiting = [first]
            with suppress(trio.WouldBlock, trio.EndOfChannel):
                while len(waiting) < limits.MESSAGES_STORED_AT_ONCE_MAX:
                    waiting.append(messages.receive_nowait())
            new: list[Signed] = []
            with self._store.batch(refetchable=True):
                for peer, message in waiting:
                    signed = self._sieve.take(message)
                    if signed is not None and not self._add(signed, peer, new) and peer in self._rounds:
                        self._rounds[peer].set()
            for signed in new:
                self._on_new(signed)

    def _add(self, signed: Signed, peer: str, new: list[Signed]) -> bool:
        """Store an entry that came from `peer`. False if it does not fit its feed; the reason is told.

        `new` collects what was not here before, to be told of when it is stored for good.
        """
        try:
            if self._store.add(signed):
                new.append(signed)
        except Equivocation as error:
            self._tell(Kind.EQUIVOCATION, peer, str(error))
            return False
        except BrokenChain as error:
            self._tell(Kind.FEED_REFUSED, peer, str(error))
            return False
        return True

    # Rounds with one peer

    async def _accompany(self, peer: str) -> None:
        """Run rounds with `peer` as long as it is connected."""
        introduced = synced = False
        absent: set[str] = set()  # blobs that it did not have
        memory = exchange.Memory()
        self._synced_s[peer] = trio.current_time()
        try:
            while peer in self._transport.peers():
                self._rounds[peer] = trio.Event()
                pause_s = self._interval_s
                try:
                    introduced = introduced or await self._introduce(peer)
                    if introduced:
                        await self._sync(peer, memory)
                        self._synced_s[peer] = trio.current_time()
                        await self._fetch_blobs(peer, absent)
                        if not synced:
                            synced = True
                            self._tell(Kind.PEER_SYNCED, peer)
                except OtherSwarm as error:
                    kind = Kind.OTHER_VERSION if isinstance(error, OtherVersion) else Kind.OTHER_SWARM
                    self._tell(kind, peer, str(error))
                    introduced, pause_s = False, limits.FAULT_PAUSE_S
                except PeerFault as error:
                    self._tell(Kind.PEER_FAULT, peer, str(error))
                    pause_s = limits.FAULT_PAUSE_S
                except StreamBroken as error:
                    self._tell(Kind.REQUEST_FAILED, peer, str(error))
                    introduced = False  # it may have restarted as somebody else
                await self._pause(peer, pause_s)
        finally:
            del self._rounds[peer], self._synced_s[peer]
            self._changed.set()  # it may have come back meanwhile

    async def _pause(self, peer: str, pause_s: float) -> None:
        """Wait for the next round, or for the loss of the connection.

        Gossip that shows a gap shortens the wait, but not that for a peer at fault.
        """
        with trio.move_on_after(pause_s) as self._pauses[peer]:
            await trio.sleep(min(pause_s, limits.SYNC_SPACING_S))
            if pause_s == limits.FAULT_PAUSE_S:
                await trio.sleep_forever()
            await self._rounds[peer].wait()
        del self._pauses[peer]

    async def _introduce(self, peer: str) -> bool:
        """Learn who the peer is; False if it has no challenge yet: it is joining, and is asked again soon."""
        status = await fetch_status(self._transport, peer, mine=self._responder.status())
        if status.challenge is None:
            return False
        if status.challenge != self._challenge:
            raise OtherSwarm(f"works on challenge {status.challenge}, this node on {self._challenge}")
        self._observe(
            Event(
                kind=Kind.PEER_STATUS, peer=peer, detail=status.agent, addresses=status.addresses,
                constitution=status.constitution,
            )
        )  # fmt: skip
        return True

    async def _sync(self, peer: str, memory: exchange.Memory) -> None:
        """Ask until nothing is lacking here that the peer has, or nothing comes of asking."""
        session = exchange.Session()
        ours, theirs = self._holdings.summary().whole(), b""
        received = asked_bytes = 0
        try:
            for _ in range(limits.SYNC_QUESTIONS_MAX):
                async with self._take_turn(session.pulls_next):
                    question = session.next_question(self._holdings.summary())
                    if question is None:
                        break
                    request = encode(SyncRequest(self._challenge, question))
                    answer = await self._ask(peer, request)
                    if isinstance(question, exchange.Pull) and isinstance(answer, exchange.Page):
                        items = await self._checked(answer, question)
                        taken, refused = self._keep(items, peer)
                        received += taken
                        session.received(answer, items, refused=refused)
                    elif isinstance(question, exchange.Compare) and isinstance(answer, exchange.Compared):
                        session.compared(self._holdings.summary(), answer)
                        if not theirs and memory.is_hopeless(ours, answer.whole, trio.current_time()):
                            return
                        theirs = answer.whole
                    else:
                        raise PeerFault(f"answered with a {type(answer).__name__} where that answers nothing")
                    asked_bytes += len(request)
            memory.ended(
                ours,
                theirs,
                complete=session.is_complete,
                received=received,
                asked_bytes=asked_bytes,
                now=trio.current_time(),
            )
        finally:
            if received:
                self._tell(Kind.ENTRIES_RECEIVED, peer, count=received)

    @asynccontextmanager
    async def _take_turn(self, wanted: bool) -> AsyncIterator[None]:
        """Ask one peer at a time for a page: all at once they would send the same. But a slow one costs little."""
        if not wanted:
            yield
            return
        with trio.move_on_after(limits.SYNC_TURN_S) as waiting:
            await self._turn.acquire()
        try:
            yield
        finally:
            if not waiting.cancelled_caught:
                self._turn.release()

    async def _ask(self, peer: str, request: bytes) -> exchange.Answer:
        with within(limits.REQUEST_DEADLINE_S):
            async with self._transport.open(peer, SYNC) as stream:
                await stream.write(request)
                await stream.finish()
                return (await receive(stream, SyncReply, limits.REPLY_BYTES_MAX)).answer

    async def _checked(self, page: exchange.Page, pull: exchange.Pull) -> list[exchange.Item]:
        """The checked items of a page, letting other tasks run between them: a signature takes about 0.2 ms."""
        items: list[exchange.Item] = []
        for item in exchange.checked(page, pull, self._challenge):
            items.append(item)
            await trio.lowlevel.checkpoint()
        return items

    def _keep(self, items: list[exchange.Item], peer: str) -> tuple[int, bool]:
        """Store a page in one go. How many items were taken, and whether the last one was refused."""
        taken, fits = 0, True
        new: list[Signed] = []
        refused: set[str] = set()  # feeds of which the peer holds another history, or more than is believed here
        with self._store.batch(refetchable=True):
            for item in items:
                key = exchange.key_of(item)
                if isinstance(item, exchange.Passed):
                    self._tell(Kind.MESSAGE_DROPPED, peer, f"passed over what follows of {key[1:]}: {item.reason}")
                    fits = False
                elif len(item) == 2:  # a proof: whichever of its entries is here, the other makes the ban
                    for signed in item:
                        self._add(signed, peer, new)
                    fits = self._store.is_banned(item[0].statement.entry.author)
                else:
                    fits = key not in refused and self._add(item[0], peer, new)
                if not fits:
                    refused.add(key)
                taken += fits
        for signed in new:
            self._on_new(signed)
        return taken, not fits

    async def _fetch_blobs(self, peer: str, absent: set[str]) -> None:
        """Fetch programs that entries name and that are not here. `absent` collects what this peer cannot give."""
        missing = self._store.blobs.missing(limits.BLOBS_MISSING_MAX)
        wanted = [digest for digest in missing if digest not in absent and digest not in self._fetching]
        if not wanted:
            absent.clear()  # ask again next time: it may have them by then
        received = 0
        for digest in wanted[: limits.BLOBS_PER_ROUND_MAX]:
            if digest in self._fetching:
                continue  # another peer's task was faster
            self._fetching.add(digest)
            try:
                data = await fetch_blob(self._transport, peer, digest, PROGRAM_BYTES_MAX)
            except NotThere:
                absent.add(digest)
            except PeerFault:
                absent.add(digest)
                raise
            else:
                with self._store.batch(refetchable=True):
                    self._store.blobs.put(data)
                received += 1
                self._tell(Kind.BLOB_RECEIVED, peer, digest, count=len(data))
            finally:
                self._fetching.discard(digest)
        if received and len(wanted) > limits.BLOBS_PER_ROUND_MAX:
            self._rounds[peer].set()  # soon: a late joiner lacks thousands. Names of nothing do not hurry the rounds.

    def _tell(self, kind: Kind, peer: str, detail: str = "", *, count: int = 0) -> None:
        event = Event(kind=kind, peer=peer, detail=detail, count=count)
        if self._quiet.lets(event, trio.current_time()):
            self._observe(event.printable())
