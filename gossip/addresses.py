"""Multiaddresses as people give them and as peers announce them. *Pure.*

We listen on and dial TCP over IPv4, IPv6 or a DNS name; a peer's address ends in its id, so that whoever answers can
be told from whoever was meant. Source: https://github.com/multiformats/multiaddr.
"""

import ipaddress
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

from multiaddr import Multiaddr  # type: ignore[import-untyped]
from multiaddr.exceptions import Error as MultiaddrError  # type: ignore[import-untyped]

from gossip.errors import BadAddress
from gossip.limits import ADDRESS_CHARS_MAX
from ledger.envelope import public_key
from ledger.errors import BadStatement

LISTEN_EXAMPLE = "/ip4/0.0.0.0/tcp/4001"
PEER_EXAMPLE = "/ip4/192.0.2.7/tcp/4001/p2p/12D3KooW…"
LOCAL = "local"
_HOSTS = ("ip4", "ip6", "dns", "dns4", "dns6")


class Endpoint(NamedTuple):
    """A TCP endpoint: `host` is an IP address, or a DNS name where `kind` starts with dns."""

    kind: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"/{self.kind}/{self.host}/tcp/{self.port}"


def parse_peer(address: str) -> tuple[Endpoint, str]:
    """The endpoint and the peer id of an address to dial. Raises `BadAddress` with an example of a good one."""
    parts = _parts(address, PEER_EXAMPLE)
    if [name for name, _ in parts[1:]] != ["tcp", "p2p"]:
        raise BadAddress(f"{address!r} is not of the form host, tcp, p2p; a peer's address looks like {PEER_EXAMPLE}")
    endpoint, peer = _endpoint(address, parts, PEER_EXAMPLE), parts[2][1]
    try:
        public_key(peer)
    except BadStatement as error:
        raise BadAddress(f"{address!r} does not end in a peer id: {error}") from error
    if endpoint.port == 0:
        raise BadAddress(f"{address!r} has port 0, which nobody listens on")
    return endpoint, peer


def parse_listen(address: str) -> Endpoint:
    """The endpoint to listen on; port 0 lets the system choose. Raises `BadAddress`."""
    parts = _parts(address, LISTEN_EXAMPLE)
    if [name for name, _ in parts[1:]] != ["tcp"] or parts[0][0] not in ("ip4", "ip6"):
        raise BadAddress(f"cannot listen on {address!r}; an address to listen on looks like {LISTEN_EXAMPLE}")
    return _endpoint(address, parts, LISTEN_EXAMPLE)


class Scope(IntEnum):
    """How far an address reaches."""

    LOOPBACK = 0
    PRIVATE = 1  # a local network; also what is reserved for other uses
    GLOBAL = 2


def scope_of(endpoint: Endpoint) -> Scope | None:
    """How far an endpoint reaches; None for a DNS name and for an address that no peer can be dialled at."""
    ip = _ip(endpoint)
    if ip is None or ip.is_unspecified or ip.is_multicast or ip.is_link_local:
        return None
    if ip.is_loopback:
        return Scope.LOOPBACK
    return Scope.GLOBAL if ip.is_global else Scope.PRIVATE


def network_of(endpoint: Endpoint) -> str:
    """Who may own many addresses beside this one: its /16 (IPv4) or /32 (IPv6); `local` for all that is not global."""
    ip = _ip(endpoint)
    if ip is None or not ip.is_global:
        return LOCAL
    return str(ipaddress.ip_network((ip, 16 if ip.version == 4 else 32), strict=False))


def _ip(endpoint: Endpoint) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    if endpoint.kind not in ("ip4", "ip6"):
        return None
    ip = ipaddress.ip_address(endpoint.host)
    return (ip.ipv4_mapped or ip) if ip.version == 6 else ip


def of_peer(addresses: Iterable[str], peer: str) -> tuple[str, ...]:
    """Those of the announced addresses that are well formed and lead to `peer` itself, in their order, once each."""
    kept: dict[str, None] = {}
    for address in addresses:
        try:
            endpoint, named = parse_peer(address)
        except BadAddress:
            continue
        if named == peer:
            kept[f"{endpoint}/p2p/{peer}"] = None
    return tuple(kept)


def _parts(address: str, example: str) -> list[tuple[str, str]]:
    if len(address) > ADDRESS_CHARS_MAX:
        raise BadAddress(f"an address of {len(address)} characters; a good one looks like {example}")
    try:
        parts = [(protocol.name, str(value or "")) for protocol, value in Multiaddr(address).items()]
    except (MultiaddrError, ValueError) as error:
        raise BadAddress(f"{address!r} is not a multiaddress ({error}); a good one looks like {example}") from error
    if not parts or parts[0][0] not in _HOSTS:
        raise BadAddress(f"{address!r} does not start with one of {', '.join(_HOSTS)}; a good one looks like {example}")
    return parts


def _endpoint(address: str, parts: list[tuple[str, str]], example: str) -> Endpoint:
    (kind, host), (_, port) = parts[0], parts[1]
    if not port.isdecimal():
        raise BadAddress(f"{address!r} has no TCP port; a good one looks like {example}")
    return Endpoint(kind, host, int(port))
