"""Anti-entropy: how two ledgers become equal, as decisions over plain values. *Pure.*

Gossip is a hint, the feeds are the truth: late joiners, restarts, partitions and lost messages all heal here. One side
asks, the other answers; each side asks for itself, so equality needs a session in each direction.

    asks                                        answers
    digest of all heads, window of next seqs →  same digest: `same`
                                             ←  else a page of entries from those seqs on, oldest first in each feed
    checks the page, stores it, asks again   →  … until nothing is lacking

An asker with more than `HEADS_PER_REQUEST_MAX` feeds asks window by window: a window is a range of feed names and says
everything about the asker's feeds in that range, so a feed that it does not name is wanted from the start.

What a liar can do: heads that are too high get it an empty page; a page that does not advance the asked feeds is
refused, so every further request has made progress; forged entries fail their signature, forks do not extend the feed.
This module knows neither streams nor storage: reading entries is an argument.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from gossip.errors import PeerFault
from ledger.envelope import Signed, open_envelope
from ledger.errors import BadStatement
from ledger.feed import Head
from ledger.statements import feed_kind

FeedName = tuple[str, str]
"""Author (peer id) and feed (`main` or `trials`, perhaps with a number)."""

SEQ_NONE_WANTED = 2**53 - 1  # a next seq that no feed reaches: "send nothing of this feed"

Read = Callable[[str, str, int, int], Sequence[bytes]]
"""author, feed, first seq, bytes_max → envelopes, oldest first, at least one if there is any (Store.envelopes)."""


class Window(NamedTuple):
    """The asker's feeds with names in (after, upto], and the seq that it wants next of each."""

    after: FeedName | None  # None: from the first name
    upto: FeedName | None  # None: to the last
    next_seq: Mapping[FeedName, int]

    def holds(self, name: FeedName) -> bool:
        return (self.after is None or name > self.after) and (self.upto is None or name <= self.upto)


class Page(NamedTuple):
    """Envelopes, oldest first within each feed, and whether more are lacking after them."""

    envelopes: tuple[bytes, ...]
    more: bool


def digest(heads: Mapping[FeedName, Head]) -> str:
    """SHA-256 (hex) over the sorted lines `author/feed/seq/id`: equal exactly if the ledgers hold the same feeds."""
    lines = sorted(f"{author}/{feed}/{head.seq}/{head.id}\n" for (author, feed), head in heads.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def next_window(
    heads: Mapping[FeedName, Head], unwanted: Iterable[FeedName], after: FeedName | None, feeds_max: int
) -> Window:
    """What to ask about next: our first `feeds_max` feeds with names after `after`, and all that is between them.

    `unwanted` are feeds of which nothing is to be sent: those that could not be extended in this session. The last
    window has no `upto`; after any other, the next one starts where it ended.
    """
    next_seq = {name: head.seq + 1 for name, head in heads.items()} | dict.fromkeys(unwanted, SEQ_NONE_WANTED)
    names = sorted(name for name in next_seq if after is None or name > after)
    asked = names[:feeds_max]
    return Window(after, asked[-1] if len(names) > feeds_max else None, {name: next_seq[name] for name in asked})


def lacking(heads: Mapping[FeedName, Head], window: Window) -> list[tuple[FeedName, int]]:
    """Which of our feeds the asker lacks entries of, and from which seq on.

    Main feeds come first: they are small, and what they say of trials and programs can be fetched meanwhile.
    """
    found = [
        (name, window.next_seq.get(name, 0))
        for name, head in heads.items()
        if window.holds(name) and window.next_seq.get(name, 0) <= head.seq
    ]
    return sorted(found, key=lambda item: (feed_kind(item[0][1]) != "main", item[0]))


def next_page(heads: Mapping[FeedName, Head], window: Window, read: Read, bytes_max: int) -> Page:
    """The next entries that the asker lacks: at most `bytes_max` bytes of envelopes, but at least one entry."""
    envelopes: list[bytes] = []
    used = 0
    for (author, feed), seq in lacking(heads, window):
        run = read(author, feed, seq, max(1, bytes_max - used))
        size = sum(map(len, run))
        if envelopes and used + size > bytes_max:  # `read` gives one entry even where it does not fit
            return Page(tuple(envelopes), more=True)
        envelopes.extend(run)
        used += size
        if seq + len(run) <= heads[author, feed].seq:
            return Page(tuple(envelopes), more=True)
    return Page(tuple(envelopes), more=False)


def checked(envelopes: Iterable[bytes], window: Window, challenge: str) -> Iterator[Signed]:
    """Yield the entries of a received page one by one, each after its checks. Raises `PeerFault` at the first bad one.

    What was yielded before a fault is sound: its author signed it, whoever passed it on.

    1. The envelope is signed by its author and well formed.
    2. It belongs to this challenge.
    3. It was asked for: its feed lies in the window and its seq is exactly the next of that feed.
    """
    expected = dict(window.next_seq)
    for data in envelopes:
        # 1
        try:
            signed = open_envelope(data)
        except BadStatement as error:
            raise PeerFault(f"sent a bad entry: {error}") from error
        # 2
        entry = signed.statement.entry
        if entry.challenge != challenge:
            raise PeerFault(f"sent an entry of challenge {entry.challenge}")
        # 3
        name = (entry.author, entry.feed)
        wanted = expected.get(name, 0)
        if not window.holds(name) or entry.seq != wanted:
            raise PeerFault(f"sent {entry.author}/{entry.feed}/{entry.seq} where {wanted} was asked for")
        expected[name] = entry.seq + 1
        yield signed


def may_ask_again(page: Page) -> bool:
    """Whether another request can make progress. Raises `PeerFault` for an empty page that says that there is more."""
    if page.more and not page.envelopes:
        raise PeerFault("announced more entries with an empty page")
    return page.more
