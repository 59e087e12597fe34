"""The nouns of the ledger: what a node can say, as the typed predicate of an in-toto statement.

Each type of statement says what its *subject* is, the thing that it is about, which stands outside it; and its
*author*: who means it, which readers judge and no decoder can. All records are strict: unknown fields, wrong types,
numbers out of range and non-finite floats are refused. docs/statements.md is made from the docstrings and the comments
beside the fields, with the JSON Schema and an example of each type. *Pure.*
"""

import functools
import math
from typing import Annotated, Literal

import msgspec.inspect
from msgspec import Meta, Struct

PROTOCOL = 1
"""Version of `Entry` and of the rules of a feed. A type of statement has a version of its own, in its URN."""

PROGRAM_BYTES_MAX = 64 * 1024  # of source
PAIRS_MAX = 64  # of one comparison
EVIDENCE_MAX = 64  # entries that a statement may name as its reason
FEEDS_MAX = 32  # of one author, over all incarnations
FEED_ENTRIES_MAX = 1_000_000  # a trial each half a minute for a year; by feed: the same in any order of arrival
CLAIM_TICKS_MAX = 10_000  # of the Lamport clock, for which a claim counts at most
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

Feed = Annotated[str, Meta(pattern="^(main|trials)(\\.[1-9][0-9]{0,11})?\\Z")]
"""`main` or `trials`; with a number, those of a later incarnation of an author who lost the earlier ones."""

FeedKind = Literal["main", "trials"]
Status = Literal["ok", "crash", "timeout", "over_budget", "out_of_memory", "void", "refused"]
Verdict = Literal["confirmed", "refuted", "inconclusive"]
GateState = Literal["RUN", "THROTTLE", "FREEZE", "STOP"]
LessonRung = Literal["retired", "prose", "warning", "static rule", "fingerprint block", "refusal"]
Text = Annotated[str, Meta(max_length=8000)]
Evidence = Annotated[tuple[EntryId, ...], Meta(max_length=EVIDENCE_MAX)]
Base64Signature = Annotated[str, Meta(pattern="^[A-Za-z0-9+/]{86}==\\Z")]  # of 64 bytes


class Record(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of everything inside a statement: immutable, strict."""

    def __post_init__(self) -> None:
        for name in _with_floats(type(self)):
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, float) and not math.isfinite(number):
                    raise ValueError(f"{name} is not a finite number")


@functools.cache
def _with_floats(record: type[Record]) -> tuple[str, ...]:
    """The fields that may hold floats: to look at every value of every record took a fifth of reading an entry."""
    known = msgspec.inspect.type_info(record)
    assert isinstance(known, msgspec.inspect.StructType), "records are structs"
    return tuple(field.name for field in known.fields if _has_float(field.type))


def _has_float(kind: msgspec.inspect.Type) -> bool:
    match kind:
        case msgspec.inspect.FloatType():
            return True
        case msgspec.inspect.UnionType(types=types):
            return any(map(_has_float, types))
        case msgspec.inspect.VarTupleType(item_type=item):
            return _has_float(item)
        case _:
            return False


class Entry(Record, frozen=True, kw_only=True):
    """Where a statement stands: which swarm, whose feed, at which position, after what."""

    protocol: Annotated[int, Meta(ge=1, le=PROTOCOL + 1)]  # one newer is kept, and its body not read
    challenge: Sha256  # digest of what the swarm works on
    author: PeerId  # who signs it
    feed: Feed
    seq: Count  # 0 for the first entry of a feed
    prev: EntryId | None  # id of the entry at seq - 1; None exactly at seq 0
    lamport: Count  # greater than that of every entry that its author had seen
    recorded_at: Name  # RFC 3339, information only


class Hardware(Record, frozen=True, kw_only=True):
    """What a trial ran on; scores of different hardware are comparable only as differences."""

    machine: Name  # platform.machine(), e.g. x86_64
    cpu: Line
    cores: Count
    system: Line
    python: Name
    torch: Name
    gpu: Line | None = None  # models and driver, where the track's device is a GPU


class Audit(Record, frozen=True, kw_only=True):
    """What the prefix-only audit of an `ok` trial saw: costs of targets, from prefixes minus as they were scored."""

    cuts: Count
    targeted: Count  # of `cuts`; the others are uniform
    tolerance_bits: Annotated[float, Meta(ge=0)]  # of one difference
    largest_bits: Annotated[float, Meta(ge=0)]  # of all differences, without sign
    mean_bits: Bits  # over the uniform cuts; positive where seeing the whole row helped


class Measurement(Record, frozen=True, kw_only=True):
    """What one trial gave. Only status `ok` carries a score: a failure is never a number."""

    status: Status
    val_bpb: Annotated[float, Meta(ge=0, le=BPB_MAX)] | None  # bits per byte of validation text; lower is better
    evaluated_bytes: Count  # of validation text
    budget_used_s: Seconds  # in the track's unit: CPU seconds of the whole process tree, or wall seconds
    wall_s: Seconds  # the whole trial, start-up and evaluation included
    peak_memory_bytes: Count  # resident, summed over the training sandbox's process tree
    weights_bytes: Count
    weights_sha256: Sha256 | None  # of the weights as the sandbox gave them back
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


class Comparison(Record, frozen=True, kw_only=True):
    """Paired trials of two programs: same seeds, split, budget and machine."""

    split: SplitName
    seeds: Annotated[tuple[Seed, ...], Meta(max_length=PAIRS_MAX)]  # (n,)
    parent_trials: tuple[EntryId, ...]  # (n,)
    child_trials: tuple[EntryId, ...]  # (n,)
    differences: tuple[Bits, ...]  # (n,), child - parent; negative is better
    mean: Bits
    low: Bits  # lower end of the 95 % interval of the mean
    high: Bits  # its upper end
    p_value: Annotated[float, Meta(ge=0, le=1)]  # one-sided, of "the child is no better"
    noise: Annotated[float, Meta(ge=0, le=1000 * BPB_MAX)]  # standard deviation of a difference, from A/A trials

    def __post_init__(self) -> None:
        super().__post_init__()
        if not len(self.seeds) == len(self.parent_trials) == len(self.child_trials) == len(self.differences):
            raise ValueError("a comparison has as many parent trials, child trials and differences as seeds")
        if len(self.seeds) != len(set(self.seeds)):
            raise ValueError("a comparison names a seed twice")


class Trial(Record, frozen=True, kw_only=True):
    """One training and evaluation of a program, whatever came of it.

    Subject: the program.
    Author: whoever ran it.
    """

    entry: Entry
    track: Name
    seed: Seed
    split: SplitName
    result: Measurement


class Discovery(Record, frozen=True, kw_only=True):
    """A claim that a program beats its parent, with the comparison behind it.

    Subject: the child program.
    Author: whoever compared the two, in trials of its own.
    """

    entry: Entry
    track: Name
    parent: Sha256  # the program that it was made from and compared with
    hypothesis: Line  # why the child should be better
    proposer: Name  # who or what proposed the change
    comparison: Comparison  # of parent and child
    source: EntryId | None = None  # the discovery in another track whose change this is, where it came by transfer


class Attestation(Record, frozen=True, kw_only=True):
    """A verdict on somebody's discovery, after a comparison of the author's own.

    Subject: the discovery's program.
    Author: anybody but the discovery's, whose own verdict on it counts for nothing.
    """

    entry: Entry
    discovery: EntryId
    verdict: Verdict
    reason: Line
    comparison: Comparison | None  # None where no pair could be completed; such a verdict is never `confirmed`


class Adoption(Record, frozen=True, kw_only=True):
    """The author now builds on a program: it is the author's incumbent.

    Subject: the program.
    Author: whoever builds on it.
    """

    entry: Entry
    track: Name
    previous: Sha256 | None  # the incumbent before; None for the baseline at the start
    discovery: EntryId | None  # None for the baseline
    reason: Line
    comparison: Comparison | None  # with the incumbent before, where that was not the discovery's parent


class Reveal(Record, frozen=True, kw_only=True):
    """A private split is no longer used, and this is the salt behind its name.

    Whoever has the corpus can then make the split, and run again what the author's verdicts on it rest on.

    Subject: the salt. Its digest is what the name of the split, `private:` and a SHA-256, commits to.
    Author: whoever used the split. The decoder checks that salt and digest belong together.
    """

    entry: Entry
    salt: Annotated[str, Meta(pattern="^([0-9a-f]{2}){1,64}\\Z")]  # hex


class Retraction(Record, frozen=True, kw_only=True):
    """The author no longer believes a discovery, its own or one that it confirmed.

    Its own is then retracted, and what was built on its program is marked with it; of another's, only the confirmation
    is taken back.

    Subject: the discovery's program.
    Author: the discovery's, or one who confirmed it. Another's counts for nothing.
    """

    entry: Entry
    discovery: EntryId
    reason: Line
    comparison: Comparison | None  # of the author's own, where one led to this
    evidence: Evidence  # attestations and others that led to it


class Claim(Record, frozen=True, kw_only=True):
    """The author is about to try a program: others may try something else first. It promises nothing.

    Subject: the program.
    Author: whoever is about to try it.
    """

    entry: Entry
    track: Name
    parent: Sha256  # the program that it is made from
    hypothesis: Line  # why it should be better
    proposer: Name = ""  # who or what proposed the change
    operator: Name = ""  # the kind of change, as the proposer calls it, e.g. `constant:RATE` or `recipe:qk-norm`
    fingerprint: Sha256 | None = None  # of the change, normalised: names and kinds of what changed, without literals
    ticks: Annotated[int, Meta(ge=1, le=CLAIM_TICKS_MAX)] = 100  # of the Lamport clock after its own; then it is over
    source: EntryId | None = None  # the discovery in another track whose change is tried here


class Skill(Record, frozen=True, kw_only=True):
    """A lesson from results, for proposers. It is data and no instruction.

    Subject: the text.
    Author: whoever learnt it. The decoder checks that text and digest belong together.
    """

    entry: Entry
    title: Line
    text: Text
    replaces: EntryId | None  # an earlier skill of the author
    retired: bool  # it has stopped to help
    evidence: Evidence  # discoveries, attestations and trials from which it was learnt


class Lesson(Record, frozen=True, kw_only=True):
    """What failures taught: a kind of change that fails in one way. It is data and no instruction.

    Subject: the change in words. The decoder checks that words and digest belong together.
    Author: whoever saw the failures.
    """

    entry: Entry
    track: Name
    fingerprint: Sha256  # of the change, normalised: names and kinds of what changed, without its literals
    failure: Name  # its kind: a status, or one with a class, as `crash:RuntimeError` or `discarded:worse`
    rung: LessonRung  # what the author's node does about it
    tried: Count  # such changes that the author has tried
    failed: Count  # of those, in this way
    change: Line
    replaces: EntryId | None  # the author's earlier statement about the same
    evidence: Evidence  # trials and others in which it was seen

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.failed > self.tried:
            raise ValueError("more failures than tries")


class Gate(Record, frozen=True, kw_only=True):
    """The state of the author's node has changed.

    Subject: the constitution whose rules say so.
    Author: the node itself.
    """

    entry: Entry
    previous: GateState | None  # None at the first start
    state: GateState
    commanded: bool  # by a human; else by a rule
    reason: Line


class Amendment(Record, frozen=True, kw_only=True):
    """A change of the constitution, proposed or ratified.

    Subject: the constitution as it would be.
    Author: a maintainer, one whose key the challenge names.
    """

    entry: Entry
    previous: Sha256  # the constitution that it changes
    proposal: EntryId | None  # None: this proposes it; else it ratifies that proposal
    reason: Line


class Checkpoint(Record, frozen=True, kw_only=True):
    """The author commits to one of its feeds, as it is at some length: to its Merkle root.

    The tree is that of RFC 9162, and its leaves are the payloads of the feed's entries.

    Subject: the note.
    Author: the feed's. The envelope check has the note's signature, origin and form checked; whether its root is that
    of the feed is seen where the feed is.
    """

    entry: Entry
    feed: Feed  # which one it commits to
    note: Annotated[str, Meta(max_length=1000)]  # a signed note in the form of a C2SP tlog-checkpoint


class FeedHead(Record, frozen=True, kw_only=True):
    """An entry that was the last of a feed."""

    feed: Feed
    seq: Count
    id: EntryId


class Successor(Record, frozen=True, kw_only=True):
    """Who goes on after a revoked key, with its consent.

    The consent is its Ed25519 signature of three lines, `waggle successor v1`, the digest of the challenge and the
    peer id of the revoked key, each ended by a newline.
    """

    peer: PeerId
    consent: Base64Signature  # of 64 bytes


class Revocation(Record, frozen=True, kw_only=True):
    """The author's key is to be believed no more.

    Of the feed that this stands in, what stands before it holds. Of the author's others, what `heads` names and what
    stands before that; nothing of a feed that it does not name. Everything else by this key is refused.

    Subject: the key (32 bytes).
    Author: the key that is revoked. The envelope check verifies the consent of the successor.
    """

    entry: Entry
    reason: Line
    heads: Annotated[tuple[FeedHead, ...], Meta(max_length=FEEDS_MAX)]  # the last that holds of each other feed
    successor: Successor | None


class FeedReset(Record, frozen=True, kw_only=True):
    """The author has lost its ledger, or part of it, but not its key, and begins anew.

    It is the first entry of a numbered main feed. Going on in the old feeds would sign second entries at places that
    others have; what stands in them still holds.

    Subject: the key (32 bytes).
    Author: the key.
    """

    entry: Entry
    reason: Line
    known: Annotated[tuple[FeedHead, ...], Meta(max_length=FEEDS_MAX)]  # the last that is left of each earlier feed
