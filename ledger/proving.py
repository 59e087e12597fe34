"""Proofs about a ledger's entries: which checkpoint covers an entry, and the leaves of its feed's tree."""

from ledger.author import Author
from ledger.envelope import payload_of
from ledger.errors import LedgerError
from ledger.merkle import leaf_hash
from ledger.proof import prove
from ledger.statements import feed_kind
from ledger.store import Store

CHECKPOINT_ENTRIES = 64  # new entries of a feed after which its author commits to it again


class NoCheckpoint(LedgerError):
    """The author has signed no checkpoint that covers the entry, as far as is known here."""


def prove_entry(store: Store, entry_id: str) -> bytes:
    """A proof file (proof.py) for the entry with this full id, by its author's latest checkpoint.

    It shows as well that this checkpoint extends the author's first one, if there are several. Raises `NoCheckpoint`.
    """
    signed = store.entry(entry_id)
    if signed is None:
        raise LedgerError(f"no entry {entry_id}")
    entry = signed.statement.entry
    notes = checkpoints(store, entry.author, entry.feed)
    if not notes or notes[-1][0] <= entry.seq:
        raise NoCheckpoint(
            f"{entry.author} has signed no checkpoint of its feed {entry.feed} after entry {entry.seq} yet. Its node "
            f"does so every {CHECKPOINT_ENTRIES} entries, or now with `waggle ledger checkpoint`."
        )
    size, note = notes[-1]
    envelopes = store.envelopes(entry.author, entry.feed, 0, 2**62)
    leaves = [leaf_hash(payload_of(envelope)) for envelope in envelopes[:size]]
    return prove(signed.envelope, leaves, note, notes[0][1] if len(notes) > 1 else None)


def checkpoints(store: Store, author: str, feed: str) -> list[tuple[int, str]]:
    """Size and note of each checkpoint that an author has stated of a feed, smallest first."""
    sql = "SELECT size, note FROM checkpoints WHERE author = ? AND feed = ? ORDER BY size"
    return [(row[0], row[1]) for row in store.db.execute(sql, (author, feed))]


def feeds_to_commit(store: Store, author: Author, after: int) -> list[str]:
    """The author's feeds that have at least `after` entries more than it has committed to."""
    due = []
    for feed in store.feeds(author.id):
        head = store.head(author.id, feed)
        notes = checkpoints(store, author.id, feed)
        # A checkpoint of the main feed is an entry of it, which alone is no reason for another.
        slack = 1 if notes and feed_kind(feed) == "main" else 0
        if head is not None and head.seq + 1 - (notes[-1][0] if notes else 0) - slack >= after:
            due.append(feed)
    return due
