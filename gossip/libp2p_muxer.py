"""Yamux of py-libp2p 0.8.1, contained: what one connection may hold, how fast it is read, and whether it still lives.

The protocol is https://github.com/hashicorp/yamux/blob/master/spec.md. The library parses frames well, but enforces
none of the limits that the specification leaves to the receiver. Part of libp2p_containment.py, which says how to read
it.
"""

import struct
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import trio
from libp2p.abc import IMuxedConn, ISecureConn
from libp2p.io.exceptions import ConnectionClosedError, IOException
from libp2p.peer.id import ID
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux import yamux
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream

from gossip import limits
from gossip.libp2p_sockets import Report, abort
from gossip.rates import Bucket, Rate


class ContainedStream(YamuxStream):
    """Grants a peer what fits the window, and no more.

    Without: the library counts some of what was read twice and grows windows up to 16 MiB, so that an honest sender
    may exceed any bound on what is unread, and a dishonest one cannot be told from it.
    """

    async def _auto_tune_and_send_window_update(self, *, bytes_read: int = 0) -> None:
        unread = len(self.conn.stream_buffers.get(self.stream_id, b""))
        room = limits.WINDOW_BYTES_MAX - (self.recv_window + unread)
        if room >= limits.WINDOW_BYTES_MAX // 2:  # an update for each read would be as many frames again
            self.recv_window += room
            await self.send_window_update(room)


yamux.YamuxStream = ContainedStream  # type: ignore[misc]
yamux.MAX_WINDOW_SIZE = limits.WINDOW_BYTES_MAX  # of a frame


class ContainedMuxers(MuxerMultistream):
    """Without: the library makes a plain `Yamux`, whatever class it was given for that protocol."""

    closed: Report

    async def new_conn(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        protocol, _ = await self._selector.select(conn, conn.is_initiator, self.negotiate_timeout)
        return self._annotate_connection(ContainedYamux(conn, peer_id, self.closed), conn, protocol)


class ContainedYamux(Yamux):
    """Bounds streams, buffers and pace of one connection, and closes it when its peer is silent.

    Streams. Without: each stream that a peer opens costs a task and a buffer, negotiated or not, as many as it likes.
    Buffers. Without: a peer that overruns its window is logged, and what it sends is kept; the more streams, the more.
    Many peers together are bounded as well, so that their number does not multiply what one may.
    Pace. Without: a peer that sends tiny frames without end keeps the event loop busy.
    Writes. Without: a peer that does not read blocks whoever writes to it, for ever; and see `_GuardedConn`.
    Liveness. Without: a frozen peer is not noticed; the library's health monitor hangs once the send buffer is full.
    End. Without: a host that is cancelled or fails leaves readers of its streams waiting until their deadlines.
    Leftovers. Without: what was unread when a stream was reset is kept for a minute, though nobody can read it.
    """

    def __init__(self, conn: ISecureConn, peer_id: ID, closed: Report) -> None:
        guarded = _GuardedConn(conn, lambda: self.drop("blocked"))
        super().__init__(guarded, peer_id, conn.is_initiator)  # type: ignore[arg-type]
        self._closed_here = closed
        self.accepted = False  # a stream of the peer's
        self.streams = _Streams(self)
        self.stream_buffers = _Buffers(self)
        _LIVING.add(self)
        self.new_stream_send_channel = _PacedStreams(self.new_stream_send_channel)  # type: ignore[assignment]

    def unread_bytes(self) -> int:
        """Received on its streams and not read."""
        return sum(map(len, self.stream_buffers.values()))

    def drop(self, reason: str) -> None:
        """Close the socket at once."""
        self._closed_here(self.peer_id, reason)
        abort(self)

    def end(self) -> None:
        """Close the socket, and wake whoever waits for it, without help from tasks that may be no more."""
        abort(self)
        self.event_shutting_down.set()
        for waiting in self.stream_events.values():
            waiting.set()

    def _finalize_stream_locked(self, stream: YamuxStream, *, fully_closed: bool) -> None:
        if fully_closed and stream.reset_received:  # by either side
            self.stream_buffers.pop(stream.stream_id, None)
        super()._finalize_stream_locked(stream, fully_closed=fully_closed)

    async def _measure_rtt_loop(self) -> None:
        """What the library only measures with is the pulse of the connection here: it runs as long as that does."""
        began_s, missed = trio.current_time(), 0
        while missed < limits.PINGS_MISSED_MAX:
            with trio.move_on_after(limits.PING_INTERVAL_S if not missed else 0):
                await self.event_shutting_down.wait()
                return
            if not self.accepted and trio.current_time() - began_s > limits.IDLE_DEADLINE_S:
                self.drop("idle")
                return
            missed = 0 if await self._is_answered() else missed + 1
        self.drop("silent")

    async def _is_answered(self) -> bool:
        """Send a ping; whether any answer comes in time."""
        self._ping_id = (self._ping_id + 1) % 2**32
        self._ping_event = trio.Event()
        frame = struct.pack(yamux.YAMUX_HEADER_FORMAT, 0, yamux.TYPE_PING, yamux.FLAG_SYN, 0, self._ping_id)
        with trio.move_on_after(limits.PING_DEADLINE_S):
            try:
                await self._write_frame(frame)
            except (IOException, OSError):
                abort(self)  # our reader ends the connection, and this task with it
            self._ping_sent_time = trio.current_time()
            await self._ping_event.wait()
        return self._ping_event.is_set()


_LIVING: WeakSet[ContainedYamux] = WeakSet()  # connections of this process


def _unread_bytes() -> int:
    return sum(conn.unread_bytes() for conn in _LIVING)


class _Streams(dict[int, YamuxStream]):
    """The streams of a connection by id; refuses too many of the peer's, and ids that are not the peer's to give."""

    def __init__(self, conn: ContainedYamux) -> None:
        super().__init__()
        self._conn = conn

    def __setitem__(self, stream_id: int, stream: YamuxStream) -> None:
        if not stream.is_initiator:
            self._conn.accepted = True
            if stream_id % 2 == self._conn.next_stream_id % 2:
                self._conn.drop("stream id")
                raise trio.BrokenResourceError("a stream id of our side")
            if sum(not (other.is_initiator or other.closed) for other in self.values()) >= (
                limits.STREAMS_PER_CONNECTION_MAX
            ):
                self._conn.drop("too many streams")
                raise trio.BrokenResourceError("too many streams")
        super().__setitem__(stream_id, stream)


class _Buffers(dict[int, bytearray]):
    """What was received and not read, by stream id."""

    def __init__(self, conn: ContainedYamux) -> None:
        super().__init__()
        self._conn = conn

    def __setitem__(self, stream_id: int, data: bytearray) -> None:
        super().__setitem__(stream_id, _Buffer(self._conn))


class _Buffer(bytearray):
    """Grows to the window, and with its siblings to what a connection may hold; beyond, the connection is closed."""

    def __init__(self, conn: ContainedYamux) -> None:
        super().__init__()
        self._conn = conn

    def extend(self, data: bytes) -> None:  # type: ignore[override]
        held = self._conn.unread_bytes()
        if held > limits.WINDOW_BYTES_MAX and _unread_bytes() + len(data) > limits.BUFFERED_BYTES_ALL_MAX:
            self._conn.drop("memory")  # not the peer's fault: all together have too much
            raise trio.BrokenResourceError("too much is unread on all connections")
        if len(self) + len(data) > limits.WINDOW_BYTES_MAX or held + len(data) > limits.BUFFERED_BYTES_MAX:
            self._conn.drop("window overrun")
            raise trio.BrokenResourceError("window overrun")
        super().extend(data)


class _Pace:
    """Waits so that a rate is kept."""

    def __init__(self, rate: Rate) -> None:
        self._bucket = Bucket(rate, trio.current_time())

    async def keep(self) -> None:
        delay_s = self._bucket.delay_s(trio.current_time())
        if delay_s:
            await trio.sleep(delay_s)


class _GuardedConn:
    """A secured connection that is read no faster than `READS`, and written to without being interrupted.

    Without the latter: a task that is cancelled while it writes, or is about to, has encrypted a Noise message that is
    never sent, or half of one. The peer can decrypt nothing of that connection any more.
    """

    def __init__(self, conn: ISecureConn, blocked: Callable[[], None]) -> None:
        self._conn, self._blocked = conn, blocked
        self._pace = _Pace(limits.READS)

    async def read(self, n: int | None = None) -> bytes:
        await self._pace.keep()
        return await self._conn.read(n)

    async def write(self, data: bytes) -> None:
        with trio.CancelScope(shield=True), trio.move_on_after(limits.WRITE_DEADLINE_S) as scope:
            await self._conn.write(data)
        if scope.cancelled_caught:
            self._blocked()
            raise ConnectionClosedError("the peer does not read", transport="tcp")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)


class _PacedStreams:
    """The queue of new streams, filled no faster than `STREAMS_OPENED`. The connection's reader fills it."""

    def __init__(self, channel: trio.MemorySendChannel[YamuxStream]) -> None:
        self._channel = channel
        self._pace = _Pace(limits.STREAMS_OPENED)

    async def send(self, stream: YamuxStream) -> None:
        await self._pace.keep()
        await self._channel.send(stream)

    def close(self) -> None:
        self._channel.close()
