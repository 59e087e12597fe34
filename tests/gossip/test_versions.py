"""Two versions of the protocol: neighbours work together, others are told what to do."""

import struct
from collections.abc import Callable

import msgspec
import pytest
from loopback import CHALLENGE, Node

from gossip.errors import OtherVersion, PeerFault
from gossip.events import Kind
from gossip.exchange import digest
from gossip.protocols import fetch_status
from gossip.transport import Stream
from gossip.wire import PROTOCOL, STATUS, Status, decode, encode

MakeNode = Callable[..., Node]


def says(node: Node, version: int, *more: object) -> None:
    """Make `node` answer as one of another version does, with fields that this one does not know."""
    body = msgspec.msgpack.encode([version, CHALLENGE, "another", [], *more])

    async def answer(stream: Stream) -> None:
        while await stream.read(1 << 16):
            pass
        await stream.write(struct.pack("!I", len(body)) + body)
        await stream.finish()

    node.transport.handle(STATUS, answer)


async def test_neighbouring_versions_sync_whatever_the_newer_one_adds_to_its_status(make_node: MakeNode) -> None:
    ours, theirs = await make_node().start(), await make_node().start()
    says(theirs, PROTOCOL + 1, {"a": "field of the future"})
    ours.state()
    theirs.state()
    await ours.transport.connect(theirs.address)
    await ours.watch.event(Kind.PEER_SYNCED, theirs.id)
    await theirs.watch.until(lambda: digest(ours.store.heads()) == digest(theirs.store.heads()))
    assert len(ours.store.heads()) == 2


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
    for bad in ([PROTOCOL, CHALLENGE, "us"], [0, CHALLENGE, "us", []], [PROTOCOL, "x", "us", []], {}):
        with pytest.raises(PeerFault):
            decode(msgspec.msgpack.encode(bad), Status)
