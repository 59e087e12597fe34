"""What our gossip, sync and blobs cost over loopback, beside the bare library, the bare ledger and bare TCP.

delivery   latency and CPU time of a delivery among eight processes, from publishing a statement that is on the disk to
           having it in the ledger, against plain py-libp2p with the same GossipSub parameters, which keeps nothing; and
           the same of our transport alone
catchup    entries per second of a late joiner, against the bare ingest of the same entries
blob       a blob of 100 MB to a file, from one peer and from two at once, against plain TCP to a file; memory of both
           ends meanwhile
soak       with --full only: 15 minutes in which nodes are killed, leave and return, and all state something: what
           grows at those that stay, and whether all ledgers end equal

Files are made in the working folder.
"""

import hashlib
import json
import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benches import entries
from benches.bare_tcp import BLOCK_BYTES
from benches.processes import Child, ask_all, started
from benches.report import Effort, Goal, Outcome, Parts, row
from benches.soak import soak
from benches.swarm_node import statement
from gossip.libp2p_host import GOSSIPSUB
from gossip.limits import PAGE_BYTES_MAX
from gossip.protocols import topic_of
from ledger.author import Author
from ledger.envelope import open_envelope
from ledger.store import Store

LATENCY_GOAL = CPU_GOAL = 1.3
CATCHUP_GOAL = 0.5

NODES = 8
DIALS = 2  # each node dials the next ones: four connections
SECONDS = 20.0  # of publishing
INTERVAL_S = 0.4  # between messages of one node: an author's share of gossip is 60 at once, then one a second
SETTLE_S = 4.0  # of heartbeats, until the mesh is made
LATE_S = 15.0  # until what is not there is lost
CATCHUP_ROUNDS = 100  # of a team: 10,000 entries
BLOB_BYTES = 100_000_000
BLOB_PEERS = (1, 2)  # to fetch from at once

NODE, BARE, TCP = "benches.swarm_node", "benches.bare_pubsub", "benches.bare_tcp"


class Delivered(NamedTuple):
    """Of one run."""

    p50_ms: float
    p99_ms: float
    cpu_ms: float  # of all processes, for each delivery
    share: float  # of the deliveries that should have been


_COLUMNS = (
    ("p50 of a delivery", "ms", "p50_ms"),
    ("p99 of a delivery", "ms", "p99_ms"),
    ("CPU time of a delivery", "ms", "cpu_ms"),
    ("delivered", "of 1", "share"),
)


def delivery(effort: Effort) -> Outcome:
    runs: dict[str, list[Delivered]] = {"node": [], "transport": [], "bare": []}
    for index in effort.repeat(2, 5):
        turn = list(runs) if index % 2 == 0 else list(runs)[::-1]
        for what in turn:
            effort.say(f"delivery: {what}, turn {index + 1}")
            runs[what].append(_deliveries(what))
    rows = [
        row(
            f"{name}: {what}",
            [getattr(one, field) for one in runs[kind]],
            unit,
            "bare GossipSub",
            [getattr(one, field) for one in runs["bare"]],
            paired=True,
        )
        for kind, name in (("node", "a statement"), ("transport", "the transport alone"))
        for what, unit, field in _COLUMNS
    ]
    goals = [
        Goal(what=f"{one.what} / bare GossipSub", figure=one.ratio or 0.0, bound="at most", goal=goal)
        for one, goal in zip(rows, (LATENCY_GOAL, LATENCY_GOAL, CPU_GOAL), strict=False)
    ]
    return Outcome(rows, goals)


def _deliveries(what: str) -> Delivered:
    """One swarm of its kind, from its start to its end."""
    with _folder() as folder:
        size = str(_message_bytes(folder))
        if what == "bare":
            module, arguments = BARE, [[topic_of(entries.CHALLENGE), json.dumps(dict(GOSSIPSUB)), size]] * NODES
        else:
            module, arguments = NODE, [[str(_made(folder / str(index))), what, size] for index in range(NODES)]
        with started(module, arguments) as children:
            connect(children)
            time.sleep(SETTLE_S)
            ask_all(children, "begin")
            count = int(SECONDS / INTERVAL_S)
            for index, child in enumerate(children):
                child.send("publish", count=count, interval_s=INTERVAL_S, delay_s=INTERVAL_S * index / NODES)
            for child in children:
                child.answer()
            ask_all(children, "expect", count=count * (NODES - 1), deadline_s=LATE_S)
            return _measured(ask_all(children, "report"))


def connect(children: Sequence[Child]) -> None:
    """Make each dial the `DIALS` next ones, as far as there are others, and wait until all are in a mesh."""
    addresses = ask_all(children, "address")
    for index, child in enumerate(children):
        following = [addresses[(index + step) % len(children)] for step in range(1, DIALS + 1)]
        child.ask("dial", addresses=[one for one in dict.fromkeys(following) if one != addresses[index]])
    deadline_s = time.monotonic() + LATE_S
    while not all(ask_all(children, "mesh_peers")):
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"no mesh in {LATE_S:g} s")
        time.sleep(0.1)


def _measured(reports: Sequence[dict[str, Any]]) -> Delivered:
    published = {message: at for report in reports for message, at in report["published"].items()}
    delays_ms = [
        (at - published[message]) / 1e6
        for report in reports
        for message, at in report["received"].items()
        if message in published and message not in report["published"]
    ]
    cpu_ms = sum(1000 * report["cpu_s"] for report in reports) / len(delays_ms)
    cuts = statistics.quantiles(delays_ms, n=100, method="inclusive")
    return Delivered(cuts[49], cuts[98], cpu_ms, len(delays_ms) / len(published) / (len(reports) - 1))


def _message_bytes(folder: Path) -> int:
    """Of the envelope of a statement that is measured."""
    store = Store.create(folder / "size.db", entries.CHALLENGE)
    signed = Author(store, Ed25519PrivateKey.generate()).append("main", "b" * 64, statement)
    store.close()
    return len(signed.envelope)


def catchup(effort: Effort) -> Outcome:
    joining: list[float] = []
    bare: list[float] = []
    with _folder() as folder:
        effort.say("catchup: the entries")
        envelopes = entries.work(0, CATCHUP_ROUNDS)
        founder = _made(folder / "founder")
        store = Store.create(founder / "ledger.db", entries.CHALLENGE)
        _ingest(store, envelopes)
        store.close()
        with started(NODE, [[str(founder), "node"]]) as (holder,):
            address = holder.ask("address")
            for index in effort.repeat(3, 7):
                effort.say(f"catchup: turn {index + 1}")
                store = Store.create(folder / f"{index}.db", entries.CHALLENGE)
                bare.append(len(envelopes) / _seconds(partial(_ingest, store, envelopes)))
                store.close()
                with started(NODE, [[str(_made(folder / f"joiner {index}")), "node"]]) as (joiner,):
                    took = joiner.ask("catch_up", address=address, count=len(envelopes))
                joining.append(len(envelopes) / took["seconds"])
    rates = row("a late joiner", joining, "entries/s", "bare ingest", bare, paired=True)
    goal = Goal(
        what="entries of a late joiner / bare ingest", figure=rates.ratio or 0.0, bound="at least", goal=CATCHUP_GOAL
    )
    return Outcome([rates], [goal])


def _ingest(store: Store, envelopes: Sequence[bytes]) -> None:
    """In pages like those of sync, each opened by one thread and then kept in one transaction."""
    page: list[bytes] = []
    size = 0
    for index, envelope in enumerate(envelopes):
        page.append(envelope)
        size += len(envelope)
        if index + 1 == len(envelopes) or size + len(envelopes[index + 1]) > PAGE_BYTES_MAX:
            checked = [open_envelope(one) for one in page]
            with store.batch(refetchable=True):
                for signed in checked:
                    store.add(signed)
            page, size = [], 0


def blob(effort: Effort) -> Outcome:
    rates: dict[int, list[float]] = {count: [] for count in BLOB_PEERS}
    bare: list[float] = []
    grown: dict[str, list[float]] = {"the fetching": [], "the serving": []}
    with _folder() as folder:
        effort.say("blob: the bytes")
        name = _make_blob(folder / "blob")
        servers = [_made(folder / f"server {index}") for index in range(max(BLOB_PEERS))]
        for server in servers:
            os.link(folder / "blob", server / name)
        for index in effort.repeat(3, 7):
            bare.append(BLOB_BYTES / 1e6 / _over_tcp(folder / "blob", folder / "copy"))
            for count, found in rates.items():
                effort.say(f"blob: turn {index + 1}, {count} to fetch from")
                fetcher = _made(folder / f"fetcher {index} {count}")
                with started(NODE, [[str(one), "node"] for one in (fetcher, *servers[:count])]) as children:
                    addresses = ask_all(children[1:], "address")
                    before = ask_all(children, "watch_memory")
                    found.append(
                        BLOB_BYTES / 1e6 / children[0].ask("fetch", addresses=addresses, name=name, size=BLOB_BYTES)
                    )
                    after = ask_all(children, "peak_memory")
                (fetcher / name).unlink()
                for what, place in (("the fetching", 0), ("the serving", 1)):
                    grown[what].append((after[place] - before[place]) / 1e6)
    rows = [
        row(f"a blob of {BLOB_BYTES / 1e6:g} MB from {count}", found, "MB/s", "plain TCP", bare, paired=True)
        for count, found in rates.items()
    ]
    rows += [row(f"memory of {what} node grows meanwhile by", found, "MB") for what, found in grown.items()]
    return Outcome(rows)


def _make_blob(path: Path) -> str:
    """A file of `BLOB_BYTES` random bytes; returns its SHA-256 in hex."""
    hashed, left = hashlib.sha256(), BLOB_BYTES
    with path.open("wb") as file:
        while left:
            block = os.urandom(min(left, BLOCK_BYTES))
            hashed.update(block)
            file.write(block)
            left -= len(block)
    return hashed.hexdigest()


def _over_tcp(source: Path, target: Path) -> float:
    """Seconds that a file takes from another process to a file and its disk, over a TCP connection on loopback."""
    with (
        started(TCP, [[str(source)]]) as (sender,),
        socket.create_connection(("127.0.0.1", sender.ask("port"))) as conn,
        target.open("wb") as file,
    ):
        took_s = _seconds(lambda: _receive(conn, file.write, lambda: os.fsync(file.fileno())))
    target.unlink()
    return took_s


def _receive(conn: socket.socket, keep: Callable[[bytes], object], done: Callable[[], object]) -> None:
    conn.sendall(b"?")
    while block := conn.recv(BLOCK_BYTES):
        keep(block)
    done()


def _seconds(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@contextmanager
def _folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="bench-gossip-", dir=Path.cwd()) as name:
        yield Path(name)


PARTS: Parts = {"delivery": delivery, "catchup": catchup, "blob": blob, "soak": soak}
