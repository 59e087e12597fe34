"""What addresses mean on this machine: its own interfaces, and names that its resolver knows."""

import ipaddress
import socket

import psutil
import trio

from gossip.addresses import Endpoint
from gossip.errors import DialFailed
from gossip.limits import RESOLVE_DEADLINE_S

_FAMILIES = {"ip4": socket.AF_INET, "ip6": socket.AF_INET6, "dns4": socket.AF_INET, "dns6": socket.AF_INET6}


def concrete(endpoint: Endpoint) -> list[Endpoint]:
    """An endpoint on all interfaces (0.0.0.0, ::) as one for each address of this machine; any other as it is.

    Loopback comes last, and link-local addresses not at all: they mean nothing without an interface.
    """
    if endpoint.kind not in ("ip4", "ip6") or not ipaddress.ip_address(endpoint.host).is_unspecified:
        return [endpoint]
    found = [
        ipaddress.ip_address(card.address.partition("%")[0])
        for cards in psutil.net_if_addrs().values()
        for card in cards
        if card.family == _FAMILIES[endpoint.kind]
    ]
    usable = sorted({ip for ip in found if not ip.is_link_local}, key=lambda ip: (ip.is_loopback, str(ip)))
    return [Endpoint(endpoint.kind, str(ip), endpoint.port) for ip in usable]


async def resolve(endpoint: Endpoint) -> list[Endpoint]:
    """The IP endpoints behind a DNS name, in the resolver's order; an IP endpoint as it is.

    By the system's resolver, so that /etc/hosts and local names count. Raises `DialFailed`.
    """
    if endpoint.kind in ("ip4", "ip6"):
        return [endpoint]
    family = _FAMILIES.get(endpoint.kind, socket.AF_UNSPEC)
    try:
        with trio.fail_after(RESOLVE_DEADLINE_S):
            found = await trio.socket.getaddrinfo(endpoint.host, endpoint.port, family, socket.SOCK_STREAM)
    except (OSError, UnicodeError, trio.TooSlowError) as error:
        raise DialFailed(f"the name {endpoint.host} cannot be resolved: {error or 'no answer'}") from error
    kinds = {socket.AF_INET: "ip4", socket.AF_INET6: "ip6"}
    places = [Endpoint(kinds[kind], str(place[0]), endpoint.port) for kind, *_, place in found if kind in kinds]
    return list(dict.fromkeys(places))
