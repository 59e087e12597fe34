"""Invitations: one link with all that joining takes.

    waggle://<challenge digest>?peer=<multiaddress>&peer=…#psk=<64 hex digits>

The digest says which swarm is meant, whoever answers at the addresses. The key of a private swarm stands in the
fragment, so a link with a key is as secret as the key.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, quote, urlsplit

from gossip.addresses import parse_peer
from gossip.limits import ADDRESSES_MAX
from node.errors import UserError
from node.home import Home
from node.swarm_key import keep_swarm_key, parse_swarm_key, read_swarm_key

SCHEME = "waggle"
LINK_CHARS_MAX = 8192
_DIGEST = re.compile("[0-9a-f]{64}")


class Invitation(NamedTuple):
    """What was asked with --join: addresses, and for links the challenge (digest, hex) and perhaps a swarm key."""

    addresses: tuple[str, ...]  # each ends in a peer id
    challenge: str | None = None
    swarm_key: bytes | None = None

    def link(self) -> str:
        """The link; for an invitation with a challenge."""
        peers = "&".join(f"peer={quote(address, safe='/:')}" for address in self.addresses)
        key = "" if self.swarm_key is None else f"#psk={self.swarm_key.hex()}"
        return f"{SCHEME}://{self.challenge}?{peers}{key}"


def accept(home: Home, joins: Sequence[str], key_file: Path | None) -> Invitation:
    """Read what was given with --join and --swarm-key, and keep the key in the home, if there is one.

    Raises `UserError` if it is to another swarm than the home's, `BadAddress` for a bad address.
    """
    invitation = read_invitations(joins)
    if invitation.challenge is not None and home.is_initialised():
        own = home.challenge().digest()
        if own != invitation.challenge:
            raise UserError(
                f"{home.path} is the home of challenge {own[:12]}, and the invitation is to "
                f"{invitation.challenge[:12]}. Join another challenge with a fresh --home."
            )
    keys = {invitation.swarm_key} if key_file is None else {invitation.swarm_key, read_swarm_key(key_file)}
    keys -= {None}
    if len(keys) > 1:
        raise UserError(f"{key_file} holds another key than the invitation does. Give one of them.")
    for key in keys:
        if key is not None:
            keep_swarm_key(home.swarm_key_file, key)
    return invitation


def read_invitations(joins: Sequence[str]) -> Invitation:
    """All --join arguments, addresses and links, as one invitation.

    Raises `UserError` for a bad link, and for links to different swarms; `BadAddress` for a bad address.
    """
    addresses: dict[str, None] = {}
    challenges, keys = set[str](), set[bytes]()
    for text in joins:
        if not text.startswith(f"{SCHEME}:"):
            parse_peer(text)
            addresses[text] = None
            continue
        one = parse_link(text)
        addresses |= dict.fromkeys(one.addresses)
        if one.challenge is not None:
            challenges.add(one.challenge)
        if one.swarm_key is not None:
            keys.add(one.swarm_key)
    if len(challenges) > 1 or len(keys) > 1:
        raise UserError("the links given with --join are to different swarms; a node joins one.")
    return Invitation(tuple(addresses), next(iter(challenges), None), next(iter(keys), None))


def parse_link(text: str) -> Invitation:
    """Raises `UserError` that says what a good link looks like, `BadAddress` for an address in it."""
    try:
        if len(text) > LINK_CHARS_MAX:
            raise ValueError(f"{len(text)} characters")
        parts = urlsplit(text)
        query = parse_qs(parts.query, strict_parsing=True, max_num_fields=2 * ADDRESSES_MAX)
        addresses = query.get("peer", [])
        if not _DIGEST.fullmatch(parts.netloc) or parts.path or not 1 <= len(addresses) <= ADDRESSES_MAX:
            raise ValueError("no digest of 64 hex digits, or no peers")
        key = None
        if parts.fragment:
            name, _, digits = parts.fragment.partition("=")
            if name != "psk":
                raise ValueError("what follows # is not psk=…")
            key = parse_swarm_key(digits)
    except ValueError as error:
        raise UserError(
            f"an invitation that cannot be read ({error}); `waggle invite` prints good ones: "
            f"{SCHEME}://DIGEST?peer=/ip4/…/tcp/…/p2p/…"
        ) from error
    for address in addresses:
        parse_peer(address)
    return Invitation(tuple(addresses), parts.netloc, key)
