"""The proposers that a node's operator has chosen, put together from `waggle.toml` and the environment.

A portfolio where there are several. Whoever proposes, `evolve` stands behind it: it needs neither key nor network, so
a service that is down, refuses or has used up its budget leaves the node with something to try. What costs money is
asked only while the gate lets money be spent. Keys are read from the environment and handed to the proposer that needs
them; they are in no file that is written here, and in no message.
"""

import random
import secrets
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from node.errors import UserError
from policy.harm_rules import RULES
from trainer.proposers.accounts import Accounts
from trainer.proposers.briefing import Setting
from trainer.proposers.evolve import Evolve
from trainer.proposers.portfolio import SECONDS_PER_USD, Attempt, Portfolio
from trainer.proposers.proposal import Context, NothingNew, Proposal, Proposer, ProposerError
from trainer.proposers.spending import Caps, Spending, Tariff
from trainer.proposers.transfer import Transfers

NAMES = ("evolve", "optuna", "anthropic", "command")
PAID = frozenset({"anthropic", "command"})
KEY_VARIABLE = "ANTHROPIC_API_KEY"
SETTINGS_BYTES_MAX = 64 * 1024

_Options = TypeVar("_Options", bound=Struct)


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`waggle.toml` in the home; every table and key may be missing."""

    proposers: tuple[str, ...] = ("evolve",)
    seconds_per_usd: float = SECONDS_PER_USD  # lane seconds that a dollar is worth to the operator
    caps: Caps = Caps()
    prices: dict[str, Tariff] = {}
    anthropic: dict[str, Any] = {}
    command: dict[str, Any] = {}


class Held(NothingNew):
    """A proposer that costs money is not asked while the gate forbids to spend any. It need not rest afterwards."""


def nothing_to_do() -> None:
    """To close proposers that cost nothing."""


class Chosen(Struct, frozen=True):
    """The proposers of one node."""

    proposer: Proposer
    learn: Callable[[str, str, float | None, float, float], None]
    """Hear what became of a proposal: its proposer, program (text), score (bits per byte; None: it failed), verified
    gain (0: not kept) and lane seconds."""
    usd_today: Callable[[], float]
    close: Callable[[], None] = nothing_to_do
    """The node ends: what is still under way counts as spent, since nobody hears of its end. Raises `OSError`."""


def read_settings(path: Path) -> Settings:
    """The operator's settings; defaults where there is no file. Raises `UserError` for what cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(SETTINGS_BYTES_MAX + 1)
        if len(content) > SETTINGS_BYTES_MAX:
            raise UserError(f"{path} has more than {SETTINGS_BYTES_MAX} bytes.")
        return msgspec.convert(tomllib.loads(content.decode()), Settings)
    except FileNotFoundError:
        return Settings()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise UserError(f"{path} cannot be used: {error}. docs/search.md says what may stand in it.") from error


def choose(
    names: Sequence[str],
    settings: Settings,
    setting: Setting,
    accounts: Path,
    environment: Mapping[str, str],
    *,
    forbids_pay: Callable[[], str | None],
    report: Callable[[str], None],
    transfers: bool = False,
    now: Callable[[], float] = time.time,
) -> Chosen:
    """The named proposers, or those of the settings where none is named.

    `accounts`: the file of charges. `forbids_pay`: why no money may be spent now; None: it may. `transfers`: the
    challenge has several tracks, so that what others of them confirm is tried too, whoever proposes else; its share of
    turns is learnt as everybody's, and a turn at which there is nothing to carry over is another's. Raises `UserError`.
    """
    wanted = tuple(dict.fromkeys(names or settings.proposers))
    if unknown := [name for name in wanted if name not in NAMES]:
        raise UserError(f"there is no proposer {unknown[0]!r}; there are {', '.join(NAMES)}.")
    if not wanted:
        raise UserError(f"name at least one proposer; there are {', '.join(NAMES)}.")
    book = Accounts(accounts)
    try:
        spending = Spending(settings.caps, settings.prices, past=book.since_yesterday(now()))
    except ProposerError as error:
        raise UserError(str(error)) from error
    maker = _Maker(settings, setting, spending, book, environment, now)
    made = [_Paid(one, forbids_pay) if name in PAID else one for name in wanted for one in (maker.make(name),)]
    made += [Transfers()] if transfers else []

    def record(attempt: Attempt) -> None:
        if attempt.error and attempt.error not in (NothingNew.__name__, Held.__name__):
            rest = f"; it rests for {attempt.rests_s:.0f} s" if attempt.rests_s else ""
            report(f"proposer {attempt.proposer}: {attempt.reason}{rest}")

    portfolio = Portfolio(
        made,
        seconds_per_usd=settings.seconds_per_usd,
        record=record,
        behind=None if "evolve" in wanted else Evolve(),
    )

    def learn(name: str, program: str, score: float | None, gain: float, lane_s: float) -> None:
        portfolio.learn(name, gain, lane_s)
        if maker.tell is not None:
            maker.tell(program, score)

    def close() -> None:
        for charge in spending.abandon(now()):
            if charge.usd or charge.tokens.total:
                book.add(charge)

    return Chosen(portfolio, learn, lambda: spending.today(now()).usd, close)


def usd_spent(accounts: Path, now: float) -> float:
    """US dollars on the UTC day of `now` (seconds since 1970), by the file of charges. Raises `UserError`."""
    try:
        return Spending(Caps(), past=Accounts(accounts).since_yesterday(now)).today(now).usd
    except ProposerError as error:
        raise UserError(str(error)) from error


class _Paid:
    """A proposer that costs money, asked while that is allowed."""

    def __init__(self, proposer: Proposer, forbids: Callable[[], str | None]) -> None:
        self.name = proposer.name
        self._proposer, self._forbids = proposer, forbids

    def propose(self, context: Context, rng: random.Random) -> Proposal:
        if (why := self._forbids()) is not None:
            raise Held(why)
        return self._proposer.propose(context, rng)


class _Maker:
    """Makes proposers by name. What takes long to import is imported where it is wanted."""

    def __init__(
        self,
        settings: Settings,
        setting: Setting,
        spending: Spending,
        book: Accounts,
        environment: Mapping[str, str],
        now: Callable[[], float],
    ) -> None:
        self._settings, self._setting, self._spending = settings, setting, spending
        self._book, self._environment, self._now = book, environment, now
        self._rules = [f"{rule.matches}: {rule.reason}" for rule in RULES.values()]
        self.tell: Callable[[str, float | None], None] | None = None

    def make(self, name: str) -> Proposer:
        match name:
            case "evolve":
                return Evolve()
            case "optuna":
                from trainer.proposers.tuning import Optuna

                study = Optuna()
                self.tell = study.tell
                return study
            case "anthropic":
                return self._anthropic()
            case _:
                return self._command()

    def _anthropic(self) -> Proposer:
        from trainer.proposers.anthropic import AnthropicProposer, Options

        options = _options(self._settings.anthropic, Options, "anthropic")
        try:
            return AnthropicProposer(
                self._environment.get(KEY_VARIABLE, ""), self._setting, self._rules, self._spending,
                options=options, record=self._book.add, now=self._now,
            )  # fmt: skip
        except ValueError as error:
            raise UserError(f"{error}: give it in the environment, as {KEY_VARIABLE}.") from None

    def _command(self) -> Proposer:
        from trainer.proposers.command import CommandOptions, CommandProposer

        options = _options(self._settings.command, CommandOptions, "command")
        key = self._environment.get(KEY_VARIABLE, "")
        try:
            return CommandProposer(
                options, self._setting, self._rules, self._spending, self._environment, secrets.token_bytes(32),
                secrets=[key] if key else [], record=self._book.add, now=self._now,
            )  # fmt: skip
        except ValueError as error:
            raise UserError(f"{error}.") from None


def _options(given: Mapping[str, Any], kind: type[_Options], name: str) -> _Options:
    """A table of the settings. Raises `UserError` for a key that does not exist, or a value out of range."""
    if unknown := sorted(given.keys() - {field.name for field in msgspec.structs.fields(kind)}):
        raise UserError(f"waggle.toml, [{name}]: there is no {unknown[0]!r}.")
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise UserError(f"waggle.toml, [{name}]: {error}.") from error
