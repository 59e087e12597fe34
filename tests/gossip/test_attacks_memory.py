"""What strangers can make a node hold, measured on a real process from outside."""

from contextlib import suppress
from pathlib import Path

import trio
from libp2p.utils.varint import encode_uvarint
from loopback import CHALLENGE, News, Node
from node_process import NodeProcess
from raw_peer import DATA, GONE, MESHSUB, RawPeer, raw_peer

from gossip import limits
from gossip.limits import MIB
from gossip.wire import SYNC

ATTACKERS = 24
GROWTH_MAX = ATTACKERS * 8 * MIB + limits.BUFFERED_BYTES_ALL_MAX  # 2 of RPCs, 4 of requests, copies; what is unread


async def hoard(peer: RawPeer) -> None:
    """Have as much as possible kept: RPCs and requests that lack their last bytes, and what nobody reads."""
    with suppress(*GONE):
        for number in (1, 3):
            await peer.open(number, MESHSUB, encode_uvarint(limits.RPC_BYTES_MAX))
            for _ in range(15):
                await peer.data(number, bytes(1 << 16))
        for number in range(5, 5 + 2 * limits.STREAMS_SERVED_PER_PEER_MAX, 2):
            await peer.open(number, SYNC, (limits.REQUEST_BYTES_MAX).to_bytes(4, "big"))
            for _ in range(7):
                await peer.data(number, bytes(1 << 16))
        for number in range(101, 201, 2):
            await peer.open(number, "/ipfs/id/1.0.0")
            for _ in range(3):
                await peer.frame(DATA, 0, number, bytes(1 << 16))


async def test_hoarding_peers_are_bounded_and_an_honest_one_gets_through(nursery: trio.Nursery, tmp_path: Path) -> None:
    victim = await NodeProcess(nursery, tmp_path / "victim", 1).start()
    await victim.ask("state")
    before, most = victim.memory_bytes(), 0
    done = trio.Event()

    async def attack() -> None:
        async with trio.open_nursery() as attackers:
            for number in range(ATTACKERS):
                peer = await raw_peer(nursery, victim.address, source=f"127.0.0.{2 + number}")
                attackers.start_soon(hoard, peer)
            attackers.cancel_scope.deadline = trio.current_time() + 5  # some wait for a window that will not open
        done.set()

    nursery.start_soon(attack)
    while not done.is_set():
        most = max(most, victim.memory_bytes())
        await trio.sleep(0.02)
    assert most - before < GROWTH_MAX
    honest = await Node(nursery, News(), tmp_path / "honest", CHALLENGE, 0.5).start()
    mine = honest.state()
    await honest.transport.connect(victim.address)
    await victim.until("new", lambda new: new == mine.id)
    await honest.watch.until(lambda: honest.store.head(victim.id, "main") is not None)
    assert not [said for said in victim.said if said.get("event") == "network rebuilt"]
    assert victim.is_running()
