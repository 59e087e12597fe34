"""What proposals cost, and how much of it a day may see. *Pure*: the time is an argument, and nothing is stored here.

A request is *held* at the most that it can cost before it is sent, and *charged* with what it did cost afterwards, so
that requests under way cannot pass a cap together. Days are UTC days, as the gate's are. Where a price or an amount is
not known, the dearest one counts and the charge says that it is not exact: a cap errs towards spending too little.

Not counted: surcharges for a place of inference, faster service, or tools that run at the provider's (none are asked
for). The prices are those of PRICES_SOURCE on PRICES_DATE; an operator's own table goes before them.
"""

import re
import threading
from collections.abc import Iterable, Mapping
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from trainer.proposers.proposal import ProposerError

DAY_S = 86400
TOKENS_PER_PRICE = 1_000_000

_Count = Annotated[int, Meta(ge=0, le=2**53)]
_Dollars = Annotated[float, Meta(ge=0, le=1e6)]


class ProposalFailed(ProposerError):
    """An attempt that gave no proposal, and what it took all the same."""

    def __init__(self, message: str, *, seconds: float = 0.0, usd: float = 0.0) -> None:
        super().__init__(message)
        self.seconds, self.usd = seconds, usd


class BudgetExhausted(ProposalFailed):
    """The day's cap leaves no room for another request; the message says which cap and until when."""


class Price(Struct, frozen=True, kw_only=True):
    """US dollars per million tokens."""

    input: _Dollars
    output: _Dollars
    cache_write: _Dollars  # kept for five minutes
    cache_read: _Dollars


class Tariff(Struct, frozen=True, kw_only=True):
    """The price of a model; for prompts of more than `long_above` tokens, cached ones included, the long one."""

    price: Price
    long: Price | None = None
    long_above: _Count = 0


class Tokens(Struct, frozen=True, kw_only=True):
    """What a request used, in the four kinds that are paid differently."""

    input: _Count = 0  # neither read from the cache nor written to it
    output: _Count = 0
    cache_write: _Count = 0
    cache_read: _Count = 0

    @property
    def prompt(self) -> int:
        return self.input + self.cache_write + self.cache_read

    @property
    def total(self) -> int:
        return self.prompt + self.output


class Charge(Struct, frozen=True, kw_only=True):
    """What one attempt at a proposal took."""

    at: float  # seconds since 1970, UTC
    model: Annotated[str, Meta(max_length=200)]  # or what else was paid
    tokens: Tokens
    usd: _Dollars
    exact: bool  # False: an upper bound, as a price or an amount is not known


class Caps(Struct, frozen=True, kw_only=True):
    """What a UTC day may see."""

    usd_per_day: Annotated[float, Meta(gt=0, le=1e6)] = 5.0
    tokens_per_day: Annotated[int, Meta(gt=0, le=2**53)] = 10_000_000


class Today(Struct, frozen=True, kw_only=True):
    """What a UTC day has seen."""

    usd: float = 0.0
    tokens: int = 0
    proposals: int = 0  # attempts that were charged
    exact: bool = True


class Hold(Struct, frozen=True):
    """A request under way, at the most that it can cost."""

    model: str
    tokens: Tokens
    usd: float


def _tariff(given: float, output: float, cache_write: float, cache_read: float) -> Tariff:
    return Tariff(price=Price(input=given, output=output, cache_write=cache_write, cache_read=cache_read))


PRICES_SOURCE = "https://platform.claude.com/docs/en/about-claude/pricing"
PRICES_DATE = "2026-10-24"  # the last day for which its rates are known to us; cache reads of sonnet-5-5 since 10-07
PRICES: Mapping[str, Tariff] = {
    "claude-fable-5-1": _tariff(10, 50, 12.5, 0.25),
    "claude-mythos-5-1": _tariff(10, 50, 12.5, 0.25),
    "claude-fable-5": _tariff(10, 50, 12.5, 1),
    "claude-mythos-5": _tariff(10, 50, 12.5, 1),
    "claude-opus-5-5": _tariff(4, 20, 5, 0.2),
    "claude-opus-5": _tariff(5, 25, 6.25, 0.5),
    "claude-opus-4-8": _tariff(5, 25, 6.25, 0.5),
    "claude-opus-4-7": _tariff(5, 25, 6.25, 0.5),
    "claude-opus-4-6": _tariff(5, 25, 6.25, 0.5),
    "claude-opus-4-5": _tariff(5, 25, 6.25, 0.5),
    "claude-opus-4-1": _tariff(15, 75, 18.75, 1.5),
    "claude-sonnet-5-5": _tariff(2, 10, 2.5, 0.1),
    "claude-sonnet-5": _tariff(2, 10, 2.5, 0.2),
    "claude-sonnet-4-6": _tariff(3, 15, 3.75, 0.3),
    "claude-sonnet-4-5": _tariff(3, 15, 3.75, 0.3),
    "claude-haiku-5-5": Tariff(
        price=Price(input=0.1, output=0.5, cache_write=0.125, cache_read=0.01),
        long=Price(input=0.5, output=2.5, cache_write=0.625, cache_read=0.05),
        long_above=100_000,
    ),
    "claude-haiku-4-5": _tariff(1, 5, 1.25, 0.1),
}

_DATED = re.compile(r"-20\d{6}$")  # a pinned version of a model, at the model's price


def cost(tariff: Tariff, tokens: Tokens) -> float:
    """US dollars for one request."""
    price = tariff.price
    if tariff.long is not None and tokens.prompt > tariff.long_above:
        price = tariff.long
    total = tokens.input * price.input + tokens.output * price.output
    total += tokens.cache_write * price.cache_write + tokens.cache_read * price.cache_read
    return total / TOKENS_PER_PRICE


class Spending:
    """Charges by UTC day, and whether there is room for more. May be read and written from several threads."""

    def __init__(self, caps: Caps, prices: Mapping[str, Tariff] = PRICES, past: Iterable[Charge] = ()) -> None:
        """`prices` are added to, and go before, PRICES. `past`: charges of this day, as they were recorded."""
        self.caps = caps
        self._prices = {**PRICES, **prices}
        self._days: dict[int, Today] = {}
        self._held: list[Hold] = []
        self._lock = threading.Lock()
        for charge in past:
            self._add(charge)

    def knows(self, model: str) -> bool:
        """Whether the model's price is known."""
        return self._key(model) in self._prices

    def usd(self, model: str, tokens: Tokens) -> float:
        """US dollars for one request; at the dearest price in the table where the model's own is not known."""
        tariff = self._prices.get(self._key(model))
        if tariff is not None:
            return cost(tariff, tokens)
        return max(cost(known, tokens) for known in self._prices.values())

    def today(self, now: float) -> Today:
        """What the UTC day of `now` (seconds since 1970) has seen, requests under way not included."""
        with self._lock:
            return self._days.get(int(now // DAY_S), Today())

    def hold(self, model: str, most: Tokens, now: float, *, usd: float | None = None) -> Hold:
        """Room for a request that takes at most `most`; `usd`: where it is not paid by the token.

        Raises `BudgetExhausted`.
        """
        held = Hold(model, most, self.usd(model, most) if usd is None else usd)
        with self._lock:
            today = self._days.get(int(now // DAY_S), Today())
            usd_due = today.usd + sum(other.usd for other in self._held)
            tokens_due = today.tokens + sum(other.tokens.total for other in self._held)
            if usd_due + held.usd > self.caps.usd_per_day:
                raise BudgetExhausted(
                    f"a request may take {held.usd:.4f} US dollars, and {usd_due:.4f} of the day's "
                    f"{self.caps.usd_per_day:g} are spent or held: wait for the next UTC day or raise the cap"
                )
            if tokens_due + held.tokens.total > self.caps.tokens_per_day:
                raise BudgetExhausted(
                    f"a request may take {held.tokens.total} tokens, and {tokens_due} of the day's "
                    f"{self.caps.tokens_per_day} are spent or held: wait for the next UTC day or raise the cap"
                )
            self._held.append(held)
        return held

    def charge(self, held: Hold, tokens: Tokens, now: float, *, exact: bool, usd: float | None = None) -> Charge:
        """Put what was used in the place of what was held. `usd`: where it is not paid by the token."""
        charge = Charge(
            at=now,
            model=held.model,
            tokens=tokens,
            usd=self.usd(held.model, tokens) if usd is None else usd,
            exact=exact and (usd is not None or self.knows(held.model)),
        )
        with self._lock:
            self._release(held)
            self._add(charge)
        return charge

    def release(self, held: Hold) -> None:
        """Give back what was held for a request that cost nothing."""
        with self._lock:
            self._release(held)

    def abandon(self, now: float) -> list[Charge]:
        """Charge all requests under way at their most: whoever waited for them does not any more.

        One whose end is told all the same is charged once more.
        """
        with self._lock:
            left, self._held = self._held, []
            charges = [Charge(at=now, model=one.model, tokens=one.tokens, usd=one.usd, exact=False) for one in left]
            for charge in charges:
                self._add(charge)
        return charges

    def _release(self, held: Hold) -> None:
        self._held = [other for other in self._held if other is not held]

    def _add(self, charge: Charge) -> None:
        day = int(charge.at // DAY_S)
        before = self._days.get(day, Today())
        self._days[day] = replace(
            before,
            usd=before.usd + charge.usd,
            tokens=before.tokens + charge.tokens.total,
            proposals=before.proposals + 1,
            exact=before.exact and charge.exact,
        )
        for old in sorted(self._days)[:-2]:  # a clock that is set back a little finds its day again
            del self._days[old]

    @staticmethod
    def _key(model: str) -> str:
        return _DATED.sub("", model)
