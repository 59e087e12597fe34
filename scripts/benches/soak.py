"""Fifteen minutes of a swarm with churn: what grows at the nodes that stay. A part of gossip.py, with --full only.

Two nodes stay; the others are killed, leave and come back, in an order that follows from a seed, and everybody states
something now and then. What must not grow is looked at twice, with all nodes there and nobody stating anything: after
two minutes, in which caches fill, and at the end. A ledger does grow, and its index in memory with it; the bound on
memory has room for that.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from benches.processes import Child, ask_all
from benches.report import Effort, Goal, Outcome, row

SECONDS = 15 * 60.0
WARM_S = 2 * 60.0
STEP_S = 6.0  # between departures and returns
STAYING, CHURNING = 2, 4
CHATTER_S = 2.0  # between statements of one node
SETTLE_S = 60.0  # until all are there again and hold the same
SAMPLES = 10
SAMPLE_S = 0.5

TASKS_GROWTH_MAX = 8.0  # as many as one connection has
DESCRIPTORS_GROWTH_MAX = 4.0
MEMORY_GROWTH_MB_MAX = 32.0
_BOUNDS = {"tasks": TASKS_GROWTH_MAX, "descriptors": DESCRIPTORS_GROWTH_MAX, "memory_mb": MEMORY_GROWTH_MB_MAX}
_UNITS = {"tasks": "", "descriptors": "", "memory_mb": "MB"}
_MODULE = "benches.swarm_node"


class Swarm:
    """Nodes that stay, and nodes that come and go."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._random = folder, Random(15)
        self.staying: list[Child] = []
        self._churning: dict[int, Child] = {}
        self.departures = 0

    def start(self) -> None:
        for index in range(STAYING):
            self.staying.append(self._started(f"staying {index}"))
        self._addresses = ask_all(self.staying, "address")
        for index, child in enumerate(self.staying):
            child.ask("dial", addresses=self._addresses[:index])
        self.all_return()

    def end(self) -> None:
        for child in (*self.staying, *self._churning.values()):
            child.end()

    def churn(self, seconds: float) -> None:
        """Let nodes go, by force or in order, and return, while all that are there state something."""
        end_s = time.monotonic() + seconds
        ask_all(self._all(), "chatter", interval_s=CHATTER_S)
        while time.monotonic() < end_s:
            index = self._random.randrange(CHURNING)
            if index in self._churning:
                leaving = self._churning.pop(index)
                self.departures += 1
                if self._random.random() < 0.5:
                    leaving.kill()
                else:
                    leaving.end()
            else:
                self._return(index).ask("chatter", interval_s=CHATTER_S)
            time.sleep(STEP_S)
        ask_all(self._all(), "quiet")
        self.all_return()

    def all_return(self) -> None:
        for index in range(CHURNING):
            if index not in self._churning:
                self._return(index)

    def settled(self) -> bool:
        """Wait until all are connected and hold the same; whether that happened in time."""
        end_s = time.monotonic() + SETTLE_S
        while time.monotonic() < end_s:
            peers = [one["peers"] for one in ask_all(self.staying, "sample")]
            held = ask_all(self._all(), "holding")
            if min(peers) == len(self._all()) - 1 and held == held[:1] * len(held):
                return True
            time.sleep(SAMPLE_S)
        return False

    def entries(self) -> int:
        return int(self.staying[0].ask("holding")[0])

    def sizes(self) -> list[dict[str, float]]:
        """Of each node that stays: medians over a few seconds."""
        taken = []
        for _ in range(SAMPLES):
            taken.append(ask_all(self.staying, "sample"))
            time.sleep(SAMPLE_S)
        return [
            {what: statistics.median(sample[index][what] for sample in taken) for what in _BOUNDS}
            for index in range(STAYING)
        ]

    def _all(self) -> list[Child]:
        return [*self.staying, *self._churning.values()]

    def _return(self, index: int) -> Child:
        child = self._churning[index] = self._started(f"churning {index}")
        child.ask("dial", addresses=self._addresses)
        return child

    def _started(self, name: str) -> Child:
        (self._folder / name).mkdir(exist_ok=True)
        return Child(_MODULE, str(self._folder / name), "node")


def soak(effort: Effort) -> Outcome:
    """Nothing without `--full`."""
    if not effort.full:
        effort.say("soak: with --full only")
        return Outcome([])
    with TemporaryDirectory(prefix="bench-gossip-", dir=Path.cwd()) as name:
        swarm = Swarm(Path(name))
        try:
            return _soaked(swarm, effort.say)
        finally:
            swarm.end()


def _soaked(swarm: Swarm, say: Callable[[str], None]) -> Outcome:
    say(f"soak: {STAYING} nodes stay, {CHURNING} come and go")
    swarm.start()
    swarm.churn(WARM_S)
    equal = swarm.settled()
    before = swarm.sizes()
    say(f"soak: {swarm.entries()} entries, {swarm.departures} departures; at those that stay: {before}")
    swarm.churn(SECONDS - WARM_S)
    equal = swarm.settled() and equal
    after = swarm.sizes()
    say(f"soak: {swarm.entries()} entries, {swarm.departures} departures; at those that stay: {after}")
    grown = {what: max(now[what] - then[what] for now, then in zip(after, before, strict=True)) for what in _BOUNDS}
    rows = [row(f"soak: {what.removesuffix('_mb')}, more at the end", [grown[what]], _UNITS[what]) for what in _BOUNDS]
    rows.append(row("soak: departures", [swarm.departures], ""))
    rows.append(row("soak: entries", [swarm.entries()], ""))
    goals = [
        Goal(
            what=f"growth of {what.removesuffix('_mb')}",
            figure=grown[what],
            bound="at most",
            goal=bound,
            unit=_UNITS[what],
        )
        for what, bound in _BOUNDS.items()
    ]
    goals.append(Goal(what="ledgers equal after churn (1: all)", figure=float(equal), bound="at least", goal=1.0))
    return Outcome(rows, goals)
