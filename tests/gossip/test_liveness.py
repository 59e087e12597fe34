"""Peers that are silent, blocked or slow; a host that fails and is built anew."""

import socket
from collections.abc import Callable
from contextlib import suppress

import pytest
import trio
from libp2p.io.exceptions import IOException
from libp2p.tools.anyio_service.exceptions import LifecycleError
from loopback import CHALLENGE, LOOPBACK, PATIENCE_S, Node
from raw_peer import MESHSUB, raw_peer

from gossip import limits
from gossip.errors import HostFailed, StreamBroken
from gossip.events import Event, Kind
from gossip.libp2p_transport import Libp2pTransport
from gossip.protocols import fetch_status
from gossip.rates import Rate
from gossip.screen import Verdict

MakeNode = Callable[..., Node]
TOPIC = "/a/topic"


@pytest.fixture
def _quick_pulse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PING_INTERVAL_S", 0.2)
    monkeypatch.setattr(limits, "PING_DEADLINE_S", 0.5)


@pytest.mark.usefixtures("_quick_pulse")
async def test_a_peer_that_answers_no_ping_is_let_go(make_node: MakeNode, nursery: trio.Nursery) -> None:
    node = await make_node().start(mesh=False)
    frozen = await raw_peer(nursery, node.address, listening=False)
    await frozen.open(1, MESHSUB)
    assert (await node.watch.event(Kind.CONNECTION_CLOSED, frozen.id)).detail == "silent"
    await node.watch.event(Kind.PEER_LOST, frozen.id)
    assert node.transport.peers() == set()


@pytest.mark.usefixtures("_quick_pulse")
async def test_a_peer_that_answers_pings_is_kept_though_it_says_nothing_else(
    make_node: MakeNode, nursery: trio.Nursery
) -> None:
    node = await make_node().start(mesh=False)
    quiet = await raw_peer(nursery, node.address)
    await quiet.open(1, MESHSUB)
    before = quiet.received
    with trio.fail_after(PATIENCE_S):
        while quiet.received < before + 15:  # ten pings or more: two seconds, four times what a frozen one is given
            await trio.sleep(0.01)
    assert node.transport.peers() == {quiet.id}


async def test_a_writer_to_a_peer_that_does_not_read_is_freed(
    make_node: MakeNode, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The send buffer is full, so that no farewell gets out either: the connection is closed below the library."""
    monkeypatch.setattr(limits, "WRITE_DEADLINE_S", 0.5)
    node = await make_node().start(mesh=False)
    blocked = await raw_peer(nursery, node.address, listening=False)
    await blocked.open(1, MESHSUB)
    await node.watch.event(Kind.PEER_CONNECTED, blocked.id)
    (conn,) = node.transport._up.swarm.get_connections()
    with trio.fail_after(PATIENCE_S), suppress(IOException):
        while not conn.muxed_conn.event_closed.is_set():
            await conn.muxed_conn._write_frame(b"x" * 60_000)
    await node.watch.event(Kind.PEER_LOST, blocked.id)
    assert node.watch.of(Kind.CONNECTION_CLOSED, blocked.id)[0].detail == "blocked"


async def fail(node: Node) -> None:
    """What no containment foresaw happens inside libp2p."""

    async def bug() -> None:
        raise KeyError("what nobody foresaw")

    up = node.transport._up
    assert up is not None
    up.swarm.manager.run_task(bug)


async def test_a_host_that_fails_is_built_anew_with_all_it_had(make_node: MakeNode) -> None:
    one, two = await make_node().start(), await make_node().start()
    received = await one.transport.join(TOPIC, lambda peer, message: Verdict.ACCEPT)
    await two.transport.join(TOPIC, lambda peer, message: Verdict.ACCEPT)
    one.transport.keep_connected(two.address)
    await two.watch.event(Kind.PEER_CONNECTED, one.id)
    address = one.address
    await fail(one)
    assert "nobody foresaw" in (await one.watch.event(Kind.HOST_REBUILT, one.id)).detail
    await one.watch.event(Kind.PEER_LOST, two.id)
    await one.watch.event(Kind.PEER_CONNECTED, two.id, count=2)  # whom it wanted, is dialled again
    assert one.address == address
    assert (await fetch_status(two.transport, one.id)).challenge == CHALLENGE  # its handlers are there
    with trio.fail_after(PATIENCE_S):
        while True:  # and it is in its topics
            await two.transport.publish(TOPIC, b"again")
            with trio.move_on_after(0.2):
                assert await received.receive() == (two.id, b"again")
                break
    two.state()
    await one.watch.until(lambda: one.store.head(two.id, "main") is not None)


async def test_a_part_of_the_host_that_just_ends_is_noticed(make_node: MakeNode) -> None:
    node = await make_node().start(mesh=False)
    await node.transport._up.router.manager.stop()
    assert "ContainedRouter ended" in (await node.watch.event(Kind.HOST_REBUILT)).detail


async def test_a_host_that_fails_again_and_again_is_given_up(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REBUILDS", Rate(per_s=0.001, burst=2))
    monkeypatch.setattr(limits, "REBUILD_PAUSE_S", 0.01)
    node = make_node()
    transport = Libp2pTransport(node.key, LOOPBACK)
    told: list[Event] = []
    transport.watch(told.append)

    async def bug() -> None:
        raise KeyError("what nobody foresaw")

    async def sabotage() -> None:
        while True:
            if transport._up is not None:
                with suppress(LifecycleError):  # it has ended, and is not taken down yet
                    transport._up.swarm.manager.run_task(bug)
            await trio.sleep(0.01)

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(transport.run)
            nursery.start_soon(sabotage)

    with pytest.raises(ExceptionGroup) as caught:
        await run()
    assert caught.group_contains(HostFailed, match=r"2 times .* nobody foresaw.*bug to report")
    assert [event.kind for event in told].count(Kind.HOST_REBUILT) == 2
    port = int(transport.addresses()[0].split("/")[4])
    with socket.socket() as free:
        free.bind(("127.0.0.1", port))


async def test_while_the_host_is_rebuilt_asking_fails_and_publishing_is_lost(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REBUILD_PAUSE_S", 0.5)
    one, two = await make_node().start(mesh=False), await make_node().start(mesh=False)
    await one.transport.connect(two.address)
    await fail(one)
    await one.watch.event(Kind.HOST_REBUILT)
    assert one.transport.peers() == set()
    assert one.transport.addresses()
    await one.transport.publish(TOPIC, b"lost")
    with pytest.raises(StreamBroken, match="not connected"):
        async with one.transport.open(two.id, "/any"):
            pass
    one.transport.handle("/new", lambda stream: stream.finish())
    with trio.fail_after(PATIENCE_S):
        while one.transport._up is None:
            await trio.sleep(0.01)
    assert await one.transport.connect(two.address) == two.id
    async with two.transport.open(one.id, "/new") as stream:  # offered meanwhile
        assert await stream.read(1) == b""


async def test_the_sync_lag_is_that_of_the_peer_compared_with_longest_ago(make_node: MakeNode) -> None:
    one, two = await make_node().start(), await make_node().start(mesh=False)
    assert one.mesh.sync_lag_s() == 0
    await one.transport.connect(two.address)  # which answers nothing of ours
    await one.watch.event(Kind.REQUEST_FAILED, two.id, count=2)
    assert one.mesh.sync_lag_s() > 0.2  # a round's spacing at least
    await two.stop()
    await one.watch.event(Kind.PEER_LOST, two.id)
    with trio.fail_after(PATIENCE_S):
        while one.mesh.sync_lag_s():
            await trio.sleep(0.01)
