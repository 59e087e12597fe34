"""A node in a process of its own: what it runs (as a script), and how a test starts, asks, stops and kills it.

The two speak JSON lines: a command on the node's stdin, what it has to say on its stdout.
"""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE
from typing import Any

import psutil
import trio

from gossip import limits
from gossip.events import Event, Kind
from gossip.libp2p_transport import Libp2pTransport
from gossip.mesh import Mesh
from ledger.author import Author
from ledger.store import Store

SUPPORT = Path(__file__).parent
CHECKOUT = SUPPORT.parents[1]
PATIENCE_S = 30.0


def holding(store: Store) -> dict[str, Any]:
    """How many entries a ledger has, and a digest of its heads: equal exactly if all feeds have the same last entry."""
    heads = sorted(store.heads().items())
    lines = [f"{author} {feed} {head.seq} {head.id}\n" for (author, feed), head in heads]
    return {
        "entries": sum(head.seq + 1 for _, head in heads),
        "digest": hashlib.sha256("".join(lines).encode()).hexdigest(),
    }


class NodeProcess:
    """A running node. It may be started again after `kill`, with the same key, ledger and port."""

    def __init__(self, nursery: trio.Nursery, folder: Path, number: int, listen: str = "/ip4/127.0.0.1/tcp/0") -> None:
        """`number` makes its key, as in examples.key."""
        self._nursery, self._folder, self._number, self._listen = nursery, folder, number, listen
        self.said: list[dict[str, Any]] = []
        self._news = trio.Event()

    async def start(self) -> "NodeProcess":
        self.said.clear()
        self._folder.mkdir(exist_ok=True)
        self._process: trio.Process = await self._nursery.start(self._run)
        self.address: str = (await self.until("up"))["up"]
        self.id = self.address.rpartition("/")[2]
        self._listen = self.address.partition("/p2p/")[0]
        return self

    async def _run(self, task_status: trio.TaskStatus[trio.Process]) -> None:
        arguments = [sys.executable, str(Path(__file__)), str(self._folder), str(self._number), self._listen]
        environment = os.environ | {"PYTHONPATH": f"{CHECKOUT}:{SUPPORT}"}
        async with trio.open_nursery() as nursery:
            process = await nursery.start(
                lambda task_status: trio.run_process(
                    arguments, stdin=PIPE, stdout=PIPE, env=environment, check=False, task_status=task_status
                )
            )
            task_status.started(process)
            held = b""
            async for part in process.stdout:
                *lines, held = (held + part).split(b"\n")
                self.said += map(json.loads, lines)
                self._news.set()
                self._news = trio.Event()

    async def until(self, key: str, condition: Callable[[Any], bool] = lambda _: True) -> dict[str, Any]:
        """The first thing said under this key that meets the condition."""
        with trio.move_on_after(PATIENCE_S):
            while True:
                for one in self.said:
                    if key in one and condition(one[key]):
                        return one
                await self._news.wait()
        raise AssertionError(f"did not say {key!r} in {PATIENCE_S} s, but {self.said[-20:]}")

    async def ask(self, command: str, **arguments: Any) -> Any:
        """The answer to a command; see `_obey`."""
        number = sum("answer" in one for one in self.said)
        assert self._process.stdin is not None
        await self._process.stdin.send_all(json.dumps({"command": command, **arguments}).encode() + b"\n")
        with trio.fail_after(PATIENCE_S):
            while len(answers := [one["answer"] for one in self.said if "answer" in one]) <= number:
                await self._news.wait()
        return answers[number]

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self._process.wait()

    def memory_bytes(self) -> int:
        """Resident now."""
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def is_running(self) -> bool:
        return self._process.poll() is None


async def _serve(folder: Path, number: int, listen: str) -> None:
    limits.PING_INTERVAL_S, limits.PING_DEADLINE_S = 1.0, 1.0  # a frozen peer is found out within 3 s
    limits.REDIAL_S_MAX = 2.0
    from examples import CHALLENGE, key
    from loopback import statement

    path = folder / "ledger.db"
    store = Store.open(path) if path.exists() else Store.create(path, CHALLENGE)
    author = Author(store, key(number))
    transport = Libp2pTransport(key(number), listen)

    def say(**what: Any) -> None:
        print(json.dumps(what), flush=True)

    def observe(event: Event) -> None:
        if event.kind is not Kind.DIAL_FAILED:
            say(event=event.kind.value, peer=event.peer, detail=event.detail)

    mesh = Mesh(transport, store, CHALLENGE, observe, lambda signed: say(new=signed.id), sync_interval_s=0.5)

    async def obey(command: str, address: str = "") -> Any:
        if command == "state":
            signed = author.append("main", "b" * 64, statement)
            await mesh.publish(signed)
            return signed.id
        if command == "join":
            return transport.keep_connected(address)
        if command == "metrics":
            return transport.metrics.snapshot()
        return holding(store)

    async with trio.open_nursery() as nursery:
        await nursery.start(transport.run)
        await nursery.start(mesh.run)
        say(up=transport.addresses()[0])
        held = b""
        async for part in trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())):
            *lines, held = (held + part).split(b"\n")
            for line in lines:
                say(answer=await obey(**json.loads(line)))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(_serve, Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
