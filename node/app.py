"""The composition root: builds a node out of its parts and owns its tasks from start to end.

Tasks of a running node: the network (transport and mesh), the one loop that uses the compute lane (noise first, then
what others claim, then its own search), and the writer of the status file. All are in one nursery; the first failure
or signal ends all of it, and a trial under way is dropped without a trace in the ledger.
"""

import os
import signal
import statistics
from collections.abc import Callable
from pathlib import Path

import trio
from msgspec import Struct

from gossip.addresses import parse_peer
from gossip.errors import BadAddress, PortInUse
from gossip.events import Event, Kind
from gossip.libp2p_transport import Libp2pTransport
from gossip.mesh import Mesh
from gossip.transport import Transport
from ledger import queries
from ledger.author import Author
from ledger.envelope import Signed
from ledger.store import Store
from node import status
from node.adoption import Adopter
from node.errors import UserError
from node.home import CPU_TRACK, Home
from node.incumbent import IncumbentTree
from node.joining import fetch_challenge
from node.lanes import open_lane
from node.research import Research
from node.verify import Verifier
from node.workbench import Lane, Workbench
from trainer.challenge import Challenge
from trainer.proposers.evolve import Evolve
from trainer.sandbox.preflight import preflight

LISTEN_DEFAULT = "/ip4/127.0.0.1/tcp/0"  # loopback: being reachable from elsewhere is for the user to ask for
STATUS_INTERVAL_S = 1.0
STATUS_WAITING_MAX = 20
FIRST_SYNC_S = 10.0  # how long a node waits to hear of statements of its own that its ledger lacks
IDLE_S = 5.0  # how long the lane waits for news when there is nothing to try

Report = Callable[[str], None]


class Options(Struct, frozen=True, kw_only=True):
    """What `waggle start` was asked."""

    home: Path
    listen: str | None = None  # None: where it listened last, else a free port on loopback
    join: tuple[str, ...] = ()
    trials: int | None = None  # stop after this many; a pair or a verification under way is finished


async def run_node(options: Options, report: Report) -> None:
    """Run a node until it is told to stop or has run its trials.

    Raises `UserError` and the parts' own errors (`SandboxUnavailable`, `GossipError`, `LedgerError` and their kinds)
    for what its user can mend.
    """
    home = Home(options.home)
    with home.locked():
        for address in options.join:
            parse_peer(address)  # raises: no retrying would mend it
        report(f"sandbox: {preflight()}")
        stop = trio.CancelScope()
        failures: list[UserError] = []
        with stop:
            async with trio.open_nursery() as nursery:
                await nursery.start(_stop_on_signal, stop, report)
                transport, listening_on = await _listen(nursery, home, options)
                for address in transport.addresses():
                    report(f"listening on {address}")
                report(f"others join with: waggle start --join {transport.addresses()[0]}")
                if not home.is_initialised():
                    if not options.join:
                        home.challenge()  # raises: there is none, and nowhere to fetch it from
                    await fetch_challenge(transport, home, options.join, report)
                challenge = home.challenge()
                store = home.store(challenge, check=True)

                def refuse(failure: UserError) -> None:
                    failures.append(failure)
                    stop.cancel()

                async with open_lane(challenge, home.corpus_path(challenge, store)) as lane:
                    node = Node(home, challenge, store, transport, lane, report, refuse, listening_on)
                    await nursery.start(node.serve, options.join)
                    await node.work(options.trials)
                stop.cancel()
        if failures:
            raise failures[0]


async def _listen(nursery: trio.Nursery, home: Home, options: Options) -> tuple[Transport, str]:
    """A running transport, where asked; else where it was the last time, so that others find it; else anywhere.

    Also the address to ask for the next time: as asked for now, with the port that it got.
    """
    last = status.read(home.status_file)
    wanted = options.listen or (last.listen if last is not None and last.listen else LISTEN_DEFAULT)
    try:
        transport = Libp2pTransport(home.key(), wanted)
        await nursery.start(transport.run)
    except (PortInUse, BadAddress):
        if options.listen is not None:
            raise
        wanted = LISTEN_DEFAULT
        transport = Libp2pTransport(home.key(), wanted)
        await nursery.start(transport.run)
    place, _, _ = wanted.rpartition("/")
    port = transport.addresses()[0].partition("/p2p/")[0].rpartition("/")[2]
    return transport, f"{place}/{port}"


async def _stop_on_signal(
    stop: trio.CancelScope, report: Report, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """The first SIGINT or SIGTERM stops the node in order; after it the signals have their usual effect again."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            report("stopping; the ledger is safe. Once more kills.")
            stop.cancel()
            return


class Node:
    """The parts of one node, bound to one challenge."""

    def __init__(
        self,
        home: Home,
        challenge: Challenge,
        store: Store,
        transport: Transport,
        lane: Lane,
        report: Report,
        refuse: Callable[[UserError], None],
        listening_on: str = "",
    ) -> None:
        """`refuse` ends the node with an error. `listening_on` is kept for the next start."""
        self._home, self._challenge, self._store, self._transport = home, challenge, store, transport
        self._report, self._refuse = self._note(report), refuse
        self._track = CPU_TRACK if CPU_TRACK in challenge.tracks else next(iter(challenge.tracks))
        self._baseline = challenge.tracks[self._track].baseline
        self._public = home.public_split(challenge)
        self._news = trio.Event()
        self._synced = trio.Event()  # once, with any peer
        self._joined: dict[str, str] = {}  # peer id to address, of --join
        author = Author(store, home.key())
        self._status = status.NodeStatus(
            pid=os.getpid(), peer=author.id, challenge=challenge.digest(), track=self._track, listen=listening_on
        )
        self._mesh = Mesh(transport, store, challenge.digest(), self._observe, self._on_new)
        self._bench = Workbench(store, author, lane, self._track, self._report)
        self._adopter = Adopter(store, author, IncumbentTree(home.incumbent), self._track, self._report)
        self._research = Research(
            store, author, self._bench, self._adopter, Evolve(), self._public, self._report
        )  # fmt: skip
        tracks = {name: track.baseline for name, track in challenge.tracks.items()}
        self._verifier = Verifier(
            store, author, self._bench, self._adopter, home.private_split(), tracks, self._report
        )  # fmt: skip

    async def serve(self, join: tuple[str, ...], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The network and the status file, until cancelled. Known peers are dialled again, `join` ones above all."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._mesh.run)
            self._joined = {self._transport.keep_connected(address): address for address in join}
            for peer, address in self._store.peers().items():
                if peer not in self._joined:
                    self._transport.keep_connected(address)
            nursery.start_soon(self._write_status)
            task_status.started()

    async def work(self, trials: int | None) -> None:
        """Use the compute lane: noise first, then what others claim, then the node's own search."""
        await self._hear_of_own_past()
        await self._publish(self._adopter.begin(self._baseline))
        noise = await self._bench.noise(self._baseline, self._public)
        self._report(f"two runs of the baseline differ by {noise:.4f} bpb (standard deviation)")
        if (left := self._verifier.interrupted()) is not None:
            await self._publish(await self._verifier.consider(*left, noise))
        while trials is None or self._bench.trials_run < trials:
            self._news = trio.Event()
            claimed = self._verifier.next()
            statements = (
                await self._research.step(noise) if claimed is None else await self._verifier.step(claimed, noise)
            )
            if statements is None:
                with trio.move_on_after(IDLE_S):
                    await self._news.wait()
            else:
                await self._publish(statements)
        self._report(f"done: {self._bench.trials_run} trials run")

    async def _hear_of_own_past(self) -> None:
        """Sync once before stating anything.

        The ledger may be lost or an old backup while the key is not: then the rest of this node's own feeds comes back
        from peers, and a statement made before that would be a second history under the same key, which is what a
        liar signs.
        """
        if self._joined or self._store.peers():
            with trio.move_on_after(FIRST_SYNC_S):
                await self._synced.wait()
        while (missing := self._adopter.missing_program()) is not None:
            self._report(f"waiting for the text of the incumbent {missing[:8]} to come back from a peer")
            self._news = trio.Event()
            await self._news.wait()

    async def _publish(self, statements: list[Signed]) -> None:
        for signed in statements:
            await self._mesh.publish(signed)

    def _hear(self) -> None:
        self._verifier.hear()
        self._news.set()

    def _remember(self, event: Event) -> None:
        """Keep where a peer was reached; of what it announces, the first, unless a kept one is still among it."""
        known = self._store.peers().get(event.peer)
        if (dialled := self._joined.get(event.peer)) is not None:
            self._store.remember_peer(event.peer, dialled)
        elif event.addresses and known not in event.addresses:
            self._store.remember_peer(event.peer, event.addresses[0])

    def _on_new(self, signed: Signed) -> None:
        self._hear()
        if signed.statement.kind != "trial":
            self._report(f"received {signed.statement.kind} {signed.id[:16]} of {signed.statement.entry.author[-8:]}")

    def _observe(self, event: Event) -> None:
        if event.kind is Kind.PEER_STATUS:
            self._remember(event)
        # Only at the start, when somebody is there to read it: a peer must not be able to end a node that works.
        if event.kind is Kind.OTHER_SWARM and event.peer in self._joined and not self._synced.is_set():
            self._refuse(
                UserError(
                    f"{self._home.path} is the home of challenge {self._challenge.digest()[:12]}, and the peer to join "
                    f"is of another swarm ({event.detail}). Join another challenge with a fresh --home."
                )
            )
        if event.kind is Kind.EQUIVOCATION and event.detail.startswith(self._status.peer):
            self._refuse(
                UserError(
                    f"peers hold other statements under this node's key than {self._home.path} does ({event.detail}): "
                    "an old backup went on by itself, or two nodes share a key. Go on with a fresh --home; "
                    "what this one has published stands in the ledgers of its peers."
                )
            )
        if event.kind is Kind.PEER_SYNCED:
            self._synced.set()
        if event.kind in (Kind.ENTRIES_RECEIVED, Kind.BLOB_RECEIVED):
            self._hear()
        else:
            self._report(f"network: {event.kind} {event.peer[-8:]} {event.detail}".rstrip())

    def _note(self, report: Report) -> Report:
        """Reports also become the activity that the status shows."""

        def noting(line: str) -> None:
            if not line.startswith(("network:", "received ")):
                self._status.activity = line
            report(line)

        return noting

    async def _write_status(self) -> None:
        while True:
            now = self._status
            now.addresses, now.peers = list(self._transport.addresses()), sorted(self._transport.peers())
            now.trials = self._bench.trials_run
            adopted = queries.last_adoption(self._store, now.peer, self._track)
            if adopted is not None:
                now.incumbent = adopted.program
                runs = queries.trials(self._store, now.peer, adopted.program, self._public.name)
                scores = [run.val_bpb for run in runs if run.val_bpb is not None]
                now.incumbent_bpb = statistics.fmean(scores) if scores else None
            now.waiting = dict(list(self._verifier.reasons.items())[-STATUS_WAITING_MAX:])
            try:
                status.write(self._home.status_file, now)
            except OSError as error:  # a full disk, say: the status is information only
                self._report(f"the status was not written: {error}")
            await trio.sleep(STATUS_INTERVAL_S)
