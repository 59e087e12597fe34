"""Sockets below py-libp2p's connections: closing them at once, bounding writes, who is at the other end, free ports.

Part of libp2p_containment.py, which says how to read it.
"""

import errno
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

import trio
from libp2p.abc import INetStream
from libp2p.peer.id import ID

from gossip.addresses import Endpoint
from gossip.errors import BadAddress, PortInUse, StreamBroken
from gossip.events import Kind

Report = Callable[[ID, str], None]
"""A peer, and why its connection was closed from here."""

Blame = Callable[[ID, Kind, str], bool]
"""A peer, and the event that tells of its fault, without detail if it was told → whether it was disconnected."""

_LAYERS = ("secured_conn", "conn", "_conn", "read_writer", "read_write_closer", "stream")  # what wraps a socket


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


def abort(connection: object) -> None:
    """Close the TCP socket below a connection without writing anything.

    The library's own close first sends a farewell, which blocks for ever if the peer is frozen and the send buffer
    full. Its reader notices the closed socket and cleans up as after a lost connection.
    """
    for stream in _sockets(connection):
        stream.socket.close()


def remote_ip(connection: object) -> str:
    """The IP address at the other end, or "" if the connection is gone.

    The library's own answer is None for IPv6, whose socket names have four parts.
    """
    for stream in _sockets(connection):
        with suppress(OSError):
            return str(stream.socket.getpeername()[0])
    return ""


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


def _sockets(connection: object) -> Iterator[trio.SocketStream]:
    """The socket below layers of wrappers; at most one."""
    layer: object = connection
    for _ in range(2 * len(_LAYERS)):
        if isinstance(layer, trio.SocketStream):
            yield layer
            return
        layer = next((below for name in _LAYERS if (below := getattr(layer, name, None)) is not None), None)
