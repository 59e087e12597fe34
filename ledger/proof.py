"""A file that proves, to anybody and with nothing else at hand, that an author put an entry into a feed. *Pure.*

It holds the entry's envelope, a checkpoint that the author signed, and the path between them; and, where one is asked
for, an older checkpoint with the path that shows the newer to extend it.

What a proof does not say: that the entry's claim is true; that this is the author or the challenge that you care about
(both are in the result: compare them); that the author's key has not been revoked; that the author has shown everybody
the same history. For the last, hold the checkpoint against one that you got another way: of one origin, equal sizes
must have equal roots, and different sizes a consistency proof.

The form is JSON because people keep such files, read them and pass them through tools. White space, the order of
fields, the escapes of strings and signatures by others under a checkpoint mean nothing here; every other byte counts.
"""

import base64
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from ledger.checkpoint import Checkpoint, decode_base64, open_checkpoint, origin
from ledger.envelope import Signed, open_envelope, payload_of, public_key
from ledger.errors import BadStatement
from ledger.merkle import (
    PATH_NODES_MAX,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    verify_consistency,
    verify_inclusion,
)
from ledger.predicates import Count, Entry, Sha256

PROOF_BYTES_MAX = 512 * 1024  # an envelope, two notes and two paths at their largest take about 400 KiB

_Path = Annotated[tuple[Sha256, ...], Meta(max_length=PATH_NODES_MAX)]


class _Earlier(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    checkpoint: str  # a signed note
    consistency: _Path


class _Proof(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    format: Literal["urn:waggle:proof:v1"]
    envelope: str  # base64 of the exact bytes
    index: Count  # of the leaf: the entry's `seq`, for tools that do not know our statements
    inclusion: _Path
    checkpoint: str  # a signed note
    earlier: _Earlier | None = None


class Checked(NamedTuple):
    """What a proof that holds has shown."""

    signed: Signed  # the entry, with its id
    checkpoint: Checkpoint  # of the tree that the entry is in
    earlier: Checkpoint | None  # of a tree that the other extends, if the proof has one


def prove(envelope: bytes, leaf_hashes: Sequence[bytes], checkpoint: str, earlier: str | None = None) -> bytes:
    """The proof that the entry in `envelope` is in the tree of its author's `checkpoint`, a signed note.

    `leaf_hashes` are of the entry's feed from its start, and may go on past the checkpoint. With `earlier`, another
    checkpoint of that feed, the proof also shows that the tree extends that one. Takes one pass over the leaves for
    each of the two. Raises `BadStatement` for what cannot be proved, saying what is missing.
    """
    entry = open_envelope(envelope).statement.entry
    newer = _open_checkpoint(checkpoint, entry)
    if entry.seq >= newer.size:
        raise BadStatement(
            f"the entry is at {entry.seq} of its feed and the checkpoint covers the first {newer.size}: "
            "use a newer checkpoint"
        )
    if len(leaf_hashes) < newer.size:
        raise BadStatement(
            f"the checkpoint covers {newer.size} entries of the feed, of which {len(leaf_hashes)} are here: sync first"
        )
    leaves = leaf_hashes[: newer.size]
    extends = None
    if earlier is not None:
        older = _open_checkpoint(earlier, entry)
        if older.size > newer.size:
            raise BadStatement(f"the earlier checkpoint covers {older.size} entries, the other only {newer.size}")
        extends = _Earlier(checkpoint=earlier, consistency=_hex(consistency_proof(leaves, older.size)))
    proof = _Proof(
        format="urn:waggle:proof:v1",
        envelope=base64.b64encode(envelope).decode(),
        index=entry.seq,
        inclusion=_hex(inclusion_proof(leaves, entry.seq)),
        checkpoint=checkpoint,
        earlier=extends,
    )
    data = msgspec.json.format(msgspec.json.encode(proof), indent=2) + b"\n"
    _check(data)
    return data


def check(data: bytes) -> Checked:
    """Check a proof file; needs nothing but its bytes. Raises `BadStatement`, saying what is wrong and what to do.

    1. It is of bounded size and of the one known form.
    2. The envelope holds a statement signed by the author that it names.
    3. The checkpoint is signed by the same author, and of the feed and challenge that the statement names.
    4. The index is the statement's position in its feed.
    5. The path leads from the statement to the checkpoint's root.
    6. An earlier checkpoint passes 3, and the path leads from its root to the other's.
    """
    try:
        return _check(data)
    except BadStatement as error:
        # It may quote the file, and be printed on a terminal.
        reason = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in str(error))
        raise BadStatement(
            f"this proves nothing: {reason}. Fetch the file again, or ask for a new one (waggle ledger prove)"
        ) from error


def _check(data: bytes) -> Checked:
    # 1
    proof = _decode(data)
    # 2
    signed = open_envelope(decode_base64(proof.envelope))
    entry = signed.statement.entry
    # 3
    newer = _open_checkpoint(proof.checkpoint, entry)
    # 4
    if proof.index != entry.seq:
        raise BadStatement(f"the proof is about position {proof.index} of the feed, the entry stands at {entry.seq}")
    # 5
    verify_inclusion(
        _bytes(proof.inclusion),
        leaf=leaf_hash(payload_of(signed.envelope)),
        index=proof.index,
        size=newer.size,
        root_hash=newer.root,
    )
    # 6
    if proof.earlier is None:
        return Checked(signed, newer, None)
    older = _open_checkpoint(proof.earlier.checkpoint, entry)
    verify_consistency(
        _bytes(proof.earlier.consistency),
        old_size=older.size,
        old_root=older.root,
        new_size=newer.size,
        new_root=newer.root,
    )
    return Checked(signed, newer, older)


def _open_checkpoint(note: str, entry: Entry) -> Checkpoint:
    """A checkpoint of the feed that `entry` is in, signed by its author."""
    checkpoint = open_checkpoint(note, public_key(entry.author))
    if checkpoint.origin != origin(entry.challenge, entry.author, entry.feed):
        raise BadStatement("the checkpoint is of another feed or challenge than the entry")
    return checkpoint


def _decode(data: bytes) -> _Proof:
    if len(data) > PROOF_BYTES_MAX:
        raise BadStatement(f"a proof of {len(data)} bytes is over the limit of {PROOF_BYTES_MAX}")
    try:
        # Not msgspec's reader: of two fields with one name it takes the last and others the first, so that one file
        # would prove different things to different people.
        return msgspec.convert(json.loads(data.decode(), object_pairs_hook=_distinct), _Proof)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadStatement(f"malformed proof: {error}") from error


def _distinct(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(fields)
    if len(found) < len(fields):
        raise ValueError("a field occurs twice")
    return found


def _hex(path: list[bytes]) -> tuple[str, ...]:
    return tuple(each.hex() for each in path)


def _bytes(path: tuple[str, ...]) -> list[bytes]:
    return [bytes.fromhex(each) for each in path]
