"""Finding peers on the local network by multicast DNS, with py-libp2p's announcer and listener.

What is heard is a hint: whoever answers at an address proves its peer id there. A private swarm has a service name of
its own, so that others do not dial it. Source: https://github.com/libp2p/specs/blob/master/discovery/mdns.md.

The library's own `MDNSDiscovery` blocks the event loop for seconds while it registers, so its parts run in threads
here; and its listener keeps whatever it hears, so this one keeps nothing.
"""

import hashlib
import secrets
from collections.abc import Callable, Sequence

import trio
from libp2p.discovery.mdns.broadcaster import PeerBroadcaster
from libp2p.discovery.mdns.listener import PeerListener
from libp2p.discovery.mdns.mdns import SERVICE_TYPE
from libp2p.peer.peerstore import PeerStore
from zeroconf import InterfaceChoice, IPVersion, Zeroconf

from gossip.addresses import Endpoint
from gossip.limits import ADDRESSES_MAX, MDNS_ANSWER_DEADLINE_S

_NAME_BYTES = 16
_FINGERPRINT_CHARS = 10  # a service name has 15 at most


async def announce_and_listen(
    peer: str,
    endpoints: Sequence[Endpoint],
    found: Callable[[str], None],
    *,
    psk: bytes | None = None,
    interfaces: Sequence[str] | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Announce `peer` at `endpoints`, and call `found` with others' addresses, ending in their ids, until cancelled.

    `interfaces`: their IPv4 addresses; all by default. Raises `OSError` if there is no multicast.
    """
    token = trio.lowlevel.current_trio_token()
    name = f"{secrets.token_hex(_NAME_BYTES)}.{_service(psk)}"

    def start() -> tuple[Zeroconf, PeerBroadcaster, PeerListener]:
        multicast = Zeroconf(
            interfaces=InterfaceChoice.All if interfaces is None else list(interfaces), ip_version=IPVersion.V4Only
        )
        addresses = [str(endpoint) for endpoint in endpoints]
        broadcaster = PeerBroadcaster(multicast, _service(psk), name, peer, endpoints[0].port, addresses)
        broadcaster.register()
        return multicast, broadcaster, _Listener(multicast, _service(psk), name, hear)

    def hear(address: str) -> None:
        if not address.endswith(peer):
            token.run_sync_soon(found, address)

    def stop(multicast: Zeroconf, broadcaster: PeerBroadcaster, listener: PeerListener) -> None:
        listener.stop()
        broadcaster.unregister()
        multicast.close()

    parts = await trio.to_thread.run_sync(start)
    try:
        task_status.started()
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(stop, *parts)


class _Listener(PeerListener):
    """Tells of what is announced, in zeroconf's own thread."""

    def __init__(self, multicast: Zeroconf, service: str, name: str, hear: Callable[[str], None]) -> None:
        self._hear = hear
        super().__init__(PeerStore(), multicast, service, name)

    def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        if type_ != self.service_type or name == self.service_name:
            return
        info = zc.get_service_info(type_, name, timeout=1000 * MDNS_ANSWER_DEADLINE_S)
        peer = None if info is None else self._extract_peer_info(info)
        if peer is not None:
            for address in peer.addrs[:ADDRESSES_MAX]:
                self._hear(f"{address}/p2p/{peer.peer_id.to_base58()}")

    update_service = add_service

    def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        pass


def _service(psk: bytes | None) -> str:
    if psk is None:
        return SERVICE_TYPE
    return f"_p2p-{hashlib.sha256(psk).hexdigest()[:_FINGERPRINT_CHARS]}._udp.local."
