"""What a ledger holds, in the order in which two ledgers are compared, with digests of any range of it. *Pure.*

Every feed is one item, named by a key: `m<author>/<feed>` for main feeds, `t<author>/<feed>` for trials feeds. So all
main feeds come before all trials feeds. An item stands for the feed's head and with it, by the chain of hashes, for
the whole feed.

An author of whom there is proof that it signed two histories has other items: `m<author>/`, `t<author>/` and
`x<author>/`. Ledgers rightly hold different parts of its feeds, each what it heard before the proof, and will never
agree on them; they agree on the ban. `x` items stand for the proofs.

The digest of a range hashes its items one after the other instead of adding them up: sums of hashes have collisions
that can be computed (Wagner 2002, "A Generalized Birthday Problem"), and a pass over the items of 100,000 feeds takes
milliseconds.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping
from heapq import merge
from itertools import pairwise
from typing import Annotated, NamedTuple

from msgspec import Meta

from ledger.feed import Head
from ledger.statements import feed_kind

KEY_CHARS_MAX = 80  # a key has up to 73: kind, author, slash and feed; what `after` gives has one more
DIGEST_BYTES = 16  # a collision takes 2^64 hashes to make, and hides one difference until the next change near it
MAIN, TRIALS, PROOFS = "m", "t", "x"  # how keys begin

_LEAF_BYTES = hashlib.sha256().digest_size

FeedName = tuple[str, str]
"""Author (peer id) and feed (`main` or `trials`, perhaps with a number)."""

Key = Annotated[str, Meta(max_length=KEY_CHARS_MAX, pattern="^[!-~]*\\Z")]
Digest = Annotated[bytes, Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]


class Range(NamedTuple):
    """The keys from `start` on and before `end`; both may be any text, such as the beginning of a key."""

    start: Key
    end: Key

    def holds(self, key: str) -> bool:
        return self.start <= key < self.end


WHOLE = Range("", "~")


def feed_key(author: str, feed: str) -> str:
    return f"{MAIN if feed_kind(feed) == 'main' else TRIALS}{author}/{feed}"


def proof_key(author: str) -> str:
    return f"{PROOFS}{author}/"


def after(key: str) -> str:
    """A text that is greater than `key` and less than every key after it."""
    return key + "!"


class Item(NamedTuple):
    """A feed with its head; or the ban of its author: then `feed` is empty, and there is no head."""

    kind: str  # MAIN, TRIALS or PROOFS
    author: str
    feed: str
    head: Head | None


class Summary:
    """The items of one ledger. `replace` keeps it in step; nothing else changes it."""

    def __init__(self, heads: Mapping[FeedName, Head] | None = None, banned: Collection[str] = ()) -> None:
        self._feeds: dict[str, dict[str, Head]] = {}  # author → feed → head, banned authors included
        for (author, feed), head in (heads or {}).items():
            self._feeds.setdefault(author, {})[feed] = head
        self._banned = set(banned)
        leaves: dict[str, bytes] = {}
        for author in self._feeds.keys() | self._banned:
            leaves |= self._leaves_of(author)
        self._keys = sorted(leaves)
        self._leaves = bytearray().join(leaves[key] for key in self._keys)
        self._disbelieved = sorted(key for author in self._banned for key in self._keys_of(author))
        self._whole: bytes | None = None

    def replace(self, author: str, feeds: Mapping[str, Head], *, banned: bool) -> None:
        """State anew what the ledger holds of an author. Costs a move of what comes after it, where keys are new."""
        before = self._leaves_of(author)
        if author in self._banned:
            gone = set(self._keys_of(author))
            self._disbelieved = [key for key in self._disbelieved if key not in gone]
        self._feeds[author] = dict(feeds)
        (self._banned.add if banned else self._banned.discard)(author)
        if banned:
            self._disbelieved = sorted(self._disbelieved + self._keys_of(author))
        now = self._leaves_of(author)
        for key in before.keys() - now.keys():
            place = bisect_left(self._keys, key)
            del self._keys[place]
            del self._leaves[place * _LEAF_BYTES : (place + 1) * _LEAF_BYTES]
        for key, leaf in now.items():
            place = bisect_left(self._keys, key)
            there = place < len(self._keys) and self._keys[place] == key
            if not there:
                self._keys.insert(place, key)
            self._leaves[place * _LEAF_BYTES : (place + there) * _LEAF_BYTES] = leaf
        self._whole = None

    def __len__(self) -> int:
        return len(self._keys)

    def whole(self) -> bytes:
        """The digest of everything: equal exactly if two ledgers hold the same feeds and know of the same bans."""
        if self._whole is None:
            self._whole = self.digest(WHOLE)
        return self._whole

    def digest(self, of: Range) -> bytes:
        low, high = self._span(of)
        return hashlib.sha256(memoryview(self._leaves)[low * _LEAF_BYTES : high * _LEAF_BYTES]).digest()[:DIGEST_BYTES]

    def count(self, of: Range) -> int:
        low, high = self._span(of)
        return max(0, high - low)

    def items(self, of: Range) -> Iterator[Item]:
        """In order of their keys."""
        low, high = self._span(of)
        return map(self._item, self._keys[low:high])

    def held(self, of: Range) -> Iterator[Item]:
        """As `items`, and in their order among them the feeds of banned authors, which no digest takes in."""
        low, high = self._span(of)
        first, end = bisect_left(self._disbelieved, of.start), bisect_left(self._disbelieved, of.end)
        return map(self._item, merge(self._keys[low:high], self._disbelieved[first:end]))

    def split(self, whole: Range, parts: int) -> list[Range]:
        """At most `parts` ranges that make up `whole`, with as many items each, give or take one.

        They meet at the shortest texts that part their items, as the separators of a prefix B-tree do.
        """
        low, high = self._span(whole)
        places = sorted({low + (high - low) * part // parts for part in range(1, parts)} - {low})
        cuts = [whole.start, *(self._separator(place) for place in places), whole.end]
        return [Range(*pair) for pair in pairwise(cuts)]

    def beginning(self, whole: Range, items: int) -> Range:
        """The part of a range up to and without its item number `items`; all of it if it has no more."""
        low, high = self._span(whole)
        return whole if high - low <= items else Range(whole.start, self._separator(low + items))

    def _separator(self, place: int) -> str:
        before, key = self._keys[place - 1], self._keys[place]
        common = next(i for i, pair in enumerate(zip(before + " ", key, strict=False)) if pair[0] != pair[1])
        return key[: common + 1]

    def _span(self, of: Range) -> tuple[int, int]:
        return bisect_left(self._keys, of.start), bisect_left(self._keys, of.end)

    def _item(self, key: str) -> Item:
        author, _, feed = key[1:].partition("/")
        return Item(key[0], author, feed, self._feeds[author][feed] if feed else None)

    def _keys_of(self, author: str) -> list[str]:
        return [feed_key(author, feed) for feed in self._feeds.get(author, {})]

    def _leaves_of(self, author: str) -> dict[str, bytes]:
        if author in self._banned:
            lines = {f"{kind}{author}/": "banned" for kind in (MAIN, TRIALS, PROOFS)}
        else:
            feeds = self._feeds.get(author, {})
            lines = {feed_key(author, feed): f"{head.seq}/{head.id}" for feed, head in feeds.items()}
        return {key: hashlib.sha256(f"{key}/{line}".encode()).digest() for key, line in lines.items()}
