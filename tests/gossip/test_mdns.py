"""Multicast DNS on the loopback interface only."""

from functools import partial

import examples
import trio

from gossip.addresses import Endpoint
from gossip.mdns import announce_and_listen

PATIENCE_S = 20.0


async def test_two_peers_on_one_network_hear_of_each_other_and_not_of_a_private_swarm(nursery: trio.Nursery) -> None:
    heard: dict[int, list[str]] = {1: [], 2: [], 3: []}
    complete = trio.Event()

    def hear(number: int, address: str) -> None:
        heard[number].append(address)
        if heard[1] and heard[2]:
            complete.set()

    for number, psk in ((3, b"k" * 32), (1, None), (2, None)):
        await nursery.start(
            partial(
                announce_and_listen, examples.author_id(number), [Endpoint("ip4", "127.0.0.1", 4000 + number)],
                partial(hear, number), psk=psk, interfaces=["127.0.0.1"],
            )
        )  # fmt: skip
    with trio.fail_after(PATIENCE_S):
        await complete.wait()
    assert set(heard[1]) == {f"/ip4/127.0.0.1/tcp/4002/p2p/{examples.author_id(2)}"}
    assert set(heard[2]) == {f"/ip4/127.0.0.1/tcp/4001/p2p/{examples.author_id(1)}"}
    assert heard[3] == []
    nursery.cancel_scope.cancel()
