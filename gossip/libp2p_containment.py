"""What py-libp2p 0.8.1 does that ends, deafens or corrupts a node, contained in subclasses of its own classes.

Each containment says what happens without it and has a test in tests/gossip/ that fails without it. They lean on the
library's private methods, so exactly one version is accepted: another one must be read before it is run.

Not contained here: memory that a hostile peer can make Yamux buffer, and floods below the connection limits.
"""

import importlib.metadata
from collections import defaultdict
from collections.abc import Awaitable, Callable

import trio
from libp2p.abc import INetStream
from libp2p.host.basic_host import BasicHost
from libp2p.io.abc import ReadWriteCloser
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from gossip.errors import StreamBroken, UnsupportedLibp2p
from gossip.events import Event, Kind, Observer

LIBP2P_VERSION = "0.8.1"


def check_version() -> None:
    """Raises `UnsupportedLibp2p` unless the installed libp2p is the one that this module was written against."""
    installed = importlib.metadata.version("libp2p")
    if installed != LIBP2P_VERSION:
        raise UnsupportedLibp2p(
            f"libp2p {installed} is installed, but this version of Waggle contains the faults of {LIBP2P_VERSION} "
            f"only. Install it with: pip install libp2p=={LIBP2P_VERSION}"
        )


class _NoAutoConnector(AutoConnector):
    async def maybe_connect(self) -> None:
        pass


class ContainedSwarm(Swarm):
    """Frees an inbound slot when its connection closes, dials only when told, and can be closed when cancelled.

    Without the first: the task that accepted a connection waits for the end of the *swarm*, holding one of
    `max_connections - min_connections` inbound slots. After that many accepted connections, however short, the node
    refuses every new one.

    Without the second: whatever the watermarks say, the library dials remembered peers by itself, races our redialling
    and blocks the peer for a minute when it fails.

    Without the third: a swarm whose task is cancelled leaves its sockets to the garbage collector, and its listener, a
    system task, goes on accepting connections for a host that is no more. The next host on that port shares it.
    """

    def _init_connection_management(self) -> None:
        super()._init_connection_management()
        self.auto_connector = _NoAutoConnector(swarm=self)

    async def close_sockets(self) -> None:
        """Close all sockets, whether cancelled or not."""
        for conns in self.get_connections_map().values():
            for conn in conns:
                abort(conn.muxed_conn)
        with trio.CancelScope(shield=True):
            for listener in list(self.listeners.values()):
                await listener.close()

    async def _do_handle_inbound_connection(
        self, read_write_closer: ReadWriteCloser, maddr: Multiaddr, failure_event: object
    ) -> None:
        raw = RawConnection(read_write_closer, False)
        try:
            muxed = await self.upgrade_inbound_raw_conn(raw, maddr)
            if isinstance(muxed, Yamux):
                await muxed.event_closed.wait()
        except Exception:  # noqa: BLE001  a stranger's handshake can fail in any layer; only this connection may end
            await raw.close()


class ContainedHost(BasicHost):
    """Keeps what goes wrong in one inbound stream to that stream.

    Without: an exception in negotiation (a protocol name that is not UTF-8), in the pubsub reader (an RPC that is not
    protobuf) or in any handler leaves through the swarm's task group, and the process ends.
    """

    observe: Observer

    async def _swarm_stream_handler(self, net_stream: INetStream) -> None:
        try:
            await super()._swarm_stream_handler(net_stream)
        except Exception as error:  # noqa: BLE001  the boundary that the class is for
            peer = net_stream.muxed_conn.peer_id.to_base58()
            self.observe(Event(kind=Kind.PEER_FAULT, peer=peer, detail=f"broke a stream: {error!r:.300}"))
            await bounded(net_stream, net_stream.reset, 1.0)


class ContainedPubsub(Pubsub):
    """Drops a message that cannot be processed, instead of the service.

    Without: `push_msg` runs as a task of the service for each message, and an exception in it (a key in the message
    that cannot be decoded) ends Pubsub and with it the host.
    """

    observe: Observer

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        try:
            await super().push_msg(msg_forwarder, msg)
        except Exception as error:
            if msg_forwarder == self.my_id:
                raise  # our own publication: the caller must know
            detail = f"unprocessable: {error!r:.300}"
            self.observe(Event(kind=Kind.MESSAGE_DROPPED, peer=msg_forwarder.to_base58(), detail=detail))


class ContainedRouter(GossipSub):
    """Leaves a full mesh alone.

    Without: where all scores are equal, as ours are, each heartbeat grafts peers beyond the degree "opportunistically"
    and a later one prunes them again, for ever.
    """

    def _perform_opportunistic_grafting(self, topic: str, peers_to_graft: defaultdict[ID, list[str]]) -> int:
        return 0


async def bounded(stream: INetStream, operation: Callable[[], Awaitable[None]], deadline_s: float) -> None:
    """Run an operation that writes to `stream`, to its end or to the end of the connection.

    Without: a write that is cancelled half way leaves part of a Noise frame on the wire, and whatever any stream of
    that connection sends next is garbage to the peer. So outer cancellation has to wait, and when the deadline passes,
    the socket is closed in the same step, before another task can write. Raises `StreamBroken` then.
    """
    with trio.CancelScope(shield=True), trio.move_on_after(deadline_s) as scope:
        await operation()
    if scope.cancelled_caught:
        abort(stream.muxed_conn)
        raise StreamBroken(f"could not write for {deadline_s} s; the connection was closed")


def abort(muxed: object) -> None:
    """Close the TCP socket below a connection without writing anything.

    The library's own close first sends a farewell, which blocks for ever if the peer is frozen and the send buffer
    full. Its reader notices the closed socket and cleans up as after a lost connection.
    """
    layer: object | None = muxed
    for name in ("secured_conn", "conn", "read_writer", "read_write_closer", "stream", "stream"):
        layer = getattr(layer, name, None)
        if isinstance(layer, trio.SocketStream):
            layer.socket.close()
            return
