"""Two versions of the protocol: neighbours work together, others are told what to do."""

import struct
from collections.abc import Callable

import msgspec
import pytest
import trio
from loopback import CHALLENGE, Node

from gossip.errors import OtherVersion, PeerFault
from gossip.events import Kind
from gossip.exchange import digest
from gossip.holdings import Holdings
from gossip.protocols import Responder, fetch_status
from gossip.transport import Stream
from gossip.wire import PROTOCOL, STATUS, Status, decode, encode

MakeNode = Callable[..., Node]


def says(node: Node, version: int, *more: object, challenge: str | None = CHALLENGE) -> None:
    """Make `node` answer as one of another version does, with fields that this one does not know."""
    body = msgspec.msgpack.encode([version, challenge, "another", [], *more])

    async def answer(stream: Stream) -> None:
        while await stream.read(1 << 16):
            pass
        await stream.write(struct.pack("!I", len(body)) + body)
        await stream.finish()

    node.transport.handle(STATUS, answer)


async def test_neighbouring_versions_sync_whatever_the_newer_one_adds_to_its_status(make_node: MakeNode) -> None:
    ours, theirs = await make_node().start(), await make_node().start()
    says(theirs, PROTOCOL + 1, None, {"a": "field of the future"})
    ours.state()
    theirs.state()
    await ours.transport.connect(theirs.address)
    await ours.watch.event(Kind.PEER_SYNCED, theirs.id)
    await theirs.watch.until(lambda: digest(ours.store.heads()) == digest(theirs.store.heads()))
    assert len(ours.store.heads()) == 2


async def test_peers_tell_which_constitution_is_in_force_with_them(make_node: MakeNode) -> None:
    ours, theirs = await make_node().start(), await make_node().start(mesh=False)
    Responder(theirs.transport, Holdings(theirs.store), CHALLENGE, "theirs", lambda: "d" * 64).serve()
    await ours.transport.connect(theirs.address)
    assert (await ours.watch.event(Kind.PEER_STATUS, theirs.id)).constitution == "d" * 64
    assert (await fetch_status(theirs.transport, ours.id)).constitution is None


async def test_a_joiner_without_a_challenge_is_asked_again_soon_and_is_of_no_other_swarm(make_node: MakeNode) -> None:
    ours, theirs = await make_node().start(), await make_node().start(mesh=False)
    says(theirs, PROTOCOL, challenge=None)
    theirs.state()
    asked = theirs.transport.metrics.snapshot
    await ours.transport.connect(theirs.address)
    with trio.fail_after(5):
        while asked().get('requests_total{of="/waggle/status/1"}', 0) < 2:  # the second is a round later
            await trio.sleep(0.05)
    assert not ours.watch.of(Kind.OTHER_SWARM)
    async with trio.open_nursery() as nursery:
        await nursery.start(theirs.mesh.run)  # it has a challenge now
        await ours.watch.event(Kind.PEER_SYNCED, theirs.id)
        nursery.cancel_scope.cancel()
    assert len(ours.watch.new) == 1


@pytest.mark.parametrize(
    ("own", "their", "advice"), [(1, 3, "update this node's Waggle"), (5, 3, "update its Waggle"), (5, 4, None)]
)
async def test_versions_further_apart_are_told_which_side_to_update(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch, own: int, their: int, advice: str | None
) -> None:
    monkeypatch.setattr("gossip.protocols.PROTOCOL", own)
    ours, theirs = await make_node().start(), await make_node().start(mesh=False)
    says(theirs, their)
    await ours.transport.connect(theirs.address)
    if advice is None:
        await ours.watch.event(Kind.PEER_STATUS, theirs.id)
        return
    event = await ours.watch.event(Kind.OTHER_VERSION, theirs.id)
    assert event.detail == f"speaks protocol {their}, this node {own}: {advice}"
    assert not ours.watch.of(Kind.PEER_STATUS)
    with pytest.raises(OtherVersion, match=advice):
        await fetch_status(ours.transport, theirs.id)


def test_what_a_status_must_have_is_still_checked() -> None:
    good = encode(Status(PROTOCOL, CHALLENGE, "us", ()))[4:]
    assert decode(good, Status).agent == "us"
    without_constitution = [PROTOCOL, CHALLENGE, "us", []]
    assert decode(msgspec.msgpack.encode(without_constitution), Status) == decode(good, Status)
    bads: list[object] = [[PROTOCOL, CHALLENGE, "us"], [0, CHALLENGE, "us", []], [PROTOCOL, "x", "us", []], {}]
    for bad in (*bads, [*without_constitution, "x"]):
        with pytest.raises(PeerFault):
            decode(msgspec.msgpack.encode(bad), Status)
