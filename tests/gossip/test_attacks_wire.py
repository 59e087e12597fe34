"""Attacks below the protocols: on connecting, on Yamux, on streams. The node stays up, an honest peer gets through."""

import random
import struct
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from libp2p.utils.varint import encode_delim, encode_uvarint
from loopback import PATIENCE_S, Node
from raw_peer import DATA, FIN, GONE, MESHSUB, PING, RST, SYN, WINDOW_UPDATE, RawPeer, raw_peer, tcp

from gossip import limits
from gossip.events import Kind
from gossip.rates import Rate
from gossip.wire import BLOB, PEERS, STATUS, SYNC

MakeNode = Callable[..., Node]
IDENTIFY = "/ipfs/id/1.0.0"
ELSEWHERE = "127.0.0.2"  # an address of this machine that counts as another machine's


async def gets_through(make_node: MakeNode, victim: Node) -> None:
    """A newcomer gets what the victim has, and the victim gets what the newcomer has."""
    victim.state()
    honest = make_node()
    honest.state()
    await honest.start()
    honest.transport.keep_connected(victim.address)
    await honest.watch.until(lambda: honest.store.head(victim.id, "main") == victim.store.head(victim.id, "main"))
    await victim.watch.until(lambda: victim.store.head(honest.id, "main") is not None)
    assert not victim.watch.of(Kind.HOST_REBUILT)
    assert not victim.watch.of(Kind.HANDLER_FAILED)


async def is_closed(attacker: RawPeer) -> None:
    with trio.fail_after(PATIENCE_S):
        await attacker.closed.wait()


async def hears(attacker: RawPeer, frames: int) -> None:
    with trio.fail_after(PATIENCE_S):
        while attacker.received < frames:
            await trio.sleep(0.01)


def connections(victim: Node) -> list[object]:
    up = victim.transport._up
    assert up is not None
    return list(up.swarm.get_connections())


def guests(victim: Node) -> int:
    return len(victim.transport._door._guests)


def buffered_bytes(victim: Node) -> int:
    return sum(len(data) for conn in connections(victim) for data in conn.muxed_conn.stream_buffers.values())


def streams(victim: Node) -> int:
    return sum(len(conn.muxed_conn.streams) for conn in connections(victim))


async def swallows(stream: trio.SocketStream, data: bytes) -> None:
    """Send, and read until the other side closes."""
    async with stream:
        with suppress(trio.BrokenResourceError):
            await stream.send_all(data)
            while await stream.receive_some():
                pass


NOISE_AGREED = encode_delim(b"/multistream/1.0.0") + encode_delim(b"/noise")
RANDOM = random.Random(1).randbytes(100_000)


@pytest.mark.parametrize(
    "garbage",
    [b"\0" * 1000, RANDOM, b"GET / HTTP/1.1\r\n\r\n", encode_uvarint(2**62) + b"/multistream", b"\xff" * 1000,
     encode_delim(b"\xff\xfe"), NOISE_AGREED + RANDOM, NOISE_AGREED + b"\0\0" * 1000,
     encode_delim(b"/multistream/1.0.0") + encode_delim(b"/plaintext/2.0.0") * 1000],
    ids=["zeros", "random", "http", "endless line", "endless varint", "not text", "handshake", "empty handshakes",
         "other protocols"],
)  # fmt: skip
async def test_garbage_after_connecting(make_node: MakeNode, nursery: trio.Nursery, garbage: bytes) -> None:
    victim = await make_node().start()
    for _ in range(5):
        nursery.start_soon(swallows, await tcp(victim.address), garbage)
    await gets_through(make_node, victim)


async def test_a_thousand_idle_connections(make_node: MakeNode, nursery: trio.Nursery) -> None:
    """More sockets than all slots together, from the honest peer's own address, and not a byte on them."""
    victim = await make_node().start()
    async with AsyncExitStack() as stack:
        for _ in range(1000):
            stack.push_async_callback(trio.aclose_forcefully, await tcp(victim.address))
        await gets_through(make_node, victim)
        assert guests(victim) <= limits.CONNECTIONS_INBOUND_MAX


async def test_connections_of_one_address_are_limited_and_others_get_in(
    make_node: MakeNode, nursery: trio.Nursery
) -> None:
    victim = await make_node().start()
    for _ in range(2 * limits.CONNECTIONS_PER_ADDRESS_MAX):
        with suppress(*GONE):
            await raw_peer(nursery, victim.address, source=ELSEWHERE)
    await victim.watch.event(Kind.PEER_CONNECTED, count=limits.CONNECTIONS_PER_ADDRESS_MAX)
    assert guests(victim) <= limits.CONNECTIONS_PER_ADDRESS_MAX
    await gets_through(make_node, victim)


async def test_hundreds_of_identities_from_one_address(make_node: MakeNode, nursery: trio.Nursery) -> None:
    """All complete the handshake and hold what they got, from the honest peer's own address."""
    victim = await make_node().start()

    async def hold() -> None:
        with suppress(*GONE):
            await (await raw_peer(nursery, victim.address)).open(1, MESHSUB)

    for _ in range(200):
        nursery.start_soon(hold)
    await victim.watch.event(Kind.PEER_CONNECTED, count=limits.CONNECTIONS_INBOUND_MAX)
    assert guests(victim) <= limits.CONNECTIONS_INBOUND_MAX
    await gets_through(make_node, victim)


async def test_connecting_too_often_is_refused_before_the_handshake(make_node: MakeNode, nursery: trio.Nursery) -> None:
    victim = await make_node().start()
    for _ in range(int(limits.ARRIVALS.burst) + 20):
        await trio.aclose_forcefully(await tcp(victim.address, ELSEWHERE))
    with pytest.raises(GONE):
        await raw_peer(nursery, victim.address, source=ELSEWHERE)
    assert victim.transport.metrics.snapshot()['connections_closed_total{of="its address connects too often"}'] >= 1
    await gets_through(make_node, victim)


async def test_an_authenticated_peer_that_opens_no_stream_is_let_go(
    make_node: MakeNode, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PING_INTERVAL_S", 0.1)
    monkeypatch.setattr(limits, "IDLE_DEADLINE_S", 0.3)
    victim = await make_node().start()
    idle, busy = await raw_peer(nursery, victim.address), await raw_peer(nursery, victim.address)
    await busy.open(1, MESHSUB)
    await is_closed(idle)
    assert (await victim.watch.event(Kind.CONNECTION_CLOSED, idle.id)).detail == "idle"
    await victim.watch.event(Kind.PEER_LOST, idle.id)
    assert victim.transport.peers() == {busy.id}


async def test_twenty_thousand_unnegotiated_streams(make_node: MakeNode, nursery: trio.Nursery) -> None:
    victim = await make_node().start()
    attacker = await raw_peer(nursery, victim.address)
    with suppress(*GONE):
        for number in range(20_000):
            await attacker.frame(WINDOW_UPDATE, SYN, 1 + 2 * number)
            assert streams(victim) <= limits.STREAMS_PER_CONNECTION_MAX + 10  # ours to it
    await is_closed(attacker)
    assert (await victim.watch.event(Kind.CONNECTION_CLOSED, attacker.id)).detail == "too many streams"
    await gets_through(make_node, victim)


async def test_streams_opened_and_reset_without_end_are_paced(
    make_node: MakeNode, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STREAMS_OPENED", Rate(per_s=50, burst=100))
    began_s = trio.current_time()
    victim = await make_node().start()
    burst = b"".join(
        struct.pack("!BBHII", 0, WINDOW_UPDATE, flag, 1 + 2 * number, 0)
        for number in range(20_000)
        for flag in (SYN, RST)
    )
    attacker = await raw_peer(nursery, victim.address)
    nursery.start_soon(attacker.frames_while_open, burst)
    await gets_through(make_node, victim)
    assert streams(victim) < 100
    await hears(attacker, 150)  # acknowledgements
    assert trio.current_time() - began_s > (150 - 100 - 20) / 50


async def test_a_window_overrun_closes_the_connection(make_node: MakeNode, nursery: trio.Nursery) -> None:
    victim = await make_node().start()
    attacker = await raw_peer(nursery, victim.address)
    await attacker.open(1, IDENTIFY)  # answers, and reads nothing
    with suppress(*GONE):
        for _ in range(200):
            await attacker.frame(DATA, 0, 1, RANDOM[: 1 << 16])
            assert buffered_bytes(victim) <= limits.WINDOW_BYTES_MAX
    await is_closed(attacker)
    assert (await victim.watch.event(Kind.CONNECTION_CLOSED, attacker.id)).detail == "window overrun"
    await gets_through(make_node, victim)


async def test_what_many_connections_leave_unread_is_bounded_together(
    make_node: MakeNode, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attacker keeps to what one connection may hold; together they are over the budget, and nobody is blamed."""
    monkeypatch.setattr(limits, "BUFFERED_BYTES_ALL_MAX", 2 * limits.MIB)
    victim = await make_node().start()
    attackers = [await raw_peer(nursery, victim.address, source=f"127.0.0.{2 + number}") for number in range(4)]
    with suppress(*GONE):
        for number in range(16):
            for attacker in attackers:
                await attacker.open(1 + 2 * number, IDENTIFY)
                await attacker.frame(DATA, 0, 1 + 2 * number, bytes(1 << 16))
    await victim.watch.until(lambda: bool(victim.watch.of(Kind.CONNECTION_CLOSED)))
    assert {event.detail for event in victim.watch.of(Kind.CONNECTION_CLOSED)} == {"memory"}
    assert not victim.watch.of(Kind.PEER_FAULT)
    monkeypatch.undo()
    await gets_through(make_node, victim)


async def test_many_streams_that_each_keep_to_their_window_are_bounded_together(
    make_node: MakeNode, nursery: trio.Nursery
) -> None:
    victim = await make_node().start()
    attacker = await raw_peer(nursery, victim.address)
    with suppress(*GONE):
        for number in range(60):
            await attacker.open(1 + 2 * number, IDENTIFY)
            for _ in range(4):
                await attacker.frame(DATA, 0, 1 + 2 * number, RANDOM[:65_000])
            assert buffered_bytes(victim) <= limits.BUFFERED_BYTES_MAX
    await is_closed(attacker)
    await gets_through(make_node, victim)


@pytest.mark.parametrize(
    "frames",
    [RANDOM, struct.pack("!BBHII", 0, DATA, SYN, 1, 2**32 - 1), struct.pack("!BBHII", 0, DATA, 0, 77, 65536) + RANDOM,
     struct.pack("!BBHII", 0, WINDOW_UPDATE, SYN, 2, 0), struct.pack("!BBHII", 9, 9, 0xFFFF, 2**32 - 1, 0) * 100,
     struct.pack("!BBHII", 0, WINDOW_UPDATE, 0, 1, 2**32 - 1) * 1000,
     struct.pack("!BBHII", 0, 3, 0, 0, 99)],
    ids=["random", "frame of 4 GB", "unknown stream", "our stream ids", "unknown types", "windows", "farewell"],
)  # fmt: skip
async def test_garbage_instead_of_frames(make_node: MakeNode, nursery: trio.Nursery, frames: bytes) -> None:
    victim = await make_node().start()
    attacker = await raw_peer(nursery, victim.address)
    with suppress(*GONE):
        await attacker.frames(frames)
    await gets_through(make_node, victim)


async def test_a_flood_of_pings_is_read_at_its_pace(
    make_node: MakeNode, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "READS", Rate(per_s=200, burst=300))
    victim = await make_node().start()
    began_s = trio.current_time()
    attacker = await raw_peer(nursery, victim.address)
    nursery.start_soon(attacker.frames_while_open, struct.pack("!BBHII", 0, PING, SYN, 0, 7) * 50_000)
    await gets_through(make_node, victim)
    await hears(attacker, 500)  # answers
    assert trio.current_time() - began_s > (500 - 300 - 20) / 200


async def test_tiny_buffers_left_in_reset_streams_are_dropped(make_node: MakeNode, nursery: trio.Nursery) -> None:
    victim = await make_node().start()
    attacker = await raw_peer(nursery, victim.address)
    for number in range(300):
        await attacker.frame(DATA, SYN | FIN, 1 + 2 * number, b"\x01x")  # a negotiation that fails
    await gets_through(make_node, victim)
    await victim.watch.until(lambda: streams(victim) < 50)


async def test_slow_loris_in_the_handshake(make_node: MakeNode, nursery: trio.Nursery) -> None:
    """A byte now and then, on as many connections as there are slots."""
    victim = await make_node().start()

    async def trickle() -> None:
        with suppress(OSError, trio.BrokenResourceError):
            async with await tcp(victim.address) as stream:
                for byte in NOISE_AGREED:
                    await stream.send_all(bytes([byte]))
                    await trio.sleep(0.5)

    for _ in range(limits.CONNECTIONS_MAX):
        nursery.start_soon(trickle)
    await gets_through(make_node, victim)


@pytest.mark.parametrize("protocol", [None, STATUS, SYNC, BLOB, PEERS, MESHSUB, IDENTIFY, "/ipfs/ping/1.0.0"])
async def test_slow_loris_on_each_protocol(
    make_node: MakeNode, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, protocol: str | None
) -> None:
    """Streams that begin a message and never end it do not keep others from being answered, and do not stay."""
    for deadline in ("READ_DEADLINE_S", "RPC_DEADLINE_S", "OPEN_DEADLINE_S"):
        monkeypatch.setattr(limits, deadline, 1.0)
    victim = await make_node().start()
    attacker = await raw_peer(nursery, victim.address)
    for number in range(20):
        if protocol is None:
            await attacker.frame(DATA, SYN, 1 + 2 * number, b"\x13/multi")
        else:
            await attacker.open(1 + 2 * number, protocol, b"\x00\x00")
    await gets_through(make_node, victim)
    mine = [conn for conn in connections(victim) if conn.muxed_conn.peer_id == attacker.peer]
    if protocol in (None, STATUS, SYNC, BLOB):
        with trio.fail_after(PATIENCE_S):
            while any(
                not stream.closed and not stream.is_initiator
                for conn in mine
                for stream in conn.muxed_conn.streams.values()
            ):
                await trio.sleep(0.05)


async def test_repeated_breaking_of_connections_ends_in_refusal(make_node: MakeNode, nursery: trio.Nursery) -> None:
    victim = await make_node().start()
    key = Ed25519PrivateKey.generate()
    for round_number in range(4):
        attacker = await raw_peer(nursery, victim.address, key)
        await victim.watch.event(Kind.PEER_CONNECTED, attacker.id, count=round_number + 1)
        await attacker.frame(WINDOW_UPDATE, SYN, 1000)  # an id that is the victim's to give
        await is_closed(attacker)
        await victim.watch.event(Kind.PEER_LOST, attacker.id, count=round_number + 1)
        victim.transport._door._struck_at_s.clear()  # as if a second had passed: it is no single incident
    attacker = await raw_peer(nursery, victim.address, key)
    await is_closed(attacker)
    assert len(victim.watch.of(Kind.PEER_CONNECTED, attacker.id)) == 4
    await gets_through(make_node, victim)
