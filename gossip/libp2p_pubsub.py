"""GossipSub of py-libp2p 0.8.1, contained: what a peer's RPCs may cost, and who is at fault for a message.

The protocol is https://github.com/libp2p/specs/tree/master/pubsub/gossipsub, v1.1. The library does as an RPC says, and
starts a task for each message in it; here an RPC is read within bounds, judged, and only then handed on. Part of
libp2p_containment.py, which says how to read it.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from itertools import islice
from weakref import WeakKeyDictionary

import trio
from google.protobuf.message import DecodeError
from libp2p.abc import IHost, INetStream
from libp2p.exceptions import ParseError
from libp2p.io.exceptions import IncompleteReadError
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.mcache import MessageCache
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.validators import signature_validator
from libp2p.utils.varint import decode_uvarint

from gossip import limits
from gossip.events import Kind
from gossip.libp2p_sockets import Blame, bounded
from gossip.metrics import Metrics
from gossip.rates import Buckets
from gossip.screen import Verdict

Judge = Callable[[ID, rpc_pb2.Message], Verdict]
"""Forwarding peer and message → verdict. It tells of its own refusals."""

_CHUNK_BYTES = 64 * limits.KIB
_VARINT_BYTES_MAX = 10  # of 64 bits


class ContainedPubsub(Pubsub):
    """Reads RPCs within bounds, and judges each message once, cheapest test first.

    RPCs. Without: an RPC that is not protobuf, or a key in a message that cannot be decoded, ends the service and with
    it the host; a stream that is opened again and again nests tasks until the stack is full; one that stops in the
    middle of an RPC is waited for without end, on as many streams as a peer likes.

    Messages. Without: each has its libp2p signature verified, then its text formatted for a log that nobody reads, and
    a forwarder of bad ones is never found out.

    Records. Without: each RPC may carry addresses for the library to remember, and to verify, once more each time.

    Writes. Without: several tasks write to one stream, and an RPC of more than one frame is cut by another one.

    Threads. Without: each host that was ever built leaves a thread that sweeps its cache.
    """

    def __init__(self, host: IHost, router: GossipSub, blame: Blame, metrics: Metrics) -> None:
        super().__init__(
            host,
            router,
            seen_ttl=120,  # s
            strict_signing=True,
            max_subscriptions_per_peer=limits.SUBSCRIPTIONS_PER_PEER_MAX,
        )
        self.counter = time.time_ns()  # whole seconds by default: after a quick restart messages would count as seen
        self.judges: dict[str, Judge] = {}  # by topic
        self._blame, self._metrics = blame, metrics
        self._readers: Counter[ID] = Counter()
        self._writing: WeakKeyDictionary[INetStream, trio.Lock] = WeakKeyDictionary()
        self._rpcs: Buckets[ID] = Buckets(limits.RPCS, limits.PEERS_JUDGED_MAX)
        self._messages: Buckets[ID] = Buckets(limits.GOSSIP_MESSAGES, limits.PEERS_JUDGED_MAX)
        self._bytes: Buckets[ID] = Buckets(limits.GOSSIP_BYTES, limits.PEERS_JUDGED_MAX)
        self._subscriptions: Buckets[ID] = Buckets(limits.SUBSCRIPTION_CHANGES, limits.PEERS_JUDGED_MAX)

    async def run(self) -> None:
        try:
            async with trio.open_nursery() as self._retries:
                await super().run()
                self._retries.cancel_scope.cancel()
        finally:
            self.seen_messages.stop()

    def _schedule_peer_stream_retry(self, peer_id: ID) -> None:
        if self.manager.is_running and peer_id not in self._peer_stream_retries_pending:
            self._peer_stream_retries_pending.add(peer_id)
            self._retries.start_soon(self._retry_later, peer_id)

    async def _retry_later(self, peer: ID) -> None:
        await trio.sleep(limits.REDIAL_S_MIN)
        await self._peer_stream_retry_task(peer)

    # Reading

    async def continuously_read_stream(self, stream: INetStream) -> None:
        peer = stream.muxed_conn.peer_id
        if self._readers[peer] >= limits.RPC_STREAMS_PER_PEER_MAX:
            await bounded(stream, stream.reset, limits.WRITE_DEADLINE_S)
            return
        self._readers[peer] += 1
        try:
            rpcs = _Rpcs(stream)
            while (rpc := await rpcs.next()) is not None:
                await trio.sleep(self._rpcs.delay_s(peer, trio.current_time()))
                self._metrics.count("gossip_received_bytes_total", by=rpc.ByteSize())
                await self._take(peer, rpc)
        except ParseError as error:
            self._blame(peer, Kind.PEER_FAULT, f"broke a stream: {error}")
            raise  # the library resets the stream then, and opens its own anew
        finally:
            self._readers[peer] -= 1
            if not self._readers[peer]:
                del self._readers[peer]

    async def _take(self, peer: ID, rpc: rpc_pb2.RPC) -> None:
        for message in rpc.publish:
            await self.push_msg(peer, message)
        for subscription in rpc.subscriptions:
            if not self._subscriptions.take(peer, trio.current_time()):
                raise ParseError("too many subscriptions")
            if len(subscription.topicid) <= limits.TOPIC_CHARS_MAX:
                self.handle_subscription(peer, subscription)
        if rpc.HasField("control"):
            await self.router.handle_rpc(rpc, peer)

    # Messages

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        if msg_forwarder == self.my_id:  # our own publication
            await super().push_msg(msg_forwarder, msg)
            return
        verdict, reason = self._judged(msg_forwarder, msg)
        self._metrics.count("gossip_messages_total", reason or verdict.value)
        if verdict is Verdict.ACCEPT:
            self._mark_msg_seen(msg)
            await self.router.publish(msg_forwarder, msg)
        elif verdict is Verdict.REJECT and self._blame(
            msg_forwarder, Kind.MESSAGE_DROPPED, f"reject: {reason}" if reason else ""
        ):
            raise ParseError("one bad message too many")
        await trio.lowlevel.checkpoint()  # verifying is not yielding

    def _judged(self, forwarder: ID, message: rpc_pb2.Message) -> tuple[Verdict, str]:
        """A verdict on another's message, and its reason unless the topic's own judge gave it.

        1. Its forwarder sends no more than it may: beyond, a sound message is not wanted either.
        2. It is for one topic that we joined, and no larger than an envelope and libp2p's additions.
        3. It was not seen before, and does not claim to be ours.
        4. Its libp2p signature holds.
        5. The topic's judge accepts it.
        """
        now_s, size = trio.current_time(), message.ByteSize()
        # 1
        if not (self._messages.take(forwarder, now_s) and self._bytes.take(forwarder, now_s, size)):
            return Verdict.IGNORE, "rate"
        # 2
        judge = self.judges.get(message.topicIDs[0]) if len(message.topicIDs) == 1 else None
        if judge is None:
            return Verdict.IGNORE, "topic"
        if size > limits.MESSAGE_BYTES_MAX + limits.MESSAGE_OVERHEAD_BYTES_MAX:
            return Verdict.REJECT, "size"
        # 3
        if self._is_msg_seen(message) or message.from_id == self.my_id.to_bytes():
            return Verdict.IGNORE, "duplicate"
        # 4
        try:
            signed = signature_validator(message)
        except Exception:  # noqa: BLE001  a key that cannot be decoded fails in any of several libraries
            signed = False
        if not signed:
            return Verdict.REJECT, "signature"
        # 5
        return judge(forwarder, message), ""

    async def write_msg(self, stream: INetStream, rpc_msg: rpc_pb2.RPC) -> bool:
        async with self._writing.setdefault(stream, trio.Lock()):
            self._metrics.count("gossip_sent_bytes_total", by=rpc_msg.ByteSize())
            return await super().write_msg(stream, rpc_msg)


class _Rpcs:
    """The RPCs of one stream: protobuf with its length before it, as a varint."""

    def __init__(self, stream: INetStream) -> None:
        self._stream = stream
        self._held = bytearray()  # at most one RPC and a chunk

    async def next(self) -> rpc_pb2.RPC | None:
        """The next RPC, however long it takes to begin; None at the end.

        Raises `ParseError` if it is too large, malformed, or does not end in time, `IncompleteReadError`, and whatever
        the stream raises.
        """
        if not self._held and not await self._more():
            return None
        with trio.move_on_after(limits.RPC_DEADLINE_S):
            while (body := self._cut()) is None:
                if not await self._more():
                    raise IncompleteReadError("the stream ended within an RPC", expected_bytes=1, received_bytes=0)
            try:
                return rpc_pb2.RPC.FromString(body)
            except (DecodeError, UnicodeDecodeError) as error:
                raise ParseError("an RPC that is not protobuf") from error
        raise ParseError(f"an RPC that did not end in {limits.RPC_DEADLINE_S} s")

    async def _more(self) -> bool:
        try:
            part = await self._stream.read(_CHUNK_BYTES)
        except StreamEOF:
            return False
        self._held += part
        return bool(part)

    def _cut(self) -> bytes | None:
        """Take a whole RPC off what is held, if there is one."""
        prefix = next((at + 1 for at, byte in enumerate(self._held[:_VARINT_BYTES_MAX]) if byte < 0x80), None)
        if prefix is None:
            if len(self._held) >= _VARINT_BYTES_MAX:
                raise ParseError("an RPC without a length")
            return None
        size = decode_uvarint(bytes(self._held[:prefix]))
        if size > limits.RPC_BYTES_MAX:
            raise ParseError(f"an RPC of {size} bytes")
        if len(self._held) < prefix + size:
            return None
        body = bytes(self._held[prefix : prefix + size])
        del self._held[: prefix + size]
        return body


class _Cache(MessageCache):
    """Messages to answer IWANT with. Without: bounded by time only, whatever their size and number."""

    _bytes = 0

    def put(self, msg: rpc_pb2.Message) -> None:
        if self._bytes + msg.ByteSize() <= limits.MESSAGE_CACHE_BYTES_MAX:
            self._bytes += msg.ByteSize()
            super().put(msg)

    def shift(self) -> None:
        super().shift()
        self._bytes = sum(msg.ByteSize() for msg in self.msgs.values())


class ContainedRouter(GossipSub):
    """Hears only control messages about topics that we joined, bounded; and leaves a full mesh alone.

    Control. Without: a PRUNE for a random topic is remembered for ever, one with peers in it makes us dial them, one
    with a back-off of a century holds; an IWANT is answered however often it names one message.

    Mesh. Without: where all scores are equal, as ours are, each heartbeat grafts peers beyond the degree
    "opportunistically" and a later one prunes them again, for ever.

    Leftovers. Without: a thousand whole messages are kept to compare numbers that our feeds have no use for, the time
    of each message ever published, and the back-off of each peer that ever was pruned.
    """

    def __init__(self, **parameters: object) -> None:
        super().__init__(**parameters)  # type: ignore[arg-type]
        self.mcache = _Cache(self.mcache.window_size, self.mcache.history_size)

    async def handle_rpc(self, rpc: rpc_pb2.RPC, sender_peer_id: ID) -> None:
        await super().handle_rpc(rpc_pb2.RPC(control=self._heard(rpc.control, sender_peer_id)), sender_peer_id)

    def _heard(self, control: rpc_pb2.ControlMessage, sender: ID) -> rpc_pb2.ControlMessage:
        """What of a control message counts."""
        few = limits.CONTROL_ENTRIES_MAX
        return rpc_pb2.ControlMessage(
            ihave=[
                rpc_pb2.ControlIHave(topicID=entry.topicID, messageIDs=_ids(entry.messageIDs))
                for entry in control.ihave[: len(self.mesh)]
                if entry.topicID in self.mesh
            ],
            iwant=[rpc_pb2.ControlIWant(messageIDs=self._affordable(entry, sender)) for entry in control.iwant[:1]],
            graft=[
                rpc_pb2.ControlGraft(topicID=topic)
                for topic in {entry.topicID for entry in control.graft[:few]}
                if topic in self.mesh
            ],
            prune=[
                rpc_pb2.ControlPrune(topicID=entry.topicID, backoff=min(entry.backoff, limits.PRUNE_BACKOFF_S_MAX))
                for entry in control.prune[:few]
                if entry.topicID in self.mesh
            ],
            idontwant=[rpc_pb2.ControlIDontWant(messageIDs=_ids(entry.messageIDs)) for entry in control.idontwant[:1]],
        )

    def _affordable(self, iwant: rpc_pb2.ControlIWant, sender: ID) -> list[bytes]:
        """Which of the wanted messages are sent: none while others wait for that peer, and not more than fit an RPC."""
        queue = self.pubsub.peer_queues.get(sender) if self.pubsub is not None else None
        wanted: list[bytes] = []
        left = limits.WANTED_BYTES_MAX
        for message_id in _ids(iwant.messageIDs) if queue is not None and not len(queue) else ():
            message = self.mcache.get(message_id)
            if message is not None and (left := left - message.ByteSize()) >= 0:
                wanted.append(message_id)
        return wanted

    async def publish(self, msg_forwarder: ID, pubsub_msg: rpc_pb2.Message) -> None:
        await super().publish(msg_forwarder, pubsub_msg)
        self.recent_message_deliveries.clear()

    def _check_equivocation(self, msg: rpc_pb2.Message) -> bool:
        return True

    def _perform_opportunistic_grafting(self, topic: str, peers_to_graft: defaultdict[ID, list[str]]) -> int:
        return 0

    def _periodic_security_cleanup(self) -> None:
        super()._periodic_security_cleanup()
        for topic, until in list(self.back_off.items()):
            self.back_off[topic] = {peer: end for peer, end in until.items() if end > time.time()}


def _ids(message_ids: Iterable[bytes]) -> list[bytes]:
    """The first of the message ids, once each, without those that are too long."""
    first = dict.fromkeys(islice(message_ids, limits.CONTROL_IDS_MAX))
    return [one for one in first if len(one) <= limits.MESSAGE_ID_BYTES_MAX]
