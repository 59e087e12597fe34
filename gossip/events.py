"""What the outside may want to know of this package. *Pure.*

Events are for people and for remembering addresses. The package never reads them back, and nothing here logs.
"""

from collections.abc import Callable
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from gossip import limits
from gossip.rates import Buckets


class Kind(StrEnum):
    PEER_CONNECTED = "peer connected"
    PEER_LOST = "peer lost"
    PEER_STATUS = "peer status"  # detail: agent version; addresses: where it can be dialled; constitution
    PEER_SYNCED = "peer synced"  # once for a connection: everything that it has is here
    DIAL_FAILED = "dial failed"
    OTHER_SWARM = "other swarm"  # another challenge; not synced with
    OTHER_VERSION = "other version"  # of the protocol, too far from ours; not synced with
    ENTRIES_RECEIVED = "entries received"  # count: how many were new
    ADDRESSES_RECEIVED = "addresses received"  # count: of peers that were not known, or had moved
    BLOB_RECEIVED = "blob received"  # detail: digest; count: bytes
    BLOB_DAMAGED = "blob damaged"  # here, and not served; detail: which, and what to do
    MESSAGE_DROPPED = "message dropped"
    FEED_REFUSED = "feed refused"  # entries that do not fit a feed as this ledger knows it
    EQUIVOCATION = "equivocation"
    PEER_FAULT = "peer fault"
    REQUEST_FAILED = "request failed"
    HANDLER_FAILED = "handler failed"  # our bug, contained: a stream handler or validator raised
    CONNECTION_CLOSED = "connection closed"  # from here; detail: why
    PEER_REFUSED = "peer refused"  # for its faults; detail: for how long
    HOST_REBUILT = "network rebuilt"  # libp2p failed and was started anew; detail: why


class Event(Struct, frozen=True, kw_only=True):
    """Something that happened, between us and `peer` (a peer id, or the address that was dialled)."""

    kind: Kind
    peer: str
    detail: str = ""
    count: int = 0
    addresses: tuple[str, ...] = ()
    constitution: str | None = None  # digest of the one that the peer says is in force with it

    def printable(self) -> "Event":
        """The same without control characters, and no longer than may be: some details quote a peer."""
        shown = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in self.detail)
        return replace(self, detail=shown[: limits.DETAIL_CHARS_MAX])


_ABOUT_FAULTS = frozenset(
    {Kind.MESSAGE_DROPPED, Kind.FEED_REFUSED, Kind.PEER_FAULT, Kind.REQUEST_FAILED, Kind.HANDLER_FAILED}
    | {Kind.BLOB_DAMAGED, Kind.CONNECTION_CLOSED, Kind.PEER_REFUSED, Kind.OTHER_SWARM, Kind.OTHER_VERSION}
)


class Quiet:
    """Lets a peer's faults be told of at the rate `TOLD`, so that no peer can fill a log or a screen."""

    def __init__(self) -> None:
        self._told: Buckets[tuple[Kind, str]] = Buckets(limits.TOLD, limits.TOLD_REMEMBERED_MAX)

    def lets(self, event: Event, now_s: float) -> bool:
        return event.kind not in _ABOUT_FAULTS or self._told.take((event.kind, event.peer), now_s)


Observer = Callable[[Event], None]
"""Called synchronously from the network's tasks: it must be quick and must not raise."""
