"""Which peers this node knows, and which of them it dials next. *Pure.*

Two kinds of peers: those that were *reached*, which are who they say they are, and those known by *hearsay*, of whom
there is a signed record (records.py) but nothing is proved. A stranger can sign any number of identities and addresses,
so the rules keep an attacker from filling the book and with it all of a node's connections (Heilman et al. 2015,
"Eclipse Attacks on Bitcoin's Peer-to-Peer Network", section 7):

1. Hearsay never pushes out who was reached.
2. Hearsay is capped: from one source, in one network, in all. A full share takes no more, until dialling has shown
   some of it to be wrong. Of too many that were reached, one of the most crowded network is forgotten.
3. Whom to dial is drawn at random, reached and hearsay in turns, from networks that no connection leads to yet if
   there are any.
4. Only what was reached here, or what a connected peer said of itself, is passed on.

An address that reaches less far than all of our own is not dialled: what a stranger on the internet calls 192.168.1.1
or 127.0.0.1 is somebody else on this side.
"""

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable

from msgspec import Struct
from msgspec.structs import replace

from gossip import limits
from gossip.addresses import LOCAL, Endpoint, Scope, network_of, parse_peer, scope_of
from gossip.errors import BadAddress
from gossip.records import Record


class Known(Struct, frozen=True, kw_only=True):
    """What is known of one peer."""

    peer: str
    record: Record | None = None
    source: str  # the peer that told; its own id if it was itself
    address: str | None = None  # where it was last reached, ending in its id
    reached_at: int | None = None  # Unix seconds; None: never
    failures: int = 0  # dials in a row that led to nothing, in this run
    tried_at: float = float("-inf")  # s, the caller's monotonic clock

    def places(self, reach: Scope = Scope.LOOPBACK) -> list[str]:
        """Where to dial it, best first: where it was reached, then what its record says, if it reaches that far."""
        said = () if self.record is None else _in_reach(self.record, reach)
        first = [] if self.address is None else [self.address]
        return list(dict.fromkeys((*first, *(f"{endpoint}/p2p/{self.peer}" for endpoint in said))))


class Book:
    """The peers of one swarm that one node knows. Times are arguments, and so is randomness."""

    def __init__(self, own: str, known: Iterable[Known] = ()) -> None:
        """`own` is this node's peer id, which the book never holds."""
        self._own = own
        self._known: dict[str, Known] = {}
        self._changed: set[str] = set()
        self._hearsay, self._per_source, self._per_network = 0, Counter[str](), Counter[str]()  # of hearsay only
        for one in known:
            if one.peer != own:
                self._set(one.peer, one)

    def __len__(self) -> int:
        return len(self._known)

    def get(self, peer: str) -> Known | None:
        return self._known.get(peer)

    def take_changes(self) -> list[tuple[str, Known | None]]:
        """What has changed since the last call, to be kept; None: the peer is forgotten."""
        changes = [(peer, self._known.get(peer)) for peer in sorted(self._changed)]
        self._changed.clear()
        return changes

    def hear(self, record: Record, source: str, reach: Scope) -> bool:
        """Believe a record that `source` passed on, unless there is no room; whether the peer is new, or has moved.

        `reach`: how far the narrowest of our own addresses reaches.
        """
        before = self._known.get(record.peer)
        endpoints = _in_reach(record, reach)
        if record.peer == self._own or not endpoints:
            return False
        if before is None:
            if not self._has_room(endpoints, source):
                return False
            self._put(Known(peer=record.peer, record=record, source=source))
            return True
        older = -1 if before.record is None else before.record.counter
        if record.counter < older or (record.counter == older and source != record.peer):
            return False
        moved = before.record is None or before.record.endpoints != record.endpoints
        vouched = record.peer if source == record.peer else before.source
        if record.counter > older or vouched != before.source:
            self._put(replace(before, record=record, source=vouched, failures=0 if moved else before.failures))
        return moved

    def _has_room(self, endpoints: Collection[Endpoint], source: str) -> bool:
        return (
            self._hearsay < limits.PEERS_HEARD_MAX
            and self._per_source[source] < limits.PEERS_PER_SOURCE_MAX
            and all(self._per_network[network] < _room(network) for network in map(network_of, endpoints))
        )

    def reached(self, peer: str, address: str, now: int) -> None:
        """It answered at `address` (with its id) at `now`, Unix seconds."""
        if peer == self._own:
            return
        before = self._known.get(peer) or Known(peer=peer, source=peer)
        self._put(replace(before, address=address, reached_at=now))
        kept = [one for one in self._known.values() if one.reached_at is not None]
        if len(kept) > limits.PEERS_REACHED_MAX:
            crowd = Counter(network for one in kept for network in _networks(one))
            self.forget(
                max(
                    (one for one in kept if one.peer != peer),
                    key=lambda one: (max((crowd[n] for n in _networks(one)), default=0), -(one.reached_at or 0)),
                ).peer
            )

    def answered(self, peer: str) -> None:
        """It was of use: a connection to it is more than an open door."""
        if (before := self._known.get(peer)) is not None and before.failures:
            self._set(peer, replace(before, failures=0))

    def failed(self, peer: str, now: float, *, online: bool) -> None:
        """It did not answer at any address at `now` (monotonic, s), or hung up before it was of use.

        `online`: others are connected, so that the fault is not our own network's. Hearsay that often fails then is
        forgotten; who was reached once is dialled ever more rarely.
        """
        before = self._known.get(peer)
        if before is None:
            return
        failures = before.failures + 1
        if before.reached_at is None and online and failures >= limits.PEER_FAILURES_MAX:
            self.forget(peer)
        else:
            self._set(peer, replace(before, failures=failures, tried_at=now))

    def forget(self, peer: str) -> None:
        if peer in self._known:
            self._set(peer, None)
            self._changed.add(peer)

    def addresses(self, peer: str, reach: Scope) -> list[str]:
        """Where to dial a peer in one attempt, best first: a few only."""
        known = self._known.get(peer)
        return [] if known is None else known.places(reach)[: limits.PEER_ADDRESSES_TRIED_MAX]

    def next_to_dial(
        self,
        connected: Collection[str],
        now: float,
        rng: random.Random,
        admits: Callable[[str], bool],
    ) -> str | None:
        """A peer to dial now (monotonic, s), if one is due. `admits`: whether the owner's rules let a peer in."""
        wait_s_max = limits.PEER_RETRY_S_MAX if connected else limits.REDIAL_S_MAX
        due = [
            one
            for one in self._known.values()
            if one.peer not in connected
            and now >= one.tried_at + _wait_s(one.failures, wait_s_max)
            and admits(one.peer)
            and (one.address is not None or one.record is not None)
        ]
        reached = [one for one in due if one.reached_at is not None]
        hearsay = [one for one in due if one.reached_at is None]
        pool = rng.choice([some for some in (reached, hearsay) if some]) if due else []
        taken = {network for one in map(self._known.get, connected) if one for network in _networks(one)} - {LOCAL}
        apart = [one for one in pool if not _networks(one) & taken]
        choice = apart or pool
        return rng.choice(sorted(one.peer for one in choice)) if choice else None

    def share(self, asker: str, connected: Collection[str], rng: random.Random) -> list[bytes]:
        """Signed records for `asker`: of who was reached, or is connected and spoke for itself; at random if many."""
        vouched = [
            one.record.signed
            for one in self._known.values()
            if one.record is not None
            and one.peer != asker
            and (one.reached_at is not None or (one.source == one.peer and one.peer in connected))
        ]
        return rng.sample(vouched, min(len(vouched), limits.RECORDS_PER_REPLY_MAX - 1))  # and our own

    def _put(self, known: Known) -> None:
        self._set(known.peer, known)
        self._changed.add(known.peer)

    def _set(self, peer: str, known: Known | None) -> None:
        self._count(self._known.pop(peer, None), -1)
        self._count(known, +1)
        if known is not None:
            self._known[peer] = known

    def _count(self, known: Known | None, sign: int) -> None:
        if known is not None and known.reached_at is None:
            self._hearsay += sign
            self._per_source[known.source] += sign
            self._per_network.update(dict.fromkeys(_networks(known), sign))
            if not self._per_source[known.source]:
                del self._per_source[known.source]


def reach_of(own: Iterable[Endpoint]) -> Scope:
    """How far the narrowest of a node's announced addresses reaches; where there is none, everything may be near."""
    return min((scope for endpoint in own if (scope := scope_of(endpoint)) is not None), default=Scope.LOOPBACK)


def _in_reach(record: Record, reach: Scope) -> tuple[Endpoint, ...]:
    return tuple(place for place in record.endpoints if (scope := scope_of(place)) is not None and scope >= reach)


def _networks(known: Known) -> set[str]:
    """The networks that a peer counts for: of the address where it was reached, else of all that it names."""
    if known.address is not None:
        try:
            return {network_of(parse_peer(known.address)[0])}
        except BadAddress:
            return set()
    return set() if known.record is None else {network_of(endpoint) for endpoint in known.record.endpoints}


def _room(network: str) -> int:
    return limits.PEERS_PER_LOCAL_NETWORK_MAX if network == LOCAL else limits.PEERS_PER_NETWORK_MAX


def _wait_s(failures: int, most_s: float) -> float:
    return min(limits.REDIAL_S_MIN * 2.0 ** min(failures, 20), most_s) if failures else 0.0
