"""The messages of the stream protocols, as bytes. *Pure* but for `receive`, which reads from a given stream.

Each message is a frame: a big-endian u32 length, then msgpack of one struct with its fields in order. Decoding is
strict: a type, length or range that is not stated here is refused. A change of any struct is a new protocol id, but
for Status: what a newer version adds at its end is passed over, because it is by Status that versions are compared.

    /waggle/status/1   asker: Status                 answerer: Status
    /waggle/sync/1     asker: SyncRequest            answerer: SyncReply
    /waggle/blob/1     asker: BlobRequest            answerer: BlobReply, then the raw bytes of the asked range
    /waggle/peers/1    asker: PeersRequest           answerer: PeersReply

The asker closes its side after its message, and the answerer after its own.
"""

import struct
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from gossip.errors import PeerFault, StreamBroken
from gossip.exchange import Answer, Question
from gossip.limits import (
    ADDRESS_CHARS_MAX,
    ADDRESSES_MAX,
    AGENT_CHARS_MAX,
    RECORD_BYTES_MAX,
    RECORDS_PER_REPLY_MAX,
)
from gossip.transport import Stream
from ledger.predicates import Sha256

PROTOCOL = 1
STATUS = "/waggle/status/1"
SYNC = "/waggle/sync/1"
BLOB = "/waggle/blob/1"
PEERS = "/waggle/peers/1"

_LENGTH = struct.Struct("!I")
_Record = Annotated[bytes, Meta(max_length=RECORD_BYTES_MAX)]


class _Message(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    pass


class Status(_Message, frozen=True, array_like=True, forbid_unknown_fields=False):
    """Who speaks. A joiner that has no challenge yet sends None."""

    protocol: Annotated[int, Meta(ge=1, le=2**16)]
    challenge: Sha256 | None
    agent: Annotated[str, Meta(max_length=AGENT_CHARS_MAX)]
    addresses: Annotated[tuple[Annotated[str, Meta(max_length=ADDRESS_CHARS_MAX)], ...], Meta(max_length=ADDRESSES_MAX)]
    constitution: Sha256 | None = None  # in force at the speaker; information only, and may be left out


class SyncRequest(_Message, frozen=True, array_like=True):
    """`Compare` or `Pull`, tagged; see exchange.py for these and their answers."""

    challenge: Sha256
    question: Question


class SyncReply(_Message, frozen=True, array_like=True):
    answer: Answer  # `Compared` to `Compare`, `Page` to `Pull`


class BlobRequest(_Message, frozen=True, array_like=True):
    digest: Sha256
    offset: Annotated[int, Meta(ge=0, le=2**53 - 1)] = 0  # of the first byte that is wanted
    length: Annotated[int, Meta(ge=0, le=2**53 - 1)] | None = None  # bytes that are wanted; None: to the end


class BlobReply(_Message, frozen=True, array_like=True):
    size: Annotated[int, Meta(ge=0, le=2**53 - 1)] | None  # of the whole blob, bytes; None: not here


class PeersRequest(_Message, frozen=True, array_like=True):
    """Signed address records (peerbook.py) travel as they are."""

    challenge: Sha256
    record: _Record | None  # the asker's own


class PeersReply(_Message, frozen=True, array_like=True):
    records: Annotated[tuple[_Record, ...], Meta(max_length=RECORDS_PER_REPLY_MAX)]


Message = TypeVar("Message", bound=_Message)


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
