"""Both sides of the stream protocols: answering peers, and asking one peer. The messages are in wire.py.

Asking needs no ledger, so a joiner that knows nothing but an address can find out what a swarm works on and fetch it.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from gossip import exchange, limits
from gossip.addresses import of_peer
from gossip.errors import NotThere, OtherSwarm, PeerFault, StreamBroken
from gossip.transport import Stream, Transport
from gossip.wire import (
    BLOB,
    PROTOCOL,
    STATUS,
    SYNC,
    BlobReply,
    BlobRequest,
    Status,
    SyncReply,
    SyncRequest,
    encode,
    receive,
)
from ledger.errors import UnknownBlob
from ledger.store import Store


def topic_of(challenge: str) -> str:
    return f"/waggle/{PROTOCOL}/{challenge}"


@contextmanager
def within(deadline_s: float) -> Iterator[None]:
    """Raise `StreamBroken` if the block takes longer."""
    try:
        with trio.fail_after(deadline_s):
            yield
    except trio.TooSlowError as error:
        raise StreamBroken(f"not finished in {deadline_s} s") from error


def own_status(transport: Transport, challenge: str | None, agent: str) -> Status:
    addresses = tuple(a for a in transport.addresses() if len(a) <= limits.ADDRESS_CHARS_MAX)
    return Status(PROTOCOL, challenge, agent[: limits.AGENT_CHARS_MAX], addresses[: limits.ADDRESSES_MAX])


async def fetch_status(transport: Transport, peer: str, *, mine: Status | None = None) -> Status:
    """Tell a connected peer who we are (nobody in particular by default), and learn who it is.

    Of the addresses that it announces only those that lead to itself are returned. Raises `OtherSwarm` if it speaks
    another protocol version, `PeerFault`, `StreamBroken`. Comparing challenges is the caller's duty.
    """
    with within(limits.REQUEST_DEADLINE_S):
        async with transport.open(peer, STATUS) as stream:
            await stream.write(encode(mine or own_status(transport, None, "joiner")))
            await stream.finish()
            status = await receive(stream, Status, limits.STATUS_BYTES_MAX)
    if status.protocol != PROTOCOL:
        raise OtherSwarm(f"speaks protocol {status.protocol}, this node {PROTOCOL}; use the same version of Waggle")
    return Status(status.protocol, status.challenge, status.agent, of_peer(status.addresses, peer))


async def fetch_blob(
    transport: Transport,
    peer: str,
    digest: str,
    bytes_max: int,
    progress: Callable[[int, int], None] | None = None,
) -> bytes:
    """The bytes with SHA-256 `digest` (hex) from a connected peer, checked.

    `progress` is called with (bytes received, bytes in all). Raises `NotThere` if the peer does not have them,
    `PeerFault` if they are more than `bytes_max` or not what was asked for, `StreamBroken`.
    """
    with within(limits.BLOB_DEADLINE_S):
        async with transport.open(peer, BLOB) as stream:
            await stream.write(encode(BlobRequest(digest)))
            await stream.finish()
            size = (await receive(stream, BlobReply, limits.STATUS_BYTES_MAX)).size
            if size is None:
                raise NotThere(f"{peer} does not have blob {digest}")
            if size > bytes_max:
                raise PeerFault(f"offers blob {digest} with {size} bytes, over {bytes_max}")
            data = bytearray()
            while len(data) < size:
                part = await stream.read(size - len(data))
                if not part:
                    raise StreamBroken(f"blob {digest} ended after {len(data)} of {size} bytes")
                data += part
                if progress is not None:
                    progress(len(data), size)
    if hashlib.sha256(data).hexdigest() != digest:
        raise PeerFault(f"sent other bytes than those of blob {digest}")
    return bytes(data)


class Responder:
    """Answers status, sync and blob requests from a ledger."""

    def __init__(self, transport: Transport, store: Store, challenge: str, agent: str) -> None:
        self._transport, self._store, self._challenge, self._agent = transport, store, challenge, agent
        self._blobs_in_memory = trio.CapacityLimiter(limits.BLOBS_SERVED_AT_ONCE_MAX)

    def serve(self) -> None:
        self._transport.handle(STATUS, self._answer_status)
        self._transport.handle(SYNC, self._answer_sync)
        self._transport.handle(BLOB, self._answer_blob)

    def status(self) -> Status:
        return own_status(self._transport, self._challenge, self._agent)

    async def _answer_status(self, stream: Stream) -> None:
        with within(limits.REQUEST_DEADLINE_S):
            await receive(stream, Status, limits.STATUS_BYTES_MAX)
            await stream.write(encode(self.status()))
            await stream.finish()

    async def _answer_sync(self, stream: Stream) -> None:
        with within(limits.REQUEST_DEADLINE_S):
            request = await receive(stream, SyncRequest, limits.REQUEST_BYTES_MAX)
            if request.challenge != self._challenge:
                raise OtherSwarm(f"asked for entries of challenge {request.challenge}")
            heads = self._store.heads()
            if exchange.digest(heads) == request.heads:
                reply = SyncReply(True, (), False)
            else:
                page = exchange.next_page(heads, request.window(), self._store.envelopes, limits.PAGE_BYTES_MAX)
                reply = SyncReply(False, page.envelopes, page.more)
            await stream.write(encode(reply))
            await stream.finish()

    async def _answer_blob(self, stream: Stream) -> None:
        with within(limits.BLOB_DEADLINE_S):
            with within(limits.REQUEST_DEADLINE_S):
                request = await receive(stream, BlobRequest, limits.STATUS_BYTES_MAX)
            async with self._blobs_in_memory:
                try:
                    data = self._store.blobs.get(request.digest)
                except UnknownBlob:
                    await stream.write(encode(BlobReply(None)))
                else:
                    await stream.write(encode(BlobReply(len(data))))
                    await stream.write(data)
                await stream.finish()
