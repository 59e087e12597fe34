"""`scripts/bench gossip` at toy size: real processes, each for a second or two."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def benches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Imports a module of the benches; what they write goes to a new folder."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.chdir(tmp_path)
    return lambda name: importlib.import_module(f"benches.{name}")


def test_statements_and_bare_messages_are_timed_and_counted(benches: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gossip = benches("gossip")
    for name, value in {"NODES": 2, "SECONDS": 0.4, "INTERVAL_S": 0.1, "SETTLE_S": 0.5}.items():
        monkeypatch.setattr(gossip, name, value)
    for what in ("node", "bare"):
        one = gossip._deliveries(what)
        assert one.share == 1.0
        assert 0 < one.p50_ms <= one.p99_ms
        assert one.cpu_ms > 0


def test_latency_and_cpu_time_are_those_of_what_others_published(benches: Any) -> None:
    ms = 1_000_000
    reports = [
        {"cpu_s": 0.006, "published": {"a": 10 * ms, "b": 20 * ms}, "received": {"c": 33 * ms, "of before": 1}},
        {"cpu_s": 0.002, "published": {"c": 30 * ms}, "received": {"a": 11 * ms, "b": 22 * ms}},
        {"cpu_s": 0.002, "published": {}, "received": {"a": 15 * ms, "c": 34 * ms}},
    ]
    one = benches("gossip")._measured(reports)
    assert (one.p50_ms, one.cpu_ms) == (3.0, 2.0)
    assert one.share == pytest.approx(5 / 6)


def test_catching_up_and_a_blob_are_measured_against_their_references(
    benches: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gossip = benches("gossip")
    monkeypatch.setattr(gossip, "CATCHUP_ROUNDS", 1)
    monkeypatch.setattr(gossip, "BLOB_BYTES", 3_000_000)
    monkeypatch.setattr(gossip, "BLOB_PEERS", (1,))
    monkeypatch.setattr(benches("report").Effort, "repeat", lambda effort, default, full: range(1))
    command = benches("__main__")
    CliRunner().invoke(command.bench, ["gossip", "--only", "catchup", "--only", "blob"], catch_exceptions=False)
    written = json.loads((tmp_path / "bench-gossip.json").read_text())
    rows = {row["what"]: row for row in written["rows"]}
    assert rows["a late joiner"]["ratio"] > 0
    assert rows["a blob of 3 MB from 1"]["reference"] > rows["a blob of 3 MB from 1"]["figure"] > 0
    assert rows["memory of the fetching node grows meanwhile by"]["figure"] < 100
    assert [goal["goal"] for goal in written["goals"]] == [0.5]
    assert [path.name for path in tmp_path.iterdir()] == ["bench-gossip.json"]


def test_a_soak_has_departures_returns_and_bounds(benches: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    soak, report = benches("soak"), benches("report")
    sizes = {"SECONDS": 0.2, "WARM_S": 0.0, "STEP_S": 0.3, "STAYING": 1, "CHURNING": 1, "CHATTER_S": 0.1, "SAMPLES": 1}
    for name, value in sizes.items():
        monkeypatch.setattr(soak, name, value)
    said: list[str] = []
    assert soak.soak(report.Effort(False, said.append)).rows == []
    outcome = soak.soak(report.Effort(True, said.append))
    rows = {row.what: row.figure for row in outcome.rows}
    assert rows["soak: departures"] == 1
    assert rows["soak: entries"] >= 2
    assert [goal.what for goal in outcome.goals] == [
        "growth of tasks", "growth of descriptors", "growth of memory", "ledgers equal after churn (1: all)",
    ]  # fmt: skip
    assert outcome.goals[-1].met
