"""A node that states something when it is told to: transport, mesh and peering as `waggle start` has them, and no lane.

    python -m benches.faults.speaker HOME LISTEN [--join ADDRESS]... [--hurried]

It says the same lines as `waggle start --observe`. On a line `{"feed": "main", "count": 3}` on its standard input it
states that many discoveries (or trials, in the feed `trials`), each of a program of its own, and answers
`stated [[id, monotonic time in s at which it was durable here], …]`.
"""

import json
import os
import sys
import time
from pathlib import Path
from random import Random

import click
import trio

from benches.faults.hurried import hurry
from gossip.events import Event, Kind
from ledger.envelope import Signed
from ledger.predicates import Comparison, Discovery, Entry, FeedKind, Hardware, Measurement, Trial

_NO_PAIRS = Comparison(
    split="public", seeds=(), parent_trials=(), child_trials=(), differences=(),
    mean=0.0, low=0.0, high=0.0, p_value=1.0, noise=0.0,
)  # fmt: skip
_CRASH = Measurement(
    status="crash", val_bpb=None, evaluated_bytes=0, budget_used_s=1.0, wall_s=1.0, peak_memory_bytes=1,
    weights_bytes=0, weights_sha256=None, validation_sha256=None, program_lines=1, reason="nothing was run",
    hardware=Hardware(machine="m", cpu="c", cores=1, system="s", python="3", torch="2"),
)  # fmt: skip


def _say(line: str) -> None:
    print(line, flush=True)


def _observe(event: Event) -> None:
    if event.kind not in (Kind.ENTRIES_RECEIVED, Kind.BLOB_RECEIVED):
        _say(f"network: {event.kind} {event.peer[-8:]} {event.detail}".rstrip())


def _received(signed: Signed) -> None:
    if signed.statement.kind != "trial":
        _say(f"received {signed.statement.kind} {signed.id[:16]} of {signed.statement.entry.author[-8:]}")


async def _speak(path: Path, listen: str, join: tuple[str, ...]) -> None:
    from gossip.libp2p_transport import Libp2pTransport
    from gossip.mesh import Mesh
    from gossip.peering import Peering
    from gossip.peerstore import PeerStore
    from ledger.author import Author
    from node.home import Home
    from node.joining import fetch_challenge
    from node.tracks import CPU_TRACK

    home = Home(path)
    transport = Libp2pTransport(home.key(), listen)
    async with trio.open_nursery() as nursery:
        await nursery.start(transport.run)
        if not home.is_initialised():
            await fetch_challenge(transport, home, join, _say)
        challenge = home.challenge()
        store = home.store(challenge)
        author = Author(store, home.key())
        mesh = Mesh(transport, store, challenge.digest(), _observe, _received)
        peering = Peering(
            transport, PeerStore(store), home.key(), challenge.digest(), lambda event: None, transport.guard
        )
        await nursery.start(mesh.run)
        await nursery.start(peering.run, join)
        parent = next(iter(challenge.tracks.values())).baseline
        random = Random(f"{author.id} {store.clock()}")  # other programs after a restart
        _say(f"listening on {transport.addresses()[0]}")

        def body(entry: Entry) -> Discovery | Trial:
            if entry.feed.startswith("trials"):
                return Trial(entry=entry, track=CPU_TRACK, seed=1, split="public", result=_CRASH)
            return Discovery(
                entry=entry, track=CPU_TRACK, parent=parent, hypothesis="?", proposer="speaker", comparison=_NO_PAIRS
            )

        async def state(feed: FeedKind, count: int) -> None:
            stated = []
            for _ in range(count):
                program = store.blobs.put(b"# %032x\n" % random.getrandbits(128) * 64)
                signed = author.append(feed, program, body)
                stated.append((signed.id, time.monotonic()))
                await mesh.publish(signed)
            _say(f"stated {json.dumps(stated)}")

        held = b""
        async for part in trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())):
            *lines, held = (held + part).split(b"\n")
            for line in lines:
                await state(**json.loads(line))
        nursery.cancel_scope.cancel()


@click.command()
@click.argument("home", type=click.Path(path_type=Path, file_okay=False))
@click.argument("listen")
@click.option("--join", multiple=True)
@click.option("--hurried", is_flag=True)
def speaker(home: Path, listen: str, join: tuple[str, ...], hurried: bool) -> None:
    """Run a speaker until its standard input ends."""
    if hurried:
        hurry()
    trio.run(_speak, home, listen, join)


if __name__ == "__main__":
    speaker()
