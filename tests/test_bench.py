"""`scripts/bench`: goals decide the exit code, figures are medians beside a reference, unknown names list the known."""

import hashlib
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ledger import queries
from ledger.envelope import open_envelope
from ledger.store import Store

SCRIPTS = Path(__file__).parents[1] / "scripts"

FAKE = """
from benches.report import Effort, Goal, Outcome, row

def met(effort):
    effort.say("measuring")
    return Outcome([row("speed", [1.0, 9.0, 2.0], "m/s", "slow", [1.0, 3.0, 4.0], paired=True)],
                   [Goal(what="speed", figure=2.0, bound="at least", goal=1.5, unit="m/s")])

def short(effort):
    return Outcome([row("time", [3.0 for _ in effort.repeat(2, 5)], "s")],
                   [Goal(what="time", figure=3.0, bound="at most", goal=2.5, unit="s")])

PARTS = {"met": met, "short": short}
"""


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The command, with one more bench named `fake`."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "fake_bench.py").write_text(FAKE)
    command = importlib.import_module("benches.__main__")
    monkeypatch.setitem(command.BENCHES, "fake", "fake_bench")
    yield command.bench
    sys.modules.pop("fake_bench", None)


def test_a_short_goal_is_exit_code_1_and_everything_is_written_down(bench: Any, tmp_path: Path) -> None:
    done = CliRunner().invoke(bench, ["fake", "--out", str(tmp_path / "out")])
    assert done.exit_code == 1, done.output
    assert done.stdout.splitlines()[-2:] == [
        "met   speed: 2 m/s, at least 1.5 m/s",
        "short time: 3 s, at most 2.5 s",
    ]
    written = json.loads((tmp_path / "out" / "bench-fake.json").read_text())
    assert [goal["met"] for goal in written["goals"]] == [True, False]
    speed, time = written["rows"]
    assert (speed["figure"], speed["reference"], speed["ratio"], speed["repetitions"]) == (2.0, 3.0, 1.0, 3)
    assert (time["reference"], time["repetitions"]) == (None, 2)
    assert written["hardware"]["torch"]


def test_a_part_alone_and_in_full(bench: Any, tmp_path: Path) -> None:
    done = CliRunner().invoke(bench, ["fake", "--only", "met", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    CliRunner().invoke(bench, ["fake", "--only", "short", "--full", "--out", str(tmp_path)])
    assert json.loads((tmp_path / "bench-fake.json").read_text())["rows"][0]["repetitions"] == 5
    done = CliRunner().invoke(bench, ["fake", "--only", "nothing", "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "it has met, short" in done.stderr


def test_an_unknown_name_gets_the_list() -> None:
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "benches", "nothing"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "trainer" in done.stderr


def test_programs_count_their_own_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    trials = importlib.import_module("benches.trials")
    toy = importlib.import_module("benches.trainer").TOY
    source = trials.program("gpu_5min.py", counting=True, **toy)
    counted = trials.counted_outside(source, 0.5, 0)
    assert counted.tokens > 0
    assert counted.tokens % (toy["BATCH"] * toy["CONTEXT"]) == 0
    assert 0 < counted.cpu_s <= 0.6
    assert 1 < counted.bits_per_byte < 8


def test_a_team_writes_what_a_stranger_accepts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    entries = importlib.import_module("benches.entries")
    envelopes = entries.work(3, 3)
    assert envelopes == entries.work(3, 3)
    store = Store.create(tmp_path / "ledger.db", entries.CHALLENGE)
    assert all(store.add(open_envelope(envelope)) for envelope in envelopes)
    assert queries.counts(store) == {"adoption": 6, "attestation": 6, "claim": 3, "discovery": 3, "trial": 282}
    first, second, third = queries.discoveries(store)
    assert first.child == second.parent == third.parent
    for text in (entries.program_text(3, -1), entries.program_text(3, 0)):
        compile(text, "train.py", "exec")
        assert hashlib.sha256(text).hexdigest() in (first.parent, first.child)


def test_the_ledger_is_measured_in_all_parts(bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ledger = importlib.import_module("benches.ledger")
    for name, value in {"SLICE": 50, "ROUNDS": 2, "LARGE_TEAMS": 2, "WITHOUT_GOALS": {}}.items():
        monkeypatch.setattr(ledger, name, value)
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    CliRunner().invoke(bench, ["ledger"], catch_exceptions=False)
    written = json.loads((folder / "bench-ledger.json").read_text())
    rows = {row["what"]: row for row in written["rows"]}
    assert set(written["parts"]) == {"append", "ingest", "scale", "fsck"}
    assert rows["own durable appends"]["repetitions"] == 10
    assert rows["on disk, an entry"]["reference"] > 1000
    assert len(written["goals"]) == 6
    assert [path.name for path in folder.iterdir()] == ["bench-ledger.json"]
