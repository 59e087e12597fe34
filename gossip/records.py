"""Address records: where a peer says that it listens, signed by itself. *Pure.*

A record can be passed on by anybody and is believed of its signer only. It names the challenge, so that the peers of
one swarm are not taken for those of another, and has a counter that only grows, so that an old address cannot be
played back over a new one. After libp2p's RFC 3 (https://github.com/libp2p/specs/blob/master/RFC/
0003-routing-records.md), in DSSE's encoding like everything else that is signed here.

On the wire: msgpack of [payload, signature], the payload msgpack of [challenge, peer, counter, endpoints].
"""

from collections.abc import Iterable
from typing import Annotated

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Meta, Struct

from gossip.addresses import Endpoint, Scope, parse_listen, parse_peer, scope_of
from gossip.errors import BadAddress, PeerFault
from gossip.limits import ADDRESS_CHARS_MAX, ADDRESSES_MAX, RECORD_BYTES_MAX
from ledger.envelope import pae, peer_id, public_key
from ledger.errors import BadStatement
from ledger.predicates import Count, PeerId, Sha256

PAYLOAD_TYPE = "application/vnd.waggle.peer-record"
ANNOUNCE_EXAMPLE = "/ip4/203.0.113.7/tcp/4001"


class _Payload(Struct, frozen=True, array_like=True):
    """What a newer version adds at the end is passed over."""

    challenge: Sha256
    peer: PeerId
    counter: Count
    endpoints: Annotated[tuple[Annotated[str, Meta(max_length=ADDRESS_CHARS_MAX)], ...], Meta(max_length=ADDRESSES_MAX)]


class _Sealed(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    payload: bytes
    signature: bytes


class Record(Struct, frozen=True):
    """A record whose signature has been checked."""

    peer: str
    counter: int
    endpoints: tuple[Endpoint, ...]  # IP addresses with a port, none of them unspecified, link-local or multicast
    signed: bytes  # exactly as received


def announced(addresses: Iterable[str]) -> tuple[Endpoint, ...]:
    """Which of a node's own addresses are worth telling others: loopback only where there is nothing else."""
    endpoints = [endpoint for endpoint, _ in map(parse_peer, addresses) if scope_of(endpoint) is not None]
    wider = [endpoint for endpoint in endpoints if scope_of(endpoint) is not Scope.LOOPBACK]
    return tuple(dict.fromkeys(wider or endpoints))[:ADDRESSES_MAX]


def parse_announced(address: str) -> Endpoint:
    """Where others are told to dial this node. Raises `BadAddress` for what nobody could dial."""
    endpoint = _usable(address)
    if endpoint is None:
        raise BadAddress(
            f"{address!r} cannot be announced; an address that can looks like {ANNOUNCE_EXAMPLE}, and is no name"
        )
    return endpoint


def sign_record(key: Ed25519PrivateKey, challenge: str, counter: int, endpoints: Iterable[Endpoint]) -> Record:
    """The signer's own record for the swarm `challenge` (digest, hex)."""
    kept = tuple(endpoints)
    payload = msgspec.msgpack.encode(
        _Payload(challenge, peer_id(key.public_key()), counter, tuple(str(endpoint) for endpoint in kept))
    )
    signed = msgspec.msgpack.encode(_Sealed(payload, key.sign(pae(PAYLOAD_TYPE, payload))))
    return Record(peer_id(key.public_key()), counter, kept, signed)


def open_record(data: bytes, challenge: str) -> Record:
    """Check a record. Raises `PeerFault`: a correct peer passes on none that this refuses.

    1. The size is within bounds.
    2. It is signed by the peer that it names, over the exact payload.
    3. It belongs to this challenge.
    4. Endpoints that this version does not know, or that nobody can be dialled at, are left out.
    """
    # 1
    if len(data) > RECORD_BYTES_MAX:
        raise PeerFault(f"sent an address record of {len(data)} bytes, over {RECORD_BYTES_MAX}")
    # 2
    try:
        sealed = msgspec.msgpack.decode(data, type=_Sealed)
        payload = msgspec.msgpack.decode(sealed.payload, type=_Payload)
        public_key(payload.peer).verify(sealed.signature, pae(PAYLOAD_TYPE, sealed.payload))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, BadStatement) as error:
        raise PeerFault(f"sent a malformed address record: {error}") from error
    except InvalidSignature as error:
        raise PeerFault(f"sent an address record of {payload.peer} that it has not signed") from error
    # 3
    if payload.challenge != challenge:
        raise PeerFault(f"sent an address record of challenge {payload.challenge}")
    # 4
    endpoints = dict.fromkeys(endpoint for text in payload.endpoints if (endpoint := _usable(text)) is not None)
    return Record(payload.peer, payload.counter, tuple(endpoints), data)


def _usable(text: str) -> Endpoint | None:
    try:
        endpoint = parse_listen(text)
    except BadAddress:
        return None
    return endpoint if endpoint.port and scope_of(endpoint) is not None else None
