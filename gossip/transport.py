"""What the rest of this package needs of a network, and no more.

`libp2p_transport.py` implements it over real sockets, `simnet.py` in memory. Any implementation passes the same tests;
the mesh and the protocols above it must not know which one they run on. Peers are named by peer id, and a connected
peer *is* its id: implementations authenticate. Trio is part of the interface, because deadlines and cancellation are.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import trio

from gossip.events import Observer
from gossip.screen import Verdict


class Stream(Protocol):
    """A two-way stream of bytes to one peer, for one exchange.

    Every method raises `StreamBroken` when the stream or its connection is gone or a deadline of limits.py has passed.
    Reads may be cancelled; a cancelled write closes the connection, so do not race writes against a timeout.
    """

    @property
    def peer(self) -> str: ...

    async def read(self, bytes_max: int) -> bytes:
        """Between 1 and `bytes_max` bytes, or none at all exactly at the end."""

    async def write(self, data: bytes) -> None: ...

    async def finish(self) -> None:
        """No more writes from here: the other side reads an end."""


Handler = Callable[[Stream], Awaitable[None]]
"""Answers one stream, which the transport ends afterwards; what the handler raises resets it and goes no further."""

Validator = Callable[[str, bytes], Verdict]
"""Forwarding peer and message → verdict. Synchronous and total: only an accepted message is delivered and forwarded."""


class Transport(Protocol):
    """One node's place in the network.

    Ownership: `run` owns all sockets and tasks and ends when it is cancelled; the other methods need it running, but
    for `handle` and `watch`, which may come before.
    """

    @property
    def peer_id(self) -> str: ...

    def addresses(self) -> tuple[str, ...]:
        """Where this node can be dialled, each ending in `/p2p/<peer id>`; real ports, concrete interfaces."""

    def watch(self, observer: Observer) -> None:
        """Tell `observer` of connections made, lost and failed, and of contained failures, from now on."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen, and serve until cancelled. Raises `PortInUse`, `BadAddress`, `UnsupportedLibp2p`."""

    async def connect(self, address: str) -> str:
        """Dial once unless already connected, and return the peer id. Raises `BadAddress`, `DialFailed`."""

    def keep_connected(self, address: str) -> str:
        """Dial this address whenever its peer is not connected, for ever, with backoff; returns the peer id.

        Raises `BadAddress`; failing dials are observed, never raised. Asking again for a peer replaces its address.
        """

    def peers(self) -> frozenset[str]:
        """The peers that are connected now."""

    def handle(self, protocol: str, handler: Handler) -> None:
        """Answer streams that peers open for `protocol`."""

    def open(self, peer: str, protocol: str) -> AbstractAsyncContextManager[Stream]:
        """A stream to a connected peer; ended with the block, and reset if the block raises.

        Raises `StreamBroken` if the peer is not connected or does not speak the protocol.
        """

    async def join(self, topic: str, validator: Validator) -> trio.MemoryReceiveChannel[tuple[str, bytes]]:
        """Subscribe; the channel gives (forwarding peer, message) of what others published and `validator` accepted."""

    async def publish(self, topic: str, message: bytes) -> None:
        """Hand a message to the topic's peers. No promise of delivery."""
