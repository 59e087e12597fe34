"""A swarm of processes: starting, stopping and telling its members, and asking their ledgers whether anything is lost.

Ledgers are read from outside, as `waggle ledger` does while a node runs. What a member said is kept with the time at
which it was read, so a delay that is computed from it is never too short.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from subprocess import PIPE, STDOUT
from tempfile import TemporaryDirectory

import psutil
import trio

from ledger import tables
from ledger.fsck import fsck
from ledger.predicates import FeedKind
from ledger.store import Store
from node import status
from node.home import Home, found_challenge
from node.tracks import CPU_TRACK, own_tracks

LISTEN = "/ip4/127.0.0.1/tcp/0"
START_BOUND_S = 120.0  # 32 processes at once on two cores take 40 s
STATE_BOUND_S = 30.0
POLL_S = 0.05
_SHOWN = 16  # digits of an id, in what a member says
_ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}  # the code that runs us
_PR_SET_PDEATHSIG = 1  # prctl(2)


class Lost(Exception):
    """Something is missing that was stated, or did not happen within its bound."""


def found(home: Home) -> None:
    """Make `home` that of a new challenge, over a corpus that takes no time to pack and to fetch."""
    with TemporaryDirectory() as folder:
        text = Path(folder, "text.jsonl")
        documents = ("".join(f"{number * 7919 % 104729} " for number in range(at, at + 1000)) for at in range(200))
        text.write_text("".join(json.dumps({"text": one}) + "\n" for one in documents))
        found_challenge(home, "faults", [text], own_tracks([CPU_TRACK]))


class Member:
    """One process. It may be killed and started again: same home, key and port."""

    def __init__(
        self, home: Home, *, speaks: bool, listen: str, join: Sequence[str], hurried: bool, prefix: Sequence[str]
    ) -> None:
        self.home, self.speaks, self.name = home, speaks, home.path.name
        self.address = ""  # where it listened last
        self.said: list[str] = []  # in all its lives
        self.stated: dict[str, float] = {}  # id → when it was durable, by time.monotonic()
        self.received: dict[str, float] = {}  # the first digits of an id → when it was said to have arrived
        self._listen, self._join, self._hurried, self._prefix = listen, tuple(join), hurried, tuple(prefix)
        self._news, self._ended = trio.Event(), trio.Event()
        self._store: Store | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the process and read what it says until it ends; kill it when cancelled. Started when it serves.

        Raises `Lost` if it does not start.
        """
        # Popen here and not in a worker thread: the kernel ends the child with the thread that made it.
        self._process = process = subprocess.Popen(
            self._command(), stdin=PIPE, stdout=PIPE, stderr=STDOUT, env=_ENVIRONMENT, preexec_fn=_end_with_parent
        )
        assert process.stdin is not None, "asked for above"
        assert process.stdout is not None, "asked for above"
        self._ended = trio.Event()
        began = len(self.said)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read, process.stdout.fileno())
                line = await self.until("listening on ", START_BOUND_S, since=began)
                self.address = line.removeprefix("listening on ")
                self._listen = self.address.partition("/p2p/")[0]
                if not self.speaks:
                    await self.until("observing: ", START_BOUND_S, since=began)
                task_status.started()
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()

    def _command(self) -> list[str]:
        python = [*self._prefix, sys.executable, "-P", "-m"]
        join = [part for address in self._join for part in ("--join", address)]
        if self.speaks:
            hurried = ["--hurried"] if self._hurried else []
            return [*python, "benches.faults.speaker", str(self.home.path), self._listen, *join, *hurried]
        module = "benches.faults.hurried" if self._hurried else "node.cli"
        options = ["--home", str(self.home.path), "--observe", "--no-mdns", "--listen", self._listen]
        return [*python, module, "start", *options, *join]

    async def _read(self, pipe: int) -> None:
        """Until the process ends; all goes to a file beside its home, too."""
        held = b""
        with self.home.path.with_suffix(".log").open("a", buffering=1) as log:
            async with trio.lowlevel.FdStream(os.dup(pipe)) as stream:
                async for part in stream:
                    *lines, held = (held + part).split(b"\n")
                    for line in lines:
                        log.write(f"{line.decode(errors='replace')}\n")
                        self._hear(line.decode(errors="replace"), time.monotonic())
                    self._ring()
        self._ended.set()
        self._ring()

    def _hear(self, line: str, now_s: float) -> None:
        said = line if self.speaks else line.partition("  ")[2] or line  # an observer's lines begin with the time
        self.said.append(said)
        first, _, rest = said.partition(" ")
        if first == "received":
            self.received.setdefault(rest.split()[1], now_s)
        elif first == "stated":
            self.stated.update(json.loads(rest))

    def _ring(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def until(self, prefix: str, bound_s: float, *, since: int = 0) -> str:
        """The first line from the one numbered `since` on that begins so. Raises `Lost` if there is none in time."""
        with trio.move_on_after(bound_s):
            while True:
                for line in self.said[since:]:
                    if line.startswith(prefix):
                        return line
                if self._ended.is_set():
                    break
                await self._news.wait()
        raise Lost(f"{self.name} did not say {prefix!r} within {bound_s:.0f} s, but: {' | '.join(self.said[-8:])}")

    async def state(self, count: int, feed: FeedKind = "main") -> list[str]:
        """Have a speaker state something; the ids, when it has published them."""
        assert self._process.stdin is not None
        since = len(self.said)
        self._process.stdin.write(json.dumps({"feed": feed, "count": count}).encode() + b"\n")
        self._process.stdin.flush()
        line = await self.until("stated ", STATE_BOUND_S, since=since)
        return [one for one, _ in json.loads(line.removeprefix("stated "))]

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        await self._ended.wait()
        self._process.wait()

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def peer_id(self) -> str:
        return self.address.rpartition("/")[2]

    @property
    def store(self) -> Store:
        """Its ledger, read from here."""
        if self._store is None:
            self._store = Store.open(self.home.ledger_file)
        return self._store

    def peers(self) -> list[str]:
        """With whom an observer is connected, by its status file, which is written every second."""
        now = status.read(self.home.status_file)
        return [] if now is None else now.peers

    def memory_bytes(self) -> int:
        """What it holds alone, without what it shares with other processes."""
        return int(psutil.Process(self._process.pid).memory_full_info().uss)

    def cpu_s(self) -> float:
        """Used since its start, user and system."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)


class Swarm:
    """The members of one run, in a nursery that ends with it. The first one is the founder, whom all others join."""

    def __init__(self, nursery: trio.Nursery, folder: Path, *, hurried: bool) -> None:
        self.nursery, self._folder, self._hurried = nursery, folder, hurried
        self.members: list[Member] = []

    def add(
        self, *, speaks: bool = False, listen: str = LISTEN, prefix: Sequence[str] = (), join: Member | None = None
    ) -> Member:
        """A member that is not running yet: the founder, or one that will join it, or `join`."""
        home = Home(self._folder / f"{'speaker' if speaks else 'observer'}-{len(self.members) + 1:02}")
        if not self.members:
            found(home)
        addresses = [(join or self.members[0]).address] if self.members else []
        member = Member(home, speaks=speaks, listen=listen, join=addresses, hurried=self._hurried, prefix=prefix)
        self.members.append(member)
        return member

    async def start(self, *members: Member) -> None:
        """All at once. Raises `Lost` if one does not start."""
        try:
            async with trio.open_nursery() as starting:
                for member in members:
                    starting.start_soon(self.nursery.start, member.run)
        except BaseExceptionGroup as group:
            lost, rest = group.split(Lost)
            if lost is None or rest is not None:
                raise
            raise Lost("; ".join(_messages(lost))) from group

    async def grow(self, observers: int, speakers: int) -> tuple[list[Member], list[Member]]:
        """Start a founder and all others, and wait until each of these is in step with somebody."""
        await self.start(self.add())
        rest = [self.add() for _ in range(observers - 1)]
        speaking = [self.add(speaks=True) for _ in range(speakers)]
        await self.start(*rest, *speaking)
        for member in (*rest, *speaking):
            await member.until("network: peer synced", START_BOUND_S)
        return [self.members[0], *rest], speaking

    def stated(self) -> set[str]:
        """The ids of all that speakers have stated."""
        return {one for member in self.members for one in member.stated}

    async def equal(self, members: Sequence[Member], bound_s: float, stated: Collection[str] | None = None) -> float:
        """Wait until these ledgers are equal and hold what was stated, programs too; how long that took, in s.

        Raises `Lost` if it takes longer than `bound_s`.
        """
        wanted = self.stated() if stated is None else set(stated)
        began_s = time.monotonic()
        while True:
            looked_s = time.monotonic()
            heads = [member.store.heads() for member in members]
            same = heads == heads[:1] * len(heads)
            if same and wanted <= _ids(members[0].store):
                lacking = sum(bool(member.store.blobs.missing(1)) for member in members)
                if not lacking:
                    return time.monotonic() - began_s
            if time.monotonic() - began_s > bound_s:
                held = sorted(sum(head.seq + 1 for head in each.values()) for each in heads)
                raise Lost(
                    f"not equal within {bound_s:.0f} s: of {len(wanted)} stated, ledgers hold {held} entries"
                    + (f", and {lacking} ledgers lack programs" if same and wanted <= _ids(members[0].store) else "")
                )
            await trio.sleep(
                max(POLL_S, 10 * (time.monotonic() - looked_s))
            )  # looking must not starve who is looked at

    async def apart(self, members: Sequence[Member], others: Sequence[Member], bound_s: float) -> None:
        """Wait until none of the observers among `members` is connected with one of `others`, by their status files.

        Raises `Lost` if that takes longer than `bound_s`.
        """
        ids = {member.peer_id for member in others}
        began_s = time.monotonic()
        while any(ids & set(member.peers()) for member in members if not member.speaks):
            if time.monotonic() - began_s > bound_s:
                raise Lost(f"some are still connected after {bound_s:.0f} s")
            await trio.sleep(POLL_S)

    def verify(self, members: Sequence[Member]) -> str:
        """Check that nothing that was stated is lost in any of the ledgers, and that all are sound and the same.

        Returns the digest that they share (of all tables, as `waggle ledger fsck` compares them). Raises `Lost`.
        """
        digests = {tables.digest(member.store.db) for member in members}
        if len(digests) != 1:
            raise Lost(f"{len(digests)} different digests in {len(members)} ledgers")
        for member in members:
            if not member.is_running:
                raise Lost(f"{member.name} ended by itself: {' | '.join(member.said[-8:])}")
            if lost := self.stated() - _ids(member.store):
                raise Lost(f"{member.name} lacks {len(lost)} of {len(self.stated())} entries")
            if errors := [found for found in fsck(member.store) if found.severity == "error"]:
                raise Lost(f"the ledger of {member.name} is damaged: {errors[0]}")
        return digests.pop()

    def delays_s(self, members: Sequence[Member], stated: Collection[str]) -> list[float]:
        """From durable at its author to said to be stored, of these entries at these members; in order.

        Raises `Lost` if one of them was never said to have arrived.
        """
        delays = []
        for author in self.members:
            for one in author.stated.keys() & stated:
                for member in members:
                    if member is author:
                        continue
                    if one[:_SHOWN] not in member.received:
                        raise Lost(f"{member.name} never told of {one[:_SHOWN]} by {author.name}")
                    delays.append(member.received[one[:_SHOWN]] - author.stated[one])
        return sorted(delays)


def _ids(store: Store) -> set[str]:
    return {one for (one,) in store.db.execute("SELECT id FROM entries")}


def _messages(group: BaseExceptionGroup[Lost]) -> list[str]:
    return [
        message
        for one in group.exceptions
        for message in (_messages(one) if isinstance(one, BaseExceptionGroup) else [str(one)])
    ]


def _end_with_parent() -> None:
    """Have the kernel kill this process when the run ends, however it does."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
