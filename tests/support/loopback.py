"""Whole nodes, one transport, ledger and mesh each, in the test's own event loop: on loopback, or over simnet."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gossip.events import Event, Kind
from gossip.libp2p_transport import Libp2pTransport
from gossip.mesh import Mesh
from gossip.simnet import Network, SimTransport
from ledger.author import Author
from ledger.envelope import Signed, peer_id
from ledger.predicates import (
    Adoption,
    Comparison,
    Discovery,
    Entry,
    Feed,
    Hardware,
    Measurement,
    Trial,
)
from ledger.store import Store

CHALLENGE = "c" * 64
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
PATIENCE_S = 20.0

NO_PAIRS = Comparison(
    split="public", seeds=(), parent_trials=(), child_trials=(), differences=(),
    mean=0.0, low=0.0, high=0.0, p_value=1.0, noise=0.0,
)  # fmt: skip


CRASH = Measurement(
    status="crash", val_bpb=None, evaluated_bytes=0, budget_used_s=1.0, wall_s=1.0, peak_memory_bytes=1,
    weights_bytes=0, weights_sha256=None, validation_sha256=None, program_lines=1, reason="a test",
    hardware=Hardware(machine="m", cpu="c", cores=1, system="s", python="3", torch="2"),
)  # fmt: skip


def statement(entry: Entry) -> Adoption | Trial:
    """The least that can be said in the entry's feed."""
    if entry.feed == "trials":
        return Trial(entry=entry, track="cpu", seed=1, split="public", result=CRASH)
    return Adoption(entry=entry, track="cpu", previous=None, discovery=None, reason="a test", comparison=None)


class News:
    """Rings whenever anything is observed at any node of one test."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def ring(self) -> None:
        self._event.set()
        self._event = trio.Event()

    async def wait(self) -> None:
        await self._event.wait()


class Watch:
    """Everything that was observed at one node, and waiting for it."""

    def __init__(self, news: News) -> None:
        self.events: list[Event] = []
        self.new: list[Signed] = []
        self._news = news

    def observe(self, event: Event) -> None:
        self.events.append(event)
        self._news.ring()

    def on_new(self, signed: Signed) -> None:
        self.new.append(signed)
        self._news.ring()

    def of(self, kind: Kind, peer: str | None = None) -> list[Event]:
        return [event for event in self.events if event.kind is kind and peer in (None, event.peer)]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for news, of any node, until `condition` holds; say what was seen here if it does not in time."""
        with trio.move_on_after(PATIENCE_S):
            while not condition():
                await self._news.wait()
            return
        raise AssertionError(f"did not happen in {PATIENCE_S} s; events: {self.events}")

    async def event(self, kind: Kind, peer: str | None = None, count: int = 1) -> Event:
        await self.until(lambda: len(self.of(kind, peer)) >= count)
        return self.of(kind, peer)[count - 1]


class Node:
    """A node whose parts a test can reach. `start` may be called again after `stop`: same key, ledger and port."""

    def __init__(
        self,
        nursery: trio.Nursery,
        news: News,
        folder: Path,
        challenge: str,
        sync_interval_s: float,
        make_transport: Callable[[Ed25519PrivateKey, str], Any] = Libp2pTransport,
    ) -> None:
        folder.mkdir()
        self._make_transport = make_transport
        self._nursery, self._news = nursery, news
        self._challenge, self._interval_s = challenge, sync_interval_s
        self.key = Ed25519PrivateKey.generate()
        self.store = Store.create(folder / "ledger.db", challenge)
        self.author = Author(self.store, self.key)
        self.listen = LOOPBACK

    async def start(self, *, mesh: bool = True) -> "Node":
        self.watch = Watch(self._news)
        self.transport = self._make_transport(self.key, self.listen)
        self.mesh = Mesh(
            self.transport, self.store, self._challenge, self.watch.observe, self.watch.on_new,
            sync_interval_s=self._interval_s,
        )  # fmt: skip
        await self._nursery.start(self._run, mesh)
        return self

    async def _run(self, mesh: bool, task_status: trio.TaskStatus[None]) -> None:
        self._stopped = trio.Event()
        with trio.CancelScope() as self._scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.transport.run)
                self.listen = self.address.partition("/p2p/")[0]
                if mesh:
                    await nursery.start(self.mesh.run)
                task_status.started()
        self._stopped.set()

    async def stop(self) -> None:
        self._scope.cancel()
        await self._stopped.wait()

    @property
    def id(self) -> str:
        return self.transport.peer_id

    @property
    def address(self) -> str:
        return self.transport.addresses()[0]

    def state(self, feed: Feed = "main") -> Signed:
        return self.author.append(feed, "b" * 64, statement)

    def discover(self, parent: bytes, child: bytes) -> Signed:
        """A discovery whose two programs are in this node's ledger."""
        before, after = self.store.blobs.put(parent), self.store.blobs.put(child)
        return self.author.append(
            "main", after,
            lambda entry: Discovery(
                entry=entry, track="cpu", parent=before, hypothesis="?", proposer="test", comparison=NO_PAIRS
            ),
        )  # fmt: skip


def sim_nodes(
    nursery: trio.Nursery, folder: Path, network: Network, *, sync_interval_s: float = 5.0
) -> Callable[[], Node]:
    """Makes nodes over a network in memory. The test needs a `MockClock` that jumps."""
    news = News()

    def make_transport(key: Ed25519PrivateKey, listen: str) -> SimTransport:
        return SimTransport(network, peer_id(key.public_key()), listen)

    def make() -> Node:
        place = folder / str(len(list(folder.iterdir())))
        return Node(nursery, news, place, CHALLENGE, sync_interval_s, make_transport)

    return make
