"""What the outside may want to know of this package. *Pure.*

Events are for people and for remembering addresses. The package never reads them back, and nothing here logs.
"""

from collections.abc import Callable
from enum import StrEnum

from msgspec import Struct


class Kind(StrEnum):
    PEER_CONNECTED = "peer connected"
    PEER_LOST = "peer lost"
    PEER_STATUS = "peer status"  # detail: agent version; addresses: where it can be dialled
    PEER_SYNCED = "peer synced"  # once for a connection: everything that it has is here
    DIAL_FAILED = "dial failed"
    OTHER_SWARM = "other swarm"  # another challenge or protocol version; not synced with
    ENTRIES_RECEIVED = "entries received"  # count: how many were new
    BLOB_RECEIVED = "blob received"  # detail: digest; count: bytes
    MESSAGE_DROPPED = "message dropped"
    FEED_REFUSED = "feed refused"  # entries that do not fit a feed as this ledger knows it
    EQUIVOCATION = "equivocation"
    PEER_FAULT = "peer fault"
    REQUEST_FAILED = "request failed"
    HANDLER_FAILED = "handler failed"  # our bug, contained: a stream handler or validator raised


class Event(Struct, frozen=True, kw_only=True):
    """Something that happened, between us and `peer` (a peer id, or the address that was dialled)."""

    kind: Kind
    peer: str
    detail: str = ""
    count: int = 0
    addresses: tuple[str, ...] = ()


Observer = Callable[[Event], None]
"""Called synchronously from the network's tasks: it must be quick and must not raise."""
