"""Signing and opening envelopes: DSSE v1 around exact payload bytes, with Ed25519.

The signature covers DSSE's pre-authentication encoding of payload type and payload, so a signed payload can never be
taken for one of another type. The bytes that were signed are kept for ever and never re-encoded to be checked.

The author's key needs no directory: an Ed25519 libp2p peer id *contains* the public key (identity multihash).

Source: https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md, and for peer ids
https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md. Not this module's duty: whether the entry fits its
feed (feed.py), and whether the claim is true (policy).
"""

import functools

import base58
import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Struct

from ledger.checkpoint import decode_base64, open_checkpoint, origin
from ledger.errors import BadStatement, TooNew
from ledger.predicates import Checkpoint, PeerId, Revocation, Successor
from ledger.statements import PAYLOAD_BYTES_MAX, Statement, decode, decode_opaque, entry_id

PAYLOAD_TYPE = "application/vnd.in-toto+json"
PEER_ID_CHARS_MAX = 64  # ours have 52
ENVELOPE_BYTES_MAX = PAYLOAD_BYTES_MAX + 1024
PEERS_CACHED_MAX = 4096  # whose keys are not decoded again

_PEER_ID_PREFIX = bytes.fromhex("002408011220")  # identity multihash of 36 bytes; protobuf: type Ed25519, 32 bytes


class Signature(Struct, frozen=True, forbid_unknown_fields=True):
    keyid: PeerId  # of the signer; bounded, because decoding base58 takes quadratic time
    sig: bytes  # (64,)


class Envelope(Struct, frozen=True, forbid_unknown_fields=True):
    """A DSSE envelope; on the wire and on disk in msgpack, field names as DSSE has them."""

    payloadType: str
    payload: bytes
    signatures: tuple[Signature, ...]


class Signed(Struct, frozen=True):
    """An envelope whose signature and shape have been checked."""

    id: str
    statement: Statement
    envelope: bytes  # exact bytes, as signed and received


def peer_id(key: Ed25519PublicKey) -> str:
    """The libp2p peer id of a public key, in base58btc (`12D3KooW…`)."""
    return _peer_id(key.public_bytes_raw())


@functools.lru_cache(maxsize=PEERS_CACHED_MAX)
def _peer_id(raw: bytes) -> str:
    return base58.b58encode(_PEER_ID_PREFIX + raw).decode()


@functools.lru_cache(maxsize=PEERS_CACHED_MAX)
def public_key(peer: str) -> Ed25519PublicKey:
    """The public key inside an Ed25519 peer id. Raises `BadStatement` for anything else."""
    if len(peer) > PEER_ID_CHARS_MAX:
        raise BadStatement(f"not a peer id: {len(peer)} characters")
    try:
        raw = base58.b58decode(peer)
    except ValueError as error:
        raise BadStatement(f"not a peer id: {peer[:80]!r}") from error
    if len(raw) != len(_PEER_ID_PREFIX) + 32 or not raw.startswith(_PEER_ID_PREFIX):
        raise BadStatement(f"not an Ed25519 peer id: {peer[:80]!r}")
    return Ed25519PublicKey.from_public_bytes(raw[len(_PEER_ID_PREFIX) :])


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is really signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def seal(key: Ed25519PrivateKey, payload: bytes) -> Signed:
    """Sign a statement's payload. Raises `BadStatement` if it would not pass `open_envelope`.

    The signature itself is not verified: that takes longer than all the rest, and whoever reads the entry does it.
    """
    signature = Signature(keyid=peer_id(key.public_key()), sig=key.sign(pae(PAYLOAD_TYPE, payload)))
    envelope = Envelope(payloadType=PAYLOAD_TYPE, payload=payload, signatures=(signature,))
    return _read_statement(envelope, msgspec.msgpack.encode(envelope))


def open_envelope(data: bytes) -> Signed:
    """Check an envelope and read the statement in it. Raises `BadStatement`, saying what is wrong.

    1. The size is within bounds.
    2. It is a DSSE envelope with our payload type, in the one form of msgpack that we write: nobody in between can
       make other bytes of it.
    3. It carries exactly one signature.
    4. The signature is by the key in its key id, over the exact payload bytes.
    5. Only then is the payload decoded, strictly.
    6. The author that the statement names is the signer.
    7. What is signed within the statement is signed by whom it should: a checkpoint, a successor's consent.
    """
    # 1 to 4
    envelope = _checked(data)
    # 5 to 7
    return _read_statement(envelope, data)


def _checked(data: bytes) -> Envelope:
    """Steps 1 to 4 of `open_envelope`."""
    # 1
    if len(data) > ENVELOPE_BYTES_MAX:
        raise BadStatement(f"envelope of {len(data)} bytes is over the limit of {ENVELOPE_BYTES_MAX}")
    # 2
    envelope = _read(data)
    if msgspec.msgpack.encode(envelope) != data:
        raise BadStatement("an envelope in other than its one standard form")
    if envelope.payloadType != PAYLOAD_TYPE:
        raise BadStatement(f"payload type is {envelope.payloadType[:80]!r}, not {PAYLOAD_TYPE}")
    # 3
    if len(envelope.signatures) != 1:
        raise BadStatement(f"{len(envelope.signatures)} signatures where one is expected")
    signature = envelope.signatures[0]
    # 4
    try:
        public_key(signature.keyid).verify(signature.sig, pae(envelope.payloadType, envelope.payload))
    except InvalidSignature as error:
        raise BadStatement(f"the signature is not by {signature.keyid}") from error
    return envelope


def _read_statement(envelope: Envelope, data: bytes) -> Signed:
    """Steps 5 to 7 of `open_envelope`; there is one signature, and it holds."""
    signer = envelope.signatures[0].keyid
    # 5
    statement = decode(envelope.payload)
    # 6
    if statement.entry.author != signer:
        raise BadStatement(f"signed by {signer}, but names {statement.entry.author} as its author")
    # 7
    _check_within(statement)
    return Signed(entry_id(envelope.payload), statement, data)


def open_kept(data: bytes) -> Signed:
    """As `open_envelope`, for what a ledger holds already. Raises `BadStatement`.

    A node that does not know a type keeps whatever its author says in its name. The version that learns the type must
    not lose the entry for that, nor all that came after it: a body that is not what its type demands (steps 5 and 7)
    is `Opaque`. Nothing that comes from others is opened so.
    """
    return _read_kept(_checked(data), data)


def _read_kept(envelope: Envelope, data: bytes) -> Signed:
    try:
        return _read_statement(envelope, data)
    except TooNew:
        raise
    except BadStatement:
        statement = decode_opaque(envelope.payload)
        if statement.entry.author != envelope.signatures[0].keyid:
            raise
        return Signed(entry_id(envelope.payload), statement, data)


def payload_of(data: bytes) -> bytes:
    """The payload of an envelope that was checked before. Raises `BadStatement` if it cannot be read."""
    return _read(data).payload


def read_unchecked(data: bytes) -> Signed:
    """As `open_kept`, of an envelope whose signature was checked before. Raises `BadStatement`."""
    envelope = _read(data)
    if not envelope.signatures:
        raise BadStatement("an envelope without a signature")
    return _read_kept(envelope, data)


def _read(data: bytes) -> Envelope:
    try:
        return msgspec.msgpack.decode(data, type=Envelope)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadStatement(f"malformed envelope: {error}") from error


def consent_bytes(challenge: str, author: str) -> bytes:
    """What the successor of a revoked key signs, so that nobody can name a successor who does not want to be one."""
    return f"waggle successor v1\n{challenge}\n{author}\n".encode()


def _check_within(statement: Statement) -> None:
    entry = statement.entry
    match statement.body:
        case Checkpoint(note=note, feed=feed):
            found = open_checkpoint(note, public_key(entry.author))
            if found.origin != origin(entry.challenge, entry.author, feed):
                raise BadStatement(f"a checkpoint of {found.origin!r} in a statement about the feed {feed}")
        case Revocation(successor=Successor(peer=peer, consent=consent)):
            try:
                public_key(peer).verify(decode_base64(consent), consent_bytes(entry.challenge, entry.author))
            except InvalidSignature as error:
                raise BadStatement(f"a revocation names {peer} as successor without its consent") from error
