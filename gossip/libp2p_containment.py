"""What py-libp2p 0.8.1 does that ends, deafens, bloats or corrupts a node, contained in subclasses of its own classes.

    here                 accepting and dialling connections, streams and their negotiation, logging
    libp2p_muxer.py      Yamux: streams, buffers, pace and liveness of one connection
    libp2p_pubsub.py     GossipSub: reading RPCs, judging messages, the mesh
    libp2p_sockets.py    writes that must not be cancelled; closing a socket without a farewell

Each containment says what happens without it and has a test in tests/gossip/test_containment.py that fails without it.
They lean on the library's private methods, so exactly one version is accepted: another one must be read before it is
run. Upstream knows of failed negotiations (github.com/libp2p/py-libp2p/issues/417 and /586), of raising validators
(/1118) and of reset streams (/1120); those were mended in part, and for the rest we know of no issue.

Not contained: a peer may still make the node work as hard as limits.py allows, for each connection that it is granted.
"""

import importlib.metadata
import logging
from collections.abc import Callable
from weakref import WeakSet

import trio
from libp2p.abc import IMuxedConn, INetConn, INetStream
from libp2p.host.basic_host import BasicHost
from libp2p.identity.identify_push.identify_push import ID_PUSH
from libp2p.io.abc import Reader, ReadWriteCloser
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.connection import swarm_connection
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.protocol_muxer import multiselect_communicator
from libp2p.protocol_muxer.exceptions import MultiselectCommunicatorError
from libp2p.utils.varint import read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from gossip import limits
from gossip.admission import Door, Guest, address_group
from gossip.errors import UnsupportedLibp2p
from gossip.events import Kind
from gossip.libp2p_muxer import ContainedYamux
from gossip.libp2p_sockets import Blame, Report, abort, bounded, remote_ip

LIBP2P_VERSION = "0.8.1"

_NOBODY = ID(b"")  # who connects has no name yet

Admits = Callable[[str | None, str | None], bool]
"""Peer id and IP address, None if not known yet → whether the owner lets it in. Quick and total."""


def check_version() -> None:
    """Raises `UnsupportedLibp2p` unless the installed libp2p is the one that this module was written against."""
    installed = importlib.metadata.version("libp2p")
    if installed != LIBP2P_VERSION:
        raise UnsupportedLibp2p(
            f"libp2p {installed} is installed, but this version of Waggle contains the faults of {LIBP2P_VERSION} "
            f"only. Install it with: pip install libp2p=={LIBP2P_VERSION}"
        )


# Else each stranger's failed handshake is printed, in words of its choice; what matters here comes as events.
logging.getLogger("libp2p").addHandler(logging.NullHandler())

# Its swarm_connection.py logs to the root logger instead, whose first use makes Python print what peers sent.
swarm_connection.logging = logging.getLogger("libp2p.network.connection")  # type: ignore[attr-defined,assignment]


async def _read_protocol_name(reader: Reader) -> bytes:
    """One line of stream negotiation, without its newline.

    Without: a peer announces a line of any length, before it has authenticated, and it is buffered as it comes.
    Source: https://github.com/multiformats/multistream-select. Raises `MultiselectCommunicatorError`.
    """
    line = await read_varint_prefixed_bytes_limited(reader, limits.PROTOCOL_NAME_BYTES_MAX)
    if not line.endswith(b"\n"):
        raise MultiselectCommunicatorError("a line of the negotiation without its end")
    return line[:-1]


multiselect_communicator.read_delim = _read_protocol_name  # type: ignore[attr-defined]


class _NoAutoConnector(AutoConnector):
    async def maybe_connect(self) -> None:
        pass

    def record_disconnect(self, peer_id: ID) -> None:
        pass


class ContainedSwarm(Swarm):
    """Asks a `Door` about each connection, dials only when told, and can be closed when cancelled.

    Slots. Without: the task that accepted a connection waits for the end of the *swarm*, holding one of
    `max_connections - min_connections` inbound slots. After that many accepted connections, however short, the node
    refuses every new one; and as long as strangers hold the slots without a word, for ten seconds each, likewise.

    Door. Without: nothing limits connections by address, and a third connection of one peer is refused even if the
    other two are dead, so that a peer that restarts twice cannot return.

    Dialling. Without: whatever the watermarks say, the library dials remembered peers by itself, races our redialling,
    blocks the peer for a minute when it fails, and remembers every peer that ever disconnected.

    Closing. Without: a swarm whose task is cancelled leaves its sockets to the garbage collector, and its listener, a
    system task, goes on accepting connections for a host that is no more. The next host on that port shares it.
    """

    door: Door
    admits: Admits
    closed: Report

    def _init_connection_management(self) -> None:
        super()._init_connection_management()
        self.auto_connector = _NoAutoConnector(swarm=self)
        self._guests: dict[Guest, ReadWriteCloser] = {}
        self._muxed: WeakSet[ContainedYamux] = WeakSet()

    async def close_sockets(self) -> None:
        """Close all sockets, whether cancelled or not."""
        for muxed in list(self._muxed):
            muxed.end()
        for accepted in self._guests.values():
            abort(accepted)
        with trio.CancelScope(shield=True):
            for listener in list(self.listeners.values()):
                await listener.close()

    def abort_peer(self, peer: ID) -> None:
        """Close all connections of a peer at once."""
        for conn in self.get_connections(peer):
            abort(conn.muxed_conn)

    def abort_banned(self) -> None:
        """Close all connections that would not be admitted now."""
        for conn in self.get_connections():
            peer = conn.muxed_conn.peer_id
            if not self.admits(peer.to_base58(), remote_ip(conn.muxed_conn) or None):
                abort(conn.muxed_conn)

    async def _handle_inbound_connection(self, read_write_closer: ReadWriteCloser, maddr: Multiaddr) -> None:
        ip = remote_ip(read_write_closer)
        if not ip or not self.admits(None, ip):
            abort(read_write_closer)
            return
        guest = Guest(address_group(ip), trio.current_time())
        refusal, evicted = self.door.arrive(guest)
        for other in evicted:
            self.closed(_NOBODY, "made way")
            abort(self._guests[other])
        if refusal:
            self.closed(_NOBODY, refusal)
            abort(read_write_closer)
            return
        self._guests[guest] = read_write_closer
        try:
            await self._serve(guest, read_write_closer, maddr)
        finally:
            self.door.leave(guest)
            del self._guests[guest]

    async def _serve(self, guest: Guest, read_write_closer: ReadWriteCloser, maddr: Multiaddr) -> None:
        raw = RawConnection(read_write_closer, False)
        try:
            muxed = await self.upgrade_inbound_raw_conn(raw, maddr)
            if isinstance(muxed, ContainedYamux):
                guest.peer = muxed.peer_id.to_base58()
                await muxed.event_closed.wait()
        except Exception:  # noqa: BLE001  a stranger's handshake can fail in any layer; only this connection may end
            await raw.close()

    async def add_conn(self, muxed_conn: IMuxedConn, direction: str = "unknown") -> SwarmConn:
        peer = muxed_conn.peer_id
        refused_s = self.door.refused_for_s(peer.to_base58(), trio.current_time())
        if refused_s or not self.admits(peer.to_base58(), remote_ip(muxed_conn) or None):
            abort(muxed_conn)
            raise SwarmException(f"refused for {refused_s:.0f} s more" if refused_s else "banned by this node's owner")
        if isinstance(muxed_conn, ContainedYamux):
            self._muxed.add(muxed_conn)
        conn = await super().add_conn(muxed_conn, direction)
        for oldest in self._surplus(peer):
            self.closed(peer, "a newer one of the same peer")
            abort(oldest.muxed_conn)
        return conn

    def _surplus(self, peer: ID) -> list[INetConn]:
        living = [conn for conn in self.get_connections(peer) if not conn.is_closed]
        return living[: -limits.CONNECTIONS_PER_PEER_MAX]


class ContainedHost(BasicHost):
    """Keeps what goes wrong in one inbound stream to that stream, and asks peers nothing about themselves.

    Faults. Without: an exception in negotiation (a protocol name that is not UTF-8), in the pubsub reader (an RPC that
    is not protobuf) or in any handler leaves through the swarm's task group, and the process ends.

    Identify. We answer it, as others need it. Without: what each peer ever said of itself, up to a megabyte, is kept
    and asked for in system tasks, where an exception ends the process; nothing here reads it.
    """

    blame: Blame

    def __init__(self, network: Swarm) -> None:
        super().__init__(
            network, negotiate_timeout=int(limits.OPEN_DEADLINE_S), disable_identify_address_discovery=True
        )
        self.remove_stream_handler(ID_PUSH)

    def _schedule_identify(self, peer_id: ID, *, reason: str) -> None:
        pass

    async def _swarm_stream_handler(self, net_stream: INetStream) -> None:
        try:
            await super()._swarm_stream_handler(net_stream)
        except Exception as error:  # noqa: BLE001  the boundary that the class is for
            self.blame(net_stream.muxed_conn.peer_id, Kind.PEER_FAULT, f"broke a stream: {error!r:.300}")
            await bounded(net_stream, net_stream.reset, 1.0)
