"""A small swarm on one machine: real nodes, each a process with its own home, key, ledger and private split.

The first node makes the challenge; the others know nothing but its address. The demo only watches: it reads the
nodes' status files and the first node's ledger, as anybody could, and stops when that ledger tells of a discovery
that a node other than its author has confirmed and adopted.
"""

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ledger import queries
from ledger.queries import DiscoveryRow
from ledger.store import Store
from node import status, story
from node.errors import NodeFailure, UserError
from node.home import Home, found_challenge
from node.tracks import CPU_TRACK, own_tracks
from trainer.sandbox.preflight import preflight

PR_SET_PDEATHSIG = 1  # prctl(2)
POLL_S = 0.5
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
BUDGET_CPU_S = 5.0  # half of the default's: with three nodes on two cores a discovery and its check take minutes
PLAIN_INTERVAL_S = 30.0  # between lines where there is no terminal to draw on


class DemoNode(NamedTuple):
    """One node of the demo."""

    home: Home
    log: Path
    process: subprocess.Popen[bytes]


def run_demo(count: int, limit_s: float, out: Path, console: Console) -> int:
    """Run the swarm and tell its story; the exit code: 0 with a verified discovery, 1 without.

    Raises `UserError` if `out` is not new, `SandboxUnavailable`, and `NodeFailure` if a node dies.
    """
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty; give --out a new folder.")
    console.print(preflight(), highlight=False)
    first = Home(out / "node-1")
    challenge = found_challenge(first, "demo", (), own_tracks([CPU_TRACK], BUDGET_CPU_S))
    text = challenge.corpus
    console.print(
        f"challenge {challenge.digest()[:12]}: {text.bytes / 1e6:.1f} MB of text from the Python standard library, "
        f"{BUDGET_CPU_S:g} CPU seconds a trial; {count} nodes; everything stays in {out}",
        highlight=False,
    )
    began = time.monotonic()
    with _swarm(first, count, out) as nodes:
        found = _watch(nodes, began, limit_s, console)
    with_story = found or _best(first)
    seconds = time.monotonic() - began
    store = first.store(challenge)
    if with_story is not None:
        console.rule("the best discovery")
        row = queries.discovery(store, with_story.id)
        console.print(story.discovery_story(store, row or with_story))
        console.print()
    kinds = ", ".join(f"{n} {kind}" for kind, n in queries.counts(store).items())
    console.print(f"in the ledger of node 1: {kinds}; {seconds:.0f} s in all", highlight=False)
    console.print(f"everything is in {out}; look around: waggle ledger log --home {first.path}", highlight=False)
    if found is None:
        console.print(f"no discovery was confirmed and adopted by another node within {limit_s / 60:g} minutes")
        return 1
    console.print("verified: confirmed and adopted by a node other than its author", style="bold green")
    return 0


@contextmanager
def _swarm(first: Home, count: int, out: Path) -> Iterator[list[DemoNode]]:
    """`count` running nodes, the first alone and the others joining it; all stopped at the end."""
    nodes: list[DemoNode] = []
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)  # as Ctrl-C: the nodes are stopped, and what is left is named
    try:
        nodes.append(_spawn(first, []))
        address = _address(nodes[0])
        nodes.extend(_spawn(Home(out / f"node-{number}"), ["--join", address]) for number in range(2, count + 1))
        yield nodes
    finally:
        for node in nodes:
            if node.process.poll() is None:
                node.process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for node in nodes:
            try:
                node.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                node.process.kill()
                node.process.wait()


def _spawn(home: Home, more: Sequence[str]) -> DemoNode:
    home.path.mkdir(parents=True, exist_ok=True)
    log = home.path / "node.log"
    command = [sys.executable, "-m", "node.cli", "start", "--home", str(home.path), *more]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
    return DemoNode(home, log, process)


def _end_with_parent() -> None:
    """Have the kernel send this process SIGTERM when the demo ends, however it does."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _address(node: DemoNode) -> str:
    """Where a node that was just started can be joined."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        _check_alive([node])
        now = status.read(node.home.status_file)
        if now is not None and now.addresses:
            return now.addresses[0]
        time.sleep(POLL_S)
    raise NodeFailure(f"the first node did not start within {START_TIMEOUT_S:.0f} s; its log is {node.log}")


def _check_alive(nodes: Sequence[DemoNode]) -> None:
    for node in nodes:
        if node.process.poll() is not None:
            tail = "\n".join(node.log.read_text(errors="replace").splitlines()[-15:])
            raise NodeFailure(
                f"{node.home.path.name} ended with code {node.process.returncode}:\n{story.plain_lines(tail)}"
            )


def _watch(nodes: Sequence[DemoNode], began: float, limit_s: float, console: Console) -> DiscoveryRow | None:
    """Show the nodes until the first one's ledger has a verified discovery, or the time is up."""
    home = nodes[0].home
    store = home.store(home.challenge())
    spoke = began
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while time.monotonic() - began < limit_s:
            _check_alive(nodes)
            if (found := _verified(store)) is not None:
                return found
            view = _view(nodes, store, time.monotonic() - began)
            if console.is_terminal:
                live.update(view, refresh=True)
            elif time.monotonic() - spoke >= PLAIN_INTERVAL_S:
                spoke = time.monotonic()
                console.print(view)
            time.sleep(POLL_S)
    return None


def _view(nodes: Sequence[DemoNode], store: Store, seconds: float) -> Table:
    table = Table(
        "node", "peers", "trials", "incumbent", "bpb", "doing", title=f"{seconds:.0f} s", title_justify="left"
    )
    for node in nodes:
        now = status.read(node.home.status_file)
        if now is None:
            table.add_row(node.home.path.name, "", "", "", "", "starting")
            continue
        score = "" if now.incumbent_bpb is None else f"{now.incumbent_bpb:.4f}"
        doing = Text(story.plain(now.activity), no_wrap=True, overflow="ellipsis")
        name = f"{node.home.path.name} {story.short(now.peer)}"
        table.add_row(name, str(len(now.peers)), str(now.trials), now.incumbent[:8], score, doing)
    rows = queries.discoveries(store)
    confirmed, adopted = sum(row.confirmed > 0 for row in rows), sum(row.adopted > 1 for row in rows)
    table.caption = f"{len(rows)} discoveries, {confirmed} confirmed by others, {adopted} adopted by others"
    return table


def _verified(store: Store) -> DiscoveryRow | None:
    """The best discovery that some node other than its author both confirmed and adopted."""
    sql = """EXISTS (SELECT 1 FROM attestations AS a JOIN adoptions AS o ON o.discovery = a.discovery
                     AND o.author = a.author
                     WHERE a.discovery = d.id AND a.verdict = 'confirmed' AND a.author <> d.author)"""
    return min(queries.discoveries(store, sql), key=lambda row: row.mean, default=None)


def _best(home: Home) -> DiscoveryRow | None:
    """The largest claim, where none was verified."""
    return min(queries.discoveries(home.store(home.challenge())), key=lambda row: row.mean, default=None)
