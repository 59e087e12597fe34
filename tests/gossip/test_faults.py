"""Real processes that are killed, frozen, slow or gone: nothing is lost, and all ledgers end up equal."""

import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trio
from libp2p.pubsub.pb import rpc_pb2
from loopback import CHALLENGE
from node_process import PATIENCE_S, NodeProcess
from raw_peer import MESHSUB, raw_peer

from gossip.events import Kind
from gossip.limits import MIB
from gossip.protocols import topic_of

MakeProcess = Callable[[], NodeProcess]


@pytest.fixture
def make_process(nursery: trio.Nursery, tmp_path: Path) -> MakeProcess:
    made: list[NodeProcess] = []

    def make() -> NodeProcess:
        made.append(NodeProcess(nursery, tmp_path / str(len(made)), len(made) + 1))
        return made[-1]

    return make


async def start_all(nodes: Sequence[NodeProcess]) -> None:
    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(node.start)


async def ring(make_process: MakeProcess, number: int) -> list[NodeProcess]:
    """Running nodes of which each keeps connected with the next, and has stated one thing."""
    nodes = [make_process() for _ in range(number)]
    await start_all(nodes)
    await rejoin(nodes)
    for node in nodes:
        await node.ask("state")
    return nodes


async def rejoin(nodes: Sequence[NodeProcess]) -> None:
    for node, following in zip(nodes, [*nodes[1:], nodes[0]], strict=True):
        await node.ask("join", address=following.address)


async def all_hold(nodes: Sequence[NodeProcess], entries: int) -> None:
    """Wait until all ledgers have the same heads, and so many entries."""
    held = []
    with trio.move_on_after(PATIENCE_S):
        while True:
            held = [await node.ask("holding") for node in nodes]
            if held == [held[0]] * len(nodes) and held[0]["entries"] == entries:
                return
            await trio.sleep(0.1)
    raise AssertionError(f"not {entries} equal entries each, but {held}")


async def test_a_node_killed_in_the_middle_returns_on_its_port_with_its_key(make_process: MakeProcess) -> None:
    one, two = await ring(make_process, 2)
    address = two.address
    await two.ask("state")
    await two.kill()
    await one.ask("state")
    await two.start()
    assert two.address == address
    await two.ask("state")
    await all_hold([one, two], 5)  # `one` dials again by itself


async def test_a_frozen_node_is_let_go_and_catches_up_when_it_thaws(make_process: MakeProcess) -> None:
    one, two, three = await ring(make_process, 3)
    await all_hold([one, two, three], 3)
    two.signal(signal.SIGSTOP)
    try:
        await one.until("event", lambda event: event == Kind.PEER_LOST)
        closed = [said for said in one.said if said.get("event") == Kind.CONNECTION_CLOSED]
        assert [(said["peer"], said["detail"]) for said in closed[-1:]] == [(two.id, "silent")]
        await one.ask("state")
        await all_hold([one, three], 4)
    finally:
        two.signal(signal.SIGCONT)
    await two.ask("state")
    await all_hold([one, two, three], 5)


async def test_everybody_killed_and_started_again_at_once(make_process: MakeProcess) -> None:
    nodes = await ring(make_process, 4)
    for node in nodes:
        await node.ask("state")
    for node in nodes:
        await node.kill()
    await start_all(nodes)
    await rejoin(nodes)
    await nodes[0].ask("state")
    await all_hold(nodes, 9)


async def test_the_first_peer_is_gone_for_good(make_process: MakeProcess) -> None:
    first, *others = await ring(make_process, 4)
    await all_hold([first, *others], 4)
    await first.kill()
    for node in others:
        await node.ask("state")
    await all_hold(others, 7)


async def test_peers_that_read_slowly_or_not_at_all_hold_up_nobody(
    make_process: MakeProcess, nursery: trio.Nursery
) -> None:
    one, two = await ring(make_process, 2)
    await all_hold([one, two], 2)
    before = one.memory_bytes()
    joining = rpc_pb2.RPC(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid=topic_of(CHALLENGE))])
    for _ in range(10):
        deaf = await raw_peer(nursery, one.address, listening=False)
        await deaf.open(1, MESHSUB)
        await deaf.rpc(1, joining)
    for _ in range(40):
        await one.ask("state")
    await all_hold([one, two], 42)
    await one.until("event", lambda event: event == Kind.CONNECTION_CLOSED)
    assert one.memory_bytes() - before < 64 * MIB
