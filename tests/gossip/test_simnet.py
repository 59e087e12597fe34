"""What the network in memory does besides being a transport: partitions, cuts, loss, latency, and all of it by seed."""

import random

import pytest
import trio
from examples import key
from loopback import PATIENCE_S, News, Watch
from trio.testing import MockClock

from gossip import limits
from gossip.errors import DialFailed, StreamBroken
from gossip.events import Kind
from gossip.screen import Verdict
from gossip.simnet import DEGREE_HIGH, HEARTBEAT_S, Conditions, Network, SimTransport, schedule_by_seed
from gossip.transport import Stream
from ledger.envelope import peer_id

TOPIC = "/a/topic"
LISTEN = "/ip4/192.0.2.1/tcp/0"


class Place:
    """A transport that runs, with what was observed at it."""

    def __init__(self, network: Network, number: int, news: News) -> None:
        self.transport = SimTransport(network, peer_id(key(number).public_key()), LISTEN)
        self.watch = Watch(news)
        self.transport.watch(self.watch.observe)
        self.heard: trio.MemoryReceiveChannel[tuple[str, bytes]]

    @property
    def id(self) -> str:
        return self.transport.peer_id

    @property
    def address(self) -> str:
        return self.transport.addresses()[0]


async def places(nursery: trio.Nursery, network: Network, count: int) -> list[Place]:
    news = News()
    made = [Place(network, number, news) for number in range(1, count + 1)]
    for place in made:
        await nursery.start(place.transport.run)
        place.heard = await place.transport.join(TOPIC, lambda *_: Verdict.ACCEPT)
    return made


async def meshed(nursery: trio.Nursery, network: Network, count: int) -> list[Place]:
    """All connected with all, after some heartbeats."""
    made = await places(nursery, network, count)
    for place, number in zip(made, range(count), strict=True):
        for other in made[:number]:
            await place.transport.connect(other.address)
    await trio.sleep(3 * HEARTBEAT_S)
    return made


async def test_a_partition_cuts_what_crosses_it_and_heals(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    network = Network(random.Random(1))
    one, two, three = await places(nursery, network, 3)
    one.transport.keep_connected(two.address)
    one.transport.keep_connected(three.address)
    await one.watch.until(lambda: one.transport.peers() == {two.id, three.id})
    network.part({one.id, two.id}, {three.id})
    assert one.transport.peers() == {two.id}
    assert three.watch.of(Kind.PEER_LOST, one.id)
    with pytest.raises(DialFailed, match="refused"):
        await three.transport.connect(two.address)
    network.heal()
    await one.watch.event(Kind.PEER_CONNECTED, three.id, count=2)


async def test_a_cut_connection_breaks_its_streams_and_no_others(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    one, two, three = await places(nursery, Network(random.Random(1)), 3)
    for place in (two, three):
        await one.transport.connect(place.address)
        place.transport.handle("/echo", echo)
    async with one.transport.open(two.id, "/echo") as broken, one.transport.open(three.id, "/echo") as whole:
        two.transport.cut(one.id)
        two.transport.cut(one.id)  # it is cut already
        with pytest.raises(StreamBroken):
            await broken.read(1)
        with pytest.raises(StreamBroken):
            await broken.write(b"x")
        await whole.write(b"x")
        assert await whole.read(10) == b"x"


async def echo(stream: Stream) -> None:
    await stream.write(await stream.read(10))


async def test_a_reader_that_pauses_costs_its_writer_the_connection(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    one, two = await places(nursery, Network(random.Random(1)), 2)

    async def pause(stream: Stream) -> None:
        await trio.sleep_forever()

    two.transport.handle("/pause", pause)
    await one.transport.connect(two.address)
    with pytest.raises(StreamBroken, match="nothing was read"):
        async with one.transport.open(two.id, "/pause") as stream:
            await stream.write(bytes(limits.MIB))
    assert one.watch.of(Kind.PEER_LOST, two.id)


async def test_bytes_take_their_time_and_stay_in_order(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    network = Network(random.Random(1), Conditions(latency_s=1.0, jitter_s=1.0))
    one, two = await places(nursery, network, 2)
    arrived: list[tuple[float, bytes]] = []
    done = trio.Event()

    async def collect(stream: Stream) -> None:
        while part := await stream.read(3):
            arrived.append((trio.current_time(), part))
        done.set()

    two.transport.handle("/collect", collect)
    await one.transport.connect(two.address)
    async with one.transport.open(two.id, "/collect") as stream:
        start = trio.current_time()
        for number in range(20):
            await stream.write(b"%02d" % number)
    await done.wait()
    assert b"".join(part for _, part in arrived) == b"".join(b"%02d" % number for number in range(20))
    assert 1.0 <= arrived[0][0] - start <= arrived[-1][0] - start <= 2.0


async def test_every_node_hears_every_message_several_times_over(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    made = await meshed(nursery, Network(random.Random(1)), 20)
    for place in made:
        assert len(place.transport._topics[TOPIC].mesh) <= DEGREE_HIGH
        await place.transport.publish(TOPIC, place.id.encode())
    await trio.sleep(2.0)
    for place in made:
        assert place.heard.statistics().current_buffer_used == place.transport.traffic.messages == 19
        assert 2 < place.transport.traffic.copies / 19 < DEGREE_HIGH


async def test_copies_are_lost_as_often_as_asked(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    one, two = await meshed(nursery, Network(random.Random(1), Conditions(loss=0.25)), 2)
    for _ in range(1000):
        await one.transport.publish(TOPIC, b"x")
        with trio.move_on_after(0.001):  # as a reader, lest the queue overflow
            await two.heard.receive()
    await trio.sleep(1.0)
    assert 700 < two.transport.traffic.copies < 800


async def test_a_message_that_overflows_the_queue_is_dropped_and_observed(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    one, two = await meshed(nursery, Network(random.Random(1)), 2)
    for _ in range(limits.MESSAGES_PENDING_MAX + 1):
        await one.transport.publish(TOPIC, b"x")
    await two.watch.event(Kind.MESSAGE_DROPPED, one.id)
    assert two.heard.statistics().current_buffer_used == limits.MESSAGES_PENDING_MAX


async def test_connections_are_limited(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    network = Network(random.Random(1))
    one, two, three = await places(nursery, network, 3)
    small = SimTransport(network, peer_id(key(9).public_key()), LISTEN, connections_max=2)
    await nursery.start(small.run)
    for place in (one, two):
        await place.transport.connect(small.addresses()[0])
    with pytest.raises(DialFailed, match="too many"):
        await three.transport.connect(small.addresses()[0])
    small.cut(one.id)
    await three.transport.connect(small.addresses()[0])


def test_the_same_seed_gives_the_same_traffic() -> None:
    async def run(seed: int) -> list[tuple[float, int]]:
        schedule_by_seed(seed)
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                made = await meshed(nursery, Network(random.Random(seed), Conditions(loss=0.1)), 8)
                await made[0].transport.publish(TOPIC, b"x")
                await trio.sleep(1.0)
                nursery.cancel_scope.cancel()
        return [(trio.current_time(), place.transport.traffic.copies) for place in made]

    once, again, other = (trio.run(run, seed, clock=MockClock(autojump_threshold=0)) for seed in (1, 1, 2))
    assert once == again != other
