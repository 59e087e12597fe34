"""Which connections are let in, and which peers are sent away. *Pure.*

A stranger costs us nothing until it connects, so its address is judged first, and its conduct afterwards. A newcomer is
let in unless

1. its address connects more often than its rate allows;
2. its address, or all addresses together, hold as many connections as they may, and none of these can make way.

A connection makes way for a newer one while its peer has not yet *proven* useful: by a message that was accepted, or an
exchange with us that went well. The oldest goes first, so that whoever merely holds connections open, even hundreds
under as many identities, cannot keep an honest newcomer out, and an honest peer is soon proven.

Where all are proven, the youngest of the network that holds most connections makes way, if that holds two more than the
newcomer's own: proving useful is cheap, addresses in many networks are not. Source: Bitcoin Core's
src/node/eviction.cpp, which protects by other measures first. Whoever has addresses in as many networks as there are
inbound connections can still fill these; those that we open remain.

A peer whose provable faults come faster than `FAULTS` is disconnected; one that earned that twice in `STRIKES` is
refused for `REFUSAL_S`. A new identity is free, which is why addresses are limited as well.
"""

import functools
import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from gossip import limits
from gossip.rates import Buckets

SAME_INCIDENT_S = 1.0  # what a disconnected peer had under way is no second incident

_THIS_MACHINE = frozenset({"127.0.0.1", "::1"})


class Guest:
    """A connection that a peer opened: from where, since when, and its peer id once that is authenticated."""

    __slots__ = ("address", "peer", "since_s")

    def __init__(self, address: str, since_s: float) -> None:
        self.address, self.since_s = address, since_s
        self.peer: str | None = None


class Admitted(NamedTuple):
    """`refusal` says why not, and is empty for a guest that is let in; `evicted` are to be closed for it."""

    refusal: str
    evicted: tuple[Guest, ...] = ()


class Door:
    """Keeps the guests and the record of each peer's faults. Time is seconds of one clock throughout."""

    def __init__(self, guests_max: int) -> None:
        """At most `guests_max` connections that others opened; those that we open are not counted here."""
        self._guests_max = guests_max
        self._guests: OrderedDict[Guest, None] = OrderedDict()  # oldest first
        self._proven: set[str] = set()
        self._arrivals: Buckets[str] = Buckets(limits.ARRIVALS, limits.ADDRESSES_REMEMBERED_MAX)
        self._local_arrivals: Buckets[str] = Buckets(limits.LOCAL_ARRIVALS, len(_THIS_MACHINE))
        self._faults: Buckets[str] = Buckets(limits.FAULTS, limits.PEERS_JUDGED_MAX)
        self._strikes: Buckets[str] = Buckets(limits.STRIKES, limits.PEERS_JUDGED_MAX)
        self._struck_at_s: OrderedDict[str, float] = OrderedDict()
        self._refused_until_s: OrderedDict[str, float] = OrderedDict()

    # Connections

    def arrive(self, guest: Guest) -> Admitted:
        """Let a connection in, or not; `leave` must follow once for each that was let in and has ended."""
        # 1
        arrivals = self._local_arrivals if guest.address in _THIS_MACHINE else self._arrivals
        if not arrivals.take(guest.address, guest.since_s):
            return Admitted("its address connects too often")
        # 2
        evicted: list[Guest] = []
        for held, held_max in self._crowds(guest):
            staying = [other for other in held if other not in evicted]
            if len(staying) < held_max:
                continue
            leaving = next((other for other in staying if self._makes_way(other, guest)), _crowding(staying, guest))
            if leaving is None:
                return Admitted("all connections that may be open are in use")
            evicted.append(leaving)
        for other in evicted:
            self.leave(other)
        self._guests[guest] = None
        return Admitted("", tuple(evicted))

    def _crowds(self, guest: Guest) -> Iterator[tuple[list[Guest], int]]:
        """For each limit that a newcomer falls under: who is there, oldest first, and how many may be."""
        near = [other for other in self._guests if other.address == guest.address]
        if guest.address in _THIS_MACHINE:
            yield near, limits.CONNECTIONS_PER_LOCAL_ADDRESS_MAX
        else:
            yield [other for other in near if other.peer is None], limits.HANDSHAKES_PER_ADDRESS_MAX
            yield near, limits.CONNECTIONS_PER_ADDRESS_MAX
        yield list(self._guests), self._guests_max

    def leave(self, guest: Guest) -> None:
        self._guests.pop(guest, None)

    def _makes_way(self, held: Guest, newcomer: Guest) -> bool:
        if held.peer is None:
            return True
        return held.peer not in self._proven and newcomer.since_s - held.since_s >= limits.PROBATION_S

    # Conduct

    def prove(self, peer: str) -> None:
        """The peer was useful."""
        self._proven.add(peer)

    def forget(self, peer: str) -> None:
        """The peer's last connection ended. Its faults are remembered."""
        self._proven.discard(peer)

    def fault(self, peer: str, now_s: float, weight: float = 1.0) -> bool:
        """Count a provable fault, of the weight of so many bad messages. True if it is to be disconnected for it."""
        if now_s - self._struck_at_s.get(peer, -SAME_INCIDENT_S) < SAME_INCIDENT_S:
            return True
        if self._faults.take(peer, now_s, weight):
            return False
        _remember(self._struck_at_s, peer, now_s)
        if not self._strikes.take(peer, now_s):
            _remember(self._refused_until_s, peer, now_s + limits.REFUSAL_S)
        return True

    def refused_for_s(self, peer: str, now_s: float) -> float:
        """How long the peer will not be let in; 0 if it is welcome."""
        left_s = self._refused_until_s.get(peer, now_s) - now_s
        if left_s <= 0:
            self._refused_until_s.pop(peer, None)
        return max(0.0, left_s)


def _crowding(held: list[Guest], newcomer: Guest) -> Guest | None:
    """The youngest of the most crowded network, if there are two more of it than of the newcomer's."""
    crowds = Counter(_network(guest.address) for guest in held)
    network, most = crowds.most_common(1)[0]
    if most - crowds[_network(newcomer.address)] < limits.NETWORK_SURPLUS_MIN:
        return None
    return next(guest for guest in reversed(held) if _network(guest.address) == network)


@functools.lru_cache(maxsize=limits.ADDRESSES_REMEMBERED_MAX)
def _network(group: str) -> str:
    """The /16 (IPv4) or /32 (IPv6) of what `address_group` gives, which mostly have one owner each."""
    ip = ipaddress.ip_address(group.partition("/")[0])
    return str(ipaddress.ip_network((ip, 16 if ip.version == 4 else 32), strict=False))


def address_group(host: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 that one IPv6 customer holds at least.

    Raises `ValueError` if `host` is no IP address.
    """
    ip = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ip) if ip.is_loopback else str(ipaddress.ip_network((ip, 64), strict=False))


def _remember(times_s: OrderedDict[str, float], peer: str, at_s: float) -> None:
    times_s[peer] = at_s
    times_s.move_to_end(peer)
    if len(times_s) > limits.PEERS_JUDGED_MAX:
        times_s.popitem(last=False)
