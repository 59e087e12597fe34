"""One node of plain py-libp2p: the reference of gossip.py, in a process that imports nothing of ours.

Arguments: the topic, and the GossipSub parameters as JSON. A message is 32 hex digits that name it, and filling.
"""

import json
import os
import sys
from typing import Any

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.score import ScoreParams
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from benches.processes import Window, obey

NAME_CHARS = 32


async def main(topic: str, parameters: dict[str, Any], message_bytes: int) -> None:
    pair = create_new_key_pair()
    host = new_host(
        key_pair=pair,
        sec_opt={NOISE: Noise(pair, noise_privkey=create_noise_key_pair().private_key)},
        muxer_opt={TProtocol(YAMUX): Yamux},
    )
    router = GossipSub(**parameters, score_params=ScoreParams())
    pubsub = Pubsub(host, router, seen_ttl=120, strict_signing=True)
    window = Window()

    async def publish(number: int) -> None:
        name = os.urandom(NAME_CHARS // 2).hex()
        message = name.encode() + os.urandom(message_bytes - NAME_CHARS)
        window.publishing(name)
        await pubsub.publish(topic, message)

    async def address() -> str:
        return str(host.get_addrs()[0])

    async def dial(addresses: list[str]) -> None:
        for each in addresses:
            await host.connect(info_from_p2p_addr(Multiaddr(each)))

    async def mesh_peers() -> int:
        return len(router.mesh.get(topic, ()))

    async with (
        host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]),
        background_trio_service(pubsub),
        background_trio_service(router),
        trio.open_nursery() as nursery,
    ):
        await pubsub.wait_until_ready()
        subscription = await pubsub.subscribe(topic)

        async def receive() -> None:
            while True:
                message = await subscription.get()
                if message.from_id != host.get_id().to_bytes():
                    window.received(message.data[:NAME_CHARS].decode())

        nursery.start_soon(receive)
        await obey({"address": address, "dial": dial, "mesh_peers": mesh_peers, **window.commands(publish)})
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]))
