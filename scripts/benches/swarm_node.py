"""One node of ours, transport, ledger and mesh, in a process to be measured by gossip.py.

Arguments: its folder, and `node`, or `transport` for the transport alone, without ledger and mesh.
"""

import os
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import psutil
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benches.processes import Window, obey
from gossip.blobs import Download
from gossip.events import Event
from gossip.exchange import digest
from gossip.libp2p_transport import Libp2pTransport
from gossip.mesh import Mesh
from gossip.protocols import topic_of
from gossip.screen import Verdict
from ledger.author import Author
from ledger.envelope import Signed
from ledger.predicates import Adoption, Entry
from ledger.store import Store

CHALLENGE = "c" * 64  # as entries.py has it; to import that would bring the trainer into every process
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
REASON = "measured " * 50  # makes an envelope about as long as those of a swarm's main feeds
NAME_CHARS = 32
_SAMPLE_S = 0.02


def statement(entry: Entry) -> Adoption:
    return Adoption(entry=entry, track="cpu-quick", previous=None, discovery=None, reason=REASON, comparison=None)


def key_of(folder: Path) -> Ed25519PrivateKey:
    """The key in the folder, made the first time."""
    path = folder / "key"
    if not path.exists():
        path.write_bytes(Ed25519PrivateKey.generate().private_bytes_raw())
    return Ed25519PrivateKey.from_private_bytes(path.read_bytes())


def unheard(event: Event) -> None:
    """The measurements count for themselves."""


class Node:
    """What the commands act on."""

    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        self.window = Window()
        self._folder, self._nursery = folder, nursery
        path = folder / "ledger.db"
        key = key_of(folder)
        self._store = Store.open(path) if path.exists() else Store.create(path, CHALLENGE)
        self._author = Author(self._store, key)
        self.transport = Libp2pTransport(key, LOOPBACK)
        self._mesh = Mesh(
            self.transport, self._store, CHALLENGE, unheard, self._on_new,
            find=lambda name: folder / name if (folder / name).is_file() else None,
        )  # fmt: skip
        self._taken, self._awaited = 0, 0  # entries of others
        self._peak_bytes = 0
        self._quiet = trio.CancelScope()
        self._arrived = trio.Event()

    def _on_new(self, signed: Signed) -> None:
        self.window.received(signed.id)
        self._taken += 1
        if self._taken == self._awaited:
            self._arrived.set()

    async def run(self) -> None:
        await self._nursery.start(self.transport.run)
        await self._nursery.start(self._mesh.run)

    async def publish(self, number: int) -> None:
        with self.window.aside():  # stating and keeping one's own is not delivery
            signed = self._author.append("main", "b" * 64, statement)
        self.window.publishing(signed.id)
        await self._mesh.publish(signed)

    async def chatter(self, interval_s: float) -> None:
        """State something now and then, until `quiet`."""
        self._quiet = trio.CancelScope()
        self._nursery.start_soon(self._chatter, interval_s)

    async def _chatter(self, interval_s: float) -> None:
        with self._quiet:
            while True:
                await trio.sleep(interval_s)
                await self._mesh.publish(self._author.append("main", "b" * 64, statement))

    async def quiet(self) -> None:
        """State nothing more."""
        self._quiet.cancel()

    async def catch_up(self, address: str, count: int) -> dict[str, float]:
        """Seconds, by the clock and of CPU, from dialling until `count` entries are here."""
        self._awaited = self._taken + count
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        self.transport.keep_connected(address)
        await self._arrived.wait()
        return {"seconds": time.perf_counter() - began_s, "cpu_s": time.process_time() - began_cpu_s}

    async def fetch(self, addresses: list[str], name: str, size: int) -> float:
        """Seconds that it takes to fetch the blob `name` into a file."""
        peers = [await self.transport.connect(address) for address in addresses]
        began_s = time.perf_counter()
        await Download(self._folder / name, name, size).from_peers(self.transport, peers)
        return time.perf_counter() - began_s

    async def watch_memory(self) -> int:
        """Resident now, bytes; from now on the largest is noted."""
        self._peak_bytes = now = int(psutil.Process().memory_info().rss)

        async def watch() -> None:
            process = psutil.Process()
            while True:
                self._peak_bytes = max(self._peak_bytes, process.memory_info().rss)
                await trio.sleep(_SAMPLE_S)

        self._nursery.start_soon(watch)
        return now

    async def peak_memory(self) -> int:
        return self._peak_bytes

    async def sample(self) -> dict[str, float]:
        """What must not grow."""
        process = psutil.Process()
        return {
            "tasks": trio.lowlevel.current_statistics().tasks_living,
            "memory_mb": process.memory_info().rss / 1e6,
            "descriptors": process.num_fds(),
            "peers": len(self.transport.peers()),
        }

    async def holding(self) -> list[object]:
        """How many entries are here, and a digest of the heads."""
        heads = self._store.heads()
        return [sum(head.seq + 1 for head in heads.values()), digest(heads)]


async def main(folder: Path, what: str) -> None:
    async with trio.open_nursery() as nursery:
        node = Node(folder, nursery)
        publish: Callable[[int], Awaitable[None]] = node.publish
        if what == "node":
            await node.run()
        else:
            publish = await run_transport(node, nursery)

        async def address() -> str:
            return node.transport.addresses()[0]

        async def dial(addresses: list[str]) -> None:
            for each in addresses:
                node.transport.keep_connected(each)

        async def mesh_peers() -> int:
            return int(node.transport.metrics.snapshot()["gossip_mesh_peers"])

        await obey(
            {
                "address": address, "dial": dial, "mesh_peers": mesh_peers, "chatter": node.chatter,
                "quiet": node.quiet, "catch_up": node.catch_up, "fetch": node.fetch, "sample": node.sample,
                "watch_memory": node.watch_memory, "peak_memory": node.peak_memory, "holding": node.holding,
                **node.window.commands(publish),
            }
        )  # fmt: skip
        nursery.cancel_scope.cancel()


async def run_transport(node: Node, nursery: trio.Nursery) -> Callable[[int], Awaitable[None]]:
    """Gossip of bytes that nobody looks into; what is returned publishes one message."""
    topic = topic_of(CHALLENGE)
    await nursery.start(node.transport.run)
    messages = await node.transport.join(topic, lambda peer, message: Verdict.ACCEPT)

    async def receive() -> None:
        async for _, message in messages:
            node.window.received(message[:NAME_CHARS].decode())

    nursery.start_soon(receive)

    async def publish(message_bytes: int, number: int) -> None:
        name = os.urandom(NAME_CHARS // 2).hex()
        message = name.encode() + os.urandom(message_bytes - NAME_CHARS)
        node.window.publishing(name)
        await node.transport.publish(topic, message)

    return partial(publish, int(sys.argv[3]))


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), sys.argv[2])
