"""Writing to one's own feeds: place, sign, keep.

The order matters: an entry is durable in the store before anybody else can see it, because an author that forgets
what it published signs a second history, which is what a liar does.
"""

from collections.abc import Callable
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ledger.envelope import Signed, peer_id, seal
from ledger.feed import next_entry
from ledger.statements import Adoption, Attestation, Discovery, Entry, Feed, Reveal, Trial, encode
from ledger.store import Store

OwnBody = Trial | Discovery | Attestation | Adoption | Reveal


def utc_now() -> str:
    """The wall clock in RFC 3339, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Author:
    """The holder of a key, with its two feeds in `store`. The only writer of these feeds anywhere."""

    def __init__(self, store: Store, key: Ed25519PrivateKey, *, now: Callable[[], str] = utc_now) -> None:
        self.id = peer_id(key.public_key())
        self._store, self._key, self._now = store, key, now

    def append(self, feed: Feed, subject: str, body: Callable[[Entry], OwnBody]) -> Signed:
        """State `body(entry)` about the program `subject` (SHA-256): signed and durable when it returns.

        Raises `BadStatement` for what others would refuse.
        """
        entry = next_entry(
            self._store.head(self.id, feed),
            clock=self._store.clock(),
            challenge=self._store.challenge,
            author=self.id,
            feed=feed,
            recorded_at=self._now(),
        )
        signed = seal(self._key, encode(subject, body(entry)))
        self._store.add(signed)
        return signed
