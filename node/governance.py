"""The gate of a running node: it gathers the facts, has policy/gate.py decide, and states every change.

The owner's word reaches a running node by a file in the home, `gate.json`, which is replaced as a whole; a node that is
not running reads it at its next start. The state itself stands in the ledger, and what a gate said last holds on.
"""

import hashlib
import shutil
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import trio
from msgspec import Struct

import trainer
from ledger.author import Author
from ledger.envelope import Signed
from ledger.errors import LedgerError
from ledger.predicates import Entry, GateState
from ledger.predicates import Gate as GateStatement
from ledger.queries import governing
from ledger.store import Store
from node.charter import Charter
from node.home import Home
from policy.gate import Action, Command, Facts, Gate, Reading, State, compare_verdicts, forbids, look, read
from trainer.sandbox.command import SandboxUnavailable
from trainer.sandbox.preflight import preflight

LOOK_INTERVAL_S = 5.0
SANDBOX_INTERVAL_S = 3600.0  # between two trials of the sandbox itself, while the node runs
REASON_CHARS_MAX = 1000  # of a statement
EVALUATOR = ("audit.py", "evaluate.py", "runner.py", "stub.py", "tokens.py", "trial.py", "sandbox/*.py")


class Orders(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the owner said of the gate."""

    command: GateState | None = None  # None: left to the rules
    reason: str = ""
    seen: int = 0  # Lamport time up to which a human has looked at the adoptions


class GateStatus(Struct, kw_only=True):
    """The gate in the status file."""

    state: str
    commanded: bool
    reason: str
    constitution: str  # in force, SHA-256
    waiting_for: str | None  # of a ratified constitution whose text is missing
    readings: list[Reading]


def read_orders(path: Path) -> Orders:
    """The owner's orders; none where there is no file. Raises `ValueError` for one that cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Orders)
    except FileNotFoundError:
        return Orders()
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path} cannot be read ({error}): command the gate again with `waggle gate`") from error


def write_orders(path: Path, orders: Orders) -> None:
    unfinished = path.with_suffix(".new")
    unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(orders)))
    unfinished.replace(path)


def evaluator_digest(folder: Path) -> str:
    """SHA-256 over the files that make a score, as they are in this copy of the package `trainer` now."""
    total = hashlib.sha256()
    for pattern in EVALUATOR:
        for path in sorted(folder.glob(pattern)):
            total.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def no_money() -> float:
    """What is spent where no proposer costs anything."""
    return 0.0


def nobody() -> Mapping[str, float]:
    """Whom a node trusts that has no record of anybody."""
    return {}


class Observed:
    """The facts about one node, from its ledger and its machine."""

    def __init__(
        self,
        home: Home,
        store: Store,
        author: str,
        *,
        money_today: Callable[[], float] = no_money,
        standing: Callable[[], Mapping[str, float]] = nobody,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        evaluator: Path = Path(trainer.__file__).parent,
    ) -> None:
        """`money_today`: US dollars on this UTC day. `standing`: peer ids to how far each is trusted.

        `evaluator`: the folder of the package that makes the scores.
        """
        self._home, self._store, self._author = home, store, author
        self._money_today, self._standing, self._now = money_today, standing, now
        self._evaluator, self._evaluator_as_started = evaluator, evaluator_digest(evaluator)
        self._trials: deque[governing.OwnTrial] = deque()  # since the start of the day, and `recent_s`; oldest first
        self._read_to = -1  # Lamport time
        self.sandbox_fault = ""  # why the sandbox does not hold; set by who tries it

    def facts(self, recent_s: float, seen: int) -> Facts:
        """`recent_s`: how far back trials and verdicts count. `seen`: the Lamport time up to which all is seen."""
        now = self._now()
        today, recent = _stamp(now.replace(hour=0, minute=0, second=0)), _stamp(now - timedelta(seconds=recent_s))
        trials = self._trials_since(min(today, recent))
        lately = [trial for trial in trials if trial.recorded_at >= recent]
        pairs = governing.verdict_pairs(self._store, self._author, recent)
        shared = compare_verdicts([(one.discovery, one.own, one.author, one.other) for one in pairs], self._standing())
        return Facts(
            compute_s_today=sum(trial.wall_s for trial in trials if trial.recorded_at >= today),
            money_usd_today=self._money_today(),
            trials_recent=len(lately),
            failed_recent=sum(not trial.ok for trial in lately),
            verdicts_shared=shared.verdicts,
            verdicts_contradicted=shared.contradicted,
            adoptions_unseen=governing.adoptions_after(self._store, self._author, seen),
            disk_free_bytes=shutil.disk_usage(self._home.path).free,
            integrity_failures=tuple(self._failures()),
        )

    def _trials_since(self, since: str) -> list[governing.OwnTrial]:
        new = list(governing.own_trials(self._store, self._author, self._read_to, since))
        self._read_to = max([self._read_to, *(lamport for lamport, _ in new)])
        self._trials.extend(trial for _, trial in reversed(new))
        while self._trials and self._trials[0].recorded_at < since:
            self._trials.popleft()
        return list(self._trials)

    def _failures(self) -> Iterator[str]:
        try:
            for feed in self._store.feeds(self._author):
                head = self._store.head(self._author, feed)
                if head is not None and self._store.entry(head.id) is None:
                    yield f"ledger: the last entry of {feed} is gone; see `waggle ledger fsck`"
        except LedgerError as error:
            yield f"ledger: {error}"
        if self._store.is_banned(self._author):
            yield "ledger: this node's key has signed two histories; go on with a fresh --home"
        if evaluator_digest(self._evaluator) != self._evaluator_as_started:
            yield "evaluator: its files have changed since this node was started; start it again"
        if self.sandbox_fault:
            yield f"sandbox: {self.sandbox_fault}"


def _stamp(time: datetime) -> str:
    """As `ledger.author.utc_now` writes it: such texts are ordered as the times are."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


class Governance:
    """The gate of one node. What it states is published by `publish`, where the node has a network."""

    def __init__(
        self,
        home: Home,
        charter: Charter,
        store: Store,
        author: Author,
        report: Callable[[str], None],
        *,
        publish: Callable[[Signed], Awaitable[None]],
        changed: Callable[[], None],
        observed: Observed,
        device: str | None = None,
    ) -> None:
        """`changed` is called when the state is another one. `device`: of the track whose sandbox is tried again now
        and then; None: of none.
        """
        self._home, self._charter, self._store, self._author = home, charter, store, author
        self._report, self._publish, self._changed = report, publish, changed
        self._observed, self._device = observed, device
        self._orders = Orders()
        self._ended: dict[Action, trio.CancelScope] = {}
        self._moved = trio.Event()
        self._readings: tuple[Reading, ...] = ()  # of the last look
        last = governing.last_gate(store, author.id)
        state = State.RUN if last is None else State(last.state)
        orders = self._read_orders()
        command = None
        if last is not None and last.commanded and orders.command == last.state:
            command = Command(state=state, reason=orders.reason)
        self._gate = Gate(state=state, command=command)

    @property
    def state(self) -> State:
        return self._gate.state

    def forbids(self, action: Action) -> str | None:
        """Why the present state forbids an action, in a sentence; None if it does not."""
        reason = forbids(self._gate.state, action)
        return None if reason is None else f"the gate is at {self._gate.state.value}: {reason}"

    def look(self) -> list[Signed]:
        """Gather the facts, decide and state. Returns what was stated."""
        limits, term = self._charter.limits(), self._charter.term()
        orders = self._read_orders()
        command = None if orders.command is None else Command(state=State(orders.command), reason=orders.reason)
        facts = self._observed.facts(limits.recent_s, orders.seen)
        before, last = self._gate.state, governing.last_gate(self._store, self._author.id)
        self._gate, changes = look(self._gate, command, facts, limits)
        self._readings = read(facts, limits, self._gate.causes)
        stated = []
        if last is None or last.constitution != term.constitution:
            why = "first start" if last is None else f"constitution {term.constitution[:12]} is in force"
            stated.append(
                self._state(None if last is None else before, before, last is not None and last.commanded, why)
            )
        for change in changes:
            stated.append(self._state(change.previous, change.state, change.commanded, change.reason))
            self._report(f"gate {change.previous.value} → {change.state.value}: {change.reason}")
        if changes:
            self._moved.set()
            self._moved = trio.Event()
            for action, scope in self._ended.items():
                if self.forbids(action) is not None:
                    scope.cancel()
            self._changed()
        return stated

    def _state(self, previous: State | None, state: State, commanded: bool, reason: str) -> Signed:
        def body(entry: Entry) -> GateStatement:
            return GateStatement(
                entry=entry,
                previous=None if previous is None else previous.value,
                state=state.value,
                commanded=commanded,
                reason=reason[:REASON_CHARS_MAX],
            )

        return self._author.append("main", self._charter.term().constitution, body)

    def _read_orders(self) -> Orders:
        """What the owner said last; where the file is spoilt, what was read before."""
        try:
            self._orders = read_orders(self._home.gate_file)
        except ValueError as error:
            self._report(str(error))
        return self._orders

    async def watch(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look every few seconds, until cancelled. Started when the first look is done."""
        tried_s = trio.current_time()
        while True:
            for signed in self.look():
                await self._publish(signed)
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            await trio.sleep(LOOK_INTERVAL_S)
            if self._device is not None and trio.current_time() - tried_s >= SANDBOX_INTERVAL_S:
                tried_s = trio.current_time()
                self._observed.sandbox_fault = await trio.to_thread.run_sync(_sandbox_fault, self._device)

    async def until_allowed(self, action: Action) -> None:
        """Wait until the gate does not forbid the action, saying once why it has to wait."""
        if (why := self.forbids(action)) is not None:
            self._report(f"waiting: {why}")
        while self.forbids(action) is not None:
            await self._moved.wait()

    @contextmanager
    def while_allowed(self, action: Action) -> Iterator[trio.CancelScope]:
        """A block that is cancelled as soon as the gate forbids the action."""
        with trio.CancelScope() as scope:
            self._ended[action] = scope
            if self.forbids(action) is not None:
                scope.cancel()
            try:
                yield scope
            finally:
                del self._ended[action]

    def status(self) -> GateStatus:
        """What the gate shows of itself, by the last look."""
        last = governing.last_gate(self._store, self._author.id)
        return GateStatus(
            state=self._gate.state.value,
            commanded=self._gate.command is not None,
            reason="" if last is None else last.reason,
            constitution=self._charter.term().constitution,
            waiting_for=self._charter.history().waiting_for,
            readings=list(self._readings),
        )


def _sandbox_fault(device: str) -> str:
    try:
        preflight(device)
    except SandboxUnavailable as error:
        return str(error)
    return ""
