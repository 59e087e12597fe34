"""Writing to one's own feeds: place, sign, keep.

The order matters: an entry is durable in the store before anybody else can see it, because an author that forgets
what it published signs a second history, which is what a liar does.
"""

import hashlib
import time
from collections.abc import Callable
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ledger.checkpoint import Checkpoint as TreeHead
from ledger.checkpoint import origin, sign
from ledger.envelope import Signed, payload_of, peer_id, seal
from ledger.feed import Head, next_entry
from ledger.merkle import Frontier, leaf_hash
from ledger.predicates import Checkpoint, Entry, FeedHead, FeedKind, FeedReset, Revocation, Successor
from ledger.statements import OwnBody, feed_kind, write
from ledger.store import Store


def utc_now() -> str:
    """The wall clock in RFC 3339, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Author:
    """The holder of a key, with its feeds in `store`. The only writer of these feeds anywhere."""

    def __init__(self, store: Store, key: Ed25519PrivateKey, *, now: Callable[[], str] = utc_now) -> None:
        self.id = peer_id(key.public_key())
        self._store, self._key, self._now = store, key, now
        self._key_digest = hashlib.sha256(key.public_key().public_bytes_raw()).hexdigest()
        self._trees: dict[str, Frontier] = {}  # by feed

    def feed(self, kind: FeedKind) -> str:
        """The feed of this kind that is written to now: after a feed reset, that of the latest incarnation."""
        numbers = [name.partition(".")[2] for name in self._store.feeds(self.id) if feed_kind(name) == "main"]
        return f"{kind}.{numbers[-1]}" if numbers and numbers[-1] else kind

    def head(self, kind: FeedKind) -> Head | None:
        """The last entry of the feed that is written to now."""
        return self._store.head(self.id, self.feed(kind))

    def append(self, kind: FeedKind, subject: str, body: Callable[[Entry], OwnBody]) -> Signed:
        """State `body(entry)` about `subject` (SHA-256): signed and durable when it returns.

        Raises `BadStatement` for what others would refuse.
        """
        with self._store.batch():  # from reading the head on: another process with this key has to wait
            return self._append(self.feed(kind), subject, body)

    def _append(self, feed: str, subject: str, body: Callable[[Entry], OwnBody]) -> Signed:
        """Within a batch of the caller."""
        entry = next_entry(
            self._store.head(self.id, feed),
            clock=self._store.clock(),
            challenge=self._store.challenge,
            author=self.id,
            feed=feed,
            recorded_at=self._now(),
        )
        signed = seal(self._key, write(subject, body(entry)))
        self._store.add(signed)
        return signed

    def checkpoint(self, feed: str) -> Signed:
        """Commit to one of one's feeds as it is now, in the main feed. Raises `ValueError` for an empty one."""
        tree = self._trees.get(feed, Frontier())
        for envelope in self._store.envelopes(self.id, feed, tree.size, 2**62):
            tree = tree.append(leaf_hash(payload_of(envelope)))
        self._trees[feed] = tree
        if tree.size == 0:
            raise ValueError(f"{self.id} has no feed {feed}")
        note = sign(self._key, TreeHead(origin(self._store.challenge, self.id, feed), tree.size, tree.root()))
        subject = hashlib.sha256(note.encode()).hexdigest()
        return self.append("main", subject, lambda entry: Checkpoint(entry=entry, feed=feed, note=note))

    def revoke(self, reason: str, successor: Successor | None = None) -> Signed:
        """Declare one's key void from here on; what was stated so far holds."""
        with self._store.batch():  # what another process with this key states meanwhile would not be vouched for
            own = self.feed("main")
            heads = tuple(head for head in self._heads() if head.feed != own)

            def body(entry: Entry) -> Revocation:
                return Revocation(entry=entry, reason=reason, heads=heads, successor=successor)

            return self._append(own, self._key_digest, body)

    def reset(self, reason: str, *, number: int | None = None) -> Signed:
        """Begin new feeds, because the end of the old ones may be lost.

        `number` tells the incarnation from all earlier ones, also from those that were lost: by default it is the time.
        """
        with self._store.batch():
            known = self._heads()

            def body(entry: Entry) -> FeedReset:
                return FeedReset(entry=entry, reason=reason, known=known)

            feed = f"main.{int(time.time()) if number is None else number}"
            return self._append(feed, self._key_digest, body)

    def _heads(self) -> tuple[FeedHead, ...]:
        heads = ((feed, self._store.head(self.id, feed)) for feed in self._store.feeds(self.id))
        return tuple(FeedHead(feed=feed, seq=head.seq, id=head.id) for feed, head in heads if head is not None)
