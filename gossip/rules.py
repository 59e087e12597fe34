"""Whom the owner of a node lets in: bans and permissions of peers and networks. *Pure.*

What is said of a peer decides before what is said of networks, and of networks the narrowest that holds the address.
Where nothing is said, everybody is let in; but once anything is allowed, only what is allowed.
"""

import ipaddress
from collections.abc import Iterable

from msgspec import Struct

from gossip.errors import BadAddress
from ledger.envelope import public_key
from ledger.errors import BadStatement

TARGET_EXAMPLE = "12D3KooW…, 192.0.2.7 or 192.0.2.0/24"


class Rule(Struct, frozen=True, kw_only=True):
    target: str  # peer id, or network in CIDR form
    allowed: bool
    reason: str = ""


class Rules:
    """A set of rules, asked before a connection is made or accepted."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._peers: dict[str, Rule] = {}
        self._networks: dict[ipaddress.IPv4Network | ipaddress.IPv6Network, Rule] = {}
        for rule in rules:
            network = _network(rule.target)
            if network is None:
                self._peers[rule.target] = rule
            else:
                self._networks[network] = rule
        everything = (*self._peers.values(), *self._networks.values())
        self._allow_list = any(rule.allowed for rule in everything)

    def admits(self, peer: str | None, ip: str | None) -> bool:
        """Whether a peer at an IP address is let in. None: not known yet, so nothing is held against it."""
        if peer is not None and peer in self._peers:
            return self._peers[peer].allowed
        rule = None if ip is None else self._of_address(ip)
        if rule is not None:
            # An allowed peer in a banned network is known as such only after its handshake.
            return rule.allowed or (peer is None and any(one.allowed for one in self._peers.values()))
        return peer is None or ip is None or not self._allow_list

    def _of_address(self, ip: str) -> Rule | None:
        address = ipaddress.ip_address(ip)
        address = (address.ipv4_mapped or address) if address.version == 6 else address
        holding = [network for network in self._networks if network.version == address.version and address in network]
        return self._networks[max(holding, key=lambda network: network.prefixlen)] if holding else None


def target_of(text: str) -> str:
    """A peer id or a network in its one form (`192.0.2.7` becomes `192.0.2.7/32`). Raises `BadAddress`."""
    network = _network(text)
    if network is not None:
        return str(network)
    try:
        public_key(text)
    except BadStatement as error:
        raise BadAddress(f"{text!r} is neither a peer id nor a network; good ones are {TARGET_EXAMPLE}") from error
    return text


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
