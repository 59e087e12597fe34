"""A foreign client, in JavaScript and without any code of ours, as a peer of real nodes."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
import trio
from loopback import CHALLENGE, CRASH, PATIENCE_S, News, Node
from msgspec.structs import replace

from gossip.events import Kind
from gossip.protocols import topic_of
from gossip.wire import PEERS, PeersReply, PeersRequest, encode, receive
from ledger.predicates import Trial

CLIENT = Path(__file__).with_name("js")
NODE_MAJOR_MIN = 20
INSTALL_DEADLINE_S = 180
OFFLINE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ENETUNREACH", "ETIMEDOUT", "ERR_SOCKET_TIMEOUT")


@pytest.fixture(scope="session")
def command() -> list[str]:
    """How to start the client, with its packages installed once for each lock file."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("the foreign client needs node and npm, which are not on the PATH")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.lstrip("v").partition(".")[0]) < NODE_MAJOR_MIN:
        pytest.skip(f"the foreign client needs node {NODE_MAJOR_MIN}, and this is {version}")
    lock = hashlib.sha256(CLIENT.joinpath("package-lock.json").read_bytes()).hexdigest()
    installed = CLIENT / "node_modules" / ".installed"
    if not installed.exists() or installed.read_text() != lock:
        _install(npm)
        installed.write_text(lock)
    return [node, str(CLIENT / "client.mjs")]


def _install(npm: str) -> None:
    arguments = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline", "--fetch-retries=1"]
    try:
        done = subprocess.run(
            arguments, cwd=CLIENT, capture_output=True, text=True, check=False, timeout=INSTALL_DEADLINE_S
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm ci did not end in {INSTALL_DEADLINE_S} s; is the package registry reachable?")
    if done.returncode and any(code in done.stderr for code in OFFLINE):
        pytest.skip("npm ci does not reach the package registry, and the packages are not here yet")
    assert done.returncode == 0, done.stderr


class Client:
    """The running program: what it has said so far, and a way to tell it something."""

    def __init__(self, process: trio.Process) -> None:
        self._process, self._news = process, News()
        self._said: list[dict[str, Any]] = []

    async def listen(self) -> None:
        assert self._process.stdout is not None
        rest = b""
        async for part in self._process.stdout:
            *lines, rest = (rest + part).split(b"\n")
            self._said += map(json.loads, lines)
            self._news.ring()

    async def tell(self, command: str) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(f"{command}\n".encode())

    def of(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self._said if line["event"] == event]

    async def says(self, event: str, count: int = 1) -> dict[str, Any]:
        """What it says of `event` for the `count`th time."""
        with trio.move_on_after(PATIENCE_S):
            while len(self.of(event)) < count:
                await self._news.wait()
            return self.of(event)[count - 1]
        raise AssertionError(f"did not say {event!r} {count} times in {PATIENCE_S} s, but {self._said}")

    async def end(self) -> int:
        """Its exit status, after the end of its commands."""
        assert self._process.stdin is not None
        await self._process.stdin.aclose()
        with trio.fail_after(PATIENCE_S):
            return await self._process.wait()


@asynccontextmanager
async def joined(command: list[str], node: Node) -> AsyncIterator[Client]:
    """A client that has joined the swarm of `node`; killed at the end, unless it has ended."""
    async with trio.open_nursery() as nursery:
        start = partial(trio.run_process, [*command, node.address], stdin=PIPE, stdout=PIPE, check=False)
        client = Client(await nursery.start(start))
        nursery.start_soon(client.listen)
        await client.says("joined")
        yield client
        nursery.cancel_scope.cancel()


@pytest.fixture
def make_node(nursery: trio.Nursery, tmp_path: Path) -> Callable[[str], Node]:
    return lambda name: Node(nursery, News(), tmp_path / name, CHALLENGE, 0.5)


MakeNode = Callable[[str], Node]


async def test_it_joins_and_both_know_each_other(command: list[str], make_node: MakeNode) -> None:
    node = await make_node("node").start()
    async with joined(command, node) as client:
        status = await client.says("status")
        assert (status["protocol"], status["challenge"]) == (1, CHALLENGE)
        assert status["addresses"] == list(node.transport.addresses())
        met = await node.watch.event(Kind.PEER_STATUS, status["me"])
        assert met.detail == "waggle-foreign-client"
        async with node.transport.open(status["me"], PEERS) as stream:
            await stream.write(encode(PeersRequest(CHALLENGE, None)))
            await stream.finish()
            assert await receive(stream, PeersReply, 100) == PeersReply(())
        assert await client.end() == 0
    await node.watch.event(Kind.PEER_LOST, status["me"])


async def test_it_receives_discoveries_and_verifies_them(command: list[str], make_node: MakeNode) -> None:
    node = await make_node("node").start()
    async with joined(command, node) as client:
        stated = [node.discover(b"parent", child) for child in (b"one", b"two")]
        for signed in stated:
            await node.mesh.publish(signed)
        await client.says("received", count=2)
        received = client.of("received")
        assert {line["id"] for line in received} == {signed.id for signed in stated}
        assert {(line["kind"], line["author"]) for line in received} == {("discovery", node.id)}
        assert client.of("refused") == []
        known = (
            node.transport._up.router.mcache.msgs
        )  # both must name a message alike, or neither can ask for a lost one
        assert {bytes.fromhex(line["message"]) for line in received} <= known.keys()


async def test_it_fetches_a_program(command: list[str], make_node: MakeNode) -> None:
    node = await make_node("node").start()
    text = b"child" * 10_000
    found = node.discover(b"parent", text)
    async with joined(command, node) as client:
        await client.tell(f"program {found.statement.subject}")
        assert await client.says("program") == {"event": "program", "size": len(text), "sound": True}
        await client.tell("program " + "0" * 64)
        assert (await client.says("program", count=2))["size"] is None


async def test_it_refuses_what_a_liar_publishes(command: list[str], make_node: MakeNode) -> None:
    liar = await make_node("liar").start()
    async with joined(command, liar) as client:
        honest = liar.discover(b"parent", b"child")
        lie = honest.envelope.replace(b"urn:waggle:discovery", b"urn:waggle:retracted")
        for message in (lie, b"no envelope", honest.envelope):
            await liar.transport.publish(topic_of(CHALLENGE), message)
        assert (await client.says("received"))["id"] == honest.id
        await client.says("refused", count=2)
        assert "the signature is wrong" in {refused["why"] for refused in client.of("refused")}


async def test_its_publication_is_kept_and_its_forgeries_are_refused(command: list[str], make_node: MakeNode) -> None:
    node = await make_node("node").start()
    async with joined(command, node) as client:
        me = (await client.says("status"))["me"]
        await client.tell("forge")
        await node.watch.event(Kind.MESSAGE_DROPPED, me, count=4)
        reasons = [event.detail for event in node.watch.of(Kind.MESSAGE_DROPPED, me)]
        for reason in ("the signature is not by", "names", "unknown field", "malformed envelope"):
            assert any(reason in told for told in reasons), reasons
        assert node.store.heads() == {}
        await client.tell("state")
        await client.tell("publish")
        stated = await client.says("stated")
        await node.watch.until(lambda: [signed.id for signed in node.watch.new] == [stated["id"]])
        assert node.store.head(me, "main") is not None


async def test_what_it_states_is_found_by_sync(command: list[str], make_node: MakeNode) -> None:
    node = make_node("node")
    for _ in range(20):  # more than is compared in one piece
        node.store.add(make_node(f"author {len(node.store.heads())}").state())
    await node.start()
    async with joined(command, node) as client:
        await client.tell("state")
        stated = await client.says("stated")
        await node.watch.until(lambda: [signed.id for signed in node.watch.new] == [stated["id"]])
        await client.tell("read")
        read = await client.says("ledger")
        assert read["complete"]
        assert set(read["ids"]) == {signed.id for signed in node.store.entries()}
        me = (await client.says("status"))["me"]
        await node.watch.event(Kind.PEER_SYNCED, me)
        assert node.watch.of(Kind.PEER_FAULT) == []


async def test_it_reads_a_ledger_of_several_authors_and_pages(command: list[str], make_node: MakeNode) -> None:
    node, other = make_node("node"), make_node("other")
    long = replace(CRASH, reason="why? " * 1600)
    for _ in range(40):  # more than one page
        node.author.append(
            "trials", "b" * 64,
            lambda entry: Trial(entry=entry, track="cpu", seed=1, split="public", result=long),
        )  # fmt: skip
    for feed in ("main", "main", "trials"):
        node.store.add(other.state(feed))
    await node.start()
    async with joined(command, node) as client:
        await client.tell("read")
        read = await client.says("ledger")
        assert read["complete"]
        assert set(read["ids"]) == {signed.id for signed in node.store.entries()}
        assert len(read["ids"]) == 43
