"""`scripts/faults` at a small size and with short pauses: `waggle start --observe`, killed, parted, late, left alone.

What test_faults.py does to bare nodes is not repeated here. Each run fails if anything that was stated is not in every
ledger at its end, or if two ledgers differ.
"""

import importlib
import random
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import examples
import pytest
import trio
from click.testing import CliRunner
from loopback import sim_nodes
from trio.testing import MockClock

from gossip.events import Kind
from gossip.simnet import Conditions, Network
from ledger.author import Author
from ledger.store import Store
from node.home import Home

SCRIPTS = Path(__file__).parents[2] / "scripts"
SMALL = {"observers": 2, "rounds": 2, "heal_bound_s": 30.0, "hurried": True}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("benches.faults.runs")


@pytest.fixture
def swarms(runs: Any) -> Any:
    return importlib.import_module("benches.faults.swarm")


async def held(runs: Any, name: str, folder: Path, **size: Any) -> list[str]:
    """The figures of a run that held; its own size where it is not that of all."""
    figures: list[str] = await runs.carry_out(name, folder, runs.Size(**SMALL | size))
    return figures


async def test_an_observer_and_a_speaker_killed_in_the_middle_return_on_their_ports(runs: Any, tmp_path: Path) -> None:
    figures = await held(runs, "kill", tmp_path, observers=1)
    assert figures[-1].startswith("20 stated")


async def test_two_sites_with_the_cable_between_them_cut_and_mended(runs: Any, tmp_path: Path) -> None:
    try:
        figures = await held(runs, "partition", tmp_path)
    except runs.NoSites as error:
        pytest.skip(f"no partition here: {error}")
    assert figures[-1].startswith("24 stated")


async def test_a_late_joiner_with_nothing_but_an_address_fetches_a_history_while_there_is_news(
    runs: Any, tmp_path: Path
) -> None:
    await held(runs, "late", tmp_path, speakers=1, history=500)
    with sqlite3.connect(tmp_path / "observer-03" / "ledger.db") as ledger:
        assert ledger.execute("SELECT count(*) FROM entries").fetchone() == (504,)


async def test_a_late_joiner_gets_hundreds_of_programs_in_seconds(
    nursery: trio.Nursery, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """As found by `scripts/faults late`, where a thousand took minutes: 32 a round, and a pause after each."""
    make_node = sim_nodes(nursery, tmp_path, Network(random.Random(1), Conditions(latency_s=0.0, jitter_s=0.0)))
    founder, joiner = await make_node().start(), await make_node().start()
    with founder.store.batch():
        for number in range(300):
            founder.discover(b"parent", b"child %d" % number)
    began_s = trio.current_time()
    joiner.transport.keep_connected(founder.address)
    await joiner.watch.until(lambda: len(joiner.watch.of(Kind.BLOB_RECEIVED)) == 301)
    assert trio.current_time() - began_s < 10  # in rounds of 5 s it would be 45


async def test_the_one_whose_address_all_were_given_is_gone_for_good(runs: Any, tmp_path: Path) -> None:
    figures = await held(runs, "bootstrap", tmp_path, speakers=1)
    assert figures[-1].startswith("12 stated")
    assert figures[-1].endswith("in all 3 ledgers")


async def test_a_ledger_that_lacks_something_is_found_out(swarms: Any, tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        swarm = swarms.Swarm(nursery, tmp_path, hurried=True)
        whole, lacking = swarm.add(), swarm.add()
        shutil.copytree(whole.home.path, lacking.home.path)
        home = Home(whole.home.path)
        author = Author(Store.open(home.ledger_file), home.key())
        members = [whole, lacking]
        await swarm.equal(members, 5.0)
        said = examples.state_trial(author, "a" * 64, 1, 3.0)
        with pytest.raises(swarms.Lost, match=r"ledgers hold \[0, 1\] entries"):
            await swarm.equal(members, 0.0)
        with pytest.raises(swarms.Lost, match="2 different digests in 2 ledgers"):
            swarm.verify(members)
        lacking.store.add(said)
        await swarm.equal(members, 0.0, {said.id})
        with pytest.raises(swarms.Lost, match="not equal within 0 s: of 1 stated"):
            await swarm.equal(members, 0.0, {"not" + said.id})
        nursery.cancel_scope.cancel()


def test_what_is_lost_decides_the_exit_code_and_what_is_not_allowed_here_does_not(
    runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = importlib.import_module("benches.faults.__main__").faults

    async def forbidden(swarm: Any, size: Any) -> list[str]:
        raise runs.NoSites("not on this machine")

    async def lost(swarm: Any, size: Any) -> list[str]:
        raise runs.Lost("one entry")

    size = runs.Size(observers=1, heal_bound_s=1.0)
    monkeypatch.setitem(runs.RUNS, "forbidden", (forbidden, size))
    monkeypatch.setitem(runs.RUNS, "lost", (lost, size))
    skipped = CliRunner().invoke(command, ["forbidden"])
    assert (skipped.exit_code, skipped.output) == (0, "skipped  forbidden  not on this machine\n")
    both = CliRunner().invoke(command, ["lost", "forbidden"])
    assert both.exit_code == 1
    first, second = both.output.splitlines()
    assert first.startswith("lost     lost       one entry; all logs and ledgers are in ")
    shutil.rmtree(first.rpartition(" ")[2])
    assert second == skipped.output.rstrip()
    unknown = CliRunner().invoke(command, ["nothing"])
    assert unknown.exit_code == 2
    assert "there is kill, freeze, partition" in unknown.stderr
