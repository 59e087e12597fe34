"""The nouns of the ledger: what a node can state, as in-toto Statements v1 in JSON.

A statement says something about one *subject* (nearly always a program, named by the SHA-256 of its text) and is
placed in one author's feed by its *entry*. Rules that hold for every statement of a known type and version:

* decoding is strict: unknown fields, wrong types, out-of-range numbers and non-finite floats are refused;
* a type that this version does not know is kept as `Opaque`: the chain of its author must not break because an
  author runs newer software;
* recorded times are information; nothing is decided by them. Order comes from `seq` and the Lamport clock.

Source of the outer form: in-toto Attestation Framework, Statement v1 (https://in-toto.io/Statement/v1).
This module knows nothing of signatures (envelope.py), of chains (feed.py) or of storage (store.py). *Pure.*
"""

import base64
import hashlib
import math
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from ledger.errors import BadStatement

PROTOCOL = 1
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PAYLOAD_BYTES_MAX = 64 * 1024  # a discovery with 30 pairs takes about 6 KiB
PROGRAM_NAME = "train.py"
SALT_NAME = "salt"  # the subject of a reveal
PROGRAM_BYTES_MAX = 64 * 1024  # of source
PAIRS_MAX = 64  # of one comparison
BPB_MAX = 1e6  # a score past it says nothing more, and sums of scores stay finite

# Lengths are stated beside the patterns because "$" would let a newline follow.
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", max_length=64)]
EntryId = Annotated[str, Meta(pattern="^bafkrei[a-z2-7]{52}$", max_length=59)]
PeerId = Annotated[str, Meta(pattern="^12D3KooW[1-9A-HJ-NP-Za-km-z]{44}$", max_length=52)]
Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]  # exact in every JSON reader
Seed = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Seconds = Annotated[float, Meta(ge=0)]
Line = Annotated[str, Meta(max_length=1000)]
Name = Annotated[str, Meta(max_length=64)]
Bits = Annotated[float, Meta(ge=-1000 * BPB_MAX, le=1000 * BPB_MAX)]  # per byte; room for the interval of two pairs
SplitName = Annotated[str, Meta(pattern="^(public|private:[0-9a-f]{64})\\Z")]
"""`public`, or `private:` with the SHA-256 of the salt: a commitment that can be opened later."""

Feed = Literal["main", "trials"]
Status = Literal["ok", "crash", "timeout", "over_budget", "out_of_memory", "void", "refused"]
Verdict = Literal["confirmed", "refuted", "inconclusive"]


class _Record(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of everything inside a statement: immutable, strict."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) else (value,)
            if any(isinstance(n, float) and not math.isfinite(n) for n in numbers):
                raise ValueError(f"{name} is not a finite number")


class Entry(_Record, frozen=True, kw_only=True):
    """Where a statement stands: which swarm, whose feed, at which position, after what."""

    protocol: Annotated[int, Meta(ge=1, le=PROTOCOL)]
    challenge: Sha256
    author: PeerId
    feed: Feed
    seq: Count  # 0 for the first entry of a feed
    prev: EntryId | None  # id of the entry at seq - 1; None exactly at seq 0
    lamport: Count
    recorded_at: Name  # RFC 3339, information only


class Hardware(_Record, frozen=True, kw_only=True):
    """What a trial ran on; scores of different hardware are comparable only as differences."""

    machine: Name  # platform.machine(), e.g. x86_64
    cpu: Line
    cores: Count
    system: Line
    python: Name
    torch: Name
    gpu: Line | None = None  # models and driver, where the track's device is a GPU


class Audit(_Record, frozen=True, kw_only=True):
    """What the prefix-only audit of an `ok` trial saw: costs of targets, from prefixes minus as they were scored."""

    cuts: Count
    targeted: Count  # of `cuts`; the others are uniform
    tolerance_bits: Annotated[float, Meta(ge=0)]  # of one difference
    largest_bits: Annotated[float, Meta(ge=0)]  # of all differences, without sign
    mean_bits: Bits  # over the uniform cuts; positive where seeing the whole row helped


class Measurement(_Record, frozen=True, kw_only=True):
    """What one trial gave. Only status `ok` carries a score: a failure is never a number."""

    status: Status
    val_bpb: Annotated[float, Meta(ge=0, le=BPB_MAX)] | None  # bits per byte of validation text; lower is better
    evaluated_bytes: Count
    budget_used_s: Seconds  # in the track's unit: CPU seconds of the whole process tree, or wall seconds
    wall_s: Seconds  # the whole trial, start-up and evaluation included
    peak_memory_bytes: Count  # resident, summed over the training sandbox's process tree
    weights_bytes: Count
    weights_sha256: Sha256 | None
    validation_sha256: Sha256 | None  # of the evaluated rows, in canonical order
    program_lines: Count
    hardware: Hardware
    audit: Audit | None = None  # with status ok only
    reason: Annotated[str, Meta(max_length=8000)] = ""  # why not ok; ends with the sanitised end of the log

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.status == "ok") != (self.val_bpb is not None):
            raise ValueError("a score goes with status ok, and with no other")
        if self.status != "ok" and self.audit is not None:
            raise ValueError("an audit that was passed goes with status ok, and with no other")


class Comparison(_Record, frozen=True, kw_only=True):
    """Paired trials of two programs: same seeds, split, budget and machine."""

    split: SplitName
    seeds: Annotated[tuple[Seed, ...], Meta(max_length=PAIRS_MAX)]  # (n,)
    parent_trials: tuple[EntryId, ...]  # (n,)
    child_trials: tuple[EntryId, ...]  # (n,)
    differences: tuple[Bits, ...]  # (n,), child - parent; negative is better
    mean: Bits
    low: Bits  # 95 % interval of the mean
    high: Bits
    p_value: Annotated[float, Meta(ge=0, le=1)]  # one-sided, of "the child is no better"
    noise: Annotated[float, Meta(ge=0, le=1000 * BPB_MAX)]  # standard deviation of a difference, from A/A trials

    def __post_init__(self) -> None:
        super().__post_init__()
        if not len(self.seeds) == len(self.parent_trials) == len(self.child_trials) == len(self.differences):
            raise ValueError("a comparison has as many parent trials, child trials and differences as seeds")
        if len(self.seeds) != len(set(self.seeds)):
            raise ValueError("a comparison names a seed twice")


class Trial(_Record, frozen=True, kw_only=True):
    """One training and evaluation of the subject program."""

    entry: Entry
    track: Name
    seed: Seed
    split: SplitName
    result: Measurement


class Discovery(_Record, frozen=True, kw_only=True):
    """A claim that the subject program beats its parent."""

    entry: Entry
    track: Name
    parent: Sha256
    hypothesis: Line
    proposer: Name
    comparison: Comparison


class Attestation(_Record, frozen=True, kw_only=True):
    """A verdict on somebody's discovery, after a comparison of the author's own."""

    entry: Entry
    discovery: EntryId
    verdict: Verdict
    reason: Line
    comparison: Comparison | None  # None where no pair could be completed; such a verdict is never `confirmed`


class Adoption(_Record, frozen=True, kw_only=True):
    """The author now builds on the subject program."""

    entry: Entry
    track: Name
    previous: Sha256 | None  # the incumbent before; None for the baseline at the start
    discovery: EntryId | None  # None for the baseline
    reason: Line
    comparison: Comparison | None  # with the incumbent before, where that was not the discovery's parent


class Reveal(_Record, frozen=True, kw_only=True):
    """The author's private split, now that it is no longer used: the salt behind `private:` and the subject.

    Whoever has the corpus can then make the split, and run again what the author's verdicts on it rest on. The digest
    of the subject is the commitment, so a reader of in-toto statements can check it too.
    """

    entry: Entry
    salt: Annotated[str, Meta(pattern="^([0-9a-f]{2}){1,64}\\Z")]  # hex


class Opaque(Struct, frozen=True, kw_only=True):
    """A statement of a type that this version does not know; its body stays in the payload."""

    entry: Entry
    predicate_type: str


Body = Trial | Discovery | Attestation | Adoption | Reveal | Opaque

_TYPES: dict[str, type[Trial] | type[Discovery] | type[Attestation] | type[Adoption] | type[Reveal]] = {
    "urn:waggle:trial:v1": Trial,
    "urn:waggle:discovery:v1": Discovery,
    "urn:waggle:attestation:v1": Attestation,
    "urn:waggle:adoption:v1": Adoption,
    "urn:waggle:reveal:v1": Reveal,
}
_URNS = {kind: urn for urn, kind in _TYPES.items()}


PredicateType = Annotated[str, Meta(max_length=128, pattern="^urn:waggle:[a-z-]+:v[0-9]+\\Z")]


class _Digest(_Record, frozen=True, kw_only=True):
    sha256: Sha256


class _Subject(_Record, frozen=True, kw_only=True):
    name: Name
    digest: _Digest


class _Outer(_Record, frozen=True, kw_only=True):
    type: str = field(name="_type")
    subject: Annotated[tuple[_Subject, ...], Meta(min_length=1, max_length=1)]
    predicate_type: PredicateType = field(name="predicateType")
    predicate: msgspec.Raw


class _Placed(Struct):
    """The one field that a body of any type must have."""

    entry: Entry


class Statement(Struct, frozen=True):
    """What is said (`body`) about which subject."""

    subject: str  # SHA-256, hex
    body: Body

    @property
    def entry(self) -> Entry:
        return self.body.entry

    @property
    def kind(self) -> str:
        """`trial`, `discovery`, …; for a type that this version does not know its whole URN."""
        if isinstance(self.body, Opaque):
            return self.body.predicate_type
        return _URNS[type(self.body)].split(":")[2]


def opens(commitment: str, salt: bytes) -> bool:
    """Whether `salt` is what a split's name, `private:` and a SHA-256, commits to."""
    return commitment == commit(salt)


def commit(salt: bytes) -> str:
    """The name of the private split by `salt`: a commitment that says nothing about it until it is revealed."""
    return "private:" + hashlib.sha256(salt).hexdigest()


def encode(subject: str, body: Trial | Discovery | Attestation | Adoption | Reveal) -> bytes:
    """The payload bytes of a statement about `subject`; what is signed and what its id is made of."""
    document: dict[str, Any] = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": SALT_NAME if isinstance(body, Reveal) else PROGRAM_NAME, "digest": {"sha256": subject}}],
        "predicateType": _URNS[type(body)],
        "predicate": body,
    }
    payload = msgspec.json.encode(document)
    decode(payload)  # what we would refuse from others, we do not write
    return payload


def decode(payload: bytes) -> Statement:
    """Read a payload strictly.

    Raises `BadStatement` with the field at fault. Check the signature first (envelope.open_envelope does).
    """
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise BadStatement(f"payload of {len(payload)} bytes is over the limit of {PAYLOAD_BYTES_MAX}")
    try:
        outer = msgspec.json.decode(payload, type=_Outer)
        if outer.type != STATEMENT_TYPE:
            raise BadStatement(f"not an in-toto Statement v1: _type is {outer.type[:80]!r}")
        kind = _TYPES.get(outer.predicate_type)
        body: Body
        if kind is None:
            entry = msgspec.json.decode(outer.predicate, type=_Placed).entry
            body = Opaque(entry=entry, predicate_type=outer.predicate_type)
        else:
            body = msgspec.json.decode(outer.predicate, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadStatement(f"malformed statement: {error}") from error
    if (body.entry.prev is None) != (body.entry.seq == 0):
        raise BadStatement("the first entry of a feed has no predecessor, and every other has one")
    if not isinstance(body, Opaque) and (body.entry.feed == "trials") != isinstance(body, Trial):
        raise BadStatement(f"a {type(body).__name__.lower()} does not belong in the feed {body.entry.feed}")
    return Statement(outer.subject[0].digest.sha256, body)


def entry_id(payload: bytes) -> str:
    """CIDv1 of the payload: version 1, codec raw (0x55), sha2-256 (0x12), 32 bytes, in multibase base32.

    Source: https://github.com/multiformats/cid. Any CID library gives the same text.
    """
    cid = b"\x01\x55\x12\x20" + hashlib.sha256(payload).digest()
    return "b" + base64.b32encode(cid).decode().lower().rstrip("=")
