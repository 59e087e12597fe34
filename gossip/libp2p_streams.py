"""Streams of libp2p as the rest of this package needs them (transport.py), with deadlines and honest ends."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import trio
from libp2p.abc import INetStream
from libp2p.exceptions import BaseLibp2pError, MultiError
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.network.stream.net_stream import NetStream
from libp2p.stream_muxer.yamux.yamux import YamuxStream

from gossip import limits
from gossip.errors import StreamBroken
from gossip.libp2p_sockets import bounded
from gossip.metrics import Metrics

LIBRARY_FAILURES = (BaseLibp2pError, OSError, ValueError)


class Libp2pStream:
    """See `gossip.transport.Stream`."""

    def __init__(self, net: NetStream, metrics: Metrics) -> None:
        self._net, self._metrics = net, metrics
        self.peer = net.muxed_conn.peer_id.to_base58()

    async def read(self, bytes_max: int) -> bytes:
        try:
            with trio.fail_after(limits.READ_DEADLINE_S):
                data = await self._net.read(min(bytes_max, limits.BLOB_CHUNK_BYTES))
        except StreamEOF as error:
            # The library also says "end" for a reset and for a lost connection, which are no ends of a message.
            yamux = self._net.muxed_stream
            if not isinstance(yamux, YamuxStream) or yamux.reset_received or yamux.conn.event_shutting_down.is_set():
                raise StreamBroken("the stream was reset, or its connection lost") from error
            return b""
        except trio.TooSlowError as error:
            raise StreamBroken(f"nothing came for {limits.READ_DEADLINE_S} s") from error
        except LIBRARY_FAILURES as error:
            raise StreamBroken(f"could not read: {root_cause(error)}") from error
        self._metrics.count("stream_received_bytes_total", by=len(data))
        return data

    async def write(self, data: bytes) -> None:
        for start in range(0, len(data), limits.BLOB_CHUNK_BYTES):
            await self._bounded(partial(self._net.write, data[start : start + limits.BLOB_CHUNK_BYTES]))
            await trio.lowlevel.checkpoint()  # a cancellation that waited for the chunk takes effect here
        self._metrics.count("stream_sent_bytes_total", by=len(data))

    async def finish(self) -> None:
        await self._bounded(self._net.close_write)

    async def _bounded(self, operation: Callable[[], Awaitable[None]]) -> None:
        try:
            await bounded(self._net, operation, limits.WRITE_DEADLINE_S)
        except LIBRARY_FAILURES as error:
            raise StreamBroken(f"could not write: {root_cause(error)}") from error


@asynccontextmanager
async def ended(net: INetStream, metrics: Metrics) -> AsyncIterator[Libp2pStream]:
    """Close the stream after the block, so that what was written arrives; reset it if the block raises."""
    if not isinstance(net, NetStream):
        raise TypeError(f"libp2p gave a {type(net).__name__}")
    done = False
    try:
        yield Libp2pStream(net, metrics)
        done = True
    finally:
        with suppress(StreamBroken, *LIBRARY_FAILURES):  # it is over either way
            await bounded(net, net.close if done else net.reset, limits.WRITE_DEADLINE_S)


def causes(error: BaseException) -> Iterator[BaseException]:
    """A failure and what led to it, outermost first; the first where there were several."""
    inner: object = error
    while isinstance(inner, BaseException):
        error = inner
        yield error
        many = error.errors if isinstance(error, MultiError) else getattr(error, "exceptions", ())
        inner = many[0] if many else error.__cause__
        if not isinstance(inner, Exception) or not (str(inner) or inner.__cause__):
            return


def root_cause(error: BaseException) -> str:
    """The innermost message of a failure that the library has wrapped several times."""
    *_, innermost = causes(error)
    return str(innermost) or type(innermost).__name__
