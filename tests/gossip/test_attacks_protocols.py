"""Attacks by our own protocols: wrong answers, and more questions than a peer may ask."""

import hashlib
from collections.abc import Callable

import pytest
import trio
from loopback import PATIENCE_S, Node

from gossip import limits
from gossip.events import Kind
from gossip.protocols import fetch_status
from gossip.rates import Rate
from gossip.transport import Handler, Stream
from gossip.wire import BLOB, BlobReply, encode

MakeNode = Callable[..., Node]


def fixed(reply: bytes) -> Handler:
    async def answer(stream: Stream) -> None:
        while await stream.read(1 << 16):
            pass
        await stream.write(reply)
        await stream.finish()

    return answer


async def test_wrong_bytes_for_a_digest_do_not_keep_the_right_ones_away(make_node: MakeNode) -> None:
    honest, node, liar = make_node(), make_node(), await make_node().start()
    node.store.add(honest.discover(b"parent", b"child"))
    liar.transport.handle(BLOB, fixed(encode(BlobReply(5)) + b"wrong"))
    await node.start()
    await node.transport.connect(liar.address)
    assert "other bytes" in (await node.watch.event(Kind.PEER_FAULT, liar.id)).detail
    await honest.start()
    await node.transport.connect(honest.address)
    await node.watch.until(lambda: not node.store.blobs.missing(10))
    assert not node.store.blobs.has(hashlib.sha256(b"wrong").hexdigest())


async def test_more_questions_than_a_peer_may_ask_are_answered_later(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REQUESTS", Rate(per_s=20, burst=5))
    victim, greedy, other = await make_node().start(), await make_node().start(mesh=False), await make_node().start()
    await greedy.transport.connect(victim.address)
    began_s = trio.current_time()
    with trio.fail_after(PATIENCE_S):
        for _ in range(25):
            await fetch_status(greedy.transport, victim.id)
    assert trio.current_time() - began_s > (25 - 5 - 2) / 20
    other.state()
    other.transport.keep_connected(victim.address)
    await victim.watch.until(lambda: victim.store.head(other.id, "main") is not None)
    assert not victim.watch.of(Kind.PEER_FAULT)
