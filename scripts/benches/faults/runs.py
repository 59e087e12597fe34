"""The faults, one function each: it starts a swarm, harms it, and returns what was measured, or raises `Lost`.

Every run ends with all ledgers that are left equal, to the digest of their tables, sound (fsck), and with everything
in them that anybody ever stated, trials and the texts of programs too.
"""

import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import trio
from msgspec import Struct

from benches import entries
from benches.faults.sites import HOSTS, NoSites, two_sites
from benches.faults.swarm import START_BOUND_S, Lost, Member, Swarm
from node.home import Home

REST_S = 20.0  # over which CPU at rest is measured
SLOW_ON_S, SLOW_OFF_S = 0.05, 0.95  # a slow peer runs for so long, and then stands still for so long


class Size(Struct, frozen=True, kw_only=True):
    """How large a run is, and what it may take."""

    observers: int
    speakers: int = 2
    rounds: int = 5  # each time anything is stated: discoveries and trials of each speaker, or discoveries in all
    heal_bound_s: float  # from the end of the fault until all ledgers are equal
    notice_bound_s: float = 60.0  # from the beginning of a fault until the others have let the peer go
    history: int = 0  # entries in the founder's ledger before anybody joins
    hurried: bool = False


Run = Callable[[Swarm, Size], Awaitable[list[str]]]


async def kill(swarm: Swarm, size: Size) -> list[str]:
    """An observer and a speaker are killed in the middle of things, and start again on their ports."""
    observers, speakers = await swarm.grow(size.observers, size.speakers)
    victims = [observers[-1], speakers[-1]]
    addresses = [victim.address for victim in victims]
    await _state(speakers, size.rounds)
    for victim in victims:
        await victim.kill()
    await _state(speakers[:-1], size.rounds)
    began_s = time.monotonic()
    await swarm.start(*victims)
    up_s = time.monotonic() - began_s
    if addresses != [victim.address for victim in victims]:
        raise Lost(f"listened on {addresses}, and then on {[victim.address for victim in victims]}")
    caught_up_s = await swarm.equal(swarm.members, size.heal_bound_s)
    await _state(speakers, size.rounds)
    last_s = await swarm.equal(swarm.members, size.heal_bound_s)
    return [
        f"two killed, serving again after {up_s:.1f} s",
        f"caught up {caught_up_s:.1f} s later",
        f"what they then stated everywhere after {last_s:.1f} s",
    ]


async def freeze(swarm: Swarm, size: Size) -> list[str]:
    """An observer is stopped until all others have let it go, and then goes on."""
    observers, speakers = await swarm.grow(size.observers, size.speakers)
    victim = observers[-1]
    others = [member for member in swarm.members if member is not victim]
    victim.signal(signal.SIGSTOP)
    began_s = time.monotonic()
    try:
        await _state(speakers, size.rounds)
        reached_s = await swarm.equal(others, size.heal_bound_s)
        await swarm.apart(others, [victim], size.notice_bound_s)
        noticed_s = time.monotonic() - began_s
        await _state(speakers, size.rounds)
        await swarm.equal(others, size.heal_bound_s)
    finally:
        victim.signal(signal.SIGCONT)
    thawed_s = await swarm.equal(swarm.members, size.heal_bound_s)
    return [
        f"news at all others after {reached_s:.1f} s",
        f"the frozen one let go by all after {noticed_s:.1f} s",
        f"caught up {thawed_s:.1f} s after it thawed",
    ]


async def partition(swarm: Swarm, size: Size) -> list[str]:
    """The cable between two sites is cut until the connections are gone; there is news at both. Raises `NoSites`."""
    with two_sites() as sites:
        places = [(f"/ip4/{host}/tcp/0", sites.prefix(site)) for site, host in enumerate(HOSTS)]
        listen, prefix = places[0]
        await swarm.start(swarm.add(listen=listen, prefix=prefix))
        here, there = [swarm.members[0]], list[Member]()
        for number in range(1, size.observers + size.speakers):
            site = number % 2
            listen, prefix = places[site]
            member = swarm.add(speaks=number >= size.observers, listen=listen, prefix=prefix)
            (there if site else here).append(member)
        await swarm.start(*here[1:], *there)
        await _state([member for member in swarm.members if member.speaks], size.rounds)
        await swarm.equal(swarm.members, START_BOUND_S)
        sites.cut()
        began_s = time.monotonic()
        before = swarm.stated()
        known: list[set[str]] = []
        for side in (here, there):
            speaking = [member for member in side if member.speaks]
            await _state(speaking, size.rounds)
            known.append(before | {one for member in speaking for one in member.stated})
            await swarm.equal(side, size.heal_bound_s, known[-1])
        await swarm.apart(here, there, size.notice_bound_s)
        await swarm.apart(there, here, size.notice_bound_s)
        parted_s = time.monotonic() - began_s
        for side, ids in zip((here, there), known, strict=True):
            if any(sum(head.seq + 1 for head in member.store.heads().values()) != len(ids) for member in side):
                raise Lost("the cut let something through, so this run shows nothing")
        sites.mend()
        healed_s = await swarm.equal(swarm.members, size.heal_bound_s)
        await _state([member for member in swarm.members if member.speaks], size.rounds)
        await swarm.equal(swarm.members, size.heal_bound_s)
    return [
        f"{len(here)} and {len(there)} processes apart for {parted_s:.0f} s, with news on both sides",
        f"equal {healed_s:.1f} s after the cable was mended",
    ]


async def slow(swarm: Swarm, size: Size) -> list[str]:
    """Two observers run one twentieth of the time, and the rest of them must not be held up."""
    observers, speakers = await swarm.grow(size.observers, size.speakers)
    victims = observers[-2:]
    quick = [member for member in swarm.members if member not in victims]
    usual = await _news(speakers, size.rounds)
    await swarm.equal(swarm.members, size.heal_bound_s)
    slowing = await swarm.nursery.start(_slow_down, victims)
    hindered = await _news(speakers, size.rounds)
    quick_s = await swarm.equal(quick, size.heal_bound_s)
    slowing.cancel()
    slow_s = await swarm.equal(swarm.members, size.heal_bound_s)
    without, beside = (swarm.delays_s(quick, ids) for ids in (usual, hindered))
    if beside[-1] > size.heal_bound_s:
        raise Lost(f"a discovery took {beside[-1]:.1f} s among those that are not slow")
    return [
        f"delays among the others: {_percentiles(without)} before, {_percentiles(beside)} beside two slow peers",
        f"the others equal after {quick_s:.1f} s, the slow ones {slow_s:.1f} s after they ran on",
    ]


async def late(swarm: Swarm, size: Size) -> list[str]:
    """A node joins that has nothing but an address, with a long history to fetch, while there is news."""
    founder = swarm.add()
    began_s = time.monotonic()
    _write_history(founder.home, size.history)
    written_s = time.monotonic() - began_s
    await swarm.start(founder)
    speakers = [swarm.add(speaks=True) for _ in range(size.speakers)]
    joiner = swarm.add()
    began_s = time.monotonic()
    await swarm.start(joiner, *speakers)
    await _state(speakers, size.rounds)
    await swarm.equal(swarm.members, size.heal_bound_s)
    took_s = time.monotonic() - began_s
    memory = [member.memory_bytes() / 2**20 for member in (founder, joiner)]
    return [
        f"{size.history} entries (written in {written_s:.0f} s), fetched by {1 + size.speakers} nodes at once "
        f"in {took_s:.0f} s",
        f"CPU of the founder {founder.cpu_s():.0f} s, of a joiner {joiner.cpu_s():.0f} s",
        f"memory {memory[0]:.0f} and {memory[1]:.0f} MiB",
    ]


async def restart(swarm: Swarm, size: Size) -> list[str]:
    """Everybody is killed right after they stated something, and started again at once."""
    _, speakers = await swarm.grow(size.observers, size.speakers)
    await _state(speakers, size.rounds)
    for member in swarm.members:
        await member.kill()
    began_s = time.monotonic()
    await swarm.start(*swarm.members)
    up_s = time.monotonic() - began_s
    await _state(speakers, size.rounds)
    equal_s = await swarm.equal(swarm.members, size.heal_bound_s)
    return [f"{len(swarm.members)} killed, all serving again after {up_s:.1f} s, equal {equal_s:.1f} s later"]


async def bootstrap(swarm: Swarm, size: Size) -> list[str]:
    """The one whose address all others were given is gone for good; then these are killed and started, too."""
    (founder, *observers), speakers = await swarm.grow(size.observers, size.speakers)
    left = [*observers, *speakers]
    await _state(speakers, size.rounds)
    await swarm.equal(swarm.members, size.heal_bound_s)
    await founder.kill()
    swarm.members.remove(founder)
    await _state(speakers, size.rounds)
    without_s = await swarm.equal(left, size.heal_bound_s)
    for member in left:
        await member.kill()
    await swarm.start(*left)
    await _state(speakers, size.rounds)
    again_s = await swarm.equal(left, size.heal_bound_s)
    newcomer = swarm.add(join=observers[0])
    began_s = time.monotonic()
    await swarm.start(newcomer)
    await swarm.equal(swarm.members, size.heal_bound_s)
    return [
        f"news everywhere {without_s:.1f} s after its death",
        f"all others restarted, and equal after {again_s:.1f} s",
        f"a newcomer has everything {time.monotonic() - began_s:.1f} s after its start",
    ]


async def scale(swarm: Swarm, size: Size) -> list[str]:
    """As many processes as shall be: what they take at rest, and how long news travels, one discovery a second."""
    began_s = time.monotonic()
    _, speakers = await swarm.grow(size.observers, size.speakers)
    grown_s = time.monotonic() - began_s
    await _state(speakers, 1)
    await swarm.equal(swarm.members, size.heal_bound_s)
    rest = await _cpu_shares(swarm.members, trio.sleep(REST_S))
    gossiped: set[str] = set()

    async def talk() -> None:
        gossiped.update(await _news(speakers, size.rounds))

    work = await _cpu_shares(swarm.members, talk())
    settled_s = await swarm.equal(swarm.members, size.heal_bound_s)
    delays = swarm.delays_s(swarm.members, gossiped)
    memory = sorted(member.memory_bytes() / 2**20 for member in swarm.members)
    return [
        f"{len(swarm.members)} processes, up after {grown_s:.0f} s",
        f"{len(delays)} deliveries of {len(gossiped)} discoveries, 100 %: {_percentiles(delays)}",
        f"trials and programs everywhere {settled_s:.1f} s after the last word",
        f"of one core each takes {rest:.1%} at rest, {work:.1%} with the news",
        f"memory {memory[len(memory) // 2]:.0f} MiB each, {memory[-1]:.0f} at most",
    ]


RUNS: Mapping[str, tuple[Run, Size]] = {
    "kill": (kill, Size(observers=6, heal_bound_s=20)),
    "freeze": (freeze, Size(observers=6, heal_bound_s=60)),
    "partition": (partition, Size(observers=6, heal_bound_s=60)),
    "slow": (slow, Size(observers=6, rounds=20, heal_bound_s=60)),
    "late": (late, Size(observers=2, speakers=1, history=100_000, heal_bound_s=900)),
    "restart": (restart, Size(observers=8, heal_bound_s=60)),
    "bootstrap": (bootstrap, Size(observers=6, heal_bound_s=60)),
    "scale": (scale, Size(observers=28, speakers=4, rounds=40, heal_bound_s=120)),
}


async def carry_out(name: str, folder: Path, size: Size) -> list[str]:
    """Run a fault in an empty folder and check all ledgers at its end; the figures, with the shared digest.

    Raises `Lost`, and `NoSites` where the machine does not allow the run. What was said is in the folder then.
    """
    run, _ = RUNS[name]
    failure: Lost | NoSites | None = None
    async with trio.open_nursery() as nursery:
        swarm = Swarm(nursery, folder, hurried=size.hurried)
        try:
            figures = await run(swarm, size)
            digest = swarm.verify(swarm.members)
        except (Lost, NoSites) as error:  # raised outside of the nursery, which would wrap it
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return [*figures, f"{len(swarm.stated())} stated, digest {digest[:8]} in all {len(swarm.members)} ledgers"]


async def _state(speakers: Sequence[Member], rounds: int) -> None:
    """Discoveries and trials, as many of each, by every speaker."""
    for speaker in speakers:
        await speaker.state(rounds)
        await speaker.state(rounds, "trials")


async def _news(speakers: Sequence[Member], count: int) -> set[str]:
    """A discovery a second, of the speakers in turn, and a trial with every fourth; the ids of the discoveries."""
    stated: set[str] = set()
    next_s = trio.current_time()
    for index in range(count):
        await trio.sleep_until(next_s)
        next_s += 1
        speaker = speakers[index % len(speakers)]
        stated.update(await speaker.state(1))
        if index % 4 == 0:
            await speaker.state(1, "trials")
    return stated


async def _slow_down(
    members: Sequence[Member], task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED
) -> None:
    """Let them run a little at a time, until the scope that this starts with is cancelled."""
    with trio.CancelScope() as scope:
        task_status.started(scope)
        try:
            while True:
                for number, pause_s in ((signal.SIGSTOP, SLOW_OFF_S), (signal.SIGCONT, SLOW_ON_S)):
                    for member in members:
                        member.signal(number)
                    await trio.sleep(pause_s)
        finally:
            for member in members:
                member.signal(signal.SIGCONT)


def _write_history(home: Home, size: int) -> None:
    """Fill a ledger with what teams of four authors write, in hundreds of entries."""
    store = home.store(home.challenge())
    teams = max(1, size // (entries.ROUNDS * entries.ROUND_ENTRIES))
    rounds = size // teams // entries.ROUND_ENTRIES
    entries.fill(store, teams, rounds, lambda line: None)
    entries.put_programs(store, teams, rounds)
    store.close()


async def _cpu_shares(members: Sequence[Member], doing: Awaitable[None]) -> float:
    """The mean share of one core that a member took meanwhile."""
    began_s, before_s = time.monotonic(), sum(member.cpu_s() for member in members)
    await doing
    return (sum(member.cpu_s() for member in members) - before_s) / len(members) / (time.monotonic() - began_s)


def _percentiles(delays_s: Sequence[float]) -> str:
    """Of delays in order: half, 99 % and all of them took no longer."""
    p50, p99 = (delays_s[min(len(delays_s) - 1, int(share * len(delays_s)))] for share in (0.5, 0.99))
    return f"p50 {1000 * p50:.0f} ms, p99 {1000 * p99:.0f} ms, max {1000 * delays_s[-1]:.0f} ms"
