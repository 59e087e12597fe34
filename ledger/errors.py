"""What can go wrong with a statement or its keeping, by whose fault it is.

LedgerError
├── BadStatement      a peer's (or an author's) violation: malformed, badly signed, out of order
│   ├── BrokenChain   right shape, wrong place: a gap, a fork or a wrong predecessor
│   │   ├── AuthorBanned  its author has signed two histories before
│   │   └── KeyRevoked    its author has revoked the key and does not vouch for it
│   ├── TooNew        of a protocol version that this node cannot hold: nobody's fault
│   └── Equivocation  two different entries signed for one author, feed and position
├── LedgerDamaged     the environment's failure: the database file is not readable as one
├── UnknownId         no entry carries that identifier or prefix
├── UnknownBlob       the bytes of that digest are not here
└── AmbiguousId       several entries carry that prefix
"""


class LedgerError(Exception):
    """Base of everything that this package raises on purpose."""


class BadStatement(LedgerError):
    """An envelope or statement that breaks the rules; its sender or author is at fault."""


class TooNew(BadStatement):
    """An entry of a protocol version newer than the next one: sound, perhaps, and not to be read here."""


class BrokenChain(BadStatement):
    """A well-formed entry that does not extend the feed as this ledger knows it."""


class AuthorBanned(BrokenChain):
    """An entry of an author of whom there is proof that it signed two histories."""


class KeyRevoked(BrokenChain):
    """An entry that its author's revocation does not vouch for."""


class Equivocation(BadStatement):
    """A second, different entry for a position of a feed that is already taken."""


class LedgerDamaged(LedgerError):
    """The ledger file cannot be read; says which file and what to do."""


class UnknownId(LedgerError):
    """No entry matches an identifier or prefix."""


class UnknownBlob(LedgerError):
    """A blob that this ledger does not hold (yet)."""


class AmbiguousId(LedgerError):
    """More than one entry matches a prefix."""
