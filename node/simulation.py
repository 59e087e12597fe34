"""Many nodes in one process over a network in memory: how far gossip and sync carry, and at what cost.

    python -m node.simulation --nodes 200 --authors 50 --seed 1

Each node has the real ledger (SQLite, in memory) and the real mesh, which verifies every signature; only the network is
made up (gossip/simnet.py). Time is simulated as well, so the figures in heartbeats do not depend on the machine. The
same options give the same run. Nobody trains, and policy has no part in it.

Authors state their entries evenly at random over `duration_s`, half of them trials, which do not travel by gossip. Then
the run goes on until every ledger holds everything, or `SETTLE_S_MAX` has passed.
"""

import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct
from rich.console import Console
from rich.table import Table
from sqlite_utils import Database

from gossip import limits, simnet
from gossip.events import Event, Kind
from gossip.exchange import digest
from gossip.mesh import Mesh
from ledger.author import Author
from ledger.envelope import Signed, peer_id
from ledger.predicates import Adoption, Entry, Hardware, Measurement, Trial
from ledger.statements import feed_kind
from ledger.store import Store

CHALLENGE = "c" * 64
WARM_UP_S = 5.0  # before the first statement: dialling, and the first heartbeats
SETTLE_S_MAX = 900.0  # after the last one
AWAY_S = 20.0  # of a node that leaves once
START_S = 2.0  # over which nodes start


class Plan(Struct, frozen=True, kw_only=True):
    """What is simulated. Shares lie between 0 and 1."""

    nodes: int
    authors: int  # of the nodes, who state something
    entries: int  # by each author
    seed: int
    peers: int = 4  # that each node dials; on average it has twice as many
    duration_s: float = 60.0
    loss: float = 0.0  # share of the copies of messages
    churn: float = 0.0  # share of the nodes that go away once, and return
    partition_s: float = 0.0  # how long the nodes are parted in two halves, from the middle of `duration_s` on


class Outcome(Struct, frozen=True, kw_only=True):
    """What came of it. Delays are in s of simulated time from the statement to its arrival at a node."""

    expected: int  # deliveries: every entry at every node but its author's
    delivered: int
    by_sync: int
    equal: bool  # all ledgers have the same digest of heads
    main_delays: list[float]
    trial_delays: list[float]
    copies_per_message: float  # that a node got
    gossip_bytes_per_node: float  # sent
    stream_bytes_per_node: float
    simulated_s: float
    cpu_s: float
    digest: str  # of the first ledger


class Member:
    """One node. It may stop, and start again with the ledger and key that it had."""

    def __init__(self, simulation: "Simulation", key: Ed25519PrivateKey, store: Store) -> None:
        self._simulation = simulation
        self.store = store
        self.author = Author(store, key, now=lambda: "2026-01-01T00:00:00Z")
        self.id = peer_id(key.public_key())
        self.listen = "/ip4/192.0.2.1/tcp/0"
        self.dials: list[Member] = []
        self.traffic: list[simnet.Traffic] = []
        self.by_sync = 0
        self._up = trio.Event()
        self._scope = trio.CancelScope()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until `stop`."""
        transport = simnet.SimTransport(self._simulation.network, self.id, self.listen)
        self.traffic.append(transport.traffic)
        mesh = Mesh(transport, self.store, CHALLENGE, self._observe, self._on_new)
        with trio.CancelScope() as self._scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(transport.run)
                self.address = transport.addresses()[0]
                self.listen = self.address.partition("/p2p/")[0]
                await nursery.start(mesh.run)
                task_status.started()
                for other in self.dials:
                    transport.keep_connected(other.address)
                self.mesh = mesh
                self._up.set()
        self._up = trio.Event()

    def stop(self) -> None:
        self._scope.cancel()

    async def state(self, *, trial: bool) -> None:
        """State something, as soon as the node is up."""
        await self._up.wait()
        signed = self.author.append("trials" if trial else "main", "b" * 64, _trial if trial else _adoption)
        self._simulation.stated[signed.id] = trio.current_time()
        await self.mesh.publish(signed)

    def _observe(self, event: Event) -> None:
        if event.kind is Kind.ENTRIES_RECEIVED:
            self.by_sync += event.count
        if event.kind in (Kind.PEER_FAULT, Kind.HANDLER_FAILED, Kind.EQUIVOCATION):
            self._simulation.faults.append(event)

    def _on_new(self, signed: Signed) -> None:
        self._simulation.delivered(signed)


class Simulation:
    """One run of a plan, inside a running trio loop."""

    def __init__(self, plan: Plan, rng: random.Random, stores: list[Store]) -> None:
        self._plan, self._rng = plan, rng
        self.network = simnet.Network(rng, simnet.Conditions(loss=plan.loss))
        self.stated: dict[str, float] = {}  # entry id → when, in s of simulated time
        self.delays: dict[str, list[float]] = {"main": [], "trials": []}
        self.faults: list[Event] = []
        self._complete = trio.Event()
        self.members = [Member(self, _key(rng), store) for store in stores]
        self._expected = plan.authors * plan.entries * (plan.nodes - 1)

    def delivered(self, signed: Signed) -> None:
        kind = feed_kind(signed.statement.entry.feed)
        self.delays[kind].append(trio.current_time() - self.stated[signed.id])
        if sum(map(len, self.delays.values())) == self._expected:
            self._complete.set()

    async def run(self) -> None:
        plan, rng = self._plan, self._rng
        async with trio.open_nursery() as nursery:
            for place, member in enumerate(self.members):
                # Whoever comes later knows some who were there before, as --join makes it.
                member.dials = rng.sample(self.members[:place], min(place, plan.peers))
                await trio.sleep(START_S / plan.nodes)
                await nursery.start(member.run)
            await trio.sleep(WARM_UP_S)
            async with trio.open_nursery() as events:
                for author in self.members[: plan.authors]:
                    events.start_soon(self._state, author)
                for member in rng.sample(self.members, round(plan.churn * plan.nodes)):
                    events.start_soon(self._leave_once, member, nursery)
                if plan.partition_s:
                    events.start_soon(self._part)
            with trio.move_on_after(SETTLE_S_MAX):
                await self._complete.wait()
            nursery.cancel_scope.cancel()

    async def _state(self, author: Member) -> None:
        start, plan = trio.current_time(), self._plan
        times = sorted(self._rng.random() * plan.duration_s for _ in range(plan.entries))
        for number, at in enumerate(times):
            await trio.sleep_until(start + at)
            await author.state(trial=number % 2 == 1)

    async def _leave_once(self, member: Member, nursery: trio.Nursery) -> None:
        await trio.sleep(self._rng.random() * self._plan.duration_s)
        member.stop()
        await trio.sleep(AWAY_S)
        await nursery.start(member.run)

    async def _part(self) -> None:
        await trio.sleep(self._plan.duration_s / 2)
        half = self._rng.sample(self.members, len(self.members) // 2)
        self.network.part({member.id for member in half})
        await trio.sleep(self._plan.partition_s)
        self.network.heal()


def simulate(plan: Plan) -> Outcome:
    """Run a plan to its end. Raises `RuntimeError` if a node was at fault, which none should be."""
    rng = random.Random(plan.seed)
    started = time.process_time()
    simnet.schedule_by_seed(plan.seed)

    async def run() -> tuple[Simulation, float]:
        simulation = Simulation(plan, rng, stores)
        await simulation.run()
        return simulation, trio.current_time()

    with _stores(plan.nodes) as stores:
        simulation, end = trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
        if simulation.faults:
            raise RuntimeError(f"{len(simulation.faults)} faults, the first: {simulation.faults[0]}")
        digests = [digest(store.heads()) for store in stores]
    members = simulation.members
    traffic = [traffic for member in members for traffic in member.traffic]
    return Outcome(
        expected=plan.authors * plan.entries * (plan.nodes - 1),
        delivered=sum(map(len, simulation.delays.values())),
        by_sync=sum(member.by_sync for member in members),
        equal=len(set(digests)) == 1,
        main_delays=simulation.delays["main"],
        trial_delays=simulation.delays["trials"],
        copies_per_message=sum(t.copies for t in traffic) / max(1, sum(t.messages for t in traffic)),
        gossip_bytes_per_node=sum(t.gossip_bytes for t in traffic) / plan.nodes,
        stream_bytes_per_node=sum(t.stream_bytes for t in traffic) / plan.nodes,
        simulated_s=end,
        cpu_s=time.process_time() - started,
        digest=digests[0],
    )


@contextmanager
def _stores(count: int) -> Iterator[list[Store]]:
    """Empty ledgers in memory, copied from one on disk: that takes half a millisecond each."""
    with tempfile.TemporaryDirectory() as folder:
        template = Store.create(Path(folder) / "ledger.db", CHALLENGE)
        stores = []
        for _ in range(count):
            connection = sqlite3.connect(":memory:")
            template.db.conn.backup(connection)
            stores.append(Store(Path(":memory:"), Database(connection, execute_plugins=False)))
        template.close()
        try:
            yield stores
        finally:
            for store in stores:
                store.close()


def _key(rng: random.Random) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(rng.randbytes(32))


def _adoption(entry: Entry) -> Adoption:
    return Adoption(entry=entry, track="cpu", previous=None, discovery=None, reason="simulated", comparison=None)


def _trial(entry: Entry) -> Trial:
    return Trial(entry=entry, track="cpu", seed=1, split="public", result=_FAILED)


_FAILED = Measurement(
    status="crash",
    val_bpb=None,
    evaluated_bytes=0,
    budget_used_s=1.0,
    wall_s=1.0,
    peak_memory_bytes=1,
    weights_bytes=0,
    weights_sha256=None,
    validation_sha256=None,
    program_lines=1,
    reason="simulated",
    hardware=Hardware(machine="m", cpu="c", cores=1, system="s", python="3", torch="2"),
)


def rows(plan: Plan, outcome: Outcome) -> list[tuple[str, str]]:
    """What is told of a run, as name and value."""

    def delays(of: list[float]) -> str:
        if len(of) < 2:
            return "–"
        cuts = statistics.quantiles(of, n=100, method="inclusive")
        return f"{cuts[49] / simnet.HEARTBEAT_S:.2f} / {cuts[98] / simnet.HEARTBEAT_S:.2f} / {max(of):.2f}"

    share = outcome.delivered / max(1, outcome.expected)
    return [
        ("nodes, authors, entries", f"{plan.nodes}, {plan.authors}, {plan.authors * plan.entries}"),
        ("delivered", f"{share:.2%} of {outcome.expected}, {outcome.by_sync / max(1, outcome.delivered):.0%} by sync"),
        ("ledgers", "all equal" if outcome.equal else "NOT equal"),
        ("main: heartbeats p50 / p99 / max", delays(outcome.main_delays)),
        ("trials: heartbeats p50 / p99 / max", delays(outcome.trial_delays)),
        ("copies per message", f"{outcome.copies_per_message:.2f}"),
        ("gossip per node", f"{outcome.gossip_bytes_per_node / limits.KIB:.0f} KiB"),
        ("streams per node", f"{outcome.stream_bytes_per_node / limits.KIB:.0f} KiB"),
        ("simulated", f"{outcome.simulated_s:.0f} s, in {outcome.cpu_s:.0f} s of CPU"),
        ("digest", outcome.digest[:16]),
    ]


@click.command()
@click.option("--nodes", type=click.IntRange(2), default=100, show_default=True)
@click.option("--authors", type=click.IntRange(1), default=20, show_default=True, help="Nodes that state something.")
@click.option("--entries", type=click.IntRange(1), default=10, show_default=True, help="By each author.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--peers", type=click.IntRange(1), default=4, show_default=True, help="That each node dials.")
@click.option("--duration", "duration_s", type=float, default=60.0, show_default=True, help="Of stating, in s.")
@click.option("--loss", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="Share of gossip copies.")
@click.option("--churn", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="Share that leaves once.")
@click.option("--partition", "partition_s", type=float, default=0.0, show_default=True, help="In two halves, in s.")
def main(**options: float) -> None:
    """Simulate a swarm and say how its entries spread."""
    plan = Plan(**options)  # type: ignore[arg-type]
    if plan.authors > plan.nodes:
        raise click.BadParameter("there are no more authors than nodes", param_hint="--authors")
    table = Table(show_header=False)
    for name, value in rows(plan, simulate(plan)):
        table.add_row(name, value)
    Console().print(table)


if __name__ == "__main__":
    main()
