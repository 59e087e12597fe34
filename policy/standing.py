"""What an author's word is worth here: Beta-Bernoulli counts of what this node itself ran again.

An author has three accounts, one for each kind of word: that it *claims* a gain, that it *confirms* another's, that it
*refutes* one. What a word of a kind is worth follows from what earlier ones of that kind were worth, so whoever refutes
everything earns nothing with refutations that happened to be right once true discoveries are among them. An account is
a Beta(1 + good, 1 + bad); its *weight* is its lower 10 % credible bound, stretched so that a coin weighs 0:

    weight = max(0, 2 * bound - 1)

Hence a stranger weighs exactly 0, a thousand of them weigh 0, and it takes three words that held up to weigh anything.

* Only what this node ran itself moves an account, and of others' verdicts only those that were here before its own was
  stated: repeating a published verdict is free.
* Old words fade by `FADING` with each new one, and a broken word takes a share of what was earned (`UPDATES`), a
  claim that our runs contradict takes it in all three accounts: trust that took twenty words is gone after one or two.
* A ban is for what anybody can prove from signed entries (`Misdeed`) and for nothing else. A copied discovery is not
  provable, so it is worth nothing: neither good nor bad.

It does not know *why* a claim failed: where an effect truly depends on the hardware, an honest author with a different
machine loses standing here. The beta-binomial reputation is that of Jøsang & Ismail (2002), "The Beta Reputation
System". *Pure;* the functions on counts take floats or arrays of them alike.
"""

import random
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Self

import numpy as np
from msgspec import Struct
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv

from ledger.predicates import Verdict

CREDIBLE = 0.1  # the bound lies below the true share of good words with probability 0.9
FADING = 0.98  # of good and bad counts with each new word of the account: about the last 50 count
AUDIT_RATE = 0.1  # of what would be shortened on trust


Counts = NDArray[np.floating]


class Kind(Enum):
    """Kinds of words; the values are the places of the accounts in arrays."""

    CLAIM = 0
    CONFIRM = 1
    REFUTE = 2


class Outcome(Enum):
    """What this node's own runs say about an author's word."""

    HELD = "its claim held up"
    EXAGGERATED = "its claim held up, by less than it could have been by chance"
    FAILED = "its claim did not hold up, and could have been chance"
    CONTRADICTED = "its claim is out of reach of what was measured here"
    RIGHT = "its verdict was that of our own runs"
    WRONG = "its verdict was the opposite of that of our own runs"


class Update(Struct, frozen=True):
    """What an outcome does to an account."""

    good: float = 0.0
    bad: float = 0.0
    keeps: float = 1.0  # share of the good counts that is left
    keeps_everywhere: bool = False  # the same share in the other accounts


UPDATES: Mapping[Outcome, Update] = {
    Outcome.HELD: Update(good=1.0),
    Outcome.EXAGGERATED: Update(good=0.5, bad=0.5),
    Outcome.FAILED: Update(bad=1.0, keeps=0.8),  # one keep of ten is allowed to be false: no betrayal
    Outcome.CONTRADICTED: Update(bad=2.0, keeps=0.1, keeps_everywhere=True),
    Outcome.RIGHT: Update(good=1.0),
    Outcome.WRONG: Update(bad=1.0, keeps=0.5),
}


def updated(good: Counts, bad: Counts, kind: Kind, outcome: Outcome) -> tuple[Counts, Counts]:
    """Counts after one more word, of one author (3,) or of several (3, n), accounts in the order of `Kind`."""
    update = UPDATES[outcome]
    good, bad = good.copy(), bad.copy()
    if update.keeps_everywhere:
        good *= update.keeps
    else:
        good[kind.value] *= update.keeps
    good[kind.value] = good[kind.value] * FADING + update.good
    bad[kind.value] = bad[kind.value] * FADING + update.bad
    return good, bad


def weights(good: ArrayLike, bad: ArrayLike) -> NDArray[np.float64]:
    """Weights of accounts, between 0 and 1, of the shape of the counts."""
    goods, bads = np.broadcast_arrays(np.asarray(good, float), np.asarray(bad, float))
    found = np.zeros(goods.shape)
    worth = goods > bads  # else even the median is at or below one half
    found[worth] = np.maximum(0.0, 2 * betaincinv(1 + goods[worth], 1 + bads[worth], CREDIBLE) - 1)
    return found


def expected(good: Counts, bad: Counts) -> Counts:
    """Expected shares of good words in accounts, of the shape of the counts; one half for a stranger."""
    return (1 + good) / (2 + good + bad)


class Account(Struct, frozen=True):
    """Words of one kind by one author: faded counts."""

    good: float = 0.0
    bad: float = 0.0

    @property
    def weight(self) -> float:
        return float(weights(self.good, self.bad))

    @property
    def mean(self) -> float:
        """Expected share of good words; one half for a stranger."""
        return float(expected(np.asarray(self.good), np.asarray(self.bad)))


class Misdeed(Enum):
    """What anybody can prove from entries that the author signed."""

    EQUIVOCATION = "it signed two different entries for one place of a feed"
    OWN_RECORDS = "its claim contradicts the trials that it signed"


class Ban(Struct, frozen=True):
    misdeed: Misdeed
    proof: tuple[str, ...]  # ids of entries that show it; never empty

    def __post_init__(self) -> None:
        if not self.proof:
            raise ValueError("a ban needs the entries that prove it")


class Standing(Struct, frozen=True):
    """One author as this node sees it."""

    accounts: tuple[Account, Account, Account] = (Account(), Account(), Account())
    checked: int = 0  # words that this node has run again
    ban: Ban | None = None

    def account(self, kind: Kind) -> Account:
        return self.accounts[kind.value]

    def weight(self, kind: Kind) -> float:
        """Between 0 and 1; 0 for strangers and banned authors."""
        return 0.0 if self.ban is not None else self.account(kind).weight

    def after(self, kind: Kind, outcome: Outcome) -> Self:
        """The standing after this node has checked one more word."""
        good, bad = np.array([(account.good, account.bad) for account in self.accounts]).T
        good, bad = updated(good, bad, kind, outcome)
        first, second, third = map(Account, good.tolist(), bad.tolist())
        return type(self)((first, second, third), self.checked + 1, self.ban)

    def banned(self, ban: Ban) -> Self:
        """For good; the first proof is enough."""
        return self if self.ban is not None else type(self)(self.accounts, self.checked, ban)


STRANGER = Standing()


class Word(Struct, frozen=True):
    """One word of an author that this node has run again."""

    author: str
    kind: Kind
    outcome: Outcome


def standings(words: Iterable[Word], bans: Mapping[str, Ban] | None = None) -> dict[str, Standing]:
    """Every author met, from all words in the order in which this node judged them; who is missing is `STRANGER`."""
    found: dict[str, Standing] = {}
    for word in words:
        found[word.author] = found.get(word.author, STRANGER).after(word.kind, word.outcome)
    for author, ban in (bans or {}).items():
        found[author] = found.get(author, STRANGER).banned(ban)
    return found


class Interval(Struct, frozen=True):
    """A 95 % interval of a mean difference, bits per byte, child - parent."""

    low: float
    high: float


def judge_claim(verdict: Verdict, ours: Interval | None, claimed: Interval) -> Outcome | None:
    """What our verdict says about the claim; None where it says nothing.

    Contradicted is a claim that was refuted and whose whole interval lies below ours: no luck of a few seeds does that
    often. Without pairs (`ours` is None: a crash, or limits of this machine) there is nothing to contradict.
    """
    match verdict:
        case "confirmed":
            return Outcome.EXAGGERATED if ours is not None and claimed.high < ours.low else Outcome.HELD
        case "refuted":
            return Outcome.CONTRADICTED if ours is not None and claimed.high < ours.low else Outcome.FAILED
        case "inconclusive":
            return None


def judge_verdict(theirs: Verdict, ours: Verdict) -> tuple[Kind, Outcome] | None:
    """What our verdict says about another's on the same discovery, stated before ours; None where one is open."""
    if "inconclusive" in (theirs, ours):
        return None
    kind = Kind.CONFIRM if theirs == "confirmed" else Kind.REFUTE
    return kind, Outcome.RIGHT if theirs == ours else Outcome.WRONG


def audit_due(rng: random.Random, rate: float = AUDIT_RATE) -> bool:
    """Whether a claim that trust would shorten is run in full instead, so that trust is put to the test."""
    return rng.random() < rate
