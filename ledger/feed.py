"""The rules of a feed: one author's statements, each naming the one before it. *Pure.*

An entry at `seq` n extends a feed whose last entry is at n - 1 exactly if it names that entry's id as `prev` and has
a greater Lamport time. Two different entries at one position are an *equivocation*: the author signed two histories.
Lamport (1978): a clock is greater than everything its owner has seen, so an entry that depends on another (an
attestation on a discovery) always carries the greater time, whatever the wall clocks say.
"""

from typing import NamedTuple

from ledger.errors import BrokenChain, Equivocation
from ledger.predicates import PROTOCOL, Entry, Feed


class Head(NamedTuple):
    """The last entry of a feed."""

    seq: int
    id: str
    lamport: int


def next_entry(head: Head | None, *, clock: int, challenge: str, author: str, feed: Feed, recorded_at: str) -> Entry:
    """The place after `head`; `clock` is the greatest Lamport time seen in any feed."""
    return Entry(
        protocol=PROTOCOL,
        challenge=challenge,
        author=author,
        feed=feed,
        seq=0 if head is None else head.seq + 1,
        prev=None if head is None else head.id,
        lamport=max(clock, 0 if head is None else head.lamport) + 1,
        recorded_at=recorded_at,
    )


def check_extends(head: Head | None, entry: Entry, entry_id: str, *, present: str | None) -> bool:
    """Whether `entry` is new: True if it extends the feed, False if it is already there.

    `present` is the id of the entry that the ledger holds at this position, if any.
    Raises `Equivocation` for a second entry at a position, `BrokenChain` for a gap, a wrong predecessor or a clock
    that does not advance.
    """
    where = f"{entry.author}/{entry.feed}/{entry.seq}"
    if present is not None:
        if present == entry_id:
            return False
        raise Equivocation(f"{where}: the author signed both {present} and {entry_id}")
    expected = 0 if head is None else head.seq + 1
    if entry.seq != expected:
        raise BrokenChain(f"{where}: the next entry of this feed is {expected}")
    if head is not None and (entry.prev != head.id or entry.lamport <= head.lamport):
        raise BrokenChain(f"{where}: does not follow {head.id}")
    return True
