"""The messages of the stream protocols, as bytes. *Pure* but for `receive`, which reads from a given stream.

Each message is a frame: a big-endian u32 length, then msgpack of one struct with its fields in order. Decoding is
strict: a type, length or range that is not stated here is refused. A change of any struct is a new protocol id.

    /waggle/status/1   asker: Status                 answerer: Status
    /waggle/sync/1     asker: SyncRequest            answerer: SyncReply
    /waggle/blob/1     asker: BlobRequest            answerer: BlobReply, then `size` raw bytes

The asker closes its side after its message, and the answerer after its own.
"""

import struct
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from gossip.errors import PeerFault, StreamBroken
from gossip.exchange import SEQ_NONE_WANTED, Page, Window
from gossip.limits import (
    ADDRESS_CHARS_MAX,
    ADDRESSES_MAX,
    AGENT_CHARS_MAX,
    HEADS_PER_REQUEST_MAX,
)
from gossip.transport import Stream
from ledger.predicates import Feed, PeerId, Sha256

PROTOCOL = 1
STATUS = "/waggle/status/1"
SYNC = "/waggle/sync/1"
BLOB = "/waggle/blob/1"

_LENGTH = struct.Struct("!I")
_FeedName = tuple[PeerId, Feed]


class _Message(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    pass


class Status(_Message, frozen=True, array_like=True):
    """Who speaks. A joiner that has no challenge yet sends None."""

    protocol: Annotated[int, Meta(ge=1, le=2**16)]
    challenge: Sha256 | None
    agent: Annotated[str, Meta(max_length=AGENT_CHARS_MAX)]
    addresses: Annotated[tuple[Annotated[str, Meta(max_length=ADDRESS_CHARS_MAX)], ...], Meta(max_length=ADDRESSES_MAX)]


class Position(_Message, frozen=True, array_like=True):
    """The next entry that the asker wants of a feed."""

    author: PeerId
    feed: Feed
    next_seq: Annotated[int, Meta(ge=0, le=SEQ_NONE_WANTED)]


class SyncRequest(_Message, frozen=True, array_like=True):
    challenge: Sha256
    heads: Sha256  # exchange.digest of all the asker's heads
    after: _FeedName | None
    upto: _FeedName | None
    positions: Annotated[tuple[Position, ...], Meta(max_length=HEADS_PER_REQUEST_MAX)]

    def window(self) -> Window:
        return Window(self.after, self.upto, {(p.author, p.feed): p.next_seq for p in self.positions})


class SyncReply(_Message, frozen=True, array_like=True):
    same: bool  # the digests of heads are equal; nothing to send in any window
    envelopes: tuple[bytes, ...]
    more: bool

    def page(self) -> Page:
        return Page(self.envelopes, self.more)


class BlobRequest(_Message, frozen=True, array_like=True):
    digest: Sha256


class BlobReply(_Message, frozen=True, array_like=True):
    size: Annotated[int, Meta(ge=0, le=2**53 - 1)] | None  # bytes that follow; None: not here


Message = TypeVar("Message", bound=_Message)


def sync_request(challenge: str, heads: str, window: Window) -> SyncRequest:
    positions = tuple(Position(author, feed, seq) for (author, feed), seq in sorted(window.next_seq.items()))
    return SyncRequest(challenge, heads, _name(window.after), _name(window.upto), positions)


def encode(message: _Message) -> bytes:
    """The frame of a message."""
    body = msgspec.msgpack.encode(message)
    return _LENGTH.pack(len(body)) + body


def decode(body: bytes, kind: type[Message]) -> Message:
    """A frame's content. Raises `PeerFault` with the field at fault."""
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PeerFault(f"malformed {kind.__name__}: {error}") from error


async def receive(stream: Stream, kind: type[Message], bytes_max: int) -> Message:
    """Read one frame. Raises `PeerFault` if it is longer than `bytes_max` or malformed, `StreamBroken` if cut short."""
    (size,) = _LENGTH.unpack(await read_exactly(stream, _LENGTH.size))
    if size > bytes_max:
        raise PeerFault(f"announced a {kind.__name__} of {size} bytes, over {bytes_max}")
    return decode(await read_exactly(stream, size), kind)


async def read_exactly(stream: Stream, size: int) -> bytes:
    """`size` bytes; memory grows with what has arrived, not with what is claimed.

    Raises `StreamBroken` if the stream ends before: a peer that crashes looks no different.
    """
    received = bytearray()
    while len(received) < size:
        part = await stream.read(size - len(received))
        if not part:
            raise StreamBroken(f"ended after {len(received)} of {size} bytes")
        received += part
    return bytes(received)


def _name(name: tuple[str, str] | None) -> _FeedName | None:
    return None if name is None else (name[0], name[1])
