"""Several proposers side by side: one is drawn for each proposal (shares.py); where it fails, another takes its turn.

The order in which the proposers are given is the order of falling back; the first needs neither key nor network
(`evolve`), or one that needs neither stands behind them all. A proposer that fails rests for a while, twice as long
after each failure in a row, so that a service that is down costs one attempt now and then. That a program cannot be
changed further is no failure of the proposer: it does not rest for that. Whatever happens is told to `record`, with the
reason.
"""

import random
import threading
import time
from collections.abc import Callable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from trainer.proposers.proposal import (
    Context,
    NothingNew,
    ProgramUnreadable,
    Proposal,
    Proposer,
    ProposerError,
)
from trainer.proposers.quoting import clean_line
from trainer.proposers.shares import Shares
from trainer.proposers.spending import ProposalFailed

REST_S_MIN = 30.0
REST_S_MAX = 3600.0
REASON_CHARACTERS_MAX = 500
SECONDS_PER_USD = 3600.0  # a dollar for an hour of a lane, unless the operator says otherwise


class NobodyProposes(ProposalFailed):
    """No proposer of the portfolio gave a proposal; the message has each one's reason."""


class Attempt(Struct, frozen=True, kw_only=True):
    """One proposer's turn."""

    proposer: str
    why: str  # it was its turn
    error: str  # the class of what it raised; empty where it gave a proposal
    reason: str  # the error in a sentence
    seconds: float
    usd: float
    rests_s: float  # how long it is not asked again


class Portfolio:
    """A `Proposer` made of others. `learn` and `propose` may be called from different threads."""

    name = "portfolio"

    def __init__(
        self,
        proposers: Sequence[Proposer],
        *,
        seconds_per_usd: float = SECONDS_PER_USD,
        record: Callable[[Attempt], None] = lambda attempt: None,
        clock: Callable[[], float] = time.monotonic,
        behind: Proposer | None = None,
    ) -> None:
        """`record` is called in the thread that proposes. `clock` counts seconds. `behind`: has no share, and is asked
        where all others fail or rest; without it, one that rests is asked rather than nobody.

        Raises `ValueError` as `Shares`.
        """
        last: tuple[Proposer, ...] = () if behind is None else (behind,)
        self._behind = tuple(proposer.name for proposer in last)
        self._proposers = {proposer.name: proposer for proposer in (*proposers, *last)}
        self._shares = Shares([proposer.name for proposer in proposers], seconds_per_usd=seconds_per_usd)
        self._record, self._clock = record, clock
        self._failures = dict.fromkeys(self._proposers, 0)  # in a row
        self._rests_until = dict.fromkeys(self._proposers, float("-inf"))
        self._lock = threading.Lock()

    def learn(self, proposer: str, gain: float, lane_s: float) -> None:
        """What became of a proposal: `gain` in bits per byte as verified, 0 where it was not kept; see `Shares`."""
        with self._lock:
            self._shares.learn(proposer, gain, lane_s)

    def shares(self, rng: random.Random) -> dict[str, float]:
        """The share of turns that each proposer would get now."""
        with self._lock:
            return self._shares.shares(rng)

    def propose(self, context: Context, rng: random.Random) -> Proposal:
        """The proposal of the one that is drawn, or of the first after it that has one.

        Raises `ProgramUnreadable` for a parent that nobody can read, `NothingNew` where all say that all is tried, and
        `NobodyProposes`.
        """
        names, why = self._draw(rng)
        errors: list[ProposerError] = []
        reasons: list[str] = []
        for name in names:
            started = self._clock()
            try:
                proposal = self._proposers[name].propose(context, rng)
            except ProgramUnreadable as error:
                self._failed(name, why, error, self._clock() - started, tired=False)
                raise
            except (ProposerError, OSError) as error:
                self._failed(name, why, error, self._clock() - started, tired=not isinstance(error, NothingNew))
                reasons.append(f"{name}: {clean_line(str(error), REASON_CHARACTERS_MAX)}")
                errors.append(error if isinstance(error, ProposerError) else ProposerError(str(error)))
                why = f"in place of {name}"
                continue
            seconds = self._clock() - started
            with self._lock:
                self._failures[name] = 0
                self._shares.spend(name, proposal.usd)
            self._record(
                Attempt(
                    proposer=name, why=why, error="", reason="", seconds=seconds, usd=proposal.usd, rests_s=0.0
                )
            )  # fmt: skip
            return replace(proposal, proposer=name, seconds=seconds)
        if all(isinstance(error, NothingNew) for error in errors):
            raise NothingNew("; ".join(reasons))
        raise NobodyProposes(f"no proposer has a proposal: {'; '.join(reasons)}")

    def _draw(self, rng: random.Random) -> tuple[list[str], str]:
        """Who is asked, in order, and why the first is."""
        with self._lock:
            now = self._clock()
            drawn = [name for name in self._proposers if name not in self._behind]
            awake = [name for name in drawn if self._rests_until[name] <= now]
            if not awake and self._behind:
                return [*self._behind], "all others rest"
            if not awake:  # the one that is due next is asked, since the lane is waiting
                return [min(drawn, key=lambda name: self._rests_until[name])], "all rest, and it is due next"
            first, why = self._shares.draw(rng, awake)
            return [first, *(name for name in awake if name != first), *self._behind], why

    def _failed(self, name: str, why: str, error: Exception, seconds: float, *, tired: bool) -> None:
        usd = error.usd if isinstance(error, ProposalFailed) else 0.0
        rests_s = 0.0
        with self._lock:
            self._shares.spend(name, usd)
            if tired:
                rests_s = min(REST_S_MAX, REST_S_MIN * 2.0 ** min(self._failures[name], 16))
                self._failures[name] += 1
                self._rests_until[name] = self._clock() + rests_s
        self._record(
            Attempt(
                proposer=name,
                why=why,
                error=type(error).__name__,
                reason=clean_line(str(error), REASON_CHARACTERS_MAX),
                seconds=seconds,
                usd=usd,
                rests_s=rests_s,
            )
        )
