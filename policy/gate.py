"""Whether a node may go on: the states of its gate as a table, the rules that move it, and what each state forbids.

    RUN ──► THROTTLE ──► FREEZE ──► STOP        a rule moves it to the right, over as many states as it asks for
     ◄──────── one at a time ────────           back when every cause is gone

A *rule* compares a fact with a limit of the constitution and asks for a state. It lets go at a stated share of its
threshold only, so that a fact which moves about a threshold does not move the gate with it. A *command* of the owner
holds until it is taken back: rules do not move the gate then, but for those marked `beyond_command`, against which no
command helps, because what they guard is lost otherwise. When such a cause is gone the gate returns to the command.

The gate is a node's own affair. Its facts may come from a wall clock and a disk; nobody else decides by them. *Pure.*
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from msgspec import Struct

from policy.constitution import Limits
from policy.moves import made


class State(Enum):
    RUN = "RUN"
    THROTTLE = "THROTTLE"
    FREEZE = "FREEZE"
    STOP = "STOP"

    def stricter_than(self, other: "State") -> bool:
        return _STATES.index(self) > _STATES.index(other)


_STATES = tuple(State)


class Move(Enum):
    THROTTLE = "a rule asks for less"
    FREEZE = "a rule asks that nothing new be begun"
    STOP = "a rule asks that nothing run"
    RECOVER = "every cause is gone"
    COMMAND_RUN = "the owner says RUN"
    COMMAND_THROTTLE = "the owner says THROTTLE"
    COMMAND_FREEZE = "the owner says FREEZE"
    COMMAND_STOP = "the owner says STOP"
    RELEASE = "the owner leaves it to the rules"


_RULED = {State.THROTTLE: Move.THROTTLE, State.FREEZE: Move.FREEZE, State.STOP: Move.STOP}
_COMMANDED = {
    State.RUN: Move.COMMAND_RUN,
    State.THROTTLE: Move.COMMAND_THROTTLE,
    State.FREEZE: Move.COMMAND_FREEZE,
    State.STOP: Move.COMMAND_STOP,
}

TRANSITIONS: Mapping[tuple[State, Move], State] = {
    **{(before, move): after for after, move in _RULED.items() for before in State if after.stricter_than(before)},
    (State.STOP, Move.RECOVER): State.FREEZE,
    (State.FREEZE, Move.RECOVER): State.THROTTLE,
    (State.THROTTLE, Move.RECOVER): State.RUN,
    **{(before, move): after for after, move in _COMMANDED.items() for before in State},
    **{(state, Move.RELEASE): state for state in State},
}


def advance(state: State, move: Move) -> State:
    """The state after a move. Raises `IllegalMove`."""
    return made(TRANSITIONS, state, move)


# What a state forbids


class Action(Enum):
    SEARCH_FULLY = "own search all the time"
    PAY = "proposals that cost money"
    SEARCH = "own search"
    VERIFY = "beginning to verify a discovery"
    DISCOVER = "publishing a discovery"
    ADOPT = "adopting a program"
    TRIAL = "running a program"


_THROTTLED = {
    Action.SEARCH_FULLY: "what others claim is worth more than one's own search until the cause is gone",
    Action.PAY: "money is spent only while nothing is in doubt",
}
_FROZEN = {
    **_THROTTLED,
    Action.SEARCH: "the results of this machine are in doubt, or nobody has looked at them for long",
    Action.VERIFY: "a verdict of a machine in doubt harms others",
    Action.DISCOVER: "a claim of a machine in doubt costs others their runs",
    Action.ADOPT: "whatever is built on a mistake is lost with it",
}
_STOPPED = {**_FROZEN, Action.TRIAL: "nothing may run; the node serves the ledger only"}

FORBIDDEN: Mapping[State, Mapping[Action, str]] = {
    State.RUN: {},
    State.THROTTLE: _THROTTLED,
    State.FREEZE: _FROZEN,
    State.STOP: _STOPPED,
}
"""What a state forbids, and why. A verification that runs when the gate freezes is finished and its verdict stated."""


def forbids(state: State, action: Action) -> str | None:
    """Why a state forbids an action; None if it does not."""
    return FORBIDDEN[state].get(action)


# Rules over facts


class Facts(Struct, frozen=True, kw_only=True):
    """What can be observed of one node."""

    compute_s_today: float  # lane seconds of the trials that ended on this UTC day
    money_usd_today: float
    trials_recent: int  # of this node, in the last `recent_s`
    failed_recent: int  # of those, the ones without a score
    verdicts_shared: int  # recent ones of this node on discoveries that trusted peers have judged too
    verdicts_contradicted: int  # of those, the ones that the trusted peers contradict
    adoptions_unseen: int  # of this node, of discoveries, since a human last looked
    disk_free_bytes: int
    integrity_failures: tuple[str, ...]  # what does not hold: of the ledger, the evaluator or the sandbox


class Rule(NamedTuple):
    """A state that is asked for when a fact passes a limit."""

    fact: str  # its name, for people
    state: State
    limit: str  # the field of `Limits` with the threshold; empty: one failure is enough
    measure: Callable[[Facts, Limits], float | None]  # None: too little is known
    reason: str
    below: bool = False  # it is passed when the fact is at or below it, else when at or above
    beyond_command: bool = False

    @property
    def id(self) -> str:
        return f"{self.fact}: {self.state.value}"


def _failed(facts: Facts, limits: Limits) -> float | None:
    return None if facts.trials_recent < limits.crash_trials_min else facts.failed_recent / facts.trials_recent


def _contradicted(facts: Facts, limits: Limits) -> float | None:
    if facts.verdicts_shared < limits.disagreement_verdicts_min:
        return None
    return facts.verdicts_contradicted / facts.verdicts_shared


def _compute(facts: Facts, limits: Limits) -> float:
    return facts.compute_s_today


def _money(facts: Facts, limits: Limits) -> float:
    return facts.money_usd_today


def _unseen(facts: Facts, limits: Limits) -> float:
    return facts.adoptions_unseen


def _disk(facts: Facts, limits: Limits) -> float:
    return facts.disk_free_bytes


def _integrity(facts: Facts, limits: Limits) -> float:
    return len(facts.integrity_failures)


_COMPUTE, _MONEY, _CRASHES = "lane seconds today", "US dollars today", "share of failed trials"
_DISAGREEMENT, _UNSEEN, _DISK = "share of contradicted verdicts", "adoptions not looked at", "bytes free on the disk"

RULES: Sequence[Rule] = (
    Rule(_COMPUTE, State.THROTTLE, "compute_s_throttle", _compute, "the day's compute is nearly spent"),
    Rule(_COMPUTE, State.STOP, "compute_s_stop", _compute, "the day's compute is spent"),
    Rule(_MONEY, State.THROTTLE, "money_usd_throttle", _money, "the day's money is spent"),
    Rule(_MONEY, State.STOP, "money_usd_stop", _money, "more money was spent than may be: its cap does not hold"),
    Rule(_CRASHES, State.THROTTLE, "crash_share_throttle", _failed, "most runs fail"),
    Rule(_CRASHES, State.FREEZE, "crash_share_freeze", _failed, "nearly every run fails: is it this machine?"),
    Rule(_DISAGREEMENT, State.THROTTLE, "disagreement_share_throttle", _contradicted, "trusted peers often disagree"),
    Rule(_DISAGREEMENT, State.FREEZE, "disagreement_share_freeze", _contradicted, "trusted peers mostly disagree"),
    Rule(_UNSEEN, State.THROTTLE, "adoptions_unseen_throttle", _unseen, "nobody has looked: `waggle gate seen`"),
    Rule(_UNSEEN, State.FREEZE, "adoptions_unseen_freeze", _unseen, "nobody has looked for long: `waggle gate seen`"),
    Rule(_DISK, State.THROTTLE, "disk_free_throttle_bytes", _disk, "the disk is nearly full", below=True),
    Rule(
        _DISK, State.STOP, "disk_free_stop_bytes", _disk, "the disk is full: make room", below=True, beyond_command=True
    ),
    Rule("integrity failures", State.STOP, "", _integrity, "something does not hold", beyond_command=True),
)


class Reading(Struct, frozen=True, kw_only=True):
    """One rule against its fact."""

    rule: str  # id
    fact: str
    state: State  # that it asks for
    value: float | None  # None: too little is known
    threshold: float
    release: float  # where it lets go again
    holds: bool  # it asks for its state now
    beyond_command: bool
    reason: str


def read(facts: Facts, limits: Limits, causes: frozenset[str] = frozenset()) -> tuple[Reading, ...]:
    """Every rule against its fact. `causes`: ids of the rules that held before, which let go at `release` only."""
    return tuple(_reading(rule, facts, limits, causes) for rule in RULES)


def _reading(rule: Rule, facts: Facts, limits: Limits, causes: frozenset[str]) -> Reading:
    threshold = float(getattr(limits, rule.limit)) if rule.limit else 1.0
    release = threshold / limits.gate_release_share if rule.below else threshold * limits.gate_release_share
    value = rule.measure(facts, limits)
    holds = False
    if value is not None:
        passed = release if rule.id in causes else threshold
        if rule.id in causes:
            holds = value < passed if rule.below else value > passed
        else:
            holds = value <= passed if rule.below else value >= passed
    return Reading(
        rule=rule.id,
        fact=rule.fact,
        state=rule.state,
        value=value,
        threshold=threshold,
        release=release,
        holds=holds,
        beyond_command=rule.beyond_command,
        reason=rule.reason + (f" ({'; '.join(facts.integrity_failures)})" if rule.measure is _integrity else ""),
    )


class Shared(NamedTuple):
    """Verdicts of this node on what trusted peers have judged too."""

    verdicts: int
    contradicted: int


def compare_verdicts(pairs: Iterable[tuple[str, str, str, str]], weights: Mapping[str, float]) -> Shared:
    """Own verdicts against those of others: rows of discovery, own verdict, another's peer id and its verdict.

    `weights`: how far each author is trusted, 0 or more; who is not in it has no say. A verdict is contradicted where
    those against it weigh more than those for it.
    """
    balance: dict[str, float] = {}
    for discovery, own, author, other in pairs:
        if (weight := weights.get(author, 0.0)) > 0:
            balance[discovery] = balance.get(discovery, 0.0) + (weight if own == other else -weight)
    return Shared(len(balance), sum(total < 0 for total in balance.values()))


# The gate


class Command(Struct, frozen=True, kw_only=True):
    """What the owner said last."""

    state: State
    reason: str


class Gate(Struct, frozen=True, kw_only=True):
    """Where a gate stands."""

    state: State = State.RUN
    command: Command | None = None  # None: the rules decide
    causes: frozenset[str] = frozenset()  # ids of the rules that hold


class Change(Struct, frozen=True, kw_only=True):
    """One move of a gate, to be stated."""

    previous: State
    move: Move
    state: State
    commanded: bool
    reason: str


def look(gate: Gate, command: Command | None, facts: Facts, limits: Limits) -> tuple[Gate, tuple[Change, ...]]:
    """Where a gate stands after a look at the facts, and the moves that took it there, in order.

    `command` is what the owner says now; None leaves it to the rules. A recovery is one state at a look.
    """
    readings = read(facts, limits, gate.causes)
    causes = frozenset(one.rule for one in readings if one.holds)
    state, changes = gate.state, list[Change]()

    def moved(move: Move, commanded: bool, reason: str) -> State:
        after = advance(state, move)
        changes.append(Change(previous=state, move=move, state=after, commanded=commanded, reason=reason))
        return after

    if command != gate.command:
        if command is None:
            state = moved(Move.RELEASE, False, "left to the rules again")
        else:
            state = moved(_COMMANDED[command.state], True, command.reason)
    binding = [one for one in readings if one.holds and (command is None or one.beyond_command)]
    strictest = max((one.state for one in binding), key=_STATES.index, default=State.RUN)
    if strictest.stricter_than(state):
        state = moved(_RULED[strictest], False, why(binding, strictest))
    elif command is not None and state is not command.state and not strictest.stricter_than(command.state):
        state = moved(_COMMANDED[command.state], True, f"the cause is gone, and the command holds: {command.reason}")
    elif command is None and command == gate.command and state.stricter_than(strictest):
        state = moved(Move.RECOVER, False, why(binding, strictest) or "every cause is gone")
    return Gate(state=state, command=command, causes=causes), tuple(changes)


def why(readings: Sequence[Reading], state: State) -> str:
    """The readings that ask for a state, as a sentence; empty if none does."""
    return "; ".join(
        f"{one.reason}: {one.fact} {one.value:g}, limit {one.threshold:g}"
        for one in readings
        if one.holds and one.state is state and one.value is not None
    )
