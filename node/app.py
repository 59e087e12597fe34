"""The composition root: builds a node out of its parts and owns its tasks from start to end.

Tasks of a running node: the network (transport and mesh), the work on its compute lane (work.py; an observer has
none), and the writer of the status file. All are in one nursery; the first failure or signal ends all of it, and a
trial under way is dropped without a trace in the ledger.
"""

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path

import trio
from msgspec import Struct
from rich.console import Console

from gossip.addresses import Endpoint, Scope, parse_peer
from gossip.errors import BadAddress, PortInUse
from gossip.events import Event, Kind
from gossip.libp2p_transport import Libp2pTransport
from gossip.mdns import announce_and_listen
from gossip.mesh import Mesh
from gossip.peerbook import reach_of
from gossip.peering import Peering
from gossip.peerstore import PeerStore
from gossip.records import announced, parse_announced
from ledger.author import Author
from ledger.envelope import Signed
from ledger.store import Store
from node import status
from node.charter import Charter
from node.claims import ClaimBook
from node.corpora import progress_bars
from node.courses import Courses
from node.errors import UserError
from node.governance import Governance, Observed
from node.home import Home
from node.invite import accept
from node.joining import fetch_challenge
from node.lanes import open_lane
from node.proposers import Chosen, choose, read_settings
from node.tracks import choose_track
from node.trust import Trust
from node.work import Outside, Work
from node.workbench import Lane
from policy.gate import Action
from trainer.challenge import Challenge
from trainer.proposers.briefing import Setting
from trainer.sandbox.command import SandboxUnavailable
from trainer.sandbox.preflight import preflight
from trainer.tokens import tokenizer_for

LISTEN_DEFAULT = "/ip4/127.0.0.1/tcp/0"  # loopback: being reachable from elsewhere is for the user to ask for
STATUS_INTERVAL_S = 1.0
FIRST_SYNC_S = 10.0  # how long a node waits to hear of statements of its own that its ledger lacks

Report = Callable[[str], None]


class Options(Struct, frozen=True, kw_only=True):
    """What `waggle start` was asked."""

    home: Path
    listen: str | None = None  # None: where it listened last, else a free port on loopback
    join: tuple[str, ...] = ()  # addresses that end in a peer id, and links of `waggle invite`
    announce: tuple[str, ...] = ()  # where this node can be dialled, if its own interfaces do not show it
    mdns: bool | None = None  # look for peers on the local network; None: unless listening on loopback only
    swarm_key: Path | None = None  # file with the key of the private swarm to join
    observe: bool = False  # hold, serve and gossip the ledger; run nothing
    track: str | None = None  # None: one for the CPU
    proposers: tuple[str, ...] = ()  # their names; empty: those of the home's settings
    trials: int | None = None  # stop after this many; a pair or a verification under way is finished


async def run_node(options: Options, report: Report) -> None:
    """Run a node until it is told to stop or has run its trials.

    Raises `UserError` and the parts' own errors (`SandboxUnavailable`, `GossipError`, `LedgerError` and their kinds)
    for what its user can mend.
    """
    home = Home(options.home)
    with home.locked():
        invitation = accept(home, options.join, options.swarm_key)  # raises: no retrying would mend it
        announce = [parse_announced(address) for address in options.announce]
        if not options.observe:
            report(f"sandbox: {_sandbox()}")
        stop = trio.CancelScope()
        failures: list[UserError] = []
        with stop:
            async with trio.open_nursery() as nursery:
                await nursery.start(_stop_on_signal, stop, report)
                transport, listening_on = await _listen(nursery, home, options)
                for address in transport.addresses():
                    report(f"listening on {address}")
                if home.swarm_key() is None:
                    report(f"others join with: waggle start --join {transport.addresses()[0]}")
                else:
                    report(f"private swarm; others join with the link of: waggle invite --home {home.path}")
                if not home.is_initialised():
                    if not invitation.addresses:
                        home.challenge()  # raises: there is none, and nowhere to fetch it from
                    with progress_bars(Console(stderr=True)) as progress:
                        await fetch_challenge(
                            transport, home, invitation.addresses, report,
                            invited_to=invitation.challenge, progress=progress,
                        )  # fmt: skip
                challenge = home.challenge()
                track = choose_track(challenge, options.track)
                if not options.observe:
                    _sandbox(challenge.tracks[track].device)
                store = home.store(challenge, check=True)
                store.tidy()

                def refuse(failure: UserError) -> None:
                    failures.append(failure)
                    stop.cancel()

                node = Node(home, challenge, store, transport, report, refuse, listening_on, announce)
                await nursery.start(node.serve, invitation.addresses)
                endpoints = announced(transport.addresses())
                mdns = reach_of(endpoints) is not Scope.LOOPBACK if options.mdns is None else options.mdns
                if mdns and endpoints:
                    nursery.start_soon(node.look_nearby, endpoints)
                if options.observe:
                    node.report("observing: this node holds and serves the ledger, and runs no program")
                    await trio.sleep_forever()
                corpus, tokenizer = home.corpus_path(challenge, store), home.tokenizer_path(challenge, store)
                await node.work_in(
                    lambda: open_lane(challenge, corpus, tokenizer),
                    track,
                    options.trials,
                    try_sandbox=True,
                    proposers=options.proposers,
                )
                stop.cancel()
        if failures:
            raise failures[0]


def _sandbox(device: str = "cpu") -> str:
    """What kind of sandbox works here for tracks of this device.

    Raises `SandboxUnavailable`, with what is possible without one.
    """
    try:
        return preflight(device)
    except SandboxUnavailable as error:
        raise SandboxUnavailable(
            f"{error}. Without a sandbox this node can still hold and serve the ledger: waggle start --observe"
        ) from error


async def _listen(nursery: trio.Nursery, home: Home, options: Options) -> tuple[Libp2pTransport, str]:
    """A running transport, where asked; else where it was the last time, so that others find it; else anywhere.

    Also the address to ask for the next time: as asked for now, with the port that it got.
    """
    last = status.read(home.status_file)
    wanted = options.listen or (last.listen if last is not None and last.listen else LISTEN_DEFAULT)
    try:
        transport = Libp2pTransport(home.key(), wanted, psk=home.swarm_key())
        await nursery.start(transport.run)
    except (PortInUse, BadAddress):
        if options.listen is not None:
            raise
        wanted = LISTEN_DEFAULT
        transport = Libp2pTransport(home.key(), wanted, psk=home.swarm_key())
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
    """The network side of one node, bound to one challenge; `work_on` adds the work."""

    def __init__(
        self,
        home: Home,
        challenge: Challenge,
        store: Store,
        transport: Libp2pTransport,
        report: Report,
        refuse: Callable[[UserError], None],
        listening_on: str = "",
        announce: Sequence[Endpoint] = (),
    ) -> None:
        """`refuse` ends the node with an error. `listening_on` is kept for the next start.

        `announce`: where this node can be dialled, beside its own interfaces.
        """
        self._home, self._challenge, self._store, self._transport = home, challenge, store, transport
        self._say, self._refuse = report, refuse
        self._synced = trio.Event()  # once, with any peer
        self._joined: set[str] = set()  # peer ids, of --join
        self._work: Work | None = None
        self._charter = Charter(store, challenge)
        self._governance: Governance | None = None  # of an observer, none
        self._past_heard = False
        self._constitutions: dict[str, str] = {}  # connected peer → digest of what it says is in force with it
        self._mesh = Mesh(
            transport, store, challenge.digest(), self._observe, self._on_new,
            find=home.blob_file, constitution=lambda: self._charter.term().constitution,
        )  # fmt: skip
        transport.metrics.gauge("sync_lag_seconds", self._mesh.sync_lag_s)
        self._peering = Peering(
            transport, PeerStore(store), home.key(), challenge.digest(), self._observe, transport.guard,
            announce=announce,
        )  # fmt: skip
        self._announced = [f"{endpoint}/p2p/{transport.peer_id}" for endpoint in announce]
        self._status = status.NodeStatus(
            pid=os.getpid(), peer=transport.peer_id, challenge=challenge.digest(), listen=listening_on
        )

    async def serve(self, join: tuple[str, ...], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The network and the status file, until cancelled. Some known peers are dialled, and `join` ones always."""
        async with trio.open_nursery() as nursery:
            self._joined = {parse_peer(address)[1] for address in join}
            await nursery.start(self._mesh.run)
            await nursery.start(self._peering.run, join)
            nursery.start_soon(self._write_status)
            task_status.started()

    async def work_on(self, lane: Lane, track: str, trials: int | None) -> None:
        """Use a compute lane for one track, until cancelled or about `trials` trials have been run."""
        await self.work_in(lambda: nullcontext(lane), track, trials)

    async def work_in(
        self,
        open_lane: Callable[[], AbstractAsyncContextManager[Lane]],
        track: str,
        trials: int | None,
        *,
        try_sandbox: bool = False,
        proposers: tuple[str, ...] = (),
    ) -> None:
        """As `work_on`, with a lane that is closed while the gate stops the node: what runs in it is dropped.

        `try_sandbox`: also try the sandbox again now and then. `proposers`: their names, or those of the settings.
        """
        await self._hear_of_own_past()
        author = Author(self._store, self._home.key())
        courses = Courses(self._home.courses_file)
        trust = Trust(self._store, author.id, courses.bans)
        chosen = self._choose_proposers(track, proposers)
        for past in ClaimBook(self._store, author, track).own_past():
            chosen.learn(*past)
        gate = self._governance = Governance(
            self._home, self._charter, self._store, author, self.report,
            publish=self._mesh.publish, changed=self._hear,
            observed=Observed(
                self._home, self._store, author.id, standing=trust.verdict_weights, money_today=chosen.usd_today
            ),
            device=self._challenge.tracks[track].device if try_sandbox else None,
        )  # fmt: skip
        outside = Outside(
            self.report, self._mesh.publish, self._hear_of_own_past, self._charter, gate, trust, courses
        )  # fmt: skip
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(gate.watch)
                stopped = True
                while stopped:
                    await gate.until_allowed(Action.TRIAL)
                    with gate.while_allowed(Action.TRIAL) as scope:
                        async with open_lane() as lane:
                            self._work = Work(self._home, self._challenge, track, self._store, lane, outside, chosen)
                            await self._work.run(trials)
                    stopped = scope.cancelled_caught
                nursery.cancel_scope.cancel()
        finally:
            chosen.close()

    def _choose_proposers(self, track: str, names: tuple[str, ...]) -> Chosen:
        """Raises `UserError`."""
        found = self._challenge.tracks[track]
        file = self._home.tokenizer_path(self._challenge, self._store)
        tokenizer = tokenizer_for(self._challenge, None if file is None else file.read_bytes())
        setting = Setting(
            challenge=self._challenge.name, track=track, device=found.device, clock=found.clock,
            budget_s=found.budget_s, threads=found.threads, memory_bytes=found.memory_bytes, seq_len=found.seq_len,
            vocab_size=tokenizer.vocab_size,
        )  # fmt: skip

        def forbids_pay() -> str | None:
            return None if self._governance is None else self._governance.forbids(Action.PAY)

        return choose(
            names, read_settings(self._home.settings_file), setting, self._home.accounts_file, os.environ,
            forbids_pay=forbids_pay, report=self.report, transfers=len(self._challenge.tracks) > 1,
        )  # fmt: skip

    async def look_nearby(self, endpoints: Sequence[Endpoint]) -> None:
        """Announce this node on the local network, and dial who does likewise."""
        try:
            await announce_and_listen(
                self._transport.peer_id, endpoints, self._peering.found_nearby, psk=self._home.swarm_key()
            )
        except OSError as error:  # no multicast here: the other ways of finding peers are left
            self._say(f"the local network cannot be searched for peers: {error}")

    def report(self, line: str) -> None:
        """A line for the user, which the status shows as what the node is doing."""
        self._status.activity = line
        self._say(line)

    async def _hear_of_own_past(self) -> None:
        """Sync once before anything is stated.

        The ledger may be lost or an old backup while the key is not: then the rest of this node's own feeds comes back
        from peers, and a statement made before that would be a second history under the same key, which is what a
        liar signs.
        """
        if not self._past_heard and (self._joined or self._peering.knows_anybody()):
            with trio.move_on_after(FIRST_SYNC_S):
                await self._synced.wait()
        self._past_heard = True

    def _hear(self) -> None:
        if self._work is not None:
            self._work.hear()

    def _on_new(self, signed: Signed) -> None:
        self._hear()
        if signed.statement.kind != "trial":
            self._say(f"received {signed.statement.kind} {signed.id[:16]} of {signed.statement.entry.author[-8:]}")

    def _observe(self, event: Event) -> None:
        if event.kind is Kind.OTHER_SWARM:
            self._peering.forget(event.peer)
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
        if event.kind is Kind.PEER_STATUS and event.constitution is not None:
            self._constitutions[event.peer] = event.constitution
        if event.kind in (Kind.ENTRIES_RECEIVED, Kind.BLOB_RECEIVED):
            self._hear()
        else:
            self._say(f"network: {event.kind} {event.peer[-8:]} {event.detail}".rstrip())

    async def _write_status(self) -> None:
        while True:
            now = self._status
            now.addresses = list(dict.fromkeys((*self._announced, *self._transport.addresses())))
            now.peers = sorted(self._transport.peers())
            now.network = self._transport.metrics.snapshot()
            self._constitutions = {one: said for one, said in self._constitutions.items() if one in now.peers}
            now.unknown_constitutions = {
                peer: said for peer, said in self._constitutions.items() if not self._charter.knows(said)
            }
            if self._work is not None:
                self._work.tell(now)
            if self._governance is not None:
                now.gate = self._governance.status()
            try:
                status.write(self._home.status_file, now)
            except OSError as error:  # a full disk, say: the status is information only
                self._say(f"the status was not written: {error}")
            await trio.sleep(STATUS_INTERVAL_S)
