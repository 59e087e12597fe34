"""Screening of gossip messages, once for each, and no more of one author than its share. *Pure.*

A message that was screened is remembered by its digest: whoever wraps it anew, with another number or another libp2p
signature, gets it neither verified nor forwarded again. What was opened is kept until the message is delivered, so that
no signature is verified twice.
"""

import hashlib
from collections import OrderedDict

from gossip import limits
from gossip.rates import Buckets
from gossip.screen import Screened, Verdict, screen
from ledger.envelope import Signed

SEEN = Screened(Verdict.IGNORE, "seen already", None)
TOO_MANY = Screened(Verdict.IGNORE, "more of one author than travels by gossip; sync brings the rest", None)


class Sieve:
    """Screens the messages on the topic of one challenge (digest, hex)."""

    def __init__(self, challenge: str) -> None:
        self._challenge = challenge
        self._seen: OrderedDict[bytes, None] = OrderedDict()  # digests
        self._opened: OrderedDict[bytes, Signed] = OrderedDict()  # by digest; accepted and not yet taken
        self._entries: Buckets[str] = Buckets(limits.AUTHOR_ENTRIES, limits.AUTHORS_REMEMBERED_MAX)
        self._bytes: Buckets[str] = Buckets(limits.AUTHOR_BYTES, limits.AUTHORS_REMEMBERED_MAX)

    def judge(self, message: bytes, now_s: float) -> Screened:
        """See `gossip.screen.screen`. Total; `now_s` is seconds of any clock that never goes back."""
        digest = hashlib.sha256(message).digest()
        if digest in self._seen:
            self._seen.move_to_end(digest)
            return SEEN
        screened = screen(message, self._challenge)
        if screened.signed is not None:
            author = screened.signed.statement.entry.author
            if not (self._entries.take(author, now_s) and self._bytes.take(author, now_s, len(message))):
                return TOO_MANY
            self._opened[digest] = screened.signed
            if len(self._opened) > limits.MESSAGES_PENDING_MAX:
                self._opened.popitem(last=False)
        if screened.verdict is not Verdict.REJECT:  # a reject must count against each peer that sends it
            self._seen[digest] = None
            if len(self._seen) > limits.MESSAGES_REMEMBERED_MAX:
                self._seen.popitem(last=False)
        return screened

    def take(self, message: bytes) -> Signed | None:
        """What an accepted message holds, once; None if it was taken or forgotten meanwhile."""
        return self._opened.pop(hashlib.sha256(message).digest(), None)
