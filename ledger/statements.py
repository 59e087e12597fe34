"""The outer form of what a node states: in-toto Statements v1 in JSON, their reading, writing and naming.

A statement says something (predicates.py) about one *subject* and is placed in one author's feed by its *entry*. Rules
that hold for every statement:

* decoding is strict, duplicate keys included: two readers must never see two meanings in the same signed bytes;
* a type or version of a type that this version does not know is kept as `Opaque`: the chain of its author must not
  break because an author runs newer software. So is the body of an entry of the next protocol version, of whose
  `entry` only what this version knows is read: versions N and N - 1 hold each other's feeds. What is newer still is
  refused, and the author's feed stops here until this node is updated;
* recorded times are information; nothing is decided by them. Order comes from `seq` and the Lamport clock.

Source of the outer form: in-toto Attestation Framework, Statement v1 (https://in-toto.io/Statement/v1).
This module knows nothing of signatures (envelope.py), of chains (feed.py) or of storage (store.py). *Pure.*
"""

import hashlib
import json
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

from ledger.errors import BadStatement, TooNew
from ledger.predicates import (
    PROTOCOL,
    Adoption,
    Amendment,
    Attestation,
    Checkpoint,
    Claim,
    Discovery,
    Entry,
    FeedKind,
    FeedReset,
    Gate,
    Lesson,
    Name,
    Retraction,
    Reveal,
    Revocation,
    Sha256,
    Skill,
    Trial,
)

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PAYLOAD_BYTES_MAX = 64 * 1024  # a discovery with 30 pairs takes about 6 KiB

OwnBody = (
    Trial
    | Discovery
    | Attestation
    | Adoption
    | Retraction
    | Claim
    | Skill
    | Lesson
    | Gate
    | Amendment
    | Checkpoint
    | Revocation
    | FeedReset
    | Reveal
)


class Opaque(Struct, frozen=True, kw_only=True):
    """A statement that this version cannot read; its body stays in the payload."""

    entry: Entry
    predicate_type: str


Body = OwnBody | Opaque

TYPES: dict[str, type[OwnBody]] = {
    "urn:waggle:trial:v1": Trial,
    "urn:waggle:discovery:v1": Discovery,
    "urn:waggle:attestation:v1": Attestation,
    "urn:waggle:adoption:v1": Adoption,
    "urn:waggle:retraction:v1": Retraction,
    "urn:waggle:claim:v1": Claim,
    "urn:waggle:skill:v1": Skill,
    "urn:waggle:lesson:v1": Lesson,
    "urn:waggle:gate:v1": Gate,
    "urn:waggle:amendment:v1": Amendment,
    "urn:waggle:checkpoint:v1": Checkpoint,
    "urn:waggle:revocation:v1": Revocation,
    "urn:waggle:feed-reset:v1": FeedReset,
    "urn:waggle:reveal:v1": Reveal,
}
_URNS = {kind: urn for urn, kind in TYPES.items()}
KINDS = tuple(urn.split(":")[2] for urn in TYPES)

_SUBJECT_NAMES: dict[type[OwnBody], str] = {
    Skill: "skill.md",
    Lesson: "change.txt",
    Gate: "constitution.toml",
    Amendment: "constitution.toml",
    Checkpoint: "checkpoint",
    Revocation: "ed25519.pub",
    FeedReset: "ed25519.pub",
    Reveal: "salt",
}  # all others are about a program
_PROGRAM_NAME = "train.py"

PredicateType = Annotated[str, Meta(max_length=128, pattern="^urn:waggle:[a-z-]+:v[0-9]+\\Z")]


class _Digest(Struct, frozen=True, forbid_unknown_fields=True):
    sha256: Sha256


class _Subject(Struct, frozen=True, forbid_unknown_fields=True):
    name: Name
    digest: _Digest


class _Outer(Struct, frozen=True, forbid_unknown_fields=True):
    type: str = field(name="_type")
    subject: Annotated[tuple[_Subject, ...], Meta(min_length=1, max_length=1)]
    predicate_type: PredicateType = field(name="predicateType")
    predicate: msgspec.Raw


class _Version(Struct):
    protocol: int


class _Versioned(Struct):
    entry: _Version


class _Placed(Struct):
    """The one field that a body of any type must have."""

    entry: Entry


class _NewerEntry(Struct):
    """What this version knows of an entry of the next one; fields that it does not know are passed over."""

    protocol: int
    challenge: str
    author: str
    feed: str
    seq: int
    prev: str | None
    lamport: int
    recorded_at: str


class _NewerPlaced(Struct):
    entry: _NewerEntry


class Statement(Struct, frozen=True):
    """What is said (`body`) about which subject."""

    subject: str  # SHA-256, hex
    body: Body

    @property
    def entry(self) -> Entry:
        return self.body.entry

    @property
    def kind(self) -> str:
        """`trial`, `discovery`, …; for a statement that this version cannot read its whole URN."""
        if isinstance(self.body, Opaque):
            return self.body.predicate_type
        return _URNS[type(self.body)].split(":")[2]


def opens(commitment: str, salt: bytes) -> bool:
    """Whether `salt` is what a split's name, `private:` and a SHA-256, commits to."""
    return commitment == commit(salt)


def commit(salt: bytes) -> str:
    """The name of the private split by `salt`: a commitment that says nothing about it until it is revealed."""
    return "private:" + hashlib.sha256(salt).hexdigest()


def feed_kind(feed: str) -> FeedKind:
    """Which of the two feeds this is, in whatever incarnation."""
    return "main" if feed.partition(".")[0] == "main" else "trials"


def encode(subject: str, body: OwnBody) -> bytes:
    """The payload bytes of a statement about `subject`; what is signed and what its id is made of.

    Raises `BadStatement` for what others would refuse.
    """
    payload = write(subject, body)
    decode(payload)
    return payload


def write(subject: str, body: OwnBody) -> bytes:
    """As `encode`, for who has it read afterwards anyway, as envelope.seal does."""
    return msgspec.json.encode({
        "_type": STATEMENT_TYPE,
        "subject": [{"name": _SUBJECT_NAMES.get(type(body), _PROGRAM_NAME), "digest": {"sha256": subject}}],
        "predicateType": _URNS[type(body)],
        "predicate": body,
    })  # fmt: skip


def decode(payload: bytes) -> Statement:
    """Read a payload strictly.

    Raises `BadStatement` with the field at fault. Check the signature first (envelope.open_envelope does).
    """
    return _decode(payload, _body)


def _decode(payload: bytes, read: Callable[[_Outer], Body]) -> Statement:
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise BadStatement(f"payload of {len(payload)} bytes is over the limit of {PAYLOAD_BYTES_MAX}")
    try:
        outer = msgspec.json.decode(payload, type=_Outer)
        if outer.type != STATEMENT_TYPE:
            raise BadStatement(f"not an in-toto Statement v1: _type is {outer.type[:80]!r}")
        statement = Statement(outer.subject[0].digest.sha256, read(outer))
        _check_unambiguous(statement, payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, json.JSONDecodeError) as error:
        raise BadStatement(f"malformed statement: {error}") from error
    _check_place(statement.body)
    _check_subject(statement)
    return statement


def decode_opaque(payload: bytes) -> Statement:
    """Read of a statement what one of an unknown type must have, whatever its type. Raises `BadStatement`."""
    return _decode(payload, _opaque)


def _opaque(outer: _Outer) -> Body:
    return Opaque(entry=msgspec.json.decode(outer.predicate, type=_Placed).entry, predicate_type=outer.predicate_type)


def _body(outer: _Outer) -> Body:
    kind = TYPES.get(outer.predicate_type)
    if kind is not None:
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):  # where the version is ours, it is said again below
            body = msgspec.json.decode(outer.predicate, type=kind)
            if body.entry.protocol == PROTOCOL:
                return body
    version = msgspec.json.decode(outer.predicate, type=_Versioned).entry.protocol
    if version == PROTOCOL + 1:
        newer = msgspec.json.decode(outer.predicate, type=_NewerPlaced).entry
        entry = msgspec.convert(msgspec.to_builtins(newer), type=Entry)
        return Opaque(entry=entry, predicate_type=outer.predicate_type)
    if version > PROTOCOL + 1:
        raise TooNew(f"protocol {version} is too new for this version, which reads {PROTOCOL}: update waggle")
    if kind is None:
        return _opaque(outer)
    return msgspec.json.decode(outer.predicate, type=kind)


def _check_unambiguous(statement: Statement, payload: bytes) -> None:
    """Raise `BadStatement` for a key that an object has twice, of which msgspec takes the last, or a number too large.

    Numbers matter in what was not read: Python takes 1e999 for infinity, and fails at an integer of 5000 digits.
    """
    body = statement.body
    if isinstance(body, Opaque) or write(statement.subject, body) != payload:  # what we write has neither
        json.loads(payload, object_pairs_hook=_no_duplicates, parse_int=_finite, parse_float=_finite)


def _finite(number: str) -> float:
    if not math.isfinite(float(number)):
        raise BadStatement("malformed statement: a number that is too large")
    return float(number)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) < len(pairs):
        raise BadStatement("malformed statement: an object has the same key twice")


def _check_place(body: Body) -> None:
    """Raise `BadStatement` if a statement of this type cannot stand where it says it does."""
    entry = body.entry
    if (entry.prev is None) != (entry.seq == 0):
        raise BadStatement("the first entry of a feed has no predecessor, and every other has one")
    if isinstance(body, Opaque):
        return
    if (feed_kind(entry.feed) == "trials") != isinstance(body, Trial):
        raise BadStatement(f"a {type(body).__name__.lower()} does not belong in the feed {entry.feed}")
    if (entry.feed.startswith("main.") and entry.seq == 0) != isinstance(body, FeedReset):
        raise BadStatement("a feed reset is the first entry of a numbered main feed, and no other entry is")


def _check_subject(statement: Statement) -> None:
    """Raise `BadStatement` if the statement carries its subject, and it has another digest."""
    match statement.body:
        case Skill(text=text):
            carried = text.encode()
        case Lesson(change=change):
            carried = change.encode()
        case Checkpoint(note=note):
            carried = note.encode()
        case Reveal(salt=salt):
            carried = bytes.fromhex(salt)
        case _:
            return
    if hashlib.sha256(carried).hexdigest() != statement.subject:
        raise BadStatement("the subject's digest is not that of what the statement carries")


def entry_id(payload: bytes) -> str:
    """CIDv1 of the payload: version 1, codec raw (0x55), sha2-256 (0x12), 32 bytes, in multibase base32.

    Source: https://github.com/multiformats/cid. Any CID library gives the same text.
    """
    cid = b"\x01\x55\x12\x20" + hashlib.sha256(payload).digest()
    return "b" + _base32(cid)


def _base32(cid: bytes) -> str:
    """RFC 4648 base32 of 36 bytes, lower case and without padding, in a quarter of the time that `base64` takes.

    290 bits are 58 groups of five. Halves of ever smaller parts are moved apart until each group has a byte of its own.
    """
    number = int.from_bytes(cid) << 2
    for upper, lower, bits in _HALVES:
        number = (number & upper) << bits | number & lower
    return number.to_bytes(64)[6:].translate(_BASE32).decode()


_BASE32 = b"abcdefghijklmnopqrstuvwxyz234567".ljust(256)


def _halves(groups: int) -> tuple[int, int, int]:
    """Masks of the upper and the lower halves of all parts of so many groups, and how many bits to move the upper."""
    half = 5 * groups // 2
    lower = sum(((1 << half) - 1) << 8 * start for start in range(0, 64, groups))
    return lower << half, lower, 8 * groups // 2 - half


_HALVES = [_halves(groups) for groups in (64, 32, 16, 8, 4, 2)]
